"""The exercises on a real network: right answers are solved, wrong ones get the reason."""

import itertools
import math
import time

import httpx2
import pytest

from helpers.checks import check_line_length, check_player, check_resumed, unknown_line
from helpers.checks import real_network as checks
from helpers.checks.verdict import State
from helpers.link import Link

HINTS = {
    check_line_length: "what has to go there and back",
    check_resumed: "count the lines that you have",
    check_player: "piece n is wanted n * play_s after the start",
}


def unsolved(verdict, hint):
    return verdict.state is State.UNSOLVED and f"Hint: {hint}" in verdict.text


# ---- how long is this line?

LINE = Link(4433, delay_ms=70)


def test_an_unknown_line_differs_from_time_to_time():
    lengths = {unknown_line(4433).delay_ms for _ in range(20)}
    assert len(lengths) > 1
    assert all(65 <= length <= 80 for length in lengths)


@pytest.mark.parametrize("answer", [70, 57, 83.9, 70.0001])
def test_a_length_within_a_fifth_is_right(answer):
    verdict = check_line_length(answer, LINE)
    assert verdict.state is State.SOLVED
    assert f"You say {float(answer):.1f} ms each way, and the line takes 70.0 ms." in verdict.text


@pytest.mark.parametrize("stub", [None, ...])
def test_a_length_that_is_not_given_gets_a_hint(stub):
    assert unsolved(check_line_length(stub, LINE), HINTS[check_line_length])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (140, "a round trip. How long is one way?"),
        (143.2, "a round trip"),
        (280, "the first line was there. Until then, things went four times"),
        (290.5, "four times"),
        (210, "three times the way"),
        (50, "how fast the handler makes them"),
        (0.07, "is a number of seconds"),
        (0.14, "is a number of seconds"),
        (0.28, "is a number of seconds"),
        (100, "is longer than the line"),
        (35, "is shorter than the line"),
        (1000, "is longer than the line"),
        (0, "no line is as long as that"),
        (-70, "no line is as long as that"),
        (math.nan, "no line is as long as that"),
        (math.inf, "no line is as long as that"),
        ("70", "a number of milliseconds, not '70'"),
        ([70], "a number of milliseconds, not [70]"),
        (True, "a number of milliseconds, not True"),
        (len, "a number of milliseconds, not <built-in function len>"),
        (70j, "a number of milliseconds, not 70j"),
    ],
)
def test_a_wrong_length_gets_the_reason(answer, why):
    verdict = check_line_length(answer, LINE)
    assert verdict.state is State.WRONG
    assert why in verdict.text


def test_a_length_of_no_line_is_told():
    verdict = check_line_length(70, "the line")
    assert "the line that you measured, not 'the line'" in verdict.text


# ---- a stream over a dead line


def resumes(ask):
    lines = []
    while True:
        try:
            for line in ask(len(lines)):
                lines.append(line)
            return lines
        except httpx2.TransportError:
            continue


def resumes_by_itself(ask):
    def collect(lines):
        try:
            for line in ask(len(lines)):
                lines.append(line)
        except httpx2.TransportError:
            return collect(lines)
        return lines

    return collect([])


def waits_a_little(ask):
    lines = []
    while True:
        try:
            lines.extend(iter_of(ask, lines))
            return lines
        except httpx2.TransportError:
            time.sleep(0.001)


def iter_of(ask, lines):
    for line in ask(len(lines)):
        lines.append(line)
    return ()


@pytest.mark.parametrize("answer", [resumes, resumes_by_itself, waits_a_little])
def test_who_asks_for_the_rest_is_right(answer):
    verdict = check_resumed(answer)
    assert verdict.state is State.SOLVED, verdict
    assert verdict.text.startswith("All lines, each once")


def begins_anew(ask):
    while True:
        try:
            return list(ask(0))
        except httpx2.TransportError:
            pass


def counts_to_twenty(ask):
    lines = []
    while len(lines) < 20:
        try:
            for line in ask(len(lines)):
                lines.append(line)
        except httpx2.TransportError:
            pass
    return lines


