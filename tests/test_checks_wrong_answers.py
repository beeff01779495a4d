"""Wrong answers to the exercises on streams, as learners give them: the verdict names the cause.

In each an exception was raised, caught, lost in a task or never got to be, or what was asked was
left out. The verdict is never Solved, and never an exception of the check's own.
"""

import asyncio
import sys
import time

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
from helpers.checks.verdict import State
from helpers.timeline import Timeline
from tests.test_checks import DONE, LINES, QUARTERS, SSE, event, feed, text

pytestmark = pytest.mark.filterwarnings("ignore:.*never closed:ResourceWarning")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(oracle, "LIMIT_S", 0.6)


class Odd:
    """Its text cannot be made, and it compares to nothing."""

    def __repr__(self):
        raise RuntimeError("no text")

    def __eq__(self, other):
        raise RuntimeError("no equality")

    __hash__ = None


class OddError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def named(answers):
    return pytest.mark.parametrize(
        ("answer", "cause"), [pytest.param(*row, id=row[0].__name__) for row in answers]
    )


# ---- 02.1, check_pairs


async def flushes_without_await(request, response):
    for line in LINES:
        await response.write(line)
        response.flush()
        await asyncio.sleep(0.01)


async def writes_without_await(request, response):
    for line in LINES:
        response.write(line)
        await response.flush()


async def sleeps_without_await(request, response):
    for number, line in enumerate(LINES):
        await response.write(line)
        if number % 2 == 0:
            await response.flush()
        asyncio.sleep(0.1)


async def catches_a_wrong_type(request, response):
    for number in range(10):
        try:
            await response.write(number)
        except Exception:
            pass


async def misspells_and_catches(request, response):
    try:
        await response.write(LINES[0])
        await response.flsh()
    except Exception:
        return


async def crashes_after_all(request, response):
    for number, line in enumerate(LINES):
        await response.write(line)
        if number % 2 == 0:
            await response.flush()
        await asyncio.sleep(0.05)
    int("ten")


async def raises_without_text(request, response):
    raise OddError


async def exits(request, response):
    await response.write(LINES[0])
    sys.exit(3)


async def lets_a_task_exit(request, response):
    async def leave():
        sys.exit(3)

    task = asyncio.create_task(leave())
    await response.write(LINES[0])
    await response.flush()
    await task


async def uses_what_is_not_there(request, response):
    for line in LINES:
        await response.send(line)


async def prints_instead(request, response):
    for line in LINES:
        print(line, end="")


async def numbers_from_one(request, response):
    for number in range(1, 11):
        await response.write(f"data chunk #{number}\n")


async def no_newlines(request, response):
    for line in LINES:
        await response.write(line.strip())


async def loses_a_task(request, response):
    async def write_on():
        await response.write(LINES[0] + 1)

    task = asyncio.create_task(write_on())
    await asyncio.wait([task])


@named(
    [
        (flushes_without_await, "`Response.flush` was called and never awaited"),
        (writes_without_await, "`Response.write` was called and never awaited"),
        (sleeps_without_await, "`sleep` was called and never awaited"),
        (catches_a_wrong_type, "UsageError: write takes text or bytes, not int"),
        (misspells_and_catches, "has no attribute 'flsh'"),
        (crashes_after_all, "The handler raised ValueError: invalid literal for int()"),
        (raises_without_text, "The handler raised OddError"),
        (exits, "The handler raised SystemExit: 3"),
        (lets_a_task_exit, "SystemExit: 3"),
        (uses_what_is_not_there, "AttributeError: 'Response' object has no attribute 'send'"),
        (numbers_from_one, "Line 0 is 'data chunk #1\\n', and should be 'data chunk #0\\n'"),
        (no_newlines, "Line 0 is 'data chunk #0data chunk #1"),
        (loses_a_task, "TypeError: can only concatenate str"),
    ]
)
def test_pairs(answer, cause, impatient, capfd):
    assert cause in text(check_pairs(answer), State.WRONG)
    assert capfd.readouterr() == ("", "")


def test_pairs_that_are_only_printed_are_not_begun(capfd):
    text(check_pairs(prints_instead), State.UNSOLVED)


