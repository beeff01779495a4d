"""What a check says of an answer: not solved yet, wrong and why, or solved and what that showed."""

import functools
import reprlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ParamSpec

WIDTH = 96
MAX_TEXT = 300

P = ParamSpec("P")


class State(Enum):
    """Where an exercise stands."""

    UNSOLVED = "Not solved yet"
    WRONG = "Not right yet"
    SOLVED = "Solved"


@dataclass(frozen=True)
class Verdict:
    """The result of a check; as the last line of a cell it shows its text.

    The same answer gives the same text, but for measured times, which have a decimal point.
    """

    state: State
    text: str

    def __repr__(self) -> str:
        # A message in a learner's own words may have lines of its own.
        lines = f"{self.state.value}. {self.text}".splitlines()
        # Paths stay whole.
        fill = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
        return "\n".join(fill(line, WIDTH) for line in lines)


def never_raises(check: Callable[P, Verdict]) -> Callable[P, Verdict]:
    """Make a check that says what happened where it cannot judge an answer at all."""

    @functools.wraps(check)
    def judge(*args: P.args, **kwargs: P.kwargs) -> Verdict:
        try:
            return check(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - an answer may be anything
            return wrong(
                f"The check came to no result: {told(error)}. If that says nothing of your "
                "answer, run the notebook's first cells again, and then this one."
            )

    return judge


def told(error: BaseException | None) -> str:
    """Return an error as Python's last line would have it, whatever its own text does."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - an answer's exception may be as broken as it likes
        text = ""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}..."
    return f"{name}: {text}" if text else name


def shown(answer: object) -> str:
    """Return an answer as a verdict quotes it: in one line, and not longer than one."""
    try:
        return _quotes.repr(answer)
    except Exception:  # noqa: BLE001 - a number of 5000 digits, or a text that cannot be made
        return f"a {type(answer).__name__} that cannot be shown"


_quotes = reprlib.Repr()
_quotes.maxstring = _quotes.maxother = 60


def unsolved(hint: str) -> Verdict:
    """Return the verdict on an answer that is still the stub, with a hint."""
    return Verdict(State.UNSOLVED, f"Hint: {hint}")


def wrong(why: str) -> Verdict:
    """Return the verdict on an answer that does not do what was asked, with the cause."""
    return Verdict(State.WRONG, why)


def solved(shown: str) -> Verdict:
    """Return the verdict on a right answer, with what it showed."""
    return Verdict(State.SOLVED, shown)
