"""What a connection and the loop around it do beyond passing datagrams on."""

import asyncio
import inspect

import pytest
from aioquic.h3.connection import ErrorCode
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

from helpers.connection import ConnectionState, Driver, new_configuration
from helpers.errors import ConnectionLost
from tests.pair import Pair


def test_a_finished_handshake_keeps_no_buffers(server, client):
    """aioquic 1.7.2 keeps three of them, 8 KiB each, for as long as the connection lives."""

    @server.route("/")
    async def root(request, response):
        await response.write("still there")

    assert client.get(server.url("/")).text == "still there"
    (at_the_server,) = server._listener.connections
    (driver,) = client._transport._transport._connections.values()
    for connection in (at_the_server, driver.connection):
        assert set(connection.quic._crypto_buffers) == {Epoch.ONE_RTT}
    assert client.get(server.url("/")).text == "still there"
    # Guards against another aioquic: the buffers are made here, and written into by TLS alone.
    assert "self._crypto_buffers = {" in inspect.getsource(QuicConnection._initialize)


def test_a_timer_that_breaks_closes_its_connection_and_is_told_once(credentials, caplog):
    """It would break again when the closing period is over."""

    def stumble(now):
        raise IndexError("out of range")

    pair = Pair(credentials).connect()
    pair.server.quic.handle_timer = stumble
    pair.request()
    pair.pass_time(60.0)
    assert pair.client.lost.code == pair.server.lost.code == ErrorCode.H3_INTERNAL_ERROR
    assert pair.server.state is ConnectionState.CLOSED
    assert pair.server.next_timeout() is None
    (told,) = [line for line in caplog.messages if "Closing the connection" in line]
    assert told.endswith("its timer broke")


def stumble(*_, **__):
    raise IndexError("out of range")


def break_what_carries_data(pair):
    pair.server.quic._write_application = stumble
    pair.request()


def break_at_the_end(pair):
    """What closes the connection breaks it again, before that has left."""
    pair.server._on_abandoned = stumble
    pair.request(end_stream=False)
    pair.pass_time(0.1)
    pair.client.quic.send_stream_data(0, b"\0\1x\4\0")  # SETTINGS on a request's stream
    pair.client.flush(True)


@pytest.mark.parametrize(
    ("do_break", "code"),
    [
        (break_what_carries_data, ErrorCode.H3_INTERNAL_ERROR),
        (break_at_the_end, ErrorCode.H3_FRAME_UNEXPECTED),
    ],
)
def test_a_connection_that_is_given_up_tells_its_peer(credentials, caplog, do_break, code):
    """Who hears nothing waits until the connection is idle for too long."""
    pair = Pair(credentials).connect()
    do_break(pair)
    pair.pass_time(0.1)
    assert pair.server.state is ConnectionState.CLOSED
    assert pair.client.lost is not None
    assert pair.client.lost.code == code
    assert pair.server.datagrams_to_send(pair.now) == []


@pytest.mark.anyio
async def test_a_lost_packet_does_not_stop_the_clock_of_a_pair(credentials):
    """aioquic's sums round: what it wants looked at now may be lost a moment later only."""
    pair = Pair(credentials, delay_s=0.037).connect()
    ours, theirs = pair.streams()
    lost = []

    def lose_the_first(is_from_client, data):
        if lost or not is_from_client:
            return False
        lost.append(data)
        return True

    pair.drops = lose_the_first
    for _ in range(6):
        await ours.write(b"x")
        pair.pass_time(0.007)
    async with asyncio.timeout(10):
        await pair.run(1.0)
    assert await theirs.receive() == [b"x"] * 6


@pytest.mark.anyio
async def test_a_connection_that_is_given_up_while_it_sends_leaves_no_timer():
    """The system may say amid a burst that nobody listens."""

    def refuse(data, address):
        driver.abandon("port 9 is closed")

    closed = []
    driver = Driver(
        new_configuration(is_client=True), refuse, lambda: closed.append(driver), lambda: None
    )
    with pytest.raises(ConnectionLost, match="port 9 is closed"):
        await driver.connect(("127.0.0.1", 9))
    assert closed == [driver]
    assert driver.connection.state is ConnectionState.CLOSED
    assert all(timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)


@pytest.mark.anyio
async def test_who_waits_for_the_last_acknowledgement_looks_whenever_something_happened():
    driver = Driver(
        new_configuration(is_client=True), lambda data, address: None, lambda: None, lambda: None
    )
    connecting = asyncio.create_task(driver.connect(("127.0.0.1", 9)))
    await asyncio.sleep(0)
    busy = True
    driver.connection.is_busy = lambda: busy
    draining = asyncio.create_task(driver.drain())
    for _ in range(2):
        driver.flush(False)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not draining.done()
    busy = False
    driver.flush(False)
    await asyncio.wait_for(draining, 10)
    driver.abandon("the test is over")
    with pytest.raises(ConnectionLost, match="the test is over"):
        await connecting
