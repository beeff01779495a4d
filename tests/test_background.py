"""A loop on a thread of its own: what runs there, how a wait for it ends, what stays."""

import _thread
import asyncio
import contextlib
import gc
import inspect
import signal
import threading
import time

import pytest

from helpers.background import Background
from helpers.errors import UsageError

WAIT_S = 30.0


@pytest.fixture
def background():
    background = Background("test-loop")
    background.start()
    yield background
    background.stop()


def interrupt_main_thread():
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


async def on_which_thread():
    return threading.current_thread()


class Patient:
    """A coroutine that waits until it is cancelled."""

    def __init__(self):
        self.started = threading.Event()
        self.cancelled = threading.Event()

    async def wait(self):
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Stubborn(Patient):
    """One that goes on when it is cancelled."""

    async def refuse(self):
        self.task = asyncio.current_task()
        with contextlib.suppress(asyncio.CancelledError):
            await self.wait()
        await asyncio.sleep(60)

    def forget(self):
        # asyncio would complain of what is wanted here: a task that outlives its loop.
        self.task._log_destroy_pending = False
        self.task = None
        gc.collect()


def test_run_returns_what_the_coroutine_returns_from_the_loops_thread(background):
    thread = background.run(on_which_thread)
    assert thread is not threading.current_thread()
    assert (thread.name, thread.daemon) == ("test-loop", True)
    assert background.run(on_which_thread) is thread


def test_a_coroutine_runs_as_it_is_and_is_closed_where_it_is_refused(background):
    thread = background.run(on_which_thread)
    assert background.run(on_which_thread()) is thread
    background.stop()
    with pytest.raises(UsageError, match="not running"):
        background.run(on_which_thread())


def test_a_coroutine_takes_no_arguments_beside_it(background):
    refused = on_which_thread()
    with pytest.raises(UsageError, match=r"on_which_thread .* and \(0\.5,\) beside it"):
        background.run(refused, 0.5)
    assert inspect.getcoroutinestate(refused) == inspect.CORO_CLOSED


def test_run_raises_what_the_coroutine_raises(background):
    async def fail():
        raise LookupError("from the loop")

    with pytest.raises(LookupError, match="from the loop"):
        background.run(fail)


def test_a_timeout_of_the_coroutine_is_not_taken_for_one_of_run(background):
    async def fail():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        background.run(fail, timeout_s=WAIT_S)


def test_run_gives_up_after_its_timeout_and_cancels(background):
    patient = Patient()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^Not done within 0\.05 s\.$"):
        background.run(patient.wait, timeout_s=0.05)
    assert time.monotonic() - started < WAIT_S / 2
    assert patient.cancelled.wait(WAIT_S)


def test_a_loop_whose_thread_is_gone_takes_no_call():
    """A forked process has none of its parent's threads, and every one of its loops."""
    background = Background("test-loop")
    background._loop = asyncio.new_event_loop()
    background._thread = threading.Thread(target=bool)
    calls = []
    started = time.monotonic()
    with pytest.raises(UsageError, match="'test-loop' has no thread in this process"):
        background.run(on_which_thread, meanwhile=calls.append)
    assert time.monotonic() - started < 0.5  # no wait comes first
    assert calls == []
    background._loop.close()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait_at_once_and_cancels(background):
    patient = Patient()

    async def interrupt_and_wait():
        await asyncio.sleep(0.05)
        interrupt_main_thread()
        await patient.wait()

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        background.run(interrupt_and_wait)
    assert time.monotonic() - started < WAIT_S / 2
    assert patient.cancelled.wait(WAIT_S)
    # The loop goes on.
    assert background.run(on_which_thread).is_alive()


def test_many_threads_may_run_at_once(background):
    # Each waits for all: one after the other, the first would wait for ever.
    barrier = asyncio.Barrier(5)
    results = []

    def run():
        results.append(background.run(barrier.wait, timeout_s=WAIT_S))

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3, 4]


def test_starting_twice_is_harmless(background):
    thread = background.run(on_which_thread)
    background.start()
    assert background.run(on_which_thread) is thread
    assert [t for t in threading.enumerate() if t.name == "test-loop"] == [thread]


