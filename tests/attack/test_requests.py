"""Requests that are well-formed HTTP/3 and still make no sense, and what handlers suffer from."""

import asyncio
import gc
import logging
import threading
import weakref

import pytest
from aioquic.h3.connection import ErrorCode

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


NONSENSE = {
    "a method with a space": [(b":method", b"GET /"), *GET[1:]],
    "a method that moves a terminal's cursor": [(b":method", b"\x1b[2J"), *GET[1:]],
    "no method's name": [(b":method", b""), *GET[1:]],
    "a method that is no ASCII": [(b":method", "é".encode()), *GET[1:]],
    "no scheme": [GET[0], *GET[2:]],
    "CONNECT without a path": [(b":method", b"CONNECT"), (b":authority", b"localhost:1")],
    "an authority that is no text": [*GET[:2], (b":authority", b"\xff"), GET[3]],
    "a host that is not the authority": [*GET, (b"host", b"other.test")],
    "two hosts, one of them the authority": [*GET, (b"host", GET[2][1]), (b"host", b"other.test")],
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
