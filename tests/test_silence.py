"""A connection that was silent: is its server still there, and what does the question cost?"""

import asyncio
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from helpers.client import HTTP3Transport
from helpers.clock import now_s
from helpers.connection import configuration, http3
from helpers.link import Link
from helpers.server import Server
from tests.relay import Relay

WAIT_S = 30.0  # for what happens at once


@pytest.fixture
def new_server(credentials):
    """Makes servers that answer `/` with their name, and note each request in `asked`."""
    servers = []

    def start(name):
        server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
        server.asked = queue.SimpleQueue()

        @server.route("/")
        async def root(request, response):
            server.asked.put(request.method)
            await request.read()
            await response.write(f"{name} {request.client[1]}")

        servers.append(server.start())
        return server

    yield start
    for server in servers:
        server.stop(grace_s=0)


def driver_of(client):
    (driver,) = client._transport._transport._connections.values()
    return driver


def ask(client, port, method="GET", content=None):
    return client.request(
        method, f"https://127.0.0.1:{port}/", content=content, timeout=WAIT_S
    ).text


def let_it_be_silent(client):
    driver = driver_of(client)
    deadline = time.monotonic() + WAIT_S
    while not driver.is_silent():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_after_a_silence_takes_one_round_trip(client, new_server):
    """It is at the server before the server has said anything."""
    server = new_server("first")
    with Relay(server.port) as relay, ThreadPoolExecutor(1) as pool:
        ask(client, relay.port)
        assert server.asked.get(timeout=WAIT_S) == "GET"
        let_it_be_silent(client)
        relay.holds_back = True
        answer = pool.submit(ask, client, relay.port)
        assert server.asked.get(timeout=WAIT_S) == "GET"
        relay.holds_back = False
        assert answer.result(WAIT_S).startswith("first ")


def test_a_request_that_must_not_be_repeated_waits_for_a_sign_of_life(client, new_server):
    server = new_server("first")
    with Relay(server.port) as relay, ThreadPoolExecutor(1) as pool:
        ask(client, relay.port)
        assert server.asked.get(timeout=WAIT_S) == "GET"
        let_it_be_silent(client)
        relay.holds_back = True
        answer = pool.submit(ask, client, relay.port, "POST", b"body")
        with pytest.raises(queue.Empty):
            server.asked.get(timeout=0.1)
        relay.holds_back = False
        assert answer.result(WAIT_S).startswith("first ")
        assert server.asked.get(timeout=WAIT_S) == "POST"
        assert server.asked.empty()


@pytest.mark.parametrize(
    ("method", "content"),
    [("GET", None), ("PUT", b"body"), ("POST", b"body"), ("POST", ["bo", "dy"])],
    ids=["GET", "PUT", "POST", "an iterator"],
)
def test_what_took_the_place_of_a_server_that_vanished_is_found(
    client, new_server, method, content
):
    """The successor on the port does not know the connection: it says nothing."""
    first, second = new_server("first"), new_server("second")
    if isinstance(content, list):
        content = (piece.encode() for piece in content)
    with Relay(first.port) as relay:
        ask(client, relay.port)
        let_it_be_silent(client)
        relay.target = second.port
        began = time.perf_counter()
        assert ask(client, relay.port, method, content).startswith("second ")
        took_s = time.perf_counter() - began
    assert second.asked.get_nowait() == method
    assert second.asked.empty()
    assert took_s < configuration.IDLE_TIMEOUT_S  # it was not that which noticed


def test_a_far_server_is_no_dead_one(client, new_server, monkeypatch):
    """Its round trip is longer than what a near one takes for dead."""
    monkeypatch.setattr(http3, "TRUSTED_PROBE_TIMEOUTS", 0)
    server = new_server("first")
    with Link(server, delay_ms=300) as link:
        for method in ("GET", "GET", "POST"):
            ask(client, link.port, method)
            driver = driver_of(client)
    assert set(client._transport._transport._all) == {driver}


def test_a_server_that_is_slow_to_answer_and_alive_keeps_its_request(client, server, monkeypatch):
    monkeypatch.setattr(http3, "GONE_AFTER_PROBE_TIMEOUTS", 4)
    asked = []

    @server.route("/")
    async def slow(request, response):
        asked.append(request.method)
        if len(asked) > 1:
            await asyncio.sleep(10 * 4 * driver_of(client).connection.quic.probe_timeout_s())
        await response.write("at last")

    for _ in range(2):
        assert ask(client, server.port) == "at last"
        let_it_be_silent(client)
    assert len(asked) == 2


# What the system says of an open connection


def test_a_word_of_the_system_does_not_end_a_connection_whose_server_is_there(client, server):
    """An ICMP message may be forged, or concern a datagram of long ago."""

    @server.route("/beats")
    async def beats(request, response):
        while True:
            await response.write("beat\n")
            await response.flush()
            await asyncio.sleep(0.01)

    with client.stream("GET", server.url("/beats")) as response:
        lines = response.iter_lines()
        next(lines)
        driver = driver_of(client)
        endpoint = driver._read_waiting.__self__
        for _ in range(3):
            driver._loop.call_soon_threadsafe(endpoint.error_received, ConnectionRefusedError())
        deadline = time.monotonic() + WAIT_S
        while driver._doubt is None:
            next(lines)
            assert time.monotonic() < deadline
        while driver._doubt is not None:
            next(lines)
            assert time.monotonic() < deadline
        assert [next(lines) for _ in range(3)] == 3 * ["beat"]


# A process that stood still


STANDS_STILL_S = 0.8


def stand_still(connection, stands_still):
    """On a connection's own loop: let its idle timeout pass while nobody listens there.

    It is set here, or a slow machine would find it over before this.
    """
    connection.quic._close_at = now_s() + STANDS_STILL_S / 4
    stands_still.set()
    time.sleep(STANDS_STILL_S)


def test_a_server_that_stood_still_reads_before_it_looks_at_the_clock(
    monkeypatch, credentials, server
):
    """What strangers sent meanwhile lies before the client's signs of life."""
    monkeypatch.setattr(http3, "KEEP_ALIVE_AFTER_S", STANDS_STILL_S / 8)
    go_on = asyncio.Event()

    @server.route("/waits")
    async def waits(request, response):
        await response.flush()
        await go_on.wait()
        await response.write("still here")

    with (
        httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        client.stream("GET", f"https://127.0.0.1:{server.port}/waits") as response,
    ):
        (connection,) = server._listener.connections
        stands_still = threading.Event()
        server._background.call(stand_still, connection, stands_still)
        assert stands_still.wait(WAIT_S)
        for _ in range(300):
            stranger.sendto(b"nonsense", ("127.0.0.1", server.port))
        server._background.call(go_on.set)
        assert response.read() == b"still here"


def test_a_client_that_stood_still_reads_on(credentials, server):
    stands_still = threading.Event()

    @server.route("/beats")
    async def beats(request, response):
        await response.write("first")
        await response.flush()
        while not stands_still.is_set():  # noqa: ASYNC110 - it is another loop's
            await asyncio.sleep(0.01)
        for _ in range(100):
            await response.write("more")
            await response.flush()
            await asyncio.sleep(STANDS_STILL_S / 200)
        await response.write("last")

    with (
        httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)) as client,
        client.stream("GET", server.url("/beats")) as response,
    ):
        chunks = response.iter_raw()
        assert next(chunks) == b"first"
        connection = driver_of(client).connection
        client._transport._background.call(stand_still, connection, stands_still)
        assert b"".join(chunks) == 100 * b"more" + b"last"
