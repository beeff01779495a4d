"""How much a server holds for all of its clients together.

A stream may hold some of what was written to it, and a server has as many streams as its clients
open: ten clients with 127 downloads that nobody reads took 675 MB. So there is a total. Above it a
stream takes small pieces alone, each when the one before has arrived: it goes on as fast as its own
client reads, and waits for nobody else's.
"""

from typing import Protocol

# What was written and is not acknowledged, of all streams of all connections.
TOTAL_LIMIT_BYTES = 64 * 1024 * 1024
SMALL_PIECE_BYTES = 16 * 1024


class Holder(Protocol):
    """A connection, as it is counted."""

    def held_bytes(self) -> int: ...


class Total:
    """What the connections of one server hold, none of it more than `limit_bytes` says.

    It is an estimate until it matters: what is written is counted as it comes, what is acknowledged
    once there seems to be too much. All methods are called on the connections' loop.
    """

    def __init__(self, limit_bytes: int = TOTAL_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._bytes = 0
        self._by_holder: dict[Holder, int] = {}
        self._changed: set[Holder] = set()  # since they were last counted

    def add(self, holder: Holder, size_bytes: int) -> None:
        """Count what was written."""
        self._bytes += size_bytes
        self._by_holder[holder] = self._by_holder.get(holder, 0) + size_bytes
        self._changed.add(holder)

    def may_have_less(self, holder: Holder) -> None:
        """Note that something of what was written may have been acknowledged."""
        if holder in self._by_holder:
            self._changed.add(holder)

    def is_exceeded(self) -> bool:
        """Return whether more is held than may be."""
        if self._bytes > self.limit_bytes:
            for holder in self._changed:
                held_bytes = holder.held_bytes()
                self._bytes += held_bytes - self._by_holder[holder]
                self._by_holder[holder] = held_bytes
            self._changed.clear()
        return self._bytes > self.limit_bytes

    def forget(self, holder: Holder) -> None:
        """Count a connection no more, which has ended."""
        self._bytes -= self._by_holder.pop(holder, 0)
        self._changed.discard(holder)
