"""The exercises on datagrams: a ping that never hangs, a sender that notices what was lost.

An answer gets a stream that was made up: what its datagrams meet on the way is decided for each of
them, so that all that can happen on a line does happen, and every time.
"""

import heapq
import itertools
import math
import numbers
import time
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from helpers.checks.run import in_time, is_stub
from helpers.checks.verdict import Verdict, never_raises, shown, solved, told, unsolved, wrong
from helpers.checks.witness import Witness
from helpers.errors import StreamReset, UsageError

ANSWER_TIMEOUT_S = 15.0
LIMIT_S = 0.2
"""How long a ping waits for its echo."""
ACKNOWLEDGED_WITHIN_S = 0.3
# A round trip is measured twice, here and in the answer, and a busy machine comes in between.
SLACK_S = 0.15
# Who waits for longer than this for one datagram does not keep any limit that is asked here.
LONGEST_WAIT_S = 1.0
MAX_SENT = 100
LOST: Sequence[float] = ()


class _Endless(BaseException):
    """Ends an answer that would never end; no `except Exception` keeps it."""


class _FarEnd:
    """A stream whose other end answers each datagram, after the seconds that `fates` says.

    A fate has a time for each copy of the answer that comes, none where it is lost. Those that are
    sent beyond are lost. With `breaks_at`, the stream is reset when so many have been sent.
    """

    def __init__(
        self,
        fates: Sequence[Sequence[float]],
        answer: Callable[[bytes], bytes],
        breaks_at: float = math.inf,
    ) -> None:
        self.stream_id = 0
        self.sent: list[bytes] = []
        self.sent_at: list[float] = []
        self.received_at: dict[int, float] = {}
        """When the answer to each datagram was handed out first, by its number."""
        self.waited_s = 0.0
        """How long the answer waited before it sent its last datagram."""
        self.is_endless = False
        self.longest_wait_s = 0.0
        self.fates = fates
        self._answer = answer
        self._breaks_at = breaks_at
        self._waited_s = 0.0
        self._on_the_way: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()

    def send_datagram(self, payload: bytes) -> None:
        self._check()
        if isinstance(payload, str):
            raise UsageError(f"A datagram carries bytes: {payload[:20]!r}.encode(), not a str.")
        number = len(self.sent)
        self.sent.append(bytes(payload))
        self.sent_at.append(perf_counter())
        self.waited_s = self._waited_s
        if number >= MAX_SENT:
            raise _Endless
        for seconds in self.fates[number] if number < len(self.fates) else LOST:
            arrival = (self.sent_at[-1] + seconds, next(self._order), number, self._answer(payload))
            heapq.heappush(self._on_the_way, arrival)

    def receive_datagram(self, timeout_s: float | None = None) -> bytes:
        self._check()
        now = perf_counter()
        wait_s = math.inf if timeout_s is None else timeout_s
        next_s = self._on_the_way[0][0] - now if self._on_the_way else math.inf
        if next_s == math.inf and wait_s == math.inf:
            self.is_endless = True
            raise _Endless
        self.longest_wait_s = max(self.longest_wait_s, min(wait_s, next_s))
        slept_s = max(0.0, min(wait_s, next_s, LONGEST_WAIT_S))
        time.sleep(slept_s)
        self._waited_s += slept_s
        if next_s > wait_s or next_s > LONGEST_WAIT_S:
            raise TimeoutError(f"No datagram came on stream 0 within {wait_s:g} s.")
        _, _, number, payload = heapq.heappop(self._on_the_way)
        self.received_at.setdefault(number, perf_counter())
        return payload

    def datagrams(self) -> Iterator[bytes]:
        while True:
            yield self.receive_datagram()

    def _check(self) -> None:
        if len(self.sent) >= self._breaks_at:
            raise StreamReset(self.stream_id, 0x10C)


Judge = Callable[[Any, _FarEnd], str | None]


