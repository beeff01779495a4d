"""What every server of the benchmark answers, and how a client checks it.

One application for all servers: each hands it the request's path, query and body, and its own way
to write and to flush. So all of them do the same work, in the same pieces.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

BLOCK_BYTES = 64 * 1024
BLOCK = random.Random(9114).randbytes(BLOCK_BYTES)
TWO_BLOCKS = BLOCK * 2

# A small chunk: the moment it was written, in ns, then filling up to this length.
RECORD_BYTES = 64
STAMP_BYTES = 8
FILLING = bytes(RECORD_BYTES - STAMP_BYTES)

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
    """Splits what arrives into records again; `late_ns` is how long each one was on its way."""

    def __init__(self) -> None:
        self.late_ns: list[int] = []
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes, which have arrived now."""
        now_ns = clock_ns()
        data = self._rest + data
        whole = len(data) // RECORD_BYTES * RECORD_BYTES
        for start in range(0, whole, RECORD_BYTES):
            stamp = int.from_bytes(data[start : start + STAMP_BYTES], "big")
            self.late_ns.append(now_ns - stamp)
        self._rest = data[whole:]


def record() -> bytes:
    """Return one record, stamped now."""
    return clock_ns().to_bytes(STAMP_BYTES, "big") + FILLING


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
    start_s = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, start_s + number * interval_s - time.perf_counter()))
        await write(record())
        await flush()
