"""Slow readers slow down fast writers: the only file that touches aioquic's private attributes.

QUIC gives every stream a receive window (RFC 9000 section 4): the reader says up to which offset it
accepts data (MAX_STREAM_DATA), the writer stops there. Backpressure end to end needs two things
that aioquic 1.7.2 has no public way for:

1. The window must follow what the application has READ. aioquic doubles it as soon as half of it
   has ARRIVED, so a reader that sleeps ends up with everything in memory. `FlowControl` grants
   anew instead: what was read, plus one window.
2. A writer must know how much of its data is still unacknowledged, in order to wait.

Smaller needs live here for the same reason: why a connection is closing, what a hostile peer may
cost, the certificate of a failed handshake, the size of datagrams, HTTP/3's own stream table and
limits. tests/test_flow_control.py fails when aioquic changes under any of them.
"""

import ipaddress
from collections.abc import Callable

import pylsqpack
from aioquic.buffer import Buffer, size_uint_var
from aioquic.h3 import connection as h3
from aioquic.h3.connection import FrameType, H3Connection, H3Stream, HeadersState, Setting
from aioquic.h3.events import H3Event
from aioquic.quic import connection as quic_connection
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType, pull_quic_transport_parameters
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch, ExtensionType
from cryptography.x509 import Certificate

from helpers.errors import HeaderTooLarge, in_one_line
from helpers.stream import Fields, section_bytes

AIOQUIC_VERSION = "1.7.2"

# How far a peer may send ahead of what the application has read, per stream.
STREAM_WINDOW_BYTES = 512 * 1024
# HTTP/3 has three of them (RFC 9114 section 6.2); each may hold a window, for nobody.
MAX_UNIDIRECTIONAL_STREAMS = 16
# The same for the whole connection at its start. aioquic raises it with what arrives; the stream
# windows bound the memory, so one stalled stream never holds up its siblings.
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
# A writer waits while more than this is unacknowledged on its stream.
UNACKNOWLEDGED_LIMIT_BYTES = 256 * 1024
# RFC 9114 section 4.2.2: announced to the peer, enforced by HTTP3Layer.
MAX_HEADER_BYTES = 64 * 1024
# Loopback has no 1500-byte links. 16383 is the most that the length field of aioquic's STREAM
# frame holds (quic/connection.py, _write_stream_frame: push_uint16(length | 0x4000)).
LOOPBACK_DATAGRAM_BYTES = 16000
DEFAULT_MAX_UDP_PAYLOAD_BYTES = 65527  # RFC 9000 section 18.2, where the peer announces none
SHORT_HEADER_BYTES = 3  # without the connection ID: first byte and packet number
MAX_STREAM_DATA_FRAME_BYTES = 1 + 8 + 8
# Pieces that wait for an earlier one: aioquic takes 1.5 s over 8,000 in one datagram. Where packets
# are lost, a window has some 200.
MAX_WAITING_PIECES = 1000
MAX_UNACKNOWLEDGED_PACKETS = 50_000  # 36 MB of them
LOAD_CHECK_BYTES = 16 * 1024  # after each so many, what a peer costs is looked at
# How far a handshake may run ahead of a gap: with aioquic's 512 KiB a stranger's one datagram costs
# 630 KB (aioquic 1.7.2 quic/connection.py 2006).
quic_connection.MAX_PENDING_CRYPTO = 64 * 1024


