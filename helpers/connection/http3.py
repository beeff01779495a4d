"""One HTTP/3 connection, for either end, without any I/O: datagrams and time in, streams out.

It is told what arrived and what time it is; it says what to send and when to ask again. Who owns it
(driver.py, or a test with a clock of its own) does the rest. aioquic turns datagrams into QUIC
events (RFC 9000) and those into HTTP/3 ones (RFC 9114); here each finds its `HTTP3Stream`, and each
stream finds its way out. What aioquic leaves to its user is here too: a header section that is too
large, keeping an idle peer apart from a dead one, GOAWAY.
"""

import logging
import math
import weakref
from collections.abc import Callable
from enum import Enum

from aioquic.h3.connection import ErrorCode, Setting
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from cryptography.x509 import Certificate

from helpers.connection.aioquic_inside import HTTP3Layer, QUICLayer
from helpers.connection.configuration import MAX_DATAGRAM_BYTES, Address
from helpers.connection.total import SMALL_PIECE_BYTES, Total
from helpers.errors import (
    ClientDisconnected,
    ConnectionLost,
    HeaderTooLarge,
    MalformedMessage,
    PeerError,
    StreamReset,
    again,
    describe_code,
)
from helpers.stream import MAX_DATA_FRAME_BYTES, Fields, Half, HTTP3Stream, SendingHalf

logger = logging.getLogger("helpers.connection")

# aioquic logs what a peer did wrong as a warning. Here that becomes an exception or a line of our
# own, so without this a learner would read everything twice.
logging.getLogger("quic").addHandler(logging.NullHandler())

KEEP_ALIVE_AFTER_S = 2.0  # of silence, while a request is open
# In probe timeouts, which follow the round trip that was measured: for how long a peer is trusted
# that says nothing, and for how long one has gone that was asked and does not answer. Of the four
# probes of a connection in trouble, each of which waits twice as long, 15 is the sum.
TRUSTED_PROBE_TIMEOUTS = 4
GONE_AFTER_PROBE_TIMEOUTS = 15
# A client that only reads sends nothing by itself. Where a NAT has given it another address (RFC
# 9000 section 9), the server goes on to the old one until it hears from the new: so a client asks
# sooner after the last that came of a response (and later where an answer takes longer than that),
# then less and less often.
CLIENT_ASKS_AFTER_S = 0.5
HANDSHAKE_TIMEOUT_S = 10.0  # however talkative the peer is
HEADER_TIMEOUT_S = 10.0  # from the first byte of a request to the last of its header
LOAD_CHECK_BYTES = 16 * 1024  # after each so many, what a peer costs is looked at

STREAM_EVENTS = quic_events.StreamDataReceived | quic_events.StreamReset

OnRequest = Callable[[HTTP3Stream, Fields, Address], None]


