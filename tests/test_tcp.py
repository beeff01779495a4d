"""HTTP/2 beside HTTP/3: the model of a line for TCP, and a server for the same handlers."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx2
import pytest

from helpers.background import Background
from helpers.errors import UsageError
from helpers.http2 import HTTP2Server
from helpers.link import Segments, TCPLink, tcp
from tests.pair import GET, Pair
from tests.test_link import LEFT_OPEN, run_to_its_end

WAIT_S = 30.0


# ---- the model, on a clock of its own


def segments(delay_ms, losses):
    """A line on which the n-th segment is lost as often as the n-th number says."""
    draws = itertools.chain.from_iterable([*times * [0.0], 1.0] for times in losses)
    line = Segments({"delay_ms": delay_ms, "loss": 0.5}, "1")
    line._random = lambda: next(draws, 1.0)
    return line


def arrivals_ms(line, sent_ms):
    return [round(line.arrival(ms / 1000) * 1000, 6) for ms in sent_ms]


def test_without_loss_each_segment_takes_the_delay():
    assert arrivals_ms(segments(50, []), [0, 10, 20, 500]) == [50, 60, 70, 550]


def test_a_lost_segment_takes_a_round_trip_more_and_those_behind_it_wait():
    """The second is lost at 10 ms: all wait for it to 160 ms, and who is sent later does not."""
    line = segments(50, [0, 1, 0, 0, 0])
    assert arrivals_ms(line, [0, 10, 20, 100, 111]) == [50, 160, 160, 160, 161]


def test_one_that_is_lost_again_takes_another_round_trip():
    assert arrivals_ms(segments(50, [2, 0, 0]), [0, 100, 201]) == [250, 250, 251]


def test_two_that_are_lost_at_once_are_sent_again_at_once():
    assert arrivals_ms(segments(50, [1, 1, 0]), [0, 5, 10]) == [150, 155, 155]


def test_nothing_is_older_than_what_came_before():
    line = Segments({"delay_ms": 40, "loss": 0.3}, "1")
    arrivals = [line.arrival(number / 100) for number in range(1000)]
    assert arrivals == sorted(arrivals)


@pytest.mark.parametrize("loss", [0.0, 0.03, 0.2])
def test_the_share_of_the_lost_is_exact_in_the_long_run(loss):
    line = Segments({"delay_ms": 50, "loss": loss}, "1")
    late = sum(line.arrival(float(number)) > number + 0.051 for number in range(50_000))
    assert late / 50_000 == pytest.approx(loss, abs=0.006 * (loss > 0))


def test_a_line_that_loses_all_is_no_endless_loop():
    line = Segments({"delay_ms": 50, "loss": 1.0}, "1")
    assert line.arrival(0.0) == pytest.approx(0.05 + 15 * 0.1)


def test_the_same_seed_tells_the_same_story():
    def story(seed):
        line = Segments({"delay_ms": 50, "loss": 0.2}, seed)
        return [line.arrival(number / 100) for number in range(200)]

    assert story("1") == story("1") != story("2")


# ---- on sockets


@pytest.fixture
def echo():
    """The port of a program that sends back what comes, and ends when its client does."""

    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write(b"end")
        writer.close()

    background = Background("echo")
    background.start()
    server = background.run(asyncio.start_server(answer, "127.0.0.1", 0))
    yield server.sockets[0].getsockname()[1]
    background.call(server.close)
    background.stop()


def read_all(sock):
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_what_is_sent_arrives_in_order_whatever_is_lost(echo):
    data = bytes(range(256)) * 2000
    with TCPLink(echo, delay_ms=1, loss=0.3) as link:
        with socket.create_connection(("127.0.0.1", link.port), WAIT_S) as sock:
            with ThreadPoolExecutor() as pool:
                pool.submit(sock.sendall, data).add_done_callback(
                    lambda _: sock.shutdown(socket.SHUT_WR)
                )
                assert read_all(sock) == data + b"end"


def test_it_takes_the_delay_each_way(echo):
    with TCPLink(echo, delay_ms=50) as link:
        with socket.create_connection(("127.0.0.1", link.port), WAIT_S) as sock:
            started = time.perf_counter()
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            assert 0.099 < time.perf_counter() - started < 0.5
            link.delay_ms = 100
            started = time.perf_counter()
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            assert time.perf_counter() - started > 0.199


def test_a_client_of_a_server_that_is_gone_is_told(echo):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with TCPLink(port, delay_ms=1) as link:
        with socket.create_connection(("127.0.0.1", link.port), WAIT_S) as sock:
            with contextlib.suppress(ConnectionError):
                assert sock.recv(100) == b""


def test_one_that_leaves_is_no_matter_of_the_others(echo):
    with TCPLink(echo, delay_ms=1) as link:
        with socket.create_connection(("127.0.0.1", link.port), WAIT_S) as other:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", link.port), WAIT_S) as sock:
                    sock.sendall(bytes(100_000))
            other.sendall(b"hello")
            assert other.recv(100) == b"hello"


def test_a_link_that_ends_ends_its_connections(echo):
    with TCPLink(echo, delay_ms=1) as link:
        sock = socket.create_connection(("127.0.0.1", link.port), WAIT_S)
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    with sock, contextlib.suppress(ConnectionError):
        assert sock.recv(100) == b""
    with pytest.raises(UsageError, match="This link is not running"):
        link.url()


def test_a_fault_of_its_conditions_is_told():
    with pytest.raises(UsageError, match="loss is a share from 0 to 1"):
        TCPLink(443, loss=3)
    with pytest.raises(UsageError, match="delay_ms is a number of milliseconds"):
        TCPLink(443).delay_ms = -1


def test_one_left_open_holds_up_nobody_and_says_nothing():
    run_to_its_end(LEFT_OPEN.replace("Link", "TCPLink").replace("DGRAM", "STREAM").split("with")[0])


# ---- HTTP/2


async def lines(request, response):
    await asyncio.sleep(0.008 * int(request.query["number"]))
    for number in range(20):
        await response.write(f"line {number}\n")
        await response.flush()
        await asyncio.sleep(0.05)


LINES = [f"line {number}" for number in range(20)]


@pytest.fixture
def http2(credentials):
    server = HTTP2Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
    server.route("/lines")(lines)
    with server:
        yield server


@pytest.fixture
def http2_client(credentials):
    trusted = ssl.create_default_context(cafile=credentials.ca_file)
    with httpx2.Client(http1=False, http2=True, verify=trusted) as client:
        yield client


def test_a_handler_of_http3_answers_over_http2(http2, http2_client):
    with http2_client.stream("GET", http2.url("/lines?number=1")) as response:
        assert (response.status_code, response.http_version) == (200, "HTTP/2")
        arrived = [(time.perf_counter(), line) for line in response.iter_lines()]
    assert [line for _, line in arrived] == LINES
    assert arrived[-1][0] - arrived[0][0] > 0.95 / 5  # one by one


def test_what_is_not_there_is_not_found(http2, http2_client):
    response = http2_client.get(http2.url("/nowhere"))
    assert (response.status_code, response.content) == (404, b"")


def test_a_body_of_nothing_is_a_response_too(http2, http2_client):
    async def nothing(request, response):
        assert (request.method, request.path) == ("GET", "/nothing")

    http2.route("/nothing")(nothing)
    assert http2_client.get(http2.url("/nothing")).status_code == 200


def test_starting_and_stopping_twice_is_harmless(credentials):
    server = HTTP2Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
    server.stop()
    with pytest.raises(UsageError, match="This server is not running"):
        server.url()
    with server:
        assert server.start() is server
    server.stop()
    with pytest.raises(UsageError, match="This server is not running"):
        TCPLink(server).start()


# ---- the two beside each other: six streams, and one loss


class OneLoss:
    """Stands for random.Random: once `is_due`, the next segment down the line is lost."""

    is_due = threading.Event()

    def __init__(self, seed):
        self._is_down = seed.endswith("down")

    def random(self):
        if self._is_down and self.is_due.is_set():
            self.is_due.clear()
            return 0.0
        return 1.0


def test_over_tcp_a_lost_segment_holds_up_all_streams(http2, http2_client, monkeypatch):
    monkeypatch.setattr(tcp, "random", SimpleNamespace(Random=OneLoss))
    in_midst = threading.Barrier(6, action=OneLoss.is_due.set)

    @http2.route("/many")
    async def many(request, response):
        for number in range(40):
            await response.write(f"line {number}\n")
            await response.flush()
            await asyncio.sleep(0.05)

    def longest_gap_s(_):
        times = []
        with http2_client.stream("GET", link.url("/many")) as response:
            for _ in response.iter_lines():
                times.append(time.perf_counter())
                if len(times) == 3:
                    in_midst.wait(WAIT_S)
                    times[2] = time.perf_counter()  # the wait for the others is none of the line's
        assert len(times) == 40
        return max(after - before for before, after in itertools.pairwise(times[2:]))

    with TCPLink(http2, delay_ms=150, loss=0.5) as link, ThreadPoolExecutor(6) as pool:
        assert min(pool.map(longest_gap_s, range(6))) > 0.25


@pytest.mark.anyio
async def test_over_quic_a_lost_packet_holds_up_its_own_stream(credentials):
    pair = Pair(credentials, delay_s=0.05).connect()
    six = [pair.streams(GET, end_stream=True) for _ in range(6)]
    arrived = [[] for _ in six]

    async def read(ours, times):
        async for _ in ours:
            times.append(pair.now)

    readers = [
        asyncio.ensure_future(read(ours, times))
        for (ours, _), times in zip(six, arrived, strict=True)
    ]
    for theirs in (theirs for _, theirs in six):
        theirs.sending.write_header([(b":status", b"200")])
    for number in range(20):
        for stream_number, (_, theirs) in enumerate(six):
            is_lost = (number, stream_number) == (8, 2)
            pair.drops = lambda is_from_client, data, is_lost=is_lost: (
                is_lost and not is_from_client
            )
            await theirs.write(b"line")
            await pair.run(0.008)
    await pair.run(1.0)
    for reader in readers:
        reader.cancel()
    longest_s = [max(b - a for a, b in itertools.pairwise(times)) for times in arrived]
    assert [round(wait_s, 2) > 0.05 for wait_s in longest_s] == [n == 2 for n in range(6)]
    # From line to line it is 48 ms, and a round trip more for the one that is sent again.
    assert 0.1 < longest_s[2] < 0.3
