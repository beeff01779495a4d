"""One HTTP/3 request stream: two halves, and writers that wait for slow readers.

A QUIC stream is two one-way byte streams (RFC 9000 section 2.1). Each half ends in its own way: its
writer finishes it (FIN) or resets it (RESET_STREAM), its reader asks to stop (STOP_SENDING), or the
connection is lost. `Half` names these ends; everything else here follows from the two halves.

The connection feeds what arrives in through the `feed_...` methods; the program reads, writes and
closes. All of it happens on the connection's loop, so nothing needs a lock.
"""

import asyncio
import warnings
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from aioquic.h3.connection import ErrorCode

from helpers.errors import (
    ClientDisconnected,
    ConnectionLost,
    DatagramError,
    MalformedMessage,
    PeerError,
    StreamReset,
    UsageError,
    describe_code,
)
from helpers.flow_control import UNACKNOWLEDGED_LIMIT_BYTES

# A longer write leaves as several DATA frames, so that memory stays bounded (see `write`).
MAX_DATA_FRAME_BYTES = 256 * 1024
# HTTP datagrams may be lost; those that nobody fetches are, oldest first.
MAX_WAITING_DATAGRAMS = 256

Fields = list[tuple[bytes, bytes]]


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
    def max_datagram_bytes(self, stream_id: int) -> int: ...
    def unacknowledged_bytes(self, stream_id: int) -> int: ...
    def wake_when_acknowledged(self, stream: "HTTP3Stream") -> None: ...
    def data_was_read(self, stream_id: int) -> None: ...


