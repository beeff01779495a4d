"""The client leaves early: its handler knows at once, and nothing of either end stays behind."""

import _thread
import asyncio
import contextlib
import gc
import itertools
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

from helpers.client import AsyncHTTP3Transport, HTTP3Transport
from helpers.connection import HTTP3Connection, driver
from helpers.connection import http3 as connection
from helpers.errors import ClientDisconnected, PeerError
from helpers.server import Server
from helpers.stream import HTTP3Stream
from tests.peers import Peer

# Within milliseconds, for the client says so; who says nothing is noticed after 7 s.
AT_ONCE_S = 5.0
# However long it takes a busy machine: it comes, and the tests wait no longer than that.
COMES_S = 30.0
# Where connections look ten times a second whether they still have streams to watch over.
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

    def __init__(self):
        self._seen = queue.SimpleQueue()
        self.handler_runs = threading.Event()

    @contextlib.contextmanager
    def watch(self, stream_id):
        self.handler_runs.set()
        try:
            yield
        except BaseException as error:
            code = getattr(error, "code", None)
            self._seen.put(Departure(time.perf_counter(), stream_id, type(error), code))
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


def watched_routes(server):
    """Add routes that never end: /writes writes on and on, /waits flushes once and waits."""
    departures = Departures()

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

    return departures


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


@pytest.mark.parametrize("path", ["/writes", "/waits"])
@pytest.mark.parametrize("leaving", LEAVING)
def test_the_handler_learns_at_once_that_its_client_left(server, client, departures, leaving, path):
    leave, code = LEAVING[leaving]
    with client.stream("GET", server.url(path)) as response:
        left_at = time.perf_counter()
        leave(client, response)
        seen = departures.next()
    print(f"{leaving}, {path}: the handler knew after {(seen.at - left_at) * 1000:.1f} ms")
    stream_id = response.extensions["stream_id"]
    assert seen[1:] == (stream_id, ClientDisconnected, code)
    assert departures.is_empty()
    assert server.errors == []


def test_a_response_that_nobody_holds_any_more_is_a_client_that_left(server, client, departures):
    response = client.send(client.build_request("GET", server.url("/waits")), stream=True)
    assert response.status_code == 200
    del response
    assert departures.next().kind is ClientDisconnected


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/writes", "/waits"])
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
        assert seen[2:] == (ClientDisconnected, ErrorCode.H3_REQUEST_CANCELLED)
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


@pytest.mark.anyio
async def test_a_request_that_was_stopped_before_it_arrived_has_no_handler(
    server, credentials, departures
):
    """Packets may overtake each other, and STOP_SENDING then comes before HEADERS."""
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport) as client:
        await client.get(server.url("/hello"))
        ends = (connection,), _ = list(transport._all), server._listener.connections
        await client.get(server.url("/hello"))  # a connection that was silent would be asked first
        with turned_around(connection):
            stream = await transport.open_stream("POST", server.url("/reads"))
            stream.stop()
            await stream.close()
        del stream
        assert (await client.get(server.url("/hello"))).text == "hello\n"
        open_streams = await comes_to([0, 0], lambda: [end._http.open_streams() for (end,) in ends])
    assert open_streams == [0, 0]
    assert departures.is_empty()
    assert server.errors == []


@contextlib.contextmanager
def turned_around(connection):
    """Send the datagrams of a connection in the opposite order."""
    send, held = connection._send, []
    connection._send = lambda *datagram: held.append(datagram)
    yield
    connection.transmit()
    assert len(held) > 1
    for datagram in reversed(held):
        send(*datagram)
    connection._send = send


@pytest.fixture
def impatient(credentials, monkeypatch):
    """A server and a client whose idle timeout is 1 s."""
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(driver, "KEEP_ALIVE_AFTER_S", 0.2)
    monkeypatch.setattr(driver, "KEEP_ALIVE_CHECK_S", 0.1)
    transport = HTTP3Transport(ca_file=credentials.ca_file)
    with (
        Server(cert_file=credentials.cert_file, key_file=credentials.key_file) as server,
        httpx2.Client(transport=transport) as client,
    ):
        yield server, client


