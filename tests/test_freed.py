"""What is over is freed at once, without the garbage collector's help.

A server with many short connections would else keep each of them until the next collection, and
each collection would have more to look at.
"""

import asyncio
import contextlib
import gc
import ssl
import weakref

import httpx2
import pytest

from helpers.client import AsyncHTTP3Transport
from helpers.connection import ConnectionState, Driver, new_configuration
from helpers.errors import ClientDisconnected, MalformedMessage, StreamReset
from helpers.server.listener import Listener
from helpers.server.router import Route, Router
from helpers.stream import ReceivingHalf
from tests.pair import POST, Pair, Site

pytestmark = pytest.mark.anyio

ANSWER = [(b":status", b"200")]
WAIT_S = 30.0


@pytest.fixture(autouse=True)
def _no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Watched:
    """Remembers things without holding them: `alive` names those that are still there."""

    def __init__(self):
        self._references = {}
        self._one_less = asyncio.Event()

    def watch(self, **things):
        for name, thing in things.items():
            self._references[name] = weakref.ref(thing, lambda _: self._one_less.set())

    def watch_connection(self, name, connection):
        parts = {"": connection, ".quic": connection.quic, ".http": connection._http}
        parts |= {f".stream {number}": stream for number, stream in connection.streams.items()}
        self.watch(**{name + part: thing for part, thing in parts.items()})

    @property
    def alive(self):
        return sorted(name for name, reference in self._references.items() if reference())

    async def all_go(self):
        """Return once nothing is alive any more; fails with what is."""
        try:
            async with asyncio.timeout(WAIT_S):
                while self.alive:
                    self._one_less.clear()
                    await self._one_less.wait()
        except TimeoutError:
            assert self.alive == []


def let_go(pair):
    """Let a pair hold nothing of its ends any more."""
    pair.client = pair.server = None
    pair.requests.clear()
    pair.abandoned.clear()


async def ask_and_answer(pair, watched):
    """One request with a body, one response, and a second request that stays open."""
    ours, theirs = pair.streams()
    open_ours, open_theirs = pair.streams()
    await ours.write(b"question")
    await ours.close()
    assert await pair.soon(theirs.read()) == b"question"
    theirs.sending.write_header(ANSWER)
    await theirs.write(b"answer")
    await theirs.close()
    assert await pair.soon(ours.read()) == b"answer"
    await open_ours.write(b"more to come")
    await pair.run()
    watched.watch_connection("client", pair.client)
    watched.watch_connection("server", pair.server)
    return open_ours, open_theirs


def close_the_client(pair):
    pair.client.close()


def close_the_server(pair):
    pair.server.close()


def close_both_at_once(pair):
    pair.client.close()
    pair.server.close()


def abandon_both(pair):
    pair.client.abandon("given up")
    pair.server.abandon("given up")


def close_and_abandon(pair):
    close_the_server(pair)
    pair.exchange()
    abandon_both(pair)


def say_nothing_any_more(pair):
    pair.drops = lambda is_from_client, data: True


def break_a_rule(pair):
    pair.client.quic.send_stream_data(2, b"", end_stream=True)  # HTTP/3's control stream
    pair.client.flush(True)


@pytest.mark.parametrize(
    "end",
    [
        close_the_client,
        close_the_server,
        close_both_at_once,
        abandon_both,
        close_and_abandon,
        say_nothing_any_more,
        break_a_rule,
    ],
)
async def test_a_connection_that_is_over_is_freed_with_its_streams(credentials, end):
    pair, watched = Pair(credentials).connect(), Watched()
    streams = await ask_and_answer(pair, watched)
    end(pair)
    await pair.run(60.0)
    assert pair.client.state is pair.server.state is ConnectionState.CLOSED
    let_go(pair)
    del streams
    assert watched.alive == []


async def read_slowly(stream):
    await stream.receive()
    await stream.receive_datagram()


