"""aioquic's QUIC with what a real server and client need of it and it has no public way for.

QUIC gives every stream a receive window (RFC 9000 section 4): the reader says up to which offset it
accepts data (MAX_STREAM_DATA), the writer stops there. Backpressure end to end needs two things:

1. The window must follow what the application has READ. aioquic doubles it as soon as half of it
   has ARRIVED, so a reader that sleeps ends up with everything in memory. Here it follows what was
   read, plus one window.
2. A writer must wait while too much of its data has not left, or is not acknowledged.

How much that is follows the line: a peer at a distance has in flight what a round trip carries. So
the window of a reader that keeps up is doubled, and what may be in flight is what the congestion
window allows (RFC 9002 section 7), both up to a stated maximum. On one machine neither is needed.

The limit of all streams together (MAX_DATA) is ahead of what has ARRIVED, so that streams that
nobody reads hold up no other, as far as there is credit (helpers/connection/total.py). aioquic
doubles it.

The rest is smaller: why a connection is closing, what a hostile peer may cost, the certificate of a
failed handshake, the size of datagrams.
"""

import ipaddress
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import aioquic
from aioquic.buffer import Buffer, size_uint_var
from aioquic.h3.connection import ErrorCode
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicReceiveContext,
)
from aioquic.quic.events import DatagramFrameReceived
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    pull_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch, ExtensionType
from cryptography.x509 import Certificate

from helpers.connection.aioquic_inside import texts
from helpers.connection.aioquic_inside.keys import ReceivingKeys
from helpers.connection.aioquic_inside.tls import TLSLayer
from helpers.errors import ConnectionLost, in_one_line

AIOQUIC_VERSION = "1.7.2"
if aioquic.__version__ != AIOQUIC_VERSION:
    raise ImportError(
        f"The helpers need aioquic {AIOQUIC_VERSION}, and this is {aioquic.__version__}: they rely "
        "on its inside. Install what requirements.txt says."
    )

# How far a peer may send ahead of what the application has read, per stream, at first.
STREAM_WINDOW_BYTES = 512 * 1024
# By how much the windows of one connection may grow, all together: one stream's to 16 MiB at most.
GROWN_WINDOWS_BYTES = 16 * 1024 * 1024
# A window grows where half of it was read within so many round trips: then it may be what holds the
# peer up. quic-go and Chromium have the same figure.
KEEPS_UP_ROUND_TRIPS = 2
# A writer waits while more than this of its stream has not left; on one machine, while more than
# this of it is unacknowledged.
UNSENT_LIMIT_BYTES = 256 * 1024
# Elsewhere, who has more than that unacknowledged also waits while more than this is unacknowledged
# of all the connection's streams together.
UNACKNOWLEDGED_LIMIT_BYTES = 16 * 1024 * 1024
# A peer that is nearer than this needs no more than the small limits: 256 KiB in each round trip
# are 52 MB/s, and Python reads half as much in datagrams of 1200 bytes. More of it in flight on one
# machine only overflows the reader's socket.
NEAR_S = 0.005
# HTTP/3 has three of them (RFC 9114 section 6.2); each may hold a window, for nobody.
MAX_UNIDIRECTIONAL_STREAMS = 16
# The same for the whole connection, at first and always: all its streams together may be this far
# ahead of what was read. More is a matter of credit.
CONNECTION_WINDOW_BYTES = 1024 * 1024
# Loopback has no 1500-byte links. 16383 is the most that the length field of aioquic's STREAM
# frame holds (_write_stream_frame: push_uint16(length | 0x4000)).
LOOPBACK_DATAGRAM_BYTES = 16000
# Who has sent so many full ones asks whether a large one gets through. No short exchange does.
FULL_DATAGRAMS_BEFORE_PROBE = 8
# RFC 8899 section 5.1.2 (MAX_PROBES): after so many probe timeouts, large ones are what is lost.
PROBES_OF_A_BLACK_HOLE = 3
DEFAULT_MAX_UDP_PAYLOAD_BYTES = 65527  # RFC 9000 section 18.2, where the peer announces none
SHORT_HEADER_BYTES = 3  # without the connection ID: first byte and packet number
AEAD_TAG_BYTES = 16
MAX_STREAM_DATA_FRAME_BYTES = 1 + 8 + 8
# HTTP datagrams that wait to leave, of all streams of a connection. aioquic keeps whatever a line
# does not carry yet, and each is older than the one before; a sender may drop some (RFC 9221, 5.4).
MAX_UNSENT_DATAGRAMS = 256
MAX_UNSENT_DATAGRAM_BYTES = 128 * 1024
# Pieces that wait for an earlier one: aioquic takes 1.5 s over 8,000 in one datagram. Where packets
# are lost, a window has some 200.
MAX_WAITING_PIECES = 1000
MAX_UNACKNOWLEDGED_PACKETS = 50_000  # 36 MB of them
# How far a handshake may run ahead of a gap: with aioquic's 512 KiB (MAX_PENDING_CRYPTO) a
# stranger's one datagram costs 630 KB.
MAX_PENDING_CRYPTO_BYTES = 64 * 1024


