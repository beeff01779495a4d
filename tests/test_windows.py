"""What may be in flight, and unread, follows the line: in memory, with a clock of its own.

So a round trip is as long as the test says, and nothing else takes any time.
"""

import asyncio
import contextlib

import pytest

from helpers.connection.aioquic_inside import STREAM_WINDOW_BYTES, quic
from helpers.connection.aioquic_inside.quic import UNSENT_LIMIT_BYTES
from tests.pair import Pair

pytestmark = pytest.mark.anyio

MB = 1_000_000
PIECE = bytes(64 * 1024)
DELAY_S = 0.05  # one way
ROUND_TRIP_S = 2 * DELAY_S
SIDE_BY_SIDE = 16
# In place of 16 MiB: what a distance carries, in memory too, is datagrams of 1200 bytes.
MOST_BYTES = 4 * 1024 * 1024
# How far a writer is ahead of a reader that has not proved anything.
SMALL_BYTES = STREAM_WINDOW_BYTES + UNSENT_LIMIT_BYTES + 2 * len(PIECE)


@pytest.fixture
def lower_maxima(monkeypatch):
    monkeypatch.setattr(quic, "GROWN_WINDOWS_BYTES", MOST_BYTES)
    monkeypatch.setattr(quic, "UNACKNOWLEDGED_LIMIT_BYTES", MOST_BYTES)


class Flow:
    """A stream that one end of a pair writes to without a pause, while the other reads, or not.

    `written` and `read` are bytes so far; with `down`, the server writes.
    """

    def __init__(self, pair, down=True):
        ours, theirs = pair.streams()
        theirs.sending.write_header([(b":status", b"200")])
        self.writer, self.reader = (theirs, ours) if down else (ours, theirs)
        self.reading_end = pair.client if down else pair.server
        self.writing_end = pair.server if down else pair.client
        self.written = self.read = 0
        self.reads = asyncio.Event()
        self.tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    async def _write(self):
        while True:
            await self.writer.write(PIECE)
            self.written += len(PIECE)

    async def _read(self):
        while True:
            await self.reads.wait()
            self.read += sum(map(len, await self.reader.receive()))

    @property
    def window_bytes(self):
        return self.reading_end.quic._windows.get(self.reader.stream_id, STREAM_WINDOW_BYTES)


