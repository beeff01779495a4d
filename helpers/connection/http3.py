"""One HTTP/3 connection, for either end: QUIC and HTTP/3 events in, streams out.

aioquic's HTTP/3 layer turns QUIC events into HTTP/3 ones (RFC 9114). Here each finds its
`HTTP3Stream`, and each stream finds its way out. What aioquic leaves to its user is here too: a
header section that is too large, keeping an idle peer apart from a dead one, GOAWAY.
"""

import asyncio
import weakref
from collections.abc import Callable
from typing import Protocol

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, Setting, encode_frame
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from helpers.connection.aioquic_inside import flow_control
from helpers.connection.aioquic_inside.flow_control import FlowControl, HTTP3Layer
from helpers.connection.driver import IDLE_TIMEOUT_S, QUICDriver, logger
from helpers.connection.udp import Address
from helpers.errors import ConnectionLost, HeaderTooLarge
from helpers.stream import Fields, Half, HTTP3Stream, SendingHalf


class Observer(Protocol):
    """What `wire=` accepts: it may attach itself to each configuration (see wire.py)."""

    def observe(self, configuration: QuicConfiguration) -> None: ...


def new_configuration(is_client: bool, wire: Observer | None = None) -> QuicConfiguration:
    """Return the QUIC settings that both ends share; the caller adds its certificates."""
    configuration = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=["h3"],  # RFC 9114 section 3.1
        idle_timeout=IDLE_TIMEOUT_S,
        max_data=flow_control.CONNECTION_WINDOW_BYTES,
        max_stream_data=flow_control.STREAM_WINDOW_BYTES,
        max_datagram_frame_size=65536,  # RFC 9221 section 3: any datagram that fits a packet
    )
    if wire is not None:
        wire.observe(configuration)
    return configuration


