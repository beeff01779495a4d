"""One HTTP/3 request stream in the hands of its owner: write, read, close, reset, stop, datagrams.

What it can do follows from its two halves (halves.py), which the connection feeds.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from aioquic.h3.connection import ErrorCode

from helpers.errors import DatagramError, UsageError
from helpers.stream.fields import Fields, encode_fields
from helpers.stream.halves import Carrier, Half, ReceivingHalf, SendingHalf


class HTTP3Stream:
    """A request stream: `write`, `async for chunk in stream`, `close`, and the rest of its life.

    `stream_id` is its number (RFC 9000 section 2.1), `sending` and `receiving` are its halves.
    `async with stream:` closes it at the end, or resets it where the block raised. Everything is
    awaited or called on the connection's loop.
    """

    __slots__ = ("__weakref__", "_carrier", "receiving", "sending", "stream_id")

    def __init__(self, carrier: Carrier, stream_id: int, answers_head: bool = False) -> None:
        self.stream_id = stream_id
        self.sending = SendingHalf(carrier, stream_id)
        self.receiving = ReceivingHalf(carrier, stream_id, answers_head)
        self._carrier = carrier

    @property
    def is_open(self) -> bool:
        """Whether either half can still carry something."""
        return self.sending.state is Half.OPEN or self.receiving.state is Half.OPEN

    # ---- writing

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send one DATA frame at once (RFC 9114 section 7.2.1); more than 256 KiB becomes several.

        Waits first while more than 256 KiB of this stream is unacknowledged, or on a long way has
        not left: a slow reader slows its writer down. Raises UsageError on a closed stream;
        ClientDisconnected (on a server), StreamReset or ConnectionLost (on a client) where the peer
        will not read it.
        """
        if isinstance(data, str):
            await asyncio.sleep(0)  # who tries again and again lets others run
            raise UsageError(f"A stream carries bytes: write({data[:20]!r}.encode()), not a str.")
        # What may change meanwhile, or counts items and not bytes, is copied.
        await self.sending.write(data if type(data) is bytes else bytes(memoryview(data)))
        self.sending.flush()

    async def close(self, trailers: Mapping[str, str] | None = None) -> None:
        """Finish the writing half (FIN), after `trailers` where given (RFC 9114 section 4.1).

        Closing twice, or after the peer has gone, is harmless.
        """
        if self.sending.state is Half.OPEN:
            self.sending.finish(encode_fields(trailers or {}))
            self.sending.flush()

    def reset(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """End the writing half early (RESET_STREAM); the peer's reader raises.

        Raises UsageError for what is no error code, as `stop` does.
        """
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
        return await self.receiving.take_header()

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

    # ---- datagrams

    async def send_datagram(self, payload: bytes) -> None:
        """Send one HTTP datagram (RFC 9297 section 2.1), unreliable and unordered.

        Waits until the peer's SETTINGS have come, and for nothing else: where a line does not carry
        what is sent, the oldest that have not left are lost. Raises DatagramError where the peer
        takes none or it is too long, and the connection lives on; otherwise as `write`.
        """
        await asyncio.sleep(0)  # who sends many lets others have their turn
        if isinstance(payload, str):
            raise UsageError(f"A datagram carries bytes: {payload[:20]!r}.encode(), not a str.")
        self.sending.check()
        limit_bytes = await self.sending.wait_for_datagram_limit()
        if limit_bytes == 0:
            raise DatagramError(
                "The peer did not negotiate datagrams (RFC 9297 section 2.1.1).", limit_bytes
            )
        if len(payload) > limit_bytes:
            raise DatagramError(
                f"A datagram of {len(payload)} bytes does not fit: {limit_bytes} bytes at most on "
                "this connection. Send less, or write to the stream.",
                limit_bytes,
            )
        self._carrier.send_datagram(self.stream_id, payload)

    async def receive_datagram(self, timeout_s: float | None = None) -> bytes:
        """Return the next datagram of this stream.

        One that was lost never comes: with `timeout_s`, raises TimeoutError after so many seconds.
        Raises UsageError where none can come since the peer has ended this half, otherwise as
        `receive`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                datagram = await self.receiving.take_datagram()
        except TimeoutError:
            raise TimeoutError(
                f"No datagram came on stream {self.stream_id} within {timeout_s:g} s. One that was "
                "lost never comes: go on without it."
            ) from None
        if datagram is None:
            raise UsageError(
                f"Stream {self.stream_id} is {self.receiving.state.value}: nothing comes."
            )
        return datagram

    async def datagrams(self) -> AsyncIterator[bytes]:
        """Yield the datagrams of this stream as they come, until the peer ends this half.

        Raises as `receive` where it ends early.
        """
        while (datagram := await self.receiving.take_datagram()) is not None:
            yield datagram

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

    def __del__(self) -> None:
        self.sending.warn_if_open()

    def __repr__(self) -> str:
        return (
            f"<HTTP3Stream {self.stream_id}: sending {self.sending.state.name}, "
            f"receiving {self.receiving.state.name}>"
        )