def hides_its_mistake(ask):
    lines = []
    while True:
        try:
            for _ in ask(len(lines)):
                lines.append(lyne)  # noqa: F821 - that is it
            return lines
        except Exception:  # noqa: BLE001, S110 - and that
            pass


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (begins_anew, "asked for line 0 30 times, though it had some lines each time"),
        (counts_to_twenty, "Where the server has thirteen lines, `follow` asked 30 times"),
        (hides_its_mistake, "NameError: name 'lyne' is not defined"),
    ],
)
def test_what_works_by_chance_or_hides_its_mistake_is_told(answer, why):
    verdict = check_resumed(answer)
    assert verdict.state is State.WRONG
    assert why in verdict.text


def test_a_start_that_hides_its_mistake_or_never_comes_is_told(monkeypatch):
    def swallows(arrivals_s, play_s):
        try:
            return maxx(arrivals_s)  # noqa: F821 - that is it
        except Exception:  # noqa: BLE001 - and that
            return 0

    def hangs(arrivals_s, play_s):
        while True:
            pass

    monkeypatch.setattr(checks, "ANSWER_TIMEOUT_S", 1.0)
    assert "NameError: name 'maxx' is not defined" in check_player(swallows).text
    assert "`start_s` did not return within 1 s" in check_player(hangs).text


def nothing(ask):
    return None


@pytest.mark.parametrize("stub", [None, ..., nothing])
def test_who_has_not_begun_gets_a_hint(stub):
    assert unsolved(check_resumed(stub), HINTS[check_resumed])


def trusts(ask):
    return list(ask(0))


def gives_up(ask):
    lines = []
    try:
        for line in ask(0):
            lines.append(line)
    except httpx2.TransportError:
        pass
    return lines


def begins_anew(ask):
    lines = []
    while True:
        try:
            for line in ask(0):
                lines.append(line)
            return lines
        except httpx2.TransportError:
            continue


def skips_one(ask):
    lines = []
    while True:
        try:
            for line in ask(len(lines) + bool(lines)):
                lines.append(line)
            return lines
        except httpx2.TransportError:
            continue


def tries_twice(ask):
    lines = []
    for _ in range(2):
        try:
            for line in ask(len(lines)):
                lines.append(line)
            return lines
        except httpx2.TransportError:
            continue
    return lines


def never_leaves(ask):
    lines = []
    while True:
        try:
            for line in ask(len(lines)):
                lines.append(line)
        except httpx2.TransportError:
            continue


def asks_from_the_start_for_ever(ask):
    while True:
        list(ask(0))


def catches_all(ask):
    lines = []
    while True:
        try:
            for line in ask(len(lines)):
                lines.append(line)
            return lines
        except Exception:  # noqa: BLE001, S112 - one of the mistakes
            continue


def takes_all_for_an_end(ask):
    lines = []
    while True:
        try:
            for line in ask(len(lines)):
                lines.append(line)
            return lines
        except httpx2.TransportError:
            continue
        except Exception:  # noqa: BLE001 - one of the mistakes
            return lines


def catches_one_kind(ask):
    lines = []
    while True:
        try:
            for line in ask(len(lines)):
                lines.append(line)
            return lines
        except httpx2.ReadTimeout:
            continue


def forgets_what_came(ask):
    while True:
        lines = []
        try:
            for line in ask(len(lines)):
                lines.append(line)
            return lines[:3]
        except httpx2.TransportError:
            continue


def generates(ask):
    yield from ask(0)


def gives_text(ask):
    return "\n".join(resumes(ask))


def is_misspelt(ask):
    return lenght(ask)  # noqa: F821


def asks_for_text(ask):
    return list(ask("0"))


def asks_for_what_is_before(ask):
    return list(ask(-1))


def hangs(ask):
    while True:
        pass


def reverses(ask):
    return resumes(ask)[::-1]


def cuts(ask):
    return [line[:4] for line in resumes(ask)]


def exits(ask):
    raise SystemExit("done")


def wants_two(ask, more):
    return []


def changes_the_error(ask):
    try:
        return resumes(ask)
    except httpx2.HTTPStatusError:
        raise ValueError("no lines") from None


