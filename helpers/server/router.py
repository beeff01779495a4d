"""One request, one handler: find it, run it, and turn how it ends into what the client sees.

A handler is an `async def` that runs as a task on the server's loop. It can end in five ways:
returning, raising before or after the header left, being cancelled since the client has gone, and
blocking the loop so that nothing else moves. Each of them is a few lines here.
"""

import asyncio
import contextlib
import inspect
import logging
import time
import traceback
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from aioquic.h3.connection import ErrorCode

from helpers.connection import HTTP3Connection
from helpers.errors import BodyTooLarge, ClientDisconnected, MalformedMessage, PeerError, UsageError
from helpers.exchange import Request, Response
from helpers.server.beats import Beats
from helpers.stream import Fields, Half, HTTP3Stream

logger = logging.getLogger("helpers.server")

# A handler that keeps the loop for longer than this holds up every other request. On a busy machine
# that happens to everybody, and is no fault: then the beats are late as well, or find the thread in
# the helpers' own code, and it is not the handler that had the processor.
BLOCKING_S = 0.08
BLOCKING_BEATS = 3

# A server that fails all day keeps the last of its errors.
MAX_ERRORS = 100

Handler = Callable[[Request, Response], Awaitable[None]]


@dataclass
class Route:
    """A path's handler and its limits."""

    path: str
    handler: Handler
    methods: frozenset[str] | None = None
    max_body_bytes: int | None = None
    blocking_reported: bool = False


class Handlers:
    """The routes of one server, and the tasks that run them on its loop.

    `routes` may be changed while the server runs; `errors` holds what handlers raised, newest last.
    `beats` are started and stopped with the server.
    """

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.errors: list[BaseException] = []
        self.running: set[asyncio.Task[None]] = set()
        self.refusing = False
        self.beats = Beats("http3-beats")
        # By task, until it has ended and its frames can be cleared.
        self._failures: dict[asyncio.Task[None], BaseException] = {}

    def add(self, route: Route) -> None:
        """Register a route; a second one for the same path replaces the first.

        Raises UsageError where the handler is not `async def` or the path does not start with `/`.
        """
        name = getattr(route.handler, "__name__", repr(route.handler))
        if not inspect.iscoroutinefunction(route.handler):
            raise UsageError(
                f"The handler {name!r} of {route.path} is a plain function. Write `async def "
                f"{name}(request, response)`: it shares one loop with all others and must await."
            )
        if not route.path.startswith("/"):
            raise UsageError(f"A path starts with '/': {route.path!r} does not.")
        self.routes[route.path] = route

    def accept(self, connection: HTTP3Connection, stream: HTTP3Stream, fields: Fields) -> None:
        """Start the task that answers one request. Called on the server's loop."""
        if self.refusing:
            stream.reset(ErrorCode.H3_REQUEST_REJECTED)
            stream.stop(ErrorCode.H3_REQUEST_REJECTED)
            return
        task = asyncio.get_running_loop().create_task(self._answer(connection, stream, fields))
        self.running.add(task)
        task.add_done_callback(self._ended)
        stream.on_abandoned = task.cancel

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self.running.discard(task)
        error = self._failures.pop(task, None)
        if error is not None:
            _clear_frames(error)

    async def _answer(
        self, connection: HTTP3Connection, stream: HTTP3Stream, fields: Fields
    ) -> None:
        try:
            address = connection.quic.get_peer_address()
            request = Request(stream, fields, address[:2])
        except ValueError as error:  # UnicodeDecodeError is one
            logger.info("400 on stream %d: %s", stream.stream_id, error)
            await _refuse(Response(stream, "GET", "bad request"), 400, "bad request\n")
            return
        response = Response(stream, request.method, f"{request.method} {request.path}")
        try:
            await self._route(request, response, stream)
        except (ClientDisconnected, MalformedMessage) as error:
            # No error of the handler's (RFC 9114 section 4.1): the client broke off its request.
            logger.info("%s %s: %s", request.method, request.path, str(error))
            response.break_off(ErrorCode.H3_REQUEST_INCOMPLETE)
        except asyncio.CancelledError as error:
            if asyncio.current_task().cancelling():  # the server stops
                response.break_off(ErrorCode.H3_REQUEST_CANCELLED)
            else:  # something that the handler awaited was cancelled
                await self._fail(request, response, error, 500, "internal server error\n")
        except BodyTooLarge as error:
            await self._fail(request, response, error, 413, "request body too large\n")
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001
            # Whatever a handler raises is its own affair: asyncio would let exit() end the loop.
            await self._fail(request, response, error, 500, "internal server error\n")

    async def _route(self, request: Request, response: Response, stream: HTTP3Stream) -> None:
        route = self.routes.get(request.path)
        if route is None:
            await _refuse(response, 404, f"no route for {request.path}\n")
            return
        allowed = route.methods
        if allowed is not None and request.method not in allowed:
            headers = {"allow": ", ".join(sorted(allowed))}
            await _refuse(response, 405, f"{request.method} is not allowed\n", headers)
            return
        request.max_body_bytes = route.max_body_bytes
        length = request.headers.get("content-length", "0")
        if route.max_body_bytes is not None and int(length) > route.max_body_bytes:
            await _refuse(response, 413, "request body too large\n")
            return
        await _watched(route.handler(request, response), route, stream, self.beats)
        await response.finish()

    async def _fail(
        self, request: Request, response: Response, error: BaseException, status: int, text: str
    ) -> None:
        """Keep what a handler raised, and tell the client as much as still can be told."""
        if isinstance(error, BodyTooLarge):  # the client's doing
            logger.info("413: %s", error)
        else:
            logger.error("%s %s: the handler raised", request.method, request.path, exc_info=error)
        self.errors.append(error)
        del self.errors[:-MAX_ERRORS]
        self._failures[asyncio.current_task()] = error
        if response.header_sent:
            response.break_off()
            return
        try:
            response.restart()
            await _refuse(response, status, text)
        except PeerError:
            logger.info(
                "%s %s: the client left before the %d", request.method, request.path, status
            )


