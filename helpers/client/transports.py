"""HTTP/3 transports for httpx2: the client API stays, only the wire changes.

httpx2 has no HTTP/3 of its own, but it takes a transport: an object that turns one request into
one response. `AsyncHTTP3Transport` does that on the caller's loop. `HTTP3Transport` runs the same
one on a background loop, so that a notebook reads a response in a plain `for` loop, which can be
interrupted.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import ssl
import time
import weakref
from collections.abc import AsyncIterable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from aioquic.h3.connection import ErrorCode
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives.serialization import Encoding

from helpers.background import Background
from helpers.certificates import Trust, check_ca_file
from helpers.client.blocking import BlockingBody, BlockingStream, CallersBody
from helpers.client.dial import connect
from helpers.client.messages import (
    ResponseBody,
    Timeouts,
    is_rejected,
    known_body,
    receive_response,
    request_fields,
    upload_body,
)
from helpers.connection import Driver, Observer, new_configuration
from helpers.errors import (
    ConnectionLost,
    UsageError,
)
from helpers.stream import HTTP3Stream, ReceivingHalf, SendingHalf

T = TypeVar("T")

# The time-outs of a request where httpx2's user chose none.
NOBODY_CHOSE = httpx2.Timeout(5.0).as_dict()
# What may be sent a second time where nobody knows whether it was received (RFC 9110, 9.2.2).
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}


class AsyncHTTP3Transport(httpx2.AsyncBaseTransport):
    """HTTP/3 for httpx2.AsyncClient, on the loop that calls it.

    Keeps one connection per origin and opens a new one where the old one is gone. Once closed, it
    stays closed: what is asked of it then raises httpx2.LocalProtocolError. `ca_file` names
    the CAs to trust, None the public ones; `verify=False` trusts anybody. Connecting takes
    `connect_timeout_s` seconds at most, or what a request's own time-out says (httpx2.Timeout),
    unless that is httpx2's default or None. Raises CertificateFileError at once where `ca_file`
    cannot serve.
    """

    def __init__(
        self,
        ca_file: str | Path | None = None,
        verify: bool = True,
        connect_timeout_s: float = 3.0,
        wire: Observer | None = None,
    ) -> None:
        # Read once: the file may be gone, or its path lead elsewhere, when a connection is made.
        self._trust: Trust | None = None
        if ca_file is not None:
            self._trust = Trust(Path(ca_file), tuple(check_ca_file(ca_file)))
        self._verify = verify
        self._connect_timeout_s = connect_timeout_s
        self._wire = wire
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: dict[tuple[str, int, str], Driver] = {}
        # Those too that were replaced while a response was still on its way.
        self._all: weakref.WeakSet[Driver] = weakref.WeakSet()
        self._dialing: dict[tuple[str, int, str], asyncio.Lock] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; return its response as soon as the header has come.

        A body that is an async iterator goes out while the response comes in. Raises httpx2's
        exceptions, each saying what happened.
        """
        assert isinstance(request.stream, httpx2.AsyncByteStream), "httpx2.AsyncClient made it"
        return await self.send(request, request.stream)

    async def send(self, request: httpx2.Request, pieces: AsyncIterable[bytes]) -> httpx2.Response:
        """Do what `handle_async_request` does, with the body's `pieces` instead of its stream."""
        timeouts = _timeouts(request)
        body = known_body(request)
        may_repeat = body is not None and request.method in IDEMPOTENT
        for attempt in (1, 2):
            driver, stream, reused = await self._send_header(request, body == b"", may_repeat)
            sent_at = time.perf_counter()
            upload = asked = None
            if reused and may_repeat and driver.is_silent():
                asked = driver.ask(functools.partial(_give_up_unless_alive, stream))
            if body != b"":
                upload = asyncio.create_task(upload_body(stream, pieces, timeouts.get("write")))
            try:
                return await receive_response(stream, timeouts, sent_at, upload)
            except httpx2.TransportError as error:
                # RFC 9114 section 4.1.1: what was rejected was not processed.
                again = is_rejected(error) or (
                    reused and may_repeat and isinstance(error.__cause__, ConnectionLost)
                )
                if attempt == 2 or body is None or not again:
                    raise
                self._forget(driver)
            finally:
                if asked is not None:
                    asked.cancel()
        raise AssertionError("unreachable")

    async def open_stream(
        self, method: str, url: str | httpx2.URL, headers: Mapping[str, str] | None = None
    ) -> HTTP3Stream:
        """Send a request's header and return its stream, taken over: write and read as you like.

        `await stream.read_header()` gives the response's header. Raises as the connection does:
        httpx2.ConnectError or ConnectTimeout; afterwards the stream raises its own errors. A stream
        that nobody holds any more is cancelled, on whatever thread its last holder was.
        """
        request = httpx2.Request(method, url, headers=headers)
        if "content-length" not in httpx2.Headers(headers):
            # httpx2 announces an empty body; this one is what you write.
            request.headers.pop("content-length", None)
        _, stream, _ = await self._send_header(request, end_stream=False, may_repeat=False)
        give_up = functools.partial(_give_up, stream.sending, stream.receiving)
        loop = asyncio.get_running_loop()
        weakref.finalize(stream, _call_soon, loop, give_up).atexit = False
        return stream

    async def aclose(self) -> None:
        """Close all connections for good; what still streams is lost."""
        self.refuse_requests()
        self.disconnect()

    def disconnect(self) -> None:
        """Close all connections at once; called on their loop."""
        self._connections.clear()
        for driver in list(self._all):
            driver.close()
            driver.abandon("the client was closed")

    # ---- connections

    async def _send_header(
        self, request: httpx2.Request, end_stream: bool, may_repeat: bool
    ) -> tuple[Driver, HTTP3Stream, bool]:
        """Return a connection, a stream on it, and whether the connection was in use already.

        A server that was killed says nothing, and its successor on the port does not know the
        connection. So one that was silent is asked for a sign of life: before the request leaves,
        unless it `may_repeat`; then the question can travel with it (see `send`).
        """
        for attempt in (1, 2):
            driver, reused = await self._connection(request, asks_first=not may_repeat)
            try:
                stream = await self._open_stream(driver, request, end_stream)
            except ConnectionLost as lost:  # while it waited for a free stream: nothing was sent
                if attempt == 2:
                    raise httpx2.ConnectError(f"{lost}") from lost
                self._forget(driver)
            else:
                return driver, stream, reused
        raise AssertionError("unreachable")

    async def _open_stream(
        self, driver: Driver, request: httpx2.Request, end_stream: bool
    ) -> HTTP3Stream:
        waits = not driver.connection.can_open_stream()
        timeout_s = _timeouts(request).get("pool") if waits else None
        try:
            async with asyncio.timeout(timeout_s):
                return await driver.open_stream(request_fields(request), end_stream)
        except TimeoutError as error:
            raise httpx2.PoolTimeout(
                "All streams that the server allows at once are in use, and none became free in "
                f"{timeout_s:g} s."
            ) from error

    async def _connection(self, request: httpx2.Request, asks_first: bool) -> tuple[Driver, bool]:
        """Return a connection for a request, and whether it was in use already.

        Where it `asks_first`, one that was silent has given a sign of life.
        """
        url = request.url
        if url.scheme != "https":
            raise httpx2.UnsupportedProtocol(
                f"HTTP/3 has https:// URLs only (RFC 9114 section 3.1), not {str(url)!r}."
            )
        port = 443 if url.port is None else url.port
        if not 0 < port < 65536:
            raise httpx2.LocalProtocolError(f"{port} is no UDP port: they go from 1 to 65535.")
        self._belong_to_this_loop()
        host = url.raw_host.decode("ascii")
        origin = (host, port, _server_name(request) or host)
        # The time in which another request connects in vain counts: sixteen requests to a silent
        # server take one time-out, not sixteen.
        asked_at = asyncio.get_running_loop().time()
        async with self._dialing.setdefault(origin, asyncio.Lock()):
            driver = self._connections.get(origin)
            if driver is not None:
                usable = driver.connection.why_closed_to_requests() is None
                if usable and asks_first and driver.is_silent():
                    usable = await driver.is_alive()
                if usable:
                    return driver, True
                self._forget(driver)
                asked_at = asyncio.get_running_loop().time()
            timeouts = _timeouts(request)
            chosen_s = None if timeouts == NOBODY_CHOSE else timeouts.get("connect")
            timeout_s = self._connect_timeout_s if chosen_s is None else chosen_s
            driver = await connect(
                *origin, self._new_configuration, self._trust, timeout_s, asked_at
            )
            if self._is_closed:  # meanwhile
                driver.close()
                driver.abandon("the client was closed")
            self.check_open()
            self._connections[origin] = driver
            self._all.add(driver)
            return driver, False

    def refuse_requests(self) -> None:
        """Be closed to requests from now on; from any thread."""
        self._is_closed = True

    def check_open(self) -> None:
        """Raise httpx2.LocalProtocolError where this transport was closed; from any thread."""
        if self._is_closed:
            raise httpx2.LocalProtocolError("This client was closed. Make a new one.")

    def _belong_to_this_loop(self) -> None:
        """Use the running loop; raises httpx2.LocalProtocolError for none, or another in use."""
        self.check_open()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise httpx2.LocalProtocolError(
                "AsyncHTTP3Transport needs a loop of asyncio or uvloop, and none runs here. Under "
                "trio, use httpx2.Client(transport=HTTP3Transport(...)) in a thread."
            ) from error
        if self._loop is loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise httpx2.LocalProtocolError(
                "This client is in use on another event loop, which runs. Make one for each loop."
            )
        # What belonged to a loop that has ended went with it.
        self._loop = loop
        self._connections.clear()
        self._dialing.clear()

    def _forget(self, driver: Driver) -> None:
        """Use a connection for no more requests; streams that are still on it go on."""
        # Another request may have put a new one in its place already.
        for origin in [key for key, known in self._connections.items() if known is driver]:
            del self._connections[origin]
        if not driver.connection.open_streams():
            driver.close()
            driver.abandon("replaced")

    def _new_configuration(self) -> QuicConfiguration:
        configuration = new_configuration(is_client=True, wire=self._wire)
        if self._trust is not None:
            pem = b"".join(ca.public_bytes(Encoding.PEM) for ca in self._trust.certificates)
            configuration.load_verify_locations(cadata=pem)
        if not self._verify:
            configuration.verify_mode = ssl.CERT_NONE
        return configuration


