"""Loops that are not asyncio's own: one that keeps to the documentation, and none at all."""

import asyncio

import httpx2
import pytest

from helpers.client import AsyncHTTP3Transport

WAIT_S = 30.0


class DocumentedTransport(asyncio.DatagramTransport):
    """What the documentation promises of a datagram transport, and no attribute beside it."""

    __slots__ = ("_transport",)

    def __init__(self, transport):
        super().__init__()
        self._transport = transport

    def sendto(self, data, addr=None):
        self._transport.sendto(data, addr)

    def close(self):
        self._transport.close()


class Relay(asyncio.DatagramProtocol):
    """Hands a protocol such a transport."""

    def __init__(self, protocol):
        self.connection_lost = protocol.connection_lost
        self.datagram_received = protocol.datagram_received
        self.error_received = protocol.error_received
        self._protocol = protocol

    def connection_made(self, transport):
        self._protocol.connection_made(DocumentedTransport(transport))


class OtherLoop(asyncio.SelectorEventLoop):
    """A loop such as uvloop's, which has asyncio's interface and none of its attributes."""

    async def create_datagram_endpoint(self, protocol_factory, **options):
        protocol = protocol_factory()
        transport, _ = await super().create_datagram_endpoint(lambda: Relay(protocol), **options)
        return transport, protocol


def test_a_client_streams_on_another_loop_and_hears_of_a_closed_port(server, credentials):
    @server.route("/")
    async def echo(request, response):
        async for piece in request:
            await response.write(piece)
            await response.flush()

    async def upload_and_try():
        sent = 40 * [bytes(range(256)) * 200]
        async with httpx2.AsyncClient(transport=AsyncHTTP3Transport(credentials.ca_file)) as client:
            response = await client.post(server.url("/"), content=b"".join(sent))
            assert response.content == b"".join(sent)
            with pytest.raises(httpx2.ConnectError, match=r"No HTTP/3 server answered at .*:1 "):
                await client.get("https://127.0.0.1:1/")

    with asyncio.Runner(loop_factory=OtherLoop) as runner:
        runner.run(asyncio.wait_for(upload_and_try(), WAIT_S))


@pytest.mark.parametrize("what", ["request", "stream"])
def test_without_a_loop_of_asyncio_a_client_says_so_at_once(credentials, what):
    """As under trio, whose own coroutines asyncio does not know."""
    transport = AsyncHTTP3Transport(credentials.ca_file)
    if what == "request":
        request = httpx2.Request("GET", "https://localhost:4433/")
        coroutine = transport.handle_async_request(request)
    else:
        coroutine = transport.open_stream("GET", "https://localhost:4433/")
    with pytest.raises(
        httpx2.LocalProtocolError, match=r"needs a loop of asyncio .*HTTP3Transport"
    ):
        coroutine.send(None)
