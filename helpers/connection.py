"""One HTTP/3 connection, for either end: datagrams in, streams out.

aioquic does the protocol without any I/O: `QuicConnection` turns datagrams into QUIC events and
back (RFC 9000), its HTTP/3 layer turns QUIC events into HTTP/3 frames (RFC 9114). What is left for
us is the loop around it: feed in what arrives, hand the events to the right `HTTP3Stream`, send
what is due, keep the timer.

Sending happens once per turn of the loop: whoever wrote something asks for it (`transmit_soon`), so
that all writes of a turn share packets.
"""

import asyncio
import itertools
import logging
import weakref
from collections.abc import Callable
from enum import Enum

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, encode_frame
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from helpers import flow_control
from helpers.errors import ConnectionLost, describe_code
from helpers.flow_control import FlowControl, HTTP3Layer
from helpers.stream import Fields, Half, HTTP3Stream
from helpers.udp import Address

logger = logging.getLogger("helpers.connection")

# aioquic logs what a peer did wrong as a warning. Here that becomes an exception or a line of our
# own, so without this a learner would read everything twice.
logging.getLogger("quic").addHandler(logging.NullHandler())

# A peer that vanished is noticed within 10 s while a request is open: after at most 3 s of silence
# a PING asks for a sign of life, and 7 s later the connection counts as lost.
IDLE_TIMEOUT_S = 7.0
KEEP_ALIVE_AFTER_S = 2.0
KEEP_ALIVE_CHECK_S = 1.0


