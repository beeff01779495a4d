"""niquests (qh3, written in Rust) as a second Python client."""

import asyncio
import hashlib
import itertools
import statistics
import time

import pytest

from helpers.connection.aioquic_inside.quic import LOOPBACK_DATAGRAM_BYTES, QUICLayer

niquests = pytest.importorskip("niquests", reason="needs the package niquests")

PAUSE_S = 0.1
CHUNKS = [b"chunk %d\n" % number for number in range(10)]
HTTP_3 = 30
BODY_BYTES = 5_000_000
PIECE = bytes(range(256)) * 256


@pytest.fixture
def session(server, credentials):
    """A session that knows beforehand that this server speaks HTTP/3."""
    with niquests.Session(disable_http1=True, disable_http2=True) as session:
        session.trust_env = False  # the environment may name other CAs
        session.verify = str(credentials.ca_file)
        session.quic_cache_layer.add_domain("localhost", server.port, server.port)
        yield session


@pytest.mark.parametrize("way", ["flush", "take over"])
def test_chunks_come_one_by_one(server, session, way):
    @server.route("/stream")
    async def stream(request, response):
        write, flush = response.write, response.flush
        if way == "take over":
            taken = await response.take_over()
            write, flush = taken.write, taken.sending.wait
        for chunk in CHUNKS:
            await write(chunk)
            await flush()
            await asyncio.sleep(PAUSE_S)
        if way == "take over":
            await taken.close()

    response = session.get(server.url("/stream"), stream=True)
    assert (response.status_code, response.http_version) == (200, HTTP_3)
    times, chunks = [], []
    for chunk in response.iter_content(-1):
        times.append(time.monotonic())
        chunks.append(chunk)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert b"".join(chunks) == b"".join(CHUNKS)
    assert len(CHUNKS) / 2 < len(chunks) <= len(CHUNKS)  # on a busy machine, two may come together
    assert PAUSE_S / 5 < statistics.median(gaps_s) < PAUSE_S * 5


def test_without_flush_all_comes_at_the_end(server, session):
    @server.route("/stream")
    async def stream(request, response):
        for chunk in CHUNKS:
            await response.write(chunk)
            await asyncio.sleep(PAUSE_S)

    started = time.monotonic()
    response = session.get(server.url("/stream"), stream=True)
    assert next(response.iter_content(-1)) == b"".join(CHUNKS)
    assert time.monotonic() - started >= len(CHUNKS) * PAUSE_S
    response.close()


def test_bodies_both_ways(server, session):
    """niquests sends the whole body before it reads."""

    @server.route("/upload")
    async def upload(request, response):
        body = await request.read()
        response.write_header(200, {"x-sha256": hashlib.sha256(body).hexdigest()})
        for start in range(0, len(body), len(PIECE)):
            await response.write(body[start : start + len(PIECE)])

    body = PIECE * (BODY_BYTES // len(PIECE))
    response = session.post(server.url("/upload"), data=body)
    assert response.headers["x-sha256"] == hashlib.sha256(body).hexdigest()
    assert response.content == body


def test_large_datagrams_stay_below_what_niquests_takes(server, session, monkeypatch):
    announced = []
    peer_max_udp_payload_bytes = QUICLayer._peer_max_udp_payload_bytes

    def remember(quic):
        announced.append(peer_max_udp_payload_bytes(quic))
        return announced[-1]

    monkeypatch.setattr(QUICLayer, "_peer_max_udp_payload_bytes", remember)

    @server.route("/body")
    async def body(request, response):
        for _ in range(BODY_BYTES // len(PIECE)):
            await response.write(PIECE)

    content = session.get(server.url("/body")).content
    assert content == PIECE * (BODY_BYTES // len(PIECE))
    assert announced
    assert all(size < LOOPBACK_DATAGRAM_BYTES for size in announced)


def test_trailers(server, session):
    @server.route("/trailers")
    async def trailers(request, response):
        await response.write("a body")
        response.write_trailers({"x-checksum": "12345"})

    response = session.get(server.url("/trailers"))
    assert response.text == "a body"
    assert response.raw.trailers["x-checksum"] == "12345"


def test_many_requests_on_one_connection(server, session):
    @server.route("/who")
    async def who(request, response):
        await response.write(str(request.client[1]))

    assert len({session.get(server.url("/who")).text for _ in range(50)}) == 1


def test_a_reset_mid_body_is_no_end(server, session):
    @server.route("/breaks")
    async def breaks(request, response):
        await response.write("the first half")
        await response.flush()
        raise RuntimeError("no second half")

    with pytest.raises(niquests.exceptions.RequestException):
        _ = session.get(server.url("/breaks")).content
