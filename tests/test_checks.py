"""The exercises' checks: right answers pass, likely wrong ones are told why, none does harm."""

import asyncio
import json
import os
import signal
import sys
import threading
import time

import httpx2
import pytest

from helpers.checks import (
    check_broken_off,
    check_handed_over,
    check_largest_write,
    check_pairs,
    check_progress_feed,
    check_slow_reader,
)
from helpers.checks import run as oracle
from helpers.checks.buffered_stream import LINES
from helpers.checks.trial import Ending, Trial
from helpers.checks.verdict import State
from helpers.client.blocking import BlockingBody
from helpers.timeline import Timeline

SSE = {"content-type": "text/event-stream"}
HANDLER_CHECKS = [
    check_pairs,
    check_progress_feed,
    check_broken_off,
    lambda handler: check_handed_over(handler, []),
]
CHECKS = [*HANDLER_CHECKS, check_largest_write, check_slow_reader]

each_check = pytest.mark.parametrize("check", CHECKS)
each_handler_check = pytest.mark.parametrize("check", HANDLER_CHECKS)


def text(verdict, state):
    assert verdict.state is state, verdict
    return " ".join(repr(verdict).split())


@pytest.fixture
def impatient(monkeypatch):
    """Answers that do not end are given less time, to save time here."""
    monkeypatch.setattr(oracle, "LIMIT_S", 0.6)


def handler(*, flush_after, sleep_s=0.1, lines=LINES):
    async def pairs(request, response):
        for number, line in enumerate(lines):
            await response.write(line)
            if number in flush_after:
                await response.flush()
            await asyncio.sleep(sleep_s)

    return pairs


# ---- check_pairs


def test_pairs_right():
    shown = text(check_pairs(handler(flush_after=[0, 2, 4, 6, 8])), State.SOLVED)
    assert "1 + 2 + 2 + 2 + 2 + 1 lines" in shown


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (handler(flush_after=[], sleep_s=0.01), "nothing called `flush` in between"),
        (handler(flush_after=range(10), sleep_s=0.01), "because `flush` follows each `write`"),
        (handler(flush_after=[1, 3, 5, 7, 9], sleep_s=0.01), "The first line waits for the next"),
        (handler(flush_after=[0, 3, 6, 9], sleep_s=0.01), "the others should leave two by two"),
        (handler(flush_after=[0, 2, 4, 6, 8], sleep_s=0), "all leave at once"),
        (handler(flush_after=[0], lines=LINES[:9], sleep_s=0), "got 9 lines, not 10"),
        (handler(flush_after=[0], lines=["chunk 1\n"], sleep_s=0), "should be 'data chunk #0"),
    ],
)
def test_pairs_wrong(answer, cause):
    assert cause in text(check_pairs(answer), State.WRONG)


def test_pairs_that_block_the_loop_are_wrong_although_the_frames_are_right():
    async def sleeps(request, response):
        for number, line in enumerate(LINES):
            await response.write(line)
            if number % 2 == 0:
                await response.flush()
            time.sleep(0.1)  # noqa: ASYNC251 - the mistake

    assert "not with time.sleep" in text(check_pairs(sleeps), State.WRONG)


def test_pairs_that_compute_in_c_block_the_loop_as_well():
    async def computes(request, response):
        for number, line in enumerate(LINES):
            await response.write(line)
            if number % 2 == 0:
                await response.flush()
            sum(range(3_000_000))

    assert "blocks the server's loop" in text(check_pairs(computes), State.WRONG)


def test_a_request_that_never_came_is_the_machines_fault():
    trial = Trial(ending=Ending.OPEN, was_called=False)
    assert "this machine is too busy, or an earlier answer still blocks. Run" in trial.trouble()


# ---- check_largest_write


def test_a_late_reader_does_not_change_the_verdict(monkeypatch):
    iter_raw = httpx2.Response.iter_raw

    def late(response, *arguments):
        time.sleep(0.5)
        yield from iter_raw(response, *arguments)

    monkeypatch.setattr(httpx2.Response, "iter_raw", late)
    assert "4096 bytes wait" in text(check_largest_write(4096), State.SOLVED)


