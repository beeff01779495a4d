"""How a handler ends, and what its client sees of it."""

import asyncio
import contextlib
import logging
import threading
import time
import traceback
from concurrent.futures import Future

import httpx2
import pytest

from helpers.client import HTTP3Transport
from helpers.connection import udp
from helpers.errors import BodyTooLarge, ClientDisconnected, UsageError
from tests.pair import Site

WAIT_S = 30.0


@pytest.fixture
def gate():
    """What a handler waits for with `await passing(gate)`, until the test calls set_result."""
    return Future()


def passing(gate):
    return asyncio.wrap_future(gate)


@pytest.fixture
def transport(credentials):
    transport = HTTP3Transport(ca_file=credentials.ca_file)
    yield transport
    transport.close()


def assert_serves_on(server, client):
    assert client.get(server.url("/nowhere")).status_code == 404


# ---- an exception


def test_an_exception_before_the_header_left_is_a_500_without_traceback(server, client, caplog):
    @server.route("/boom")
    async def boom(request, response):
        response.write_header(200, {"x-word": "kept back", "content-length": 17})
        await response.write("kept back too")
        response.write_trailers({"x-sum": "1"})
        raise ZeroDivisionError("in the handler")

    response = client.get(server.url("/boom?x=1"))
    assert (response.status_code, response.text) == (500, "internal server error\n")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert "x-word" not in response.headers
    assert response.extensions["trailers"] == {}
    assert_serves_on(server, client)


def test_an_exception_is_kept_and_logged_with_its_traceback(server, client, caplog):
    @server.route("/boom")
    async def boom(request, response):
        raise ZeroDivisionError("in the handler")

    client.get(server.url("/boom?x=1"))
    (error,) = server.errors
    assert isinstance(error, ZeroDivisionError)
    assert traceback.extract_tb(error.__traceback__)[-1].name == "boom"
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "GET /boom: the handler raised",
    )
    assert record.exc_info[1] is error


def test_an_exception_after_the_header_left_resets_the_stream(server, client, caplog):
    @server.route("/boom")
    async def boom(request, response):
        await response.write("first ")
        await response.flush()
        await response.write("never flushed")
        raise ZeroDivisionError("too late for a 500")

    with client.stream("GET", server.url("/boom")) as response:
        body = response.iter_raw()
        assert next(body) == b"first "
        with pytest.raises(httpx2.RemoteProtocolError) as raised:
            next(body)
    assert str(raised.value).startswith("The server ended stream 0 with H3_INTERNAL_ERROR (0x102)")
    assert [type(error) for error in server.errors] == [ZeroDivisionError]
    assert caplog.records[0].getMessage() == "GET /boom: the handler raised"
    assert_serves_on(server, client)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_handler_cannot_end_the_server(server, client, kind):
    @server.route("/exit")
    async def leave(request, response):
        raise kind("from the handler")

    assert client.get(server.url("/exit")).status_code == 500
    assert [type(error) for error in server.errors] == [kind]
    assert_serves_on(server, client)


def test_a_cancellation_of_the_handlers_own_is_an_error_like_any_other(server, client):
    @server.route("/cancelled")
    async def waits_for_a_cancelled_task(request, response):
        task = asyncio.create_task(asyncio.sleep(WAIT_S))
        task.cancel()
        await task

    assert client.get(server.url("/cancelled")).status_code == 500
    assert [type(error) for error in server.errors] == [asyncio.CancelledError]


def test_errors_are_kept_newest_last_and_bounded(server, client):
    @server.route("/boom")
    async def boom(request, response):
        raise ValueError(request.query["n"])

    for number in range(103):
        client.get(server.url(f"/boom?n={number}"))
    assert [str(error) for error in server.errors] == [str(number) for number in range(3, 103)]


async def taken_over(request, response):
    await response.take_over()
    return lambda: response.write("x")


async def flushed_after_taking_over(request, response):
    await response.take_over()
    return response.flush


