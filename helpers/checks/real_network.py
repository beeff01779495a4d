"""The exercises on a line with distance and loss: how long it is, what to do while it is dead.

Where an answer is a function, it is called with lines that were made up: so that they break off in
each of the ways in which real ones do, and at once.
"""

import math
import numbers
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2

from helpers.checks.run import in_time, is_stub
from helpers.checks.verdict import (
    State,
    Verdict,
    never_raises,
    shown,
    solved,
    told,
    unsolved,
    wrong,
)
from helpers.checks.witness import Witness
from helpers.errors import UsageError
from helpers.link import Link
from helpers.server import Server

ANSWER_TIMEOUT_S = 5.0
LINES = [f"line {number}" for number in range(20)]
# More than any line here needs, and few enough for a loop without end to be noticed.
MAX_ASKED = 30
TOLERANCE_S = 0.001

Ask = Callable[[int], Iterator[str]]
Break = tuple[int, Exception]


# ---- how long is this line?


def unknown_line(server: Server) -> Link:
    """Return a line to this server, not started, whose length is for you to find out."""
    return Link(server, delay_ms=random.uniform(65, 80))


@never_raises
def check_line_length(delay_ms: float, link: Link) -> Verdict:
    """Say whether a line takes so many milliseconds each way, within a fifth."""
    if is_stub(delay_ms):
        return unsolved("what has to go there and back before the first line can come?")
    if not isinstance(delay_ms, numbers.Real) or isinstance(delay_ms, bool):
        return wrong(f"The answer is a number of milliseconds, not {shown(delay_ms)}.")
    if not isinstance(link, Link):
        return wrong(f"The second argument is the line that you measured, not {shown(link)}.")
    if not 0 < delay_ms < math.inf:
        return wrong(f"{delay_ms} ms: no line is as long as that. Look at the first line's time.")
    answer, truth = float(delay_ms), link.delay_ms
    if abs(answer - truth) <= truth / 5:
        return solved(f"You say {answer:.1f} ms each way, and the line takes {truth:.1f} ms.")
    return wrong(_why_not_so_long(answer, truth))


def _why_not_so_long(answer: float, truth: float) -> str:
    def about(other: float) -> bool:
        return abs(answer - other) <= other / 5

    if about(truth / 1000) or about(2 * truth / 1000) or about(4 * truth / 1000):
        return f"{answer:g} is a number of seconds. The answer is one of milliseconds."
    if abs(answer - 50) < 5:
        return (
            f"{answer:g} ms lie between one line and the next: that is how fast the handler makes "
            "them. They all travel equally long, so the gaps say nothing of the way."
        )
    if about(4 * truth):
        return (
            f"After {answer:g} ms the first line was there. Until then, things went four times "
            "along the line: the handshake there and back, the request there, its answer back."
        )
    if about(2 * truth):
        return f"{answer:g} ms is the way there and back, a round trip. How long is one way?"
    if about(3 * truth):
        return (
            f"{answer:g} ms is three times the way. The first line needs four: the handshake's two "
            "and the request's two."
        )
    far = "longer" if answer > truth else "shorter"
    return (
        f"{answer:g} ms is {far} than the line. Take the time of the first line of a new "
        "connection, and count how often something had to go along the line before."
    )


# ---- a stream over a dead line


class _Enough(BaseException):
    """Ends an answer that asks without end; no `except Exception` keeps it."""


class _Source:
    """Hands out the lines as a server would, over a line that breaks where `breaks` says.

    Each break is how many lines come before it, and the error; after the last, all is well. With
    `dies_every` it dies after so many lines each time, until none is left.
    """

    def __init__(
        self,
        breaks: Sequence[Break] = (),
        lines: Sequence[str] = LINES,
        dies_every: int | None = None,
    ) -> None:
        self._breaks = list(breaks)
        self.dies_every = dies_every
        self.lines = list(lines)
        self.asked: list[object] = []

    def ask(self, first: int = 0) -> Iterator[str]:
        self.asked.append(first)
        if len(self.asked) > MAX_ASKED:
            raise _Enough
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise UsageError(f"ask takes the number of the first line to come, not {first!r}.")
        return self._lines(first)

    def _lines(self, first: int) -> Iterator[str]:
        count, error = self._breaks.pop(0) if self._breaks else (len(self.lines), None)
        if self.dies_every is not None and first + self.dies_every < len(self.lines):
            count, error = self.dies_every, httpx2.ReadTimeout("The read timed out")
        yield from self.lines[first : first + count]
        if error is not None:
            raise error