def test_largest_write_right():
    assert "4096 bytes wait" in text(check_largest_write(4096), State.SOLVED)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (4095, "so do 4096: the answer is larger"),
        (4097, "4097 bytes leave at once"),
        (1200, "so do 1201"),
        (-1, "out of range"),
        (10**12, "out of range"),
        ("4096", "is an int, not '4096'"),
        (4096.0, "is an int, not 4096.0"),
    ],
)
def test_largest_write_wrong(answer, cause):
    assert cause in text(check_largest_write(answer), State.WRONG)


# ---- check_progress_feed


def feed(*events, headers=SSE, flush=True):
    async def progress(request, response):
        response.write_header(200, headers)
        for event in events:
            await response.write(event)
            if flush:
                await response.flush()
            await asyncio.sleep(0.05)

    return progress


def event(name, data, end="\n\n"):
    return f"event: {name}\ndata: {data}{end}"


QUARTERS = [event("progress", percent) for percent in (25, 50, 75, 100)]
DONE = event("done", "bye")


def test_progress_feed_right():
    assert "5 events, one by one" in text(check_progress_feed(feed(*QUARTERS, DONE)), State.SOLVED)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (feed(*QUARTERS, DONE, headers={}), "text/event-stream"),
        (feed(*QUARTERS, DONE, flush=False), "at the same moment"),
        (feed(event("progress", 25, end="\n")), "an event ends with an empty line"),
        (feed(*QUARTERS), "The last event is 'progress', not 'done'"),
        (feed(*QUARTERS, event("done", "bye", end="\n")), "not 'done'"),
        (feed(*QUARTERS, "event: done\n\n"), "'done' has no data"),
        (feed("data: 25\n\n", "data: 100\n\n", DONE), "here are also message"),
        (feed(event("progress", "50 %"), DONE), "'50 %' is no percentage"),
        (feed(event("progress", json.dumps({"percent": 1})), DONE), "is no percentage"),
        (feed(*reversed(QUARTERS), DONE), "it was [100, 75, 50, 25]"),
        (feed(*QUARTERS[:3], DONE), "it was [25, 50, 75]"),
    ],
)
def test_progress_feed_wrong(answer, cause):
    assert cause in text(check_progress_feed(answer), State.WRONG)


# ---- check_broken_off


def taken_over(after, lines=LINES[:3]):
    async def broken(request, response):
        stream = await response.take_over()
        for line in lines:
            await stream.write(line.encode())
        await after(stream)

    return broken


async def reset(stream):
    stream.reset()


async def nothing(stream):
    pass


async def fail(stream):
    async with stream:
        raise OSError("the source has gone")


async def close(stream):
    await stream.close()


def test_broken_off_right():
    verdict = check_broken_off(taken_over(reset))
    assert "Three lines, then RemoteProtocolError" in text(verdict, State.SOLVED)
    assert check_broken_off(taken_over(fail)).state is State.SOLVED


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (taken_over(close), "takes them for the whole body"),
        (handler(flush_after=[0, 1, 2], lines=LINES[:3], sleep_s=0), "takes them for the whole"),
        (taken_over(reset, lines=LINES[:1]), "before it 1 line, not 3"),
        (taken_over(reset, lines=[]), "before it 0 lines, not 3"),
    ],
)
def test_broken_off_wrong(answer, cause):
    assert cause in text(check_broken_off(answer), State.WRONG)


@pytest.mark.filterwarnings("ignore:.*never closed:ResourceWarning")
def test_broken_off_wrong_when_nobody_ends_the_stream(impatient):
    verdict = check_broken_off(taken_over(nothing))
    assert "Nobody closed the stream" in text(verdict, State.WRONG)


# ---- check_handed_over


@pytest.fixture
def tasks():
    return set()


def handing_over(tasks, body, wait=False):
    async def feed(request, response):
        stream = await response.take_over()
        task = asyncio.create_task(body(stream))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if wait:
            await task

    return feed


async def write_lines(stream):
    for line in LINES:
        await stream.write(line.encode())
        await asyncio.sleep(0.05)


def reporting(reports):
    async def write_and_report(stream):
        try:
            async with stream:
                await write_lines(stream)
        except Exception as error:  # noqa: BLE001 - reported
            reports.append(error)

    return write_and_report