async def taken_over_twice(request, response):
    await response.take_over()
    return response.take_over


async def of_a_wrong_type(request, response):
    return lambda: response.write(17)


async def without_a_body(request, response):
    response.write_header(204)
    return lambda: response.write("x")


async def text_on_a_stream(request, response):
    stream = await response.take_over()
    return lambda: stream.write("x")


async def datagrams(request, response):
    stream = await response.take_over()
    return lambda: stream.send_datagram(b"x")


async def datagrams_that_are_too_long(request, response):
    stream = await response.take_over()
    return lambda: stream.send_datagram(bytes(100_000))


@pytest.mark.parametrize(
    "prepare",
    [
        taken_over,
        flushed_after_taking_over,
        taken_over_twice,
        of_a_wrong_type,
        without_a_body,
        text_on_a_stream,
        datagrams,
        datagrams_that_are_too_long,
    ],
)
@pytest.mark.anyio
async def test_who_tries_again_and_again_keeps_the_loop_from_nobody(credentials, prepare):
    """Whatever is raised, a loop around it may swallow it."""
    site = Site(credentials).connect()
    elsewhere = []

    @site.route("/")
    async def stubborn(request, response):
        try_it = await prepare(request, response)
        for _ in range(1000):
            with contextlib.suppress(Exception):
                await try_it()
            if elsewhere:
                elsewhere.append("seen")
                break
            asyncio.get_running_loop().call_soon(elsewhere.append, "a turn")
        await response._stream.close()

    site.request()
    await site.run(0.1)
    assert elsewhere[-1] == "seen"
    assert elsewhere.count("a turn") < 10


# ---- what no handler sees


def test_an_unknown_path_is_404(server, client):
    response = client.get(server.url("/nowhere?x=1"))
    assert (response.status_code, response.text) == (404, "no route for /nowhere\n")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_another_method_is_405_and_allow_names_the_right_ones(server, client):
    @server.route("/upload", methods=["post", "GET"])
    async def upload(request, response):
        await response.write(request.method)

    response = client.delete(server.url("/upload"))
    assert (response.status_code, response.text) == (405, "DELETE is not allowed\n")
    assert response.headers["allow"] == "GET, HEAD, POST"
    assert client.post(server.url("/upload")).text == "POST"
    # RFC 9110 section 9.3.2: who serves GET serves HEAD.
    assert client.head(server.url("/upload")).status_code == 200


def large_headers(size_bytes):
    """Headers of that many bytes, as RFC 9114 section 4.2.2 counts: 32 more for each."""
    count = size_bytes // 1000
    return [(f"x-{number:06}", "a" * (1000 - 32 - 8)) for number in range(count)]


def test_headers_above_64_kib_are_431(server, client):
    @server.route("/")
    async def root(request, response):
        await response.write(str(len(request.headers)))

    assert client.get(server.url("/"), headers=large_headers(64_000)).status_code == 200
    refused = client.get(server.url("/"), headers=large_headers(67_000))
    assert (refused.status_code, refused.content) == (431, b"")
    # Far above, and the refusal does not wait for the end.
    assert client.get(server.url("/"), headers=large_headers(300_000)).status_code == 431
    assert_serves_on(server, client)


def test_a_declared_body_above_the_limit_is_413_before_the_handler_runs(server, client):
    ran = []

    @server.route("/upload", max_body_bytes=1000)
    async def upload(request, response):
        ran.append(len(await request.read()))

    assert client.post(server.url("/upload"), content=bytes(1000)).status_code == 200
    refused = client.post(server.url("/upload"), content=bytes(1001))
    assert (refused.status_code, refused.text) == (413, "request body too large\n")
    assert ran == [1000]
    assert server.errors == []


