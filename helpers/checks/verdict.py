"""What a check says of an answer: not solved yet, wrong and why, or solved and what that showed."""

import textwrap
from dataclasses import dataclass
from enum import Enum

WIDTH = 96


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
        return "\n".join(textwrap.fill(line, WIDTH, break_long_words=False) for line in lines)


def unsolved(hint: str) -> Verdict:
    """Return the verdict on an answer that is still the stub, with a hint."""
    return Verdict(State.UNSOLVED, f"Hint: {hint}")


def wrong(why: str) -> Verdict:
    """Return the verdict on an answer that does not do what was asked, with the cause."""
    return Verdict(State.WRONG, why)


def solved(shown: str) -> Verdict:
    """Return the verdict on a right answer, with what it showed."""
    return Verdict(State.SOLVED, shown)
