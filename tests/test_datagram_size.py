"""How long datagrams are, and what becomes of those that do not get through: in memory."""

import asyncio
import itertools

import pytest

from helpers.connection.aioquic_inside.quic import LOOPBACK_DATAGRAM_BYTES
from tests.pair import Pair

pytestmark = pytest.mark.anyio

SMALL_BYTES = 1200
BODY = bytes(range(256)) * 800


def too_long(is_from_client, data):
    return len(data) > SMALL_BYTES


class Line:
    """A pair with one stream; `send` sends a body, down or up."""

    def __init__(self, pair):
        self.pair = pair
        self.client, self.server = pair.streams()
        self.server.sending.write_header([(b":status", b"200")])

    async def send(self, down=True):
        """Return how long that took, and what was sent that way meanwhile."""
        pair = self.pair
        ends = (self.client, self.server)
        reader, writer = ends if down else reversed(ends)
        begun_at, carried = pair.now, len(pair.carried)
        writing = asyncio.create_task(writer.write(BODY))
        received = b""
        while len(received) < len(BODY):
            received += b"".join(await pair.soon(reader.receive()))
        await pair.soon(writing)
        assert received == BODY
        sizes = [size for is_from_client, size in pair.carried[carried:] if is_from_client != down]
        return pair.now - begun_at, sizes


@pytest.fixture
def line(credentials):
    return Line(Pair(credentials).connect())


@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
async def test_where_large_ones_do_not_get_through_small_ones_do(line, down):
    _, sizes = await line.send(down)
    assert max(sizes) == LOOPBACK_DATAGRAM_BYTES
    line.pair.drops = too_long
    took_s, _ = await line.send(down)
    print(f"noticed within {took_s:.2f} s")
    assert took_s < 1.0
    took_s, sizes = await line.send(down)
    assert took_s < 0.1
    assert max(sizes) == SMALL_BYTES


async def test_large_ones_have_another_chance_and_another_later_each_time(line):
    """A reader that slept looks the same, and takes them again."""
    line.pair.drops = too_long
    stood_still_at = []
    while line.pair.now < 30.0:
        took_s, _ = await line.send()
        if took_s > 0.1:
            stood_still_at.append(line.pair.now)
        await line.pair.run(0.5)
    print(f"stood still at {stood_still_at}")
    pauses = [after - before for before, after in itertools.pairwise(stood_still_at)]
    assert 2 <= len(pauses) <= 3
    assert all(after > 2 * before for before, after in itertools.pairwise(pauses))
    line.pair.drops = lambda is_from_client, data: False
    await line.pair.run(400.0)
    await line.send()
    _, sizes = await line.send()
    assert max(sizes) == LOOPBACK_DATAGRAM_BYTES


async def test_a_relay_to_somewhere_else_gets_small_ones(credentials):
    line = Line(Pair(credentials, delay_s=0.01).connect())
    for down in (True, False):
        _, sizes = await line.send(down)
        assert max(sizes) == SMALL_BYTES


async def test_an_http_datagram_that_fits_no_more_holds_up_no_other(line):
    line.pair.drops = too_long
    for _ in range(40):  # more than may be in flight
        await line.server.send_datagram(bytes(10_000))
    await line.pair.run(1.0)
    await line.server.send_datagram(b"short")
    assert await line.pair.soon(line.client.receive_datagram()) == b"short"
