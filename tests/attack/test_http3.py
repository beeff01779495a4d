"""HTTP/3 that breaks its rules, behind a handshake that was completed: the error code of RFC 9114
section 8.1 or RFC 9204 section 6, for the connection or for the one stream."""

import pytest
from aioquic.h3.connection import ErrorCode, FrameType, encode_frame, encode_settings
from aioquic.quic.packet import QuicFrameType

from tests.attack.tools import (
    CONTROL,
    DECODER,
    ENCODER,
    GET,
    NEXT,
    Attacker,
    data,
    headers,
    prefixed,
    request,
    varint,
)

GREASE = 0x1F * 7 + 0x21  # RFC 9114 section 7.2.8
TRAILERS = headers([(b"checksum", b"0")])
UPLOAD = request(b"/length", method=b"POST")
ANSWER = b"hello"

GET_ROOT = request()


def frame(kind, content=b""):
    return encode_frame(kind, content)


def settings(content):
    return b"\0" + frame(FrameType.SETTINGS, content)


# What is written on which stream, and the code with which the connection is closed.
CONNECTION_ERRORS = {
    "DATA first": (0, data(b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
    "DATA after trailers": (0, UPLOAD + TRAILERS + data(b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
    "HEADERS after trailers": (0, UPLOAD + TRAILERS + TRAILERS, ErrorCode.H3_FRAME_UNEXPECTED),
    "SETTINGS on a request": (0, frame(FrameType.SETTINGS), ErrorCode.H3_FRAME_UNEXPECTED),
    "GOAWAY on a request": (0, frame(FrameType.GOAWAY, b"\0"), ErrorCode.H3_FRAME_UNEXPECTED),
    "PUSH_PROMISE": (0, frame(FrameType.PUSH_PROMISE, b"\0\0\0"), ErrorCode.H3_FRAME_UNEXPECTED),
    "HTTP/2's PING": (0, GET_ROOT + frame(0x6), ErrorCode.H3_FRAME_UNEXPECTED),
    "HTTP/2's PRIORITY": (0, frame(0x2), ErrorCode.H3_FRAME_UNEXPECTED),
    "HTTP/2's WINDOW_UPDATE": (CONTROL, frame(0x8), ErrorCode.H3_FRAME_UNEXPECTED),
    "SETTINGS twice": (CONTROL, frame(FrameType.SETTINGS), ErrorCode.H3_FRAME_UNEXPECTED),
    "DATA on control": (CONTROL, data(b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
    "MAX_PUSH_ID of nothing": (CONTROL, frame(FrameType.MAX_PUSH_ID), ErrorCode.H3_FRAME_ERROR),
    "MAX_PUSH_ID that falls": (
        CONTROL,
        frame(FrameType.MAX_PUSH_ID, b"\5") + frame(FrameType.MAX_PUSH_ID, b"\4"),
        ErrorCode.H3_ID_ERROR,
    ),
    "GOAWAY of nothing": (CONTROL, frame(FrameType.GOAWAY), ErrorCode.H3_FRAME_ERROR),
    "a long GOAWAY": (CONTROL, frame(FrameType.GOAWAY, bytes(9)), ErrorCode.H3_FRAME_ERROR),
    "GOAWAY that rises": (
        CONTROL,
        frame(FrameType.GOAWAY, b"\4") + frame(FrameType.GOAWAY, b"\5"),
        ErrorCode.H3_ID_ERROR,
    ),
    "two control streams": (NEXT, settings(b""), ErrorCode.H3_STREAM_CREATION_ERROR),
    "two encoder streams": (NEXT, b"\2", ErrorCode.H3_STREAM_CREATION_ERROR),
    "two decoder streams": (NEXT, b"\3", ErrorCode.H3_STREAM_CREATION_ERROR),
    "a push from a client": (NEXT, b"\1\0", ErrorCode.H3_STREAM_CREATION_ERROR),
    "QPACK without a section": (0, frame(1), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    "QPACK without fields": (0, frame(1, b"\0\0"), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    "QPACK garbage": (0, frame(1, b"\0\0" + b"\xff" * 50), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    "QPACK's static table has 99 entries": (
        0,
        frame(1, b"\0\0" + prefixed(99, 6, 0xC0)),
        ErrorCode.QPACK_DECOMPRESSION_FAILED,
    ),
    "QPACK's table has no entry": (
        0,
        frame(1, b"\2\0\x80"),
        ErrorCode.QPACK_DECOMPRESSION_FAILED,
    ),
    "QPACK's table has no room": (
        ENCODER,
        prefixed(4096, 5, 0x20),
        ErrorCode.QPACK_ENCODER_STREAM_ERROR,
    ),
    "an encoder's garbage": (ENCODER, b"\xff" * 50, ErrorCode.QPACK_ENCODER_STREAM_ERROR),
    "a decoder's garbage": (DECODER, b"\xff" * 50, ErrorCode.QPACK_DECODER_STREAM_ERROR),
    "an acknowledgement of no section": (DECODER, b"\x80", ErrorCode.QPACK_DECODER_STREAM_ERROR),
    "insertions that were none": (DECODER, b"\1", ErrorCode.QPACK_DECODER_STREAM_ERROR),
}


@pytest.mark.parametrize(
    ("stream_id", "content", "code"), CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS
)
def test_what_breaks_the_protocol_closes_the_connection(target, stream_id, content, code):
    with Attacker(target.port) as attacker:
        attacker.write(stream_id, content)
        assert attacker.closes() == code


FIRST_ON_CONTROL = {
    "GOAWAY": (b"\0" + frame(FrameType.GOAWAY, b"\0"), ErrorCode.H3_MISSING_SETTINGS),
    "an unknown frame": (b"\0" + frame(GREASE), ErrorCode.H3_MISSING_SETTINGS),
    "half a setting": (settings(b"\6"), ErrorCode.H3_FRAME_ERROR),
    "a setting twice": (settings(b"\6\1\6\1"), ErrorCode.H3_SETTINGS_ERROR),
    "no datagram setting": (settings(b"\x33\2"), ErrorCode.H3_SETTINGS_ERROR),
} | {
    f"HTTP/2's setting {number}": (settings(bytes([number, 1])), ErrorCode.H3_SETTINGS_ERROR)
    for number in (0, 2, 3, 4, 5)
}


@pytest.mark.parametrize(("content", "code"), FIRST_ON_CONTROL.values(), ids=FIRST_ON_CONTROL)
def test_settings_come_first_and_are_well_formed(target, content, code):
    with Attacker(target.port, opens=False) as attacker:
        attacker.write(CONTROL, content)
        assert attacker.closes() == code


@pytest.mark.parametrize("stream_id", [CONTROL, ENCODER, DECODER])
@pytest.mark.parametrize("way", ["FIN", "RESET_STREAM", "STOP_SENDING"])
def test_critical_streams_stay_open(target, stream_id, way):
    with Attacker(target.port) as attacker:
        attacker.ask()
        match way:
            case "FIN":
                attacker.write(stream_id, b"", fin=True)
            case "RESET_STREAM":
                attacker.reset(stream_id)
            case "STOP_SENDING":
                attacker.stop(stream_id + 1)  # the server's own
        assert attacker.closes() == ErrorCode.H3_CLOSED_CRITICAL_STREAM


TRUNCATED = {
    "HEADERS": GET_ROOT[:-3],
    "a frame's type alone": b"\1",
    "DATA": UPLOAD + data(b"x" * 100)[:50],
    "an unknown frame": GET_ROOT + frame(GREASE, b"x" * 100)[:50],
}


@pytest.mark.parametrize("content", TRUNCATED.values(), ids=TRUNCATED)
def test_a_frame_that_its_stream_cuts_off_closes_the_connection(target, content):
    with Attacker(target.port) as attacker:
        attacker.write(0, content, fin=True)
        assert attacker.closes() == ErrorCode.H3_FRAME_ERROR


MALFORMED = {
    "an upper-case name": [*GET, (b"X-Case", b"1")],
    "a connection's own field": [*GET, (b"connection", b"close")],
    "a transfer coding": [*GET, (b"transfer-encoding", b"chunked")],
    "another TE": [*GET, (b"te", b"gzip")],
    "NUL in a value": [*GET, (b"x", b"a\0b")],
    "a line break in a value": [*GET, (b"x", b"a\r\nset-cookie: b")],
    "a space in a name": [*GET, (b"a b", b"1")],
    "a colon in a name": [*GET, (b"a:b", b"1")],
    "a path twice": [*GET, (b":path", b"/")],
    "a method twice": [GET[0], *GET],
    "a pseudo-header after fields": [*GET[:3], (b"x", b"1"), GET[3]],
    "an unknown pseudo-header": [*GET, (b":mood", b"good")],
    "a response's pseudo-header": [*GET, (b":status", b"200")],
    "no method": GET[1:],
    "no authority": [*GET[:2], GET[3]],
    "no path": GET[:3],
    "an empty path": [*GET[:3], (b":path", b"")],
    "NUL in the path": [*GET[:3], (b":path", b"/\0")],
    "a negative length": [*GET, (b"content-length", b"-1")],
    "a length in words": [*GET, (b"content-length", b"five")],
    "a list of lengths": [*GET, (b"content-length", b"0, 0")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_an_error_of_its_message(target, fields):
    with Attacker(target.port) as attacker:
        attacker.write(0, headers(fields), fin=True)
        assert attacker.closes() == ErrorCode.H3_MESSAGE_ERROR


@pytest.mark.parametrize("size_bytes", [2_000, 20_000, 60_000])
def test_a_complaint_fits_one_packet_and_one_line(target, size_bytes):
    """aioquic quotes the name, and its CONNECTION_CLOSE could not leave."""
    with Attacker(target.port) as attacker:
        attacker.write(0, headers([*GET, (b"X" * size_bytes, b"1")]), fin=True)
        assert attacker.closes() == ErrorCode.H3_MESSAGE_ERROR
    assert attacker.reason == "Header b'" + "X" * 191


def test_what_a_client_says_as_it_leaves_is_one_line(target):
    with Attacker(target.port) as attacker:
        attacker.ask()
        attacker.quic.close(0x10C, reason_phrase="\x1b[2J\nroot: " + "x" * 800)
        attacker.flush()
    target.comes_to_hold(target.before)
    (line,) = [line for line in target.lines.texts() if "root" in line]
    assert line.startswith("Connection over: The connection ended with H3_REQUEST_CANCELLED")
    assert line.endswith("[2Jroot: " + "x" * 191 + ".")


@pytest.mark.parametrize("trailer", [(b":path", b"/"), (b"X-Case", b"1"), (b"x", b"a\nb")])
def test_malformed_trailers_are_an_error_of_their_message(target, trailer):
    with Attacker(target.port) as attacker:
        attacker.write(0, UPLOAD + data(b"body") + headers([trailer]), fin=True)
        assert attacker.closes() == ErrorCode.H3_MESSAGE_ERROR


LENGTHS = {
    "too long": [b"7"],
    "too short": [b"3"],
    "with a sign": [b"+4"],
    "with an underscore": [b"0_4"],
    "below zero by nothing": [b"-0"],
    "that differ": [b"4", b"7"],
    "of a thousand digits": [b"4" * 1000],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("path", [b"/", b"/length"])
def test_a_length_that_is_none_or_wrong_is_an_error_of_its_stream(target, path, lengths):
    """No handler answers for it, whether it reads the body or not."""
    extra = [(b"content-length", length) for length in lengths]
    with Attacker(target.port) as attacker:
        attacker.write(0, request(path, extra, method=b"POST") + data(b"four"), fin=True)
        assert attacker.answer().reset == ErrorCode.H3_MESSAGE_ERROR
        assert attacker.closed is None
        assert ANSWER in attacker.ask(stream_id=4)


def test_the_same_length_twice_is_one(target):
    extra = [(b"content-length", b"4")] * 2
    with Attacker(target.port) as attacker:
        attacker.write(0, request(b"/length", extra, method=b"POST") + data(b"four"), fin=True)
        assert b"4 {}" in attacker.answer().data


def test_a_length_among_the_trailers_is_no_length(target):
    with Attacker(target.port) as attacker:
        trailers = headers([(b"content-length", b"7")])
        attacker.write(0, UPLOAD + data(b"four") + trailers, fin=True)
        assert b"4 {'content-length': '7'}" in attacker.answer().data


@pytest.mark.parametrize("content", [b"", frame(GREASE, b"x")], ids=["nothing", "unknown frames"])
def test_a_request_that_ends_before_its_header_is_reset(target, content):
    with Attacker(target.port) as attacker:
        attacker.write(0, content, fin=True)
        assert attacker.answer().reset == ErrorCode.H3_REQUEST_INCOMPLETE
        assert ANSWER in attacker.ask(stream_id=4)


# ---- what must be ignored


IGNORED = {
    "unknown frames": [(0, frame(GREASE, b"x" * 100) + UPLOAD + frame(0x7F, b"y" * 100))],
    "a long unknown frame": [(0, frame(GREASE, bytes(200_000)) + UPLOAD)],
    "an unknown stream": [(NEXT, varint(GREASE) + b"hello"), (0, UPLOAD)],
    "unknown frames on control": [(CONTROL, frame(GREASE, bytes(1000))), (0, UPLOAD)],
    "a push that was never promised": [
        (CONTROL, frame(FrameType.CANCEL_PUSH, b"\5")),
        (0, UPLOAD),
    ],
    "a stream that QPACK cancels": [(DECODER, b"\x44"), (0, UPLOAD)],
}


@pytest.mark.parametrize("writes", IGNORED.values(), ids=IGNORED)
def test_what_is_unknown_is_ignored(target, writes):
    with Attacker(target.port) as attacker:
        for stream_id, content in writes:
            attacker.write(stream_id, content, fin=stream_id == 0)
        assert b"0 {}" in attacker.answer().data


HUGE = 2**62 - 1


@pytest.mark.parametrize(
    "known", [{}, {0x1: HUGE, 0x7: HUGE}, {0x6: 0}], ids=["unknown", "QPACK", "no header"]
)
def test_settings_of_any_size_are_taken(target, known):
    with Attacker(target.port, opens=False) as attacker:
        attacker.write(CONTROL, settings(encode_settings({GREASE: HUGE, 0x4141: 7} | known)))
        assert ANSWER in attacker.ask()


# ---- header sections

VALUE = b"v" * 10_000


def many(count):
    return [(b"x-%d" % number, VALUE) for number in range(count)]


@pytest.mark.parametrize(("count", "is_over"), [(10, True), (200, True), (200, False)])
def test_a_header_above_64_kib_gets_431(target, count, is_over):
    with Attacker(target.port) as attacker:
        attacker.write(0, request(extra=many(count)), fin=is_over)
        assert b"431" in attacker.answer().data
        if not is_over:
            assert attacker.streams[0].stopped == ErrorCode.H3_EXCESSIVE_LOAD
        assert ANSWER in attacker.ask(stream_id=4)


def test_a_header_that_is_refused_is_told_in_one_line(target):
    with Attacker(target.port) as attacker:
        attacker.write(0, request(extra=many(10)))
        attacker.answer()
    assert target.lines.texts("helpers.connection") == [
        "431: The message on stream 0 is malformed: its header section has more than 65536 bytes."
    ]


def test_a_header_that_is_too_large_for_somebody_who_does_not_want_the_answer(target):
    with Attacker(target.port) as attacker:
        attacker.stop(0)
        attacker.write(0, request(extra=many(10)))
        assert attacker.answer().reset == 0x10C
        assert ANSWER in attacker.ask(stream_id=4)


@pytest.mark.parametrize("count", [10, 200])
def test_trailers_above_64_kib_are_an_error_of_their_stream(target, count):
    with Attacker(target.port) as attacker:
        attacker.write(0, UPLOAD + data(b"body") + headers(many(count)))
        assert attacker.answer().reset == ErrorCode.H3_MESSAGE_ERROR
        assert attacker.streams[0].stopped == ErrorCode.H3_EXCESSIVE_LOAD
        assert ANSWER in attacker.ask(stream_id=4)


@pytest.mark.parametrize("end", ["FIN", "RESET_STREAM"])
def test_a_refused_stream_is_forgotten_when_it_ends(target, end):
    with Attacker(target.port) as attacker:
        attacker.write(0, request(extra=many(10))[:30])
        attacker.quic._streams[0].sender.reset = lambda error_code: None  # deaf to STOP_SENDING
        assert b"431" in attacker.answer().data
        [ours] = [one for one in target.connections if one._refused]
        attacker.write(0, b"more")
        attacker.ask(stream_id=4)
        assert ours._refused == {0}
        if end == "FIN":
            attacker.write(0, b"", fin=True)
        else:
            attacker.frame(QuicFrameType.RESET_STREAM, b"\0\0" + varint(34))
        attacker.ask(stream_id=8)
        assert ours._refused == set()


STATIC = 56  # strict-transport-security: max-age=31536000; includesubdomains; preload


@pytest.mark.parametrize("where", ["header", "trailers"])
def test_a_small_section_that_grows_is_refused_before_it_costs_much(target, where):
    bomb = frame(FrameType.HEADERS, b"\0\0" + prefixed(STATIC, 6, 0xC0) * 60_000)
    with Attacker(target.port) as attacker:
        attacker.write(0, bomb if where == "header" else UPLOAD + bomb, fin=True)
        incoming = attacker.answer()
    if where == "header":
        assert b"431" in incoming.data
    else:
        assert incoming.reset == ErrorCode.H3_MESSAGE_ERROR


def test_nobody_announces_a_dynamic_table(target):
    with Attacker(target.port) as attacker:
        attacker.ask()
        announced = attacker.streams[3].data
    kept = encode_settings({0x1: 0, 0x7: 0})
    assert kept[:2] in announced
    assert kept[2:] in announced


# ---- datagrams


def test_datagrams_for_nobody_are_dropped(target):
    with Attacker(target.port) as attacker:
        for stream in (0, 77, HUGE):
            attacker.quic.send_datagram_frame(varint(stream) + b"for nobody")
        assert ANSWER in attacker.ask()


def test_a_datagram_for_no_stream_closes_the_connection(target):
    with Attacker(target.port) as attacker:
        attacker.frame(QuicFrameType.DATAGRAM_WITH_LENGTH, b"\0")
        assert attacker.closes() == ErrorCode.H3_DATAGRAM_ERROR
