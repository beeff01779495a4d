"""QUIC that breaks its rules, behind a handshake that was completed: the error code of RFC 9000
section 20.1."""

import contextlib
import socket
import time

import pytest
from aioquic.h3.connection import ErrorCode
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from helpers.connection.aioquic_inside import STREAM_WINDOW_BYTES, quic
from helpers.connection.aioquic_inside.quic import MAX_UNIDIRECTIONAL_STREAMS
from helpers.stream.halves import MAX_WAITING_DATAGRAM_BYTES
from tests.attack.conftest import AT_ONCE_S
from tests.attack.tools import GET, WAIT_S, Attacker, headers, request, varint

STREAM = QuicFrameType.STREAM_BASE | 6  # with an offset and a length
STREAM_FIN = STREAM | 1
HUGE = 2**62 - 1


def piece(stream_id, offset, content=b"x"):
    """A STREAM frame without its type."""
    return varint(stream_id) + varint(offset) + varint(len(content)) + content


# Stream 0 has been asked and answered by then, and may be forgotten: what comes there is ignored.
BROKEN = {
    "a stream above the limit": (STREAM, piece(4 * 200, 0), QuicErrorCode.STREAM_LIMIT_ERROR),
    "a stream far above it": (STREAM, piece(4 * 2**50, 0), QuicErrorCode.STREAM_LIMIT_ERROR),
    "a stream for nobody too many": (
        STREAM,
        piece(2 + 4 * MAX_UNIDIRECTIONAL_STREAMS, 0),
        QuicErrorCode.STREAM_LIMIT_ERROR,
    ),
    "the server's own stream": (STREAM, piece(1, 0), QuicErrorCode.STREAM_STATE_ERROR),
    "the server's stream in one direction": (
        STREAM,
        piece(3, 0),
        QuicErrorCode.STREAM_STATE_ERROR,
    ),
    "data beyond the stream's window": (
        STREAM,
        piece(4, STREAM_WINDOW_BYTES),
        QuicErrorCode.FLOW_CONTROL_ERROR,
    ),
    "data beyond all windows": (STREAM, piece(4, HUGE - 1), QuicErrorCode.FLOW_CONTROL_ERROR),
    "an end before what has come": (STREAM_FIN, piece(2, 0, b""), QuicErrorCode.FINAL_SIZE_ERROR),
    "more streams than there can be": (
        QuicFrameType.MAX_STREAMS_BIDI,
        varint(2**61),
        QuicErrorCode.FRAME_ENCODING_ERROR,
    ),
    "a frame that does not exist": (0x3F, b"", QuicErrorCode.FRAME_ENCODING_ERROR),
    "half a frame": (STREAM, b"\0", QuicErrorCode.FRAME_ENCODING_ERROR),
    "the server's HANDSHAKE_DONE": (
        QuicFrameType.HANDSHAKE_DONE,
        b"",
        QuicErrorCode.PROTOCOL_VIOLATION,
    ),
    "the server's NEW_TOKEN": (
        QuicFrameType.NEW_TOKEN,
        b"\1x",
        QuicErrorCode.PROTOCOL_VIOLATION,
    ),
    "a connection ID that was never issued": (
        QuicFrameType.RETIRE_CONNECTION_ID,
        varint(99),
        QuicErrorCode.PROTOCOL_VIOLATION,
    ),
    "an ID that retires what comes after it": (
        QuicFrameType.NEW_CONNECTION_ID,
        varint(1) + varint(2) + b"\x08" + bytes(8 + 16),
        QuicErrorCode.PROTOCOL_VIOLATION,
    ),
    "TLS far ahead": (
        QuicFrameType.CRYPTO,
        varint(64 * 1024) + b"\1x",
        QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
    ),
    "TLS garbage": (QuicFrameType.CRYPTO, b"\0\4\x18\0\0\0", QuicErrorCode.CRYPTO_ERROR + 10),
}


