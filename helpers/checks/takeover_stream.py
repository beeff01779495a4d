"""The exercises on a stream taken over: who closes it, who hears of errors, who waits for whom.

As in buffered_stream.py, an answer is run and judged by what came out: what the client received,
how its stream ended, how far the writer got while the reader slept.
"""

import inspect
import time
from collections.abc import Callable

import httpx2

from helpers.checks.run import is_stub, try_answer
from helpers.checks.trial import Ending, Trial
from helpers.checks.verdict import Verdict, never_raises, shown, told, unsolved, wrong
from helpers.errors import ClientDisconnected
from helpers.exchange import Request, Response
from helpers.server import Handler
from helpers.stream import HTTP3Stream
from helpers.timeline import Timeline

LINES = [f"data chunk #{i}\n" for i in range(10)]
PIECE = bytes(64 * 1024)
PIECES = 96
REPORT_WAIT_TURNS = 100  # of 10 ms, or of more where the machine is busy
# After a report, for a task that goes on to show it: as many beats as five of its writes take.
BEATS_TO_GO_ON = 15
NOT_TAKEN_OVER = (
    "The stream was never taken over: `stream = await response.take_over()` hands it out, and the "
    "response writes no more."
)


@never_raises
def check_broken_off(handler: Handler) -> Verdict:
    """Say whether the client gets three lines and then an error, not an end."""
    trial = try_answer(handler, "a stream has two ways to end: `close` is one. What is the other?")
    if isinstance(trial, Verdict):
        return trial
    shown = f"Three lines, then {type(trial.client_error).__name__}: no clean end."
    return trial.verdict(_why_not_broken_off(trial), shown)


def _why_not_broken_off(trial: Trial) -> str | None:
    if trial.status != 200 and (why := trial.trouble()):
        return why
    lines = trial.body.decode(errors="replace").splitlines(keepends=True)
    got = f"{len(lines)} line{'' if len(lines) == 1 else 's'}"
    if trial.ending is Ending.COMPLETE:
        return (
            f"The client gets {got} and a clean end (FIN): it takes them for the whole body. "
            "`close` says 'that was all', which is not true here."
        )
    if trial.ending is not Ending.FAILED and (why := trial.trouble()):
        return why
    if trial.blocked:
        return trial.trouble()
    crash = trial.crash()
    if trial.handler_errors and crash:
        return (
            f"The client gets {got} and an error, but since your answer failed by mistake. {crash}"
        )
    if lines != LINES[:3]:
        return (
            f"The client gets an error, as it should, but before it {got}, not 3. "
            "RESET_STREAM overtakes what has not left yet: give the data time to leave."
            if lines == LINES[: len(lines)] and len(lines) < 3
            else trial.differs_from(LINES[:3])
        )
    return None if trial.took_over else NOT_TAKEN_OVER


@never_raises
def check_handed_over(handler: Handler, reports: list[Exception]) -> Verdict:
    """Say whether a task writes on after the handler returned, and its errors get to `reports`.

    The handler is asked twice: by a client that reads to the end, and by one that leaves after two
    chunks.
    """
    if not isinstance(reports, list):
        return wrong(f"`reports` is the list that your task appends to, not {shown(reports)}.")
    reports.clear()
    trial = try_answer(handler, "asyncio.create_task gives the stream to a task; who keeps it?")
    if isinstance(trial, Verdict):
        return trial
    if why := _why_not_on_its_own(trial, reports):
        return trial.verdict(why)

    def leave_early(response: httpx2.Response) -> None:
        chunks = response.iter_raw()
        next(chunks), next(chunks)
        response.close()
        for _ in range(REPORT_WAIT_TURNS):
            if not reports:
                time.sleep(0.01)

    trial = try_answer(handler, "", leave_early, beats_afterwards=BEATS_TO_GO_ON)
    if isinstance(trial, Verdict):
        return trial
    return trial.verdict(
        _why_not_reported(trial, reports),
        "The handler returned first, the task wrote on, and reported a client that left.",
    )


def _why_not_on_its_own(trial: Trial, reports: list[Exception]) -> str | None:
    others = [entry for entry in reports if not isinstance(entry, BaseException)]
    if others:
        return (
            f"A client read to the end, and `reports` has {shown(others[0])}, though nothing was "
            "raised. Append exceptions only: a task that ended well has none."
        )
    if reports:
        return f"While a client read, the task raised {told(reports[-1])}"
    if trial.unseen_errors:
        return f"While a client read, the task raised {told(trial.unseen_errors[-1])}"
    if trial.ending is Ending.OPEN and not trial.blocked and trial.returned_s is not None:
        return (
            f"The handler returned and the client has {trial.size_bytes} bytes, but no end. Since "
            "the stream was taken over, nobody closes it but its owner: the task."
        )
    why = trial.trouble() or trial.differs_from(LINES)
    if why:
        return why
    if not trial.took_over:
        return NOT_TAKEN_OVER
    if trial.returned_s is None:
        return (
            "The client has everything, but the handler has not returned: it waits for the task, "
            "or for something after it. Start the task, and return."
        )
    span_s = trial.chunks[-1][0] - trial.chunks[0][0]
    if span_s < 0.1:
        return (
            f"The ten lines came within {span_s:.2f} s: write them 50 ms apart, with `await "
            "asyncio.sleep(0.05)`."
        )
    after_s = trial.ended_s - trial.returned_s
    if after_s < 0.1:
        return (
            f"The handler returned when everything was written (the client's end came {after_s:.2f}"
            " s later): it waits for the task. Start the task, and return."
        )
    return None