class FlowControl:
    """Receive windows that follow the reader, and bytes in flight, of one QUIC connection.

    `unread_bytes(stream_id)` tells what has arrived and was not read yet. All methods are called
    on the connection's loop.
    """

    def __init__(self, quic: QuicConnection, unread_bytes: Callable[[int], int]) -> None:
        self._quic = quic
        self._unread_bytes = unread_bytes
        # aioquic 1.7.2 quic/connection.py 333
        limit = quic._local_max_streams_uni
        limit.value = limit.sent = MAX_UNIDIRECTIONAL_STREAMS
        # aioquic 1.7.2 quic/connection.py 4229: called for each stream as a packet is written, it
        # doubles max_stream_data_local and writes the frame. Ours replaces both.
        quic._write_stream_limits = self._write_stream_limits

    def unacknowledged_bytes(self, stream_id: int) -> int:
        """Return how many bytes written to the stream the peer has not acknowledged yet."""
        # aioquic 1.7.2 quic/stream.py 202-203: the sender's buffer holds what is not acknowledged.
        stream = self._quic._streams.get(stream_id)
        return stream.sender._buffer_stop - stream.sender._buffer_start if stream else 0

    def has_unacknowledged_data(self) -> bool:
        """Return whether any request stream has data or a FIN that the peer has not acknowledged.

        The streams of HTTP/3 itself (control, QPACK) do not count: nobody waits for them.
        """
        return any(
            stream.sender._buffer_stop > stream.sender._buffer_start
            or (stream.sender._buffer_fin is not None and not stream.sender.is_finished)
            for stream_id, stream in self._quic._streams.items()
            if stream_id % 4 == 0 and stream.sender._reset_error_code is None
        )

    def is_stopped(self, stream_id: int) -> bool:
        """Return whether the peer wants nothing of this stream any more (STOP_SENDING)."""
        # aioquic 1.7.2 quic/connection.py 2605: it resets the sender as soon as the frame comes.
        stream = self._quic._streams.get(stream_id)
        return stream is None or stream.sender._reset_error_code is not None

    def grant_due(self, stream_id: int) -> bool:
        """Return whether the reader has read so much that the peer should hear of it."""
        stream = self._quic._streams.get(stream_id)
        return stream is not None and self._next_limit(stream) > stream.max_stream_data_local

    def _next_limit(self, stream: QuicStream) -> int:
        arrived = stream.receiver.starting_offset()
        # Asked for every open stream with every packet: mostly not even what arrived is enough.
        if arrived + STREAM_WINDOW_BYTES // 2 < stream.max_stream_data_local:
            return stream.max_stream_data_local
        read_up_to = arrived - self._unread_bytes(stream.stream_id)
        limit = read_up_to + STREAM_WINDOW_BYTES
        # In steps of half a window, or every packet would carry a grant.
        if limit - stream.max_stream_data_local < STREAM_WINDOW_BYTES // 2:
            return stream.max_stream_data_local
        return limit

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: object, stream: QuicStream
    ) -> None:
        # A stream of our own in one direction has no receive side: its limit is 0 and stays so.
        if not stream.max_stream_data_local or stream.receiver.is_finished:
            return
        stream.max_stream_data_local = self._next_limit(stream)
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        frame = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_BYTES,
            handler=self._quic._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        frame.push_uint_var(stream.stream_id)
        frame.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local
        if self._quic._quic_logger is not None:
            builder.quic_logger_frames.append(
                self._quic._quic_logger.encode_max_stream_data_frame(
                    maximum=stream.max_stream_data_local, stream_id=stream.stream_id
                )
            )


def close_event(quic: QuicConnection) -> ConnectionTerminated | None:
    """Return why the connection is closing, as soon as that is known; None while it is not.

    aioquic's public event comes when the draining period is over (RFC 9000 section 10.2), three
    probe timeouts later; a handler should know at once.
    """
    event = quic._close_event  # aioquic 1.7.2 quic/connection.py 295
    if event is not None:
        # aioquic quotes what it complains of; a reason longer than one packet would never leave.
        event.reason_phrase = in_one_line(event.reason_phrase)
    return event


def limit_load(quic: QuicConnection) -> None:
    """Close the connection where its peer costs more than it may (H3_EXCESSIVE_LOAD)."""
    excess = _excess(quic)
    if excess is not None:
        quic.close(h3.ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase=excess)