class ConnectionState(Enum):
    """The life of a connection (RFC 9000 sections 7 and 10)."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class HTTP3Connection:
    """A QUIC connection that speaks HTTP/3, as a state machine: it knows no loop and no socket.

    `on_output(now)` is called where something is to be sent: at once where `now` is true, when it
    suits otherwise. `on_request(stream, fields, address)` is called for each request that arrives,
    `on_abandoned(stream)` where its client will not read on or was refused,
    `on_connection_id(id, is_ours)` where this end begins or ceases to answer to a connection ID.
    `max_send_bytes` is the longest datagram that can be sent; `original_id` and `retry_id` are
    QUICLayer's; `total` counts what is held, of other connections too. Times are in seconds of a
    clock of the caller's, who may be on any thread, always the same one.

    `lost` says why the connection ended, None while it has not; `goaway_id` from which stream on a
    server refuses requests (RFC 9114 section 5.2), None where it takes all; `streams` holds the
    streams that somebody uses, by ID; `quic` is the QUIC connection below.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        on_output: Callable[[bool], None],
        on_request: OnRequest | None = None,
        on_abandoned: Callable[[HTTP3Stream], None] | None = None,
        on_connection_id: Callable[[bytes, bool], None] | None = None,
        max_send_bytes: int = MAX_DATAGRAM_BYTES,
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
        total: Total | None = None,
    ) -> None:
        self.is_client = configuration.is_client
        self.state = ConnectionState.CONNECTING
        self.lost: ConnectionLost | None = None
        self.goaway_id: int | None = None
        self.alpn: str | None = None
        self.peer_certificate: Certificate | None = None
        # Streams belong to those who use them; what nobody holds any more is not kept here.
        self.streams: weakref.WeakValueDictionary[int, HTTP3Stream] = weakref.WeakValueDictionary()
        self._on_output = on_output
        self._on_request = on_request
        self._on_abandoned = on_abandoned
        self._on_connection_id = on_connection_id
        self._max_send_bytes = max_send_bytes
        self.quic = QUICLayer(
            configuration, self._unread_bytes, self._more_credit, original_id, retry_id
        )
        self._http = HTTP3Layer(self.quic)
        self._speaks_http = False
        self._total = total or Total()
        self.flush = on_output  # a method of a Carrier, which is another's as it stands
        self.host_id = self.quic.host_cid
        self._received_bytes = 0
        self._has_written = False
        self._resets: dict[int, int] = {}  # error codes by stream ID
        # Streams whose header is too large, while their peer still writes.
        self._refused: set[int] = set()
        self._last_request_id = -4
        # When those requests began whose header is not complete, by stream ID, the oldest first.
        self._headers_begun: dict[int, float] = {}
        self._waiting_writers: set[SendingHalf] = set()
        self._last_words: list[tuple[bytes, Address]] = []
        self._begun_at: float | None = None
        # From the last that was heard, asked or begun, silence is counted; None while none matters.
        self._silent_since: float | None = None
        self._asked = 0  # how often, since something came of a request or a response
        self._received_at = 0.0
        self._pings_sent = self._pings_answered = 0

    # ---- datagrams and time

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake, as a client."""
        self._begun_at = self._received_at = now
        self.quic.connect(address, now=now)

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take one datagram from the network."""
        if self.lost is not None:
            return
        if self._begun_at is None:
            self._begun_at = now
        self._received_at = now
        if self._silent_since is not None:
            self._silent_since = now
        if self.state is ConnectionState.CONNECTING and now - self._begun_at > HANDSHAKE_TIMEOUT_S:
            why = f"its handshake took more than {HANDSHAKE_TIMEOUT_S:g} s"
            self._give_up(ConnectionLost(None, why), ErrorCode.H3_EXCESSIVE_LOAD, now)
            return
        try:
            self.quic.receive_datagram(data, address, now=now)
            self._total.may_have_less(self)
            self._received_bytes += len(data)
            if self._received_bytes % LOAD_CHECK_BYTES < len(data):
                self.quic.limit_load()
            self._process_events()
        except Exception:
            # Whatever a peer sends must not take the other connections down with it.
            if self.lost is None:
                logger.exception("Closing the connection with %s: it broke the parser", address)
            self._close_broken(now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Return the datagrams that are to be sent now, each with its address."""
        if self.state is ConnectionState.CLOSED:
            last_words, self._last_words = self._last_words, []
            return last_words
        if self.quic.get_peer_address() is None:
            return []  # until its first valid packet, a server's connection has nobody to send to
        if self._has_written:
            self._has_written = False
            self.quic.acknowledge_now()
        try:
            datagrams = self.quic.datagrams_to_send(now=now)
            if self._resets:
                # A reset drops what has not left yet; what was flushed before it has, just now.
                self._apply_resets()
                datagrams += self.quic.datagrams_to_send(now=now)
        except Exception:
            # No timer would ever end it.
            logger.exception("Giving up a connection: its packets cannot be built")
            why = ConnectionLost(None, "its packets could not be built")
            self._give_up(why, ErrorCode.H3_INTERNAL_ERROR, now)
            return self.datagrams_to_send(now)
        if self._waiting_writers:
            self._wake_writers()
        return datagrams

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is to be called; None where the connection is over."""
        if self.state is ConnectionState.CLOSED:
            return None
        deadline = self.quic.get_timer()
        if self.lost is not None or (self._silent_since is None and not self._headers_begun):
            return deadline
        ours = self._headers_are_due_at()
        if self._silent_since is not None:
            ours = min(ours, self._ask_at(self._silent_since))
        return ours if deadline is None else min(deadline, ours)

    def handle_timeout(self, now: float) -> None:
        """Do what is due: what `next_timeout` said has come; harmless before."""
        if self.state is ConnectionState.CLOSED:
            return
        if self._silent_since is not None and now >= self._ask_at(self._silent_since):
            self._ask_for_a_sign_of_life(now)
        if self.lost is None:
            self._refuse_late_headers(now)
        deadline = self.quic.get_timer()
        if deadline is not None and now >= deadline:
            try:
                self.quic.handle_timer(now=now)
                self._process_events()
            except Exception:
                if self.lost is None:
                    address = self._peer_address
                    logger.exception("Closing the connection with %s: its timer broke", address)
                self._close_broken(now)

    def _close_broken(self, now: float) -> None:
        if self.lost is not None:
            # It breaks in its closing period too: a timer would call for it again and again.
            self._give_up(self.lost, ErrorCode.H3_INTERNAL_ERROR, now)
            return
        self.quic.close(error_code=ErrorCode.H3_INTERNAL_ERROR)
        self._look_for_the_end()  # what else has arrived may break it again

    # ---- silence

    def _watch_over(self, now: float) -> None:
        """From now on, silence means death: somebody waits for the peer."""
        self._silent_since = now
        self._asked = 0

    def _ask_at(self, silent_since: float) -> float:
        """Return when a peer that has been silent since then is asked for a sign of life."""
        patience_s = KEEP_ALIVE_AFTER_S
        if self.is_client:
            soonest_s = max(CLIENT_ASKS_AFTER_S, self.quic.probe_timeout_s())
            patience_s = min(patience_s, soonest_s * 2**self._asked)
        return silent_since + patience_s

    def _ask_for_a_sign_of_life(self, now: float) -> None:
        if self.lost is not None or not self.open_streams():
            self._silent_since = None
        else:
            self._silent_since = now
            self._asked += 1
            self.quic.send_ping(0)

    def is_silent(self, now: float) -> bool:
        """Return whether nothing has come for so long that the peer may have gone meanwhile."""
        return (
            self.lost is None
            and now - self._received_at > TRUSTED_PROBE_TIMEOUTS * self.quic.probe_timeout_s()
        )

    def idle_for_too_long(self, now: float) -> bool:
        """Return whether the next `handle_timeout` ends this connection for its silence."""
        return self.lost is None and self.quic.idle_for_too_long(now)

    def gone_after_s(self) -> float:
        """Return how long a peer that was asked for a sign of life may take, in seconds."""
        return GONE_AFTER_PROBE_TIMEOUTS * self.quic.probe_timeout_s()

    def _watch_header(self, event: quic_events.QuicEvent) -> None:
        """Note that a request has begun whose header is not complete, or that it is now."""
        if self.is_client or not isinstance(event, STREAM_EVENTS) or event.stream_id % 4:
            return
        is_over = isinstance(event, quic_events.StreamReset) or event.end_stream
        if not is_over and self._http.awaits_header(event.stream_id):
            self._headers_begun.setdefault(event.stream_id, self._received_at)
        else:
            self._headers_begun.pop(event.stream_id, None)

    def _headers_are_due_at(self) -> float:
        return next(iter(self._headers_begun.values()), math.inf) + HEADER_TIMEOUT_S

    def _refuse_late_headers(self, now: float) -> None:
        while now >= self._headers_are_due_at():
            stream_id = next(iter(self._headers_begun))
            del self._headers_begun[stream_id]
            logger.info("The header on stream %d took more than %g s", stream_id, HEADER_TIMEOUT_S)
            self.send_reset(stream_id, ErrorCode.H3_REQUEST_INCOMPLETE)
            self.send_stop(stream_id, ErrorCode.H3_REQUEST_INCOMPLETE)
            self._http.forget(stream_id, both=True)
            self._refused.add(stream_id)

    def ping(self) -> int:
        """Ask the peer for a sign of life; `was_answered` tells of the number that is returned."""
        self._pings_sent += 1
        self.quic.send_ping(self._pings_sent)
        self._on_output(False)
        return self._pings_sent

    def was_answered(self, ping: int) -> bool:
        """Return whether a ping, or a later one, was answered."""
        return self._pings_answered >= ping

    # ---- events

    def _process_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if not isinstance(event, quic_events.StreamDataReceived):
                self._handle_quic_event(event)
                if self.state is ConnectionState.CLOSED:
                    return
            if not self._speaks_http or (self._refused and self._was_refused(event)):
                continue
            try:
                http_events = self._http.handle_event(event)
            except HeaderTooLarge as error:
                self._refuse_header(error, getattr(event, "end_stream", False))
                http_events = []
            self._watch_header(event)
            for http_event in http_events:
                self._handle_http_event(http_event)
        if self.is_client and self._http.goaway_id != self.goaway_id:
            self._obey_goaway()
        if self.lost is None and (reason := self.quic.why_closing()) is not None:
            self._lose(reason)

    def _handle_quic_event(self, event: quic_events.QuicEvent) -> None:
        """Give an event its meaning that carries no data; the HTTP/3 layer hears of it next."""
        match event:
            case quic_events.ProtocolNegotiated(alpn_protocol="h3"):
                self._http.begin()
                self._speaks_http = True
            case quic_events.HandshakeCompleted():
                self.alpn = event.alpn_protocol
                self.state = ConnectionState.OPEN
                self.quic.forget_handshake()
                self.quic.raise_datagram_size(self._max_send_bytes)
            case quic_events.PingAcknowledged():
                self._pings_answered = max(self._pings_answered, event.uid)
            case quic_events.ConnectionIdIssued():
                self._tell_connection_id(event.connection_id, True)
            case quic_events.ConnectionIdRetired():
                self._tell_connection_id(event.connection_id, False)
            case quic_events.StreamReset():
                if (stream := self.streams.get(event.stream_id)) is not None:
                    error = self._gone(event.stream_id, event.error_code, "RESET_STREAM")
                    stream.receiving.end(Half.RESET, error)
            case quic_events.StopSendingReceived():
                if (stream := self.streams.get(event.stream_id)) is not None:
                    # aioquic has reset our half already.
                    error = self._gone(event.stream_id, event.error_code, "STOP_SENDING")
                    self._stop_sending(stream, Half.STOPPED, error)
            case quic_events.ConnectionTerminated():
                reason = self.quic.why_closing()
                self._end(reason or ConnectionLost(event.error_code, event.reason_phrase))

    def _tell_connection_id(self, connection_id: bytes, is_ours: bool) -> None:
        if self._on_connection_id is not None:
            self._on_connection_id(connection_id, is_ours)

    def _gone(self, stream_id: int, error_code: int, frame: str) -> PeerError:
        if self.is_client:
            return StreamReset(stream_id, error_code, frame)
        text = f"it sent {frame} with {describe_code(error_code)}"
        return ClientDisconnected(stream_id, error_code, text)

    def _stop_sending(self, stream: HTTP3Stream, state: Half, error: PeerError) -> None:
        if stream.sending.end(state, error) and self._on_abandoned is not None:
            self._on_abandoned(stream)

    def _handle_http_event(self, event: H3Event) -> None:
        self._asked = 0
        match event:
            case DataReceived(stream_id=stream_id):
                stream = self.streams.get(stream_id)
                if stream is not None:
                    stream.receiving.feed_data(event.data)
            case HeadersReceived(stream_id=stream_id):
                stream = self.streams.get(stream_id)
                if stream is None:
                    stream = self._accept(event)
                elif dict(event.headers).get(b":status", b"")[:1] != b"1":
                    # 1xx is an interim response: another header follows (RFC 9114 section 4.1).
                    self._feed(stream, event.headers)
            case DatagramReceived(stream_id=stream_id):
                stream = self.streams.get(stream_id)
                if stream is not None:
                    stream.receiving.feed_datagram(event.data)
                return
            case _:
                return
        if event.stream_ended and stream is not None:
            try:
                stream.receiving.feed_fin()
            except MalformedMessage as error:
                self._refuse_message(stream, error)

    def _feed(self, stream: HTTP3Stream, fields: Fields) -> bool:
        """Hand a header section to its stream; False where it breaks the rules."""
        try:
            stream.receiving.feed_fields(fields)
        except MalformedMessage as error:
            self._refuse_message(stream, error)
            return False
        return True

    def _accept(self, event: HeadersReceived) -> HTTP3Stream | None:
        if self.is_client or b":method" not in dict(event.headers):
            return None  # an answer or trailers, and nobody waits for them any more
        self._last_request_id = max(self._last_request_id, event.stream_id)
        if self.quic.is_stopped(event.stream_id):
            # STOP_SENDING may overtake HEADERS: the client left before its request was here.
            self._http.forget(event.stream_id)
            if not event.stream_ended:
                self.send_stop(event.stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            return None
        stream = HTTP3Stream(self, event.stream_id)
        self.streams[event.stream_id] = stream
        if not self._feed(stream, event.headers):
            logger.info("Request refused: %s", stream.receiving.error)
            return stream
        self._watch_over(self._received_at)
        if self._on_request is not None:
            self._on_request(stream, event.headers, self._peer_address)
        return stream

    def _unread_bytes(self, stream_id: int) -> int:
        stream = self.streams.get(stream_id)
        unread_bytes = stream.receiving.unread_bytes if stream is not None else 0
        return unread_bytes + self._http.buffered_bytes(stream_id)

    # ---- refusing

    def _refuse_message(self, stream: HTTP3Stream, error: MalformedMessage) -> None:
        """The peer's message breaks the rules; its stream ends (RFC 9114 section 4.1.2)."""
        error = again(error)  # the halves keep it
        stream.receiving.end(Half.FINISHED, error)
        stream.sending.reset(ErrorCode.H3_MESSAGE_ERROR, error)
        if self._on_abandoned is not None:
            self._on_abandoned(stream)

    def _refuse_header(self, error: HeaderTooLarge, stream_ended: bool) -> None:
        """Give up a stream; a request gets 431 first (RFC 9114 section 4.2.2, RFC 6585)."""
        stream_id = error.stream_id
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._refuse_message(stream, error)
        elif self.is_client or error.is_trailer or self.quic.is_stopped(stream_id):
            self.send_reset(stream_id, ErrorCode.H3_MESSAGE_ERROR)
        else:
            logger.info("431: %s", error)
            self._http.send_headers(stream_id, [(b":status", b"431")], end_stream=True)
        self._http.forget(stream_id, both=True)
        if not stream_ended:
            self._refused.add(stream_id)
            self.send_stop(stream_id, ErrorCode.H3_EXCESSIVE_LOAD)
        self._has_written = True

    def _was_refused(self, event: quic_events.QuicEvent) -> bool:
        """Return whether an event is of a stream that was given up; its end is the last of it."""
        stream_id = getattr(event, "stream_id", None)
        if stream_id not in self._refused:
            return False
        if isinstance(event, quic_events.StreamReset) or getattr(event, "end_stream", False):
            self._refused.discard(stream_id)
        return True

    def _obey_goaway(self) -> None:
        """End the requests that the server has not looked at, and will not."""
        self.goaway_id = self._http.goaway_id
        assert self.goaway_id is not None, "it has come"
        for stream_id, stream in list(self.streams.items()):
            if stream_id >= self.goaway_id:
                error = StreamReset(stream_id, ErrorCode.H3_REQUEST_REJECTED, "GOAWAY")
                stream.receiving.end(Half.RESET, error)
                stream.sending.reset(ErrorCode.H3_REQUEST_CANCELLED, error)

    # ---- what a stream asks for (halves.py: Carrier)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Write one DATA frame; it leaves with the next `flush`."""
        self._http.send_data(stream_id, data, end_stream=False)
        self._total.add(self, len(data))
        self._has_written = True

    def send_fields(self, stream_id: int, fields: Fields, end_stream: bool) -> None:
        """Write one HEADERS frame, with FIN if asked; it leaves with the next `flush`."""
        self._http.send_headers(stream_id, fields, end_stream)
        self._has_written = True

    def send_fin(self, stream_id: int) -> None:
        """Finish a stream; that leaves with the next `flush`."""
        self._http.finish(stream_id)
        self._has_written = True

    def send_reset(self, stream_id: int, error_code: int) -> None:
        """Send RESET_STREAM, after what was written before."""
        if self.lost is None:
            self._resets[stream_id] = error_code
            self._has_written = True
            self._on_output(False)

    def _apply_resets(self) -> None:
        for stream_id, error_code in self._resets.items():
            self.quic.reset_stream(stream_id, error_code)
            self._http.forget(stream_id)
        self._resets.clear()

    def send_stop(self, stream_id: int, error_code: int) -> None:
        """Send STOP_SENDING."""
        if self.lost is None:
            self.quic.stop_stream(stream_id, error_code)
            self._has_written = True
            self._on_output(False)

    def send_datagram(self, stream_id: int, payload: bytes) -> None:
        """Send one HTTP datagram."""
        self._http.send_datagram(stream_id, payload)
        self._has_written = True
        self._on_output(False)

    def max_datagram_bytes(self, stream_id: int) -> int | None:
        """Return how long a datagram's payload may be; 0 where the peer takes none.

        None before its SETTINGS have come, which say so (RFC 9297 section 2.1.1).
        """
        if self._http.received_settings is None:
            return None
        if not self._http.received_settings.get(Setting.H3_DATAGRAM):
            return 0
        return self.quic.max_datagram_payload_bytes(stream_id)

    def wake_when_acknowledged(self, half: SendingHalf) -> None:
        """Call the half's `wake` when it may write again."""
        self._waiting_writers.add(half)

    def _wake_writers(self) -> None:
        for half in [half for half in self._waiting_writers if half.may_write()]:
            self._waiting_writers.discard(half)
            half.wake()

    def data_was_read(self, stream_id: int) -> None:
        """Let the peer send more where the reader has made room for it."""
        if self.lost is None:
            self._total.credit.may_have_less(self)
            if self.quic.grant_due(stream_id):
                self._on_output(False)

    # ---- the total

    def credit_bytes(self) -> int:
        """Return how much has arrived unread or may still come."""
        unread_bytes = sum(stream.receiving.unread_bytes for stream in self.streams.values())
        return self.quic.ahead_bytes() + unread_bytes + self._http.buffered_bytes_of_all()

    def _more_credit(self, size_bytes: int) -> int:
        return self._total.credit.more(self, size_bytes)

    def held_bytes(self) -> int:
        """Return how much was written that the peer has not acknowledged."""
        return self.quic.held_bytes()

    def may_write(self, stream_id: int) -> bool:
        """Return whether so much of a stream has left and was acknowledged that it takes more."""
        if self._total.is_exceeded():
            return self.quic.unacknowledged_bytes(stream_id) <= SMALL_PIECE_BYTES
        return self.quic.may_write(stream_id)

    def piece_bytes(self) -> int:
        """Return how much a stream takes at once."""
        return SMALL_PIECE_BYTES if self._total.is_exceeded() else MAX_DATA_FRAME_BYTES

    # ---- requests

    def why_closed_to_requests(self) -> ConnectionLost | None:
        """Return why this connection takes no request any more, None where it does."""
        if self.lost is None and self.goaway_id is not None:
            return ConnectionLost(None, "the server takes no more requests on it (GOAWAY)")
        return self.lost

    def can_open_stream(self) -> bool:
        """Return whether the peer allows one more request now (RFC 9000 section 4.6)."""
        return self.why_closed_to_requests() is None and self.quic.stream_available()

    def open_stream(self, fields: Fields, end_stream: bool, now: float) -> HTTP3Stream:
        """Send a request's header and return its stream, where `can_open_stream`. For clients."""
        stream_id = self.quic.get_next_available_stream_id()
        stream = HTTP3Stream(self, stream_id, answers_head=(b":method", b"HEAD") in fields)
        self.streams[stream_id] = stream
        stream.sending.write_header(fields, end_stream)
        self._watch_over(now)
        self._on_output(True)
        return stream

    def refuse_new_requests(self) -> None:
        """Tell a client that this connection takes no more requests (GOAWAY, RFC 9114, 5.2)."""
        if self._speaks_http and self.lost is None:
            self._http.send_goaway(self._last_request_id + 4)
            self._on_output(False)

    def open_streams(self) -> list[HTTP3Stream]:
        """Return the streams that can still carry something and that somebody holds."""
        return [stream for stream in list(self.streams.values()) if stream.is_open]

    def is_busy(self) -> bool:
        """Return whether data is on its way, or a stream that was taken over is still open."""
        return self.lost is None and (
            bool(self._resets)
            or self.quic.has_unacknowledged_data()
            or any(stream.sending.is_taken_over for stream in self.open_streams())
        )

    @property
    def _peer_address(self) -> Address:
        """Where the peer is; empty before the first valid packet."""
        return self.quic.get_peer_address() or ()

    # ---- the end

    def close(self, error_code: int = ErrorCode.H3_NO_ERROR, reason: str = "") -> None:
        """Close the connection (CONNECTION_CLOSE); streams still open are lost."""
        if self.state is not ConnectionState.CLOSED:
            self.quic.close(error_code=error_code, reason_phrase=reason)
            self._look_for_the_end()
            self._on_output(False)

    def _give_up(self, reason: ConnectionLost, error_code: int, now: float) -> None:
        """End at once, without a closing period; the peer is told where a packet can be built."""
        self.quic.close(error_code=error_code, reason_phrase=reason.reason)
        try:
            self._last_words = self.quic.datagrams_to_send(now=now)
        except Exception as error:  # noqa: BLE001 - what is broken may be anything
            logger.info("The peer cannot be told of the end: %r", error)
        self._end(reason)

    def abandon(self, reason: str) -> None:
        """Give the connection up, where the other end is gone or has been told."""
        self._end(ConnectionLost(None, reason))

    def _look_for_the_end(self) -> None:
        reason = self.quic.why_closing()
        if reason is not None:
            self._lose(reason)

    def _lose(self, reason: ConnectionLost) -> None:
        """Tell every stream, as soon as it is known that the connection ends."""
        if self.lost is not None:
            return
        self.state = ConnectionState.CLOSING
        self.lost = reason
        self.peer_certificate = self.quic.peer_certificate
        for stream in list(self.streams.values()):
            error: PeerError = reason
            if not self.is_client:
                text = str(reason).rstrip(".")
                error = ClientDisconnected(stream.stream_id, reason.code, text)
            stream.receiving.end(Half.LOST, error)
            self._stop_sending(stream, Half.LOST, error)
        self._waiting_writers.clear()

    def _end(self, reason: ConnectionLost) -> None:
        """Note that nothing is sent or received any more."""
        self._lose(reason)
        if self.state is not ConnectionState.CLOSED:
            self.state = ConnectionState.CLOSED
            self._on_output(False)
            self._total.forget(self)
            self._let_go()

    def _let_go(self) -> None:
        """Hold nothing that holds this connection, so that it is freed without a collection."""
        self._on_output = self.flush = _nothing
        self._on_request = self._on_abandoned = self._on_connection_id = None
        self.quic.dismantle()


def _nothing(now: bool) -> None:
    """What a closed connection has to send."""