async def test_what_waits_in_a_connection_that_ends_is_freed(credentials):
    pair, watched = Pair(credentials).connect(), Watched()
    ours, theirs = pair.streams()
    for end in (ours, theirs):
        watched.watch(**{f"{end!r}": end, f"{end!r}.sending": end.sending})
    waiting = [
        asyncio.create_task(waits)
        for end in (ours, theirs)
        for waits in (end.write(bytes(2_000_000)), end.receive_datagram(), read_slowly(end))
    ]
    await pair.run(1.0)
    watched.watch_connection("client", pair.client)
    watched.watch_connection("server", pair.server)
    close_the_client(pair)
    await pair.run(60.0)
    assert all(task.done() and task.exception() is not None for task in waiting)
    del waiting, ours, theirs, end
    let_go(pair)
    assert watched.alive == []


@pytest.mark.parametrize("verify_mode", [ssl.CERT_REQUIRED, ssl.CERT_NONE])
async def test_a_connection_whose_handshake_was_lost_is_freed(credentials, verify_mode):
    pair, watched = Pair(credentials, verify_mode=verify_mode), Watched()
    if verify_mode is ssl.CERT_NONE:
        pair.drops = lambda is_from_client, data: not is_from_client
    watched.watch_connection("client", pair.client)
    watched.watch_connection("server", pair.server)
    await pair.run(60.0)
    assert pair.client.state is pair.server.state is ConnectionState.CLOSED
    let_go(pair)
    assert watched.alive == []


CONNECTIONS = sorted(
    f"{end}{part}" for end in ("client", "server") for part in ("", ".http", ".quic")
)


async def test_a_request_is_freed_with_all_that_served_it(credentials):
    site, watched = Site(credentials).connect(), Watched()

    @site.route("/")
    async def root(request, response):
        watched.watch(request=request, response=response, task=asyncio.current_task())
        await response.write(await request.read())

    response = await site.soon(site.http.post(site.url("/"), content=b"words"))
    assert response.text == "words"
    watched.watch_connection("client", site.client)
    watched.watch_connection("server", site.server)
    await site.run()
    del response
    assert watched.alive == CONNECTIONS


async def writes(request, response):
    while True:
        await response.write(bytes(65536))


async def reads(request, response):
    await request.read()


async def waits(request, response):
    await asyncio.Event().wait()


async def takes_over(request, response):
    async with await response.take_over() as stream:
        await stream.read()


async def cleans_up(request, response):
    try:
        await request.read()
    finally:
        with contextlib.suppress(ClientDisconnected):
            await response.flush()


async def raises(request, response):
    await response.flush()
    raise ZeroDivisionError


@pytest.mark.parametrize("handler", [writes, reads, waits, takes_over, cleans_up, raises])
async def test_a_request_whose_client_left_is_freed_with_all_that_served_it(credentials, handler):
    site, watched = Site(credentials).connect(), Watched()

    @site.route("/")
    async def root(request, response):
        watched.watch(request=request, response=response, task=asyncio.current_task())
        await handler(request, response)

    ours = site.request(POST, end_stream=False)
    await site.run(1.0)
    watched.watch_connection("client", site.client)
    watched.watch_connection("server", site.server)
    ours.cancel()
    await site.run(1.0)
    assert len(site.errors) == (handler is raises)
    del ours
    assert watched.alive == CONNECTIONS


async def test_who_reads_what_was_reset_keeps_nothing(credentials):
    """An error that is raised holds the frames that it passed."""
    pair, watched = Pair(credentials).connect(), Watched()
    ours, theirs = pair.streams()
    watched.watch(ours=ours, theirs=theirs)
    theirs.reset()
    for _ in range(2):
        with contextlib.suppress(StreamReset):
            await pair.soon(ours.read())
    pair.requests.clear()
    del ours, theirs
    assert watched.alive == []


@pytest.mark.parametrize("lengths", [[b"7"], [b"4", b"7"]], ids=["data", "header"])
async def test_a_stream_whose_message_is_malformed_is_freed(credentials, lengths):
    kept, watched = [], Watched()
    pair = Pair(credentials, on_request=lambda stream, *_: kept.append(stream)).connect()
    parse = ReceivingHalf._expect_body

    def watch_and_parse(half, fields):
        watched.watch(theirs=half)
        parse(half, fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReceivingHalf, "_expect_body", watch_and_parse)
        fields = [*POST, *((b"content-length", length) for length in lengths)]
        ours = pair.request(fields, end_stream=False)
        await ours.write(b"four")
        await ours.close()
        await pair.run()
    for stream in kept:
        with contextlib.suppress(MalformedMessage):
            await pair.soon(stream.read())
        del stream
    with contextlib.suppress(StreamReset):
        await pair.soon(ours.read())
    kept.clear()
    pair.abandoned.clear()
    assert watched.alive == []