def test_a_body_that_grows_above_the_limit_is_413(server, client):
    @server.route("/upload", max_body_bytes=1000)
    async def upload(request, response):
        await request.read()

    refused = client.post(server.url("/upload"), content=(bytes(600) for _ in range(2)))
    assert (refused.status_code, refused.text) == (413, "request body too large\n")
    (error,) = server.errors
    assert isinstance(error, BodyTooLarge)
    assert str(error) == "The body of POST /upload exceeds 1000 bytes."
    assert_serves_on(server, client)


# ---- routes


def test_a_plain_function_is_refused_when_it_is_registered(server):
    def stream(request, response):
        pass

    with pytest.raises(UsageError) as raised:
        server.route("/stream")(stream)
    assert str(raised.value) == (
        "The handler 'stream' of /stream is a plain function. Write `async def stream(request, "
        "response)`: it shares one loop with all others and must await."
    )


def test_a_path_without_its_slash_is_refused(server):
    async def stream(request, response):
        pass

    with pytest.raises(UsageError) as raised:
        server.route("stream")(stream)
    assert str(raised.value) == "A path starts with '/': 'stream' does not."


def test_a_route_that_is_registered_again_is_replaced_while_the_old_one_runs(server, client, gate):
    @server.route("/stream")
    async def stream(request, response):
        await response.write("old ")
        await response.flush()
        await passing(gate)
        await response.write("end")

    with client.stream("GET", server.url("/stream")) as running:
        body = running.iter_raw()
        assert next(body) == b"old "

        @server.route("/stream", methods=["GET"])
        async def stream(request, response):
            await response.write("new")

        assert client.get(server.url("/stream")).text == "new"
        assert client.post(server.url("/stream")).status_code == 405
        gate.set_result(None)
        assert list(body) == [b"end"]


def test_the_decorator_hands_the_handler_back(server):
    async def stream(request, response):
        pass

    assert server.route("/stream")(stream) is stream


# ---- a client that leaves


@pytest.fixture
def departures(server):
    """A route that streams until its client leaves, and a list that gets what it then raised."""
    seen = Future()

    @server.route("/forever")
    async def forever(request, response):
        try:
            await response.write("first")
            await response.flush()
            await asyncio.sleep(60)
        except BaseException as error:
            seen.set_result(error)
            raise

    return seen


def test_a_handler_that_sleeps_is_cancelled_when_its_client_leaves(
    server, client, departures, caplog
):
    caplog.set_level(logging.INFO, "helpers.server")
    with client.stream("GET", server.url("/forever")) as response:
        next(response.iter_raw())
    # It slept, and sees what asyncio shows to whoever sleeps.
    assert isinstance(departures.result(WAIT_S), asyncio.CancelledError)
    # Leaving is no error of the handler's.
    assert_serves_on(server, client)
    assert "GET /forever: The client of stream 0 has gone: it sent STOP_SENDING" in caplog.text
    assert "H3_REQUEST_CANCELLED (0x10c)" in caplog.text
    assert server.errors == []


@pytest.mark.parametrize("waits", ["write", "read"])
def test_a_handler_that_waits_for_its_client_is_told_why_that_left(
    server, client, transport, waits
):
    seen = Future()

    @server.route("/waits")
    async def waits_for_its_client(request, response):
        await response.flush()
        try:
            if waits == "read":
                await request.read()
            while True:
                await response.write(bytes(65536))
        except ClientDisconnected as error:
            seen.set_result(error)
            raise

    with transport.open_stream("POST", server.url("/waits")) as stream:
        stream.read_header()
        stream.reset()
        stream.stop()
    gone = seen.result(WAIT_S)
    assert (gone.stream_id, gone.code) == (0, 0x10C)
    assert "H3_REQUEST_CANCELLED (0x10c)" in str(gone)
    assert_serves_on(server, client)
    assert server.errors == []


def test_a_handler_that_the_server_cancels_gets_a_plain_cancellation(server, client, departures):
    with client.stream("GET", server.url("/forever")) as response:
        body = response.iter_raw()
        assert next(body) == b"first"
        server.stop(grace_s=0)
        assert isinstance(departures.result(WAIT_S), asyncio.CancelledError)
        with pytest.raises(httpx2.RemoteProtocolError, match="H3_REQUEST_CANCELLED"):
            next(body)
    assert server.errors == []


