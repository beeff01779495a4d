"""What was seen of one run of a handler, by its client and by its server, and in words.

These are the facts that a check judges by (run.py collects them). What may be wrong with every
answer is put into words here; what is wrong with one exercise's, in its check.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

import httpx2

from helpers.checks.verdict import Verdict, solved, told, wrong
from helpers.checks.witness import Note
from helpers.errors import ClientDisconnected


class Ending(Enum):
    """How a response ended for its client."""

    COMPLETE = "the body ended"
    FAILED = "the client got an error"
    OPEN = "nothing more came"
    TOO_LONG = "the body did not end"


@dataclass
class Trial:
    """What was seen of one run; times are seconds since the request was sent."""

    ending: Ending = Ending.OPEN
    status: int | None = None
    headers: httpx2.Headers = field(default_factory=httpx2.Headers)
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    """(when, bytes), up to a mebibyte."""
    size_bytes: int = 0
    ended_s: float = math.inf
    """When the client had the end or an error; infinite where nothing more came."""
    returned_s: float | None = None
    """When the handler returned or raised; None where it never did."""
    client_error: BaseException | None = None
    handler_errors: list[BaseException] = field(default_factory=list)
    unseen_errors: list[BaseException] = field(default_factory=list)
    """Of tasks that ended with an exception which nobody took notice of."""
    was_called: bool = True
    """Whether the request came to the handler."""
    blocked: bool = False
    """Whether the server's loop stood still for most of the time."""
    took_over: bool = False
    """Whether the stream was taken over."""
    notes: list[Note] = field(default_factory=list)
    """Of exceptions that came up in the answer, caught or not."""
    never_awaited: list[str] = field(default_factory=list)
    """The coroutines that the answer made and never awaited, by name."""
    own_s: float = 0.0
    """How long the reader was busy with itself, rather than waiting for the next piece."""
    result: object = None
    """What `read` returned."""

    @property
    def body(self) -> bytes:
        """Return all bytes that the client received."""
        return b"".join(chunk for _, chunk in self.chunks)

    @property
    def did_nothing(self) -> bool:
        """Whether the handler did what a stub does: nothing."""
        stub = any(isinstance(error, NotImplementedError) for error in self.handler_errors)
        empty = self.ending is Ending.COMPLETE and self.status == 200 and not self.size_bytes
        silent = not (self.notes or self.never_awaited or self.handler_errors or self.unseen_errors)
        return stub or (empty and silent and self.result is None)

    def verdict(self, why: str | None, shown: str = "") -> Verdict:
        """Return what to say of the answer: `why` it is wrong, or what it has `shown`.

        Either way it also tells what went wrong inside the answer and came to nobody's ears.
        """
        if self.never_awaited:
            never = [f"`{name}`" for name in dict.fromkeys(self.never_awaited)]
            were = "were" if len(never) > 1 else "was"
            return wrong(
                f"{', '.join(never)} {were} called and never awaited, so nothing of it was done: "
                "write `await` in front of the call, or let a task run it."
            )
        errors = [note for note in self.notes if note.kind is not ClientDisconnected]
        if why is None:
            mistakes = [note for note in errors if not note.on_purpose]
            more = f" (You have caught one thing. {mistakes[0]})" if mistakes else ""
            return solved(shown + more)
        if errors and errors[0].text not in why:
            why = f"{errors[0]} {why}"
        return wrong(why)

    def crash(self) -> Note | None:
        """Return the first exception that the answer did not raise on purpose, or None."""
        for note in self.notes:
            if not note.on_purpose and note.kind is not ClientDisconnected:
                return note
        return None

    def trouble(self) -> str | None:
        """Return what went wrong in a way that is no matter of the exercise, or None."""
        if self.ending is Ending.TOO_LONG:
            mebibytes = self.size_bytes // 2**20
            return f"The handler writes without end: the client left after {mebibytes} MiB."
        if self.blocked:
            return (
                "The handler blocks the server's loop: while it does, nobody else is answered. "
                "Wait with `await asyncio.sleep(...)`, not with time.sleep, and give a loop "
                "without end something to await."
            )
        if self.handler_errors:
            return f"The handler raised {told(self.handler_errors[-1])}"
        if self.unseen_errors:
            return f"A task of the handler raised {told(self.unseen_errors[-1])}"
        if self.ending is Ending.OPEN:
            return self._why_open()
        if self.ending is Ending.FAILED:
            return f"The client raised {told(self.client_error)}"
        if self.status != 200:
            return f"The client got status {self.status}, not 200."
        return None

    def _why_open(self) -> str:
        got = f"{self.size_bytes} bytes"
        if not self.was_called:
            return (
                "The request did not come to the handler in time: this machine is too busy, or an "
                "earlier answer still blocks. Run the check again."
            )
        if self.returned_s is None:
            return (
                f"The handler has not returned after seconds: the client has {got} and still "
                "waits. It takes longer than a check does, has a loop without end, or waits for "
                "what never comes."
            )
        return (
            f"The handler has returned, but the client has {got} and still waits for the end. "
            "Nobody closed the stream that was taken over."
        )

    def differs_from(self, lines: list[str]) -> str | None:
        """Return the first difference between the body and these lines, or None."""
        received = self.body.decode(errors="backslashreplace").splitlines(keepends=True)
        for number, (found, wanted) in enumerate(zip(received, lines, strict=False)):
            if found != wanted:
                return f"Line {number} is {found!r}, and should be {wanted!r}."
        if len(received) != len(lines):
            some = "1 line" if len(received) == 1 else f"{len(received)} lines"
            return f"The client got {some}, not {len(lines)}."
        return None