def test_handed_over_right(tasks):
    reports = []
    verdict = check_handed_over(handing_over(tasks, reporting(reports)), reports)
    assert "reported a client that left" in text(verdict, State.SOLVED)


def test_handed_over_wrong_when_the_handler_waits(tasks):
    reports = []
    answer = handing_over(tasks, reporting(reports), wait=True)
    assert "it waits for the task" in text(check_handed_over(answer, reports), State.WRONG)


@pytest.mark.filterwarnings("ignore:.*never closed:ResourceWarning")
def test_handed_over_wrong_when_nobody_closes(tasks, impatient):
    verdict = check_handed_over(handing_over(tasks, write_lines), [])
    assert "nobody closes it but its owner" in text(verdict, State.WRONG)


def test_handed_over_wrong_when_errors_are_lost(tasks):
    async def write_in_silence(stream):
        async with stream:
            await write_lines(stream)

    verdict = check_handed_over(handing_over(tasks, write_in_silence), [])
    assert "nobody heard of it: `reports` is empty" in text(verdict, State.WRONG)


def test_handed_over_wrong_when_something_else_is_reported(tasks):
    reports = []

    async def write_and_note(stream):
        try:
            await reporting(noted := [])(stream)
        finally:
            reports.extend(str(error) for error in noted)

    verdict = check_handed_over(handing_over(tasks, write_and_note), reports)
    assert "append that" in text(verdict, State.WRONG)


def test_handed_over_wrong_when_the_task_writes_to_the_response(tasks):
    async def feed(request, response):
        async def write_on():
            await response.write("data chunk #0\n")

        await response.flush()
        tasks.add(task := asyncio.create_task(write_on()))
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(0)

    async def later(request, response):
        async def write_on():
            await asyncio.sleep(60)  # when it would write, the check has long been over
            await response.write("data chunk #0\n")

        task = asyncio.create_task(write_on())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    assert "got 1 line, not 10" in text(check_handed_over(feed, []), State.WRONG)
    text(check_handed_over(later, []), State.UNSOLVED)


def test_handed_over_wrong_when_the_handler_stays_after_the_end():
    async def stays(request, response):
        async with await response.take_over() as stream:
            await write_lines(stream)
        await asyncio.sleep(60)

    assert "has not returned: it waits" in text(check_handed_over(stays, []), State.WRONG)


def test_handed_over_wrong_without_a_list():
    assert "is the list" in text(check_handed_over(handler(flush_after=[]), ...), State.WRONG)


# ---- check_slow_reader


def reading(sleep_s, *, before=0.0, after=0.0, size_bytes=256 * 1024, keep=True):
    def read(response):
        sent_at = response.extensions["request_sent_at"]
        time.sleep(before)
        chunks = []
        for chunk in response.iter_bytes(size_bytes):
            chunks.append((time.perf_counter() - sent_at, chunk))
            time.sleep(sleep_s)
        if after:  # longer than the reading, which on a busy machine takes its time
            time.sleep(max(after, 1.3 * (time.perf_counter() - sent_at)))
        return Timeline(chunks if keep else [], time.perf_counter() - sent_at)

    return read


def read_first_and_date_it_early(response):
    timeline = reading(0.04)(response)
    return Timeline([(0.0, chunk) for _, chunk in timeline.chunks], timeline.ended_s)


def test_slow_reader_right():
    assert "waited for the reader" in text(check_slow_reader(reading(0.04)), State.SOLVED)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (reading(0), "Nobody was slow"),
        (reading(0, after=1.0), "read first, and you slept after"),
        (reading(0.04, keep=False), "holds 0 of 6291456 bytes"),
        (read_first_and_date_it_early, "the Timeline does not show it"),
        (lambda response: response.read(), "not bytes"),
        (lambda response: 1 / 0, "Your reader raised ZeroDivisionError"),
        (lambda: None, "Your reader raised TypeError"),
        ("slowly", "a function that takes a response, not 'slowly'"),
    ],
)
def test_slow_reader_wrong(answer, cause):
    assert cause in text(check_slow_reader(answer), State.WRONG)


