"""One client process: `python -m tests.bench.workloads WORKLOAD CLIENT PORT CA_FILE PARAMETERS`.

PARAMETERS is JSON; the result is printed as JSON: the name of each figure and its value. A
workload is the same for every client, and raises where a byte is wrong or a chunk is missing.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil

from tests.bench.clients import KINDS, Client
from tests.bench.lifeline import end_with_stdin
from tests.bench.scenarios import BodyCheck, Records, blocks, clock_ns

MEGA = 1e6
KILO = 1e3
# In curl's write callback: take nothing more for now. The other clients have no such way.
CURL_WRITEFUNC_PAUSE = 0x10000001


class Target:
    """Which server to connect to, and with which client."""

    def __init__(self, kind: str, port: int, ca_file: str) -> None:
        self._connect = KINDS[kind]
        self._arguments = port, ca_file
        # Never closed: what is still open goes with this process, so no client is timed by how
        # it says goodbye.
        self._open = AsyncExitStack()

    async def connect(self) -> Client:
        """Return a client with a connection of its own."""
        return await self._open.enter_async_context(self._connect(*self._arguments))


async def download(target: Target, size_bytes: int) -> dict[str, float]:
    """Read one large body."""
    return {"mb_per_s": await _download(await _warm(target), size_bytes)}


async def upload(target: Target, size_bytes: int) -> dict[str, float]:
    """Send one large body, which the server checks, after reading one for comparison."""
    client = await _warm(target)
    download_mb_per_s = await _download(client, size_bytes)
    start_s = time.perf_counter()
    await _upload(client, size_bytes)
    return {
        "mb_per_s": size_bytes / (time.perf_counter() - start_s) / MEGA,
        "download_mb_per_s": download_mb_per_s,
    }


async def both(target: Target, size_bytes: int) -> dict[str, float]:
    """Send one large body and read another at the same time; both together count."""
    client = await _warm(target)
    download_mb_per_s = await _download(client, size_bytes)
    start_s = time.perf_counter()
    await asyncio.gather(_upload(client, size_bytes), _download(client, size_bytes))
    return {
        "mb_per_s": 2 * size_bytes / (time.perf_counter() - start_s) / MEGA,
        "download_mb_per_s": download_mb_per_s,
    }


async def ticks(target: Target, count: int, interval_ms: float) -> dict[str, float]:
    """Read small chunks, each flushed at its moment; how long each was on its way."""
    records = await _records(await _warm(target), "/ticks", count, interval_ms=interval_ms)
    delivery_us = [ns / 1e3 for ns in records.delivery_ns]
    quantiles = statistics.quantiles(delivery_us, n=100, method="inclusive")
    return {"p50_us": quantiles[49], "p99_us": quantiles[98]}


async def burst(target: Target, count: int) -> dict[str, float]:
    """Read small chunks that are flushed without a pause."""
    client = await _warm(target)
    async with _watch_server(client) as memory:
        start_s = time.perf_counter()
        await _records(client, "/burst", count)
        seconds = time.perf_counter() - start_s
    return {"chunks_per_s": count / seconds, "server_growth_mb": memory.growth_bytes / MEGA}


async def stalled(target: Target, size_bytes: int, wait_s: float) -> dict[str, float]:
    """Stop reading a large body at its first byte; how much the server's memory grows."""
    client = await _warm(target)
    async with _watch_server(client) as memory:
        reading = asyncio.create_task(
            client.get(f"/body?size={size_bytes}", lambda data: CURL_WRITEFUNC_PAUSE)
        )
        await asyncio.wait([reading], timeout=wait_s)
        if reading.done():
            raise ValueError(f"the body of {size_bytes} bytes was read, not paused")
    return {"server_growth_mb": memory.growth_bytes / MEGA}