@pytest.mark.parametrize(("frame_type", "content", "code"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_transport_closes_the_connection(target, frame_type, content, code):
    with Attacker(target.port) as attacker:
        attacker.ask()
        attacker.frame(frame_type, content)
        assert attacker.closes() == code


def test_an_acknowledgement_of_what_was_never_sent_is_ignored(target):
    with Attacker(target.port) as attacker:
        attacker.frame(QuicFrameType.ACK, varint(HUGE) + b"\0\0\0")
        assert b"hello" in attacker.ask()


def test_a_connection_that_was_closed_is_one_line(target):
    """Once its closing period is over; with the code and the reason, and no traceback."""
    with Attacker(target.port) as attacker:
        attacker.write(0, headers([*GET, (b"X-Case", b"1")]), fin=True)
        attacker.closes()
    deadline = time.monotonic() + WAIT_S
    while not (lines := [line for line in target.lines.texts() if "X-Case" in line]):
        assert time.monotonic() < deadline
        target.serves()
    assert lines == [
        "Connection over: The connection ended with H3_MESSAGE_ERROR (0x10e): Header b'X-Case' "
        "contains invalid characters."
    ]


# ---- what costs more than it may


@pytest.mark.parametrize("frame_type", [STREAM, QuicFrameType.CRYPTO], ids=["stream", "handshake"])
def test_data_in_crumbs_closes_the_connection(target, frame_type):
    """Each second byte of a stream, so that aioquic keeps a range for each."""
    with Attacker(target.port) as attacker:
        attacker.ask()
        start = 2 if frame_type == STREAM else 1000
        for first in range(start, start + 2 * 3000, 2 * 200):
            crumbs = [piece(4, offset) for offset in range(first, first + 2 * 200, 2)]
            if frame_type == QuicFrameType.CRYPTO:
                crumbs = [crumb[1:] for crumb in crumbs]
            attacker.frames([(frame_type, crumb) for crumb in crumbs])
        assert attacker.closes() == ErrorCode.H3_EXCESSIVE_LOAD
    assert attacker.reason == "more than 1000 pieces wait for an earlier one"


def test_a_peer_that_acknowledges_nothing_is_not_kept_for_ever(target, monkeypatch):
    monkeypatch.setattr(quic, "MAX_UNACKNOWLEDGED_PACKETS", 50)
    with Attacker(target.port) as attacker:
        ours = target.connection_of(attacker)
        for _ in range(200):
            attacker.frame(QuicFrameType.PING, bytes(1100))
            target.serves()
            if ours.lost is not None:
                break
        assert ours.lost.code == ErrorCode.H3_EXCESSIVE_LOAD
        assert ours.lost.reason == "more than 50 packets are not acknowledged"


def test_datagrams_that_nobody_fetches_are_few_and_small(target):
    """Nothing slows a sender of datagrams down, so the oldest are dropped."""
    with Attacker(target.port) as attacker:
        ours = target.connection_of(attacker)
        attacker.write(4, request(b"/open"), fin=True)
        attacker.until(lambda: attacker.streams[4].data)
        content = varint(1) + bytes(60_000)
        for _ in range(10):
            attacker.frame(QuicFrameType.DATAGRAM_WITH_LENGTH, varint(len(content)) + content)
            target.serves()
        assert len(ours.streams[4].receiving._datagrams) == MAX_WAITING_DATAGRAM_BYTES // 60_000


def test_a_packet_that_comes_by_the_servers_other_socket_harms_nobody(target):
    """It is lost, and its connection goes on where it began."""
    with Attacker(target.port) as attacker:
        attacker.quic.send_ping(1)
        packets = [data for data, _ in attacker.quic.datagrams_to_send(now=time.monotonic())]
        # A machine without IPv6 has no other socket, and nothing to show.
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
            for packet in packets:
                six.sendto(packet, ("::1", target.port))
        assert target.serves() < AT_ONCE_S
        assert b"hello" in attacker.ask()
    assert target.serves() < AT_ONCE_S