# ---- a handler that blocks


def test_a_blocking_handler_is_reported_once_by_name(server, client, caplog):
    @server.route("/slow")
    async def sleepy(request, response):
        time.sleep(0.4)  # noqa: ASYNC251 - the mistake that is reported

    client.get(server.url("/slow"))
    client.get(server.url("/slow"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    before, after = text.split(" for ")
    assert before == "The handler 'sleepy' of /slow blocked the server"
    duration_ms, rest = after.split(" ms: ")
    assert 400 <= int(duration_ms)
    assert rest == (
        "no other request moved, and nothing left. If that is time.sleep(...), use `await "
        "asyncio.sleep(...)`."
    )


def test_a_handler_that_is_run_again_in_its_cell_is_reported_again(server, client, caplog):
    for _ in range(2):

        @server.route("/slow")
        async def sleepy(request, response):
            time.sleep(0.4)  # noqa: ASYNC251

        client.get(server.url("/slow"))
    assert len(caplog.records) == 2


def test_a_handler_that_computes_in_c_is_reported(server, client, caplog):
    """It keeps Python's global lock, so that no other thread gets its turn either."""

    @server.route("/slow")
    async def computes(request, response):
        sum(range(20_000_000))

    client.get(server.url("/slow"))
    (record,) = caplog.records
    assert record.getMessage().startswith("The handler 'computes' of /slow blocked the server for ")


def test_who_is_late_because_the_machine_is_busy_is_not_reported(server, client, caplog):
    """Then the beats do not get their turn either: here they have ended."""
    server._router.beats.stop()

    @server.route("/slow")
    async def descheduled(request, response):
        time.sleep(0.4)  # noqa: ASYNC251

    client.get(server.url("/slow"))
    assert caplog.records == []


def test_who_waits_for_a_turn_while_the_helpers_send_is_not_reported(server, client, caplog):
    """Where other threads keep the processor, or Python's global lock, each send takes long."""
    send = compile("sleep(0.4)", udp.__file__, "exec")

    @server.route("/slow")
    async def sends(request, response):
        exec(send, {"sleep": time.sleep})

    client.get(server.url("/slow"))
    assert caplog.records == []


@pytest.mark.parametrize("what", ["response", "stream", "reading"])
def test_a_handler_that_tries_again_whatever_it_is_told_keeps_the_server_from_nobody(
    server, client, what
):
    """Who is told of the end without a pause, and again, would keep the loop for ever."""

    @server.route("/stubborn")
    async def stubborn(request, response):
        await response.flush()
        stream = await response.take_over() if what == "stream" else None
        while True:
            with contextlib.suppress(Exception):
                if what == "reading":
                    await request.read()
                else:
                    await (stream or response).write(b"x" * 5000)

    @server.route("/hello")
    async def hello(request, response):
        await response.write("hello")

    with client.stream("GET", server.url("/stubborn")):
        assert client.get(server.url("/hello")).text == "hello"
    assert client.get(server.url("/hello")).text == "hello"
    server.stop(grace_s=0)


def test_a_handler_that_awaits_is_not_reported(server, client, caplog):
    @server.route("/slow")
    async def patient(request, response):
        await asyncio.sleep(0.1)

    client.get(server.url("/slow"))
    assert caplog.records == []


def test_handlers_run_side_by_side(server, transport):
    # Each waits until all have come: one after the other, the first would wait for ever.
    barrier = asyncio.Barrier(10)

    @server.route("/together")
    async def together(request, response):
        async with asyncio.timeout(WAIT_S):
            await barrier.wait()
        await response.write("met")

    texts = []
    with httpx2.Client(transport=transport) as client:
        threads = [
            threading.Thread(
                target=lambda: texts.append(client.get(server.url("/together")).text), daemon=True
            )
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert texts == ["met"] * 10
