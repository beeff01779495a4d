"""One request, one handler: find it, run it, and turn how it ends into what the client sees.

A handler is an `async def` that runs as a task on the server's loop. It can end in five ways:
returning, raising before or after the header left, being cancelled since the client has gone, and
blocking the loop so that nothing else moves. Each of them is a few lines here.

A client that leaves is told to the handler where it is: what waits for that client (`write`,
`flush`, reading) raises ClientDisconnected, any other `await` is cancelled, as asyncio cancels.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import time
import traceback
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from aioquic.h3.connection import ErrorCode

from helpers.connection import Address
from helpers.errors import BodyTooLarge, ClientDisconnected, MalformedMessage, PeerError, UsageError
from helpers.exchange import Request, Response, break_off, continue_before_body, finish, restart
from helpers.server.beats import Beats
from helpers.stream import Fields, HTTP3Stream, content_length

logger = logging.getLogger("helpers.server")

# A handler that keeps the loop for longer than this holds up every other request. On a busy machine
# that happens to everybody, and is no fault: then the beats are late as well, or find the thread in
# the helpers' own code, and it is not the handler that had the processor.
BLOCKING_S = 0.08
BLOCKING_BEATS = 3

# A server that fails all day keeps the last of its errors.
MAX_ERRORS = 100

Handler = Callable[[Request, Response], Coroutine[Any, Any, None]]


@dataclass
class Route:
    """A path's handler and its limits."""

    path: str
    handler: Handler
    methods: frozenset[str] | None = None
    max_body_bytes: int | None = None
    blocking_reported: bool = False


class Router:
    """The routes of one server, and the tasks that run them on its loop.

    `routes` may be changed while the server runs; `errors` holds what handlers raised, newest last.
    `beats` are started and stopped with the server.
    """

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.errors: list[BaseException] = []
        self.beats = Beats("http3-beats")
        self._running: dict[HTTP3Stream, asyncio.Task[None]] = {}
        self._refusing = False
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

    @property
    def running(self) -> set["asyncio.Task[None]"]:
        """The tasks of the handlers that run now."""
        return set(self._running.values())

    def refuse(self, refusing: bool) -> None:
        """Refuse all requests from now on, or no more."""
        self._refusing = refusing

    def accept(self, stream: HTTP3Stream, fields: Fields, address: Address) -> None:
        """Start the task that answers one request. Called on the server's loop."""
        if self._refusing:
            stream.reset(ErrorCode.H3_REQUEST_REJECTED)
            stream.stop(ErrorCode.H3_REQUEST_REJECTED)
            return
        task = asyncio.get_running_loop().create_task(self._answer(stream, fields, address))
        self._running[stream] = task
        task.add_done_callback(functools.partial(self._ended, stream))

    def abandon(self, stream: HTTP3Stream) -> None:
        """Tell a stream's handler, where it still runs, that its client has gone."""
        task, error = self._running.get(stream), stream.sending.error
        if task is None or not isinstance(error, PeerError) or stream.sending.is_awaited_by(task):
            return
        if not stream.receiving.interrupt(task, error):
            task.cancel()

    def _ended(self, stream: HTTP3Stream, task: "asyncio.Task[None]") -> None:
        self._running.pop(stream, None)
        if task.cancelled() and stream.sending.error is not None:
            logger.info("Before its handler began: %s", str(stream.sending.error))
        error = self._failures.pop(task, None)
        if error is not None:
            _clear_frames(error)

    async def _answer(self, stream: HTTP3Stream, fields: Fields, address: Address) -> None:
        pseudo = dict(fields)
        if pseudo[b":method"] == b"CONNECT" and not pseudo.keys() & {b":scheme", b":path"}:
            # RFC 9114 section 4.4; RFC 9110 section 9.1: a method that no resource here has.
            await _refuse(Response(stream, "CONNECT", "CONNECT"), 501, "this is no proxy\n")
            return
        try:
            request = Request(stream, fields, address[:2])
        except ValueError as error:  # UnicodeDecodeError is one
            logger.info("400 on stream %d: %s", stream.stream_id, error)
            await _refuse(Response(stream, "GET", "bad request"), 400, "bad request\n")
            return
        response = Response(stream, request.method, f"{request.method} {request.path}")
        try:
            await self._route(request, response)
        except BaseException as error:  # noqa: BLE001
            # Whatever a handler raises is its own affair: asyncio would let exit() end the loop.
            if _is_due_to_the_client(error, stream):
                # The client broke off its request: no error of the handler's (RFC 9114, 4.1).
                why = stream.sending.error or error
                logger.info("%s %s: %s", request.method, request.path, str(why))
                break_off(response, ErrorCode.H3_REQUEST_INCOMPLETE)
            elif _is_cancelled(error):  # the server stops
                break_off(response, ErrorCode.H3_REQUEST_CANCELLED)
            elif all(isinstance(one, BodyTooLarge) for one in _ungrouped(error)):
                await self._fail(request, response, error, 413, "request body too large\n")
            else:
                await self._fail(request, response, error, 500, "internal server error\n")

    async def _route(self, request: Request, response: Response) -> None:
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
        length = content_length(request.headers.raw) or 0  # one number: the stream has seen to it
        if route.max_body_bytes is not None and length > route.max_body_bytes:
            await _refuse(response, 413, "request body too large\n")
            return
        expected = request.headers.get("expect", "").lower()
        if expected == "100-continue":
            continue_before_body(request, response)
        elif expected:  # RFC 9110 section 10.1.1
            await _refuse(response, 417, f"{request.headers['expect']!r} cannot be expected\n")
            return
        await _watched(route.handler(request, response), route, self.beats)
        await finish(response)

    async def _fail(
        self, request: Request, response: Response, error: BaseException, status: int, text: str
    ) -> None:
        """Keep what a handler raised, and tell the client as much as still can be told."""
        if status == 413:  # the client's doing
            logger.info("413: %s", _ungrouped(error)[0])
        else:
            logger.error("%s %s: the handler raised", request.method, request.path, exc_info=error)
        self.errors.append(error)
        del self.errors[:-MAX_ERRORS]
        task = asyncio.current_task()
        assert task is not None, "handlers run in tasks"
        self._failures[task] = error
        if response.header_sent:
            break_off(response)
            return
        try:
            restart(response)
            await _refuse(response, status, text)
        except PeerError:
            logger.info(
                "%s %s: the client left before the %d", request.method, request.path, status
            )


