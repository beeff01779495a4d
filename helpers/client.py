"""HTTP/3 transports for httpx2: the client API stays, only the wire changes.

httpx2 has no HTTP/3 of its own, but it takes a transport: an object that turns one request into
one response. `AsyncHTTP3Transport` does that on the caller's loop. `HTTP3Transport` runs the same
one on a background loop, so that a notebook reads a response in a plain `for` loop, which can be
interrupted.
"""

import asyncio
import contextlib
import ssl
import time
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx2
from aioquic.h3.connection import CONNECTION_SPECIFIC_HEADERS, ErrorCode
from aioquic.quic.configuration import QuicConfiguration

from helpers.background import Background
from helpers.certificates import check_ca_file
from helpers.connection import HTTP3Connection, new_configuration
from helpers.dial import connect
from helpers.errors import (
    ConnectionLost,
    MalformedMessage,
    PeerError,
    StreamReset,
    UsageError,
    describe_code,
)
from helpers.stream import Fields, HTTP3Stream

# A connection that was silent for this long is asked for a sign of life before it is used again.
TRUST_SILENCE_S = 1.0
PING_TIMEOUT_S = 0.5
# What may be sent a second time where nobody knows whether it was received (RFC 9110, 9.2.2).
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}

Timeouts = Mapping[str, float | None]


class Observer(Protocol):
    """What `wire=` accepts: it may attach itself to each configuration (see wire.py)."""

    def observe(self, configuration: QuicConfiguration) -> None: ...


class AsyncHTTP3Transport(httpx2.AsyncBaseTransport):
    """HTTP/3 for httpx2.AsyncClient, on the loop that calls it.

    Keeps one connection per origin and opens a new one where the old one is gone. `ca_file` names
    the CAs to trust, None the public ones; `verify=False` trusts anybody. Raises
    CertificateFileError at once where `ca_file` cannot serve.
    """

    def __init__(
        self,
        ca_file: str | Path | None = None,
        verify: bool = True,
        connect_timeout_s: float = 3.0,
        wire: Observer | None = None,
    ) -> None:
        if ca_file is not None:
            check_ca_file(ca_file)
        self._ca_file = ca_file
        self._verify = verify
        self._connect_timeout_s = connect_timeout_s
        self._wire = wire
        self._connections: dict[tuple[str, int], HTTP3Connection] = {}
        self._dialing: dict[tuple[str, int], asyncio.Lock] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; return its response as soon as the header has come.

        A body that is an async iterator goes out while the response comes in. Raises httpx2's
        exceptions, each saying what happened.
        """
        timeouts = request.extensions.get("timeout", {})
        body = _known_body(request)
        for attempt in (1, 2):
            stream, reused = await self.open(request, timeouts, end_stream=body == b"")
            sent_at = time.perf_counter()
            upload = None
            if body != b"":
                pieces = request.stream if body is None else [body]
                upload = asyncio.create_task(_upload(stream, pieces, timeouts.get("write")))
            try:
                return await receive_response(stream, timeouts, sent_at, upload)
            except httpx2.TransportError as error:
                # RFC 9114 section 4.1.1: what was rejected was not processed.
                again = is_rejected(error) or (
                    reused
                    and isinstance(error.__cause__, ConnectionLost)
                    and request.method in IDEMPOTENT
                )
                if attempt == 2 or body is None or not again:
                    raise
                self._forget(request.url)
        raise AssertionError("unreachable")

    async def open_stream(
        self, method: str, url: str | httpx2.URL, headers: Mapping[str, str] | None = None
    ) -> HTTP3Stream:
        """Send a request's header and return its stream, taken over: write and read as you like.

        `await stream.read_header()` gives the response's header. Raises as the connection does:
        httpx2.ConnectError or ConnectTimeout; afterwards the stream raises its own errors.
        """
        request = httpx2.Request(method, url, headers=headers)
        stream, _ = await self.open(request, {}, end_stream=False)
        return stream

    async def aclose(self) -> None:
        """Close all connections; what still streams is lost."""
        self.disconnect()

    def disconnect(self) -> None:
        """Do what `aclose` does, at once; called on the connections' loop."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.close()
            connection.abandon("the client was closed")

    # ---- connections

    async def open(
        self, request: httpx2.Request, timeouts: Timeouts, end_stream: bool
    ) -> tuple[HTTP3Stream, bool]:
        """Send a request's header; return its stream, and whether its connection was in use."""
        if request.url.scheme != "https":
            raise httpx2.UnsupportedProtocol(
                f"HTTP/3 has https:// URLs only (RFC 9114 section 3.1), not {str(request.url)!r}."
            )
        connection, reused = await self._connection(request.url, timeouts)
        try:
            async with asyncio.timeout(timeouts.get("pool")):
                return await connection.open_stream(_fields(request), end_stream), reused
        except TimeoutError:
            raise httpx2.PoolTimeout(
                "All streams that the server allows at once are in use, and none became free in "
                f"{timeouts.get('pool'):g} s."
            ) from None
        except ConnectionLost as lost:
            raise httpx2.ConnectError(f"{lost}") from lost

    async def _connection(
        self, url: httpx2.URL, timeouts: Timeouts
    ) -> tuple[HTTP3Connection, bool]:
        origin = (url.host, url.port or 443)
        async with self._dialing.setdefault(origin, asyncio.Lock()):
            connection = self._connections.get(origin)
            if connection is not None and await connection.is_alive(
                TRUST_SILENCE_S, PING_TIMEOUT_S
            ):
                return connection, True
            self._forget(url)
            limits = [self._connect_timeout_s, timeouts.get("connect")]
            timeout_s = min(limit for limit in limits if limit is not None)
            connection = await connect(*origin, self._new_configuration, timeout_s)
            self._connections[origin] = connection
            return connection, False

    def _forget(self, url: httpx2.URL) -> None:
        """Let go of an origin's connection; streams that are still on it go on."""
        connection = self._connections.pop((url.host, url.port or 443), None)
        if connection is not None and not connection.open_streams():
            connection.close()
            connection.abandon("replaced")

    def _new_configuration(self) -> QuicConfiguration:
        configuration = new_configuration(is_client=True)
        if self._ca_file is not None:
            configuration.load_verify_locations(cafile=str(self._ca_file))
        if not self._verify:
            configuration.verify_mode = ssl.CERT_NONE
        if self._wire is not None:
            self._wire.observe(configuration)
        return configuration