def test_stop_ends_the_thread_and_cancels_what_runs(background):
    patient = Patient()
    thread = background.run(on_which_thread)
    tasks = []
    background.call(lambda: tasks.append(asyncio.ensure_future(patient.wait())))
    assert patient.started.wait(WAIT_S)
    assert background.running
    background.stop()
    assert not background.running
    assert not thread.is_alive()
    assert patient.cancelled.is_set()
    background.stop()


def test_stop_lets_the_clean_up_of_a_task_finish(background):
    cleaned = threading.Event()
    patient = Patient()

    async def with_clean_up():
        try:
            await patient.wait()
        finally:
            await asyncio.sleep(0.02)
            cleaned.set()

    tasks = []
    background.call(lambda: tasks.append(asyncio.ensure_future(with_clean_up())))
    assert patient.started.wait(WAIT_S)
    background.stop()
    assert cleaned.is_set()


def test_after_stop_it_says_so_and_can_be_started_again(background):
    background.stop()
    with pytest.raises(UsageError) as raised:
        background.run(on_which_thread)
    assert str(raised.value) == "'test-loop' is not running. Start it first."
    called = []
    background.call(called.append, 1)
    background.start()
    assert background.run(on_which_thread).is_alive()
    assert called == []


def test_who_waits_while_another_thread_stops_is_told(background):
    patient = Patient()
    stopper = threading.Thread(target=lambda: patient.started.wait() and background.stop())
    stopper.start()
    with pytest.raises(UsageError) as raised:
        background.run(patient.wait)
    assert str(raised.value) == "'test-loop' was stopped during this call."
    stopper.join()


def test_who_waits_for_a_task_that_refuses_to_end_is_told_too(background):
    stubborn = Stubborn()
    stopper = threading.Thread(target=lambda: stubborn.started.wait() and background.stop())
    stopper.start()
    with pytest.raises(UsageError, match="was stopped during this call"):
        background.run(stubborn.refuse)
    stopper.join()
    stubborn.forget()


def test_a_wait_for_its_own_loop_is_refused(background):
    async def wait_for_itself():
        background.run(on_which_thread)

    with pytest.raises(UsageError) as raised:
        background.run(wait_for_itself, timeout_s=WAIT_S)
    assert str(raised.value) == (
        "This call waits for the loop it runs on. Use `await` here instead."
    )


def test_the_loop_may_stop_itself(background):
    thread = background.run(on_which_thread)
    background.call(background.stop)
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert not background.running


def test_stop_does_not_wait_for_what_blocks_the_loop(background):
    blocking, release = threading.Event(), threading.Event()
    thread = background.run(on_which_thread)

    def block():
        blocking.set()
        release.wait(WAIT_S)

    background.call(block)
    assert blocking.wait(WAIT_S)
    started = time.monotonic()
    with pytest.raises(UsageError) as raised:
        background.stop(timeout_s=0.05)
    assert time.monotonic() - started < WAIT_S / 2
    assert str(raised.value) == (
        "'test-loop' did not stop within 0.05 s: something blocks its loop, such as time.sleep in "
        "a handler. Use `await asyncio.sleep(...)` there."
    )
    release.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_stop_does_not_wait_for_a_task_that_refuses_to_end(background):
    stubborn = Stubborn()
    thread = background.run(on_which_thread)
    background.call(lambda: asyncio.ensure_future(stubborn.refuse()))
    assert stubborn.started.wait(WAIT_S)
    started = time.monotonic()
    background.stop()
    assert time.monotonic() - started < WAIT_S / 2
    assert not thread.is_alive()
    stubborn.forget()


def test_a_task_that_exits_ends_itself_alone(background):
    async def leave():
        raise SystemExit(3)

    async def start_and_wait():
        task = asyncio.create_task(leave())
        await asyncio.wait([task])
        return task.exception()

    assert background.run(start_and_wait()).code == 3
    assert background.run(asyncio.sleep(0, "it runs on")) == "it runs on"