async def requests(target: Target, count: int, at_once: int) -> dict[str, float]:
    """Send small requests on one connection, `at_once` of them at any moment."""
    client = await _warm(target)

    async def one_after_the_other() -> None:
        for _ in range(count // at_once):
            await _records(client, "/hello", 1)

    start_s = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return {"requests_per_s": count // at_once * at_once / (time.perf_counter() - start_s)}


async def connections(target: Target, count: int, streams_each: int) -> dict[str, float]:
    """Open connections at once, ten chunks at 100 ms on each of their streams.

    `worst_late_ms` is the longest that a chunk was waited for beyond its number times 100 ms, from
    when all set out; `worst_behind_ms` the longest from when the server's handler was to write it.
    """
    start_ns = clock_ns()
    records = await _connections(target, count, streams_each, "/ticks", 10, interval_ms=100)
    end_ns = max(each.arrived_ns[-1] for each in records)
    late_ns = (
        arrived_ns - start_ns - number * 100 * 10**6
        for each in records
        for number, arrived_ns in enumerate(each.arrived_ns)
    )
    return {
        "total_s": (end_ns - start_ns) / 1e9,
        "worst_late_ms": max(late_ns) / MEGA,
        "worst_behind_ms": max(max(each.late_ns) for each in records) / MEGA,
    }


async def streams(target: Target, count: int, streams_each: int) -> dict[str, float]:
    """Do what `connections` does; `floor_s` is what it takes at least.

    That is the second between the chunks, and the time for as many connections with one small
    request each.
    """
    start_s = time.perf_counter()
    await _connections(target, count, 1, "/hello", 1)
    handshakes_s = time.perf_counter() - start_s
    return await connections(target, count, streams_each) | {"floor_s": 1 + handshakes_s}


async def stream_cost(target: Target, steps: dict[str, int]) -> dict[str, float]:
    """Let more and more streams of one connection be open at once; processor time per stream.

    `steps` maps how many are open at once to how many there are in all. `growth` is the largest
    rise from one step to any later one, of the server's and the client's time together.
    """
    client = await _warm(target)
    costs_us: list[float] = []
    for at_once, streams in steps.items():
        before_s = await _cpu_s(client)
        for _ in range(streams // int(at_once)):
            await asyncio.gather(
                *(_records(client, "/ticks", 10, interval_ms=5) for _ in range(int(at_once)))
            )
        after_s = await _cpu_s(client)
        costs_us.append((after_s - before_s) / streams * MEGA)
    growth = max(
        later / earlier for index, earlier in enumerate(costs_us) for later in costs_us[index + 1 :]
    )
    figures = {f"us_per_stream_{step}": cost for step, cost in zip(steps, costs_us, strict=True)}
    return figures | {"growth": growth}


async def memory_connections(target: Target, count: int) -> dict[str, float]:
    """Open connections that stay idle after one small request; memory for each.

    A third of them come before, and fill what each process had allocated and not yet used.
    """
    server = await _server_process(await _warm(target))
    for _ in range(count // 3):
        await _warm(target)
    before = _rss_bytes(server)
    for _ in range(count):
        await _warm(target)
    return _memory_each(before, _rss_bytes(server), count)


async def memory_streams(target: Target, connections: int, streams: int) -> dict[str, float]:
    """Open streams that stay open after one chunk; memory for each.

    On several connections, since aioquic lets a client open 128 on one. As many come before, and
    fill what each process had allocated and not yet used.
    """
    clients = [await _warm(target) for _ in range(connections)]
    server = await _server_process(clients[0])
    tasks = [await _hold(client) for client in clients for _ in range(streams)]
    before = _rss_bytes(server)
    for client in clients:
        for _ in range(streams):
            tasks.append(await _hold(client))
    figures = _memory_each(before, _rss_bytes(server), connections * streams)
    if any(task.done() for task in tasks):
        raise ValueError("a stream ended that was to stay open")
    return figures


async def first_byte(target: Target, count: int) -> dict[str, float]:
    """Connect and ask, until the first byte of the body is there."""
    milliseconds: list[float] = []
    for _ in range(count):
        arrived_s: list[float] = []
        start_s = time.perf_counter()
        client = await target.connect()
        await client.get("/hello", lambda data, arrived=arrived_s: arrived.append(_now_s()))
        milliseconds.append((arrived_s[0] - start_s) * KILO)
    return {"cold_ms": milliseconds[0], "ms": statistics.median(milliseconds[1:])}


# ---- what they share


async def _warm(target: Target) -> Client:
    """A connection that has served one small request."""
    client = await target.connect()
    await _records(client, "/hello", 1)
    return client


async def _download(client: Client, size_bytes: int) -> float:
    check = BodyCheck()
    start_s = time.perf_counter()
    await client.get(f"/body?size={size_bytes}", check.feed)
    seconds = time.perf_counter() - start_s
    _expect("bytes", check.size_bytes, size_bytes)
    return size_bytes / seconds / MEGA


async def _upload(client: Client, size_bytes: int) -> None:
    answer: list[bytes] = []
    await client.post("/upload", blocks(size_bytes), answer.append)
    _expect("bytes", int(b"".join(answer)), size_bytes)


async def _records(client: Client, path: str, count: int, **query: float) -> Records:
    records = Records()
    parameters = "&".join(f"{name}={value}" for name, value in {"count": count, **query}.items())
    await client.get(f"{path}?{parameters}", records.feed)
    _expect("chunks", len(records.late_ns), count)
    return records


async def _connections(
    target: Target, count: int, streams_each: int, path: str, chunks: int, **query: float
) -> list[Records]:
    async def one_connection() -> list[Records]:
        client = await target.connect()
        return await asyncio.gather(
            *(_records(client, path, chunks, **query) for _ in range(streams_each))
        )

    connected = await asyncio.gather(*(one_connection() for _ in range(count)))
    return [records for each in connected for records in each]


async def _hold(client: Client) -> asyncio.Task:
    """A stream that has brought its first chunk and stays open."""
    arrived = asyncio.Event()
    hold = getattr(client, "hold", client.get)
    task = asyncio.create_task(hold("/hold", lambda data: arrived.set()))
    await asyncio.wait_for(arrived.wait(), 10)
    return task


async def _usage(client: Client) -> dict[str, float]:
    answer: list[bytes] = []
    await client.get("/usage", answer.append)
    return json.loads(b"".join(answer))


async def _server_process(client: Client) -> psutil.Process:
    return psutil.Process((await _usage(client))["pid"])


async def _cpu_s(client: Client) -> float:
    return (await _usage(client))["cpu_s"] + time.process_time()


def _rss_bytes(server: psutil.Process) -> tuple[int, int]:
    return server.memory_info().rss, psutil.Process().memory_info().rss


def _memory_each(before: tuple[int, int], after: tuple[int, int], count: int) -> dict[str, float]:
    server_kb, client_kb = ((b - a) / count / KILO for a, b in zip(before, after, strict=True))
    return {"server_kb": server_kb, "client_kb": client_kb}


class _Memory:
    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._before = process.memory_info().rss
        self.growth_bytes = 0

    def sample(self) -> None:
        growth_bytes = self._process.memory_info().rss - self._before
        self.growth_bytes = max(self.growth_bytes, growth_bytes)


@asynccontextmanager
async def _watch_server(client: Client) -> AsyncIterator[_Memory]:
    """The largest growth of the server's memory meanwhile."""
    memory = _Memory(await _server_process(client))

    async def watch() -> None:
        while True:
            memory.sample()
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    yield memory
    memory.sample()
    watching.cancel()


def _now_s() -> float:
    return time.perf_counter()


def _expect(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(f"{got} {what} arrived instead of {expected}")


WORKLOADS = {
    workload.__name__: workload
    for workload in (
        download, upload, both, ticks, burst, stalled, requests, connections, streams, stream_cost,
        memory_connections, memory_streams, first_byte,
    )
}  # fmt: skip


def main() -> None:
    """Run one workload; the process ends with it."""
    name, kind, port, ca_file, parameters = sys.argv[1:]
    target = Target(kind, int(port), ca_file)

    async def run() -> None:
        print(json.dumps(await WORKLOADS[name](target, **json.loads(parameters))), flush=True)
        os._exit(0)

    asyncio.run(run())


if __name__ == "__main__":
    end_with_stdin()
    main()
