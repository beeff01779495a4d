"""Our client in front of other servers: hypercorn, aioquic's own `serve`, ngtcp2's gtlsserver."""

import asyncio
import hashlib
import importlib.util
import itertools
import queue
import shutil
import statistics
import time

import httpx2
import pytest
from aioquic.h3.connection import ErrorCode
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import connection
from aioquic.quic.events import StopSendingReceived

from helpers.client import AsyncHTTP3Transport
from helpers.connection.aioquic_inside.quic import DEFAULT_MAX_UDP_PAYLOAD_BYTES, QUICLayer
from tests.interop.processes import gtls_server, server_process
from tests.interop.scripted import Scripted, scripted_server

PAUSE_S = 0.1
CHUNKS = [f"chunk {number}\n" for number in range(10)]
PIECE = bytes(range(256)) * 256
BODY = PIECE * 150  # 10 MB


@pytest.fixture
def announced(monkeypatch):
    """What each server announces as max_udp_payload_size, in bytes."""
    sizes = []
    peer_max_udp_payload_bytes = QUICLayer._peer_max_udp_payload_bytes

    def remember(quic):
        sizes.append(peer_max_udp_payload_bytes(quic))
        return sizes[-1]

    monkeypatch.setattr(QUICLayer, "_peer_max_udp_payload_bytes", remember)
    return sizes


# hypercorn, an ASGI server on aioquic


@pytest.fixture(scope="module")
def hypercorn(credentials):
    if importlib.util.find_spec("hypercorn") is None:
        pytest.skip("needs the package hypercorn")
    with server_process("hypercorn", credentials.cert_file, credentials.key_file) as server:
        yield server


def test_hypercorn_streams_chunk_by_chunk(client, hypercorn):
    times, chunks = [], []
    with client.stream("GET", hypercorn.url("/stream")) as response:
        assert response.headers["server"] == "hypercorn-h3"
        for chunk in response.iter_text():
            times.append(time.monotonic())
            chunks.append(chunk)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert chunks == CHUNKS
    assert PAUSE_S / 5 < statistics.median(gaps_s) < PAUSE_S * 5


def test_hypercorn_sends_a_big_body(client, hypercorn, announced):
    assert client.get(hypercorn.url(f"/body?{len(BODY)}")).content == BODY
    assert announced == [DEFAULT_MAX_UDP_PAYLOAD_BYTES]


@pytest.mark.parametrize("kind", ["bytes", "iterator"])
def test_hypercorn_takes_a_big_body(client, hypercorn, kind):
    content = BODY if kind == "bytes" else itertools.repeat(PIECE, 150)
    response = client.post(hypercorn.url("/upload"), content=content)
    assert response.text == hashlib.sha256(BODY).hexdigest()


@pytest.mark.anyio
async def test_hypercorn_echoes_while_the_upload_goes_on(credentials, hypercorn):
    """Each piece is sent when the one before has come back."""
    back = asyncio.Queue()

    async def one_by_one():
        for number in range(5):
            yield b"piece %d" % number
            assert await back.get() == b"piece %d" % number

    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with (
        httpx2.AsyncClient(transport=transport) as client,
        client.stream("POST", hypercorn.url("/echo"), content=one_by_one()) as response,
    ):
        chunks = []
        async for chunk in response.aiter_raw():
            chunks.append(chunk)
            back.put_nowait(chunk)
    assert b"".join(chunks) == b"".join(b"piece %d" % number for number in range(5))


def test_hypercorn_answers_head_and_404(client, hypercorn):
    assert client.head(hypercorn.url("/stream")).status_code == 200
    assert client.get(hypercorn.url("/none")).status_code == 404


@pytest.mark.anyio
async def test_hypercorn_answers_many_at_once(credentials, hypercorn):
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport) as client:
        urls = [hypercorn.url(f"/none?{number}") for number in range(200)]
        responses = await asyncio.gather(*map(client.get, urls))
    assert [response.headers["x-query"] for response in responses] == list(map(str, range(200)))


def test_where_hypercorn_breaks_off_in_silence_the_read_timeout_ends_it(client, hypercorn):
    """It leaves the stream of an application that raised open."""
    with pytest.raises(httpx2.ReadTimeout):
        client.get(hypercorn.url("/fail"), timeout=httpx2.Timeout(5, read=0.3))
    assert client.get(hypercorn.url("/none")).status_code == 404  # the connection lives


# aioquic's own `serve`


def echo(peer, event):
    """A script that sends back what comes, and says in a trailer how much that was."""
    if isinstance(event, HeadersReceived):
        peer.http.send_headers(event.stream_id, [(b":status", b"103"), (b"link", b"</>")])
        peer.http.send_headers(event.stream_id, [(b":status", b"200")])
        peer.echoed_bytes = 0
    if isinstance(event, DataReceived):
        peer.echoed_bytes += len(event.data)
        peer.http.send_data(event.stream_id, event.data, end_stream=False)
    if event.stream_ended:
        trailers = [(b"x-bytes", b"%d" % peer.echoed_bytes)]
        peer.http.send_headers(event.stream_id, trailers, end_stream=True)


