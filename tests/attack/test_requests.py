"""Requests that are well-formed HTTP/3 and still make no sense, and what handlers suffer from."""

import asyncio
import gc
import logging
import threading
import weakref

import pylsqpack
import pytest
from aioquic.buffer import Buffer
from aioquic.h3.connection import ErrorCode, FrameType

from helpers.connection import ConnectionState
from helpers.errors import BodyTooLarge
from tests.attack.tools import GET, Attacker, data, headers, request

PATHS = {
    b"/../../etc/passwd": b"no route for /../../etc/passwd",
    b"/%2e%2e/%2e%2e/etc/passwd": b"no route for /../../etc/passwd",
    b"//": b"no route for //",
    b"/%": b"no route for /%",
    b"/%zz": b"no route for /%zz",
    b"/%00": b"bad request",
    b"/\xff": b"bad request",
    b"/%ff": b"bad request",
    b"/%ed%a0%80": b"bad request",  # half of a surrogate pair
    b"/?\xff": b"bad request",
    b"*": b"bad request",
    b"https://localhost/": b"bad request",
    b"/?%ff=%00": b"hello",
    b"/?" + b"&a" * 20_000: b"hello",
}


@pytest.mark.parametrize(("path", "answer"), PATHS.items(), ids=lambda value: repr(value[:20]))
def test_a_path_is_a_key_of_the_routes_and_nothing_else(target, path, answer):
    with Attacker(target.port) as attacker:
        assert answer in attacker.ask(path)
        assert b"hello" in attacker.ask(stream_id=4)


def said(target):
    """What the server's logger said about requests."""
    lines = target.lines.texts("helpers.server")
    return [line for line in lines if not line.startswith("Connection over")]


