"""What a server holds for all of its clients together is bounded, and nobody waits for another.

In memory first, with a total that two connections share; then with the real one, in a process of
its own.
"""

import asyncio

import pytest

from helpers.connection import Total
from helpers.connection.aioquic_inside import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES
from helpers.connection.total import CREDIT_STEP_BYTES, SMALL_PIECE_BYTES, TOTAL_LIMIT_BYTES
from helpers.stream import MAX_DATA_FRAME_BYTES
from tests.pair import POST, Pair
from tests.peers import MB, PIECE, Growth, Peer, has_settled

LIMIT_BYTES = 1024 * 1024
STREAMS = 40
CLIENTS, DOWNLOADS = 10, 127
UPLOADERS, UPLOADS = 4, 60
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


# ---- what comes and nobody reads


async def begin_uploads(pair, writers, streams):
    """Begin so many endless uploads; return their ends at the server, which nobody reads."""
    first = len(pair.requests)
    for _ in range(streams):
        writers.start(pair.request(POST, end_stream=False), bytes(64 * 1024))
    await pair.run(5.0)
    return [stream for stream, _ in pair.requests[first:]]


async def send_whole(pair, streams, size_bytes):
    """Let so many uploads arrive to their ends."""
    for _ in range(streams):
        stream = pair.request(POST, end_stream=False)
        await pair.soon(stream.write(bytes(size_bytes)))
        await pair.soon(stream.close())
    await pair.run(5.0)
    return [stream for stream, _ in pair.requests]


def unread_bytes(*pairs):
    streams = [stream for pair in pairs for stream in pair.server.streams.values()]
    return sum(stream.receiving.unread_bytes for stream in streams)


@pytest.mark.parametrize("delay_s", [0.0, 0.05], ids=["here", "far"])
async def test_what_all_connections_have_unread_is_bounded(pairs, writers, delay_s):
    for pair in pairs:
        pair.delay_s = delay_s
        await begin_uploads(pair, writers, STREAMS)
    most_bytes = LIMIT_BYTES + 2 * CONNECTION_WINDOW_BYTES
    assert most_bytes // 2 < unread_bytes(*pairs) <= most_bytes < STREAMS * STREAM_WINDOW_BYTES
    assert all(unread_bytes(pair) > CONNECTION_WINDOW_BYTES // 2 for pair in pairs)


async def test_a_handler_that_reads_goes_on_beside_those_that_do_not(pairs, writers):
    stalled, reading = pairs
    await begin_uploads(stalled, writers, STREAMS)
    assert unread_bytes(stalled) > LIMIT_BYTES
    [reads, _never] = await begin_uploads(reading, writers, 2)
    began_at = reading.now
    read_bytes = 0
    while read_bytes < 5_000_000:
        read_bytes += sum(map(len, await reading.soon(reads.receive())))
    assert reading.now - began_at < 5.0


async def read(pair, streams):
    for stream in streams:
        while await pair.soon(stream.receive()):
            pass


async def stop(pair, streams):
    for stream in streams:
        stream.stop()


async def vanish(pair, streams):
    pair.server.abandon("its client is gone")


@pytest.mark.parametrize("make_room", [read, stop, vanish])
async def test_who_was_held_back_hears_when_there_is_room(pairs, writers, make_room):
    holding, held_back = pairs
    streams = await send_whole(holding, 4, 450_000)
    assert unread_bytes(holding) == 4 * 450_000
    await begin_uploads(held_back, writers, STREAMS)
    before = unread_bytes(held_back)
    assert before < CONNECTION_WINDOW_BYTES + LIMIT_BYTES // 2
    await make_room(holding, streams)
    await held_back.run(0.1)  # no PING has to come first
    after = unread_bytes(held_back)
    print(f"{before} bytes unread, {after} when there was room")
    assert after > CONNECTION_WINDOW_BYTES + LIMIT_BYTES - CREDIT_STEP_BYTES


async def test_what_was_read_before_does_not_count(pairs, writers):
    holding, asking = pairs
    await read(holding, await send_whole(holding, 4, 450_000))
    await begin_uploads(asking, writers, STREAMS)
    assert unread_bytes(asking) > CONNECTION_WINDOW_BYTES + LIMIT_BYTES - CREDIT_STEP_BYTES


def test_the_memory_of_a_server_that_reads_nothing_is_bounded(credentials):
    """Ten clients with 127 uploads each that no handler reads took 676 MB."""
    with Peer("serve", credentials.cert_file, credentials.key_file) as server:
        url = f"https://localhost:{server.line()['port']}"
        with Peer("upload_to_nobody", url, credentials.ca_file, UPLOADERS, UPLOADS) as uploaders:
            assert uploaders.line()["streams"] == UPLOADERS * UPLOADS
            growth = Growth(server)
            uploaders.go_on()
            growth.watch_until(has_settled(lambda: server.rss_bytes() // MB, QUIET_S / 2), 60.0)
            grown_mb = growth.mb(server)
    print(f"{UPLOADERS * UPLOADS} unread uploads: the server grew by {grown_mb:.0f} MB")
    bound_bytes = TOTAL_LIMIT_BYTES + UPLOADERS * (CONNECTION_WINDOW_BYTES + UPLOADS * STREAM_BYTES)
    assert grown_mb <= bound_bytes / MB < UPLOADERS * UPLOADS * STREAM_WINDOW_BYTES / MB


# ---- what is written and nobody acknowledges


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
