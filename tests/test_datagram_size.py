"""How long datagrams are, and what becomes of those that do not get through: in memory."""

import asyncio
import itertools

import pytest

from helpers.connection.aioquic_inside.quic import LOOPBACK_DATAGRAM_BYTES
from tests.pair import Pair

pytestmark = pytest.mark.anyio

SMALL_BYTES = 1200
BODY = bytes(range(256)) * 800


def all_arrive(is_from_client, data):
    return False


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
    await line.send(down)
    _, sizes = await line.send(down)
    assert max(sizes) == LOOPBACK_DATAGRAM_BYTES
    assert len(sizes) < len(BODY) / SMALL_BYTES / 5
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
    tried_at = []
    while line.pair.now < 3.0:
        took_s, sizes = await line.send()
        assert took_s < 0.1  # one that is lost holds up no other
        if max(sizes) > SMALL_BYTES:
            tried_at.append(line.pair.now)
        await line.pair.run(0.1)
    print(f"tried at {tried_at}")
    pauses = [after - before for before, after in itertools.pairwise(tried_at)]
    assert len(pauses) >= 3
    assert all(after > 2 * before for before, after in itertools.pairwise(pauses))
    line.pair.drops = all_arrive
    await line.pair.run(20.0)
    await line.send()
    await line.pair.run(1.0)
    _, sizes = await line.send()
    assert max(sizes) == LOOPBACK_DATAGRAM_BYTES


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.2])
async def test_a_relay_to_somewhere_else_gets_small_ones_and_one_that_asks(credentials, delay_s):
    line = Line(Pair(credentials, delay_s=delay_s).connect())
    line.pair.drops = too_long
    for down in (True, False):
        _, sizes = await line.send(down)
        asked = [size for size in sizes if size > SMALL_BYTES]
        assert asked[0] == LOOPBACK_DATAGRAM_BYTES
        assert len(asked) <= 3
        writer = line.pair.server if down else line.pair.client
        assert writer.quic._loss._cc.ssthresh is None  # congestion control heard of no loss


async def test_a_distant_reader_gets_large_ones_where_they_get_through(credentials):
    """On a busy machine a round trip takes long, and may be no distance at all."""
    line = Line(Pair(credentials, delay_s=0.02).connect())
    _, sizes = await line.send()
    assert max(sizes) == LOOPBACK_DATAGRAM_BYTES


async def test_a_short_answer_does_not_ask(line):
    await line.server.write(b"a line\n")
    await line.pair.run(1.0)
    assert max(size for _, size in line.pair.carried) == SMALL_BYTES


async def test_an_http_datagram_that_fits_no_more_holds_up_no_other(line):
    await line.send()
    line.pair.drops = too_long
    for _ in range(40):  # more than may be in flight
        await line.server.send_datagram(bytes(10_000))
    await line.pair.run(1.0)
    await line.server.send_datagram(b"short")
    assert await line.pair.soon(line.client.receive_datagram()) == b"short"
