"""What the loop around aioquic does beyond passing datagrams on."""

import inspect

from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch


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
