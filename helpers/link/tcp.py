"""The same line for TCP: a model of what a receiver sees, since no relay can drop a segment.

TCP hands out bytes in order, and there is one order for all of a connection. A segment that is lost
is sent again when its sender has noticed, which takes a round trip at least (RFC 9293 section
3.8.1, RFC 5681 section 3.2); all bytes behind it wait for it until then, whose ever they are. That
wait is what is modelled, and nothing else of TCP: no window, no rate, no timer that is later.
"""

import asyncio
import random
import socket
from collections.abc import Mapping

from helpers.clock import now_s
from helpers.link.between import Address, Between, Listening

SEGMENT_BYTES = 1448  # what an Ethernet frame has room for, with timestamps (RFC 7323)
SEGMENTS_ON_THE_WAY = 1024
# How often Linux sends a segment again before it gives up (tcp_retries2).
MAX_TRIES = 15


class Segments:
    """One direction of one connection: when the receiver may read what is sent now."""

    def __init__(self, conditions: Mapping[str, float], seed: str) -> None:
        self._conditions = conditions
        self._random = random.Random(seed).random
        self._last_arrival = 0.0

    def arrival(self, now: float) -> float:
        """Return when the segment that is sent now can be read, in seconds of the same clock."""
        delay_s = self._conditions["delay_ms"] / 1000
        arrival = now + delay_s
        for _ in range(MAX_TRIES):
            if self._random() >= self._conditions["loss"]:
                break
            arrival += 2 * delay_s
        self._last_arrival = max(arrival, self._last_arrival)
        return self._last_arrival


class TCPLink(Between):
    """A line for TCP, between clients and a server: a model, see above.

    Each way takes `delay_ms`; `loss` is the share of segments that has to be sent again. Both are
    attributes that may be set while it runs. Otherwise as `Link`.
    """

    kind = socket.SOCK_STREAM

    def __init__(
        self,
        server: Listening | tuple[str, int] | int,
        delay_ms: float = 50,
        loss: float = 0.0,
        seed: int = 1,
    ) -> None:
        super().__init__(server, seed)
        self.delay_ms = delay_ms
        self.loss = loss

    async def _open(self, family: int, address: Address) -> tuple["TCPRelay", int]:
        relay = TCPRelay(address, self._conditions, self.seed)
        return relay, await relay.bind()


class TCPRelay:
    """The sockets of a TCPLink, on the running loop."""

    def __init__(self, address: Address, conditions: Mapping[str, float], seed: int) -> None:
        self._address = address
        self._conditions = conditions
        self._seed = seed
        self._server: asyncio.Server | None = None
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def bind(self) -> int:
        """Listen on a free port of 127.0.0.1, and return it; raises OSError."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Listen no more; the connections end with their tasks, when the loop does."""
        if self._server is not None:
            self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of asyncio's own would complain that it was cancelled, when the loop ends.
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection in both directions until both have ended, or one has failed."""
        self._connections += 1
        seed = f"{self._seed} {self._connections}"
        ends = [writer]
        try:
            from_server, to_server = await asyncio.open_connection(*self._address[:2])
            ends.append(to_server)
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(reader, to_server, self._segments(f"{seed} up")))
                both.create_task(_carry(from_server, writer, self._segments(f"{seed} down")))
        except* OSError:
            pass  # the one end is gone, and the other is told below
        finally:
            for end in ends:
                end.transport.abort()

    def _segments(self, seed: str) -> Segments:
        return Segments(self._conditions, seed)


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, segments: Segments
) -> None:
    """Hand on what is read, each segment when it has arrived, and the end after the last."""
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(SEGMENTS_ON_THE_WAY)
    async with asyncio.TaskGroup() as both:
        both.create_task(_arrive(on_the_way, writer))
        while data := await reader.read(SEGMENT_BYTES):
            await on_the_way.put((segments.arrival(now_s()), data))
        await on_the_way.put((segments.arrival(now_s()), b""))


async def _arrive(
    on_the_way: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
) -> None:
    while True:
        arrival, data = await on_the_way.get()
        await asyncio.sleep(arrival - now_s())
        if not data:
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()