def test_slow_reader_wrong_when_only_the_machine_was_slow(monkeypatch):
    """Then it waits for each piece, and sleeps for none."""
    receive = BlockingBody._receive

    def late(body):
        time.sleep(0.05)
        return receive(body)

    monkeypatch.setattr(BlockingBody, "_receive", late)
    assert "for the rest it waited" in text(check_slow_reader(reading(0)), State.WRONG)


def test_slow_reader_wrong_when_it_takes_too_long(impatient):
    assert "Sleep less" in text(check_slow_reader(reading(0.2)), State.WRONG)


# ---- what is no answer yet, and what could do harm


async def stub(request, response): ...


async def todo(request, response):
    raise NotImplementedError


@each_check
@pytest.mark.parametrize("answer", [..., None])
def test_an_exercise_not_begun_gets_a_hint(check, answer):
    assert "Not solved yet. Hint: " in text(check(answer), State.UNSOLVED)


@each_handler_check
@pytest.mark.parametrize("answer", [stub, todo])
def test_a_stub_gets_a_hint(check, answer, capfd):
    assert "Not solved yet. Hint: " in text(check(answer), State.UNSOLVED)
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_does_nothing_gets_a_hint():
    text(check_slow_reader(lambda response: None), State.UNSOLVED)


def plain(request, response): ...


async def raises(request, response):
    raise ValueError("no such file")


async def takes_nothing():
    pass


async def raises_late(request, response):
    await response.flush()
    raise ValueError("no such file")


@each_handler_check
@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (plain, "Write `async def plain(request, response)`"),
        ("pairs", "an `async def` with (request, response), not 'pairs'"),
        (raises, "The handler raised ValueError: no such file"),
        (takes_nothing, "The handler raised TypeError: takes_nothing() takes 0"),
    ],
)
def test_what_no_handler_may_do_is_told(check, answer, cause, capfd, caplog):
    verdict = check(answer)
    assert cause in text(verdict, State.WRONG)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records  # without pytest they would stand on stderr


async def hangs(request, response):
    await asyncio.Event().wait()


async def hangs_after_a_line(request, response):
    await response.write(LINES[0])
    await response.flush()
    await asyncio.Event().wait()


async def spins(request, response):
    while True:
        pass


async def floods(request, response):
    while True:
        await response.write(b"x" * 1000)


async def takes_over_and_floods(request, response):
    stream = await response.take_over()
    while True:
        await stream.write(b"x" * 1000)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (hangs, "The handler has not returned"),
        (hangs_after_a_line, "the client has 14 bytes and still waits"),
        (spins, "The handler blocks the server's loop"),
        (floods, "The handler writes without end"),
        (takes_over_and_floods, "The handler writes without end"),
    ],
)
def test_a_handler_that_does_not_end_is_ended(answer, cause, impatient, capfd):
    assert cause in text(check_pairs(answer), State.WRONG)
    assert capfd.readouterr() == ("", "")


def test_a_verdict_does_not_wait_for_what_it_cannot_end(capfd, caplog, impatient):
    async def sleeps_long(request, response):
        time.sleep(4)  # noqa: ASYNC251 - the mistake

    verdict = check_pairs(sleeps_long)
    assert any(thread.name == "http3-server" for thread in threading.enumerate())
    assert "The handler blocks the server's loop" in text(verdict, State.WRONG)
    while any(thread.name == "http3-server" for thread in threading.enumerate()):
        time.sleep(0.05)  # until the call returns that nothing can interrupt
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_reader_that_does_not_end_is_ended(impatient):
    def spin(response):
        while True:
            pass

    assert "it has 0 of 6291456 bytes and goes on" in text(check_slow_reader(spin), State.WRONG)


@pytest.mark.skipif(sys.platform == "win32", reason="a program cannot interrupt itself there")
def test_a_check_can_be_interrupted(interruptible, monkeypatch):
    monkeypatch.setattr(oracle, "LIMIT_S", 60.0)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        check_pairs(hangs)
    assert time.monotonic() - started < oracle.LIMIT_S


def test_what_another_server_logs_is_not_swallowed(server, client, caplog):
    @server.route("/other")
    async def other(request, response):
        raise KeyError("other")

    async def ask_the_other(request, response):
        await asyncio.to_thread(client.get, server.url("/other"))

    check_pairs(ask_the_other)
    assert [record.args[:2] for record in caplog.records] == [("GET", "/other")]