class QUICLayer(QuicConnection):
    """aioquic's QUIC connection with receive windows that follow the reader.

    What it is told and asked all the time (`receive_datagram`, `next_event`, `datagrams_to_send`,
    `send_stream_data`) is inherited.
    `unread_bytes(stream_id)` tells what has arrived and was not read yet, `more_credit(size_bytes)`
    by how much of that MAX_DATA may rise. `original_id` is the connection ID that a server's client
    began with; `retry_id` the one that it was told by a Retry.
    There is no I/O here: who owns it, calls it, from one thread.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        unread_bytes: Callable[[int], int],
        more_credit: Callable[[int], int],
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        self._unread_bytes = unread_bytes
        self._more_credit = more_credit
        self._now = 0.0
        # By stream ID: windows that have grown, and when a peer at a distance got its last grant.
        self._windows: dict[int, int] = {}
        self._granted_at: dict[int, float] = {}
        # How long a datagram may be where it gets through, from when on, and how often none did.
        self._large_bytes = 0
        self._large_from = 0.0
        self._black_holes = 0
        self._full_datagrams = 0  # since the last probe
        limit = self._local_max_streams_uni
        limit.value = limit.sent = MAX_UNIDIRECTIONAL_STREAMS

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls = TLSLayer(self.tls)
        keys = self._cryptos[Epoch.ONE_RTT]
        keys.recv = ReceivingKeys(keys.recv)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return the datagrams that are to be sent now, each with its address."""
        self._now = now
        self._find_black_hole()
        self._raise_connection_limit()
        datagrams = super().datagrams_to_send(now)
        if self._may_probe_size(now):
            self._full_datagrams += sum(
                len(data) == self._max_datagram_size for data, _ in datagrams
            )
            if self._full_datagrams >= FULL_DATAGRAMS_BEFORE_PROBE:
                datagrams += self._size_probe(now)
        return datagrams

    @property
    def _round_trip_s(self) -> float:
        """The shortest round trip of this connection; 0 where the small limits hold nobody up."""
        # aioquic takes no sample for less than 1 ms, and has infinity before the first.
        round_trip_s = self._loss._rtt_min
        return round_trip_s if NEAR_S <= round_trip_s < math.inf else 0.0

    # ---- the writer's side of flow control

    def may_write(self, stream_id: int) -> bool:
        """Return whether so much of a stream's data has left, and has come, that it takes more."""
        unacknowledged_bytes = self.unacknowledged_bytes(stream_id)
        if unacknowledged_bytes <= UNSENT_LIMIT_BYTES or not self._round_trip_s:
            return unacknowledged_bytes <= UNSENT_LIMIT_BYTES
        sender = self._streams[stream_id].sender
        return (
            sender._buffer_stop - sender.highest_offset <= UNSENT_LIMIT_BYTES
            and self.held_bytes() <= UNACKNOWLEDGED_LIMIT_BYTES
        )

    def unacknowledged_bytes(self, stream_id: int) -> int:
        """Return how many bytes written to the stream the peer has not acknowledged yet."""
        # The sender's buffer holds what is not acknowledged.
        stream = self._streams.get(stream_id)
        return stream.sender._buffer_stop - stream.sender._buffer_start if stream else 0

    def held_bytes(self) -> int:
        """Return the same of all streams together."""
        return sum(map(self.unacknowledged_bytes, self._streams))

    def has_unacknowledged_data(self) -> bool:
        """Return whether any request stream has data or a FIN that the peer has not acknowledged.

        The streams of HTTP/3 itself (control, QPACK) do not count: nobody waits for them.
        """
        return any(
            stream.sender._buffer_stop > stream.sender._buffer_start
            or (stream.sender._buffer_fin is not None and not stream.sender.is_finished)
            for stream_id, stream in self._streams.items()
            if stream_id % 4 == 0 and stream.sender._reset_error_code is None
        )

    def is_stopped(self, stream_id: int) -> bool:
        """Return whether the peer wants nothing of this stream any more (STOP_SENDING)."""
        # aioquic resets the sender as soon as the frame comes.
        stream = self._streams.get(stream_id)
        return stream is None or stream.sender._reset_error_code is not None

    def stream_available(self) -> bool:
        """Return whether the peer allows one more request stream now (RFC 9000 section 4.6).

        aioquic queues streams above the limit silently, and then sends a RESET_STREAM for a queued
        one, for which the peer closes the connection; so a client waits instead of queueing.
        """
        return self.get_next_available_stream_id() // 4 < self._remote_max_streams_bidi

    # ---- the reader's side of flow control

    def grant_due(self, stream_id: int) -> bool:
        """Return whether the reader has read so much that the peer should hear of it."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return False
        return self._has_read_half(stream, self._window_bytes(stream))

    def _window_bytes(self, stream: QuicStream) -> int:
        return self._windows.get(_id_of(stream), STREAM_WINDOW_BYTES)

    def _has_read_half(self, stream: QuicStream, window_bytes: int) -> bool:
        # In steps of half a window, or every packet would carry a grant.
        wanted = stream.max_stream_data_local - window_bytes // 2
        arrived = stream.receiver._buffer_start
        # Mostly not even what has arrived is enough.
        return arrived >= wanted and arrived - self._unread_bytes(_id_of(stream)) >= wanted

    def _raise_limit(self, stream: QuicStream) -> None:
        """Let the peer send a window beyond what was read."""
        stream_id = _id_of(stream)
        if self._round_trip_s:
            if stream_id not in self._granted_at:
                self._forget_ended_windows()
            since = self._now - self._granted_at.get(stream_id, -math.inf)
            self._granted_at[stream_id] = self._now
            if since <= KEEPS_UP_ROUND_TRIPS * self._round_trip_s:
                self._grow_window(stream)
        else:
            self._windows.clear()  # the first round trips of a busy machine are long
        read = stream.receiver._buffer_start - self._unread_bytes(stream_id)
        limit = read + self._window_bytes(stream)
        stream.max_stream_data_local = max(stream.max_stream_data_local, limit)

    def _forget_ended_windows(self) -> None:
        for ended in self._granted_at.keys() - self._streams.keys():
            del self._granted_at[ended]
            self._windows.pop(ended, None)

    def _grow_window(self, stream: QuicStream) -> None:
        grown_bytes = sum(size - STREAM_WINDOW_BYTES for size in self._windows.values())
        window_bytes = self._window_bytes(stream)
        if grown_bytes + window_bytes <= GROWN_WINDOWS_BYTES:
            self._windows[_id_of(stream)] = 2 * window_bytes

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        # Called for each stream as a packet is written; aioquic's doubles the limit here.
        limit = stream.max_stream_data_local
        # A stream of our own in one direction has no receive side: its limit is 0 and stays so.
        if not limit or stream.receiver.is_finished:
            return
        if self._has_read_half(stream, self._window_bytes(stream)):
            self._raise_limit(stream)
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        frame = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_BYTES,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        frame.push_uint_var(_id_of(stream))
        frame.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local
        if self._quic_logger is not None and builder.quic_logger_frames is not None:
            builder.quic_logger_frames.append(
                self._quic_logger.encode_max_stream_data_frame(
                    maximum=stream.max_stream_data_local, stream_id=_id_of(stream)
                )
            )

    # ---- the limit of the connection (MAX_DATA)

    def ahead_bytes(self) -> int:
        """Return how much the peer may still send, and what waits for an earlier piece."""
        waiting_bytes = sum(
            stream.receiver.highest_offset - stream.receiver.starting_offset()
            for stream in self._streams.values()
            if not stream.receiver.is_finished
        )
        return self._local_max_data.value - self._local_max_data.used + waiting_bytes

    def _raise_connection_limit(self) -> None:
        """Let the peer send as much as the line carries, where there is credit."""
        limit = self._local_max_data
        half_bytes = streams_bytes = CONNECTION_WINDOW_BYTES // 2
        if self._round_trip_s:
            # What its streams may send. But credit cannot be taken back, and what is in flight at
            # most doubles in a round trip: so no more than has come before.
            open_bytes = sum(
                stream.max_stream_data_local - stream.receiver.highest_offset
                for stream_id, stream in self._streams.items()
                if stream_id % 4 == 0 and not stream.receiver.is_finished
            )
            streams_bytes = max(half_bytes, min(open_bytes, limit.used))
        if limit.value - limit.used < streams_bytes:
            limit.value += self._more_credit(limit.used + streams_bytes + half_bytes - limit.value)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        # aioquic doubles the limit here as soon as half of it is used.
        limit = self._local_max_data
        used_bytes, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used_bytes

    # ---- datagrams

    def limit_load(self) -> None:
        """Close the connection where its peer costs more than it may (H3_EXCESSIVE_LOAD)."""
        excess = self._excess()
        if excess is not None:
            self.close(ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase=excess)

    def _excess(self) -> str | None:
        for stream in (*self._streams.values(), *self._crypto_streams.values()):
            if len(stream.receiver._ranges) > MAX_WAITING_PIECES:
                return f"more than {MAX_WAITING_PIECES} pieces wait for an earlier one"
        for space in self._spaces.values():
            if len(space.sent_packets) > MAX_UNACKNOWLEDGED_PACKETS:
                return f"more than {MAX_UNACKNOWLEDGED_PACKETS} packets are not acknowledged"
        return None

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        end_of_frame = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        receiver = self._crypto_streams[context.epoch].receiver
        if end_of_frame - receiver.starting_offset() > MAX_PENDING_CRYPTO_BYTES:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too much crypto buffering",
            )
        super()._handle_crypto_frame(context, frame_type, buf)

    def acknowledge_now(self) -> None:
        """Let the next packet carry the acknowledgement that would leave on its own 1 ms later.

        Called when data is about to leave anyway: a request and its response then take one packet
        each, not two.
        """
        space = self._spaces.get(Epoch.ONE_RTT)
        if space is not None and space.ack_at is not None:
            space.ack_at = 0.0

    def send_datagram_frame(self, data: bytes) -> None:
        """Send a DATAGRAM frame; of those that cannot leave yet, the oldest are lost."""
        super().send_datagram_frame(data)
        unsent = self._datagrams_pending
        while len(unsent) > MAX_UNSENT_DATAGRAMS or (
            len(unsent) > 1 and sum(map(len, unsent)) > MAX_UNSENT_DATAGRAM_BYTES
        ):
            unsent.popleft()

    def _write_datagram_frame(
        self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType
    ) -> bool:
        written = super()._write_datagram_frame(builder, data, frame_type)
        _log_payload(builder.quic_logger_frames, data)
        return written

    def _handle_datagram_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_datagram_frame(context, frame_type, buf)
        event = self._events[-1]
        assert isinstance(event, DatagramFrameReceived), "that is what the frame becomes"
        _log_payload(context.quic_logger_frames, event.data)

    # ---- size of datagrams

    def raise_datagram_size(self, max_send_bytes: int) -> None:
        """Let datagrams grow to 16000 bytes, after the handshake and on loopback only.

        Python pays per packet, so this is worth a factor of five there. Never more than the socket
        sends (`max_send_bytes`) or the peer announced as max_udp_payload_size (RFC 9000 section
        18.2), and not before one of them got through: a relay on loopback may lead elsewhere.
        """
        address = self.get_peer_address()
        if address is None or not ipaddress.ip_address(address[0].split("%")[0]).is_loopback:
            return
        peer_limit_bytes = self._peer_max_udp_payload_bytes()
        self._large_bytes = min(LOOPBACK_DATAGRAM_BYTES, max_send_bytes, peer_limit_bytes)

    def _may_probe_size(self, now: float) -> bool:
        small_bytes = self.configuration.max_datagram_size
        return (
            self._max_datagram_size <= small_bytes < self._large_bytes
            and now >= self._large_from
            and self._close_event is None
            # Whoever may have lied about its address gets no more than three times what it sent.
            and self._network_paths[0].is_validated
        )

    def _size_probe(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return a datagram of the large size that says nothing (RFC 8899, RFC 9000 section 14.4).

        Where it is acknowledged, others may be as long.
        """
        self._large_from = math.inf  # until this one's fate is known
        self._full_datagrams = 0
        assert self._version is not None, "a connection with data to send has agreed on one"
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=self._large_bytes,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            quic_logger=self._quic_logger,
            spin_bit=self._spin_bit,
            version=self._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        frame = builder.start_frame(QuicFrameType.PING, handler=self._on_size_probe_delivery)
        frame.push_bytes(bytes(builder.remaining_buffer_space))  # each 0 is a PADDING frame
        if self._quic_logger is not None and builder.quic_logger_frames is not None:
            builder.quic_logger_frames += [
                self._quic_logger.encode_ping_frame(),
                self._quic_logger.encode_padding_frame(),
            ]
        # Its loss says nothing of how much the line carries: congestion control does not hear of it
        # (RFC 9000 section 14.4).
        assert builder._packet is not None
        builder._packet.in_flight = False
        return self._flush_builder(builder, self._network_paths[0], self._peer_cid.cid, now)

    def _on_size_probe_delivery(self, delivery: QuicDeliveryState) -> None:
        if delivery is QuicDeliveryState.ACKED:
            self._set_datagram_size(self._large_bytes)
        else:
            self._wait_with_large_ones()

    def _wait_with_large_ones(self) -> None:
        # Perhaps the reader only slept: later and later, they have another chance.
        self._black_holes += 1
        self._large_from = self._now + 4**self._black_holes * self.probe_timeout_s()

    def _find_black_hole(self) -> None:
        """Let datagrams be small where large ones do not get through any more."""
        small_bytes = self.configuration.max_datagram_size
        is_large = self._max_datagram_size > small_bytes
        if is_large and self._loss._pto_count >= PROBES_OF_A_BLACK_HOLE:
            self._set_datagram_size(small_bytes)
            self._wait_with_large_ones()
            # What does not fit any more would stay at the head of the queue for ever.
            fitting = [d for d in self._datagrams_pending if len(d) <= self._max_frame_payload()]
            self._datagrams_pending = deque(fitting)

    def _set_datagram_size(self, size_bytes: int) -> None:
        self._max_datagram_size = size_bytes
        self._loss._pacer._max_datagram_size = size_bytes
        # Each congestion control of aioquic has it, their base class does not.
        vars(self._loss._cc)["_max_datagram_size"] = size_bytes
        # RFC 9002 section 7.2: the first window is two datagrams at least. In less than one, an
        # HTTP datagram of full size would wait for ever.
        window = self._loss._cc.congestion_window
        self._loss._cc.congestion_window = max(window, 2 * size_bytes)

    def _peer_max_udp_payload_bytes(self) -> int:
        # aioquic checks this parameter and forgets it (_parse_transport_parameters): read it again.
        for extension, data in self.tls.received_extensions or []:
            if extension == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
                announced = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
                return announced if announced is not None else DEFAULT_MAX_UDP_PAYLOAD_BYTES
        return 0

    def max_datagram_payload_bytes(self, stream_id: int) -> int:
        """Return the longest payload of one HTTP datagram (RFC 9297) now; 0 where none may be sent.

        A longer one would stay at the head of aioquic's queue for ever.
        """
        return max(0, self._max_frame_payload() - size_uint_var(stream_id // 4))

    def _max_frame_payload(self) -> int:
        """Return how much fits into a DATAGRAM frame that has a packet for itself."""
        peer_limit_bytes = self._remote_max_datagram_frame_size or 0
        packet_overhead = SHORT_HEADER_BYTES + len(self._peer_cid.cid) + AEAD_TAG_BYTES
        frame_bytes = min(peer_limit_bytes, self._max_datagram_size - packet_overhead)
        return frame_bytes - 1 - size_uint_var(frame_bytes)

    # ---- beginning and end

    @property
    def peer_certificate(self) -> Certificate | None:
        """The certificate that the peer presented, also where the handshake then failed."""
        tls = getattr(self, "tls", None)  # missing until the first packet is made
        return tls._peer_certificate if tls is not None else None

    def probe_timeout_s(self) -> float:
        """Return after how long without an acknowledgement QUIC asks for one (RFC 9002, 6.2.1).

        That is the measured round trip, how much it varies, and how long the peer may wait.
        """
        return self._loss.get_probe_timeout()

    def idle_for_too_long(self, now: float) -> bool:
        """Return whether the next `handle_timer` ends the connection, since nothing has come."""
        return self._close_event is None and self._close_at is not None and now >= self._close_at

    def forget_handshake(self) -> None:
        """Drop the buffers that the finished handshake was written into, 16 KiB each."""
        for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE):
            self._crypto_buffers.pop(epoch, None)

    def why_closing(self) -> ConnectionLost | None:
        """Return why the connection is closing, as soon as that is known; None while it is not.

        aioquic's public event comes when the draining period is over (RFC 9000 section 10.2), three
        probe timeouts later; a handler should know at once.
        """
        event = self._close_event
        if event is None:
            return None
        # aioquic quotes what it complains of; a reason longer than one packet would never leave.
        event.reason_phrase = in_one_line(event.reason_phrase)
        if event.reason_phrase == texts.IDLE_TIMEOUT:  # no code came from the peer
            silence_s = self.configuration.idle_timeout
            return ConnectionLost(None, f"nothing came for {silence_s:g} s, the peer has vanished")
        return ConnectionLost(
            event.error_code, event.reason_phrase, transport=event.frame_type is not None
        )

    def dismantle(self) -> None:
        """Take the closed connection apart, so that its memory is free at once.

        Its parts hold each other: frame handlers, keys and loss recovery are full of its bound
        methods. Nothing may be called on it any more.
        """
        for space in self._spaces.values():
            space.sent_packets.clear()  # some hold their space, for the acknowledgement to come
        self.__dict__.clear()


def _log_payload(frames: list[dict[str, Any]] | None, payload: bytes) -> None:
    """Let a log show what is in a DATAGRAM frame, where aioquic says how long it is."""
    if frames:  # where there is a log
        frames[-1]["raw"] = {"data": payload.hex()}  # as qlog has it


def _id_of(stream: QuicStream) -> int:
    assert stream.stream_id is not None, "a stream of CRYPTO frames has no window"
    return stream.stream_id
