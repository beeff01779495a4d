"""A client whose address changes in mid-stream, as behind a NAT that forgot it (RFC 9000, 9)."""

import asyncio

import pytest

from helpers.connection import http3
from tests.pair import ADDRESS, GET, Pair

pytestmark = pytest.mark.anyio

ELSEWHERE = ("127.0.0.1", 50_000)


class Reading:
    """A response that its client only reads, and when each piece of it came."""

    def __init__(self, pair, pause_s):
        self.pair = pair
        self.pause_s = pause_s
        self.sent = self.received = b""
        self.arrivals = []
        self.ours, self.theirs = pair.streams(GET, end_stream=True)
        self.theirs.sending.write_header([(b":status", b"200")])
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        async for chunk in self.ours:
            self.received += chunk
            self.arrivals.append(self.pair.now)

    async def write(self, seconds):
        until = self.pair.now + seconds
        while self.pair.now < until:
            piece = str(len(self.sent)).encode() * 200
            writing = asyncio.create_task(self.theirs.write(piece))
            self.sent += piece
            await self.pair.run(self.pause_s)
            await self.pair.soon(writing)

    @property
    def longest_gap_s(self):
        return max(b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False))


@pytest.mark.parametrize("round_trip_s", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("pause_s", [0.01, 0.3])
async def test_who_only_reads_is_found_again_within_a_second(credentials, round_trip_s, pause_s):
    pair = Pair(credentials, round_trip_s / 2).connect()
    response = Reading(pair, pause_s)
    await response.write(2.0)
    pair.client_address = ELSEWHERE
    await response.write(5.0)
    await pair.soon(response.theirs.close())
    await pair.soon(response.reading)
    print(f"a gap of {response.longest_gap_s:.2f} s")
    assert response.received == response.sent
    assert response.longest_gap_s <= 1.0 + round_trip_s
    assert pair.server._peer_address == ELSEWHERE


async def test_a_server_that_thinks_is_asked_less_and_less_often(credentials):
    pair = Pair(credentials, 0.01).connect()
    pair.streams(GET, end_stream=True)
    await pair.run(0.4)
    before = len(pair.carried)
    await pair.run(20.0)
    # In each of them one datagram there, one back; the server asks by itself too.
    assert len(pair.carried) - before <= 2 * (2 + 20.0 / http3.KEEP_ALIVE_AFTER_S + 1)
    assert pair.server._peer_address == ADDRESS
