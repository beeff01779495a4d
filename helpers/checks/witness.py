"""What went wrong inside an answer, also what it swallowed, lost in a task or forgot to await.

Whoever catches everything, or starts a task that nobody awaits, leaves a client with half a body
and no word why. So the thread that runs an answer is watched: Python tells each exception that
passes one of the answer's functions, and warns of each coroutine that was never awaited. A function
belongs to the answer if it has the same globals. Nothing here looks at the answer's source.
"""

import asyncio
import contextlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from opcode import opmap
from types import FrameType
from typing import Any

from helpers.checks.verdict import told

# How loops, generators and tasks end; none of them is an error.
ENDINGS = (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)
RAISE = opmap["RAISE_VARARGS"]
NEVER_AWAITED = re.compile(r"coroutine '(.+)' was never awaited")


@dataclass(frozen=True)
class Note:
    """One exception where it first came up in an answer; as text it is a sentence."""

    kind: type[BaseException]
    text: str
    where: str
    called: str
    """What the answer had called, such as `HTTP3Stream.write`; empty where it was its own line."""
    on_purpose: bool
    """Whether the answer raised it itself, with `raise`."""

    def __str__(self) -> str:
        return f"In {self.where}: {self.text.rstrip('.')}."


class Witness:
    """Watches the threads that run an answer, and notes what they do not tell."""

    def __init__(self, *functions: object) -> None:
        self._modules = [found for found in map(_globals_of, functions) if found is not None]
        # Held while it is watched: so no other error gets its id.
        self._seen: dict[int, BaseException] = {}
        self.notes: list[Note] = []
        self.never_awaited: list[str] = []

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Note inside the `with` block which coroutines are never awaited.

        Other warnings that come up meanwhile are about the answer too, and the verdict says more.
        """
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                yield
            finally:
                self._seen.clear()
        for warning in said:
            if found := NEVER_AWAITED.match(str(warning.message)):
                name = found[1].rpartition("<locals>.")[2]
                self.never_awaited.append(name)

    def watch(self) -> None:
        """Note the exceptions of this thread from now on, unless a debugger is at work here."""
        if self._modules and sys.gettrace() is None:
            sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not any(frame.f_globals is module for module in self._modules):
            return None
        frame.f_trace_lines = False
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "exception":
            _, error, traceback = argument
            if not isinstance(error, ENDINGS) and id(error) not in self._seen:
                self._seen[id(error)] = error
                self._note_missing_await(error)
                deeper = traceback.tb_next.tb_frame.f_code if traceback.tb_next else None
                called = deeper.co_qualname if deeper else ""
                where = f"`{frame.f_code.co_name}`, line {frame.f_lineno}"
                on_purpose = not called and frame.f_code.co_code[frame.f_lasti] == RAISE
                self.notes.append(Note(type(error), told(error), where, called, on_purpose))
        return self._on_event

    def _note_missing_await(self, error: BaseException) -> None:
        """Note a coroutine that was used in the place of its result: the error keeps it alive."""
        used = error.obj if isinstance(error, AttributeError) else None
        if inspect.iscoroutine(used) and inspect.getcoroutinestate(used) == inspect.CORO_CREATED:
            self.never_awaited.append(used.__qualname__.rpartition("<locals>.")[2])
            used.close()


def _globals_of(function: object) -> dict[str, Any] | None:
    """Return the globals of an answer's function; None for the checks' own, and for others."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    found = getattr(inspect.unwrap(function), "__globals__", None) if callable(function) else None
    if not isinstance(found, dict) or str(found.get("__name__")).startswith("helpers."):
        return None
    return found
