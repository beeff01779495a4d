"""The exercises on a stream taken over: who closes it, who hears of errors, who waits for whom.

As in buffered_stream.py, an answer is run and judged by what came out: what the client received,
how its stream ended, how far the writer got while the reader slept.
"""

import time
from collections.abc import Callable

import httpx2

from helpers.checks.run import is_stub, try_answer
from helpers.checks.trial import Ending, Trial
from helpers.checks.verdict import Verdict, solved, unsolved, wrong
from helpers.errors import ClientDisconnected
from helpers.exchange import Request, Response
from helpers.server import Handler
from helpers.timeline import Timeline

LINES = [f"data chunk #{i}\n" for i in range(10)]
PIECE = bytes(64 * 1024)
PIECES = 96
REPORT_WAIT_TURNS = 100  # of 10 ms, or of more where the machine is busy


def check_broken_off(handler: Handler) -> Verdict:
    """Say whether the client gets three lines and then an error, not an end."""
    trial = try_answer(handler, "a stream has two ways to end: `close` is one. What is the other?")
    if isinstance(trial, Verdict):
        return trial
    if trial.status != 200 and (why := trial.trouble()):
        return wrong(why)
    lines = trial.body.decode(errors="replace").splitlines(keepends=True)
    if trial.ending is Ending.COMPLETE:
        return wrong(
            f"The client gets {len(lines)} lines and a clean end (FIN): it takes them for the "
            "whole body. `close` says 'that was all', which is not true here."
        )
    if trial.ending is not Ending.FAILED and (why := trial.trouble()):
        return wrong(why)
    if lines != LINES[:3]:
        return wrong(
            f"The client gets an error, as it should, but before it {len(lines)} lines, not 3. "
            "RESET_STREAM overtakes what has not left yet: give the data time to leave."
        )
    return solved(f"Three lines, then {type(trial.client_error).__name__}: no clean end.")


def check_handed_over(handler: Handler, reports: list[Exception]) -> Verdict:
    """Say whether a task writes on after the handler returned, and its errors get to `reports`.

    The handler is asked twice: by a client that reads to the end, and by one that leaves after two
    chunks.
    """
    if not isinstance(reports, list):
        return wrong(f"`reports` is the list that your task appends to, not {reports!r}.")
    reports.clear()
    trial = try_answer(handler, "asyncio.create_task gives the stream to a task; who keeps it?")
    if isinstance(trial, Verdict):
        return trial
    why = _why_not_on_its_own(trial, reports)
    if why:
        return wrong(why)

    def leave_early(response: httpx2.Response) -> None:
        chunks = response.iter_raw()
        next(chunks), next(chunks)
        response.close()
        for _ in range(REPORT_WAIT_TURNS):
            if not reports:
                time.sleep(0.01)

    trial = try_answer(handler, "", leave_early)
    if isinstance(trial, Verdict):
        return trial
    if not reports:
        return wrong(
            "A client left after two lines, the task's next write raised ClientDisconnected, and "
            "nobody heard of it: `reports` is empty. Nobody awaits this task, so it has to catch "
            "its own exceptions and append them."
        )
    if not isinstance(reports[-1], ClientDisconnected):
        return wrong(
            f"A client left after two lines, and `reports` has {reports[-1]!r}. What the next "
            "write raises is a ClientDisconnected: append that."
        )
    return solved("The handler returned first, the task wrote on, and reported a client that left.")


def _why_not_on_its_own(trial: Trial, reports: list[Exception]) -> str | None:
    errors = [*reports, *trial.unseen_errors]
    if errors:
        error = errors[-1]
        return f"A client read to the end, and the task raised {type(error).__name__}: {error}"
    if trial.ending is Ending.OPEN and not trial.blocked and trial.returned_s is not None:
        return (
            f"The handler returned and the client has {trial.size_bytes} bytes, but no end. Since "
            "the stream was taken over, nobody closes it but its owner: the task."
        )
    why = trial.trouble() or trial.differs_from(LINES)
    if why:
        return why
    if trial.returned_s is None:
        return (
            "The client has everything, but the handler has not returned: it waits for the task, "
            "or for something after it. Start the task, and return."
        )
    after_s = trial.ended_s - trial.returned_s
    if after_s < 0.1:
        return (
            f"The handler returned when everything was written (the client's end came {after_s:.2f}"
            " s later): it waits for the task. Start the task, and return."
        )
    return None


def check_slow_reader(read: Callable[[httpx2.Response], Timeline]) -> Verdict:
    """Say whether a reader slows its writer down: the writer sends 6 MiB as fast as it may."""
    hint = "take a piece, sleep, take the next. What you have not read yet is what holds it up."
    if is_stub(read):
        return unsolved(hint)
    if not callable(read):
        return wrong(f"The answer is a function that takes a response, not {read!r}.")
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
    why = _why_not_slowed(trial, written_s)
    if why:
        return wrong(why)
    return solved("The writer waited for the reader: both take their time, and both lists show it.")


def _why_not_slowed(trial: Trial, written_s: list[float]) -> str | None:
    total_bytes = len(PIECE) * PIECES
    if trial.ending is Ending.OPEN:
        return (
            f"After seconds your reader has {trial.size_bytes} of {total_bytes} bytes and goes on. "
            "Sleep less, or take more at once: a second for everything is enough."
        )
    if trial.ending is Ending.FAILED:
        return f"Your reader raised {type(trial.client_error).__name__}: {trial.client_error}"
    if not isinstance(trial.result, Timeline):
        return f"Return a Timeline(chunks, ended_s), not {type(trial.result).__name__}."
    kept_bytes = sum(len(chunk) for _, chunk in trial.result.chunks)
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
    if trial.result.chunks[-1][0] < trial.ended_s / 2:
        return (
            "The writer was slowed down, but the Timeline does not show it: note the time of each "
            'piece when you take it, since response.extensions["request_sent_at"].'
        )
    return None
