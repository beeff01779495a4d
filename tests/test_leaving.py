"""The client leaves early: its handler knows at once, and nothing of either end stays behind.

What takes seconds, or must be exact, runs in memory on a clock of its own (pair.py).
"""

import _thread
import asyncio
import contextlib
import gc
import itertools
import logging
import queue
import signal
import socket
import threading
import time
import weakref
from typing import NamedTuple

import httpx2
import psutil
import pytest
from aioquic.h3.connection import ErrorCode

from helpers.client import AsyncHTTP3Transport
from helpers.connection import ConnectionState, HTTP3Connection, configuration, http3
from helpers.errors import ClientDisconnected, PeerError, describe_code
from helpers.exchange import break_off
from helpers.server import Server
from helpers.stream import HTTP3Stream
from tests.pair import POST, Site
from tests.peers import Peer

# Within milliseconds, for the client says so.
AT_ONCE_S = 5.0
# However long it takes a busy machine: it comes, and the tests wait no longer than that.
COMES_S = 30.0
# A silent peer is gone for certain after this (README.md says so).
NOTICED_S = 10.0
LONG_S = 60.0
QUIET_S = 0.3
LOOK_EVERY_S = 0.25  # a look goes through all objects of the process

pytestmark = pytest.mark.usefixtures("one_connection")


class Departure(NamedTuple):
    """What a handler got, and when; without the exception, which would hold on to its stream."""

    at: float
    stream_id: int
    kind: type
    code: int | None


class Departures:
    """What handlers learn of their clients' leaving."""

    def __init__(self, clock):
        self._clock = clock
        self._seen = queue.SimpleQueue()
        self.handler_runs = threading.Event()

    @contextlib.contextmanager
    def watch(self, stream_id):
        self.handler_runs.set()
        try:
            yield
        except BaseException as error:
            code = getattr(error, "code", None)
            self._seen.put(Departure(self._clock(), stream_id, type(error), code))
            raise

    def next(self, timeout_s=AT_ONCE_S):
        """Return the next one, from whichever handler."""
        return self._seen.get(timeout=timeout_s)

    def is_empty(self):
        return self._seen.empty()


@pytest.fixture
def departures(server):
    """Routes of the server that never end, and what their handlers learn."""
    return watched_routes(server)


def watched_routes(server, clock=time.perf_counter):
    """Add routes that never end, and one that does.

    /endless always writes, /waits writes and waits for something else, /silent only waits, /writes
    does both in turn, /reads reads.
    """
    departures = Departures(clock)

    @server.route("/endless")
    async def endless(request, response):
        with departures.watch(request.stream_id):
            while True:
                await response.write(bytes(65536))

    @server.route("/writes")
    async def writes(request, response):
        with departures.watch(request.stream_id):
            while True:
                await response.write("some words\n")
                await response.flush()
                await asyncio.sleep(0.001)

    @server.route("/waits")
    async def waits(request, response):
        with departures.watch(request.stream_id):
            await response.write("some words\n")
            await response.flush()
            await asyncio.Event().wait()

    @server.route("/silent")
    async def silent(request, response):
        with departures.watch(request.stream_id):
            await asyncio.Event().wait()

    @server.route("/reads")
    async def reads(request, response):
        with departures.watch(request.stream_id):
            await request.read()

    @server.route("/hello")
    async def hello(request, response):
        await response.write("hello\n")

    @server.route("/breaks")
    async def breaks(request, response):
        await response.write("half of it")
        await response.flush()
        break_off(response)

    return departures


# Who waits for the client is told why it left, anything else that it awaits is cancelled.
TOLD = {"/endless": ClientDisconnected, "/reads": ClientDisconnected}
TOLD |= dict.fromkeys(["/waits", "/silent"], asyncio.CancelledError)


class Lines(logging.Handler):
    """What the server says to its log, line by line."""

    def __init__(self):
        super().__init__()
        self._lines = queue.SimpleQueue()

    def emit(self, record):
        self._lines.put(record.getMessage())

    def next(self):
        return self._lines.get(timeout=COMES_S)


@pytest.fixture
def lines(caplog):
    logger, lines = logging.getLogger("helpers.server"), Lines()
    # Not by the attribute alone: a logger remembers for which levels it was silent.
    caplog.set_level(logging.INFO, "helpers.server")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


def leave_by_break(client, response):
    for _ in response.iter_bytes():
        break


def leave_by_close(client, response):
    response.close()


