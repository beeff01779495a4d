"""Real programs on a line that is far, bad or dead for a while, or that changes their address."""

import asyncio
import threading
import time

import httpx2
import pytest

from helpers.errors import ClientDisconnected
from helpers.link import Link
from tests.interop.processes import server_process

LINES = "".join(f"line {number}\n" for number in range(40))
BODY = bytes(range(256)) * 4096  # a mebibyte
WAIT_S = 30.0
BAD = {"delay_ms": 5, "jitter_ms": 5, "loss": 0.05, "reorder": 0.05, "duplicate": 0.05}


@pytest.fixture
def site(server):
    """Our server; `site.left` is how the last handler of /lines ended, once it has."""
    server.left = []
    server.has_left = threading.Event()

    @server.route("/lines")
    async def lines(request, response):
        try:
            for number in range(40):
                await response.write(f"line {number}\n")
                await response.flush()
                await asyncio.sleep(0.05)
        except BaseException as error:
            server.left.append(error)
            raise
        finally:
            server.has_left.set()

    @server.route("/body")
    async def body(request, response):
        await response.write(BODY)

    @server.route("/echo")
    async def echo(request, response):
        async for piece in request:
            await response.write(piece)
            await response.flush()

    @server.route("/port")
    async def port(request, response):
        await response.write(str(request.client[1]))

    yield server
    # What is still on its way goes nowhere, for the line in between has gone.
    server.stop(grace_s=0)


@pytest.fixture(scope="module")
def hypercorn(credentials):
    pytest.importorskip("hypercorn", reason="needs the package hypercorn")
    with server_process("hypercorn", credentials.cert_file, credentials.key_file) as server:
        yield server


@pytest.fixture
def curl(credentials):
    """Reads a URL with curl, over HTTP/3 only, and calls `meanwhile` after the first piece."""
    curl_cffi = pytest.importorskip("curl_cffi", reason="needs the package curl_cffi")
    with curl_cffi.Session(
        http_version=curl_cffi.CurlHttpVersion.V3ONLY, verify=str(credentials.ca_file), timeout=60
    ) as session:

        def read(url, meanwhile=lambda: None):
            response = session.get(url, stream=True)
            pieces = []
            for piece in response.iter_content():
                pieces.append(piece)
                if len(pieces) == 1:
                    meanwhile()
            response.close()
            return b"".join(pieces)

        yield read
        session.executor.shutdown()  # curl_cffi leaves its thread running


def read(client, url, meanwhile):
    """Read a URL, call `meanwhile` after the third line, and return the text."""
    lines = []
    with client.stream("GET", url, timeout=WAIT_S) as response:
        for line in response.iter_lines():
            lines.append(f"{line}\n")
            if len(lines) == 3:
                meanwhile()
    return "".join(lines)


# ---- a dead line


def test_a_line_that_is_dead_for_three_seconds_ends_no_stream(site, client):
    with Link(site, delay_ms=10) as link:
        started = time.monotonic()
        assert read(client, link.url("/lines"), lambda: link.pause(3)) == LINES
        assert time.monotonic() - started > 3


def test_an_upload_too_goes_on_after_it(site, client):
    def pieces():
        for number in range(8):
            yield BODY[:1000]
            if number == 3:
                link.pause(3)
            time.sleep(0.05)

    with Link(site, delay_ms=10) as link:
        response = client.post(link.url("/echo"), content=pieces(), timeout=WAIT_S)
    assert response.content == BODY[:1000] * 8


def test_a_line_that_stays_dead_is_reported_at_both_ends(site, client):
    """Within nine seconds: the idle timeout of 7 s, after the last sign of life."""
    with Link(site, delay_ms=10) as link:
        paused_at = []

        def pause():
            link.pause()
            paused_at.append(time.monotonic())

        with pytest.raises(httpx2.ReadError, match=r"nothing came for 7 s, the peer has vanished"):
            read(client, link.url("/lines"), pause)
        assert 6 < time.monotonic() - paused_at[0] < 5 * 9
        assert site.has_left.wait(WAIT_S)
    # The last line may have been written by then, for it fits what may be on its way.
    assert all(
        isinstance(error, ClientDisconnected | asyncio.CancelledError) for error in site.left
    )


# ---- another address


def test_our_stream_goes_on_from_another_address(site, client):
    with Link(site, delay_ms=10) as link:
        port = client.get(link.url("/port")).text
        assert read(client, link.url("/lines"), link.rebind) == LINES
        assert client.get(link.url("/port")).text != port


def test_our_upload_goes_on_from_another_address(site, client):
    def pieces():
        for number in range(8):
            yield BODY[:1000]
            if number == 3:
                link.rebind()
            time.sleep(0.02)

    with Link(site, delay_ms=10) as link:
        response = client.post(link.url("/echo"), content=pieces(), timeout=WAIT_S)
    assert response.content == BODY[:1000] * 8


def test_curl_s_stream_from_our_server_does(site, curl):
    with Link(site, delay_ms=10) as link:
        assert curl(link.url("/lines"), link.rebind).decode() == LINES


def test_our_stream_from_hypercorn_does(client, hypercorn):
    with Link(hypercorn.port, delay_ms=10) as link:
        whole = client.get(hypercorn.url("/stream"), timeout=WAIT_S).text
        assert read(client, link.url("/stream"), link.rebind) == whole


# ---- a bad line


def test_a_body_is_whole_over_a_bad_line(site, client):
    with Link(site, **BAD) as link:
        assert client.get(link.url("/body"), timeout=WAIT_S).content == BODY
        response = client.post(link.url("/echo"), content=BODY[:100_000], timeout=WAIT_S)
    assert response.content == BODY[:100_000]


def test_curl_s_body_from_our_server_is(site, curl):
    with Link(site, **BAD) as link:
        assert curl(link.url("/body")) == BODY


def test_our_body_from_hypercorn_is(client, hypercorn):
    whole = client.get(hypercorn.url("/stream"), timeout=WAIT_S).text
    with Link(hypercorn.port, **BAD) as link:
        assert client.get(link.url("/stream"), timeout=WAIT_S).text == whole


def test_a_slow_line_is_used_to_its_rate(site, client):
    """10 Mbit/s: a mebibyte takes 0.84 s, and twice that at most with all that comes on top."""
    with Link(site, delay_ms=5, rate_mbit=10, queue_ms=200) as link:
        client.get(link.url("/port"))
        started = time.monotonic()
        assert client.get(link.url("/body"), timeout=WAIT_S).content == BODY
        assert 0.8 < time.monotonic() - started < 5 * 0.84
