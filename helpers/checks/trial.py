"""What was seen of one run of a handler, by its client and by its server, and in words.

These are the facts that a check judges by (run.py collects them). What may be wrong with every
answer is put into words here; what is wrong with one exercise's, in its check.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

import httpx2


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
    """(when, bytes), where the exercise did not read in its own way."""
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
        return stub or (empty and not self.handler_errors and not self.unseen_errors)

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
            error = self.handler_errors[-1]
            return f"The handler raised {type(error).__name__}: {error}"
        if self.ending is Ending.OPEN:
            return self._why_open()
        if self.ending is Ending.FAILED:
            return f"The client raised {type(self.client_error).__name__}: {self.client_error}"
        if self.status != 200:
            return f"The client got status {self.status}, not 200."
        return None

    def _why_open(self) -> str:
        got = f"{self.size_bytes} bytes"
        if not self.was_called:
            return (
                "The request did not come to the handler in time: this machine is too busy. Run "
                "the check again."
            )
        if self.returned_s is None:
            return (
                f"The handler does not return: the client has {got} and still waits after "
                "seconds. Something in the handler waits for what never comes."
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
            return f"The client got {len(received)} lines, not {len(lines)}."
        return None