def leave_by_closing_the_client(client, response):
    client.close()


LEAVING = {
    "break": (leave_by_break, ErrorCode.H3_REQUEST_CANCELLED),
    "close": (leave_by_close, ErrorCode.H3_REQUEST_CANCELLED),
    "client.close": (leave_by_closing_the_client, ErrorCode.H3_NO_ERROR),
}


@pytest.mark.parametrize("path", ["/endless", "/waits"])
@pytest.mark.parametrize("leaving", LEAVING)
def test_the_handler_learns_at_once_that_its_client_left(
    server, client, departures, lines, leaving, path
):
    leave, code = LEAVING[leaving]
    with client.stream("GET", server.url(path)) as response:
        left_at = time.perf_counter()
        leave(client, response)
        seen = departures.next()
    print(f"{leaving}, {path}: the handler knew after {(seen.at - left_at) * 1000:.1f} ms")
    stream_id = response.extensions["stream_id"]
    assert (seen.stream_id, seen.kind) == (stream_id, TOLD[path])
    assert seen.code == (code if TOLD[path] is ClientDisconnected else None)
    line = lines.next()
    assert line.startswith(f"GET {path}: The client of stream {stream_id} has gone: ")
    assert describe_code(code) in line
    assert departures.is_empty()
    assert server.errors == []


def test_a_response_that_nobody_holds_any_more_is_a_client_that_left(server, client, departures):
    response = client.send(client.build_request("GET", server.url("/waits")), stream=True)
    assert response.status_code == 200
    del response
    assert departures.next().kind is TOLD["/waits"]


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/endless", "/waits"])
async def test_a_cancelled_task_is_a_client_that_left(server, credentials, departures, path):
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport) as client:
        reading = asyncio.Event()

        async def read():
            async with client.stream("GET", server.url(path)) as response:
                async for _ in response.aiter_bytes():
                    reading.set()

        task = asyncio.create_task(read())
        await reading.wait()
        task.cancel()
        seen = await asyncio.to_thread(departures.next)
        assert seen.kind is TOLD[path]
        assert (await client.get(server.url("/hello"))).text == "hello\n"


def test_a_client_that_leaves_during_its_upload_is_no_error_of_the_handler(
    server, client, departures
):
    with client.stream("GET", server.url("/hello")):
        pass

    def pieces():
        yield b"the first of many"
        assert departures.handler_runs.wait(5)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        client.post(server.url("/reads"), content=pieces())
    assert departures.next()[2:] == (ClientDisconnected, ErrorCode.H3_REQUEST_CANCELLED)
    assert server.errors == []


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/silent", "/writes"])
async def test_an_upload_that_waits_for_its_own_data_ends_with_its_request(
    server, credentials, departures, path
):
    waits, ended = asyncio.Event(), asyncio.Event()

    async def pieces():
        try:
            yield b"the first of many"
            waits.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def post():
        async with client.stream("POST", server.url(path), content=pieces()) as response:
            await response.aread()

    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport) as client:
        task = asyncio.create_task(post())
        await waits.wait()
        task.cancel()
        await asyncio.wait_for(ended.wait(), AT_ONCE_S)


# ---- in memory


@pytest.fixture
async def site(credentials):
    return Site(credentials, delay_s=0.05).connect()


def to(path):
    """The header section of a request whose body is still to come."""
    return [*POST[:-1], (b":path", path.encode())]


@pytest.mark.anyio
@pytest.mark.parametrize("path", TOLD)
async def test_the_handler_knows_as_soon_as_the_word_has_travelled(site, path):
    departures = watched_routes(site, lambda: site.now)
    stream = site.request(to(path), end_stream=False)
    await site.run(1.0)
    left_at = site.now
    stream.cancel()
    await site.run(1.0)
    seen = departures.next(0)
    assert (seen.kind, seen.at) == (TOLD[path], pytest.approx(left_at + site.delay_s))
    assert departures.is_empty()
    assert site.errors == []


@pytest.mark.anyio
async def test_a_request_that_was_stopped_before_it_arrived_has_no_handler(site):
    """Packets may overtake each other, and STOP_SENDING then comes before HEADERS."""
    departures = watched_routes(site)
    stream = site.request(to("/reads"), end_stream=False)
    await site.run()
    site.delay_s /= 2
    stream.stop()
    await stream.close()
    await site.run(1.0)
    assert not departures.handler_runs.is_set()
    assert [end._http.open_streams() for end in (site.client, site.server)] == [0, 0]
    assert (await site.soon(site.http.get(site.url("/hello")))).text == "hello\n"
    assert site.errors == []


