"""The clients of the soak: `python -m tests.soak_clients URL CA_FILE SEED`, one process of them.

It takes words from standard input, one a line: `go`, `rest` (which ends when all is quiet),
`report`, `end`; and answers each with a line of JSON. What it does in between is a row of
scenarios, picked by a seeded die; each compares every byte.
"""

import asyncio
import contextlib
import ctypes
import gc
import hashlib
import random
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field

import httpx2

from helpers.client import AsyncHTTP3Transport, HTTP3Transport
from helpers.errors import UsageError
from helpers.stream import HTTP3Stream
from tests.peers import MB, say

WORKERS = 8
TIMEOUT_S = 45.0  # a busy machine is no error, a stream that hangs is one
MAX_ERRORS = 20
MAX_BODY_BYTES = 2 * MB
PIECE_BYTES = 50_000

# What all bodies are cut from: a byte that is lost, doubled or moved does not stay unseen.
BLOCK = random.Random(1).randbytes(4 * MB)


class Wrong(Exception):
    """What came is not what should have come."""


@dataclass
class Body:
    """A part of the block, and where it is to be had."""

    offset: int
    size: int

    @property
    def data(self):
        return BLOCK[self.offset : self.offset + self.size]

    @property
    def query(self):
        return f"?offset={self.offset}&size={self.size}"

    def check(self, received, whole=True):
        if received != (self.data if whole else self.data[: len(received)]):
            raise Wrong(f"{len(received)} bytes that are not those of {self}")

    async def pieces(self):
        for at in range(0, self.size, PIECE_BYTES):
            yield self.data[at : at + PIECE_BYTES]


@dataclass
class Worker:
    """What a scenario needs: the clients, the die, and where it counts its bytes."""

    url: str
    ca_file: str
    transport: AsyncHTTP3Transport
    client: httpx2.AsyncClient
    blocking: httpx2.Client
    rng: random.Random
    moved: Counter = field(default_factory=Counter)

    def body(self):
        """A new body: many small ones, few large ones."""
        size = int(MAX_BODY_BYTES ** self.rng.random())
        return Body(self.rng.randrange(len(BLOCK) - size), size)

    async def read(self, response, body, chunks=None, pause_s=0.0):
        """Read so many chunks of a response, all by default; compare, and count."""
        received = b""
        async for chunk in response.aiter_raw():
            received += chunk
            if chunks is not None and (chunks := chunks - 1) <= 0:
                break
            if pause_s:
                await asyncio.sleep(pause_s)
        self.moved["down"] += len(received)
        body.check(received, whole=chunks is None)
        return received


async def download(worker):
    body = worker.body()
    async with worker.client.stream("GET", f"{worker.url}/content{body.query}") as response:
        await worker.read(response, body)


async def download_a_stream_taken_over(worker):
    body = worker.body()
    async with worker.client.stream("GET", f"{worker.url}/taken{body.query}") as response:
        await worker.read(response, body)


async def read_slowly(worker):
    body = worker.body()
    async with worker.client.stream("GET", f"{worker.url}/content{body.query}") as response:
        await worker.read(response, body, pause_s=worker.rng.random() * 0.02)


async def leave_early(worker):
    body = worker.body()
    async with worker.client.stream("GET", f"{worker.url}/content{body.query}") as response:
        await worker.read(response, body, chunks=worker.rng.randrange(1, 10))


async def leave_before_the_answer(worker):
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(worker.client.get(worker.url + "/waits"), worker.rng.random() / 20)


async def read_in_a_thread(worker):
    body = worker.body()

    def read():
        with worker.blocking.stream("GET", f"{worker.url}/content{body.query}") as response:
            body.check(b"".join(response.iter_raw()))

    await asyncio.to_thread(read)
    worker.moved["down"] += body.size


async def upload(worker):
    body = worker.body()
    answer = await worker.client.post(worker.url + "/digest", content=body.pieces())
    worker.moved["up"] += body.size
    if answer.text != hashlib.sha256(body.data).hexdigest():
        raise Wrong(f"another digest for {body}")


async def break_off_an_upload(worker):
    body = worker.body()

    async def pieces():
        async for piece in body.pieces():
            yield piece
            if worker.rng.random() < 0.3:
                break
        raise EOFError

    with contextlib.suppress(EOFError):
        await worker.client.post(worker.url + "/digest", content=pieces())


async def echo(worker):
    body = worker.body()
    post = worker.client.stream("POST", worker.url + "/echo", content=body.pieces())
    async with post as response:
        await worker.read(response, body)
    worker.moved["up"] += body.size


async def be_reset(worker):
    body = worker.body()
    query = f"{body.query}&breaks_at={worker.rng.randrange(body.size + 1)}"
    received = []
    try:
        async with worker.client.stream("GET", f"{worker.url}/content{query}") as response:
            async for chunk in response.aiter_raw():
                received.append(chunk)
    except httpx2.RemoteProtocolError:
        body.check(b"".join(received), whole=False)
    else:
        # The last piece may have been written before the point where it breaks.
        body.check(b"".join(received))


