"""What the loop around aioquic does beyond passing datagrams on."""

import asyncio
import inspect

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

from helpers.connection import HTTP3Connection
from helpers.connection.driver import State
from helpers.connection.http3 import new_configuration


def test_a_finished_handshake_keeps_no_buffers(server, client):
    """aioquic 1.7.2 keeps three of them, 8 KiB each, for as long as the connection lives."""

    @server.route("/")
    async def root(request, response):
        await response.write("still there")

    assert client.get(server.url("/")).text == "still there"
    (at_the_server,) = server._listener.connections
    (at_the_client,) = client._transport._transport._connections.values()
    for connection in (at_the_server, at_the_client):
        assert set(connection.quic._crypto_buffers) == {Epoch.ONE_RTT}
    assert client.get(server.url("/")).text == "still there"
    # Guards against another aioquic: the buffers are made here, and written into by TLS alone.
    assert "self._crypto_buffers = {" in inspect.getsource(QuicConnection._initialize)


@pytest.mark.anyio
async def test_a_connection_that_is_given_up_while_it_sends_leaves_no_timer():
    """The system may say amid a burst that nobody listens."""

    def refuse(data, address):
        connection.abandon("port 9 is closed")

    quic = QuicConnection(configuration=new_configuration(is_client=True))
    connection = HTTP3Connection(quic, refuse)
    quic.connect(("127.0.0.1", 9), now=0.0)
    assert connection.transmit() == 1
    assert connection.state is State.CLOSED
    assert all(timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)
