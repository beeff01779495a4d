"""curl reads what our server streams: ngtcp2, nghttp3, BoringSSL, no code shared with aioquic."""

import asyncio
import hashlib
import itertools
import statistics
import time
from dataclasses import dataclass

import pytest

from helpers.connection.aioquic_inside.quic import QUICLayer

curl_cffi = pytest.importorskip("curl_cffi", reason="needs the package curl_cffi")

PAUSE_S = 0.1
CHUNKS = [f"chunk {number}\n" for number in range(10)]
TEXT = "".join(CHUNKS)
HTTP_3 = 30  # curl's number for the version it used
BODY_BYTES = 16_000_000
PIECE = bytes(range(256)) * 256


@pytest.fixture
def curl(credentials):
    """Sends one request with curl, over HTTP/3 only; its response streams."""
    with curl_cffi.Session(
        http_version=curl_cffi.CurlHttpVersion.V3ONLY, verify=str(credentials.ca_file), timeout=20
    ) as session:

        def request(url, method="GET", stream=True, **options):
            return session.request(method, url, stream=stream, **options)

        yield request
        session.executor.shutdown()  # curl_cffi leaves its thread running


@dataclass
class Arrivals:
    """When each chunk of a body arrived, in seconds since the request was sent."""

    seconds: list[float]
    text: str


def arrivals(curl, url):
    started = time.monotonic()
    response = curl(url)
    assert (response.status_code, response.http_version) == (200, HTTP_3)
    seconds, chunks = [], []
    for chunk in response.iter_content():
        seconds.append(time.monotonic() - started)
        chunks.append(chunk)
    response.close()
    return Arrivals(seconds, b"".join(chunks).decode())


def assert_one_by_one(arrived):
    """Ten arrivals about 100 ms apart; where the machine is busy, two may come together."""
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(arrived.seconds)]
    assert len(CHUNKS) / 2 < len(arrived.seconds) <= len(CHUNKS)
    assert arrived.seconds[0] < 5 * PAUSE_S
    assert PAUSE_S / 5 < statistics.median(gaps_s) < 5 * PAUSE_S


def test_without_flush_all_comes_at_the_end(server, curl):
    @server.route("/stream")
    async def stream(request, response):
        for chunk in CHUNKS:
            await response.write(chunk)
            await asyncio.sleep(PAUSE_S)

    arrived = arrivals(curl, server.url("/stream"))
    assert arrived.text == TEXT
    assert arrived.seconds[0] >= len(CHUNKS) * PAUSE_S
    assert arrived.seconds[-1] - arrived.seconds[0] < PAUSE_S


def test_with_flush_each_chunk_comes_at_once(server, curl):
    @server.route("/stream")
    async def stream(request, response):
        for chunk in CHUNKS:
            await response.write(chunk)
            await response.flush()
            await asyncio.sleep(PAUSE_S)

    arrived = arrivals(curl, server.url("/stream"))
    assert arrived.text == TEXT
    assert_one_by_one(arrived)


def test_a_stream_that_was_taken_over_looks_the_same(server, curl):
    @server.route("/stream")
    async def stream(request, response):
        async with await response.take_over() as taken:
            for chunk in CHUNKS:
                await taken.write(chunk.encode())
                await asyncio.sleep(PAUSE_S)

    arrived = arrivals(curl, server.url("/stream"))
    assert arrived.text == TEXT
    assert_one_by_one(arrived)


def test_a_stream_outlives_its_handler(server, curl):
    tasks = []

    @server.route("/stream")
    async def stream(request, response):
        taken = await response.take_over()

        async def write():
            async with taken:
                for chunk in CHUNKS[:3]:
                    await asyncio.sleep(PAUSE_S)
                    await taken.write(chunk.encode())

        tasks.append(asyncio.create_task(write()))

    assert arrivals(curl, server.url("/stream")).text == "".join(CHUNKS[:3])


def test_header_status_and_length(server, curl):
    @server.route("/page")
    async def page(request, response):
        response.write_header(201, {"Content-Type": "text/plain", "X-Method": request.method})
        await response.write(request.headers["x-there"])

    response = curl(server.url("/page"), "PUT", headers={"X-There": "as it was"}, data=b"")
    assert response.status_code == 201
    assert response.headers["content-type"] == "text/plain"
    assert response.headers["x-method"] == "PUT"
    assert response.headers["content-length"] == "9"
    assert b"".join(response.iter_content()) == b"as it was"
    response.close()


