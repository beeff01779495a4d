"""Floods: of handshakes that never finish, and of datagrams that are none; what they cost."""

import contextlib
import gc
import itertools
import random
import time

import httpx2
from aioquic.quic.packet import QuicFrameType, QuicProtocolVersion

from helpers.client import HTTP3Transport
from helpers.connection import ConnectionState, HTTP3Connection
from helpers.connection.http3 import HANDSHAKE_TIMEOUT_S, HEADER_TIMEOUT_S
from helpers.server import listener
from tests.attack.conftest import AT_ONCE_S
from tests.attack.tools import (
    ROUNDS,
    answers,
    client_hello,
    drain,
    first_flights,
    initial,
    long_header,
    udp_socket,
)
from tests.pair import ADDRESS, Pair
from tests.peers import Growth, Peer

PING = (QuicFrameType.PING, b"")
TAKEN_AT_ONCE = 100  # datagrams that the kernel keeps for a server that is late


# ---- handshakes that never finish


def test_a_thousand_handshakes_that_never_finish(impatient, capsys):
    """They cost what 256 of them do, for as long as a handshake may take, and reflect no flood."""
    impatient.server._configuration.idle_timeout = 3.0  # so long that all of them come before it
    sent_bytes = received_bytes = 0
    before = live(HTTP3Connection)
    with udp_socket(impatient.port) as sock:
        for number, datagram in zip(range(1000), first_flights(impatient.port), strict=False):
            sock.send(datagram)
            sent_bytes += len(datagram)
            if number % TAKEN_AT_ONCE == TAKEN_AT_ONCE - 1:
                received_bytes += sum(map(len, answers(sock)))
        held = impatient.held()
        took_s = impatient.serves()
        after = impatient.comes_to_hold(impatient.before)
        received_bytes += sum(map(len, drain(sock)))
    assert held["connections"] <= listener.RETRY_ABOVE + 2
    assert after["connections"] == 1
    assert 0 < received_bytes <= 3 * sent_bytes  # RFC 9000 section 8.1
    assert took_s < AT_ONCE_S
    assert live(HTTP3Connection) <= before
    with capsys.disabled():
        print(f" [x{received_bytes / sent_bytes:.2f} reflected, {took_s * 1000:.0f} ms]", end="")


def live(kind):
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def test_one_handshake_is_answered_with_three_times_its_bytes_at_most(credentials):
    """Repetitions included; and its address alone does not count, if it says no more."""
    arrived_bytes = []

    def drops(is_from_client, data):
        if is_from_client and not arrived_bytes:
            arrived_bytes.append(len(data))
            return False
        return True

    pair = Pair(credentials, drops=drops)
    pair.pass_time(60.0)
    answered_bytes = sum(size for is_from_client, size in pair.carried if not is_from_client)
    assert arrived_bytes[0] < answered_bytes <= 3 * arrived_bytes[0]
    assert pair.server.state is ConnectionState.CLOSED


def test_a_handshake_that_is_kept_alive_is_given_up(credentials):
    """Each of its packets is a sign of life, and acknowledged."""
    server, now = Pair(credentials).server, 0.0
    hello, source_id = client_hello(port=4433)
    frames, destination_id = [hello], bytes(8)
    for number in itertools.count():
        server.receive(initial(frames, destination_id, source_id, number), ADDRESS, now)
        if server.lost is not None:
            break
        assert server.datagrams_to_send(now)
        frames = [PING]
        now += 0.1
    assert now - 0.1 <= HANDSHAKE_TIMEOUT_S < now
    assert str(server.lost) == "The connection ended: its handshake took more than 10 s."
    assert server.state is ConnectionState.CLOSED
    (last_words,) = server.datagrams_to_send(now)  # CONNECTION_CLOSE
    assert last_words[1] == ADDRESS
    assert server.datagrams_to_send(now) == []