# As httpx2 tells of a line that is dead: while one waits, while one asks, and for good.
BREAKS: dict[str, list[Break]] = {
    "on a line without a fault": [],
    "where the line dies after four lines": [(4, httpx2.ReadTimeout("The read timed out"))],
    "where it is dead still when you ask again": [
        (4, httpx2.ReadTimeout("The read timed out")),
        (0, httpx2.ConnectTimeout("No HTTP/3 server answered")),
        (3, httpx2.ReadError("nothing came for 7 s, the peer has vanished")),
    ],
    "where it dies before the first line": [(0, httpx2.ConnectError("nobody"))],
    "where it dies after the last line": [(20, httpx2.ReadTimeout("The read timed out"))],
}


@never_raises
def check_resumed(follow: Callable[[Ask], list[str]]) -> Verdict:
    """Say whether `follow(ask)` returns all lines, in whichever way the line dies meanwhile."""
    if is_stub(follow):
        return unsolved("count the lines that you have, and ask for the next one.")
    if not callable(follow):
        return wrong(f"The answer is a function that takes `ask`, not {shown(follow)}.")
    return in_time("follow", lambda: _try_all(follow), ANSWER_TIMEOUT_S)


def _with_what_it_hid(witness: Witness, verdict: Verdict) -> Verdict:
    """Return a verdict with what came up in the answer and was caught there, by mistake."""
    mistakes = [
        note
        for note in witness.notes
        if not note.on_purpose and not issubclass(note.kind, (httpx2.HTTPError, _Enough))
    ]
    if not mistakes or verdict.state is State.UNSOLVED or mistakes[0].text in verdict.text:
        return verdict
    if verdict.state is State.SOLVED:
        return solved(f"{verdict.text} (You have caught one thing. {mistakes[0]})")
    return wrong(f"{mistakes[0]} {verdict.text}")


def _try_all(follow: Callable[[Ask], list[str]]) -> Verdict:
    witness = Witness(follow)
    witness.watch()
    sources = {where: _Source(breaks) for where, breaks in BREAKS.items()}
    sources["where the server has thirteen lines"] = _Source(lines=LINES[:13])
    sources["where it dies every seven lines"] = _Source(dies_every=7)
    for where, source in sources.items():
        why = _why_not_all(follow, source)
        if isinstance(why, Verdict):
            return why
        if why is not None:
            verdict = wrong(f"{where[0].upper()}{where[1:]}, {why}")
            return _with_what_it_hid(witness, verdict)
    if why := _why_not_told(follow):
        return _with_what_it_hid(witness, wrong(why))
    shown_in = f"in {len(sources)} cases: the line dies early, late, twice, for ever, or never."
    return _with_what_it_hid(witness, solved(f"All lines, each once, {shown_in}"))


def _why_not_all(follow: Callable[[Ask], list[str]], source: _Source) -> str | Verdict | None:
    try:
        lines: Any = follow(source.ask)
    except httpx2.TransportError as error:
        return (
            f"{told(error)} got through to the caller. It may come up at each line, so catch it "
            "around the whole loop, and ask again."
        )
    except _Enough:
        return _why_without_end(source)
    except BaseException as error:  # noqa: BLE001 - the learner's function may raise anything
        return f"`follow` raised {told(error)}"
    if lines is None and not source.asked:
        return unsolved("count the lines that you have, and ask for the next one.")
    if hasattr(lines, "__await__"):
        lines.close()
        return "`follow` made a coroutine: write `def`, not `async def`."
    if not isinstance(lines, list):
        return f"`follow` returned {shown(lines)}: return the list of all lines."
    return _why_not_these(lines, source)


def _why_without_end(source: _Source) -> str:
    if source.asked[-1] == 0 and source.dies_every:
        return (
            f"`follow` asked for line 0 {MAX_ASKED} times, though it had some lines each time: so "
            "it never arrives. Keep what has come, and ask for the rest."
        )
    if source.asked[-1] == 0:
        return (
            f"`follow` asked {MAX_ASKED} times, from line 0 at last. Where nothing is raised, the "
            "lines are complete: leave the loop then."
        )
    return (
        f"`follow` asked {MAX_ASKED} times, for line {shown(source.asked[-1])} at last. When the "
        "loop over the lines ends without an error, all are there: return them."
    )


def _why_not_these(lines: list[str], source: _Source) -> str | None:
    if lines == source.lines:
        return None
    if not lines:
        return f"`follow` returned no line at all, of {len(source.lines)}."
    if lines == source.lines[: len(lines)]:
        return (
            f"`follow` returned {len(lines)} of {len(source.lines)} lines, as if that were all. An "
            "error is no end: ask for the rest."
        )
    repeated = [line for line in LINES if lines.count(line) > 1]
    if repeated:
        return (
            f"{shown(repeated[0])} came twice: you asked for {shown(source.asked)}. Ask for the "
            "lines that you do not have yet."
        )
    missing = [line for line in source.lines if line not in lines]
    if missing:
        return (
            f"{shown(missing[0])} is missing: you asked for {shown(source.asked)}. Lines count "
            "from 0, so the next one has the number of those that you have."
        )
    return f"the lines are not in their order, or not as they came: {shown(lines)}."


