"""What a server holds for all of its clients together is bounded, and nobody waits for another.

In memory first, with a total that two connections share; then with the real one, in a process of
its own.
"""

import asyncio

import pytest

from helpers.connection import Total
from helpers.connection.total import SMALL_PIECE_BYTES, TOTAL_LIMIT_BYTES
from helpers.stream import MAX_DATA_FRAME_BYTES
from tests.pair import Pair
from tests.peers import MB, PIECE, Growth, Peer, has_settled

LIMIT_BYTES = 1024 * 1024
STREAMS = 40
CLIENTS, DOWNLOADS = 10, 127
QUIET_S = 1.0
# What else a stream costs: its state at both layers, its handler and the piece that this writes.
STREAM_BYTES = 40_000 + len(PIECE)

pytestmark = pytest.mark.anyio


class Writers:
    """Handlers that write as much as they may, by stream."""

    def __init__(self):
        self.tasks = {}

    def start(self, stream, piece):
        self.tasks[stream] = asyncio.create_task(self._write(stream, piece))

    async def _write(self, stream, piece):
        while True:
            await stream.write(piece)

    async def end(self):
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


@pytest.fixture
async def writers():
    writers = Writers()
    yield writers
    await writers.end()


@pytest.fixture
def pairs(credentials):
    total = Total(LIMIT_BYTES)
    return [Pair(credentials, total=total).connect() for _ in range(2)]


def new_stream(pair):
    """Both ends of a stream, whose server's end has sent its header."""
    ours, theirs = pair.streams()
    theirs.sending.write_header([(b":status", b"200")])
    return ours, theirs


def held_bytes(pairs):
    return sum(pair.server.held_bytes() for pair in pairs)


async def stall(pair, writers, streams, piece_bytes):
    """Write on so many streams to a client that hears nothing any more."""
    theirs = [new_stream(pair)[1] for _ in range(streams)]
    pair.drops = lambda is_from_client, data: not is_from_client
    for stream in theirs:
        writers.start(stream, bytes(piece_bytes))
    await pair.run(0.1)


@pytest.mark.parametrize("piece_bytes", [10_000, 100_000, 3_000_000])
async def test_what_all_connections_hold_is_bounded(pairs, writers, piece_bytes):
    for pair in pairs:
        await stall(pair, writers, STREAMS, piece_bytes)
    most_bytes = LIMIT_BYTES + MAX_DATA_FRAME_BYTES + 2 * STREAMS * 2 * SMALL_PIECE_BYTES
    assert LIMIT_BYTES < held_bytes(pairs) <= most_bytes < STREAMS * MAX_DATA_FRAME_BYTES
    assert not any(writing.done() for writing in writers.tasks.values())


async def test_who_reads_goes_on_beside_those_who_do_not(pairs, writers):
    stalled, reading = pairs
    await stall(stalled, writers, STREAMS, 100_000)
    assert held_bytes(pairs) > LIMIT_BYTES
    ours, theirs = new_stream(reading)
    writers.start(theirs, bytes(100_000))
    read_bytes = 0
    while read_bytes < 1_000_000:
        read_bytes += sum(map(len, await reading.soon(ours.receive())))
        assert reading.server.piece_bytes() == SMALL_PIECE_BYTES
    # And with large pieces when those have left.
    stalled.server.abandon("its client is gone")
    assert reading.server.piece_bytes() == MAX_DATA_FRAME_BYTES


async def test_what_was_acknowledged_is_not_held(pairs):
    pair, other = pairs
    for number in range(10):
        ours, theirs = new_stream(pair)
        writing = asyncio.create_task(theirs.write(bytes(LIMIT_BYTES // 4)))
        read_bytes = 0
        while read_bytes < LIMIT_BYTES // 4:
            read_bytes += sum(map(len, await pair.soon(ours.receive())))
        await pair.soon(writing)
        await pair.run(1.0)
        assert other.server.piece_bytes() == MAX_DATA_FRAME_BYTES, number


def test_the_memory_of_a_server_is_bounded(credentials):
    """Ten clients with 127 downloads each that nobody reads took 675 MB."""
    with Peer("serve", credentials.cert_file, credentials.key_file) as server:
        url = f"https://localhost:{server.line()['port']}"
        with Peer("read_nothing", url, credentials.ca_file, CLIENTS, DOWNLOADS) as readers:
            assert readers.line()["streams"] == CLIENTS * DOWNLOADS
            growth = Growth(server)
            readers.go_on()
            growth.watch_until(has_settled(lambda: server.rss_bytes() // MB, QUIET_S), 60.0)
            grown_mb = growth.mb(server)
    streams = CLIENTS * DOWNLOADS
    print(f"{streams} unread downloads: the server grew by {grown_mb:.0f} MB")
    bound_bytes = TOTAL_LIMIT_BYTES + streams * (2 * SMALL_PIECE_BYTES + STREAM_BYTES)
    assert grown_mb <= bound_bytes / MB