def _why_not_reported(trial: Trial, reports: list[Exception]) -> str | None:
    writes = [
        note
        for note in trial.notes
        if note.kind is ClientDisconnected and note.called == HTTP3Stream.write.__qualname__
    ]
    if not reports:
        told_once = "A client left after two lines, the task's next write raised ClientDisconnected"
        if trial.unseen_errors:
            told_once = f"A client left after two lines, the task ended with {_last(trial)}"
        return (
            f"{told_once}, and nobody heard of it: `reports` is empty. Nobody awaits this task, so "
            "it has to catch its own exceptions and append them."
        )
    if len(writes) > 1:
        return (
            f"The client left, and the task wrote on: {len(writes)} writes raised "
            "ClientDisconnected. An exception that is caught inside the loop does not end the "
            "task: put the `try` around all of it."
        )
    if not isinstance(reports[-1], ClientDisconnected):
        return (
            f"A client left after two lines, and `reports` has {shown(reports[-1])}. What the next "
            "write raises is a ClientDisconnected: append that."
        )
    if len(reports) > 1:
        return (
            f"One client left, and `reports` has {len(reports)} entries: {shown(reports)}. Each "
            "exception that ends a task is reported once."
        )
    return None


def _last(trial: Trial) -> str:
    return told(trial.unseen_errors[-1])


@never_raises
def check_slow_reader(read: Callable[[httpx2.Response], Timeline]) -> Verdict:
    """Say whether a reader slows its writer down: the writer sends 6 MiB as fast as it may."""
    hint = "take a piece, sleep, take the next. What you have not read yet is what holds it up."
    if is_stub(read):
        return unsolved(hint)
    if not callable(read):
        return wrong(f"The answer is a function that takes a response, not {shown(read)}.")
    if inspect.iscoroutinefunction(read) or inspect.isasyncgenfunction(read):
        return wrong(
            "The answer is `async def`, so a call reads nothing. A plain function is asked, since "
            "this client is a synchronous one: write `def`, and `for`, not `async for`."
        )
    if inspect.isgeneratorfunction(read):
        return wrong(
            "The answer has a `yield`, so a call reads nothing. A plain function is asked, which "
            "returns a Timeline."
        )
    written_s: list[float] = []

    async def flood(_: Request, response: Response) -> None:
        async with await response.take_over() as stream:
            started = time.perf_counter()
            for piece in [PIECE] * PIECES:
                await stream.write(piece)
                written_s.append(time.perf_counter() - started)

    trial = try_answer(flood, hint, read)
    if isinstance(trial, Verdict):
        return trial
    return trial.verdict(
        _why_not_slowed(trial, written_s),
        "The writer waited for the reader: both take their time, and both lists show it.",
    )


def _why_not_slowed(trial: Trial, written_s: list[float]) -> str | None:
    total_bytes = len(PIECE) * PIECES
    if trial.ending is Ending.OPEN:
        return (
            f"Your reader was stopped after some seconds: it has {trial.size_bytes} of "
            f"{total_bytes} bytes and goes on. Sleep less, or take more at once: a second for "
            "everything is enough."
        )
    if trial.ending is Ending.FAILED:
        return f"Your reader raised {told(trial.client_error)}"
    why = _why_no_timeline(trial.result)
    if why or not isinstance(trial.result, Timeline):
        return why
    chunks = trial.result.chunks
    kept_bytes = sum(len(chunk) for _, chunk in chunks)
    if kept_bytes != total_bytes:
        return f"Your Timeline holds {kept_bytes} of {total_bytes} bytes: read to the end."
    if trial.ended_s < 0.5:
        return f"Nobody was slow: everything was read in {trial.ended_s:.2f} s. Sleep in between."
    if written_s[-1] < trial.ended_s / 2:
        return (
            f"You took {trial.ended_s:.2f} s, but the writer was done after {written_s[-1]:.2f} s: "
            "the bytes were read first, and you slept after. Only what is left unread holds up a "
            "writer."
        )
    if trial.own_s < trial.ended_s / 3:
        return (
            f"Nobody was slow: of {trial.ended_s:.2f} s your reader took {trial.own_s:.2f} s for "
            "itself, and for the rest it waited. Sleep in between."
        )
    if chunks[-1][0] < trial.ended_s / 2 or chunks[-1][0] > trial.ended_s * 2:
        return (
            "The writer was slowed down, but the Timeline does not show it: its last piece is "
            f"dated {chunks[-1][0]:.2f} s, and came after {trial.ended_s:.2f} s. Note the time of "
            'each piece when you take it, since response.extensions["request_sent_at"].'
        )
    return None


def _why_no_timeline(result: object) -> str | None:
    """Return what a reader's result lacks of a Timeline's form, or None."""
    if not isinstance(result, Timeline):
        return f"Return a Timeline(chunks, ended_s), not {type(result).__name__}."
    if not isinstance(result.ended_s, int | float):
        return (
            "Timeline(chunks, ended_s): `ended_s` is a number of seconds, not "
            f"{shown(result.ended_s)}."
        )
    asked = "`chunks` is a list of (seconds since the request was sent, bytes)"
    if not isinstance(result.chunks, list):
        return f"{asked}, not {shown(result.chunks)}."
    for chunk in result.chunks:
        match chunk:
            case (int() | float(), bytes()):
                continue
            case (bytes(), int() | float()):
                return f"{asked}: yours has the bytes first and the seconds second."
            case (int() | float(), int()):
                return f"{asked}: yours has {shown(chunk)}, the length instead of the bytes."
        return f"{asked}, and yours has {shown(chunk)}."
    return None