def test_what_was_caught_on_the_way_is_told_although_all_is_well():
    async def stumbles(request, response):
        for number, line in enumerate(LINES):
            await response.write(line)
            if number % 2 == 0:
                await response.flush()
            try:
                line.missing()
            except AttributeError:
                await asyncio.sleep(0.05)

    said = text(check_pairs(stumbles), State.SOLVED)
    assert "You have caught one thing. In `stumbles`, line" in said
    assert "'str' object has no attribute 'missing'" in said


# ---- 02.2, check_largest_write


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (4096.5, "is an int, not 4096.5"),
        ("4 KB", "is an int, not '4 KB'"),
        (b"x" * 5000, "is an int, not b'xxx"),
        (True, "is an int, not True"),
        ([4096], "is an int, not [4096]"),
        (lambda: 4096, "is an int, not <function"),
        (4096j, "is an int, not 4096j"),
        (10**6000, "out of range"),
        (0, "so do 1: the answer is larger"),
        (65535, "65535 bytes leave at once"),
        (Odd(), "is an int, not <Odd instance"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_largest_write(answer, cause):
    said = text(check_largest_write(answer), State.WRONG)
    assert cause in said
    assert len(said) < 400


# ---- 02.3, check_progress_feed


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (
            feed(*(event("progress", n, end="\n") for n in (25, 50, 75, 100)), DONE),
            "with 5 `event:` lines, and httpx2 finds 1 events in them: an event ends with an empty",
        ),
        (feed("progress 25\n\n", "progress 100\n\n"), "with 0 `event:` lines"),
        (feed(*QUARTERS, DONE, headers={"content-type": "text/html"}), "text/event-stream"),
        (feed(*QUARTERS, "event: Done\ndata: x\n\n"), "is 'Done', not 'done'"),
        (feed(*(event("progres", n) for n in (25, 50, 75, 100)), DONE), "here are also progres"),
        (feed(event("progress", 50.5), event("progress", 100), DONE), "'50.5' is no percentage"),
        (feed(event("progress", -1), event("progress", 100), DONE), "'-1' is no percentage"),
        (feed(*QUARTERS, event("progress", 120), DONE), "it was [25, 50, 75, 100, 120]"),
        (feed(*QUARTERS, QUARTERS[-1], DONE), "it was [25, 50, 75, 100, 100]"),
        (feed(DONE), "it was []"),
        (feed(25, 50), "The handler raised UsageError: write takes text or bytes, not int"),
    ],
)
def test_progress_feed(answer, cause):
    assert cause in text(check_progress_feed(answer), State.WRONG)


async def sets_the_header_too_late(request, response):
    for one in [*QUARTERS, DONE]:
        await response.write(one)
        await response.flush()
    response.write_header(200, SSE)


async def flushes_no_event(request, response):
    response.write_header(200, SSE)
    for one in [*QUARTERS, DONE]:
        await response.write(one)
        response.flush()
        await asyncio.sleep(0.01)


async def feeds_for_ever(request, response):
    response.write_header(200, SSE)
    while True:
        await response.write(QUARTERS[0])
        await response.flush()


@named(
    [
        (sets_the_header_too_late, "UsageError: write_header: the header has left already"),
        (flushes_no_event, "`Response.flush` was called and never awaited"),
        (feeds_for_ever, "The handler has not returned"),
    ]
)
def test_a_feed_that_fails(answer, cause, impatient):
    assert cause in text(check_progress_feed(answer), State.WRONG)


# ---- 03.1, check_broken_off


async def three_lines(response):
    stream = await response.take_over()
    for line in LINES[:3]:
        await stream.write(line.encode())
    return stream


async def writes_text(request, response):
    stream = await response.take_over()
    for line in LINES[:3]:
        await stream.write(line)
    stream.reset()


async def writes_to_the_stream_without_await(request, response):
    stream = await response.take_over()
    for line in LINES[:3]:
        stream.write(line.encode())
    stream.reset()


async def takes_over_without_await(request, response):
    stream = response.take_over()
    for line in LINES[:3]:
        await stream.write(line.encode())
    stream.reset()


async def misspells_reset(request, response):
    stream = await three_lines(response)
    strem.reset()  # noqa: F821