# It may vanish with its last word, which is the longest; later; or when it was just asked for one.
@pytest.mark.anyio
@pytest.mark.parametrize("silent_s", [0.0, 1.0, 2.01])
@pytest.mark.parametrize("path", TOLD)
async def test_a_client_that_vanished_is_noticed_within_ten_seconds(site, lines, path, silent_s):
    departures = watched_routes(site, lambda: site.now)
    # What is held and not read stays in its window: in memory, the line carries any rate.
    unread = site.request(to(path), end_stream=False)
    await site.run(1.0)
    said = count_of_the_clients(site)
    while count_of_the_clients(site) == said:
        await site.run(0.01)
    await site.run(site.delay_s + silent_s)
    vanished_at, site.drops = site.now, lambda is_from_client, data: is_from_client
    await site.run(LONG_S)
    seen = departures.next(0)
    assert (seen.kind, seen.code) == (TOLD[path], None)
    assert seen.at <= vanished_at + NOTICED_S
    assert "nothing came for 7 s, the peer has vanished" in lines.next()
    assert site.errors == []
    del unread


def count_of_the_clients(site):
    return sum(is_from_client for is_from_client, _ in site.carried)


@pytest.mark.anyio
async def test_a_server_that_vanished_is_noticed_within_ten_seconds(site):
    watched_routes(site)
    reading = asyncio.create_task(site.http.get(site.url("/waits")))
    await site.run(1.0)
    vanished_at, site.drops = site.now, lambda is_from_client, data: not is_from_client
    with pytest.raises(httpx2.ReadError, match="nothing came for 7 s, the peer has vanished"):
        await site.soon(reading)
    assert site.now <= vanished_at + NOTICED_S


@pytest.mark.anyio
async def test_a_handler_that_is_silent_for_long_loses_nobody(site):
    """A PING asks for a sign of life, so that silence alone ends no connection."""
    go_on = asyncio.Event()

    @site.route("/thinks")
    async def think(request, response):
        await go_on.wait()
        await response.write("an answer\n")

    asking = asyncio.create_task(site.http.get(site.url("/thinks")))
    await site.run(LONG_S)
    go_on.set()
    assert (await site.soon(asking)).text == "an answer\n"


@pytest.mark.anyio
async def test_a_cell_that_sleeps_for_long_reads_on(site):
    size_bytes = 3_000_000  # more than the windows hold

    @site.route("/long")
    async def give(request, response):
        await response.write(bytes(size_bytes))

    async def read():
        async with site.http.stream("GET", site.url("/long")) as response:
            chunks = response.aiter_raw()
            read_bytes = len(await anext(chunks))
            await awake.wait()
            return read_bytes + sum([len(chunk) async for chunk in chunks])

    awake = asyncio.Event()
    reading = asyncio.create_task(read())
    await site.run(LONG_S)
    awake.set()
    assert await site.soon(reading) == size_bytes
    assert site.errors == []


@pytest.mark.anyio
async def test_where_nobody_waits_nobody_is_asked_and_the_connection_ends(site):
    watched_routes(site)
    await site.soon(site.http.get(site.url("/hello")))
    await site.run(1.0)
    sent = len(site.carried)
    await site.run(configuration.IDLE_TIMEOUT_S)
    assert len(site.carried) == sent
    assert site.client.state is site.server.state is ConnectionState.CLOSED


# ---- a real one


def test_a_killed_client_is_noticed_at_the_idle_timeout(credentials, monkeypatch):
    monkeypatch.setattr(configuration, "IDLE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(http3, "KEEP_ALIVE_AFTER_S", 0.1)
    with Server(cert_file=credentials.cert_file, key_file=credentials.key_file) as server:
        departures = watched_routes(server)
        paths = ["/endless", "/waits"]
        with Peer("leave_suddenly", credentials.ca_file, *map(server.url, paths)) as client:
            client.line()
            client.kill()
            seen = {departures.next(COMES_S)[2:] for _ in paths}
    assert seen == {(TOLD[path], None) for path in paths}


# ---- interrupts


@contextlib.contextmanager
def interrupted(when=None):
    """Press Ctrl-C while the block waits, as Jupyter's stop button does; the block must end."""
    main = threading.main_thread().ident

    def press():
        if when is None or when.wait(10):
            time.sleep(0.1)  # in the middle of its wait, as a person would
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main, signal.SIGINT)
            else:  # Windows has no other way, and Jupyter takes this one there too
                _thread.interrupt_main()

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()