async def awaits(ask):
    return list(ask(0))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (trusts, "got through to the caller"),
        (gives_up, "returned 4 of 20 lines, as if that were all"),
        (begins_anew, "'line 0' came twice: you asked for [0, 0]"),
        (skips_one, "'line 4' is missing: you asked for [0, 5]"),
        (tries_twice, "as if that were all"),
        (never_leaves, "for line 20 at last. When the loop over the lines ends without an error"),
        (asks_from_the_start_for_ever, "from line 0 at last. Where nothing is raised"),
        (catches_all, "says 404, `follow` asked 30 times. That line is alive"),
        (takes_all_for_an_end, "says 404, `follow` returned 2 lines as if all were well"),
        (catches_one_kind, "ConnectTimeout: No HTTP/3 server answered got through"),
        (forgets_what_came, "returned 3 of 20 lines"),
        (generates, "return the list of all lines"),
        (gives_text, "return the list of all lines"),
        (is_misspelt, "NameError: name 'lenght' is not defined"),
        (asks_for_text, "the number of the first line to come, not '0'"),
        (asks_for_what_is_before, "not -1"),
        (hangs, "did not return within"),
        (reverses, "not in their order"),
        (cuts, "is missing"),
        (exits, "`follow` raised SystemExit: done"),
        (wants_two, "missing 1 required positional argument: 'more'"),
        (changes_the_error, "says 404, `follow` raised ValueError: no lines, not that"),
        (awaits, "write `def`, not `async def`"),
        (42, "a function that takes `ask`, not 42"),
        (["line 0"], "a function that takes `ask`, not ['line 0']"),
        (lambda ask: 7, "`follow` returned 7"),
        (lambda ask: [], "returned no line at all"),
    ],
)
def test_who_does_not_follow_gets_the_reason(answer, why, monkeypatch):
    if answer is hangs:
        monkeypatch.setattr(checks, "ANSWER_TIMEOUT_S", 0.2)
    verdict = check_resumed(answer)
    assert verdict.state is State.WRONG
    assert why in verdict.text


# ---- a buffer for a slow line


def start_s(arrivals_s, play_s):
    return max(arrival - number * play_s for number, arrival in enumerate(arrivals_s))


def start_s_step_by_step(arrivals_s, play_s):
    start, wanted = arrivals_s[0], arrivals_s[0]
    for arrival in arrivals_s:
        start += max(0, arrival - wanted)
        wanted = max(wanted, arrival) + play_s
    return start


@pytest.mark.parametrize("answer", [start_s, start_s_step_by_step])
def test_the_first_moment_without_a_stop_is_right(answer):
    verdict = check_player(answer)
    assert verdict.state is State.SOLVED, verdict


@pytest.mark.parametrize("stub", [None, ..., lambda arrivals_s, play_s: None])
def test_a_player_that_is_not_there_gets_a_hint(stub):
    assert unsolved(check_player(stub), HINTS[check_player])


async def later(arrivals_s, play_s):
    return 1.0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda a, p: a[0], "the film stops there. Begin later."),
        (lambda a, p: a[-1], "earlier. You wait for the last piece."),
        (lambda a, p: 0, "Piece 0 is wanted 0.000 s after the request and comes after 0.200 s"),
        (lambda a, p: 10, "No piece would be late if it began"),
        (lambda a, p: max(y - x for x, y in itertools.pairwise(a)), "the film stops there"),
        (lambda a, p: a[0] + a[-1] - len(a) * p, "You wait for the last piece"),
        (lambda a, p: a[-1] - len(a) * p, "the film stops there"),
        (lambda a, p: a[0] + p, "No piece would be late if it began 0.050 s earlier."),
        (lambda a, p: start_s(a, p) * 1000, "earlier"),
        (lambda a, p: str(start_s(a, p)), "return seconds"),
        (lambda a, p: [start_s(a, p)], "return seconds"),
        (lambda a, p: math.nan, "return seconds"),
        (lambda a, p: True, "return seconds"),
        (lambda a, p: a.sort(), "piece n is wanted"),
        (lambda a: 1, "TypeError"),
        (lambda a, p: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda a, p: sum(a) / len(a), "began 0.015 s earlier."),
        (lambda a, p: math.inf, "No piece would be late"),
        (later, "write `def`, not `async def`"),
        (0.5, "a function of two arguments, not 0.5"),
        ("start", "a function of two arguments, not 'start'"),
    ],
)
def test_another_moment_gets_the_reason(answer, why):
    verdict = check_player(answer)
    assert verdict.state is not State.SOLVED
    assert why in verdict.text


def test_a_check_raises_for_nothing():
    class Odd:
        def __call__(self, *_):
            raise self.__class__.error

        error = Exception("odd")

    for check in (check_resumed, check_player):
        assert "odd" in check(Odd()).text