class HTTP3Transport(httpx2.BaseTransport):
    """HTTP/3 for httpx2.Client: a plain `for` loop reads what arrives, as it arrives.

    The parameters are those of AsyncHTTP3Transport, which does the work on a background thread.
    Call from one or from many threads; `close` (or leaving the client's `with`) ends the thread,
    and so does losing the last reference.
    """

    def __init__(
        self,
        ca_file: str | Path | None = None,
        verify: bool = True,
        connect_timeout_s: float = 3.0,
        wire: Observer | None = None,
    ) -> None:
        self._transport = AsyncHTTP3Transport(ca_file, verify, connect_timeout_s, wire)
        self._background = Background("http3-client")
        weakref.finalize(self, _shut_down, self._background, self._transport)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; return its response as soon as the header has come.

        A body that is an iterator is read on the calling thread and sent before the response is
        awaited; where both are to flow at once, use `open_stream`. Raises httpx2's exceptions.
        """
        self._background.start()
        if _known_body(request) is not None:
            response = self._background.run(self._transport.handle_async_request(request))
        else:
            response = self._send_iterator(request)
        response.stream = _SyncBody(self, self._background, response.stream)
        return response

    def _send_iterator(self, request: httpx2.Request) -> httpx2.Response:
        timeouts = request.extensions.get("timeout", {})
        stream, _ = self._background.run(self._transport.open(request, timeouts, False))
        sent_at = time.perf_counter()
        try:
            for chunk in request.stream:
                self._background.run(stream.write(chunk), timeouts.get("write"))
            self._background.run(stream.close())
        except TimeoutError:
            self._background.call(stream.cancel)
            raise httpx2.WriteTimeout("The write operation timed out") from None
        except PeerError:
            # The server did not want the rest; what it answered says why.
            self._background.call(stream.reset)
        except BaseException:
            self._background.call(stream.cancel)
            raise
        return self._background.run(receive_response(stream, timeouts, sent_at))

    def open_stream(
        self,
        method: str,
        url: str | httpx2.URL,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> "SyncStream":
        """Send a request's header and return its stream, taken over, for plain blocking calls.

        Each call on it takes at most `timeout_s` seconds, or raises TimeoutError.
        """
        self._background.start()
        stream = self._background.run(self._transport.open_stream(method, url, headers))
        return SyncStream(self, self._background, stream, timeout_s)

    def close(self) -> None:
        """Close all connections and end the background thread; twice is harmless."""
        if self._background.running:
            self._background.run(self._transport.aclose())
            self._background.stop()


class SyncStream:
    """A request stream for the notebook's thread: HTTP3Stream's methods as blocking calls."""

    def __init__(
        self,
        owner: HTTP3Transport,
        background: Background,
        stream: HTTP3Stream,
        timeout_s: float,
    ) -> None:
        self.stream_id = stream.stream_id
        self._owner = owner  # its loop runs while the stream is in use
        self._background = background
        self._stream = stream
        self._timeout_s = timeout_s

    def _run(self, coroutine: Any) -> Any:
        return self._background.run(coroutine, self._timeout_s)

    def write(self, data: bytes) -> None:
        """Send one DATA frame at once; waits while the server is slow."""
        self._run(self._stream.write(data))

    def close(self, trailers: Mapping[str, str] | None = None) -> None:
        """Finish the request (FIN), after `trailers` where given."""
        self._run(self._stream.close(trailers))

    def read_header(self) -> httpx2.Headers:
        """Return the response's header; `:status` is one of its fields."""
        return httpx2.Headers(self._run(self._stream.read_header()))

    def __iter__(self) -> Iterator[bytes]:
        while chunks := self._run(self._stream.receive()):
            yield from chunks

    def read(self) -> bytes:
        """Return the response's body up to its end."""
        return b"".join(self)

    def send_datagram(self, payload: bytes) -> None:
        """Send one HTTP datagram (RFC 9297)."""
        self._run(self._stream.send_datagram(payload))

    def receive_datagram(self) -> bytes:
        """Return the next HTTP datagram of this stream."""
        return self._run(self._stream.receive_datagram())

    def reset(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """End the request early (RESET_STREAM)."""
        self._background.call(self._stream.reset, error_code)

    def stop(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Ask the server to stop (STOP_SENDING)."""
        self._background.call(self._stream.stop, error_code)

    def __enter__(self) -> "SyncStream":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.close()
        self._background.call(self._stream.cancel)


class _Body(httpx2.AsyncByteStream):
    """A response's body, handed over as it arrives."""

    def __init__(
        self,
        stream: HTTP3Stream,
        timeout_s: float | None,
        trailers: httpx2.Headers,
        upload: "asyncio.Task[None] | None",
    ) -> None:
        self._stream = stream
        self._timeout_s = timeout_s
        self._trailers = trailers
        self._upload = upload
        self._loop = asyncio.get_running_loop()
        self._chunks_read = 0
        self._bytes_read = 0

    async def receive(self) -> list[bytes]:
        """Return what has arrived, at least one chunk; an empty list at the end."""
        with _as_httpx2(self._progress):
            async with asyncio.timeout(self._timeout_s):
                chunks = await self._stream.receive()
        self._chunks_read += len(chunks)
        self._bytes_read += sum(map(len, chunks))
        if not chunks:
            self._trailers.update(self._stream.trailers)
        return chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunks := await self.receive():
            for chunk in chunks:
                yield chunk

    def _progress(self) -> str:
        return f"after {self._chunks_read} chunks, {self._bytes_read} bytes"

    async def aclose(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Tell the server that nobody reads on; harmless at the end of the body."""
        if self._upload is not None:
            self._upload.cancel()
        self._stream.cancel()

    def __del__(self) -> None:
        # A response that nobody closed: its server must not stream on for nobody.
        if self._stream.is_open and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closed just now
                self._loop.call_soon_threadsafe(self._stream.cancel)


class _SyncBody(httpx2.SyncByteStream):
    """A response's body for the notebook's thread: one hop for all that has arrived."""

    def __init__(self, owner: HTTP3Transport, background: Background, body: _Body) -> None:
        self._owner = owner  # its loop runs while a response is being read
        self._background = background
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        while chunks := self._background.run(self._body.receive()):
            yield from chunks

    def close(self) -> None:
        self._background.call(self._body.cancel)


def _shut_down(background: Background, transport: AsyncHTTP3Transport) -> None:
    """End a client that nobody holds any more, or whose process exits; waits for nothing."""
    background.call(transport.disconnect)
    with contextlib.suppress(UsageError):  # the thread is a daemon and holds up nobody
        background.stop(0.5)


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
        with _as_httpx2(lambda: "before the response began"):
            async with asyncio.timeout(timeouts.get("read")):
                fields = await stream.read_header()
    except BaseException:
        if upload is not None:
            upload.cancel()
        stream.cancel()
        raise
    trailers = httpx2.Headers()
    return httpx2.Response(
        int(dict(fields)[b":status"]),
        headers=[field for field in fields if not field[0].startswith(b":")],
        stream=_Body(stream, timeouts.get("read"), trailers, upload),
        extensions={
            "http_version": b"HTTP/3",
            "stream_id": stream.stream_id,
            "request_sent_at": sent_at,
            "trailers": trailers,
        },
    )


async def _upload(
    stream: HTTP3Stream, pieces: AsyncIterable[bytes] | Iterable[bytes], timeout_s: float | None
) -> None:
    try:
        if isinstance(pieces, AsyncIterable):
            async for piece in pieces:
                async with asyncio.timeout(timeout_s):
                    await stream.write(piece)
        else:
            for piece in pieces:
                async with asyncio.timeout(timeout_s):
                    await stream.write(piece)
        await stream.close()
    except PeerError:
        # The server did not want the rest (RFC 9114 section 4.1); its answer says why.
        stream.reset()
    except TimeoutError:
        stream.fail(httpx2.WriteTimeout("The write operation timed out"))
    except Exception as error:  # noqa: BLE001 - the caller's iterator raised: the caller gets it
        stream.fail(error)


@contextlib.contextmanager
def _as_httpx2(progress: Any) -> Iterator[None]:
    """Turn what a stream raises into httpx2's exceptions, with the values in the message."""
    try:
        yield
    except StreamReset as error:
        raise httpx2.RemoteProtocolError(
            f"The server ended stream {error.stream_id} with {describe_code(error.error_code)} "
            f"{progress()}."
        ) from error
    except MalformedMessage as error:
        raise httpx2.RemoteProtocolError(f"{error} That was {progress()}.") from error
    except ConnectionLost as error:
        reason = error.reason or describe_code(error.code, error.transport)
        raise httpx2.ReadError(f"The connection was lost {progress()}: {reason}.") from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout("The read operation timed out") from error


def is_rejected(error: httpx2.TransportError) -> bool:
    """Return whether the server refused the request unprocessed (H3_REQUEST_REJECTED)."""
    cause = error.__cause__
    return isinstance(cause, StreamReset) and cause.error_code == ErrorCode.H3_REQUEST_REJECTED


def _known_body(request: httpx2.Request) -> bytes | None:
    """Return the request's body, or None where it is an iterator."""
    try:
        return request.content
    except httpx2.RequestNotRead:
        return None


def _fields(request: httpx2.Request) -> Fields:
    url = request.url
    pseudo = [
        (b":method", request.method.encode()),
        (b":scheme", b"https"),
        (b":authority", url.netloc),
        (b":path", url.raw_path),
    ]
    # Names in lower case; `host` is :authority here, and what HTTP/1.1 says about the connection
    # has no place in HTTP/3 (RFC 9114 sections 4.2 and 4.3.1).
    return pseudo + [
        (name.lower(), value)
        for name, value in request.headers.raw
        if name.lower() != b"host" and name.lower() not in CONNECTION_SPECIFIC_HEADERS
    ]
