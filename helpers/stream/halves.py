"""The two halves of a stream, and the ways in which each can end.

A QUIC stream is two one-way byte streams (RFC 9000 section 2.1). Each ends in its own way: its
writer finishes it (FIN) or resets it (RESET_STREAM), its reader asks to stop (STOP_SENDING), or the
connection is lost. `Half` names these ends.

Everything here runs on the connection's loop, so nothing needs a lock.
"""

import asyncio
from collections import deque
from enum import Enum
from typing import Protocol

from aioquic.h3.connection import ErrorCode

from helpers.errors import MalformedMessage, StreamReset, UsageError
from helpers.stream.fields import Fields

# A writer waits while more than this is unacknowledged on its stream.
UNACKNOWLEDGED_LIMIT_BYTES = 256 * 1024
# A writer lets the loop's other tasks run after so many writes.
WRITES_PER_TURN = 64

# HTTP datagrams may be lost (RFC 9297 section 2); those that nobody fetches are.
MAX_WAITING_DATAGRAMS = 256
MAX_WAITING_DATAGRAM_BYTES = 128 * 1024


class Half(Enum):
    """The life of one direction of a stream (RFC 9000 section 3)."""

    OPEN = "open"
    FINISHED = "finished by its writer"
    RESET = "reset by its writer"
    STOPPED = "stopped by its reader"
    LOST = "lost with its connection"


class Carrier(Protocol):
    """What a stream needs of the connection that carries it (connection.py)."""

    is_client: bool

    def send_data(self, stream_id: int, data: bytes) -> None: ...
    def send_fields(self, stream_id: int, fields: Fields, end_stream: bool) -> None: ...
    def send_fin(self, stream_id: int) -> None: ...
    def send_reset(self, stream_id: int, error_code: int) -> None: ...
    def send_stop(self, stream_id: int, error_code: int) -> None: ...
    def send_datagram(self, stream_id: int, payload: bytes) -> None: ...
    def push(self) -> None: ...
    def max_datagram_bytes(self, stream_id: int) -> int: ...
    def unacknowledged_bytes(self, stream_id: int) -> int: ...
    def wake_when_acknowledged(self, half: "SendingHalf") -> None: ...
    def data_was_read(self, stream_id: int) -> None: ...