def _why_not_told(follow: Callable[[Ask], list[str]]) -> str | None:
    """Return what is wrong where asking again cannot help."""
    request = httpx2.Request("GET", "https://localhost/lines")
    gone = httpx2.HTTPStatusError(
        "Client error '404 Not Found'", request=request, response=httpx2.Response(404)
    )
    source = _Source([(2, gone)] * MAX_ASKED)
    try:
        lines = follow(source.ask)
    except httpx2.HTTPStatusError:
        return None
    except _Enough:
        return (
            f"Where the server says 404, `follow` asked {MAX_ASKED} times. That line is alive: "
            "catch httpx2.TransportError, which is what a dead line raises, and nothing else."
        )
    except BaseException as error:  # noqa: BLE001 - the learner's function may raise anything
        return f"Where the server says 404, `follow` raised {told(error)}, not that."
    return (
        f"Where the server says 404, `follow` returned {len(lines)} lines as if all were well. "
        "Catch httpx2.TransportError, which is what a dead line raises, and nothing else."
    )


# ---- a buffer for a slow line

# When the pieces come, and for how long each of them is played, in seconds.
FILMS = {
    "a film whose pieces come faster than they are played": ([0.2, 0.21, 0.22, 0.23], 0.05),
    "a film on a line that is too slow": ([0.3 + 0.08 * n for n in range(20)], 0.05),
    "a film that stands still once": ([*[0.1 + 0.05 * n for n in range(5)], 0.6, 0.62, 0.64], 0.05),
    "a film of one piece": ([0.4], 0.05),
    "a film whose first piece is the late one": ([0.9, 0.91, 0.92], 0.1),
    "a film whose pieces come two by two": ([0.2, 0.2, 0.3, 0.3, 0.4, 0.4], 0.05),
}


@never_raises
def check_player(start_s: Callable[[Sequence[float], float], float]) -> Verdict:
    """Say whether `start_s(arrivals_s, play_s)` is the first moment to begin without a stop."""
    hint = "piece n is wanted n * play_s after the start. Which piece makes the start wait?"
    if is_stub(start_s):
        return unsolved(hint)
    if not callable(start_s):
        return wrong(f"The answer is a function of two arguments, not {shown(start_s)}.")
    return in_time("start_s", lambda: _try_films(start_s, hint), ANSWER_TIMEOUT_S)


def _try_films(start_s: Callable[[Sequence[float], float], float], hint: str) -> Verdict:
    witness = Witness(start_s)
    witness.watch()
    for film, (arrivals_s, play_s) in FILMS.items():
        try:
            answer: Any = start_s(list(arrivals_s), play_s)
        except BaseException as error:  # noqa: BLE001 - the learner's function may raise anything
            return wrong(f"For {film}, `start_s` raised {told(error)}")
        if answer is None or answer is ...:
            return unsolved(hint)
        if hasattr(answer, "__await__"):
            answer.close()
            return wrong("`start_s` made a coroutine: write `def`, not `async def`.")
        if not isinstance(answer, numbers.Real) or isinstance(answer, bool) or answer != answer:
            return wrong(f"For {film}, `start_s` returned {shown(answer)}: return seconds.")
        if why := _why_not_then(float(answer), arrivals_s, play_s):
            verdict = wrong(f"For {film}, `start_s` returned {answer:.3f} s. {why}")
            return _with_what_it_hid(witness, verdict)
    verdict = solved(f"{len(FILMS)} films, none of which stops, and none could begin earlier.")
    return _with_what_it_hid(witness, verdict)


def _why_not_then(answer: float, arrivals_s: Sequence[float], play_s: float) -> str | None:
    wanted_s = [answer + number * play_s for number in range(len(arrivals_s))]
    for number, (arrival, wanted) in enumerate(zip(arrivals_s, wanted_s, strict=True)):
        if arrival > wanted + TOLERANCE_S:
            return (
                f"Piece {number} is wanted {wanted:.3f} s after the request and comes after "
                f"{arrival:.3f} s: the film stops there. Begin later."
            )
    spare_s = min(wanted - came for wanted, came in zip(wanted_s, arrivals_s, strict=True))
    if spare_s > TOLERANCE_S:
        last = "" if not math.isclose(answer, arrivals_s[-1]) else " You wait for the last piece."
        return f"No piece would be late if it began {spare_s:.3f} s earlier.{last}"
    return None