@pytest.mark.parametrize("length", [{}, {"content-length": "6"}])
def test_head(server, curl, length):
    @server.route("/page")
    async def page(request, response):
        response.write_header(200, {"x-port": request.client[1]} | length)
        await response.write("a body")

    first, second = (curl(server.url("/page"), "HEAD", stream=False) for _ in range(2))
    assert (first.status_code, first.content) == (200, b"")
    assert second.headers["x-port"] == first.headers["x-port"]  # the connection lives


def test_an_upload_arrives_byte_for_byte(server, curl):
    @server.route("/upload")
    async def upload(request, response):
        await response.write(hashlib.sha256(await request.read()).hexdigest())

    body = PIECE * 5
    response = curl(server.url("/upload"), "POST", data=body)
    assert b"".join(response.iter_content()).decode() == hashlib.sha256(body).hexdigest()
    response.close()


def test_an_echo_while_the_upload_goes_on(server, curl):
    @server.route("/echo")
    async def echo(request, response):
        async for chunk in request:
            await response.write(chunk)
            await response.flush()

    body = PIECE * 50
    response = curl(server.url("/echo"), "POST", data=body)
    assert b"".join(response.iter_content()) == body
    response.close()


def test_an_upload_that_is_too_large_gets_413(server, curl):
    @server.route("/upload", max_body_bytes=1000)
    async def upload(request, response):
        await request.read()

    response = curl(server.url("/upload"), "POST", data=PIECE * 50)
    assert response.status_code == 413
    assert b"".join(response.iter_content()) == b"request body too large\n"
    response.close()


def test_trailers(server, curl):
    @server.route("/trailers")
    async def trailers(request, response):
        await response.write("a body")
        await response.flush()
        response.write_trailers({"X-Checksum": "12345"})

    response = curl(server.url("/trailers"), stream=False)
    assert response.content == b"a body"
    assert response.headers["x-checksum"] == "12345"  # curl adds trailers to the header


def test_interim_responses(server, curl):
    @server.route("/hints")
    async def hints(request, response):
        response.write_header(103, {"link": "</style.css>; rel=preload"})
        response.write_header(200)
        await response.write("a body")

    response = curl(server.url("/hints"))
    assert response.status_code == 200
    assert b"".join(response.iter_content()) == b"a body"
    response.close()


def test_a_reset_mid_body_is_no_end(server, curl):
    @server.route("/breaks")
    async def breaks(request, response):
        await response.write("the first half")
        await response.flush()
        raise RuntimeError("no second half")

    response = curl(server.url("/breaks"))
    chunks = response.iter_content()
    assert next(chunks) == b"the first half"
    with pytest.raises(curl_cffi.exceptions.IncompleteRead, match="0x102 INTERNAL_ERROR"):
        next(chunks)
    response.close()


def test_many_requests_on_one_connection(server, curl):
    @server.route("/who")
    async def who(request, response):
        await response.write(str(request.client[1]))

    # A response of curl_cffi that streams has a connection of its own; these do not stream.
    assert len({curl(server.url("/who"), stream=False).text for _ in range(120)}) == 1


@pytest.fixture
def announced(monkeypatch):
    """What each peer announces as max_udp_payload_size, in bytes."""
    sizes = []
    peer_max_udp_payload_bytes = QUICLayer._peer_max_udp_payload_bytes

    def remember(quic):
        sizes.append(peer_max_udp_payload_bytes(quic))
        return sizes[-1]

    monkeypatch.setattr(QUICLayer, "_peer_max_udp_payload_bytes", remember)
    return sizes


def test_a_big_body_in_large_datagrams(server, curl, announced):
    """curl takes 65527 bytes, so the datagrams are as large as loopback allows."""

    @server.route("/body")
    async def body(request, response):
        for _ in range(BODY_BYTES // len(PIECE)):
            await response.write(PIECE)

    response = curl(server.url("/body"))
    received, expected = hashlib.sha256(), hashlib.sha256()
    for chunk in response.iter_content():
        received.update(chunk)
    response.close()
    for _ in range(BODY_BYTES // len(PIECE)):
        expected.update(PIECE)
    assert received.hexdigest() == expected.hexdigest()
    assert announced == [65527]


def test_a_big_upload_in_curls_datagrams(server, curl):
    @server.route("/upload")
    async def upload(request, response):
        sha = hashlib.sha256()
        async for chunk in request:
            sha.update(chunk)
        await response.write(sha.hexdigest())

    body = PIECE * (BODY_BYTES // len(PIECE))
    response = curl(server.url("/upload"), "POST", data=body)
    assert b"".join(response.iter_content()).decode() == hashlib.sha256(body).hexdigest()
    response.close()