def _clear_frames(error: BaseException) -> None:
    """Let an error say where it was raised, but keep no request or body alive.

    Only once its task has ended: a frame that runs cannot be cleared, and each of the others
    refers to the one that called it. What a nested function closes over stays with its frame.
    """
    suspended = _suspended_frames()
    found, seen = [error], set()
    while found:
        one = found.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if frame not in suspended:
                with contextlib.suppress(RuntimeError):  # it runs
                    frame.clear()
        found += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            found += one.exceptions


def _suspended_frames() -> set[types.FrameType]:
    """Return the frames in which tasks of this loop wait.

    An error may come from a task that goes on; before Python 3.13, clearing its frame ends it.
    """
    frames = set()
    for task in asyncio.all_tasks():
        waiting: Any = task.get_coro()
        while (frame := getattr(waiting, "cr_frame", None)) is not None:
            frames.add(frame)
            waiting = waiting.cr_await
    return frames


async def _refuse(
    response: Response, status: int, text: str, headers: dict[str, str] | None = None
) -> None:
    response.write_header(status, {"content-type": "text/plain; charset=utf-8"} | (headers or {}))
    await response.write(text)
    await response.finish()


@types.coroutine
def _watched(
    handler: Coroutine[Any, Any, None], route: Route, stream: HTTP3Stream, beats: Beats
) -> Generator[Any, Any, None]:
    """Run a handler step by step; the loop moves on only between the steps.

    A step that takes long is a blocking call, and reported once. A cancellation that came since
    the client has gone reaches the handler as ClientDisconnected, which says so.
    """
    step, argument = handler.send, None
    while True:
        beats.go_on()
        started, first_beat = time.perf_counter(), beats.elsewhere
        computed_s = -time.thread_time()
        try:
            awaited = step(argument)
        except StopIteration:
            return
        finally:
            elapsed_s = time.perf_counter() - started
            computed_s += time.thread_time()
            is_to_blame = computed_s > BLOCKING_S or beats.elsewhere - first_beat >= BLOCKING_BEATS
            if elapsed_s > BLOCKING_S and is_to_blame and not route.blocking_reported:
                route.blocking_reported = True
                _report_blocking(route, elapsed_s)
        try:
            argument = yield awaited
            step = handler.send
        except asyncio.CancelledError as error:
            gone = stream.sending.state in (Half.STOPPED, Half.LOST)
            argument = stream.sending.error if gone else error
            step = handler.throw
        except BaseException as error:  # noqa: BLE001 - it is the handler's, who gets it
            step, argument = handler.throw, error


def _report_blocking(route: Route, elapsed_s: float) -> None:
    name = getattr(route.handler, "__name__", repr(route.handler))
    logger.warning(
        "The handler %r of %s blocked the server for %.0f ms: no other request moved, and nothing "
        "left. If that is time.sleep(...), use `await asyncio.sleep(...)`.",
        name,
        route.path,
        elapsed_s * 1000,
    )