def test_a_killed_client_is_noticed_at_the_idle_timeout(credentials, impatient):
    server, _ = impatient
    departures = watched_routes(server)
    urls = [server.url("/writes"), server.url("/waits")]
    with Peer("leave_suddenly", credentials.ca_file, *urls) as client:
        client.line()
        client.kill()
        for _ in urls:
            assert departures.next(COMES_S)[2:] == (ClientDisconnected, None)


def test_a_client_that_vanished_is_noticed_within_ten_seconds():
    """Its last PING may have been answered just before, and the next look comes just too early."""
    silent_s = driver.KEEP_ALIVE_AFTER_S + driver.KEEP_ALIVE_CHECK_S
    assert silent_s + driver.IDLE_TIMEOUT_S <= 10


def test_a_handler_that_is_silent_for_longer_than_the_idle_timeout_loses_nobody(impatient):
    """A PING asks for a sign of life, so that silence alone ends no connection."""
    server, client = impatient

    @server.route("/thinks")
    async def think(request, response):
        await asyncio.sleep(1.5)
        await response.write("an answer\n")

    assert client.get(server.url("/thinks")).text == "an answer\n"


def test_a_cell_that_sleeps_for_longer_than_the_idle_timeout_reads_on(impatient):
    server, client = impatient
    size_bytes = 3_000_000  # more than the windows hold

    @server.route("/long")
    async def give(request, response):
        await response.write(bytes(size_bytes))

    with client.stream("GET", server.url("/long")) as response:
        chunks = response.iter_raw()
        read_bytes = len(next(chunks))
        time.sleep(1.5)
        read_bytes += sum(map(len, chunks))
    assert read_bytes == size_bytes
    assert server.errors == []


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
    "with": (read_in_a_with_block, "/writes"),
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
    assert seen[1:3] == (stream_id_before + 4, ClientDisconnected)
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


async def break_off(client, transport, url):
    async with client.stream("GET", url("/writes")) as response:
        async for _ in response.aiter_bytes():
            break


async def drop_the_response(client, transport, url):
    await client.send(client.build_request("GET", url("/waits")), stream=True)


async def cancel_before_the_header(client, transport, url):
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(client.get(url("/silent")), 0.02)


async def leave_when_the_server_waits(client, transport, url):
    async with client.stream("GET", url("/endless")) as response:
        async for _ in response.aiter_bytes():
            await asyncio.sleep(0.01)
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
    break_off,
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
    kept = {
        "QUIC streams": len(connection.quic._streams),
        "QUIC streams in the queue": len(connection.quic._streams_queue),
    }
    parts = [connection]
    for part in parts:
        for name, value in vars(part).items():
            if isinstance(value, dict | list | set | weakref.WeakValueDictionary):
                kept[f"{type(part).__name__}.{name}"] = len(value)
            elif type(value).__module__.startswith("helpers.") and value not in parts:
                parts.append(value)
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


@pytest.fixture
def watchful(monkeypatch):
    """Connections see sooner that they have no stream to watch over any more."""
    monkeypatch.setattr(driver, "KEEP_ALIVE_CHECK_S", 0.1)


@pytest.mark.anyio
async def test_1000_abandoned_requests_leave_nothing(watchful, server, credentials, departures):
    loops = [asyncio.get_running_loop(), server._background._loop]

    @server.route("/endless")
    async def endless(request, response):
        while True:
            await response.write(bytes(65536))

    @server.route("/breaks")
    async def breaks(request, response):
        await response.write("half of it")
        await response.flush()
        response.break_off()

    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport, timeout=20) as client:
        await client.get(server.url("/hello"))
        before = await settled(lambda: what_is_held(loops))
        ways = itertools.islice(itertools.cycle(WAYS), ABANDONED)
        while some := list(itertools.islice(ways, AT_A_TIME)):
            await asyncio.gather(*(leave(client, transport, server.url) for leave in some))
        last_id = (await client.get(server.url("/hello"))).extensions["stream_id"]
        after = await comes_to(before, lambda: what_is_held(loops))
    assert after == before
    # All on one connection; some of those that were cancelled early had no stream yet.
    assert 4 * 0.9 * ABANDONED < last_id <= 4 * (ABANDONED + 1)
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
async def test_100_clients_that_came_and_went_leave_nothing(
    watchful, server, credentials, departures
):
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