def read_in_a_with_block(client, url):
    with client.stream("GET", url) as response:
        for _ in response.iter_bytes():
            pass


def read_and_keep_the_response(client, url):
    response = client.send(client.build_request("GET", url), stream=True)
    client.kept = response
    for _ in response.iter_bytes():
        pass


def read_the_whole_body(client, url):
    client.get(url)


def upload_an_iterator(client, url):
    client.post(url, content=itertools.repeat(bytes(65536)))


def upload_bytes(client, url):
    client.post(url, content=bytes(10_000_000))


def read_a_stream_taken_over(client, url):
    with client._transport.open_stream("GET", url) as stream:
        stream.close()
        stream.read()


INTERRUPTED = {
    "with": (read_in_a_with_block, "/endless"),
    "kept": (read_and_keep_the_response, "/waits"),
    "get": (read_the_whole_body, "/writes"),
    "header": (read_the_whole_body, "/silent"),
    "upload": (upload_an_iterator, "/silent"),
    "upload of bytes": (upload_bytes, "/silent"),
    "taken over": (read_a_stream_taken_over, "/waits"),
}


@pytest.mark.parametrize("cell", INTERRUPTED)
def test_an_interrupted_cell_stops_its_stream_and_the_next_one_works(
    server, client, departures, interruptible, cell
):
    run, path = INTERRUPTED[cell]
    stream_id_before = client.get(server.url("/hello")).extensions["stream_id"]
    with interrupted(departures.handler_runs):
        run(client, server.url(path))
    interrupted_at = time.perf_counter()
    seen = departures.next()
    print(f"{cell}: the handler knew {(seen.at - interrupted_at) * 1000:.1f} ms later")
    assert seen.stream_id == stream_id_before + 4
    assert seen.kind in (ClientDisconnected, asyncio.CancelledError)
    response = client.get(server.url("/hello"))
    assert response.text == "hello\n"
    assert response.extensions["stream_id"] == seen.stream_id + 4  # on the same connection


def test_an_interrupted_handshake_leaves_nothing(client, interruptible):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with interrupted():
            client.get(f"https://127.0.0.1:{silent.getsockname()[1]}/")


# ---- nothing stays behind

ABANDONED = 1000
AT_A_TIME = 20


async def a_while():
    """So many turns of the loop that what was begun is under way, without looking at a clock."""
    for _ in range(50):
        await asyncio.sleep(0)


async def leave_in_the_middle(client, transport, url):
    async with client.stream("GET", url("/writes")) as response:
        async for _ in response.aiter_bytes():
            break


async def drop_the_response(client, transport, url):
    await client.send(client.build_request("GET", url("/waits")), stream=True)


async def cancel_before_the_header(client, transport, url):
    asking = asyncio.create_task(client.get(url("/silent")))
    await a_while()
    asking.cancel()
    await asyncio.wait([asking])


async def leave_when_the_server_waits(client, transport, url):
    async with client.stream("GET", url("/endless")) as response:
        async for _ in response.aiter_bytes():
            await a_while()
            break


async def break_off_the_upload(client, transport, url):
    async def pieces():
        yield b"the first of many"
        raise EOFError

    with contextlib.suppress(EOFError):
        await client.post(url("/reads"), content=pieces())


async def upload_what_nobody_reads(client, transport, url):
    async def pieces():
        while True:
            yield bytes(65536)

    assert (await client.post(url("/hello"), content=pieces())).text == "hello\n"


async def stop_at_once(client, transport, url):
    stream = await transport.open_stream("POST", url("/reads"))
    stream.stop()
    await stream.close()


async def reset_at_once(client, transport, url):
    stream = await transport.open_stream("POST", url("/reads"))
    stream.cancel()


async def reset_the_request_alone(client, transport, url):
    stream = await transport.open_stream("POST", url("/reads"))
    await stream.write(b"the first of many")
    stream.reset()
    with contextlib.suppress(PeerError):
        await stream.read()


async def stop_the_answer_alone(client, transport, url):
    stream = await transport.open_stream("GET", url("/writes"))
    await stream.read_header()
    stream.stop()
    await stream.close()


async def be_reset(client, transport, url):
    with pytest.raises(httpx2.RemoteProtocolError):
        await client.get(url("/breaks"))


