"""Servers that break the rules, before our client: it says so in httpx2's words and goes on."""

import logging
import time

import httpx2
import pytest
from aioquic.h3.connection import ErrorCode, FrameType, encode_frame
from aioquic.h3.events import HeadersReceived

from helpers.client import HTTP3Transport
from tests.attack.conftest import AT_ONCE_S, Lines
from tests.attack.tools import WAIT_S, data, headers, prefixed, section, varint
from tests.interop.scripted import scripted_server

GREASE = 0x1F * 7 + 0x21
# The streams of a server: control and QPACK's two, the next one, and one that it may not open.
CONTROL, NEXT, BOTH_WAYS = 3, 15, 1


def header(*fields, status=b"200"):
    return headers([(b":status", status), *fields])


def frame(kind, content=b""):
    return encode_frame(kind, content)


OK = header()
EARLY = header(status=b"103")
LARGE = header(*((b"x-%d" % number, bytes(10_000).hex().encode()) for number in range(4)))
REQUEST = section(
    [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/")]
)
FIN = object()


def answers(*parts):
    """Answer /bad with parts: bytes for its stream, FIN, pairs for other streams, or what to do."""

    def answer(connection, event):
        if not isinstance(event, HeadersReceived):
            return
        stream_id, quic = event.stream_id, connection.quic
        if dict(event.headers)[b":path"] != b"/bad":
            connection.respond(stream_id, 200, b"fine")
            return
        for part in parts:
            if part is FIN:
                quic.send_stream_data(stream_id, b"", end_stream=True)
            elif isinstance(part, bytes):
                quic.send_stream_data(stream_id, part)
            elif isinstance(part, tuple):
                quic.send_stream_data(*part)
            else:
                part(quic, stream_id)

    return answer


def reset(quic, stream_id):
    quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)


def stop(quic, stream_id):
    quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)


def close(quic, stream_id):
    quic.close(error_code=ErrorCode.H3_INTERNAL_ERROR, reason_phrase="out of coffee")


def send_datagrams(quic, stream_id):
    for quarter_id in (0, 1, 77, 2**60):
        quic.send_datagram_frame(varint(quarter_id) + b"for nobody")


@pytest.fixture
def bad(credentials, caplog):
    """Asks such a server for /bad and returns what came of it, once it has answered another."""
    caplog.set_level(logging.INFO, "helpers")
    lines = Lines()
    logging.getLogger().addHandler(lines)

    def ask(*parts, read_timeout_s=WAIT_S):
        files = (credentials.cert_file, credentials.key_file)
        transport = HTTP3Transport(ca_file=credentials.ca_file)
        with (
            scripted_server(*files, answers(*parts)) as port,
            httpx2.Client(transport=transport, timeout=read_timeout_s) as client,
        ):
            url = f"https://127.0.0.1:{port}"
            started = time.perf_counter()
            try:
                outcome = client.get(f"{url}/bad")
            except httpx2.HTTPError as error:
                outcome = error
            took_s = time.perf_counter() - started
            assert client.get(f"{url}/good", timeout=WAIT_S).text == "fine"
        assert took_s < AT_ONCE_S
        return outcome

    yield ask
    logging.getLogger().removeHandler(lines)
    assert lines.alarms() == []


REFUSED = {
    "QPACK garbage": ([frame(1, b"\0\0" + b"\xff" * 40), FIN], "QPACK_DECOMPRESSION_FAILED"),
    "no status": ([headers([(b"x", b"1")]), FIN], "H3_MESSAGE_ERROR"),
    "a status in words": ([header(status=b"fine"), FIN], "H3_MESSAGE_ERROR"),
    "status 101": ([header(status=b"101"), FIN], "H3_MESSAGE_ERROR"),
    "an upper-case name": ([header((b"X-Case", b"1")), FIN], "H3_MESSAGE_ERROR"),
    "a name longer than a packet": ([headers([(b"X" * 20_000, b"1")]), FIN], "H3_MESSAGE_ERROR"),
    "a line break": ([header((b"x", b"a\r\nb")), FIN], "H3_MESSAGE_ERROR"),
    "a status among the trailers": ([OK, data(b"x"), OK, FIN], "H3_MESSAGE_ERROR"),
    "an interim response alone": ([EARLY, FIN], "H3_MESSAGE_ERROR"),
    "DATA first": ([data(b"x"), FIN], "H3_FRAME_UNEXPECTED"),
    "SETTINGS twice": ([(CONTROL, frame(FrameType.SETTINGS))], "H3_FRAME_UNEXPECTED"),
    "half a frame": ([OK, data(b"x" * 100)[:50], FIN], "H3_FRAME_ERROR"),
    "a push that is not allowed": ([frame(5, b"\x3f" + REQUEST)], "H3_ID_ERROR"),
    "no control stream": ([(CONTROL, b"", True)], "H3_CLOSED_CRITICAL_STREAM"),
    "GOAWAY that rises": (
        [(CONTROL, frame(FrameType.GOAWAY, b"\4") + frame(FrameType.GOAWAY, b"\x08"))],
        "H3_ID_ERROR (0x108): GOAWAY names 8 after 4",
    ),
    "GOAWAY for no request": ([(CONTROL, frame(FrameType.GOAWAY, b"\5"))], "H3_ID_ERROR (0x108)"),
    "GOAWAY of two numbers": ([(CONTROL, frame(FrameType.GOAWAY, b"\4\4"))], "H3_FRAME_ERROR"),
    "the server's own reason": ([close], "H3_INTERNAL_ERROR (0x102): out of coffee"),
}


