"""One HTTP/3 request stream in the hands of its owner: write, read, close, reset, stop, datagrams.

What it can do follows from its two halves (halves.py). The connection feeds what arrives in through
the `feed_...` methods.
"""

import warnings
from collections.abc import Mapping

from aioquic.h3.connection import ErrorCode

from helpers.errors import (
    ClientDisconnected,
    ConnectionLost,
    DatagramError,
    MalformedMessage,
    StreamReset,
    UsageError,
    describe_code,
)
from helpers.stream.fields import Fields, content_length, encode_fields
from helpers.stream.halves import Carrier, Half, ReceivingHalf, SendingHalf

# A longer write leaves as several DATA frames, so that memory stays bounded.
MAX_DATA_FRAME_BYTES = 256 * 1024


class HTTP3Stream:
    """A request stream: `write`, `async for chunk in stream`, `close`, and the rest of its life.

    `stream_id` is its number (RFC 9000 section 2.1), `sending` and `receiving` are its halves.
    `async with stream:` closes it at the end, or resets it where the block raised. Everything is
    awaited or called on the connection's loop.
    """

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self.stream_id = stream_id
        self.sending = SendingHalf(carrier, stream_id)
        self.receiving = ReceivingHalf(carrier, stream_id)
        # Who took this stream over ("GET /stream"), for the warning when nobody closes it.
        self.owner: str | None = None
        # Called once where the peer will not read on; the server cancels the handler then.
        self.on_abandoned = _nothing
        # The answer to a HEAD request has no body, whatever its content-length says, and whatever
        # its server writes (RFC 9110 section 9.3.2).
        self.answers_head = False
        self.drops_data = False
        self._carrier = carrier

    @property
    def is_open(self) -> bool:
        """Whether either half can still carry something."""
        return self.sending.state is Half.OPEN or self.receiving.state is Half.OPEN

    # ---- writing

    def send_header(self, fields: Fields, end_stream: bool = False) -> None:
        """Send a header section (HEADERS frame, RFC 9114 section 7.2.2), with FIN if asked."""
        self.sending.check()
        if end_stream:
            self.sending.finish(fields)
        else:
            self._carrier.send_fields(self.stream_id, fields, end_stream=False)

    async def write(self, data: bytes) -> None:
        """Send one DATA frame at once (RFC 9114 section 7.2.1); more than 256 KiB becomes several.

        Waits first while more than 256 KiB of this stream is unacknowledged: a slow reader slows
        its writer down. Raises UsageError on a closed stream; ClientDisconnected (on a server),
        StreamReset or ConnectionLost (on a client) where the peer will not read it.
        """
        if isinstance(data, str):
            raise UsageError(f"A stream carries bytes: write({data[:20]!r}.encode()), not a str.")
        await self.queue(data)
        self.push()

    async def queue(self, data: bytes) -> None:
        """Do what `write` does, but let the data leave with what is written next."""
        view = memoryview(data).cast("B")
        for start in range(0, max(1, len(view)), MAX_DATA_FRAME_BYTES):
            await self.sending.wait()
            piece = bytes(view[start : start + MAX_DATA_FRAME_BYTES])
            if piece and not self.drops_data:
                self._carrier.send_data(self.stream_id, piece)

    def push(self) -> None:
        """Let what was queued leave now."""
        self._carrier.push()

    async def close(self, trailers: Mapping[str, str] | None = None) -> None:
        """Finish the writing half (FIN), after `trailers` where given (RFC 9114 section 4.1).

        Closing twice, or after the peer has gone, is harmless.
        """
        if self.sending.state is Half.OPEN:
            self.sending.finish(encode_fields(trailers or {}))
            self.push()

    def reset(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """End the writing half early (RESET_STREAM); the peer's reader raises."""
        self.sending.reset(error_code)

    # ---- reading

    def __aiter__(self) -> "HTTP3Stream":
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk; raises as `receive`."""
        chunk = await self.receiving.take_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def receive(self) -> list[bytes]:
        """Return all chunks that have arrived, at least one; an empty list at the end.

        Raises StreamReset, MalformedMessage or ConnectionLost (ClientDisconnected on a server)
        where the peer ended this half early, once what had arrived before was handed out.
        """
        return await self.receiving.take_all()

    async def read(self) -> bytes:
        """Return everything up to the end of the stream; raises as `receive`."""
        return b"".join([chunk async for chunk in self])

    async def read_header(self) -> Fields:
        """Return the header section that the peer sent first, as (name, value) pairs of bytes."""
        while self.receiving.header is None:
            await self.receiving.wait()
        return self.receiving.header

    @property
    def trailers(self) -> Fields:
        """The fields that followed the body, once it was read to its end."""
        return self.receiving.trailers

    def stop(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Ask the peer to stop writing (STOP_SENDING), and drop what has arrived unread."""
        self.receiving.stop(error_code)

    def cancel(self) -> None:
        """Give up both halves: the peer learns that nobody reads or writes on."""
        self.reset()
        self.stop()

    def fail(self, error: Exception) -> None:
        """Give up both halves, since this side's writer failed; readers raise `error`."""
        if self.receiving.state is Half.OPEN:
            self.receiving.error = error
        self.cancel()

    # ---- datagrams

    async def send_datagram(self, payload: bytes) -> None:
        """Send one HTTP datagram (RFC 9297 section 2.1), unreliable and unordered.

        Raises DatagramError where the peer takes none or it is too long; the connection lives on.
        """
        self.sending.check()
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
        while not self.receiving.datagrams:
            await self.receiving.wait()
        return self.receiving.datagrams.popleft()

    # ---- what the connection feeds in

    def feed_fields(self, fields: Fields) -> None:
        """A header section has come: the message's header first, its trailers later."""
        if self.receiving.header is None:
            try:
                self.receiving.expected_bytes = self._body_bytes(fields)
            except ValueError as error:
                self.feed_malformed(MalformedMessage(self.stream_id, str(error)))
                return
        self.receiving.feed_fields(fields)

    def _body_bytes(self, fields: Fields) -> int | None:
        """Return how long the body will be, None where that is not said; may raise ValueError."""
        # A response to HEAD, and a 204 or 304, has no body whatever its content-length says
        # (RFC 9110 section 8.6).
        length = content_length(fields)
        has_no_body = self.answers_head or dict(fields).get(b":status") in (b"204", b"304")
        return None if has_no_body else length

    def feed_malformed(self, error: MalformedMessage) -> None:
        """The peer's message breaks the rules; this stream ends (RFC 9114 section 4.1.2)."""
        self.receiving.end(Half.FINISHED, error)
        self.sending.reset(ErrorCode.H3_MESSAGE_ERROR, error)

    def feed_fin(self) -> None:
        """The peer's writer is done: FIN."""
        self.receiving.feed_fin()
        if self.receiving.error is not None:
            self.sending.reset(ErrorCode.H3_MESSAGE_ERROR, self.receiving.error)

    def feed_reset(self, error_code: int) -> None:
        """The peer's writer gave up: RESET_STREAM."""
        self.receiving.end(Half.RESET, self._gone(error_code, "RESET_STREAM"))

    def feed_stop(self, error_code: int) -> None:
        """The peer's reader gave up: STOP_SENDING. aioquic has reset our half already."""
        if self.sending.end(Half.STOPPED, self._gone(error_code, "STOP_SENDING")):
            self.on_abandoned()

    def _gone(self, error_code: int, frame: str) -> Exception:
        if self._carrier.is_client:
            return StreamReset(self.stream_id, error_code, frame)
        text = f"it sent {frame} with {describe_code(error_code)}"
        return ClientDisconnected(self.stream_id, error_code, text)

    def feed_lost(self, reason: ConnectionLost) -> None:
        """The connection has ended, and with it what was still open of both halves."""
        error: Exception = reason
        if not self._carrier.is_client:
            error = ClientDisconnected(self.stream_id, reason.code, str(reason).rstrip("."))
        self.receiving.end(Half.LOST, error)
        if self.sending.end(Half.LOST, error):
            self.on_abandoned()

    # ---- owning

    async def __aenter__(self) -> "HTTP3Stream":
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            await self.close()
        else:
            # A half-sent body must not look like a whole one (RFC 9114 section 4.1).
            self.reset(ErrorCode.H3_INTERNAL_ERROR)
        self.stop(ErrorCode.H3_NO_ERROR)

    def warn_if_open(self) -> None:
        """Warn with a ResourceWarning where this stream was taken over and never closed."""
        if self.owner is not None and self.sending.state is Half.OPEN:
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
            f"<HTTP3Stream {self.stream_id}: sending {self.sending.state.name}, "
            f"receiving {self.receiving.state.name}>"
        )


def _nothing() -> None:
    """The default of `on_abandoned`: nobody needs to know."""
