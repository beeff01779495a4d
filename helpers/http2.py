"""The same handlers over HTTP/2, to compare with: TCP instead of QUIC, and hypercorn inside.

HTTP/2 (RFC 9113) has streams too, all in one TCP connection. The server here is hypercorn's; what
it hands to an application (ASGI) is put into the words of `Request` and `Response` as far as the
handlers of the workbook need it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl

from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

from helpers.background import Background
from helpers.errors import UsageError

TIMEOUT_S = 5.0

Handler = Callable[["Request", "Response"], Awaitable[None]]


class Request:
    """What a handler is asked: `method`, `path` and `query`, as those of HTTP/3."""

    def __init__(self, scope: HTTPScope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query = dict(parse_qsl(scope["query_string"].decode()))


class Response:
    """What a handler answers. Each write leaves by itself: there is nothing to flush."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self._status: int | None = None

    async def write(self, data: str | bytes) -> None:
        """Send text (as UTF-8) or bytes; the first one takes the header along."""
        await self._begin(200)
        body = data.encode() if isinstance(data, str) else data
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def flush(self) -> None:
        """Do nothing: what was written has left."""

    async def end(self, status: int = 200) -> None:
        """End the body; `status` is that of a response without one."""
        await self._begin(status)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, status: int) -> None:
        if self._status is None:
            self._status = status
            await self._send({"type": "http.response.start", "status": status, "headers": []})


class HTTP2Server:
    """An HTTP/2 server on a free TCP port of 127.0.0.1: `route`, `start`, `stop`, as `Server`."""

    host = "127.0.0.1"

    def __init__(self, cert_file: str | Path, key_file: str | Path) -> None:
        self._config = Config()
        self._config.certfile, self._config.keyfile = str(cert_file), str(key_file)
        self._config.alpn_protocols = ["h2"]
        self._config.errorlog = None  # it would announce itself on stderr
        self._handlers: dict[str, Handler] = {}
        self._background = Background("http2-server")
        self._port: int | None = None

    def route(self, path: str) -> Callable[[Handler], Handler]:
        """Register a handler for a path, also while running."""

        def register(handler: Handler) -> Handler:
            self._handlers[path] = handler
            return handler

        return register

    def start(self) -> Self:
        """Return this server, running; starting twice is harmless."""
        if self._port is None:
            self._background.start()
            self._port = self._background.run(self._listen, timeout_s=TIMEOUT_S)
        return self

    async def _listen(self) -> int:
        sock = socket.create_server((self.host, 0))
        port: int = sock.getsockname()[1]
        self._config.bind = [f"fd://{sock.detach()}"]
        self._is_over = asyncio.Event()
        # hypercorn waits for no signal where it is told what else to wait for.
        serving = serve(self._application, self._config, shutdown_trigger=self._is_over.wait)
        self._serving = asyncio.create_task(serving)
        return port

    def stop(self) -> None:
        """Close the connections and the port; stopping twice is harmless."""
        if self._port is not None:
            self._port = None
            self._background.run(self._end, timeout_s=TIMEOUT_S)
            self._background.stop()

    async def _end(self) -> None:
        self._is_over.set()
        await self._serving

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The TCP port; raises UsageError where the server is not running."""
        if self._port is None:
            raise UsageError("This server is not running: call start(), or use a `with` block.")
        return self._port

    def url(self, path: str = "/") -> str:
        """Return the URL of a path on this server."""
        return f"https://localhost:{self.port}{path}"

    async def _application(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer one request, as hypercorn asks for it (ASGI)."""
        if scope["type"] != "http":
            return  # it would tell when it starts and when it ends
        handler = self._handlers.get(scope["path"])
        response = Response(send)
        if handler is not None:
            await handler(Request(scope), response)
        await response.end(404 if handler is None else 200)