@pytest.mark.parametrize(("parts", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_the_connection_is_a_read_error(bad, parts, reason):
    error = bad(*parts)
    assert isinstance(error, httpx2.ReadError)
    assert str(error).startswith("The connection was lost ")
    assert f" The connection ended with {reason}" in str(error)


BEFORE = "before the response began."
LIMIT = "has more than 65536 bytes. That was"
BROKEN = {
    "nothing": ([FIN], f"H3_REQUEST_INCOMPLETE (0x10d) {BEFORE}"),
    "unknown frames alone": ([frame(GREASE, bytes(1000)), FIN], f"(0x10d) {BEFORE}"),
    "a reset": ([reset], f"H3_REQUEST_CANCELLED (0x10c) {BEFORE}"),
    "a reset after some": ([OK, data(b"four"), reset], "H3_REQUEST_CANCELLED (0x10c) "),
    "a short body": ([header((b"content-length", b"10")), data(b"four"), FIN], "10 bytes, 4 came"),
    "a long body": ([header((b"content-length", b"2")), data(b"four"), FIN], "2 bytes, 4 came"),
    "a length with a sign": (
        [header((b"content-length", b"+4")), data(b"four"), FIN],
        f"its content-length is not one number of bytes. That was {BEFORE}",
    ),
    "two lengths": (
        [header((b"content-length", b"4"), (b"content-length", b"5")), data(b"four"), FIN],
        "its content-length is not one number of bytes",
    ),
    "a large header": ([LARGE, FIN], f"its header section {LIMIT} {BEFORE}"),
    "a large header that never ends": ([LARGE[:1000]], f"its header section {LIMIT} {BEFORE}"),
    "a header that grows": (
        [frame(1, b"\0\0" + prefixed(56, 6, 0xC0) * 60_000)],
        f"its header section {LIMIT} {BEFORE}",
    ),
    "large trailers": ([OK, data(b"four"), LARGE], f"its trailer section {LIMIT}"),
}


@pytest.mark.parametrize(("parts", "message"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_message_is_a_remote_protocol_error(bad, parts, message):
    error = bad(*parts)
    assert isinstance(error, httpx2.RemoteProtocolError)
    assert message in str(error)


SLOW = {
    "silence": [],
    "half a header": [header((b"x", bytes(1000).hex().encode()))[:500]],
    "interim responses without end": [EARLY] * 3000,
    "half a body": [OK, data(bytes(1000))[:500]],
}


@pytest.mark.parametrize("parts", SLOW.values(), ids=SLOW)
def test_what_never_ends_is_a_read_timeout(bad, parts):
    error = bad(*parts, read_timeout_s=0.3)
    assert isinstance(error, httpx2.ReadTimeout)
    assert str(error) == "The read operation timed out"


def test_what_is_no_gzip_is_a_decoding_error(bad):
    error = bad(header((b"content-encoding", b"gzip")), data(b"no gzip"), FIN)
    assert isinstance(error, httpx2.DecodingError)
    assert "incorrect header check" in str(error)


REST = [OK, data(b"fine"), FIN]
HARMLESS = {
    "unknown frames": [
        frame(GREASE, bytes(100_000)),
        OK,
        frame(GREASE, bytes(100_000)),
        data(b"fine"),
        frame(GREASE, bytes(100_000)),
        FIN,
    ],
    "unknown streams": [*((NEXT + 4 * n, varint(GREASE) + b"x", True) for n in range(50)), *REST],
    "3,000 interim responses": [*[EARLY] * 3000, *REST],
    "a push": [frame(5, b"\0" + REQUEST), (NEXT, b"\1\0" + OK + data(bytes(9000)), True), *REST],
    "a stream of the server's own": [(BOTH_WAYS, OK + data(b"x")), *REST],
    "GOAWAY": [(CONTROL, frame(FrameType.GOAWAY, b"\4")), *REST],
    "an upload that is not wanted": [stop, *REST],
    "datagrams for nobody": [send_datagrams, *REST],
    "a value that is no text": [header((b"x", b"\xff\xfe")), data(b"fine"), FIN],
}


@pytest.mark.parametrize("parts", HARMLESS.values(), ids=HARMLESS)
def test_what_is_odd_and_allowed_is_read(bad, parts):
    response = bad(*parts)
    assert (response.status_code, response.text) == (200, "fine")
