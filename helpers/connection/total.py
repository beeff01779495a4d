"""How much a server holds for all of its clients together, in both directions.

A stream may hold some of what was written to it, and some of what came and was not read; a server
has as many streams as its clients open. Ten clients with 127 downloads that nobody reads took 675
MB, and so did 127 uploads each that no handler reads. So there is a total for either direction, and
nobody waits for anybody else's reader.

What is written: above the total a stream takes small pieces alone, each when the one before has
arrived: it goes on as fast as its own client reads.

What is received: how much may come is promised beforehand (MAX_DATA, RFC 9000 section 4.1), so the
promises are what is counted. Each connection has a window of its own beyond what was read of it,
and goes on as fast as its own handlers read; what it is promised beyond that is of the total, and
where that is used up, it waits for its own handlers or for room. So a server has at most 64 MiB
unread, and 1 MiB for each connection.
"""

from typing import Protocol

from helpers.connection.aioquic_inside import CONNECTION_WINDOW_BYTES

# What was written and is not acknowledged, of all streams of all connections; and what may be
# unread of them, beyond the window that each connection has of its own.
TOTAL_LIMIT_BYTES = 64 * 1024 * 1024
SMALL_PIECE_BYTES = 16 * 1024
# Less credit is not worth a MAX_DATA frame.
CREDIT_STEP_BYTES = CONNECTION_WINDOW_BYTES // 4


class Holder(Protocol):
    """A connection, as it is counted."""

    def held_bytes(self) -> int: ...
    def credit_bytes(self) -> int: ...
    def flush(self, now: bool) -> None: ...


class Total:
    """What the connections of one server hold, none of it more than `limit_bytes` says.

    Of what is written it is an estimate until it matters: what is written is counted as it comes,
    what is acknowledged once there seems to be too much. What may be received is `credit`. All
    methods are called on the connections' loop.
    """

    def __init__(self, limit_bytes: int = TOTAL_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.credit = Credit(limit_bytes)
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
        self.credit.forget(holder)


class Credit:
    """What the peers of one server's connections may send ahead of what is read.

    What handlers read is counted when somebody needs it: who gets less credit than it asks for
    waits, and is flushed when there is more.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._borrowed_bytes = 0  # beyond each connection's own window
        self._by_holder: dict[Holder, int] = {}
        self._changed: set[Holder] = set()  # since they were last counted
        self._waiting: set[Holder] = set()

    def more(self, holder: Holder, size_bytes: int) -> int:
        """Return how much of that a connection's peer may send beyond what it may already."""
        self._count(holder)
        if self._room_for(holder) < size_bytes:
            for other in list(self._changed):
                self._count(other)
        granted_bytes = min(size_bytes, self._room_for(holder))
        if granted_bytes < min(size_bytes, CREDIT_STEP_BYTES):
            granted_bytes = 0
        self._set(holder, self._by_holder[holder] + granted_bytes)
        if granted_bytes < size_bytes:
            self._waiting.add(holder)
        else:
            self._waiting.discard(holder)
        return granted_bytes

    def may_have_less(self, holder: Holder) -> None:
        """Note that something was read; who waits for credit hears of it."""
        if holder in self._by_holder:
            self._changed.add(holder)
            if self._waiting:
                self._count(holder)
                self._tell()

    def forget(self, holder: Holder) -> None:
        """Count a connection no more, which has ended."""
        if holder in self._by_holder:
            self._set(holder, 0)
            del self._by_holder[holder]
            self._changed.discard(holder)
            self._waiting.discard(holder)
            self._tell()

    def _count(self, holder: Holder) -> None:
        self._changed.discard(holder)
        self._set(holder, holder.credit_bytes())

    def _set(self, holder: Holder, credit_bytes: int) -> None:
        self._borrowed_bytes -= _beyond_its_own(self._by_holder.get(holder, 0))
        self._borrowed_bytes += _beyond_its_own(credit_bytes)
        self._by_holder[holder] = credit_bytes

    def _room_for(self, holder: Holder) -> int:
        credit_bytes = self._by_holder[holder]
        others_bytes = self._borrowed_bytes - _beyond_its_own(credit_bytes)
        most_bytes = CONNECTION_WINDOW_BYTES + max(0, self.limit_bytes - others_bytes)
        return max(0, most_bytes - credit_bytes)

    def _tell(self) -> None:
        for holder in self._waiting:
            if self._room_for(holder) >= CREDIT_STEP_BYTES:
                holder.flush(now=False)


def _beyond_its_own(credit_bytes: int) -> int:
    return max(0, credit_bytes - CONNECTION_WINDOW_BYTES)