class _Trial:
    """One answer, and the ends that it is tried with."""

    def __init__(self, name: str, function: Callable[..., Any], hint: str) -> None:
        self._name = name
        self._function = function
        self._hint = hint
        self._witness = Witness(function)

    def judge(self, attempts: Callable[["_Trial"], Verdict]) -> Verdict:
        """Make the attempts on a thread of their own, which is ended where it does not end."""

        def work() -> Verdict:
            self._witness.watch()
            return attempts(self)

        with self._witness.at_work():
            return in_time(self._name, work, ANSWER_TIMEOUT_S)

    def why_not(
        self, where: str, end: _FarEnd, arguments: tuple[object, ...], judge: Judge
    ) -> Verdict | None:
        """Return what to say of the answer at this end, None where it is right."""
        why: str | None
        try:
            result = self._function(end, *arguments)
        except _Endless:
            result, why = None, self._why_endless(end)
        except BaseException as error:  # noqa: BLE001 - the learner's function may raise anything
            result, why = None, f"`{self._name}` raised {told(error)}"
        else:
            why = self._why_of_no_use(result, end)
            if why is None and result is None and not end.sent and not self._witness.notes:
                return unsolved(self._hint)
            why = why or judge(result, end)
        return None if why is None else wrong(f"{where[0].upper()}{where[1:]}: {why}")

    def _why_of_no_use(self, result: Any, end: _FarEnd) -> str | None:
        if hasattr(result, "__await__"):
            result.close()
            return f"`{self._name}` made a coroutine: write `def`, not `async def`."
        if end.is_endless:  # it has caught what ended it
            return self._why_endless(end)
        for note in self._witness.notes:
            if not issubclass(note.kind, TimeoutError | StreamReset | _Endless):
                return f"your answer has caught what it should not. {note}"
        if result is not None and not isinstance(result, list):
            return f"`{self._name}` returned {shown(result)}: return a list."
        if end.longest_wait_s > LONGEST_WAIT_S:
            return (
                f"`{self._name}` would have waited for {end.longest_wait_s:.1f} s for one. A lost "
                "one never comes: give up when the time that is asked is over."
            )
        return None

    def _why_endless(self, end: _FarEnd) -> str:
        if end.is_endless:
            return (
                f"`{self._name}` waits for ever: {len(end.sent)} sent, nothing more is on its way, "
                "and `receive_datagram` was called without `timeout_s`."
            )
        return f"`{self._name}` has sent {len(end.sent)} datagrams, and goes on."

    def why_not_told(self, end: _FarEnd, arguments: tuple[object, ...]) -> Verdict | None:
        """Return what to say of an answer that keeps the end of its stream to itself."""
        try:
            result = self._function(end, *arguments)
        except StreamReset:
            return None
        except BaseException as error:  # noqa: BLE001 - the learner's function may raise anything
            return wrong(f"Where the other end resets the stream, it raised {told(error)}")
        return wrong(
            f"Where the other end resets the stream, `{self._name}` returned {shown(result)}, as "
            "if that were loss. Catch TimeoutError, which is what a lost one raises, and nothing "
            "else."
        )


def _checked(name: str, answer: object, hint: str) -> Verdict | None:
    if is_stub(answer):
        return unsolved(hint)
    if not callable(answer):
        return wrong(f"The answer is a function of two arguments, not {shown(answer)}.")
    return None


# ---- a ping

PING_HINT = (
    "what was sent is lost where its echo does not come in time: receive_datagram(timeout_s=...)"
)
LINES: dict[str, list[Sequence[float]]] = {
    "on a good line": [[0.01]] * 5,
    "where some are lost": [[0.01], LOST, [0.01], LOST, [0.02]],
    "where an echo comes too late": [[0.01], [0.25], [0.12], [0.01]],
    "where an echo comes twice": [[0.01, 0.02], [0.08], [0.01], [0.01]],
    "on a dead line": [LOST] * 3,
}


@never_raises
def check_ping(ping: Callable[[Any, int], list[float | None]]) -> Verdict:
    """Say whether `ping(stream, count)` tells loss and round trips, and comes back in any case."""
    if verdict := _checked("ping", ping, PING_HINT):
        return verdict
    return _Trial("ping", ping, PING_HINT).judge(_ping_all)


def _ping_all(trial: _Trial) -> Verdict:
    for where, fates in LINES.items():
        end = _FarEnd(fates, bytes)
        if verdict := trial.why_not(where, end, (len(fates),), _why_no_ping):
            return verdict
    if verdict := trial.why_not_told(_FarEnd([[0.01]] * 4, bytes, breaks_at=2), (4,)):
        return verdict
    return solved(f"{len(LINES)} lines, each told with its losses, and none of them held it up.")


def _why_no_ping(result: Any, end: _FarEnd) -> str | None:
    fates = end.fates
    if len(end.sent) != len(fates):
        return f"{len(fates)} pings are asked, and {len(end.sent)} datagrams were sent."
    if len(set(end.sent)) != len(end.sent):
        return f"two pings were the same, {shown(end.sent[-1])}: their echoes cannot be told apart."
    if result is None or len(result) != len(fates):
        return f"`ping` returned {shown(result)}: return a list of {len(fates)}, one for each ping."
    for number, (took_s, fate) in enumerate(zip(result, fates, strict=True)):
        came = bool(fate) and fate[0] < LIMIT_S
        if took_s is None and came:
            return f"ping {number} came back after {fate[0]:g} s, and you say that it was lost."
        if took_s is None:
            continue
        if not isinstance(took_s, numbers.Real) or isinstance(took_s, bool):
            return f"for ping {number} you say {shown(took_s)}: a number of seconds, or None."
        if why := _why_not_so_long(number, float(took_s), fate, end):
            return why
    return None