WAYS = [
    leave_in_the_middle,
    drop_the_response,
    cancel_before_the_header,
    leave_when_the_server_waits,
    break_off_the_upload,
    stop_at_once,
    upload_what_nobody_reads,
    reset_at_once,
    reset_the_request_alone,
    stop_the_answer_alone,
    be_reset,
]


def live(*kinds):
    """Return what lives of each kind."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
    return [[thing for thing in found if isinstance(thing, kind)] for kind in kinds]


def sizes(connection):
    """How much a connection keeps, in aioquic's tables and in those of the helpers."""
    if connection.state is ConnectionState.CLOSED:
        return "closed"
    kept = {
        "QUIC streams": len(connection.quic._streams),
        "QUIC streams in the queue": len(connection.quic._streams_queue),
    }
    for part in (connection, connection._http):
        for name, value in vars(part).items():
            if isinstance(value, dict | list | set | weakref.WeakValueDictionary):
                kept[f"{type(part).__name__}.{name}"] = len(value)
    return kept


def what_is_held(loops):
    """What both ends hold: they share this process, not their loop."""
    streams, connections = live(HTTP3Stream, HTTP3Connection)
    return {
        "tasks": [len(asyncio.all_tasks(loop)) for loop in loops],
        "timers": [sum(not timer.cancelled() for timer in loop._scheduled) for loop in loops],
        "sockets": len(psutil.Process().net_connections("udp")),
        "streams": len(streams),
        "connections": [sizes(connection) for connection in connections],
    }


@pytest.mark.anyio
async def test_1000_abandoned_requests_leave_nothing(credentials):
    site = Site(credentials).connect()
    watched_routes(site)

    def kept():
        (streams,) = live(HTTP3Stream)
        ends = [sizes(site.client), sizes(site.server)]
        return len(streams), len(asyncio.all_tasks()), len(site.router.running), ends

    await site.soon(site.http.get(site.url("/hello")))
    await site.run(http3.KEEP_ALIVE_AFTER_S)
    before = kept()
    ways = itertools.islice(itertools.cycle(WAYS), ABANDONED)
    while some := list(itertools.islice(ways, AT_A_TIME)):
        leaving = (leave(site.http, site.transport, site.url) for leave in some)
        await site.soon(asyncio.gather(*leaving))
    last_id = (await site.soon(site.http.get(site.url("/hello")))).extensions["stream_id"]
    assert last_id == 4 * (ABANDONED + 1)
    await site.run(http3.KEEP_ALIVE_AFTER_S)
    assert kept() == before
    assert site.errors == []


@pytest.mark.anyio
async def test_abandoned_requests_leave_nothing_in_real_sockets_and_timers(
    server, credentials, departures
):
    loops = [asyncio.get_running_loop(), server._background._loop]
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport, timeout=COMES_S) as client:
        await client.get(server.url("/hello"))
        before = await settled(lambda: what_is_held(loops))
        for _ in range(5):
            await asyncio.gather(*(leave(client, transport, server.url) for leave in WAYS))
        await client.get(server.url("/hello"))
        after = await comes_to(before, lambda: what_is_held(loops))
    assert after == before
    assert server.errors == []


async def settled(look):
    """Return what `look` sees once it has seen the same for `QUIET_S`."""
    seen, since = look(), time.monotonic()
    while time.monotonic() - since < QUIET_S:
        await asyncio.sleep(LOOK_EVERY_S)
        if (now := look()) != seen:
            seen, since = now, time.monotonic()
    return seen


async def comes_to(expected, look, timeout_s=COMES_S):
    """Return what `look` sees once it is as expected, or after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while (seen := look()) != expected and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY_S)
    return seen


@pytest.mark.anyio
async def test_100_clients_that_came_and_went_leave_nothing(server, credentials, departures):
    loops = [asyncio.get_running_loop(), server._background._loop]

    async def come_and_go(path):
        transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
        async with httpx2.AsyncClient(transport=transport) as client:
            async with client.stream("GET", server.url(path)):
                pass

    await come_and_go("/hello")
    assert await comes_to([], lambda: server._listener.connections) == []
    before = await settled(lambda: what_is_held(loops))
    for _ in range(5):
        await asyncio.gather(*(come_and_go(path) for path in ["/hello", "/writes"] * 10))
    after = await comes_to(before, lambda: what_is_held(loops))
    assert after == before
