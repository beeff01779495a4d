"""An HTTP/3 server that runs in the background of a notebook.

The server is one object that routes are added to while it runs, since a cell is run again and
again. Everything with a socket happens on the loop of a background thread (background.py); the
methods here are called from the notebook's thread.
"""

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from helpers.background import Background
from helpers.certificates import check_key_pair
from helpers.connection import Observer, new_configuration
from helpers.errors import ServerStartError, UsageError
from helpers.server.beats import Beats
from helpers.server.listener import LOOPBACK_HOSTS, Listener
from helpers.server.router import Handler, Route, Router

logger = logging.getLogger("helpers.server")

# Every address of this machine, so `localhost` too.
ANY_HOSTS = ("", "0.0.0.0", "::")
START_TIMEOUT_S = 5.0
# After the grace, closing itself is bounded by this.
CLOSE_TIMEOUT_S = 0.5

# Servers of this process by port, so that a cell which is run again replaces its own server.
_started: "weakref.WeakValueDictionary[int, Server]" = weakref.WeakValueDictionary()


class Server:
    """An HTTP/3 server: `route`, `start`, `stop`, or `with Server(...) as server`.

    Binds loopback only unless `host` says otherwise; "0.0.0.0" and "::" are every address of this
    machine, and a client is answered from the one that it asked (on Linux; elsewhere from the one
    that its routes prefer: name yours where there are several). With `port=0` the system picks a
    free UDP port: see `port` and `url`. Raises CertificateFileError at once where the certificate
    or key file cannot serve.
    """

    def __init__(
        self,
        cert_file: str | Path,
        key_file: str | Path,
        host: str = "127.0.0.1",
        port: int = 0,
        wire: Observer | None = None,
    ) -> None:
        certificates, key = check_key_pair(cert_file, key_file)
        self.host = host
        self._requested_port = port
        self._port: int | None = None
        self._configuration = new_configuration(is_client=False, wire=wire)
        # aioquic's load_cert_chain stumbles over a blank line, and loses the chain over CRLF.
        self._configuration.certificate, *self._configuration.certificate_chain = certificates
        self._configuration.private_key = key
        self._router = Router()
        self._background = Background("http3-server")
        self._listener: Listener | None = None
        self._finalizer: weakref.finalize[Any, Server] | None = None

    # ---- routes

    def route(
        self, path: str, methods: Iterable[str] | None = None, max_body_bytes: int | None = None
    ) -> Callable[[Handler], Handler]:
        """Register an `async def handler(request, response)` for a path, also while running.

        The same path again replaces the handler. Other `methods` than those given get 405, a body
        above `max_body_bytes` gets 413. Raises UsageError where the handler is not `async def`.
        """

        def register(handler: Handler) -> Handler:
            allowed = None if methods is None else frozenset(m.upper() for m in methods)
            if allowed is not None and "GET" in allowed:
                allowed |= {"HEAD"}  # RFC 9110 section 9.3.2
            self._router.add(Route(path, handler, allowed, max_body_bytes))
            return handler

        return register

    @property
    def errors(self) -> list[BaseException]:
        """What handlers raised, newest last (the last 100)."""
        return self._router.errors

    # ---- start and stop

    def start(self) -> "Server":
        """Bind the port and return this server, running; starting twice is harmless.

        Raises ServerStartError where the port is in use. Where the one who uses it is an earlier
        server of this same process, that one is stopped and replaced.
        """
        if self._listener is not None:
            return self
        if self._requested_port:
            earlier = _started.get(self._requested_port)
            if earlier is not None and earlier is not self:
                earlier.stop(grace_s=0)
        self._background.start()
        self._router.refuse(False)
        listener = Listener(self._configuration, self._router.accept, self._router.abandon)
        try:
            self._port = self._background.run(
                listener.bind, self.host, self._requested_port, timeout_s=START_TIMEOUT_S
            )
        except (ServerStartError, TimeoutError):
            self._background.stop()
            raise
        self._listener = listener
        beats = self._router.beats
        beats.start()
        self._finalizer = weakref.finalize(self, _shut_down, self._background, listener, beats)
        _started[self._port] = self
        if self.host not in LOOPBACK_HOSTS:
            logger.warning("Listening on %s: other machines can reach it.", self.host or "*")
        return self

    def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new requests, wait for the running handlers up to `grace_s` seconds, close.

        What was written and flushed before arrives. Handlers that run longer are cancelled; it
        takes 1 s more than the grace at most. Stopping twice is harmless.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._port is not None:
            _started.pop(self._port, None)
        try:
            self._background.run(
                _let_end,
                listener,
                self._router,
                grace_s,
                timeout_s=grace_s + CLOSE_TIMEOUT_S,
            )
        except TimeoutError:
            logger.warning("The server did not close within %g s.", grace_s + CLOSE_TIMEOUT_S)
        finally:
            # Also where a handler blocked the loop until now, or the cell was interrupted.
            self._background.call(listener.close)
            try:
                self._background.stop(CLOSE_TIMEOUT_S)
            finally:
                self._router.beats.stop()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- where it is

    @property
    def port(self) -> int:
        """The UDP port; raises UsageError before `start`."""
        if self._port is None:
            raise UsageError("The port is known once the server has started: call start() first.")
        return self._port

    def url(self, path: str = "/") -> str:
        """Return the URL of a path on this server, such as https://localhost:54321/stream."""
        host = "localhost" if self.host in LOOPBACK_HOSTS + ANY_HOSTS else self.host
        if ":" in host:
            host = f"[{host}]"
        return f"https://{host}:{self.port}{path}"

    def __repr__(self) -> str:
        where = self.url("/") if self._listener is not None else "stopped"
        return f"<Server {where}, routes: {', '.join(sorted(self._router.routes)) or 'none'}>"


async def _let_end(listener: Listener, router: Router, grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    router.refuse(True)
    for connection in listener.connections:
        connection.refuse_new_requests()
    if router.running and grace_s > 0:
        await asyncio.wait(router.running, timeout=grace_s)
    for task in router.running:
        task.cancel()
    if router.running:
        await asyncio.wait(router.running, timeout=CLOSE_TIMEOUT_S / 3)
    await listener.drain(max(deadline - time.monotonic(), CLOSE_TIMEOUT_S / 3))
    for connection in listener.connections:
        for stream in connection.open_streams():
            stream.sending.warn_if_open()


def _shut_down(background: Background, listener: Listener, beats: Beats) -> None:
    """End a server that nobody holds any more, or whose process exits; waits for nothing."""
    beats.end()
    background.call(listener.close)
    # A handler that blocks the loop keeps its thread; a daemon thread holds up nobody.
    with contextlib.suppress(UsageError):
        background.stop(CLOSE_TIMEOUT_S)
