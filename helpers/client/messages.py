"""One request and one response, translated between httpx2 and a stream.

httpx2 speaks of requests, responses and its own exceptions; a stream of header sections, chunks and
the ways in which a half can end. This is the dictionary between the two; transports.py finds
the connection.
"""

import asyncio
import contextlib
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Coroutine,
    Mapping,
)
from typing import Any, TypeVar

import httpx2
from aioquic.h3.connection import ErrorCode

from helpers.errors import (
    ConnectionLost,
    PeerError,
    StreamReset,
    UsageError,
    describe_code,
)
from helpers.stream import (
    CONNECTION_SPECIFIC,
    MAX_DATA_FRAME_BYTES,
    MAX_FIELD_BYTES,
    Fields,
    Half,
    HTTP3Stream,
    content_length,
    encode_fields,
)

T = TypeVar("T")

# What a peer would close the whole connection over (RFC 9110 sections 5.6.2 and 7.2): blanks, say.
METHOD = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
AUTHORITY = re.compile(rb"[!-~]+")

Timeouts = Mapping[str, float | None]


def known_body(request: httpx2.Request) -> bytes | None:
    """Return the request's body, or None where it is an iterator."""
    try:
        return request.content
    except httpx2.RequestNotRead:
        return None


def request_fields(request: httpx2.Request) -> Fields:
    """Return a request's header section (RFC 9114 section 4.3.1).

    Raises httpx2.LocalProtocolError for a header that cannot be sent.
    """
    method, path = request.method.encode(errors="replace"), request.url.raw_path
    authority = request.headers.get("host", "").encode() or request.url.netloc
    for part, what, pattern in (
        (method, "method (RFC 9110 section 9.1)", METHOD),
        (authority, "host (RFC 9110 section 7.2)", AUTHORITY),
        (path, "path (RFC 9110 section 4.2)", AUTHORITY),
    ):
        if not pattern.fullmatch(part) or len(part) > MAX_FIELD_BYTES:
            shown = part[:40].decode(errors="replace")
            raise httpx2.LocalProtocolError(f"{shown!r}, {len(part)} bytes, is no {what}.")
    # `host` is :authority here, and what httpx2 says about an HTTP/1.1 connection has no place in
    # HTTP/3 (RFC 9114 sections 4.2 and 4.3.1).
    left_out = CONNECTION_SPECIFIC | {b"host"}
    headers = [field for field in request.headers.raw if field[0].lower() not in left_out]
    try:
        fields = encode_fields(headers)
        content_length(fields)
    except UsageError as error:
        raise httpx2.LocalProtocolError(str(error)) from error
    except ValueError as error:
        raise httpx2.LocalProtocolError(f"This request cannot be sent: {error}.") from error
    pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", authority)]
    return [*pseudo, (b":path", path), *fields]


async def receive_response(
    stream: HTTP3Stream,
    timeouts: Timeouts,
    sent_at: float,
    upload: "asyncio.Task[None] | None" = None,
) -> httpx2.Response:
    """Return the response on `stream` once its header has come; the body follows as it arrives.

    `sent_at` is when the request was sent (time.perf_counter); the response's extensions carry it
    as `request_sent_at`, beside `stream_id` and, filled at the end of the body, `trailers`.
    """
    try:
        header = stream.receiving.take_header()
        fields = await _from_server(stream, header, timeouts.get("read"), upload)
    except BaseException as error:
        if upload is not None:
            upload.cancel()
        stream.cancel()
        if isinstance(error, PeerError):
            raise as_httpx2(error, "before the response began") from error
        raise
    trailers = httpx2.Headers()
    return httpx2.Response(
        int(dict(fields)[b":status"]),
        headers=[field for field in fields if not field[0].startswith(b":")],
        stream=ResponseBody(stream, timeouts.get("read"), trailers, upload),
        extensions={
            "http_version": b"HTTP/3",
            "stream_id": stream.stream_id,
            "request_sent_at": sent_at,
            "trailers": trailers,
        },
    )


async def upload_body(
    stream: HTTP3Stream, pieces: AsyncIterable[bytes], timeout_s: float | None
) -> None:
    """Send a request's body; each 256 KiB of it may take `timeout_s` seconds.

    Raises nothing: what goes wrong reaches the one who waits for the response.
    """
    iterator = aiter(pieces)
    try:
        async for piece in iterator:
            await _upload_piece(stream, piece, timeout_s)
        await stream.close()
    except PeerError:
        # The server did not want the rest (RFC 9114 section 4.1); its answer says why.
        stream.reset()
    except Exception as error:  # noqa: BLE001 - the caller's iterator raised: the caller gets it
        stream.receiving.fail(error, ErrorCode.H3_REQUEST_CANCELLED)
        stream.cancel()
    except asyncio.CancelledError:
        stream.cancel()  # half a body must not look like a whole one, nor be waited for
        raise
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()  # whoever makes the pieces hears now that no more are wanted


