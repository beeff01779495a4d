"""The exercises on a buffered response: what left when, and why that is not what was asked.

Each check runs an answer as a program would use it, and judges by what came out at the other end:
the chunks and their times, the frames on the wire. It never reads the answer's source, raises for
nothing that an answer does, and takes 5 s at most for each time that it runs one, longer where the
machine is busy.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise

import httpx2

from helpers.checks.run import is_stub, run, try_answer
from helpers.checks.verdict import Verdict, never_raises, shown, solved, unsolved, wrong
from helpers.exchange import Request, Response
from helpers.server import Handler
from helpers.wire import WireLog

LINES = [f"data chunk #{i}\n" for i in range(10)]
MAX_PROBED_BYTES = 64 * 1024
ARRIVAL_TIMEOUT_S = 30.0


@never_raises
def check_pairs(handler: Handler) -> Verdict:
    """Say whether the ten lines leave as one alone, four pairs and one alone."""
    wire = WireLog()
    trial = try_answer(
        handler, "`flush` sends what was written since the last one. After which lines?", wire=wire
    )
    if isinstance(trial, Verdict):
        return trial
    if why := trial.trouble() or trial.differs_from(LINES):
        return trial.verdict(why)
    rows = [row for row in wire.frames(0) if row["sender"] == "server" and row["frame"] == "DATA"]
    counts = _lines_in_each([row["length"] for row in rows], trial.body)
    if counts != [1, 2, 2, 2, 2, 1]:
        why = f"The DATA frames hold {_sum(counts)} lines. {_why_no_pairs(counts)}"
        return trial.verdict(why)
    gaps_ms = [after["time_ms"] - before["time_ms"] for before, after in pairwise(rows)]
    if statistics.median(gaps_ms) < 40:
        return trial.verdict(
            f"The frames are right, {_sum(counts)} lines, but all leave at once. The source makes "
            "a line every 100 ms: `await asyncio.sleep(0.1)` after each."
        )
    shown = f"Six DATA frames with {_sum(counts)} lines, and one after the other."
    return trial.verdict(None, shown)


def _lines_in_each(sizes_bytes: Sequence[int], body: bytes) -> list[int]:
    ends = list(accumulate(sizes_bytes, initial=0))
    return [body[start:end].count(b"\n") for start, end in pairwise(ends)]


def _sum(counts: list[int]) -> str:
    return " + ".join(map(str, counts))


def _why_no_pairs(counts: list[int]) -> str:
    if len(counts) == 1:
        return (
            "Nothing left before the handler returned: all ten lines have 140 bytes, the buffer "
            "holds 4096, and nothing called `flush` in between."
        )
    if counts == [1] * 10:
        return "Each line leaves alone, because `flush` follows each `write`."
    if counts[0] > 1:
        return "The first line waits for the next one: it should leave at once, alone."
    return "The first line leaves alone, as it should; the others should leave two by two."


@never_raises
def check_largest_write(size_bytes: int) -> Verdict:
    """Say whether this is the largest single write that waits in the buffer for `flush`."""
    if is_stub(size_bytes):
        return unsolved(
            "write n bytes, wait, return. Does a client have them before the handler returns? "
            "Halve the interval until one byte makes the difference."
        )
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
        return wrong(f"A number of bytes is an int, not {shown(size_bytes)}.")
    if not 0 <= size_bytes < MAX_PROBED_BYTES:
        return wrong(f"{shown(size_bytes)} is out of range: look between 0 and {MAX_PROBED_BYTES}.")
    if _leaves_without_flush(size_bytes):
        return wrong(
            f"{size_bytes} bytes leave at once: a client has them before the handler returns. The "
            "buffer is full then, so the answer is smaller."
        )
    if not _leaves_without_flush(size_bytes + 1):
        return wrong(f"{size_bytes} bytes wait, but so do {size_bytes + 1}: the answer is larger.")
    return solved(
        f"{size_bytes} bytes wait for `flush` or for the end, {size_bytes + 1} do not: a buffer "
        "that is just full waits, one that runs over is sent."
    )


def _leaves_without_flush(size_bytes: int) -> bool:
    arrived = threading.Event()

    def read(response: httpx2.Response) -> None:
        for _ in response.iter_raw():
            arrived.set()

    async def write_and_wait(_: Request, response: Response) -> None:
        await response.write(bytes(size_bytes))
        if response.header_sent:  # then all of it has left, and comes, however long that takes
            await asyncio.to_thread(arrived.wait, ARRIVAL_TIMEOUT_S)
            left.append(arrived.is_set())

    left: list[bool] = []
    run(write_and_wait, read)
    return left == [True]


@never_raises
def check_progress_feed(handler: Handler) -> Verdict:
    """Say whether httpx2 reads rising `progress` events up to 100, then `done`, one by one."""
    events: list[tuple[float, httpx2.ServerSentEvent]] = []
    refusals: list[httpx2.SSEError] = []

    def read(response: httpx2.Response) -> None:
        try:
            for event in httpx2.EventSource(response):
                events.append((time.perf_counter(), event))
        except httpx2.SSEError as refusal:
            refusals.append(refusal)
            response.read()

    hint = "an event is two lines, `event: progress` and `data: 25`, and an empty line after them."
    trial = try_answer(handler, hint, read)
    if isinstance(trial, Verdict):
        return trial
    if why := trial.trouble():
        return trial.verdict(why)
    if refusals:
        return trial.verdict(
            f"httpx2 says: {refusals[0]} A browser refuses it too. Set it before the first write: "
            'response.write_header(200, {"content-type": "text/event-stream"}).'
        )
    if why := _why_no_feed([event for _, event in events], trial.body):
        return trial.verdict(why)
    gaps_s = [after - before for (before, _), (after, _) in pairwise(events)]
    if statistics.median(gaps_s) < 0.02:
        return trial.verdict(
            f"All {len(events)} events are right, but they come at the same moment, when it is all "
            "over. `flush` after each event, and sleep between them."
        )
    return trial.verdict(
        None, f"httpx2 reads {len(events)} events, one by one, the last is 'done'."
    )


def _why_no_feed(events: list[httpx2.ServerSentEvent], body: bytes) -> str | None:
    begun = sum(line.startswith(b"event:") for line in body.splitlines())
    if len(events) < begun - 1 or not events:
        return (
            f"{len(body)} bytes came, with {begun} `event:` lines, and httpx2 finds {len(events)} "
            r"events in them: an event ends with an empty line, so write '\n\n' after its last "
            "field."
        )
    *others, last = events
    names = sorted({event.event for event in others} - {"progress"})
    if names:
        return f"Before the last, each event is 'progress'; here are also {', '.join(names)}."
    if last.event != "done":
        return (
            f"The last event is {last.event!r}, not 'done'. A client cannot tell a feed that is "
            "complete from one that broke off, and a browser would ask again. (Without its empty "
            "line, an event does not count.)"
        )
    if not last.data:
        return "'done' has no data: browsers drop such an event. Any text will do."
    odd = [event.data for event in others if not event.data.isdigit()]
    if odd:
        return f"{odd[0]!r} is no percentage: a progress event's data is a whole number."
    told = [int(event.data) for event in others]
    if len(told) < 4 or told != sorted(set(told)) or told[-1] != 100:
        return f"The progress should rise to 100 in four steps or more; it was {told}."
    return None
