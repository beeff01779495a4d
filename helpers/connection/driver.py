"""The loop around a connection: datagrams in, datagrams out, timers between.

`HTTP3Connection` (http3.py) is the protocol without any I/O; this is the part that talks to the
network, and the only one that knows the loop.

What is written leaves at the end of the loop's turn, so that all writes of a turn share packets;
what is flushed does not wait for that.
"""

import asyncio
from collections.abc import Callable

from aioquic.quic.configuration import QuicConfiguration

from helpers.clock import Alarm, now_s
from helpers.connection.configuration import MAX_DATAGRAM_BYTES, Address
from helpers.connection.http3 import ConnectionState, HTTP3Connection, OnRequest
from helpers.connection.total import Total
from helpers.errors import again
from helpers.stream import Fields, HTTP3Stream


class Driver:
    """Drives one HTTP/3 connection on the running loop.

    `send(data, address)` puts one datagram on the network; `on_closed()` is called when nothing
    more is sent; `read_waiting()` hands over what has arrived and was not received yet. The other
    parameters are those of `HTTP3Connection`, which is `connection`.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        send: Callable[[bytes, Address], None],
        on_closed: Callable[[], None],
        read_waiting: Callable[[], None],
        on_request: OnRequest | None = None,
        on_abandoned: Callable[[HTTP3Stream], None] | None = None,
        on_connection_id: Callable[[bytes, bool], None] | None = None,
        max_send_bytes: int = MAX_DATAGRAM_BYTES,
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
        total: Total | None = None,
    ) -> None:
        self.connection = HTTP3Connection(
            configuration,
            self.flush,
            on_request,
            on_abandoned,
            on_connection_id,
            max_send_bytes,
            original_id,
            retry_id,
            total,
        )
        self._send = send
        self._on_closed = on_closed
        self._read_waiting = read_waiting
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop)
        self._transmit_handle: asyncio.Handle | None = None
        self._flushed = False
        self._is_over = False
        self._doubt: asyncio.TimerHandle | None = None
        # Set where something may have changed that somebody waits for.
        self._changed = asyncio.Event()
        self._may_open = asyncio.Event()
        self._openers = 0  # who waits for that

    # ---- datagrams

    def receive(self, data: bytes, address: Address) -> None:
        """Take one datagram from the network."""
        self.connection.receive(data, address, now_s())
        self.flush(False)

    def flush(self, now: bool) -> None:
        """Send what is due, at once where `now` is true, else at the end of this turn of the loop.

        Of several in one turn only the first is at once.
        """
        if now and not self._flushed:
            self._flushed = True
            self._loop.call_soon(self._end_turn)
            self.transmit()
        elif self._transmit_handle is None:
            self._transmit_handle = self._loop.call_soon(self.transmit)

    def _end_turn(self) -> None:
        self._flushed = False

    def transmit(self) -> int:
        """Send what is due now; return how many datagrams that were."""
        if self._transmit_handle is not None:
            self._transmit_handle.cancel()
            self._transmit_handle = None
        datagrams = self.connection.datagrams_to_send(now_s())
        for data, address in datagrams:
            self._send(data, address)
        self._follow()
        return len(datagrams)

    def _follow(self) -> None:
        """Do what the connection's new state asks for: set the timer, wake who waits, or end."""
        self._changed.set()
        if self._openers and (
            self.connection.can_open_stream() or self.connection.why_closed_to_requests()
        ):
            self._may_open.set()
        deadline = self.connection.next_timeout()
        if deadline is not None:
            self._alarm.set(deadline, self._on_timer)
        elif self.connection.state is ConnectionState.CLOSED:
            self._end()

    def _on_timer(self) -> None:
        now, deadline = now_s(), self.connection.next_timeout()
        if deadline is not None and now < deadline:  # it was moved back meanwhile
            self._alarm.set(deadline, self._on_timer)
            return
        if self.connection.idle_for_too_long(now):
            # Where this process stood still for long (a lid was closed, Ctrl-Z), time has passed
            # that nobody listened in: what came meanwhile counts first.
            self._read_waiting()
        self.connection.handle_timeout(now)
        self.transmit()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._alarm.cancel()
            if self._doubt is not None:
                self._doubt.cancel()
                self._doubt = None
            if self._transmit_handle is not None:
                self._transmit_handle.cancel()
                self._transmit_handle = None
            on_closed = self._on_closed
            # Who owns this driver is in these, and holds it.
            self._send, self._on_closed = _send_nothing, _tell_nobody
            self._read_waiting = _tell_nobody
            on_closed()

    # ---- beginning

    async def connect(self, address: Address) -> None:
        """Shake hands with a server; raises ConnectionLost where that fails."""
        self.connection.connect(address, now_s())
        self.transmit()
        while self.connection.state is ConnectionState.CONNECTING:
            self._changed.clear()
            await self._changed.wait()
        if self.connection.lost is not None:
            raise again(self.connection.lost)

    def is_silent(self) -> bool:
        """Return whether nothing has come for so long that the peer may have gone meanwhile."""
        return self.connection.is_silent(now_s())

    async def is_alive(self) -> bool:
        """Ask the peer for a sign of life; return whether the connection takes requests."""
        connection = self.connection
        ping = connection.ping()
        try:
            async with asyncio.timeout(connection.gone_after_s()):
                while connection.lost is None and not connection.was_answered(ping):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return connection.why_closed_to_requests() is None

    def ask(self, on_end: Callable[[bool, float], None]) -> asyncio.TimerHandle:
        """Ask the peer for a sign of life; the handle that is returned ends the waiting for it.

        `on_end(is_alive, seconds)` is called when it has had so many seconds to answer.
        """
        wait_s = self.connection.gone_after_s()
        return self._loop.call_later(wait_s, self._judge, self.connection.ping(), wait_s, on_end)

    def _judge(self, ping: int, waited_s: float, on_end: Callable[[bool, float], None]) -> None:
        self._read_waiting()  # as above
        on_end(self.connection.was_answered(ping), waited_s)

    def doubt(self, reason: str) -> None:
        """Abandon the connection unless its peer gives a sign of life.

        The system may say that nobody listens where only a datagram was lost, or somebody lied.
        """

        def judge(is_alive: bool, waited_s: float) -> None:
            self._doubt = None
            if not is_alive:
                self.abandon(reason)

        if self._doubt is None and self.connection.lost is None:
            self._doubt = self.ask(judge)

    async def open_stream(self, fields: Fields, end_stream: bool = False) -> HTTP3Stream:
        """Send a request's header and return its stream; waits while the peer allows no more.

        Raises ConnectionLost where the connection takes no request any more: then nothing was sent.
        For clients.
        """
        while not self.connection.can_open_stream():
            closed = self.connection.why_closed_to_requests()
            if closed is not None:
                raise again(closed)
            self._may_open.clear()
            self._openers += 1
            try:
                await self._may_open.wait()
            finally:
                self._openers -= 1
        return self.connection.open_stream(fields, end_stream, now_s())

    # ---- the end

    async def drain(self) -> None:
        """Wait until streams that were taken over are closed and all data is acknowledged."""
        while self.connection.is_busy():
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Close the connection at once (CONNECTION_CLOSE); streams still open are lost."""
        self.transmit()  # what was written or reset just now
        self.connection.close()
        self.transmit()

    def abandon(self, reason: str) -> None:
        """Give the connection up, where the other end is gone or has been told.

        What it still has to say leaves first: whoever hears that a handshake failed gives up at
        once, and the CONNECTION_CLOSE with the reason may not have left by then.
        """
        self.transmit()
        self.connection.abandon(reason)
        self._follow()


def _send_nothing(data: bytes, address: Address) -> None:
    """What a driver sends that has ended."""


def _tell_nobody() -> None:
    """Whom it tells."""
