"""One direction of a line, without any I/O: what happens to each datagram, and when it arrives.

A datagram waits in front of the line while those before it are put on it (rate and queue), then
travels (delay and jitter), and something may happen to it on the way (loss, reorder, duplicate).
"""

import heapq
import itertools
import random
from collections.abc import Mapping
from typing import Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")
Fate = Literal["delivered", "lost", "late", "doubled", "too long"]

# Who is late is so at least; without distance nobody else would overtake it.
LATE_S = 0.01
# What a line without a rate holds at most: a second of half a gigabit. No sender may fill memory.
MAX_ON_THE_WAY_BYTES = 64 * 1024 * 1024


class Datagram(NamedTuple):
    """One datagram that came to a link: when, in which direction, how long, and its fate.

    `time_s` is in seconds since the link started; `direction` is "up" to the server or "down" to
    the client; `fate` is "delivered", "lost", "late" (others overtook it), "doubled", or "too long"
    for the line.
    """

    time_s: float
    direction: Literal["up", "down"]
    size_bytes: int
    fate: Fate


class Line(Generic[T]):
    """One direction of a line: `enter` at one end, `leave` at the other, in seconds of any clock.

    `conditions` are those of `Link`, by name; they are looked up for each datagram. The same seed
    gives the n-th datagram the same fate, whatever the conditions were for those before it.
    """

    def __init__(self, conditions: Mapping[str, float], seed: str) -> None:
        self._conditions = conditions
        self._random = random.Random(seed).random
        self._is_cut = False
        self._free_at = 0.0  # when the last datagram that came has been put on the line
        self._last_arrival = 0.0  # of those in order
        self._on_the_way: list[tuple[float, int, T, int]] = []
        self._size_bytes = 0
        self._order = itertools.count()

    def enter(self, thing: T, size_bytes: int, now: float) -> Fate:
        """Put a thing of so many bytes on the line; return what becomes of it."""
        conditions = self._conditions
        # All four for each, so that nothing but its number decides what a datagram draws.
        loss, reorder, duplicate, jitter = (self._random() for _ in range(4))
        waits_s = max(0.0, self._free_at - now)
        if (
            self._is_cut
            or waits_s * 1000 > conditions["queue_ms"]
            or self._size_bytes + size_bytes > MAX_ON_THE_WAY_BYTES
        ):
            return "lost"
        self._free_at = now + waits_s + size_bytes * 8 / (conditions["rate_mbit"] * 1e6)
        if loss < conditions["loss"]:
            return "lost"
        delay_s = conditions["delay_ms"] / 1000
        arrival = self._free_at + delay_s + jitter * conditions["jitter_ms"] / 1000
        if reorder < conditions["reorder"]:
            self._travel(thing, size_bytes, arrival + max(delay_s, LATE_S))
            return "late"
        # A line keeps the order also where its delay has just become shorter.
        self._last_arrival = max(arrival, self._last_arrival)
        self._travel(thing, size_bytes, self._last_arrival)
        if duplicate < conditions["duplicate"]:
            self._travel(thing, size_bytes, self._last_arrival)
            return "doubled"
        return "delivered"

    def _travel(self, thing: T, size_bytes: int, arrival: float) -> None:
        heapq.heappush(self._on_the_way, (arrival, next(self._order), thing, size_bytes))
        self._size_bytes += size_bytes

    def leave(self, now: float) -> list[T]:
        """Return what has arrived by now, in order of arrival."""
        arrived = []
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, _, thing, size_bytes = heapq.heappop(self._on_the_way)
            self._size_bytes -= size_bytes
            arrived.append(thing)
        return arrived

    def next_arrival(self) -> float | None:
        """Return when the next thing arrives, None where nothing is on the way."""
        return self._on_the_way[0][0] if self._on_the_way else None

    def cut(self) -> None:
        """From now on, lose all that enters; what is on the way arrives."""
        self._is_cut = True

    def mend(self) -> None:
        """End what `cut` began."""
        self._is_cut = False
