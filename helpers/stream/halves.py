"""The two halves of a stream, and the ways in which each can end.

A QUIC stream is two one-way byte streams (RFC 9000 section 2.1). Each ends in its own way: its
writer finishes it (FIN) or resets it (RESET_STREAM), its reader asks to stop (STOP_SENDING), or the
connection is lost. `Half` names these ends.

Everything here runs on the connection's loop, so nothing needs a lock.
"""

import asyncio
import warnings
from enum import Enum
from typing import Any, Protocol

from aioquic.h3.connection import ErrorCode

from helpers.errors import MalformedMessage, PeerError, StreamReset, UsageError, again
from helpers.stream.fields import Fields, content_length

# A longer write leaves as several DATA frames, so that memory stays bounded.
MAX_DATA_FRAME_BYTES = 256 * 1024
# A writer lets the loop's other tasks run after so many writes.
WRITES_PER_TURN = 64

# HTTP datagrams may be lost (RFC 9297 section 2); those that nobody fetches are.
MAX_WAITING_DATAGRAMS = 256
MAX_WAITING_DATAGRAM_BYTES = 128 * 1024


# RFC 9000 section 16: the largest number that a frame can carry.
MAX_ERROR_CODE = 2**62 - 1


def check_code(error_code: int) -> None:
    """Raise UsageError where this cannot be sent as an error code."""
    if not isinstance(error_code, int) or not 0 <= error_code <= MAX_ERROR_CODE:
        raise UsageError(
            f"{error_code!r} is no error code: a number from 0 to 2**62 - 1, RFC 9000 section 16."
        )


class Half(Enum):
    """The life of one direction of a stream (RFC 9000 section 3)."""

    OPEN = "open"
    FINISHED = "finished by its writer"
    RESET = "reset by its writer"
    STOPPED = "stopped by its reader"
    LOST = "lost with its connection"


class Carrier(Protocol):
    """What a stream needs of the connection that carries it (helpers/connection/http3.py).

    What is sent leaves with the next `flush`, at once where `now` is true; resets, stops and
    datagrams see to that themselves.
    """

    def send_data(self, stream_id: int, data: bytes) -> None: ...
    def send_fields(self, stream_id: int, fields: Fields, end_stream: bool) -> None: ...
    def send_fin(self, stream_id: int) -> None: ...
    def flush(self, now: bool) -> None: ...
    def send_reset(self, stream_id: int, error_code: int) -> None: ...
    def send_stop(self, stream_id: int, error_code: int) -> None: ...
    def send_datagram(self, stream_id: int, payload: bytes) -> None: ...
    def max_datagram_bytes(self, stream_id: int) -> int | None: ...
    def may_write(self, stream_id: int) -> bool: ...
    def piece_bytes(self) -> int: ...
    def wake_when_acknowledged(self, half: "SendingHalf") -> None: ...
    def data_was_read(self, stream_id: int) -> None: ...


class _OneWay:
    """What the two halves have in common: an end, and tasks that wait for what happens."""

    # There may be thousands: each takes as little as it can, and waits for nothing until it does.
    __slots__ = (
        "__weakref__",
        "_carrier",
        "_happened",
        "_told",
        "_waiting",
        "error",
        "state",
        "stream_id",
    )

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self.stream_id = stream_id
        self.state = Half.OPEN
        self.error: Exception | None = None
        self._carrier = carrier
        self._happened: asyncio.Event | None = None
        self._waiting: set[asyncio.Task[Any] | None] | None = None
        self._told = False

    def end(self, state: Half, error: PeerError) -> bool:
        """Note that the peer or the network ended this half; True where that is news."""
        if self.state is not Half.OPEN:
            return False
        self.state, self.error = state, error
        self.wake()
        return True

    def is_awaited_by(self, task: "asyncio.Task[Any]") -> bool:
        """Return whether a task waits for this half; then it is told of its end by an exception."""
        return self._waiting is not None and task in self._waiting

    def wake(self) -> None:
        """Let everybody look again who waits for this half."""
        if self._happened is not None:
            self._happened.set()

    async def _end_is_told(self) -> None:
        """Let others run before somebody is told of the end who was told already.

        A loop that tries again and again, whatever it is told, would keep the loop for itself.
        """
        if self._told:
            await asyncio.sleep(0)
        self._told = True

    async def _pause(self) -> None:
        """Wait for the next `wake`."""
        if self._happened is None or self._waiting is None:
            self._happened, self._waiting = asyncio.Event(), set()
        self._happened.clear()
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            await self._happened.wait()
        finally:
            self._waiting.discard(task)