async def reset(worker):
    """What comes back is not read, so a long body has to wait until the other half is stopped."""
    stream = await worker.transport.open_stream("POST", worker.url + "/echo")
    try:
        async with asyncio.timeout(worker.rng.random() / 10):
            await stream.write(worker.body().data)
        worker.rng.choice((stream.reset, stream.stop, stream.cancel))()
        await asyncio.sleep(0)
    except TimeoutError:
        stream.stop()
    finally:
        stream.cancel()


async def exchange_datagrams(worker):
    """They may be lost; those that come are those that were sent."""
    sent = [b"datagram %d" % number for number in range(5)]
    url = f"{worker.url}/datagrams?count={len(sent)}"
    stream = await worker.transport.open_stream("GET", url)
    try:
        for payload in sent:
            await stream.send_datagram(payload)
        # UsageError: the end of the stream overtook the last ones.
        with contextlib.suppress(TimeoutError, UsageError):
            async with asyncio.timeout(1):
                for _ in sent:
                    if (payload := await stream.receive_datagram()) not in sent:
                        raise Wrong(f"datagram {payload!r}")
    finally:
        stream.cancel()


async def come_and_go(worker):
    transport = AsyncHTTP3Transport(ca_file=worker.ca_file, connect_timeout_s=TIMEOUT_S)
    async with httpx2.AsyncClient(transport=transport, timeout=TIMEOUT_S) as client:
        body = worker.body()
        body.check((await client.get(f"{worker.url}/content{body.query}")).content)


SCENARIOS = {
    download: 4,
    download_a_stream_taken_over: 2,
    read_slowly: 2,
    leave_early: 3,
    leave_before_the_answer: 2,
    read_in_a_thread: 2,
    upload: 3,
    break_off_an_upload: 1,
    echo: 2,
    be_reset: 2,
    reset: 2,
    exchange_datagrams: 1,
    come_and_go: 1,
}


def give_memory_back():
    """Let the system have what is free, so that memory is what is held, and not what once was."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl has no such thing
            ctypes.CDLL(None).malloc_trim(0)


class Load:
    """The workers of this process: they work, rest, and say what they have done."""

    def __init__(self):
        self._allowed = asyncio.Event()
        self._all_rest = asyncio.Event()
        self._busy = 0
        self.done = Counter()
        self.errors = []

    async def work(self, worker):
        while True:
            await self._allowed.wait()
            self._busy += 1
            (scenario,) = worker.rng.choices(list(SCENARIOS), SCENARIOS.values())
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await scenario(worker)
                self.done[scenario.__name__] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the soak has found it
                self.errors.append(f"{scenario.__name__}: {error!r}")
                del self.errors[MAX_ERRORS:]
            finally:
                self._busy -= 1
                if not self._busy:
                    self._all_rest.set()

    def go(self):
        self._all_rest.clear()
        self._allowed.set()

    async def rest(self):
        self._allowed.clear()
        if self._busy:
            await self._all_rest.wait()
        await asyncio.sleep(0.5)  # what was cancelled ends
        give_memory_back()


def facts(load, workers):
    moved = sum((worker.moved for worker in workers), Counter())
    return {
        "requests": load.done.total(),
        "moved_mb": moved.total() / MB,
        "errors": load.errors,
        "tasks": len(asyncio.all_tasks()),
        "streams": sum(isinstance(thing, HTTP3Stream) for thing in gc.get_objects()),
    }


async def main(url, ca_file, seed):
    loop, words = asyncio.get_running_loop(), asyncio.Queue()

    def listen():
        for line in sys.stdin:
            loop.call_soon_threadsafe(words.put_nowait, line.strip())
        loop.call_soon_threadsafe(words.put_nowait, "end")

    threading.Thread(target=listen, daemon=True).start()
    word = await words.get()  # where all was over before it began, the CA file has gone too
    if word == "end":
        return
    load = Load()
    transport = AsyncHTTP3Transport(ca_file=ca_file, connect_timeout_s=TIMEOUT_S)
    blocking = httpx2.Client(
        transport=HTTP3Transport(ca_file=ca_file, connect_timeout_s=TIMEOUT_S), timeout=TIMEOUT_S
    )
    async with httpx2.AsyncClient(transport=transport, timeout=TIMEOUT_S) as client:
        workers = [
            Worker(url, ca_file, transport, client, blocking, random.Random(f"{seed} {number}"))
            for number in range(WORKERS)
        ]
        tasks = [asyncio.create_task(load.work(worker)) for worker in workers]
        while word != "end":
            if word == "go":
                load.go()
            elif word == "rest":
                await load.rest()
            say(**facts(load, workers))
            word = await words.get()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await asyncio.to_thread(blocking.close)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