def test_aioquic_echoes_big_bodies_both_ways(client, credentials, announced):
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, echo) as port:
        response = client.post(f"https://127.0.0.1:{port}/", content=BODY)
    assert response.content == BODY
    assert response.extensions["trailers"] == {"x-bytes": str(len(BODY))}
    assert announced == [DEFAULT_MAX_UDP_PAYLOAD_BYTES]


def test_datagrams_are_as_large_as_the_server_announces(client, credentials, monkeypatch):
    """Here 1400 bytes; larger ones would not arrive."""
    push_parameters = connection.push_quic_transport_parameters
    datagram_received = Scripted.datagram_received
    sizes = []

    def announce_1400(buffer, parameters):
        parameters.max_udp_payload_size = 1400
        push_parameters(buffer, parameters)

    def measure(self, data, address):
        sizes.append(len(data))
        datagram_received(self, data, address)

    monkeypatch.setattr(connection, "push_quic_transport_parameters", announce_1400)
    monkeypatch.setattr(Scripted, "datagram_received", measure)
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, echo) as port:
        body = BODY[:1_000_000]
        assert client.post(f"https://127.0.0.1:{port}/", content=body).content == body
    assert max(sizes) == 1400


def test_aioquic_with_a_small_window_takes_a_big_body(client, credentials):
    files = (credentials.cert_file, credentials.key_file)
    small = {"max_data": 40_000, "max_stream_data": 20_000}
    with scripted_server(*files, echo, **small) as port:
        assert (
            client.post(f"https://127.0.0.1:{port}/", content=BODY[:3_000_000]).content
            == (BODY[:3_000_000])
        )


def test_aioquic_learns_that_a_response_is_not_wanted(client, credentials, monkeypatch):
    codes = queue.SimpleQueue()
    quic_event_received = Scripted.quic_event_received

    def watch(self, event):
        if isinstance(event, StopSendingReceived):
            codes.put(event.error_code)
        quic_event_received(self, event)

    def begin(peer, event):
        if isinstance(event, HeadersReceived):
            peer.http.send_headers(event.stream_id, [(b":status", b"200")])
            peer.http.send_data(event.stream_id, b"the first half", end_stream=False)

    monkeypatch.setattr(Scripted, "quic_event_received", watch)
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, begin) as port:
        with client.stream("GET", f"https://127.0.0.1:{port}/") as response:
            assert next(response.iter_raw()) == b"the first half"
        assert codes.get(timeout=5) == ErrorCode.H3_REQUEST_CANCELLED


# gtlsserver: ngtcp2, nghttp3 and GnuTLS


@pytest.fixture
def gtls(credentials, tmp_path):
    """Runs gtlsserver on two files, with more options where given."""
    if shutil.which("gtlsserver") is None:
        pytest.skip("needs the package ngtcp2-server")
    (tmp_path / "hello.txt").write_text("hello\n")
    (tmp_path / "body").write_bytes(BODY)

    def run(*options):
        return gtls_server(credentials.cert_file, credentials.key_file, tmp_path, *options)

    return run


def test_ngtcp2_sends_a_big_body(client, gtls, announced):
    with gtls() as server:
        response = client.get(server.url("/body"))
    assert response.headers["server"] == "nghttp3/ngtcp2 server"
    assert response.content == BODY
    assert announced == [65527]


def test_ngtcp2_takes_a_big_body(client, gtls):
    with gtls() as server:
        assert client.post(server.url("/hello.txt"), content=BODY).text == "hello\n"


def test_ngtcp2_stops_an_upload_that_it_answers_early(client, gtls):
    with gtls("--early-response") as server:
        assert client.post(server.url("/hello.txt"), content=BODY).text == "hello\n"
        assert client.get(server.url("/hello.txt")).text == "hello\n"


def test_ngtcp2_sends_trailers(client, gtls):
    with gtls("--send-trailers") as server:
        response = client.get(server.url("/hello.txt"))
    assert response.text == "hello\n"
    assert response.extensions["trailers"] == {"x-ngtcp2-stream-id": "0"}


def test_ngtcp2_answers_head_and_404(client, gtls):
    with gtls() as server:
        head = client.head(server.url("/hello.txt"))
        assert (head.headers["content-length"], head.content) == ("6", b"")
        assert client.get(server.url("/none")).status_code == 404


def test_ngtcp2_asks_for_a_sign_of_life_first(client, gtls):
    """With a Retry packet (RFC 9000 section 8.1.2)."""
    with gtls("--validate-addr") as server:
        assert client.get(server.url("/hello.txt")).text == "hello\n"


@pytest.mark.anyio
async def test_ngtcp2_allows_few_streams_at_once(credentials, gtls):
    """The others wait for a free one."""
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    with gtls("--max-streams-bidi=3") as server:
        async with httpx2.AsyncClient(transport=transport) as client:
            url = server.url("/hello.txt")
            responses = await asyncio.gather(*(client.get(url) for _ in range(50)))
    assert {response.text for response in responses} == {"hello\n"}
    assert {response.extensions["stream_id"] for response in responses} == set(range(0, 200, 4))


def test_ngtcp2_loses_packets(client, gtls):
    """Every twentieth, in both directions."""
    with gtls("--tx-loss=0.05", "--rx-loss=0.05") as server:
        assert client.get(server.url("/body"), timeout=20).content == BODY