async def invents_an_argument(request, response):
    stream = await three_lines(response)
    await stream.close(error=True)


async def invents_a_method(request, response):
    async with await response.take_over() as stream:
        for line in LINES[:3]:
            await stream.write(line.encode())
        stream.abort()


async def never_takes_over(request, response):
    for line in LINES[:3]:
        await response.write(line)
        await response.flush()
    raise OSError("the source has failed")


async def swallows_its_mistake(request, response):
    stream = await three_lines(response)
    try:
        stream.reset("H3_INTERNAL_ERROR")
    except Exception:
        pass


async def writes_to_the_response(request, response):
    await three_lines(response)
    await response.write("the end")


async def four_lines(request, response):
    stream = await response.take_over()
    for line in LINES[:4]:
        await stream.write(line.encode())
    stream.reset()


async def closes_in_a_task_that_fails(request, response):
    stream = await three_lines(response)
    task = asyncio.create_task(stream.close(1))
    await asyncio.wait([task])


async def exits_after_three(request, response):
    await three_lines(response)
    sys.exit()


@named(
    [
        (writes_text, "UsageError: A stream carries bytes: write('data chunk #0\\n'.encode())"),
        (writes_to_the_stream_without_await, "`HTTP3Stream.write` was called and never awaited"),
        (takes_over_without_await, "`Response.take_over` was called and never awaited"),
        (misspells_reset, "NameError: name 'strem' is not defined"),
        (invents_an_argument, "TypeError: HTTP3Stream.close() got an unexpected keyword"),
        (invents_a_method, "AttributeError: 'HTTP3Stream' object has no attribute 'abort'"),
        (never_takes_over, "The stream was never taken over"),
        (swallows_its_mistake, "In `swallows_its_mistake`, line"),
        (writes_to_the_response, "UsageError: write: stream 0 was taken over"),
        (four_lines, "The client got 4 lines, not 3"),
        (closes_in_a_task_that_fails, "TypeError: 'int' object is not iterable"),
        (exits_after_three, "SystemExit"),
    ]
)
def test_broken_off(answer, cause, impatient):
    assert cause in text(check_broken_off(answer), State.WRONG)


def test_broken_off_by_an_error_of_ones_own_is_right():
    async def source_fails(request, response):
        async with await response.take_over() as stream:
            for line in LINES[:3]:
                await stream.write(line.encode())
            raise OSError("the source has failed")

    text(check_broken_off(source_fails), State.SOLVED)


# ---- 03.2, check_handed_over


class HandedOver:
    """A handler with a task for each kind of mistake; `tasks` keeps them."""

    def __init__(self, write, callback=None):
        self.reports, self.tasks = [], set()

        async def feed(request, response):
            task = asyncio.create_task(write(await response.take_over(), self.reports))
            self.tasks.add(task)
            task.add_done_callback(callback(self.reports) if callback else self.tasks.discard)

        self.feed = feed


async def all_lines(stream, lines=LINES):
    for line in lines:
        await stream.write(line.encode())
        await asyncio.sleep(0.05)


async def closes(stream, reports):
    async with stream:
        await all_lines(stream)


async def goes_on(stream, reports):
    async with stream:
        for line in LINES:
            try:
                await stream.write(line.encode())
            except Exception as error:
                reports.append(error)
            await asyncio.sleep(0.05)


async def goes_on_and_reports_once(stream, reports):
    async with stream:
        for line in LINES:
            try:
                await stream.write(line.encode())
            except Exception as error:
                reports[:] = [error]
            await asyncio.sleep(0.05)


async def writes_strings(stream, reports):
    try:
        async with stream:
            for line in LINES:
                await stream.write(line)
    except Exception as error:
        reports.append(error)


async def swallows(stream, reports):
    try:
        await closes(stream, reports)
    except Exception:
        pass


async def misspells_the_list(stream, reports):
    try:
        await closes(stream, reports)
    except Exception as error:
        report.append(error)  # noqa: F821


async def reports_a_class(stream, reports):
    try:
        await closes(stream, reports)
    except Exception as error:
        reports.append(type(error))


async def reports_always(stream, reports):
    await closes(stream, reports)
    reports.append("done")