async def _upload_piece(stream: HTTP3Stream, piece: bytes, timeout_s: float | None) -> None:
    if isinstance(piece, str):
        raise TypeError(f"A body is made of bytes: yield {piece[:20]!r}.encode(), not a str.")
    view = memoryview(piece)
    try:
        for start in range(0, len(view), MAX_DATA_FRAME_BYTES):
            async with asyncio.timeout(timeout_s):
                await stream.write(bytes(view[start : start + MAX_DATA_FRAME_BYTES]))
    except TimeoutError as error:
        raise httpx2.WriteTimeout("The write operation timed out") from error


async def _from_server(
    stream: HTTP3Stream,
    coroutine: Coroutine[Any, Any, T],
    timeout_s: float | None,
    upload: "asyncio.Task[None] | None",
) -> T:
    """Return what a coroutine does that waits for the server, on a stream's receiving half.

    Raises httpx2.ReadTimeout after `timeout_s` seconds, which count from the end of the upload:
    until then the server may well be silent.
    """
    waiting: Awaitable[T] = coroutine
    task = asyncio.current_task()
    if upload is not None and not upload.done():
        waiting = task = asyncio.create_task(coroutine)
        try:
            await asyncio.wait((waiting, upload), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
    if timeout_s is None or task is None:
        return await waiting
    # As asyncio.timeout does, for half of its price: this is done for each small chunk.
    silence = _Silence(f"nothing came for {timeout_s:g} s")
    loop = asyncio.get_running_loop()
    timer = loop.call_later(timeout_s, stream.receiving.interrupt, task, silence)
    try:
        return await waiting
    except _Silence as error:
        raise httpx2.ReadTimeout("The read operation timed out") from error
    finally:
        timer.cancel()


class _Silence(TimeoutError):
    """The server said nothing for longer than it may; not the caller's own TimeoutError."""


def as_httpx2(error: PeerError, progress: str) -> httpx2.TransportError:
    """Return what a stream raised as httpx2's exception, with the values in the message."""
    match error:
        case StreamReset():
            code = describe_code(error.error_code)
            text = f"The server ended stream {error.stream_id} with {code} {progress}."
            return httpx2.RemoteProtocolError(text)
        case ConnectionLost():
            return httpx2.ReadError(f"The connection was lost {progress}. {error}")
        case _:  # a MalformedMessage
            return httpx2.RemoteProtocolError(f"{error} That was {progress}.")


def is_rejected(error: httpx2.TransportError) -> bool:
    """Return whether the server refused the request unprocessed (H3_REQUEST_REJECTED)."""
    cause = error.__cause__
    return isinstance(cause, StreamReset) and cause.error_code == ErrorCode.H3_REQUEST_REJECTED


class ResponseBody(httpx2.AsyncByteStream):
    """A response's body, handed over as it arrives; on the connection's loop."""

    def __init__(
        self,
        stream: HTTP3Stream,
        timeout_s: float | None,
        trailers: httpx2.Headers,
        upload: "asyncio.Task[None] | None",
    ) -> None:
        self._stream = stream
        self._receiving = stream.receiving
        self._timeout_s = timeout_s
        self._trailers = trailers
        self._upload = upload
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> list[bytes]:
        """Return what has arrived, at least one chunk; an empty list at the end."""
        arriving = self._receiving.take_all()
        try:
            chunks = await _from_server(self._stream, arriving, self._timeout_s, self._upload)
        except PeerError as error:
            raise as_httpx2(error, self._progress()) from error
        except UsageError as error:  # it was given up before
            raise httpx2.ReadError(str(error)) from error
        if self._receiving.state is Half.FINISHED:
            self._trailers.update(self._receiving.trailers)
        elif not chunks:  # another task or thread did, or this would look like the end
            raise httpx2.ReadError(f"The response was closed {self._progress()}.")
        return chunks

    def receive_rest(self) -> list[bytes] | None:
        """Return what is left where all of it has come, None otherwise; from any thread."""
        chunks = self._receiving.take_rest()
        if chunks is not None:
            self._trailers.update(self._receiving.trailers)
        return chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunks := await self.receive():
            for chunk in chunks:
                yield chunk

    def _progress(self) -> str:
        count = self._receiving.chunks_read
        chunks = "chunk" if count == 1 else "chunks"
        return f"after {count} {chunks}, {self._receiving.bytes_read} bytes"

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be cancelled."""
        return not self._stream.is_open and (self._upload is None or self._upload.done())

    async def aclose(self) -> None:
        """Do what `cancel` does."""
        self.cancel()

    def cancel(self) -> None:
        """Tell the server that nobody reads on; harmless at the end of the body."""
        _give_up(self._stream, self._upload)

    def __del__(self) -> None:
        # A response that nobody closed: its server must not stream on for nobody.
        if not self.is_over and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closed just now
                self._loop.call_soon_threadsafe(_give_up, self._stream, self._upload)


def _give_up(stream: HTTP3Stream, upload: "asyncio.Task[None] | None") -> None:
    if upload is not None:
        upload.cancel()
    stream.cancel()
