"""The loop around aioquic: datagrams in, datagrams out, timers between.

aioquic's `QuicConnection` is the QUIC protocol without any I/O (RFC 9000): it is told what arrived
and what time it is, and it tells what to send and when to ask again. This is the part that talks to
the network. What the events mean is up to the subclass (connection.py).

What is written leaves at the end of the loop's turn, so that all writes of a turn share packets;
`push` does not wait for that.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from enum import Enum

from aioquic.h3.connection import ErrorCode
from aioquic.quic import events as quic_events
from aioquic.quic.connection import QuicConnection

from helpers.clock import Alarm, now_s
from helpers.connection.aioquic_inside import flow_control
from helpers.connection.udp import MAX_DATAGRAM_BYTES, Address
from helpers.errors import ConnectionLost

logger = logging.getLogger("helpers.connection")

# aioquic logs what a peer did wrong as a warning. Here that becomes an exception or a line of our
# own, so without this a learner would read everything twice.
logging.getLogger("quic").addHandler(logging.NullHandler())

# A peer that vanished is noticed within 10 s while a request is open: after at most 3 s of silence
# a PING asks for a sign of life, and 7 s later the connection counts as lost.
IDLE_TIMEOUT_S = 7.0
KEEP_ALIVE_AFTER_S = 2.0
KEEP_ALIVE_CHECK_S = 1.0
HANDSHAKE_TIMEOUT_S = 10.0  # however talkative the peer is


class State(Enum):
    """The life of a connection (RFC 9000 sections 7 and 10)."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class QUICDriver:
    """Drives one QUIC connection on the running loop; a subclass gives its events a meaning.

    `send(data, address)` puts one datagram on the network. `connected` is done when the handshake
    is, or fails with ConnectionLost. `lost` says why the connection ended, None while it has not.
    `on_event(event)` sees each QUIC event last, `on_closed()` is called when nothing more is sent.
    `max_send_bytes` is the longest datagram that `send` takes.
    """

    def __init__(
        self,
        quic: QuicConnection,
        send: Callable[[bytes, Address], None],
        on_event: Callable[[quic_events.QuicEvent], None] | None = None,
    ) -> None:
        self.quic = quic
        self.is_client = quic.configuration.is_client
        self.state = State.CONNECTING
        self.lost: ConnectionLost | None = None
        self.alpn: str | None = None
        self.on_closed: Callable[[], None] = lambda: None
        self.max_send_bytes = MAX_DATAGRAM_BYTES
        self._loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = self._loop.create_future()
        self._send = send
        self._on_event = on_event
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._ping_ids = itertools.count(1)
        self._has_written = False
        self._pushed = False
        self._transmit_handle: asyncio.Handle | None = None
        self._alarm = Alarm(self._loop)
        self._keep_alive_timer: asyncio.TimerHandle | None = None
        self._received_at = self._begun_at = now_s()
        self._received_bytes = 0

    # ---- for the subclass

    def handle_event(self, event: quic_events.QuicEvent) -> None:
        """Give one event its meaning; called for each, in order."""
        raise NotImplementedError

    def transmitted(self) -> None:
        """Called after each transmission: what was acknowledged has made room."""

    def connection_lost(self, reason: ConnectionLost) -> None:
        """Called once, as soon as it is known that the connection ends."""

    def in_use(self) -> bool:
        """Return whether somebody waits for the peer, so that its silence matters."""
        return False

    # ---- datagrams

    def receive(self, data: bytes, address: Address) -> None:
        """Take one datagram from the network."""
        if self.lost is not None:
            return
        self._received_at = now = now_s()
        if self.state is State.CONNECTING and now - self._begun_at > HANDSHAKE_TIMEOUT_S:
            self.abandon(f"its handshake took more than {HANDSHAKE_TIMEOUT_S:g} s")
            return
        try:
            self.quic.receive_datagram(data, address, now=now)
            self._received_bytes += len(data)
            if self._received_bytes % flow_control.LOAD_CHECK_BYTES < len(data):
                flow_control.limit_load(self.quic)
            self._process_events()
        except Exception:
            # Whatever a peer sends must not take the other connections down with it.
            logger.exception("Closing the connection with %s: it broke the parser", address)
            self.quic.close(error_code=ErrorCode.H3_INTERNAL_ERROR)
            self._look_for_the_end()  # what else has arrived may break it again
        self.transmit_soon()

    def written(self) -> None:
        """Send what was just written at the end of this turn of the loop."""
        self._has_written = True
        self.transmit_soon()

    def push(self) -> None:
        """Send what was written now; a second push in one turn of the loop waits for its end."""
        if self._pushed:
            self.transmit_soon()
        else:
            self._pushed = True
            self._loop.call_soon(self._end_turn)
            self.transmit()

    def _end_turn(self) -> None:
        self._pushed = False

    def transmit_soon(self) -> None:
        """Send what is due, if anything is, at the end of this turn of the loop."""
        if self._transmit_handle is None:
            self._transmit_handle = self._loop.call_soon(self.transmit)

    def transmit(self) -> int:
        """Send what is due now; return how many datagrams that were."""
        if self._transmit_handle is not None:
            self._transmit_handle.cancel()
            self._transmit_handle = None
        # Until its first valid packet, a server's connection has nobody to send to.
        if self.state is State.CLOSED or self.quic.get_peer_address() is None:
            return 0
        if self._has_written:
            self._has_written = False
            flow_control.acknowledge_now(self.quic)
        try:
            datagrams = self.quic.datagrams_to_send(now=now_s())
        except Exception:
            # No timer would ever end it.
            logger.exception("Giving up a connection: its packets cannot be built")
            self._end(ConnectionLost(None, "its packets could not be built"))
            return 0
        for data, address in datagrams:
            self._send(data, address)
        if self.state is State.CLOSED:  # the system said that nobody is there
            return len(datagrams)
        self._arm_timer()
        self.transmitted()
        return len(datagrams)

    # ---- time

    def _arm_timer(self) -> None:
        deadline = self.quic.get_timer()
        if deadline is None:
            self._cancel_timers()
        else:
            self._alarm.set(deadline, self._on_timer)

    def _on_timer(self) -> None:
        now, deadline = now_s(), self.quic.get_timer()
        if deadline is not None and now < deadline:
            self._arm_timer()
            return
        self.quic.handle_timer(now=now)
        self._process_events()
        self.transmit()

    def keep_alive(self) -> None:
        """Watch over the connection while it is `in_use`, so that silence means death."""
        if self._keep_alive_timer is None and self.lost is None:
            self._keep_alive_timer = self._loop.call_later(KEEP_ALIVE_CHECK_S, self._check_alive)

    def _check_alive(self) -> None:
        self._keep_alive_timer = None
        if self.lost is not None or not self.in_use():
            return
        if now_s() - self._received_at >= KEEP_ALIVE_AFTER_S:
            self.quic.send_ping(0)
            self.transmit_soon()
        self.keep_alive()

    def _cancel_timers(self) -> None:
        self._alarm.cancel()
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.cancel()
            self._keep_alive_timer = None

    async def is_alive(self, trust_s: float, timeout_s: float) -> bool:
        """Return whether the connection can be used.

        After `trust_s` seconds of silence the peer is asked, and has `timeout_s` to answer.
        """
        if self.lost is not None:
            return False
        if now_s() - self._received_at < trust_s:
            return True
        uid = next(self._ping_ids)
        self._pings[uid] = answer = self._loop.create_future()
        self.quic.send_ping(uid)
        self.transmit_soon()
        try:
            async with asyncio.timeout(timeout_s):
                await answer
        except (TimeoutError, ConnectionLost):
            return False
        finally:
            self._pings.pop(uid, None)
        return True

    # ---- events

    def _process_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            match event:
                case quic_events.HandshakeCompleted():
                    self.alpn = event.alpn_protocol
                    self.state = State.OPEN
                    flow_control.forget_handshake(self.quic)
                    flow_control.raise_datagram_size(self.quic, self.max_send_bytes)
                    _settle(self.connected)
                case quic_events.PingAcknowledged():
                    _settle(self._pings.get(event.uid))
                case quic_events.ConnectionTerminated():
                    self._end(_reason(event))
            self.handle_event(event)
            if self._on_event is not None:
                self._on_event(event)
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        closing = flow_control.close_event(self.quic)
        if closing is not None:
            self._lose(_reason(closing))

    def _lose(self, reason: ConnectionLost) -> None:
        if self.lost is not None:
            return
        self.state = State.CLOSING
        self.lost = reason
        for waiting in (self.connected, *self._pings.values()):
            _settle(waiting, self.lost)
        self.connection_lost(self.lost)

    # ---- the end

    def close(self, error_code: int = ErrorCode.H3_NO_ERROR, reason: str = "") -> None:
        """Close the connection at once (CONNECTION_CLOSE); streams still open are lost."""
        self.quic.close(error_code=error_code, reason_phrase=reason)
        self._process_events()
        self.transmit()

    def abandon(self, reason: str) -> None:
        """Give the connection up, where the other end is gone or has been told.

        What it still has to say leaves first: whoever hears that a handshake failed gives up at
        once, and the CONNECTION_CLOSE with the reason may not have left by then.
        """
        self.transmit()
        self._end(ConnectionLost(None, reason))

    def _end(self, reason: ConnectionLost) -> None:
        self._lose(reason)
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._cancel_timers()
            self.on_closed()


def _reason(closing: quic_events.ConnectionTerminated) -> ConnectionLost:
    if closing.reason_phrase == "Idle timeout":  # aioquic's own words; no code came from the peer
        return ConnectionLost(None, f"nothing came for {IDLE_TIMEOUT_S:g} s, the peer has vanished")
    return ConnectionLost(
        closing.error_code, closing.reason_phrase, transport=closing.frame_type is not None
    )


def _settle(waiting: "asyncio.Future[None] | None", error: Exception | None = None) -> None:
    if waiting is None or waiting.done():
        return
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)
        waiting.exception()  # retrieved: often nobody waits
