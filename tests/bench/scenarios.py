"""What every server of the benchmark answers, and how a client checks it.

One application for all servers: each hands it the request's path, query and body, and its own way
to write and to flush. So all of them do the same work, in the same pieces.
"""

import asyncio
import json
import os
import random
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

BLOCK_BYTES = 64 * 1024
BLOCK = random.Random(9114).randbytes(BLOCK_BYTES)
TWO_BLOCKS = BLOCK * 2

# A small chunk: when it was written and when it was due, in ns, then filling up to this length.
STAMPS = struct.Struct("!QQ48x")
RECORD_BYTES = STAMPS.size

HOLD_AT_MOST_S = 60.0
PATHS = ("/hello", "/body", "/upload", "/ticks", "/burst", "/hold", "/usage")

Write = Callable[[bytes], Awaitable[None]]
Flush = Callable[[], Awaitable[None]]


def clock_ns() -> int:
    """Return the time in ns on a clock that all processes of this machine share."""
    return time.perf_counter_ns()


def blocks(size_bytes: int) -> Iterator[bytes]:
    """Yield a body of `size_bytes` in pieces of 64 KiB, the last one shorter."""
    for _ in range(size_bytes // BLOCK_BYTES):
        yield BLOCK
    if size_bytes % BLOCK_BYTES:
        yield BLOCK[: size_bytes % BLOCK_BYTES]


class BodyCheck:
    """Compares a body of `blocks` byte by byte as it arrives; counts it."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises ValueError where they are not what was sent."""
        for start in range(0, len(data), BLOCK_BYTES):
            piece = data[start : start + BLOCK_BYTES]
            offset = self.size_bytes % BLOCK_BYTES
            if piece != TWO_BLOCKS[offset : offset + len(piece)]:
                raise ValueError(f"the body differs after byte {self.size_bytes}")
            self.size_bytes += len(piece)


class Records:
    """Splits what arrives into records again.

    `arrived_ns` is when each one came, `delivery_ns` how long it was on its way, `late_ns` how long
    after it was due by the server's clockwork it came.
    """

    def __init__(self) -> None:
        self.arrived_ns: list[int] = []
        self.delivery_ns: list[int] = []
        self.late_ns: list[int] = []
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes, which have arrived now."""
        now_ns = clock_ns()
        data = self._rest + data
        whole = len(data) // RECORD_BYTES * RECORD_BYTES
        for written_ns, due_ns in STAMPS.iter_unpack(data[:whole]):
            self.arrived_ns.append(now_ns)
            self.delivery_ns.append(now_ns - written_ns)
            self.late_ns.append(now_ns - due_ns)
        self._rest = data[whole:]


def record(due_ns: int | None = None) -> bytes:
    """Return one record, stamped now; it is due now unless `due_ns` says otherwise."""
    now_ns = clock_ns()
    return STAMPS.pack(now_ns, due_ns or now_ns)


async def answer(
    path: str, query: dict[str, str], body: AsyncIterator[bytes], write: Write, flush: Flush
) -> None:
    """Answer one request; the server has sent, or will send, status 200."""
    match path:
        case "/hello":
            await write(record())
        case "/body":
            for block in blocks(int(query["size"])):
                await write(block)
        case "/upload":
            check = BodyCheck()
            async for chunk in body:
                check.feed(chunk)
            await write(str(check.size_bytes).encode())
        case "/ticks":
            await _ticks(int(query["count"]), float(query["interval_ms"]) / 1000, write, flush)
        case "/burst":
            for _ in range(int(query["count"])):
                await write(record())
                await flush()
        case "/hold":
            await write(record())
            await flush()
            await asyncio.sleep(HOLD_AT_MOST_S)
        case "/usage":
            usage = {"pid": os.getpid(), "cpu_s": time.process_time()}
            await write(json.dumps(usage).encode())
        case _:
            raise ValueError(f"no scenario is called {path}")


async def _ticks(count: int, interval_s: float, write: Write, flush: Flush) -> None:
    """Flush a record at fixed moments, so that a slow server falls behind instead of stretching."""
    start_ns = clock_ns()
    for number in range(count):
        due_ns = start_ns + int(number * interval_s * 1e9)
        await asyncio.sleep(max(0.0, (due_ns - clock_ns()) / 1e9))
        await write(record(due_ns))
        await flush()
