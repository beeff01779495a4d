"""A clock that QUIC can rely on, on every system.

asyncio's loops go by time.monotonic, which moves in steps of 15.6 ms on Windows up to Python 3.12.
aioquic spaces its packets over the round trip, far below 1 ms on loopback: while the time that it
is told stands still, it sends no more than it may at one moment, and what a reset then finds unsent
is lost. time.perf_counter is fine everywhere.
"""

import asyncio
import time
from collections.abc import Callable

now_s = time.perf_counter
"""The time in seconds that aioquic is told; only differences mean anything."""


class FineLoop(asyncio.SelectorEventLoop):
    """An event loop that goes by this clock, so that timers fire when they are due.

    A selector loop on every system: the sockets are drained in bursts (see connection/udp.py),
    which the proactor loop that Windows prefers does not offer.
    """

    def __init__(self) -> None:
        super().__init__()
        # asyncio takes a timer for due that is this close, and knows of time.monotonic alone.
        self._clock_resolution = time.get_clock_info("perf_counter").resolution

    def time(self) -> float:
        """Return the loop's time in seconds."""
        return now_s()


class Alarm:
    """Calls a function at a moment of this clock, on a loop that may go by a coarser one.

    It may be early, by a step of the loop's clock: who is called looks at the time again. All
    methods are called on the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def set(self, due_s: float, function: Callable[[], None]) -> None:
        """Call `function` at `due_s`, unless the alarm is set already for an earlier moment.

        Who moves a deadline back with each packet is called too early, and sets it again: that is
        cheaper than moving it.
        """
        if self._handle is not None:
            if self._due_s <= due_s:
                return
            self._handle.cancel()
        self._due_s = due_s
        self._handle = self._loop.call_later(due_s - now_s(), self._fire, function)

    def cancel(self) -> None:
        """Call nothing any more; twice is harmless."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self, function: Callable[[], None]) -> None:
        self._handle = None
        function()