def _ungrouped(error: BaseException) -> list[BaseException]:
    """Return what an error consists of: a TaskGroup raises a group, of groups perhaps."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [one for part in error.exceptions for one in _ungrouped(part)]


def _is_due_to_the_client(error: BaseException, stream: HTTP3Stream) -> bool:
    """Return whether a handler ended since its client left, or broke off what it sent.

    Where its client left, a cancellation is its doing, and so is a group of nothing else, which a
    TaskGroup raises. Where it did neither, another one left, whose stream the handler wrote to.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(_is_due_to_the_client(one, stream) for one in error.exceptions)
    gone = stream.sending.error
    if isinstance(error, asyncio.CancelledError):
        return gone is not None
    broken = gone or stream.receiving.error
    return broken is not None and isinstance(error, ClientDisconnected | MalformedMessage)


def _is_cancelled(error: BaseException) -> bool:
    """Return whether somebody cancelled this task, not only something that it awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _clear_frames(error: BaseException) -> None:
    """Let an error say where it was raised, but keep no request or body alive.

    Only once its task has ended: a frame that runs cannot be cleared, and each of the others
    refers to the one that called it. What a nested function closes over stays with its frame.
    """
    suspended = _suspended_frames()
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
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
    await finish(response)


@types.coroutine
def _watched(
    handler: Coroutine[Any, Any, None], route: Route, beats: Beats
) -> Generator[Any, Any, None]:
    """Run a handler step by step; the loop moves on only between the steps.

    A step that takes long is a blocking call, and reported once. Nothing else is done here.
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
            argument = None  # an error would hold this frame, which held it
            elapsed_s = time.perf_counter() - started
            computed_s += time.thread_time()
            is_to_blame = computed_s > BLOCKING_S or beats.elsewhere - first_beat >= BLOCKING_BEATS
            if elapsed_s > BLOCKING_S and is_to_blame and not route.blocking_reported:
                route.blocking_reported = True
                _report_blocking(route, elapsed_s)
        try:
            step, argument = handler.send, (yield awaited)
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
