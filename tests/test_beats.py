"""The clock of the machine: it counts while somebody asks, rests otherwise, and ends when told."""

import threading
import time

import aioquic
import pytest

from helpers.connection import udp
from helpers.server import beats
from helpers.server.beats import Beats

WAIT_S = 30.0


@pytest.fixture
def clock():
    clock = Beats("test-beats")
    clock.start()
    yield clock
    clock.stop()


def comes(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(beats.EVERY_S)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "test-beats"]


def test_it_counts_beside_what_blocks_another_thread(clock):
    clock.go_on()
    before, started = clock.count, time.perf_counter()
    comes(lambda: clock.count > before + 5)
    assert time.perf_counter() - started > 4 * beats.EVERY_S


@pytest.mark.parametrize(
    ("file", "is_elsewhere"),
    [(__file__, True), (beats.__file__, False), (udp.__file__, False), (aioquic.__file__, False)],
)
def test_it_tells_whose_code_keeps_the_thread_that_asked(clock, file, is_elsewhere):
    """A lock that nobody releases keeps a thread in C, called from a line of `file`."""
    keep = compile("while clock.count < until: lock.acquire(timeout=0.1)", file, "exec")
    lock = threading.Lock()
    with lock:
        clock.go_on()
        before = clock.elsewhere
        exec(keep, {"clock": clock, "lock": lock, "until": clock.count + 6})
        found = clock.elsewhere - before
    assert found >= 3 if is_elsewhere else found <= 1  # a beat may come in this file's own lines


def test_it_rests_when_nobody_has_asked_for_long_and_goes_on_when_somebody_does(clock, monkeypatch):
    monkeypatch.setattr(beats, "IDLE_BEATS", 2)
    for _ in range(2):
        before = clock.count
        clock.go_on()
        comes(lambda before=before: clock.count > before and not clock._asked.is_set())
        rests_at = clock.count
        time.sleep(10 * beats.EVERY_S)
        assert clock.count == rests_at


@pytest.mark.parametrize("rests", [False, True])
def test_it_ends_when_told_and_can_begin_again(clock, monkeypatch, rests):
    if rests:
        monkeypatch.setattr(beats, "IDLE_BEATS", 0)
        clock.go_on()
        comes(lambda: clock.count and not clock._asked.is_set())
    clock.start()
    assert len(threads()) == 1
    for _ in range(2):
        clock.stop()
        assert threads() == []
    clock.start()
    clock.go_on()
    before = clock.count
    comes(lambda: clock.count > before)


def test_it_ends_also_when_told_just_before_it_rests(clock, monkeypatch):
    monkeypatch.setattr(beats, "IDLE_BEATS", 0)
    clear = clock._asked.clear

    def end_and_clear():
        clock.end()
        clear()

    monkeypatch.setattr(clock._asked, "clear", end_and_clear)
    clock.go_on()
    comes(lambda: threads() == [])
