"""Clocks that move in steps, as Windows' does, and what must not depend on them."""

import asyncio
import queue
import runpy
import time
from pathlib import Path

import pytest

from helpers.background import Background
from helpers.client import AsyncHTTP3Transport
from helpers.clock import Alarm, now_s

COARSE_CLOCK = Path(__file__).parent / "coarse_clock" / "sitecustomize.py"
STEP_S = 1 / 64
WAIT_S = 30.0


class CoarseLoop(asyncio.SelectorEventLoop):
    """A caller's own loop as it is on Windows up to Python 3.12."""

    def __init__(self):
        super().__init__()
        self._clock_resolution = STEP_S

    def time(self):
        return time.perf_counter() // STEP_S * STEP_S


def run_coarsely(coroutine):
    with asyncio.Runner(loop_factory=CoarseLoop) as runner:
        return runner.run(asyncio.wait_for(coroutine, WAIT_S))


@pytest.fixture
def coarse_clock(monkeypatch):
    """What --coarse-clock does, for one test."""
    for name in ("monotonic", "time", "get_clock_info"):
        monkeypatch.setattr(time, name, getattr(time, name))  # to be put back
    runpy.run_path(str(COARSE_CLOCK))


@pytest.mark.usefixtures("coarse_clock")
def test_a_handlers_sleep_is_never_shorter_than_it_says():
    async def sleep():
        def be_busy():  # a loop that waits for nothing else is not early anyway
            nonlocal busy
            busy = loop.call_soon(be_busy)

        loop = asyncio.get_running_loop()
        busy = loop.call_soon(be_busy)
        took_s = []
        for _ in range(20):
            began_at = now_s()
            await asyncio.sleep(0.7 * STEP_S)
            took_s.append(now_s() - began_at)
        busy.cancel()
        return took_s

    background = Background("test-clock")
    background.start()
    try:
        assert min(background.run(sleep, timeout_s=WAIT_S)) >= 0.7 * STEP_S
    finally:
        background.stop()


def test_what_was_written_before_a_reset_arrives_on_a_coarse_loop_too(server, credentials):
    received = queue.SimpleQueue()

    @server.route("/")
    async def note(request, response):
        body = b""
        try:
            async for piece in request:
                body += piece
        finally:  # the stream was reset
            received.put(body)

    async def write_and_reset():
        transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
        for number in range(20):
            stream = await transport.open_stream("POST", server.url("/"))
            for _ in range(3):
                await stream.write(b"%d " % number)
            stream.reset()
            assert await asyncio.to_thread(received.get, timeout=WAIT_S) == b"%d " % number * 3
        await transport.aclose()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn

    run_coarsely(write_and_reset())


def test_an_alarm_that_is_set_again_until_it_is_due_rings_then():
    async def ring():
        loop = asyncio.get_running_loop()
        alarm, rung = Alarm(loop), loop.create_future()
        due_s = now_s() + 0.02
        asked = 0

        def look():
            nonlocal asked
            asked += 1
            if now_s() < due_s:
                alarm.set(due_s, look)
            else:
                rung.set_result(now_s() - due_s)

        alarm.set(due_s, look)
        late_s = await rung
        return late_s, asked

    late_s, asked = run_coarsely(ring())
    assert 0 <= late_s
    assert asked < 50  # a loop that only looks at the time again would ask thousands of times


def test_an_alarm_keeps_the_earlier_of_two_moments():
    async def set_twice(first_s, second_s):
        alarm, rung = Alarm(asyncio.get_running_loop()), asyncio.Queue()
        now = now_s()
        alarm.set(now + first_s, lambda: rung.put_nowait("first"))
        alarm.set(now + second_s, lambda: rung.put_nowait("second"))
        which = await rung.get()
        await asyncio.sleep(0.05)
        return which, rung.empty()

    assert asyncio.run(set_twice(0.01, 0.02)) == ("first", True)
    assert asyncio.run(set_twice(60, 0.01)) == ("second", True)


@pytest.mark.anyio
async def test_an_alarm_that_was_cancelled_does_not_ring():
    alarm, rung = Alarm(asyncio.get_running_loop()), []
    alarm.cancel()
    alarm.set(now_s(), lambda: rung.append(1))
    alarm.cancel()
    alarm.cancel()
    await asyncio.sleep(0.02)
    assert rung == []