async def reports_an_error_of_its_own(stream, reports):
    try:
        await closes(stream, reports)
    except Exception:
        reports.append(RuntimeError("the client left"))


async def writes_nine(stream, reports):
    async with stream:
        await all_lines(stream, LINES[:9])


async def forgets_to_await(stream, reports):
    async with stream:
        all_lines(stream)


def report_what_it_has(reports):
    return lambda task: reports.append(task.exception())


@pytest.mark.parametrize(
    ("write", "callback", "cause"),
    [
        (closes, report_what_it_has, "`reports` has None, though nothing was raised"),
        (closes, None, "nobody heard of it: `reports` is empty"),
        (goes_on, None, "The client left, and the task wrote on"),
        (goes_on_and_reports_once, None, "The client left, and the task wrote on"),
        (writes_strings, None, "the task raised UsageError: A stream carries bytes"),
        (swallows, None, "`reports` is empty"),
        (misspells_the_list, None, "NameError: name 'report' is not defined"),
        (reports_a_class, None, "`reports` has <class 'helpers.errors.ClientDisconnected'>"),
        (reports_always, None, "`reports` has 'done', though nothing was raised"),
        (reports_an_error_of_its_own, None, "`reports` has RuntimeError('the client left')"),
        (writes_nine, None, "The client got 9 lines, not 10"),
        (forgets_to_await, None, "`all_lines` was called and never awaited"),
    ],
)
def test_handed_over(write, callback, cause):
    answer = HandedOver(write, callback)
    assert cause in text(check_handed_over(answer.feed, answer.reports), State.WRONG)


def test_handed_over_by_a_callback_that_reports_exceptions_only_is_right():
    def report_what_there_is(reports):
        return lambda task: task.exception() and reports.append(task.exception())

    answer = HandedOver(closes, report_what_there_is)
    text(check_handed_over(answer.feed, answer.reports), State.SOLVED)


def test_handed_over_without_taking_over():
    tasks = set()

    async def writes_on_the_response(request, response):
        tasks.add(asyncio.create_task(closes_the_response(response)))
        await asyncio.sleep(0.2)

    async def closes_the_response(response):
        for line in LINES:
            await response.write(line)

    said = text(check_handed_over(writes_on_the_response, []), State.WRONG)
    assert "The stream was never taken over" in said


# ---- 03.3, check_slow_reader


def timeline(form, sleep_s=0.02):
    def read_slowly(response):
        started, chunks = time.perf_counter(), []
        for chunk in response.iter_bytes(128 * 1024):
            time.sleep(sleep_s)
            chunks.append(form(time.perf_counter() - started, chunk))
        return Timeline(chunks, time.perf_counter() - started)

    return read_slowly


async def is_async(response):
    return response.read()


def yields(response):
    yield from response.iter_bytes()


def leaves(response):
    sys.exit()


def catches_and_returns_nothing(response):
    try:
        response.iter_chunks()
    except Exception:
        return


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (timeline(lambda at, chunk: (at, len(chunk))), "the length instead of the bytes"),
        (timeline(lambda at, chunk: (chunk, at)), "the bytes first and the seconds second"),
        (timeline(lambda at, chunk: chunk), "`chunks` is a list of (seconds"),
        (timeline(lambda at, chunk: (str(at), chunk)), "and yours has ('"),
        (timeline(lambda at, chunk: (at + 1e9, chunk)), "the Timeline does not show it"),
        (timeline(lambda at, chunk: (at, Odd())), "and yours has (0."),
        (is_async, "A plain function is asked"),
        (yields, "A plain function is asked"),
        (leaves, "Your reader raised SystemExit"),
        (catches_and_returns_nothing, "has no attribute 'iter_chunks'"),
        (lambda response: Timeline(None, 1.0), "`chunks` is a list"),
        (lambda response: Timeline([], None), "is a number of seconds, not None"),
        (lambda response: Timeline([], 1.0), "holds 0 of 6291456 bytes"),
        (Odd(), "a function that takes a response, not <Odd instance"),
    ],
)
def test_slow_reader(answer, cause):
    assert cause in text(check_slow_reader(answer), State.WRONG)