class Signal:
    """Tasks wait for the next `wake`; each has its own future, so that one can be cancelled."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return at the next `wake`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def wake(self) -> None:
        """Let everybody go on who waits now."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class SendingHalf:
    """What this side writes. A writer waits while its reader is slow."""

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self.stream_id = stream_id
        self.state = Half.OPEN
        self.error: Exception | None = None
        self._carrier = carrier
        self._writable = Signal()
        self._writes_in_turn = 0

    def check(self) -> None:
        """Raise where nothing can be written any more: why the peer left, or UsageError."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self.state is not Half.OPEN:
            raise UsageError(
                f"Stream {self.stream_id} is {self.state.value}: nothing can be written any more."
            )

    async def wait(self) -> None:
        """Wait while more than 256 KiB of this stream is unacknowledged; raises as `check`."""
        self.check()
        self._writes_in_turn += 1
        if self._writes_in_turn >= WRITES_PER_TURN:
            # A writer that never has to wait must not keep the loop for itself.
            self._writes_in_turn = 0
            await asyncio.sleep(0)
            self.check()
        while self._carrier.unacknowledged_bytes(self.stream_id) > UNACKNOWLEDGED_LIMIT_BYTES:
            self._carrier.wake_when_acknowledged(self)
            await self._writable.wait()
            self.check()

    def acknowledged(self) -> None:
        """Let a waiting writer go on."""
        self._writable.wake()

    def finish(self, fields: Fields) -> None:
        """Send FIN, with a last header section where there is one."""
        self.check()
        if fields:
            self._carrier.send_fields(self.stream_id, fields, end_stream=True)
        else:
            self._carrier.send_fin(self.stream_id)
        self.state = Half.FINISHED  # not before: fields that cannot be encoded leave it open

    def reset(self, error_code: int, error: Exception | None = None) -> None:
        """Send RESET_STREAM, unless this half has ended; `error` is what a writer is told then."""
        if self.state is Half.OPEN:
            self.state, self.error = Half.RESET, error
            self._carrier.send_reset(self.stream_id, error_code)
            self._writable.wake()

    def end(self, state: Half, error: Exception) -> bool:
        """Note that the peer or the network ended this half; True where that is news."""
        if self.state is not Half.OPEN:
            return False
        self.state, self.error = state, error
        self._writable.wake()
        return True


class ReceivingHalf:
    """What the peer writes: header, data, trailers, datagrams, in the order in which they came.

    `unread_bytes` is what has arrived and was not read; the receive window follows it.
    """

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self.stream_id = stream_id
        self.state = Half.OPEN
        self.error: Exception | None = None
        self.unread_bytes = 0
        self.header: Fields | None = None
        self.trailers: Fields = []
        self.datagrams: deque[bytes] = deque(maxlen=MAX_WAITING_DATAGRAMS)
        # What the content-length says, where it describes this body, and what has come.
        self.expected_bytes: int | None = None
        self.received_bytes = 0
        self._carrier = carrier
        self._chunks: deque[bytes] = deque()
        self._arrived = Signal()

    # ---- reading

    async def wait(self) -> None:
        """Wait for news; raises where none can come: why the peer left, or UsageError."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self.state is not Half.OPEN:
            raise UsageError(f"Stream {self.stream_id} is {self.state.value}: nothing comes.")
        await self._arrived.wait()

    async def has_data(self) -> bool:
        """Wait for data; False at the end."""
        while not self._chunks:
            if self.state is not Half.OPEN and self.error is None:
                return False
            await self.wait()
        return True

    async def take_chunk(self) -> bytes | None:
        """Return the next chunk, None at the end."""
        if not await self.has_data():
            return None
        chunk = self._chunks.popleft()
        self.unread_bytes -= len(chunk)
        self._carrier.data_was_read(self.stream_id)
        return chunk

    async def take_all(self) -> list[bytes]:
        """Return all chunks that have arrived, at least one; an empty list at the end."""
        await self.has_data()
        chunks = list(self._chunks)
        self._drop()
        self._carrier.data_was_read(self.stream_id)
        return chunks

    def take_rest(self) -> list[bytes] | None:
        """Return what is left where all of it has come without an error, None otherwise.

        Nothing arrives any more then, so any thread may call this.
        """
        if self.state is not Half.FINISHED or self.error is not None:
            return None
        chunks = list(self._chunks)
        self._drop()
        return chunks

    def stop(self, error_code: int) -> None:
        """Send STOP_SENDING, unless this half has ended, and drop what was not read."""
        self._drop()
        if self.state is Half.OPEN:
            self.state = Half.STOPPED
            self._carrier.send_stop(self.stream_id, error_code)
            self._arrived.wake()

    def _drop(self) -> None:
        self._chunks.clear()
        self.unread_bytes = 0

    # ---- arriving

    def feed_fields(self, fields: Fields) -> None:
        """Take a header section: the first is the header, a later one the trailers."""
        if self.header is None:
            self.header = fields
        else:
            self.trailers = fields
        self._arrived.wake()

    def feed_data(self, data: bytes) -> None:
        """Take data, unless nobody wants it any more."""
        if self.state is Half.OPEN and data:
            self.received_bytes += len(data)
            self.unread_bytes += len(data)
            self._chunks.append(data)
            self._arrived.wake()

    def feed_datagram(self, payload: bytes) -> None:
        """Take a datagram; the oldest are lost where too many wait, or too much."""
        self.datagrams.append(payload)
        while sum(map(len, self.datagrams)) > MAX_WAITING_DATAGRAM_BYTES:
            self.datagrams.popleft()
        self._arrived.wake()

    def feed_fin(self) -> None:
        """Note the end; a body that is not as long as announced ends in MalformedMessage."""
        if self.expected_bytes not in (None, self.received_bytes):
            # RFC 9114 section 4.1.2: a malformed message is an error of its stream.
            what = (
                f"its content-length says {self.expected_bytes} bytes, {self.received_bytes} came"
            )
            self.end(Half.FINISHED, MalformedMessage(self.stream_id, what))
        elif self.state is Half.OPEN:
            self.state = Half.FINISHED
            if self.header is None:
                self.error = StreamReset(self.stream_id, ErrorCode.H3_REQUEST_INCOMPLETE, "FIN")
            self._arrived.wake()

    def end(self, state: Half, error: Exception) -> bool:
        """Note that the peer or the network ended this half; True where that is news."""
        if self.state is not Half.OPEN:
            return False
        self.state, self.error = state, error
        self._arrived.wake()
        return True