class HTTP3Stream:
    """A request stream in the hands of its owner: write, read, close, reset, stop, datagrams.

    `stream_id` is its number (RFC 9000 section 2.1). `async with stream:` closes it at the end, or
    resets it where the block raised. Everything is awaited or called on the connection's loop.
    """

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self.stream_id = stream_id
        self.unread_bytes = 0
        self.sending = Half.OPEN
        self.receiving = Half.OPEN
        self.trailers: Fields = []
        # What the content-length of the peer's message says, where it describes this body: the
        # answer to a HEAD request has none.
        self.answers_head = False
        self.expected_bytes: int | None = None
        self.received_bytes = 0
        # Who took this stream over ("GET /stream"), for the warning when nobody closes it.
        self.owner: str | None = None
        self._carrier = carrier
        self._chunks: deque[bytes] = deque()
        self._header: Fields | None = None
        self._datagrams: deque[bytes] = deque(maxlen=MAX_WAITING_DATAGRAMS)
        self._readable = _Signal()
        self._writable = _Signal()
        self.send_error: PeerError | None = None
        self.receive_error: Exception | None = None
        # Called once where the peer will not read on; the server cancels the handler then.
        self.on_abandoned = _nothing

    @property
    def is_open(self) -> bool:
        """Whether either half can still carry something."""
        return self.sending is Half.OPEN or self.receiving is Half.OPEN

    # ---- writing

    def send_header(self, fields: Fields, end_stream: bool = False) -> None:
        """Send a header section (HEADERS frame, RFC 9114 section 7.2.2), with FIN if asked."""
        self.check_writable()
        if end_stream:
            self.sending = Half.FINISHED
        self._carrier.send_fields(self.stream_id, fields, end_stream)

    async def write(self, data: bytes) -> None:
        """Send one DATA frame at once (RFC 9114 section 7.2.1); more than 256 KiB becomes several.

        Waits first while more than 256 KiB of this stream is unacknowledged: a slow reader slows
        its writer down. Raises UsageError on a closed stream; ClientDisconnected (on a server),
        StreamReset or ConnectionLost (on a client) where the peer will not read it.
        """
        if isinstance(data, str):
            raise UsageError(f"A stream carries bytes: write({data[:20]!r}.encode()), not a str.")
        view = memoryview(data).cast("B")
        for start in range(0, max(1, len(view)), MAX_DATA_FRAME_BYTES):
            await self.wait_writable()
            piece = bytes(view[start : start + MAX_DATA_FRAME_BYTES])
            if piece:
                self._carrier.send_data(self.stream_id, piece)

    async def wait_writable(self) -> None:
        """Wait while more than 256 KiB of this stream is unacknowledged; raises as `write`."""
        self.check_writable()
        while self._carrier.unacknowledged_bytes(self.stream_id) > UNACKNOWLEDGED_LIMIT_BYTES:
            self._carrier.wake_when_acknowledged(self)
            await self._writable.wait()
            self.check_writable()

    def check_writable(self) -> None:
        """Raise as `write` does where this stream takes no more data; return at once."""
        if self.send_error is not None:
            raise self.send_error.with_traceback(None)
        if self.sending is not Half.OPEN:
            raise UsageError(
                f"Stream {self.stream_id} is {self.sending.value}: nothing can be written any more."
            )

    async def close(self, trailers: Mapping[str, str] | None = None) -> None:
        """Finish the writing half (FIN), after `trailers` where given (RFC 9114 section 4.1).

        Closing twice, or after the peer has gone, is harmless.
        """
        if self.sending is not Half.OPEN:
            return
        self.sending = Half.FINISHED
        if trailers:
            fields = [(n.lower().encode(), v.encode()) for n, v in trailers.items()]
            self._carrier.send_fields(self.stream_id, fields, end_stream=True)
        else:
            self._carrier.send_fin(self.stream_id)

    def mark_sent(self) -> None:
        """Note that the connection sent FIN together with the header."""
        self.sending = Half.FINISHED

    def reset(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """End the writing half early (RESET_STREAM); the peer's reader raises."""
        if self.sending is Half.OPEN:
            self.sending = Half.RESET
            self._carrier.send_reset(self.stream_id, error_code)
            self._writable.wake()

    # ---- reading

    def __aiter__(self) -> "HTTP3Stream":
        return self

    async def __anext__(self) -> bytes:
        if not await self._data_waits():
            raise StopAsyncIteration
        chunk = self._chunks.popleft()
        self.unread_bytes -= len(chunk)
        self._carrier.data_was_read(self.stream_id)
        return chunk

    async def receive(self) -> list[bytes]:
        """Return all chunks that have arrived, at least one; an empty list at the end.

        Raises StreamReset or ConnectionLost (ClientDisconnected on a server) where the peer ended
        this half early, once what had arrived before was handed out.
        """
        await self._data_waits()
        chunks = list(self._chunks)
        self._chunks.clear()
        self.unread_bytes = 0
        self._carrier.data_was_read(self.stream_id)
        return chunks

    async def _data_waits(self) -> bool:
        """Wait for data; False at the end of the stream."""
        while not self._chunks:
            if self.receive_error is not None:
                raise self.receive_error.with_traceback(None)
            if self.receiving is not Half.OPEN:
                return False
            await self._readable.wait()
        return True

    async def read(self) -> bytes:
        """Return everything up to the end of the stream; raises as `receive`."""
        return b"".join([chunk async for chunk in self])

    async def read_header(self) -> Fields:
        """Return the header section that the peer sent first, as (name, value) pairs of bytes."""
        while self._header is None:
            if self.receive_error is not None:
                raise self.receive_error.with_traceback(None)
            if self.receiving is not Half.OPEN:
                raise StreamReset(self.stream_id, ErrorCode.H3_REQUEST_INCOMPLETE, "FIN")
            await self._readable.wait()
        return self._header

    def stop(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Ask the peer to stop writing (STOP_SENDING), and drop what has arrived unread."""
        if self.receiving is Half.OPEN:
            self.receiving = Half.STOPPED
            self._carrier.send_stop(self.stream_id, error_code)
        self._chunks.clear()
        self.unread_bytes = 0
        self._readable.wake()

    def cancel(self) -> None:
        """Give up both halves: the peer learns that nobody reads or writes on."""
        self.reset(ErrorCode.H3_REQUEST_CANCELLED)
        self.stop(ErrorCode.H3_REQUEST_CANCELLED)

    def fail(self, error: Exception) -> None:
        """Give up both halves, since this side's writer failed; readers raise `error`."""
        if self.receive_error is None:
            self.receive_error = error
        self.cancel()

    # ---- datagrams

    async def send_datagram(self, payload: bytes) -> None:
        """Send one HTTP datagram (RFC 9297 section 2.1), unreliable and unordered.

        Raises DatagramError where the peer takes none or it is too long; the connection lives on.
        """
        self.check_writable()
        limit_bytes = self._carrier.max_datagram_bytes(self.stream_id)
        if limit_bytes == 0:
            raise DatagramError("The peer did not negotiate datagrams (RFC 9297 section 2.1.1).")
        if len(payload) > limit_bytes:
            raise DatagramError(
                f"A datagram of {len(payload)} bytes does not fit: {limit_bytes} bytes at most on "
                "this connection. Send less, or write to the stream."
            )
        self._carrier.send_datagram(self.stream_id, payload)

    async def receive_datagram(self) -> bytes:
        """Return the next datagram of this stream; raises as `receive` where none can come."""
        while not self._datagrams:
            if self.receive_error is not None:
                raise self.receive_error.with_traceback(None)
            await self._readable.wait()
        return self._datagrams.popleft()

    # ---- what the connection feeds in

    def feed_header(self, fields: Fields) -> None:
        if self._header is None:
            self._header = fields
        else:
            self.trailers = fields
        self._readable.wake()

    def feed_data(self, data: bytes) -> None:
        if self.receiving is Half.OPEN and data:
            self.received_bytes += len(data)
            self._chunks.append(data)
            self.unread_bytes += len(data)
            self._readable.wake()

    def feed_fin(self) -> None:
        if self.receiving is Half.OPEN:
            self.receiving = Half.FINISHED
            if self.expected_bytes not in (None, self.received_bytes):
                # RFC 9114 section 4.1.2: a malformed message is an error of its stream.
                self.receive_error = MalformedMessage(
                    self.stream_id,
                    f"its content-length says {self.expected_bytes} bytes, "
                    f"{self.received_bytes} came",
                )
                self.reset(ErrorCode.H3_MESSAGE_ERROR)
            self._readable.wake()

    def feed_datagram(self, payload: bytes) -> None:
        self._datagrams.append(payload)
        self._readable.wake()

    def feed_reset(self, error_code: int) -> None:
        """The peer's writer gave up: RESET_STREAM."""
        if self.receiving is Half.OPEN:
            self.receiving = Half.RESET
            self.receive_error = StreamReset(self.stream_id, error_code)
            self._readable.wake()

    def feed_stop(self, error_code: int) -> None:
        """The peer's reader gave up: STOP_SENDING. aioquic has reset our half already."""
        if self.sending is Half.OPEN:
            self.sending = Half.STOPPED
            self.send_error = self._gone(error_code, "STOP_SENDING")
            self._writable.wake()
            self.on_abandoned()

    def feed_lost(self, reason: ConnectionLost) -> None:
        """The connection has ended, and with it what was still open of both halves."""
        error = reason
        if not self._carrier.is_client:
            error = ClientDisconnected(self.stream_id, reason.code, str(reason).rstrip("."))
        if self.receiving is Half.OPEN:
            self.receiving, self.receive_error = Half.LOST, error
        if self.sending is Half.OPEN:
            self.sending, self.send_error = Half.LOST, error
            self.on_abandoned()
        self._readable.wake()
        self._writable.wake()

    def feed_acknowledged(self) -> None:
        """So much was acknowledged that a waiting writer can go on."""
        self._writable.wake()

    def _gone(self, error_code: int, frame: str) -> PeerError:
        if self._carrier.is_client:
            return StreamReset(self.stream_id, error_code, frame)
        text = f"it sent {frame} with {describe_code(error_code)}"
        return ClientDisconnected(self.stream_id, error_code, text)

    # ---- owning

    async def __aenter__(self) -> "HTTP3Stream":
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            await self.close()
        else:
            # A half-sent body must not look like a whole one (RFC 9114 section 4.1).
            self.reset(ErrorCode.H3_INTERNAL_ERROR)
        if self.receiving is Half.OPEN:
            self.stop(ErrorCode.H3_NO_ERROR)

    def warn_if_open(self) -> None:
        """Warn with a ResourceWarning where this stream was taken over and never closed."""
        if self.owner is not None and self.sending is Half.OPEN:
            warnings.warn(
                f"Stream {self.stream_id} of {self.owner} was taken over and never closed: its "
                "client still waits. Use `async with stream:`.",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self.owner = None

    def __del__(self) -> None:
        self.warn_if_open()

    def __repr__(self) -> str:
        return (
            f"<HTTP3Stream {self.stream_id}: sending {self.sending.name}, "
            f"receiving {self.receiving.name}>"
        )


class _Signal:
    """Tasks wait for the next `wake`; each has its own future, so that one can be cancelled."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _nothing() -> None:
    """The default of `on_abandoned`: nobody needs to know."""