WITHOUT_AUTHORITY = [*GET[:2], GET[3]]
NONSENSE = {
    "a method with a space": [(b":method", b"GET /"), *GET[1:]],
    "a method that moves a terminal's cursor": [(b":method", b"\x1b[2J"), *GET[1:]],
    "no method's name": [(b":method", b""), *GET[1:]],
    "a method that is no ASCII": [(b":method", "é".encode()), *GET[1:]],
    "no scheme": [GET[0], *GET[2:]],
    "CONNECT with scheme and path": [(b":method", b"CONNECT"), *GET[1:]],
    "CONNECT with a path": [(b":method", b"CONNECT"), *GET[2:]],
    "WebSocket": [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket")],
    "an authority that is no text": [*GET[:2], (b":authority", b"\xff"), GET[3]],
    "a host that is not the authority": [*GET, (b"host", b"other.test")],
    "two hosts, one of them the authority": [*GET, (b"host", GET[2][1]), (b"host", b"other.test")],
    "two hosts and no authority": [*WITHOUT_AUTHORITY, (b"host", b"a"), (b"host", b"b")],
    "the same host twice": [*WITHOUT_AUTHORITY, (b"host", b"a"), (b"host", b"a")],
    "a user in the authority": [*GET[:2], (b":authority", b"me:secret@localhost"), GET[3]],
    "a user in the host": [*WITHOUT_AUTHORITY, (b"host", b"me@localhost")],
}


@pytest.mark.parametrize("fields", NONSENSE.values(), ids=NONSENSE)
def test_a_request_that_makes_no_sense_gets_400_and_one_line(target, fields):
    with Attacker(target.port) as attacker:
        attacker.write(0, headers(fields), fin=True)
        assert b"bad request" in attacker.answer().data
        assert b"hello" in attacker.ask(stream_id=4)
    (line,) = said(target)
    assert line.startswith("400 on stream 0: ")
    assert "\x1b" not in line


def test_a_host_beside_the_same_authority_is_served(target):
    with Attacker(target.port) as attacker:
        attacker.write(0, headers([*GET, (b"host", GET[2][1].upper())]), fin=True)
        assert b"hello" in attacker.answer().data


def test_a_request_with_a_host_alone_is_served(target):
    """RFC 9114 section 4.3.1: one of the two is enough."""

    @target.server.route("/host")
    async def host(request, response):
        await response.write(f"host: {request.headers.get_list('host')}")

    fields = [*GET[:2], (b":path", b"/host"), (b"x-a", b"1"), (b"host", b"a.test:1"), (b"x", b"2")]
    with Attacker(target.port) as attacker:
        attacker.write(0, headers(fields), fin=True)
        assert b"host: ['a.test:1']" in attacker.answer().data


def test_a_tunnel_is_refused(target):
    """RFC 9114 section 4.4: CONNECT names a host and nothing else."""
    with Attacker(target.port) as attacker:
        fields = [(b":method", b"CONNECT"), (b":authority", b"localhost:1")]
        attacker.write(0, headers(fields))
        incoming = attacker.answer()
        assert b"this is no proxy" in incoming.data
        assert status_of(incoming) == b"501"
        assert b"hello" in attacker.ask(stream_id=4)


def status_of(incoming):
    """The first `:status` of an answer."""
    return statuses(incoming)[0]


def statuses(incoming):
    """The `:status` of each header section of an answer."""
    buffer, found = Buffer(data=incoming.data), []
    while not buffer.eof():
        frame_type, size = buffer.pull_uint_var(), buffer.pull_uint_var()
        content = buffer.pull_bytes(size)
        if frame_type == FrameType.HEADERS:
            _, fields = pylsqpack.Decoder(0, 0).feed_header(0, content)
            found.append(dict(fields)[b":status"])
    return found


EXPECTS = (b"expect", b"100-Continue")


@pytest.fixture
def expecting(target):
    """What has answered on `/read`, which reads the body, `/no`, which does not, and `/late`."""

    @target.server.route("/read", max_body_bytes=1000)
    async def read(request, response):
        await response.write(await request.read())

    @target.server.route("/no")
    async def no(request, response):
        response.write_header(403)

    @target.server.route("/late")
    async def late(request, response):
        await response.flush()
        await response.write(await request.read())

    return target


def test_who_waits_for_100_gets_it_when_the_body_is_read(expecting):
    """RFC 9110 section 10.1.1: it waits before it sends its body."""
    with Attacker(expecting.port) as attacker:
        attacker.write(0, request(b"/read", [EXPECTS], method=b"POST"))
        attacker.until(lambda: attacker.streams[0].data)
        assert statuses(attacker.streams[0]) == [b"100"]
        attacker.write(0, data(b"body"), fin=True)
        assert statuses(attacker.answer()) == [b"100", b"200"]
        assert attacker.streams[0].data.endswith(b"body")


@pytest.mark.parametrize(
    ("path", "extra", "content", "answered"),
    [
        (b"/no", [EXPECTS], b"", b"403"),
        (b"/nowhere", [EXPECTS], b"", b"404"),
        (b"/read", [EXPECTS, (b"content-length", b"2000")], b"", b"413"),
        (b"/read", [EXPECTS], data(b"at once"), b"200"),
        (b"/late", [EXPECTS], data(b"at once"), b"200"),
        (b"/read", [], data(b"without"), b"200"),
        (b"/read", [(b"expect", b"tea")], b"", b"417"),
        (b"/read", [EXPECTS, (b"expect", b"tea")], b"", b"417"),
    ],
)
def test_nobody_else_gets_100(expecting, path, extra, content, answered):
    with Attacker(expecting.port) as attacker:
        attacker.write(0, request(path, extra, method=b"POST") + content, fin=bool(content))
        assert statuses(attacker.answer()) == [answered]


def test_who_has_a_final_answer_gets_no_100(expecting):
    with Attacker(expecting.port) as attacker:
        attacker.write(0, request(b"/late", [EXPECTS], method=b"POST"))
        attacker.until(lambda: attacker.streams[0].data)
        attacker.write(0, data(b"body"), fin=True)
        assert statuses(attacker.answer()) == [b"200"]


def test_a_client_may_say_that_it_takes_trailers(target):
    """RFC 9114 section 4.2: `te` says `trailers`, or nothing."""
    with Attacker(target.port) as attacker:
        attacker.write(0, request(b"/", [(b"te", b"trailers")]), fin=True)
        assert b"hello" in attacker.answer().data


def test_a_length_that_is_said_twice_is_compared_with_the_limit(target):
    @target.server.route("/limited", max_body_bytes=1000)
    async def limited(request, response):
        await response.write(f"{len(await request.read())} bytes")

    with Attacker(target.port) as attacker:
        four, many = [(b"content-length", b"4")] * 2, [(b"content-length", b"2000")] * 2
        attacker.write(0, request(b"/limited", four, method=b"POST") + data(b"four"), fin=True)
        assert b"4 bytes" in attacker.answer().data
        attacker.write(4, request(b"/limited", many, method=b"POST"))
        assert b"too large" in attacker.answer(4).data
    assert target.server.errors == []


def test_a_body_above_the_limit_is_one_line_and_no_traceback(target):
    @target.server.route("/limited", max_body_bytes=1000)
    async def limited(request, response):
        await request.read()

    with Attacker(target.port) as attacker:
        attacker.write(0, request(b"/limited", method=b"POST") + data(bytes(5000)))
        assert b"request body too large" in attacker.answer().data
    assert said(target) == ["413: The body of POST /limited exceeds 1000 bytes."]
    (error,) = target.server.errors
    assert isinstance(error, BodyTooLarge)
    target.server.errors.clear()


def test_a_body_above_the_limit_that_a_child_reads_is_answered_alike(target):
    """A TaskGroup raises a group of what its children raise."""

    @target.server.route("/limited", max_body_bytes=1000)
    async def limited(request, response):
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as group:
            outer.create_task(asyncio.Event().wait())
            group.create_task(request.read())

    with Attacker(target.port) as attacker:
        attacker.write(0, request(b"/limited", method=b"POST") + data(bytes(5000)))
        assert b"request body too large" in attacker.answer().data
    assert said(target) == ["413: The body of POST /limited exceeds 1000 bytes."]
    assert isinstance(target.server.errors.pop(), BaseExceptionGroup)


def test_a_body_that_breaks_off_is_one_line_and_no_error_of_the_handler(target):
    extra = [(b"content-length", b"100")]
    with Attacker(target.port) as attacker:
        attacker.write(0, request(b"/length", extra, method=b"POST") + data(b"four"), fin=True)
        assert attacker.answer().reset == ErrorCode.H3_MESSAGE_ERROR
    target.serves()  # by then the handler has ended, whose turn may come after the reset's
    assert said(target) == [
        "Before its handler began: The message on stream 0 is malformed: its content-length says "
        "100 bytes, 4 came."
    ]


class Held:
    """Something large that a handler works with."""


async def fails(request):
    large = Held()
    request.held.append(weakref.ref(large))
    raise KeyError(len(await request.read()))


async def fails_from_another(request):
    try:
        await fails(request)
    except KeyError as error:
        raise ValueError("boom") from error


async def fails_in_the_clean_up(request):
    try:
        await fails(request)
    finally:
        raise ValueError("boom") from OSError("of which the other is the context")


async def fails_in_tasks(request):
    async with asyncio.TaskGroup() as group:
        group.create_task(fails(request))
        group.create_task(fails(request))


@pytest.mark.parametrize("how", [fails, fails_from_another, fails_in_the_clean_up, fails_in_tasks])
def test_an_error_that_is_kept_keeps_no_request_alive(target, monkeypatch, how):
    # pytest keeps what is logged, with all that hangs on it.
    monkeypatch.setattr(logging.getLogger("helpers.server"), "disabled", True)
    held = []

    @target.server.route("/boom")
    async def boom(request, response):
        held.extend([weakref.ref(request), weakref.ref(response._stream)])
        request.held = held
        await how(request)

    with Attacker(target.port) as attacker:
        attacker.write(0, request(b"/boom", method=b"POST") + data(bytes(1000)), fin=True)
        assert b"internal server error" in attacker.answer().data
    target.serves()
    gc.collect()
    (error,) = target.server.errors
    target.server.errors.clear()
    assert len(held) > 2
    assert not [thing for ref in held if (thing := ref())]
    assert error.__traceback__.tb_next is not None  # it still says where


def test_a_task_that_hands_its_error_to_a_handler_goes_on(target, monkeypatch):
    monkeypatch.setattr(logging.getLogger("helpers.server"), "disabled", True)
    goes_on, ended = threading.Event(), threading.Event()
    tasks = []

    @target.server.route("/boom")
    async def boom(request, response):
        handed_over = asyncio.get_running_loop().create_future()

        async def worker():
            try:
                raise ValueError("boom")
            except ValueError as error:
                handed_over.set_exception(error)
                while not goes_on.is_set():  # noqa: ASYNC110 - set on another thread
                    await asyncio.sleep(0.01)
            ended.set()

        tasks.append(asyncio.create_task(worker()))
        await handed_over

    with Attacker(target.port) as attacker:
        attacker.write(0, request(b"/boom"), fin=True)
        assert b"internal server error" in attacker.answer().data
        target.serves()
        goes_on.set()
        assert ended.wait(30)
    target.server.errors.clear()


def stumble(*_, **__):
    raise IndexError("out of range")


def break_a_datagram(ours):
    ours.quic.receive_datagram = stumble


def break_an_event(ours):
    ours._http.handle_event = stumble


def break_the_timer(ours):
    ours.quic.handle_timer = stumble


@pytest.mark.parametrize(
    ("do_break", "what"),
    [
        (break_a_datagram, "it broke the parser"),
        (break_an_event, "it broke the parser"),
        (break_the_timer, "its timer broke"),
    ],
)
def test_what_breaks_aioquic_all_the_same_ends_its_own_connection_alone(target, do_break, what):
    """Nothing is known that does; what has come with it is dropped, and it is told once."""
    with Attacker(target.port) as attacker, Attacker(target.port) as other:
        other.ask()
        ours = target.connection_of(attacker)
        do_break(ours)
        # It is read, and acknowledged a moment later.
        attacker.frames([(0x0A, b"\x04\1x"), (0x0A, b"\x08\1x")])
        other.write(4, request(), fin=True)
        assert attacker.closes() == ErrorCode.H3_INTERNAL_ERROR
        assert b"hello" in other.answer(4).data
        other.until(lambda: ours.state is ConnectionState.CLOSED)  # its closing period is over
        assert b"hello" in other.ask(stream_id=8)
        assert ours not in target.connections
    (told,) = target.lines.alarms()
    assert told.startswith("Closing the connection with ('127.0.0.1', ")
    assert told.endswith(what)
    target.lines.records.clear()


def test_a_connection_whose_packets_cannot_be_built_is_given_up(target):
    with Attacker(target.port) as attacker:
        ours = target.connection_of(attacker)
        ours.quic.datagrams_to_send = stumble
        attacker.write(4, request(), fin=True)
        attacker.until(lambda: ours.lost is not None)
    (told,) = target.lines.alarms()
    assert told == "Giving up a connection: its packets cannot be built"
    assert ours not in target.connections
    target.lines.records.clear()