class SendingHalf(_OneWay):
    """What this side writes. A writer waits while its reader is slow."""

    __slots__ = ("_discards_data", "_owner", "_writes_in_turn")

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        super().__init__(carrier, stream_id)
        self._writes_in_turn = 0
        # Who took the stream over ("GET /stream"), for the warning when nobody closes it.
        self._owner: str | None = None
        self._discards_data = False

    def check(self) -> None:
        """Raise where nothing can be written any more: why the peer left, or UsageError."""
        if self.error is not None:
            raise again(self.error)
        if self.state is not Half.OPEN:
            raise UsageError(
                f"Stream {self.stream_id} is {self.state.value}: nothing can be written any more."
            )

    # ---- writing

    def may_write(self) -> bool:
        """Return whether so much has left and was acknowledged that a writer need not wait."""
        return self._carrier.may_write(self.stream_id)

    async def wait(self) -> None:
        """Wait while too much of this stream is on its way; raises as `check`.

        To a peer on this machine that is more than 256 KiB, at a distance what the line takes
        (aioquic_inside/quic.py: may_write).
        """
        if self.state is not Half.OPEN:
            await self._end_is_told()
            self.check()
        self._writes_in_turn += 1
        if self._writes_in_turn >= WRITES_PER_TURN:
            # A writer that never has to wait must not keep the loop for itself.
            self._writes_in_turn = 0
            asyncio.get_running_loop().call_soon(self.wake)
            await self._pause()
            self.check()
        while not self._carrier.may_write(self.stream_id):
            self._carrier.wake_when_acknowledged(self)
            await self._pause()
            self.check()

    async def write(self, data: bytes) -> None:
        """Write one DATA frame (RFC 9114 section 7.2.1), or several above 256 KiB; see `flush`.

        Waits as `wait` does, before each. They are smaller where the connections of this server
        hold much already (helpers/connection/total.py).
        """
        await self.wait()
        start = 0
        while start < len(data):
            if start:
                self._carrier.flush(now=False)
                await self.wait()
            piece = data[start : start + self._carrier.piece_bytes()]
            if not self._discards_data:
                self._carrier.send_data(self.stream_id, piece)
            start += len(piece)

    def write_header(self, fields: Fields, end_stream: bool = False) -> None:
        """Write a header section (HEADERS frame, RFC 9114 section 7.2.2), with FIN if asked."""
        if end_stream:
            self.finish(fields)
        else:
            self.check()
            self._carrier.send_fields(self.stream_id, fields, end_stream=False)

    def flush(self, now: bool = True) -> None:
        """Let what was written leave: now, or with what else is written in this turn."""
        self._carrier.flush(now)

    def finish(self, fields: Fields) -> None:
        """Write FIN, with a last header section where there is one."""
        self.check()
        if fields:
            self._carrier.send_fields(self.stream_id, fields, end_stream=True)
        else:
            self._carrier.send_fin(self.stream_id)
        self.state = Half.FINISHED  # not before: fields that cannot be encoded leave it open

    def reset(self, error_code: int, error: PeerError | None = None) -> None:
        """Send RESET_STREAM, unless this half has ended; `error` is what a writer is told then."""
        check_code(error_code)
        if self.state is Half.OPEN:
            self.state, self.error = Half.RESET, error
            self._carrier.send_reset(self.stream_id, error_code)
            self.wake()

    # ---- datagrams

    async def wait_for_datagram_limit(self) -> int:
        """Return how long a datagram may be; waits until the peer has said what it takes.

        That comes with its handshake, or later where a packet was lost. Raises as `check`.
        """
        while (limit_bytes := self._carrier.max_datagram_bytes(self.stream_id)) is None:
            self._carrier.wake_when_acknowledged(self)
            await self._pause()
            self.check()
        return limit_bytes

    # ---- owning

    def take_over(self, owner: str, discards_data: bool) -> None:
        """Note who writes from now on, and whether what is written is dropped (HEAD)."""
        self._owner, self._discards_data = owner, discards_data

    @property
    def is_taken_over(self) -> bool:
        """Whether somebody took this half over and has not ended it."""
        return self._owner is not None and self.state is Half.OPEN

    def warn_if_open(self) -> None:
        """Warn with a ResourceWarning where this half was taken over and never closed."""
        if self.is_taken_over:
            warnings.warn(
                f"Stream {self.stream_id} of {self._owner} was taken over and never closed: its "
                "client still waits. Use `async with stream:`.",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self._owner = None


class ReceivingHalf(_OneWay):
    """What the peer writes: header, data, trailers, datagrams, in the order in which they came.

    `unread_bytes` is what has arrived and was not read; the receive window follows it. Where
    `answers_head`, the header's content-length says nothing of the body.
    """

    __slots__ = (
        "_answers_head",
        "_chunks",
        "_datagrams",
        "_expected_bytes",
        "_interruptions",
        "_received_bytes",
        "chunks_read",
        "header",
        "trailers",
        "unread_bytes",
    )

    def __init__(self, carrier: Carrier, stream_id: int, answers_head: bool = False) -> None:
        super().__init__(carrier, stream_id)
        self.unread_bytes = 0
        self.chunks_read = 0
        self.header: Fields | None = None
        self.trailers: Fields = []
        self._datagrams: list[bytes] = []
        # What the content-length says, where it describes this body, and what has come.
        self._expected_bytes: int | None = None
        self._received_bytes = 0
        self._answers_head = answers_head
        self._chunks: list[bytes] = []
        # By task; what it is told instead of what it waits for.
        self._interruptions: dict[asyncio.Task[Any] | None, Exception] | None = None

    # ---- reading

    async def wait(self) -> None:
        """Wait for news; raises where none can come: why the peer left, or UsageError."""
        if self.state is not Half.OPEN or self.error is not None:
            await self._end_is_told()
        if self.error is not None:
            raise self._error_to_raise()
        if self.state is not Half.OPEN:
            raise UsageError(f"Stream {self.stream_id} is {self.state.value}: nothing comes.")
        try:
            await self._pause()
        finally:
            interruption = None
            if self._interruptions is not None:
                interruption = self._interruptions.pop(asyncio.current_task(), None)
        if interruption is not None:
            raise again(interruption)

    def _error_to_raise(self) -> Exception:
        error = self.error
        assert error is not None, "asked where there is one"
        if isinstance(error, PeerError | UsageError):
            return again(error)
        # Somebody's own, which is handed over whole, and therefore not kept.
        self.error = UsageError(f"Stream {self.stream_id} was given up: {error!r}.")
        return error

    def interrupt(self, task: "asyncio.Task[Any]", error: Exception) -> bool:
        """Raise `error` in a task that waits for this half; False where it does not."""
        if not self.is_awaited_by(task):
            return False
        if self._interruptions is None:
            self._interruptions = {}
        self._interruptions[task] = error
        self.wake()
        return True

    async def take_chunk(self) -> bytes | None:
        """Return the next chunk, None at the end."""
        while not self._chunks:
            if self.state is not Half.OPEN and self.error is None:
                await self._end_is_told()
                return None
            await self.wait()
        chunk = self._chunks.pop(0)
        self.chunks_read += 1
        self.unread_bytes -= len(chunk)
        self._carrier.data_was_read(self.stream_id)
        return chunk

    async def take_all(self) -> list[bytes]:
        """Return all chunks that have arrived, at least one; an empty list at the end."""
        while not self._chunks:
            if self.state is not Half.OPEN and self.error is None:
                await self._end_is_told()
                return []
            await self.wait()
        chunks, self._chunks = self._chunks, []
        self.chunks_read += len(chunks)
        self.unread_bytes = 0
        self._carrier.data_was_read(self.stream_id)
        return chunks

    def take_rest(self) -> list[bytes] | None:
        """Return what is left where all of it has come without an error, None otherwise.

        Nothing arrives any more then, so any thread may call this.
        """
        if self.state is not Half.FINISHED or self.error is not None:
            return None
        chunks, self._chunks = self._chunks, []
        self.chunks_read += len(chunks)
        self.unread_bytes = 0
        return chunks

    async def take_header(self) -> Fields:
        """Return the header section that the peer sent first."""
        while self.header is None:
            await self.wait()
        return self.header

    async def take_datagram(self) -> bytes | None:
        """Return the next datagram, None where no more can come."""
        while not self._datagrams:
            if self.state is not Half.OPEN and self.error is None:
                await self._end_is_told()
                return None
            await self.wait()
        return self._datagrams.pop(0)

    @property
    def bytes_read(self) -> int:
        """How many bytes were taken."""
        return self._received_bytes - self.unread_bytes

    def stop(self, error_code: int) -> None:
        """Send STOP_SENDING, unless this half has ended, and drop what was not read."""
        check_code(error_code)
        self._drop()
        if self.state is Half.OPEN:
            self.state = Half.STOPPED
            self._carrier.send_stop(self.stream_id, error_code)
            self.wake()
        self._carrier.data_was_read(self.stream_id)  # what was dropped makes room, too

    def fail(self, error: Exception, error_code: int) -> None:
        """Do what `stop` does; who reads gets `error`, a fault of this side's."""
        if self.state is Half.OPEN:
            self.error = error
        self.stop(error_code)

    def _drop(self) -> None:
        self._chunks = []
        self.unread_bytes = 0

    # ---- arriving

    def feed_fields(self, fields: Fields) -> None:
        """Take a header section: the first is the header, a later one the trailers.

        Raises MalformedMessage where its content-length is none.
        """
        if self.header is None:
            self._expect_body(fields)
            self.header = fields
        else:
            self.trailers = fields
        self.wake()

    def _expect_body(self, fields: Fields) -> None:
        # A response to HEAD, and a 204 or 304, has no body whatever its content-length says
        # (RFC 9110 section 8.6).
        try:
            length = content_length(fields)
        except ValueError as error:
            raise MalformedMessage(self.stream_id, str(error)) from error
        if not self._answers_head and dict(fields).get(b":status") not in (b"204", b"304"):
            self._expected_bytes = length

    def feed_data(self, data: bytes) -> None:
        """Take data, unless nobody wants it any more."""
        if self.state is Half.OPEN and data:
            self._received_bytes += len(data)
            self.unread_bytes += len(data)
            self._chunks.append(data)
            self.wake()

    def feed_datagram(self, payload: bytes) -> None:
        """Take a datagram; the oldest are lost where too many wait, or too much."""
        self._datagrams.append(payload)
        while (
            len(self._datagrams) > MAX_WAITING_DATAGRAMS
            or sum(map(len, self._datagrams)) > MAX_WAITING_DATAGRAM_BYTES
        ):
            del self._datagrams[0]
        self.wake()

    def feed_fin(self) -> None:
        """Note the end; raises MalformedMessage for a body that is not as long as announced."""
        if self.state is not Half.OPEN:
            return
        if self._expected_bytes not in (None, self._received_bytes):
            # RFC 9114 section 4.1.2: a malformed message is an error of its stream.
            what = (
                f"its content-length says {self._expected_bytes} bytes, {self._received_bytes} came"
            )
            raise MalformedMessage(self.stream_id, what)
        self.state = Half.FINISHED
        if self.header is None:
            self.error = StreamReset(self.stream_id, ErrorCode.H3_REQUEST_INCOMPLETE, "FIN")
        self.wake()