def test_a_header_that_dribbles_in_is_given_up(credentials):
    """Each of its bytes is a sign of life; other requests of the connection go on."""
    pair = Pair(credentials).connect()
    quic = pair.client.quic
    content = b"\1\x40\xff" + bytes(300)  # a HEADERS frame of 255 bytes begins
    dribbling = 0
    quic.send_stream_data(dribbling, content[:1])
    for at in range(1, 100):
        if quic.is_stopped(dribbling):
            break
        quic.send_stream_data(dribbling, content[at : at + 1])
        pair.client.flush(True)
        pair.pass_time(0.5)
    assert HEADER_TIMEOUT_S - 1 <= at * 0.5 <= HEADER_TIMEOUT_S + 1
    assert pair.server.lost is None
    assert pair.requests == []
    pair.request()
    pair.pass_time(0.1)
    assert [stream.stream_id for stream, _ in pair.requests] == [4]
    pair.pass_time(2 * HEADER_TIMEOUT_S)
    assert not pair.server._headers_begun


# ---- datagrams that are none


def bad_datagrams(rng, port):
    """Endless bad datagrams: noise, and what is left of real packets that were damaged."""
    real = next(first_flights(port))
    version = QuicProtocolVersion.VERSION_1
    while True:
        for _ in range(8):
            yield rng.randbytes(rng.randrange(1, 1400))
            yield b"\x41" + rng.randbytes(rng.randrange(30, 1400))
            yield real[: rng.randrange(len(real))]
        kind = rng.randrange(0xC0, 0x100)
        yield long_header(version, rng.randbytes(8), b"", rng.randbytes(1190), kind)
        yield damaged(rng, real[:6] + rng.randbytes(8) + real[14:])


def damaged(rng, datagram):
    """A datagram in which some bits are turned."""
    content = bytearray(datagram)
    for _ in range(rng.randrange(1, 9)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def test_128_ports_at_once(impatient):
    """The next client is served while they go on."""
    rng = random.Random(128)
    bad = bad_datagrams(rng, impatient.port)
    slowest_s = 0.0
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(udp_socket(impatient.port)) for _ in range(128)]
        for _ in range(20 * ROUNDS):
            for sock in socks:
                sock.send(next(bad))
            slowest_s = max(slowest_s, impatient.serves())
            for sock in socks:
                drain(sock)
    assert slowest_s < AT_ONCE_S


def test_100_000_bad_datagrams_leave_memory_and_speed_as_they_were(credentials, capsys):
    """A server in a process of its own; it says that it took each hundred of them."""
    rng = random.Random(100_000)
    with Peer("serve", credentials.cert_file, credentials.key_file) as server:
        port = server.line()["port"]
        bad = list(itertools.islice(bad_datagrams(rng, port), 5_000))
        with udp_socket(port) as sock, _client(credentials) as client:

            def flood(count):
                for number in range(count):
                    sock.send(bad[rng.randrange(len(bad))])
                    if number % TAKEN_AT_ONCE == TAKEN_AT_ONCE - 1:
                        answers(sock)

            def speed_s():
                url = f"https://localhost:{port}/progress"
                client.get(url)
                return sorted(_timed(client.get, url) for _ in range(20))[10]

            flood(1_000)
            before_s, growth = speed_s(), Growth(server)
            started, cpu_s = time.perf_counter(), server.cpu_s()
            flood(100_000 - 1_000)
            took_s, cpu_s = time.perf_counter() - started, server.cpu_s() - cpu_s
            growth.look()
            after_s = speed_s()
    assert growth.mb(server) < 10
    assert after_s < 5 * before_s + 0.01
    with capsys.disabled():
        print(
            f" [{growth.mb(server):.1f} MB more, {cpu_s * 1e6 / 99_000:.0f} us each,"
            f" {took_s:.1f} s; a request {before_s * 1000:.1f} ms before,"
            f" {after_s * 1000:.1f} ms after]",
            end="",
        )


def _timed(call, *arguments):
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def _client(credentials):
    return httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))
