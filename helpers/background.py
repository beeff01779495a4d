"""One asyncio loop on a daemon thread, for a notebook whose own thread must stay free.

A cell that waits in `await` cannot be interrupted, and aioquic must only be touched from the
thread of its loop. So the server and the synchronous client each own one of these: the loop runs
here, the notebook's thread hands coroutines over and waits for them, and that wait is one that
KeyboardInterrupt ends.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from helpers.clock import FineLoop
from helpers.errors import UsageError

T = TypeVar("T")

START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 1.0


class Background:
    """An event loop on a daemon thread: `start`, `run` coroutines on it, `stop`, nothing left.

    The thread is a daemon, so that a kernel can exit without `stop`. All methods are called from
    other threads than the loop's own; `start` and `stop` may be called twice.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._has_left = False

    @property
    def running(self) -> bool:
        """Whether the thread was started and not stopped."""
        return self._thread is not None

    def start(self) -> None:
        """Start the thread and return when its loop runs; several threads may do so at once.

        Raises UsageError where the system has no thread for it, or the loop does not run within
        5 s.
        """
        with self._starting:
            if self._thread is not None or self._has_left:
                return
            started = threading.Event()
            self._loop, self._thread = _start_thread(self.name, started)
        if not started.wait(START_TIMEOUT_S):
            raise UsageError(f"The thread {self.name!r} did not start in {START_TIMEOUT_S:g} s.")

    def run(
        self,
        work: Callable[..., Coroutine[Any, Any, T]] | Coroutine[Any, Any, T],
        *args: object,
        timeout_s: float | None = None,
        meanwhile: Callable[["concurrent.futures.Future[T]"], object] | None = None,
    ) -> T:
        """Run a coroutine, or the one that `work(*args)` makes, on the loop; return its result.

        Raises what it raises. One that is made there cannot be lost, never awaited, where a
        signal's handler raises on the way. `meanwhile(future)` is called on this thread while it
        runs, with the future of its result. Raises TimeoutError after `timeout_s` seconds. Whatever
        ends the wait early, an interrupt of the cell too, cancels the coroutine. Called from any
        thread but the loop's own. Raises UsageError for `args` beside a coroutine, which has its
        own already.
        """
        try:
            if args and isinstance(work, Coroutine):
                raise UsageError(
                    f"run() got {work!r} and {args!r} beside it: a coroutine has its arguments "
                    "already. Pass the function in its place, or timeout_s=... by name."
                )
            loop, thread = self._usable()
        except UsageError:
            if isinstance(work, Coroutine):
                work.close()
            raise
        call = _Call(lambda: work if isinstance(work, Coroutine) else work(*args))
        try:
            loop.call_soon_threadsafe(call.start)
        except RuntimeError:  # the loop was closed by another thread just now
            raise UsageError(f"{self.name!r} was stopped during this call.") from None
        try:
            if meanwhile is not None:
                meanwhile(call.future)
            return self._result(call.future, thread, timeout_s)
        finally:
            if not call.future.done():
                with contextlib.suppress(RuntimeError):  # the loop has closed, and cancelled it
                    loop.call_soon_threadsafe(call.cancel)

    def _usable(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        loop, thread = self._loop, self._thread  # another thread may stop at any time
        if self._has_left and threading.current_thread().daemon:
            threading.Event().wait()  # it ends with the process, just now
        if loop is None or thread is None:
            raise UsageError(f"{self.name!r} is not running. Start it first.")
        if threading.current_thread() is thread:
            raise UsageError("This call waits for the loop it runs on. Use `await` here instead.")
        if not (thread.is_alive() or loop.is_closed()):  # it closes its loop before it ends
            raise UsageError(
                f"{self.name!r} has no thread in this process: a fork takes none along. Make a new "
                "client or server here."
            )
        return loop, thread

    def _result(
        self,
        future: "concurrent.futures.Future[T]",
        thread: threading.Thread,
        timeout_s: float | None,
    ) -> T:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not future.done():
            # In slices, so that a loop which another thread stopped cannot leave this one waiting.
            slice_s = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if slice_s <= 0:
                raise TimeoutError(f"Not done within {timeout_s:g} s.")
            with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
                future.exception(slice_s)
            if not future.done() and not thread.is_alive():
                raise UsageError(f"{self.name!r} was stopped during this call.")
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise UsageError(f"{self.name!r} was stopped during this call.") from None

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the loop soon, without waiting; after `stop` it is not called."""
        loop = self._loop
        if loop is not None:
            # The loop can close between the check and the call: then nothing is left to do.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(function, *args)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Cancel what still runs on the loop, end the thread and close the loop.

        Raises UsageError where a blocking call keeps the thread busy for more than `timeout_s`
        seconds; the thread is a daemon and ends when that call returns.
        """
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        if thread is threading.current_thread():
            return
        thread.join(timeout_s)
        if thread.is_alive():
            raise UsageError(
                f"{self.name!r} did not stop within {timeout_s:g} s: something blocks its "
                "loop, such as time.sleep in a handler. Use `await asyncio.sleep(...)` there."
            )

    def leave(self, function: Callable[..., object], *args: object) -> None:
        """Call a last function on the loop, which does nothing afterwards: the process exits.

        Who waits for the loop on another thread is told nothing, since that thread is about to end
        too. Waits for the function, 0.5 s at most.
        """
        self._has_left = True
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None or not thread.is_alive():
            return
        done = threading.Event()

        def call_and_stand_still() -> None:
            try:
                function(*args)
            finally:
                done.set()
                threading.Event().wait()  # as long as the process lives: a daemon holds up nobody

        with contextlib.suppress(RuntimeError):  # it closes just now
            loop.call_soon_threadsafe(call_and_stand_still)
            done.wait(STOP_TIMEOUT_S / 2)


class _Call(Generic[T]):
    """One coroutine that runs on a loop while another thread waits for its `future`.

    asyncio.run_coroutine_threadsafe does that too, and the result takes another turn of the loop on
    its way: a body that arrives in small chunks is fetched so for each of them.
    """

    def __init__(self, function: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._function = function
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; called on the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """Cancel the coroutine; called on the loop."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            result = await self._function()
        except asyncio.CancelledError:
            self.future.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who gets it
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def _start_thread(
    name: str, started: threading.Event
) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    loop: asyncio.AbstractEventLoop | None = None
    try:
        loop = FineLoop()
        thread = threading.Thread(target=_run_loop, args=(loop, started), name=name, daemon=True)
        thread.start()
    except (OSError, RuntimeError) as error:  # no descriptors are left, or no threads
        if loop is not None:
            loop.close()
        raise UsageError(f"The thread {name!r} cannot start: {error}.") from error
    return loop, thread


def _run_loop(loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.call_soon(started.set)
        _run_until_stopped(loop)
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())  # getaddrinfo's threads
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop; a task that calls exit() ends itself alone, and whoever awaits it is told.

    asyncio hands SystemExit on to the one who runs the loop, as the end of a program of one thread.
    """
    while True:
        try:
            loop.run_forever()
        except SystemExit:
            continue
        return


async def _cancel_all() -> None:
    """Cancel every other task of this loop and wait a bounded time for their clean-up."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S / 2)