def _why_not_so_long(number: int, took_s: float, fate: Sequence[float], end: _FarEnd) -> str | None:
    if not fate:
        return (
            f"ping {number} was lost, and you say that it took {took_s:.3f} s. Look at what has "
            "come: whose echo is it?"
        )
    if fate[0] >= LIMIT_S:
        return (
            f"the echo of ping {number} was on its way for {fate[0]:g} s, longer than the "
            f"{LIMIT_S:g} s that you wait: None is asked, and you say {took_s:.3f} s."
        )
    true_s = max(fate[0], end.received_at.get(number, 0.0) - end.sent_at[number])
    if abs(took_s / 1000 - true_s) < true_s / 2:
        return f"ping {number} took {true_s:.3f} s, and you say {took_s:g}: return seconds."
    if took_s < fate[0] * 0.9:
        return (
            f"the echo of ping {number} was on its way for {fate[0]:g} s, and you say "
            f"{took_s:.3f} s: what came first was the echo of another one. Compare what comes "
            "with what you sent."
        )
    if took_s > true_s + SLACK_S:
        return (
            f"ping {number} took {true_s:.3f} s, and you say {took_s:.3f} s: begin to count when "
            "this one is sent."
        )
    return None


# ---- a sender that notices

NOTICE_HINT = "which numbers have not come back when the time is over?"
MESSAGES = [b"message %d" % number for number in range(12)]
SENDINGS: dict[str, list[Sequence[float]]] = {
    "where all arrive": [[0.05]] * 12,
    "where three are lost": [LOST if number in (0, 4, 5) else [0.05] for number in range(12)],
    "where the last is lost": [*[[0.05]] * 11, LOST],
    "where answers overtake each other": [
        LOST if number == 7 else [0.15 - 0.01 * number] for number in range(12)
    ],
    "where each answer comes twice": [
        LOST if number in (2, 9) else [0.03, 0.06] for number in range(12)
    ],
    "where one answer takes its time": [[0.2] if number == 3 else [0.02] for number in range(12)],
    "on a dead line": [LOST] * 12,
}


@never_raises
def check_notices(send_and_notice: Callable[[Any, list[bytes]], list[int]]) -> Verdict:
    """Say whether `send_and_notice(stream, messages)` returns the numbers of what got lost."""
    if verdict := _checked("send_and_notice", send_and_notice, NOTICE_HINT):
        return verdict
    return _Trial("send_and_notice", send_and_notice, NOTICE_HINT).judge(_send_all)


def _send_all(trial: _Trial) -> Verdict:
    for where, fates in SENDINGS.items():
        end = _FarEnd(fates, lambda payload: payload.split(b" ")[0])
        if verdict := trial.why_not(where, end, (list(MESSAGES),), _why_not_noticed):
            return verdict
    if verdict := trial.why_not_told(
        _FarEnd([[0.01]] * 12, bytes, breaks_at=12), (list(MESSAGES),)
    ):
        return verdict
    return solved(f"{len(SENDINGS)} lines, and you know of each message that got lost there.")


def _why_not_noticed(result: Any, end: _FarEnd) -> str | None:
    wanted = [b"%d %s" % numbered for numbered in enumerate(MESSAGES)]
    if end.sent != wanted:
        return _why_not_sent(end.sent, wanted)
    if end.waited_s > ACKNOWLEDGED_WITHIN_S:
        return (
            f"before the last message left, you had waited for {end.waited_s:.2f} s. A sender that "
            "waits for each answer is slow: send all, then listen."
        )
    lost = [number for number, fate in enumerate(end.fates) if not fate]
    if result == lost and not any(isinstance(number, bool) for number in result):
        return None
    if result is None:
        return "nothing was returned: return the list of the numbers that got lost."
    return _why_not_these(result, lost)


def _why_not_sent(sent: list[bytes], wanted: list[bytes]) -> str:
    if (
        sent
        and len(sent) == len(set(wanted)) + len(sent) - len(set(sent))
        and set(sent) == set(wanted)
    ):
        return (
            f"{len(sent)} datagrams were sent for {len(wanted)} messages. It is asked to notice "
            "what was lost, not to send it again."
        )
    different = [pair for pair in zip(sent, wanted, strict=False) if pair[0] != pair[1]]
    if different:
        return f"you sent {shown(different[0][0])}, and {shown(different[0][1])} was asked."
    return f"{len(wanted)} messages are to be sent, and you sent {len(sent)}."


def _why_not_these(result: list[Any], lost: list[int]) -> str:
    odd = [entry for entry in result if not isinstance(entry, int) or isinstance(entry, bool)]
    if odd:
        return f"you return {shown(odd[0])}: the numbers of messages are asked, such as 3."
    if sorted(set(result)) == lost:
        return (
            f"you return {shown(result)}: each number once, and in order, which is {shown(lost)}."
        )
    if sorted(result) == [number for number in range(len(MESSAGES)) if number not in lost]:
        return f"you return {shown(result)}, those that came. The ones that got lost are asked."
    for number in result:
        if number not in lost:
            return (
                f"you say that message {number} got lost, and its answer came. Listen until "
                f"{ACKNOWLEDGED_WITHIN_S:g} s after the last was sent, and look at each answer for "
                "the number in it."
            )
    missed = next(number for number in lost if number not in result)
    return (
        f"message {missed} got lost, and you did not notice. An answer stands for the number in it "
        "alone: how many have come says nothing."
    )