def _excess(quic: QuicConnection) -> str | None:
    # aioquic 1.7.2 quic/stream.py 38, quic/recovery.py 75
    for stream in (*quic._streams.values(), *quic._crypto_streams.values()):
        if len(stream.receiver._ranges) > MAX_WAITING_PIECES:
            return f"more than {MAX_WAITING_PIECES} pieces wait for an earlier one"
    for space in quic._spaces.values():
        if len(space.sent_packets) > MAX_UNACKNOWLEDGED_PACKETS:
            return f"more than {MAX_UNACKNOWLEDGED_PACKETS} packets are not acknowledged"
    return None


def acknowledge_now(quic: QuicConnection) -> None:
    """Let the next packet carry the acknowledgement that aioquic would send on its own 1 ms later.

    Called when data is about to leave anyway: a request and its response then take one packet each,
    not two.
    """
    space = quic._spaces.get(Epoch.ONE_RTT)  # aioquic 1.7.2 quic/recovery.py 62: ack_at
    if space is not None and space.ack_at is not None:
        space.ack_at = 0.0


def peer_certificate(quic: QuicConnection) -> Certificate | None:
    """Return the certificate that the peer presented, also when the handshake then failed."""
    tls = getattr(quic, "tls", None)  # missing until the first packet is made
    return tls._peer_certificate if tls is not None else None  # aioquic 1.7.2 tls.py 1362


def raise_datagram_size(quic: QuicConnection, max_send_bytes: int) -> None:
    """Let datagrams grow to 16000 bytes, after the handshake and on loopback only.

    Python pays per packet, so this is worth a factor of five there. Never more than the socket
    sends or the peer announced as max_udp_payload_size (RFC 9000 section 18.2), and never towards
    another machine, where it would need path MTU discovery (RFC 9000 section 14.3).
    """
    address = quic.get_peer_address()
    if address is None or not ipaddress.ip_address(address[0].split("%")[0]).is_loopback:
        return
    size_bytes = min(LOOPBACK_DATAGRAM_BYTES, max_send_bytes, _peer_max_udp_payload_bytes(quic))
    if size_bytes > quic._max_datagram_size:
        quic._max_datagram_size = size_bytes  # aioquic 1.7.2 quic/connection.py 339
        quic._loss._pacer._max_datagram_size = size_bytes  # quic/recovery.py 86
        quic._loss._cc._max_datagram_size = size_bytes  # quic/congestion/reno.py 22
        # RFC 9002 section 7.2: the first window is two datagrams at least. In less than one, an
        # HTTP datagram of full size would wait for ever.
        window = quic._loss._cc.congestion_window
        quic._loss._cc.congestion_window = max(window, 2 * size_bytes)


def forget_handshake(quic: QuicConnection) -> None:
    """Drop the buffers that the finished handshake was written into, 16 KiB for each connection."""
    for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE):
        quic._crypto_buffers.pop(epoch, None)  # aioquic 1.7.2 quic/connection.py 1883


def _peer_max_udp_payload_bytes(quic: QuicConnection) -> int:
    # aioquic 1.7.2 checks this parameter and forgets it (quic/connection.py 3272): read it again.
    for extension, data in quic.tls.received_extensions or []:
        if extension == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
            announced = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
            return announced if announced is not None else DEFAULT_MAX_UDP_PAYLOAD_BYTES
    return 0


