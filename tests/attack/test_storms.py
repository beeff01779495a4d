"""Clients that follow the protocol to the letter and mean no good."""

import gc
import time

import pytest
from aioquic.h3.connection import FrameType

from helpers.connection.aioquic_inside.quic import UNSENT_LIMIT_BYTES
from helpers.stream.halves import MAX_DATA_FRAME_BYTES
from tests.attack.conftest import AT_ONCE_S
from tests.attack.tools import Attacker, request, varint

STREAMS = 120
COMES_S = 60.0  # however busy the machine is
CODE = 0x10C
HALF_A_HEADER = varint(FrameType.HEADERS) + varint(60_000) + bytes(2) + b"x" * 50_000


def kept(connection):
    """The request streams that a connection has state for, in each of its tables."""
    gc.collect()  # a handler that was cancelled and its error hold each other
    return {
        "HTTP/3": connection._http.open_streams(),
        "ours": len(connection.streams),
        "QUIC": sum(stream_id % 4 == 0 for stream_id in connection.quic._streams),
    }


def round_trips(target, attacker, is_over):
    """Take part until what the server has done on its own is over."""
    deadline = time.monotonic() + COMES_S
    while not is_over() and time.monotonic() < deadline:
        attacker.quic.send_ping(0)
        attacker.flush()
        attacker.step(0.01)


@pytest.mark.parametrize(
    ("content", "count"),
    [(request(b"/open"), 10_000), (HALF_A_HEADER[:300], 2_000)],
    ids=["whole", "half"],
)
def test_a_storm_of_cancelled_requests(target, content, count):
    """As fast as the limit on open streams allows; some are on their way when they are reset."""
    slowest_s = 0.0
    with Attacker(target.port) as attacker:
        ours = target.connection_of(attacker)
        for number in range(1, count + 1):
            attacker.until(lambda n=number: attacker.quic._remote_max_streams_bidi > n)
            stream_id = 4 * number
            attacker.quic.send_stream_data(stream_id, content)
            if number % 2:
                attacker.flush()
            attacker.quic.stop_stream(stream_id, CODE)
            attacker.quic.reset_stream(stream_id, CODE)
            attacker.flush()
            if number % 20 == 0:
                attacker.step()
            if number % 200 == 0:
                slowest_s = max(slowest_s, target.serves())
        nothing = {"HTTP/3": 0, "ours": 0, "QUIC": 0}
        round_trips(target, attacker, lambda: kept(ours) == nothing)
        assert kept(ours) == nothing
        assert target.running == 0
        assert attacker.closed is None
    assert slowest_s < AT_ONCE_S


def test_headers_that_never_end_on_all_streams(target):
    with Attacker(target.port) as attacker:
        ours = target.connection_of(attacker)
        for number in range(1, STREAMS + 1):
            attacker.write(4 * number, HALF_A_HEADER)
            attacker.step()
        buffered = sum(ours._http.buffered_bytes(4 * number) for number in range(1, STREAMS + 1))
        assert target.serves() < AT_ONCE_S
        assert kept(ours)["ours"] == 0
        assert attacker.closed is None
    assert buffered <= STREAMS * len(HALF_A_HEADER)


def test_a_reader_that_never_reads_on_all_streams(target, capsys):
    """Each handler waits with a quarter of a megabyte, and ends when its client leaves."""
    with Attacker(target.port, max_stream_data=1) as attacker:
        ours = target.connection_of(attacker)
        for number in range(1, STREAMS + 1):
            attacker.write(4 * number, request(b"/endless"), fin=True)
        waiting = ours._waiting_writers
        round_trips(target, attacker, lambda: len(waiting) == STREAMS)
        assert len(waiting) == STREAMS
        held_bytes = sum(ours.quic.unacknowledged_bytes(4 * n) for n in range(1, STREAMS + 1))
        assert target.serves() < AT_ONCE_S
        with capsys.disabled():
            print(f" [{held_bytes / STREAMS / 1024:.0f} KiB a stream]", end="")
    assert held_bytes < STREAMS * (UNSENT_LIMIT_BYTES + MAX_DATA_FRAME_BYTES)
    deadline = time.monotonic() + COMES_S
    while target.running and time.monotonic() < deadline:
        target.serves()
    assert target.running == 0


def test_only_so_many_handlers_run_for_one_client(target):
    """A reset request whose answer is still wanted keeps its place among the 128."""
    with Attacker(target.port) as attacker:
        for number in range(1, 128):
            attacker.write(4 * number, request(b"/open"))
            # Its handler runs: a reset would overtake, and drop, what has not left yet.
            attacker.until(lambda n=number: attacker.streams[4 * n].data)
            attacker.reset(4 * number)
        round_trips(target, attacker, lambda: target.running >= 127)
        assert attacker.quic._remote_max_streams_bidi <= 129  # the first request is over
        assert target.running == 127
    deadline = time.monotonic() + COMES_S
    while target.running and time.monotonic() < deadline:
        target.serves()
    assert target.running == 0