class HTTP3Connection(QUICDriver):
    """A QUIC connection that speaks HTTP/3, on the running loop.

    `on_request(stream, fields)` is called for each request that arrives; `streams` holds the
    streams that somebody uses, by ID. The other parameters are QUICDriver's.
    """

    def __init__(
        self,
        quic: QuicConnection,
        send: Callable[[bytes, Address], None],
        on_request: Callable[[HTTP3Stream, Fields], None] | None = None,
        on_event: Callable[[quic_events.QuicEvent], None] | None = None,
    ) -> None:
        super().__init__(quic, send, on_event)
        # Streams belong to those who use them; what nobody holds any more is not kept here.
        self.streams: weakref.WeakValueDictionary[int, HTTP3Stream] = weakref.WeakValueDictionary()
        self._on_request = on_request
        self._http: HTTP3Layer | None = None
        self._flow = FlowControl(quic, self._unread_bytes)
        # The first unidirectional stream that the HTTP/3 layer opens (RFC 9114 section 6.2.1).
        self._control_stream_id = quic.get_next_available_stream_id(is_unidirectional=True)
        # Streams whose header is too large, while their peer still writes.
        self._refused: set[int] = set()
        self._last_request_id = -4
        self._waiting_writers: set[SendingHalf] = set()
        self._waiting_openers: list[asyncio.Future[None]] = []

    # ---- events in

    def handle_event(self, event: quic_events.QuicEvent) -> None:
        """Hand one QUIC event to its stream, and through the HTTP/3 layer."""
        match event:
            case quic_events.ProtocolNegotiated(alpn_protocol="h3"):
                self._http = HTTP3Layer(self.quic)
            case quic_events.StreamReset():
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.feed_reset(event.error_code)
            case quic_events.StopSendingReceived():
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.feed_stop(event.error_code)
        if self._http is None:
            return
        stream_id = getattr(event, "stream_id", None)
        if stream_id in self._refused:
            if isinstance(event, quic_events.StreamReset) or getattr(event, "end_stream", False):
                self._refused.discard(stream_id)
            return
        try:
            http_events = self._http.handle_event(event)
        except HeaderTooLarge as error:
            self._refuse_header(error, event.end_stream)
            return
        for http_event in http_events:
            self._handle_http_event(http_event)

    def _handle_http_event(self, event: H3Event) -> None:
        stream = self.streams.get(event.stream_id)
        match event:
            case HeadersReceived() if stream is None:
                stream = self._accept(event)
            case HeadersReceived() if dict(event.headers).get(b":status", b"")[:1] != b"1":
                # 1xx is an interim response: another header follows (RFC 9114 section 4.1).
                stream.feed_fields(event.headers)
            case DataReceived() if stream is not None:
                stream.receiving.feed_data(event.data)
            case DatagramReceived() if stream is not None:
                stream.receiving.feed_datagram(event.data)
        if stream is not None and getattr(event, "stream_ended", False):
            stream.feed_fin()

    def _accept(self, event: HeadersReceived) -> HTTP3Stream | None:
        if self.is_client or b":method" not in dict(event.headers):
            return None  # an answer or trailers, and nobody waits for them any more
        self._last_request_id = max(self._last_request_id, event.stream_id)
        if self._flow.is_stopped(event.stream_id):
            # STOP_SENDING may overtake HEADERS: the client left before its request was here.
            self._http.forget(event.stream_id)
            if not event.stream_ended:
                self.send_stop(event.stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            return None
        stream = HTTP3Stream(self, event.stream_id)
        self.streams[event.stream_id] = stream
        stream.feed_fields(event.headers)
        if stream.receiving.error is not None:
            logger.info("Request refused: %s", stream.receiving.error)
            return stream
        self.keep_alive()
        if self._on_request is not None:
            self._on_request(stream, event.headers)
        return stream

    def _refuse_header(self, error: HeaderTooLarge, stream_ended: bool) -> None:
        """Give up a stream; a request gets 431 first (RFC 9114 section 4.2.2, RFC 6585)."""
        stream_id = error.stream_id
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.feed_malformed(error)
        elif self.is_client or error.is_trailer or self._flow.is_stopped(stream_id):
            self.send_reset(stream_id, ErrorCode.H3_MESSAGE_ERROR)
        else:
            logger.info("431: %s", error)
            self._http.send_headers(stream_id, [(b":status", b"431")], end_stream=True)
        self._http.forget(stream_id, both=True)
        if not stream_ended:
            self._refused.add(stream_id)
            self.send_stop(stream_id, ErrorCode.H3_EXCESSIVE_LOAD)
        self.written()

    def connection_lost(self, reason: ConnectionLost) -> None:
        """Tell every stream, and whoever waits for one."""
        for stream in list(self.streams.values()):
            stream.feed_lost(reason)
        self._waiting_writers.clear()
        self._wake_openers()

    def transmitted(self) -> None:
        """Wake the writers whose data was acknowledged, and who waits for a free stream."""
        for half in list(self._waiting_writers):
            unacknowledged = self._flow.unacknowledged_bytes(half.stream_id)
            if unacknowledged <= flow_control.UNACKNOWLEDGED_LIMIT_BYTES:
                self._waiting_writers.discard(half)
                half.acknowledged()
        if self._waiting_openers and flow_control.stream_available(self.quic):
            self._wake_openers()

    def _unread_bytes(self, stream_id: int) -> int:
        stream = self.streams.get(stream_id)
        unread_bytes = stream.receiving.unread_bytes if stream is not None else 0
        if self._http is not None:
            unread_bytes += self._http.buffered_bytes(stream_id)
        return unread_bytes

    # ---- what a stream asks for (stream.py: Carrier)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Send one DATA frame."""
        self._http.send_data(stream_id, data, end_stream=False)
        self.written()

    def send_fields(self, stream_id: int, fields: Fields, end_stream: bool) -> None:
        """Send one HEADERS frame, with FIN if asked."""
        self._http.send_headers(stream_id, fields, end_stream)
        self.written()

    def send_fin(self, stream_id: int) -> None:
        """Finish a stream."""
        self._http.finish(stream_id)
        self.written()

    def send_reset(self, stream_id: int, error_code: int) -> None:
        """Send RESET_STREAM."""
        if self.lost is None:
            # A reset drops what has not left yet; what was flushed before it goes out first.
            self.transmit()
            self.quic.reset_stream(stream_id, error_code)
            self._http.forget(stream_id)
            self.written()

    def send_stop(self, stream_id: int, error_code: int) -> None:
        """Send STOP_SENDING."""
        if self.lost is None:
            self.quic.stop_stream(stream_id, error_code)
            self.written()

    def send_datagram(self, stream_id: int, payload: bytes) -> None:
        """Send one HTTP datagram."""
        self._http.send_datagram(stream_id, payload)
        self.written()

    def max_datagram_bytes(self, stream_id: int) -> int:
        """Return how long a datagram's payload may be; 0 where the peer takes none."""
        settings = self._http.received_settings or {}
        if not settings.get(Setting.H3_DATAGRAM):  # RFC 9297 section 2.1.1
            return 0
        return flow_control.max_datagram_payload_bytes(self.quic, stream_id)

    def unacknowledged_bytes(self, stream_id: int) -> int:
        """Return how much of what was written to a stream is not acknowledged."""
        return self._flow.unacknowledged_bytes(stream_id)

    def wake_when_acknowledged(self, half: SendingHalf) -> None:
        """Call the half's `acknowledged` when it may write again."""
        self._waiting_writers.add(half)

    def data_was_read(self, stream_id: int) -> None:
        """Let the peer send more where the reader has made room for it."""
        if self.lost is None and self._flow.grant_due(stream_id):
            self.transmit_soon()

    # ---- requests

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
        stream.send_header(fields, end_stream)
        self.push()
        self.keep_alive()
        return stream

    def _wake_openers(self) -> None:
        openers, self._waiting_openers = self._waiting_openers, []
        for opener in openers:
            if not opener.done():
                opener.set_result(None)

    def refuse_new_requests(self) -> None:
        """Tell a client that this connection takes no more requests (GOAWAY, RFC 9114, 5.2)."""
        if self._http is not None and self.lost is None:
            first_refused = encode_uint_var(self._last_request_id + 4)
            frame = encode_frame(FrameType.GOAWAY, first_refused)
            self.quic.send_stream_data(self._control_stream_id, frame)
            self.transmit_soon()

    def open_streams(self) -> list[HTTP3Stream]:
        """Return the streams that can still carry something and that somebody holds."""
        return [stream for stream in list(self.streams.values()) if stream.is_open]

    def in_use(self) -> bool:
        """Return whether a request is open."""
        return bool(self.open_streams())

    def is_busy(self) -> bool:
        """Return whether data is on its way, or a stream that was taken over is still open."""
        return self.lost is None and (
            self._flow.has_unacknowledged_data()
            or any(s.owner and s.sending.state is Half.OPEN for s in self.open_streams())
        )