def max_datagram_payload_bytes(quic: QuicConnection, stream_id: int) -> int:
    """Return the longest payload of one HTTP datagram (RFC 9297) now; 0 where none may be sent.

    A longer one would stay at the head of aioquic's queue for ever (quic/connection.py 3731).
    """
    peer_limit = quic._remote_max_datagram_frame_size or 0  # aioquic 1.7.2 quic/connection.py 357
    packet_overhead = SHORT_HEADER_BYTES + len(quic._peer_cid.cid) + 16  # AEAD tag
    frame_bytes = min(peer_limit, quic._max_datagram_size - packet_overhead)
    frame_overhead = 1 + size_uint_var(frame_bytes) + size_uint_var(stream_id // 4)
    return max(0, frame_bytes - frame_overhead)


def stream_available(quic: QuicConnection) -> bool:
    """Return whether the peer allows one more request stream now (RFC 9000 section 4.6).

    aioquic queues streams above the limit silently, and then sends a RESET_STREAM for a queued one,
    for which the peer closes the connection; so a client waits instead of queueing.
    """
    # aioquic 1.7.2 quic/connection.py 366
    return quic.get_next_available_stream_id() // 4 < quic._remote_max_streams_bidi


class HTTP3Layer(H3Connection):
    """aioquic's HTTP/3 layer with what RFC 9114 asks for and aioquic 1.7.2 leaves out."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        # With a dynamic table (RFC 9204 section 3.2) each byte of a header section may stand for 4
        # KiB: 60 KB cost a server 240 MB and 13 s. quic-go has none either.
        self._decoder = pylsqpack.Decoder(0, 0)

    def _get_local_settings(self) -> dict[int, int]:
        # aioquic 1.7.2 h3/connection.py: announces H3_DATAGRAM only together with WebTransport.
        return super()._get_local_settings() | {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: MAX_HEADER_BYTES,
            Setting.H3_DATAGRAM: 1,
        }

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        # Called when type and length of a frame are known, before the rest has come.
        super()._check_request_or_push_frame_type(frame_type, stream)
        if frame_type == FrameType.HEADERS and stream.frame_size > MAX_HEADER_BYTES:
            raise self._too_large(stream.stream_id)

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Fields:
        # Before aioquic validates each byte of it, in Python: there may be 70 for each that came.
        fields = super()._decode_headers(stream_id, frame_data)
        if section_bytes(fields) > MAX_HEADER_BYTES:
            raise self._too_large(stream_id)
        return fields

    def _too_large(self, stream_id: int) -> HeaderTooLarge:
        is_trailer = self._stream[stream_id].headers_recv_state is not HeadersState.INITIAL
        return HeaderTooLarge(stream_id, MAX_HEADER_BYTES, is_trailer)

    def _receive_stream_data_uni(self, stream: H3Stream, data: bytes, fin: bool) -> list[H3Event]:
        events = super()._receive_stream_data_uni(stream, data, fin)
        qpack = (h3.StreamType.QPACK_ENCODER, h3.StreamType.QPACK_DECODER)
        if fin and stream.stream_type in qpack:  # RFC 9204 section 4.2
            raise h3.ClosedCriticalStream("Closing a QPACK stream is not allowed")
        return events

    def _check_content_length(self, stream: H3Stream) -> None:
        # aioquic closes the whole connection on a mismatch, and on every HEAD and 304, whose
        # content-length describes a body that is not sent. RFC 9114 section 4.1.2 asks for an
        # error of the stream; connection.py, which knows method and status, checks it there.
        pass

    def finish(self, stream_id: int) -> None:
        """Send FIN alone, without the empty DATA frame that `send_data(b"")` would add."""
        with self._get_or_create_stream(stream_id) as stream:
            stream.finish_sending()
        self._quic.send_stream_data(stream_id, b"", end_stream=True)

    def forget(self, stream_id: int, both: bool = False) -> None:
        """Drop the state of a stream that was reset; aioquic would keep it for ever."""
        stream = self._stream.get(stream_id)
        if stream is not None:
            stream.sending_ended = True
            stream.receiving_ended = stream.receiving_ended or both
            if stream.is_ended():
                del self._stream[stream_id]

    def buffered_bytes(self, stream_id: int) -> int:
        """Return how much of an incomplete frame this layer holds for a stream."""
        stream = self._stream.get(stream_id)
        return len(stream.buffer) if stream is not None else 0

    def open_streams(self) -> int:
        """Return how many request streams this layer still keeps state for."""
        return sum(stream_id % 4 == 0 for stream_id in self._stream)