# ---- on real sockets


class Both:
    """A listener with a router and a client's transport on one loop; what they hold is watched."""

    def __init__(self, credentials, **client):
        configuration = new_configuration(is_client=False)
        configuration.load_cert_chain(credentials.cert_file, credentials.key_file)
        self.router = Router()
        self.listener = Listener(configuration, self.router.accept, self.router.abandon)
        self.transport = AsyncHTTP3Transport(**{"ca_file": credentials.ca_file} | client)
        self.http = httpx2.AsyncClient(transport=self.transport)
        self.watched = Watched()

    async def __aenter__(self):
        port = await self.listener.bind("127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{port}/"

        async def root(request, response):
            self.watch("server", self.listener._ids)
            await response.write("words")

        async def stays(request, response):
            await response.flush()
            await asyncio.Event().wait()

        self.router.add(Route("/", root))
        self.router.add(Route("/stays", stays))
        return self

    def watch(self, name, drivers):
        for driver in drivers:
            self.watched.watch(**{f"{name}.driver": driver})
            self.watched.watch_connection(name, driver.connection)

    async def __aexit__(self, *_):
        await self.http.aclose()
        self.listener.close()


async def test_both_ends_on_real_sockets_are_freed_once_the_client_closed(credentials):
    async with Both(credentials) as both:
        assert (await both.http.get(both.url)).text == "words"
        both.watch("client", both.transport._all)
        await both.http.aclose()
        await both.watched.all_go()


async def test_both_ends_on_real_sockets_are_freed_once_the_server_closed(credentials):
    async with Both(credentials) as both:
        assert (await both.http.get(both.url)).text == "words"
        both.watch("client", both.transport._all)
        both.listener.close()
        await asyncio.sleep(0)
        await both.http.aclose()
        await both.watched.all_go()


async def test_a_client_whose_datagrams_nobody_takes_any_more_is_freed(credentials):
    """The system tells it while it sends: the error holds the frames that it was raised in."""
    async with Both(credentials) as both:
        assert (await both.http.get(both.url)).text == "words"
        both.watch("client", both.transport._all)
        for driver in both.listener._ids.copy():
            driver.abandon("killed, so that the client does not hear of it")
        both.listener.close()
        for driver in both.transport._all:
            async with asyncio.timeout(WAIT_S):
                while driver.connection.lost is None:
                    driver.connection.ping()
                    driver.transmit()
                    await asyncio.sleep(0)
        del driver
        await both.http.aclose()
        await both.watched.all_go()


async def test_a_connection_that_is_closed_amid_a_response_is_freed(credentials):
    async with Both(credentials) as both:
        await both.http.get(both.url)
        async with both.http.stream("GET", both.url + "stays"):
            both.watch("client", both.transport._all)
            both.watch("server", both.listener._ids)
            await both.http.aclose()
        await both.watched.all_go()


async def test_a_client_that_does_not_trust_the_server_leaves_nothing(credentials, monkeypatch):
    drivers = []
    monkeypatch.setattr(Driver, "connect", _recording(Driver.connect, drivers))
    async with Both(credentials, ca_file=None) as both:
        with pytest.raises(httpx2.ConnectError):
            await both.http.get(both.url)
        both.watch("client", drivers)
        both.watch("server", both.listener._ids)
        drivers.clear()
        await both.watched.all_go()


async def test_a_client_that_finds_nobody_leaves_nothing(credentials, monkeypatch):
    drivers = []
    monkeypatch.setattr(Driver, "connect", _recording(Driver.connect, drivers))
    async with Both(credentials, connect_timeout_s=0.2) as both:
        both.listener.close()
        with pytest.raises(httpx2.TransportError):
            await both.http.get(both.url)
        both.watch("client", drivers)
        drivers.clear()
        await both.watched.all_go()


def _recording(connect, drivers):
    async def record(self, address):
        drivers.append(self)
        await connect(self, address)

    return record