def _timeouts(request: httpx2.Request) -> Timeouts:
    timeouts: Timeouts = request.extensions.get("timeout", {})
    return timeouts


def _server_name(request: httpx2.Request) -> str | None:
    """Return the name that the server's certificate has to be for where it is not the URL's host.

    That is httpx2's extension `sni_hostname`, for a server whose name does not lead to it yet.
    """
    name = request.extensions.get("sni_hostname")
    if name is None:
        return None
    try:
        return httpx2.URL(scheme="https", host=name).raw_host.decode("ascii")
    except (TypeError, httpx2.InvalidURL) as error:
        raise httpx2.LocalProtocolError(f"sni_hostname={name!r} is no host name.") from error


def _give_up_unless_alive(stream: HTTP3Stream, is_alive: bool, waited_s: float) -> None:
    """End a request whose server has gone; who waits for its answer sends it again."""
    if not is_alive:
        reason = f"the server gave no sign of life for {waited_s:.2g} s"
        stream.receiving.fail(ConnectionLost(None, reason), ErrorCode.H3_REQUEST_CANCELLED)


def _give_up(sending: SendingHalf, receiving: ReceivingHalf) -> None:
    sending.reset(ErrorCode.H3_REQUEST_CANCELLED)
    receiving.stop(ErrorCode.H3_REQUEST_CANCELLED)


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # it has closed: nothing is left to be given up
        loop.call_soon_threadsafe(function)


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
        weakref.finalize(self, _shut_down, self._background, self._transport).atexit = False
        _open.add(self)
        # Later than weakref's own, and so called earlier: before the servers of this process end.
        atexit.unregister(_leave)
        atexit.register(_leave)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; return its response as soon as the header has come.

        A body that is an iterator is read on the calling thread and sent before the response is
        awaited; where both are to flow at once, use `open_stream`. Raises httpx2's exceptions.
        """
        assert isinstance(request.stream, httpx2.SyncByteStream), "httpx2.Client made it"
        if known_body(request) is not None:
            response = self._run(self._transport.handle_async_request, request)
        else:
            body = CallersBody(request.stream)
            response = self._run(self._transport.send, request, body, meanwhile=body.make_pieces)
        assert isinstance(response.stream, ResponseBody), "receive_response made it"
        response.stream = BlockingBody(self, self._background, response.stream)
        return response

    def open_stream(
        self,
        method: str,
        url: str | httpx2.URL,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> "BlockingStream":
        """Send a request's header and return its stream, taken over, for plain blocking calls.

        Each call on it takes at most `timeout_s` seconds, or raises TimeoutError. Raises httpx2's
        exceptions; afterwards the stream raises its own errors.
        """
        stream = self._run(self._transport.open_stream, method, url, headers)
        return BlockingStream(self, self._background, stream, timeout_s)

    def close(self) -> None:
        """Close all connections and end the background thread; twice is harmless.

        Raises httpx2.CloseError where something blocks that thread.
        """
        self._transport.refuse_requests()
        try:
            if self._background.running:
                with contextlib.suppress(
                    UsageError
                ):  # another thread closes it, or a fork has none
                    self._background.run(self._transport.aclose)
            self._background.stop()
        except UsageError as error:
            raise httpx2.CloseError(str(error)) from error

    def _run(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        meanwhile: Callable[["concurrent.futures.Future[T]"], object] | None = None,
    ) -> T:
        self._transport.check_open()
        try:
            self._background.start()
        except UsageError as error:
            raise httpx2.ConnectError(str(error)) from error
        try:
            return self._background.run(function, *args, meanwhile=meanwhile)
        except UsageError as error:  # closed by another thread meanwhile, or a forked process
            self._transport.check_open()
            raise httpx2.ReadError(str(error)) from error

    def leave(self) -> None:
        """Tell the servers that this process exits, and nobody else; nothing works afterwards."""
        self._background.leave(self._transport.disconnect)


_open: "weakref.WeakSet[HTTP3Transport]" = weakref.WeakSet()


def _leave() -> None:
    for transport in list(_open):
        transport.leave()


def _shut_down(background: Background, transport: AsyncHTTP3Transport) -> None:
    """End a client that nobody holds any more; waits for nothing."""
    background.call(transport.disconnect)
    with contextlib.suppress(UsageError):  # the thread is a daemon and holds up nobody
        background.stop(0.5)