class State(Enum):
    """The life of a connection (RFC 9000 sections 7 and 10)."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


def new_configuration(is_client: bool) -> QuicConfiguration:
    """Return the QUIC settings that both ends share; the caller adds its certificates."""
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=["h3"],  # RFC 9114 section 3.1
        idle_timeout=IDLE_TIMEOUT_S,
        max_data=flow_control.CONNECTION_WINDOW_BYTES,
        max_stream_data=flow_control.STREAM_WINDOW_BYTES,
        max_datagram_frame_size=65536,  # RFC 9221 section 3: any datagram that fits a packet
    )


class HTTP3Connection:
    """A QUIC connection that speaks HTTP/3, on the running loop.

    `send(data, address)` puts one datagram on the network. `on_request(stream, fields)` is called
    for each request that arrives, `on_event(event)` for each QUIC event (the listener follows
    connection IDs with it).
    """

    def __init__(
        self,
        quic: QuicConnection,
        send: Callable[[bytes, Address], None],
        on_request: Callable[[HTTP3Stream, Fields], None] | None = None,
        on_event: Callable[[quic_events.QuicEvent], None] | None = None,
    ) -> None:
        self.quic = quic
        self.is_client = quic.configuration.is_client
        self.state = State.CONNECTING
        self.lost: ConnectionLost | None = None
        self.alpn: str | None = None
        # Streams belong to those who use them; what nobody holds any more is not kept here.
        self.streams: weakref.WeakValueDictionary[int, HTTP3Stream] = weakref.WeakValueDictionary()
        # Called once when the connection is over and sends nothing more.
        self.on_closed: Callable[[], None] = lambda: None
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._on_request = on_request
        self._on_event = on_event
        self._http: HTTP3Layer | None = None
        self._flow = FlowControl(quic, self._unread_bytes)
        self._control_stream_id = quic.get_next_available_stream_id(is_unidirectional=True)
        # Bytes of request streams whose header is not complete, and those refused for it.
        self._header_bytes: dict[int, int] = {}
        self._refused: set[int] = set()
        self._last_request_id = -4
        self._waiting_writers: set[HTTP3Stream] = set()
        self._waiting_openers: list[asyncio.Future[None]] = []
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._ping_ids = itertools.count(1)
        self._transmit_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keep_alive_timer: asyncio.TimerHandle | None = None
        self._received_at = self._loop.time()

    # ---- the network's side

    def receive(self, data: bytes, address: Address) -> None:
        """Take one datagram from the network."""
        if self.state is State.CLOSED:
            return
        self._received_at = now = self._loop.time()
        try:
            self.quic.receive_datagram(data, address, now=now)
            self._process_events()
        except Exception:
            # Whatever a peer sends must not take the other connections down with it.
            logger.exception("Closing the connection with %s: it broke the parser", address)
            self.quic.close(error_code=ErrorCode.H3_INTERNAL_ERROR)
            self._process_events()
        self.transmit_soon()

    def transmit_soon(self) -> None:
        """Send what is due at the end of this turn of the loop."""
        if self._transmit_handle is None:
            self._transmit_handle = self._loop.call_soon(self.transmit)

    def transmit(self) -> int:
        """Send what is due now; return how many datagrams that were."""
        if self._transmit_handle is not None:
            self._transmit_handle.cancel()
            self._transmit_handle = None
        if self.state is State.CLOSED or self.quic.get_peer_address() is None:
            return 0
        datagrams = self.quic.datagrams_to_send(now=self._loop.time())
        for data, address in datagrams:
            self._send(data, address)
        self._arm_timer()
        for stream in list(self._waiting_writers):
            unacknowledged = self._flow.unacknowledged_bytes(stream.stream_id)
            if unacknowledged <= flow_control.UNACKNOWLEDGED_LIMIT_BYTES:
                self._waiting_writers.discard(stream)
                stream.feed_acknowledged()
        return len(datagrams)

    def _arm_timer(self) -> None:
        deadline = self.quic.get_timer()
        if deadline is None:
            self._cancel_timers()
        elif self._timer is None or deadline < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._on_timer)
        # A timer that is earlier than need be looks again when it fires: cheaper than moving it
        # with each packet.

    def _on_timer(self) -> None:
        self._timer = None
        now, deadline = self._loop.time(), self.quic.get_timer()
        if deadline is not None and now < deadline:
            self._arm_timer()
            return
        self.quic.handle_timer(now=now)
        self._process_events()
        self.transmit()

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._keep_alive_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._keep_alive_timer = None

    # ---- events

    def _process_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if self._on_event is not None:
                self._on_event(event)
            self._handle_quic_event(event)
            if self._http is not None and not self._refuse_large_header(event):
                for http_event in self._http.handle_event(event):
                    self._handle_http_event(http_event)
        closing = flow_control.close_event(self.quic)
        if closing is not None and self.lost is None:
            self._lose(closing)
        if self._waiting_openers and flow_control.stream_available(self.quic):
            self._wake_openers()

    def _handle_quic_event(self, event: quic_events.QuicEvent) -> None:
        match event:
            case quic_events.ProtocolNegotiated(alpn_protocol="h3"):
                self._http = HTTP3Layer(self.quic)
            case quic_events.HandshakeCompleted():
                self.alpn = event.alpn_protocol
                self.state = State.OPEN
                flow_control.raise_datagram_size(self.quic)
                if not self.connected.done():
                    self.connected.set_result(None)
            case quic_events.StreamReset():
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.feed_reset(event.error_code)
            case quic_events.StopSendingReceived():
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.feed_stop(event.error_code)
            case quic_events.PingAcknowledged():
                ping = self._pings.pop(event.uid, None)
                if ping is not None and not ping.done():
                    ping.set_result(None)
            case quic_events.ConnectionTerminated():
                self._end()

    def _handle_http_event(self, event: H3Event) -> None:
        stream = self.streams.get(event.stream_id)
        match event:
            case HeadersReceived():
                if stream is None and not self.is_client and event.stream_id % 4 == 0:
                    stream = self._accept(event)
                elif stream is not None and not _is_interim(event.headers):
                    if self.is_client and stream.expected_bytes is None:
                        self._expect_body(stream, event.headers)
                    stream.feed_header(event.headers)
                if stream is not None and event.stream_ended:
                    stream.feed_fin()
            case DataReceived() if stream is not None:
                stream.feed_data(event.data)
                if event.stream_ended:
                    stream.feed_fin()
            case DatagramReceived() if stream is not None:
                stream.feed_datagram(event.data)

    def _accept(self, event: HeadersReceived) -> HTTP3Stream:
        self._header_bytes.pop(event.stream_id, None)
        self._last_request_id = max(self._last_request_id, event.stream_id)
        stream = HTTP3Stream(self, event.stream_id)
        self.streams[event.stream_id] = stream
        self._expect_body(stream, event.headers)
        stream.feed_header(event.headers)
        self._keep_alive()
        if self._on_request is not None:
            self._on_request(stream, event.headers)
        return stream

    def _expect_body(self, stream: HTTP3Stream, fields: Fields) -> None:
        # A response to HEAD, and a 204 or 304, has no body whatever its content-length says
        # (RFC 9110 section 8.6).
        values = dict(fields)
        if stream.answers_head or values.get(b":status") in (b"204", b"304"):
            return
        length = values.get(b"content-length")
        stream.expected_bytes = int(length) if length is not None else None

    def _refuse_large_header(self, event: quic_events.QuicEvent) -> bool:
        """Answer 431 once a header section exceeds 64 KiB, without waiting for its end.

        Returns True where the event belongs to such a request and goes no further (RFC 9114
        section 4.2.2, RFC 6585 section 5).
        """
        stream_id = getattr(event, "stream_id", None)
        if self.is_client or stream_id is None or stream_id % 4 != 0:
            return False
        if stream_id in self._refused:
            return True
        if not isinstance(event, quic_events.StreamDataReceived) or stream_id in self.streams:
            return False
        if stream_id <= self._last_request_id and stream_id not in self._header_bytes:
            return False  # a stream whose owner has let go of it
        size_bytes = self._header_bytes.get(stream_id, 0) + len(event.data)
        if size_bytes <= flow_control.MAX_HEADER_BYTES:
            self._header_bytes[stream_id] = size_bytes
            return False
        self._header_bytes.pop(stream_id, None)
        self._refused.add(stream_id)
        self._http.send_headers(stream_id, [(b":status", b"431")], end_stream=True)
        self._http.forget(stream_id, both=True)
        if not event.end_stream:
            self.quic.stop_stream(stream_id, ErrorCode.H3_EXCESSIVE_LOAD)
        return True

    def _lose(self, closing: quic_events.ConnectionTerminated) -> None:
        self.state = State.CLOSING
        self.lost = ConnectionLost(
            closing.error_code, closing.reason_phrase, closing.frame_type is not None
        )
        if not self.connected.done():
            self.connected.set_exception(self.lost)
            self.connected.exception()  # retrieved: not every connection has somebody waiting
        for stream in list(self.streams.values()):
            stream.feed_lost(self.lost)
        self._waiting_writers.clear()
        self._wake_openers()
        for ping in self._pings.values():
            if not ping.done():
                ping.set_exception(self.lost)
                ping.exception()
        self._pings.clear()

    def _unread_bytes(self, stream_id: int) -> int:
        stream = self.streams.get(stream_id)
        unread_bytes = stream.unread_bytes if stream is not None else 0
        if self._http is not None:
            unread_bytes += self._http.buffered_bytes(stream_id)
        return unread_bytes

    # ---- what a stream asks for (stream.py: Carrier)

    def send_data(self, stream_id: int, data: bytes) -> None:
        self._http.send_data(stream_id, data, end_stream=False)
        self.transmit_soon()

    def send_fields(self, stream_id: int, fields: Fields, end_stream: bool) -> None:
        self._http.send_headers(stream_id, fields, end_stream)
        self.transmit_soon()

    def send_fin(self, stream_id: int) -> None:
        self._http.finish(stream_id)
        self.transmit_soon()

    def send_reset(self, stream_id: int, error_code: int) -> None:
        if self.lost is None:
            # A reset drops what has not left yet; what was flushed before it goes out first.
            self.transmit()
            self.quic.reset_stream(stream_id, error_code)
            self._http.forget(stream_id)
            self.transmit_soon()

    def send_stop(self, stream_id: int, error_code: int) -> None:
        if self.lost is None:
            self.quic.stop_stream(stream_id, error_code)
            self.transmit_soon()

    def send_datagram(self, stream_id: int, payload: bytes) -> None:
        self._http.send_datagram(stream_id, payload)
        self.transmit_soon()

    def max_datagram_bytes(self, stream_id: int) -> int:
        settings = self._http.received_settings or {}
        if not settings.get(0x33):  # H3_DATAGRAM, RFC 9297 section 2.1.1
            return 0
        return flow_control.max_datagram_payload_bytes(self.quic, stream_id)

    def unacknowledged_bytes(self, stream_id: int) -> int:
        return self._flow.unacknowledged_bytes(stream_id)

    def wake_when_acknowledged(self, stream: HTTP3Stream) -> None:
        self._waiting_writers.add(stream)

    def data_was_read(self, stream_id: int) -> None:
        if self.lost is None and self._flow.grant_due(stream_id):
            self.transmit_soon()

    # ---- requests, and the end

    async def open_stream(self, fields: Fields, end_stream: bool = False) -> HTTP3Stream:
        """Send a request's header and return its stream; waits while the peer allows no more.

        Raises ConnectionLost where the connection has ended. For clients.
        """
        while self.lost is None and not flow_control.stream_available(self.quic):
            opener = self._loop.create_future()
            self._waiting_openers.append(opener)
            await opener
        if self.lost is not None:
            raise self.lost.with_traceback(None)
        stream = HTTP3Stream(self, self.quic.get_next_available_stream_id())
        self.streams[stream.stream_id] = stream
        stream.answers_head = (b":method", b"HEAD") in fields
        self._http.send_headers(stream.stream_id, fields, end_stream)
        if end_stream:
            stream.mark_sent()
        self.transmit_soon()
        self._keep_alive()
        return stream

    def _wake_openers(self) -> None:
        openers, self._waiting_openers = self._waiting_openers, []
        for opener in openers:
            if not opener.done():
                opener.set_result(None)

    async def is_alive(self, trust_s: float, timeout_s: float) -> bool:
        """Return whether the connection can be used, asking the peer after `trust_s` of silence."""
        if self.lost is not None:
            return False
        silent_s = self._loop.time() - self._received_at
        return silent_s < trust_s or await self.ping(timeout_s)

    async def ping(self, timeout_s: float) -> bool:
        """Return whether the peer answers within `timeout_s` seconds."""
        if self.lost is not None:
            return False
        uid = next(self._ping_ids)
        self._pings[uid] = answer = self._loop.create_future()
        self.quic.send_ping(uid)
        self.transmit_soon()
        try:
            await asyncio.wait_for(answer, timeout_s)
        except (TimeoutError, ConnectionLost):
            return False
        finally:
            self._pings.pop(uid, None)
        return True

    def _keep_alive(self) -> None:
        """Watch over the connection while a request is open, so that silence means death."""
        if self._keep_alive_timer is None:
            self._keep_alive_timer = self._loop.call_later(KEEP_ALIVE_CHECK_S, self._check_alive)

    def _check_alive(self) -> None:
        self._keep_alive_timer = None
        if self.lost is not None or not self.open_streams():
            return
        if self._loop.time() - self._received_at >= KEEP_ALIVE_AFTER_S:
            self.quic.send_ping(0)
            self.transmit_soon()
        self._keep_alive()

    def refuse_new_requests(self) -> None:
        """Tell a client that this connection takes no more requests (GOAWAY, RFC 9114, 5.2)."""
        if self._http is not None and self.lost is None:
            first_refused = encode_uint_var(self._last_request_id + 4)
            frame = encode_frame(FrameType.GOAWAY, first_refused)
            self.quic.send_stream_data(self._control_stream_id, frame)
            self.transmit_soon()

    def close(self, error_code: int = ErrorCode.H3_NO_ERROR, reason: str = "") -> None:
        """Close the connection at once (CONNECTION_CLOSE); streams still open are lost."""
        self.quic.close(error_code=error_code, reason_phrase=reason)
        self._process_events()
        self.transmit()

    def abandon(self, reason: str) -> None:
        """Give the connection up without a word, where the other end is known to be gone."""
        if self.lost is None:
            self._lose(quic_events.ConnectionTerminated(1, 0, reason))
        self._end()

    def _end(self) -> None:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._cancel_timers()
            self.on_closed()

    def is_busy(self) -> bool:
        """Return whether data is on its way, or a stream that was taken over is still open."""
        return self.lost is None and (
            self._flow.has_unacknowledged_data()
            or any(stream.owner and stream.sending is Half.OPEN for stream in self.open_streams())
        )

    def open_streams(self) -> list[HTTP3Stream]:
        """Return the streams that can still carry something and that somebody holds."""
        return [stream for stream in list(self.streams.values()) if stream.is_open]

    @property
    def description(self) -> str:
        """What is known of why the connection ended, for one line of log."""
        closing = flow_control.close_event(self.quic)
        if closing is None:
            return "open"
        code = describe_code(closing.error_code, transport=closing.frame_type is not None)
        return f"{code} {closing.reason_phrase}".strip()


def _is_interim(fields: Fields) -> bool:
    """Return whether this is a 1xx response, which another header follows (RFC 9114, 4.1)."""
    return any(name == b":status" and value.startswith(b"1") for name, value in fields)