@pytest.fixture
async def flows():
    """Makes flows; they end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        def start(pair, **parameters):
            flow = Flow(pair, **parameters)
            stack.callback(lambda: [task.cancel() for task in flow.tasks])
            return flow

        yield start


async def until(pair, condition, at_most_s=60.0):
    """Let time pass until `condition()`; return how many round trips that took."""
    began_at = pair.now
    while not condition():
        assert pair.now - began_at < at_most_s
        await pair.run(DELAY_S / 5)
    return (pair.now - began_at) / ROUND_TRIP_S


async def round_trips_for(pair, flow, size_bytes):
    flow.reads.set()
    return await until(pair, lambda: flow.read >= size_bytes)


@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
async def test_a_distance_holds_up_nobody_who_reads(credentials, flows, monkeypatch, down):
    took = await round_trips_for(*_far(credentials, flows, down), 5 * MB)
    for limit in ("STREAM_WINDOW_BYTES", "UNSENT_LIMIT_BYTES"):
        monkeypatch.setattr(quic, limit, 100 * MB)
    monkeypatch.setattr("helpers.connection.configuration.STREAM_WINDOW_BYTES", 100 * MB)
    unlimited = await round_trips_for(*_far(credentials, flows, down), 5 * MB)
    print(f"5 MB in {took:.1f} round trips, {unlimited:.1f} without limits")
    assert took < 1.2 * unlimited


async def test_a_distance_holds_up_no_uploads_side_by_side(credentials, flows, monkeypatch):
    """They have the limit of the connection (MAX_DATA) in common."""
    took = await _round_trips_side_by_side(credentials, flows)
    monkeypatch.setattr("helpers.connection.configuration.CONNECTION_WINDOW_BYTES", 100 * MB)
    unlimited = await _round_trips_side_by_side(credentials, flows)
    print(f"5 MB on {SIDE_BY_SIDE} streams in {took:.1f} round trips, {unlimited:.1f} without")
    assert took < 1.2 * unlimited


async def _round_trips_side_by_side(credentials, flows):
    pair = Pair(credentials, DELAY_S).connect()
    several = [flows(pair, down=False) for _ in range(SIDE_BY_SIDE)]
    for flow in several:
        flow.reads.set()
    return await until(pair, lambda: sum(flow.read for flow in several) >= 5 * MB)


def _far(credentials, flows, down=True):
    pair = Pair(credentials, DELAY_S).connect()
    return pair, flows(pair, down=down)


@pytest.mark.parametrize("delay_s", [0.0, DELAY_S], ids=["here", "far"])
@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
async def test_a_reader_that_never_reads_has_the_small_window(credentials, flows, delay_s, down):
    pair = Pair(credentials, delay_s).connect()
    flow = flows(pair, down=down)
    await pair.run(5.0)
    assert flow.window_bytes == STREAM_WINDOW_BYTES
    assert STREAM_WINDOW_BYTES < flow.written <= SMALL_BYTES


async def test_a_slow_reader_at_a_distance_has_the_small_window(credentials, flows):
    pair, flow = _far(credentials, flows)
    read = 0
    for _ in range(20):
        await pair.run(3 * ROUND_TRIP_S)
        read += sum(map(len, await pair.soon(flow.reader.receive())))
    assert read > 5 * STREAM_WINDOW_BYTES
    assert flow.window_bytes == STREAM_WINDOW_BYTES
    assert flow.written - read <= SMALL_BYTES


async def test_on_one_machine_the_limits_stay_small_after_a_fast_phase_too(credentials, flows):
    pair = Pair(credentials).connect()
    flow = flows(pair)
    await round_trips_for(pair, flow, 30 * MB)
    assert pair.server.quic._loss.congestion_window > 8 * MB
    flow.reads.clear()
    await pair.run(5.0)
    assert flow.window_bytes == STREAM_WINDOW_BYTES
    # One read was under way.
    assert flow.written - flow.read <= SMALL_BYTES + STREAM_WINDOW_BYTES


async def test_a_peer_that_turns_out_to_be_near_has_the_small_window_again(credentials, flows):
    """A busy machine is slow in its first round trips."""
    pair, flow = _far(credentials, flows)
    await round_trips_for(pair, flow, 3 * MB)
    assert flow.window_bytes > 2 * STREAM_WINDOW_BYTES
    pair.delay_s = 0.0
    await round_trips_for(pair, flow, 12 * MB)
    flow.reads.clear()
    await pair.run(5.0)
    assert flow.window_bytes == STREAM_WINDOW_BYTES
    assert flow.written - flow.read <= SMALL_BYTES + STREAM_WINDOW_BYTES


async def test_a_reader_that_stops_is_a_window_of_the_line_behind_at_most(credentials, flows):
    pair, flow = _far(credentials, flows)
    await round_trips_for(pair, flow, 8 * MB)
    flow.reads.clear()
    await pair.run(5.0)
    unread = flow.reader.receiving.unread_bytes
    print(f"window {flow.window_bytes}, unread {unread}, ahead {flow.written - flow.read}")
    assert unread <= flow.window_bytes
    assert flow.written - flow.read <= flow.window_bytes + SMALL_BYTES
    # What has left was acknowledged, and what has not is one buffer.
    held = flow.writing_end.quic.unacknowledged_bytes(flow.writer.stream_id)
    assert held <= UNSENT_LIMIT_BYTES + len(PIECE) + 100


async def test_what_one_connection_takes_has_a_limit(credentials, flows, lower_maxima):
    pair, first = _far(credentials, flows)
    several = [first, *(flows(pair) for _ in range(3))]
    most = 0

    def look():
        nonlocal most
        windows = pair.client.quic._windows.values()
        assert sum(size - STREAM_WINDOW_BYTES for size in windows) <= MOST_BYTES
        held = sum(map(pair.server.quic.unacknowledged_bytes, pair.server.quic._streams))
        assert held <= MOST_BYTES + len(several) * SMALL_BYTES
        most = max(most, held)
        return sum(flow.read for flow in several) > 15 * MB

    for flow in several:
        flow.reads.set()
    await until(pair, look)
    print(f"at most {most} held; windows {[flow.window_bytes for flow in several]}")
    assert sum(flow.window_bytes for flow in several) > MOST_BYTES // 2
    assert most > MOST_BYTES // 2


async def test_windows_that_grew_are_given_back_when_their_stream_ends(
    credentials, flows, lower_maxima
):
    pair, flow = _far(credentials, flows)
    for _ in range(3):
        await round_trips_for(pair, flow, 6 * MB)
        assert flow.window_bytes == MOST_BYTES
        for task in flow.tasks:
            task.cancel()
        await pair.run()
        flow.writer.cancel()
        flow.reader.cancel()
        await pair.run(1.0)
        flow = flows(pair)
    await round_trips_for(pair, flow, MB)
    assert set(pair.client.quic._granted_at) == {flow.reader.stream_id}


async def test_a_peer_that_acknowledges_nothing_holds_no_more_than_the_limit(
    credentials, flows, monkeypatch, lower_maxima
):
    """However much it says that it takes."""
    monkeypatch.setattr("helpers.connection.configuration.STREAM_WINDOW_BYTES", 200 * MB)
    pair, flow = _far(credentials, flows)
    await round_trips_for(pair, flow, 10 * MB)
    layer = pair.server.quic
    assert layer._loss.congestion_window > MOST_BYTES + 2 * UNSENT_LIMIT_BYTES
    pair.drops = lambda is_from_client, data: is_from_client
    await pair.run(2 * ROUND_TRIP_S)
    held = layer.unacknowledged_bytes(flow.writer.stream_id)
    assert MOST_BYTES < held <= MOST_BYTES + 2 * len(PIECE)
