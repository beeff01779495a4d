"""HTTP datagrams with aioquic's own HTTP/3 on the other side, as client and as server.

aioquic announces H3_DATAGRAM together with WebTransport only, and DATAGRAM frames where its
configuration says how long one may be.
"""

import asyncio
import contextlib

import pytest
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated

from helpers.client import AsyncHTTP3Transport
from helpers.errors import DatagramError

pytestmark = pytest.mark.anyio

WAIT_S = 30.0
NOT_NEGOTIATED = "The peer did not negotiate datagrams (RFC 9297 section 2.1.1)."
SPEAKS = {"frame_bytes": 65536, "speaks": True}
UNABLE = [
    {"frame_bytes": None, "speaks": False},  # as aioquic is where nobody asks for more
    {"frame_bytes": 65536, "speaks": False},  # QUIC takes them, HTTP/3 does not know them
]


class Theirs(QuicConnectionProtocol):
    """One end on aioquic; a server echoes each datagram, and each piece of a body."""

    def __init__(self, *args, speaks, **kwargs):
        super().__init__(*args, **kwargs)
        self.quic = self._quic
        self.datagrams = asyncio.Queue()
        self.data = asyncio.Queue()
        self._speaks = speaks
        self.http = None

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self.quic, enable_webtransport=self._speaks)
        for http_event in self.http.handle_event(event) if self.http else ():
            self._take(http_event)

    def _take(self, event):
        if self.quic.configuration.is_client:
            if isinstance(event, DatagramReceived):
                self.datagrams.put_nowait((event.stream_id, event.data))
            elif isinstance(event, DataReceived):
                self.data.put_nowait(event.data)
            return
        if isinstance(event, HeadersReceived):
            self.http.send_headers(event.stream_id, [(b":status", b"200")])
        elif isinstance(event, DatagramReceived):
            self.http.send_datagram(event.stream_id, event.data)
        elif isinstance(event, DataReceived):
            self.http.send_data(event.stream_id, event.data, event.stream_ended)
        self.transmit()

    def ask(self, path, port):
        """Send the header of a request; return the number of its stream."""
        stream_id = self.quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": f"localhost:{port}"}
        fields = [(name.encode(), value.encode()) for name, value in fields.items()]
        self.http.send_headers(stream_id, [*fields, (b":path", path)])
        self.transmit()
        return stream_id


def configuration(is_client, frame_bytes):
    return QuicConfiguration(
        is_client=is_client, alpn_protocols=["h3"], max_datagram_frame_size=frame_bytes
    )


@contextlib.asynccontextmanager
async def our_stream(credentials, frame_bytes, speaks):
    """A stream of our client to their server, whose header has come."""
    theirs = configuration(False, frame_bytes)
    theirs.load_cert_chain(credentials.cert_file, credentials.key_file)
    protocols = []

    def protocol(*args, **kwargs):
        protocols.append(Theirs(*args, speaks=speaks, **kwargs))
        return protocols[-1]

    server = await serve("127.0.0.1", 0, configuration=theirs, create_protocol=protocol)
    port = server._transport.get_extra_info("sockname")[1]
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    try:
        async with contextlib.aclosing(transport), asyncio.timeout(WAIT_S):
            stream = await transport.open_stream("GET", f"https://127.0.0.1:{port}/")
            await stream.read_header()
            yield stream
            stream.cancel()
        for protocol in protocols:
            protocol.close()
    finally:
        server.close()


@contextlib.asynccontextmanager
async def their_client(server, credentials, frame_bytes=65536, speaks=True):
    """Their client, connected to our server."""
    theirs = configuration(True, frame_bytes)
    theirs.load_verify_locations(cafile=str(credentials.ca_file))
    async with (
        asyncio.timeout(WAIT_S),
        connect(
            "127.0.0.1",
            server.port,
            configuration=theirs,
            create_protocol=lambda *args, **kwargs: Theirs(*args, speaks=speaks, **kwargs),
        ) as client,
    ):
        yield client


async def test_our_client_gets_its_datagrams_back_from_aioquic(credentials):
    async with our_stream(credentials, **SPEAKS) as stream:
        with pytest.raises(DatagramError) as caught:
            await stream.send_datagram(bytes(100_000))
        for payload in (b"ping", b"", bytes(caught.value.limit_bytes), b"pong"):
            await stream.send_datagram(payload)
            assert await stream.receive_datagram(WAIT_S) == payload
        with pytest.raises(DatagramError, match=r"does not fit"):
            await stream.send_datagram(bytes(caught.value.limit_bytes + 1))
        await stream.write(b"the stream lives")
        assert await anext(stream) == b"the stream lives"


async def test_aioquics_client_gets_its_datagrams_back_from_our_server(server, credentials):
    @server.route("/echo")
    async def echo(request, response):
        async with await response.take_over() as stream:
            async for datagram in stream.datagrams():
                await stream.send_datagram(datagram)

    async with their_client(server, credentials) as client:
        streams = [client.ask(b"/echo", server.port) for _ in range(2)]
        await client.ping()  # the requests are there: a datagram that overtakes one is for nobody
        for number in range(20):
            stream_id = streams[number % 2]
            client.http.send_datagram(stream_id, b"%d" % number)
            client.transmit()
            assert await client.datagrams.get() == (stream_id, b"%d" % number)
    assert server.errors == []


@pytest.mark.parametrize("able", UNABLE)
async def test_where_aioquics_server_takes_none_our_client_is_told(credentials, able):
    async with our_stream(credentials, **able) as stream:
        for _ in range(2):
            with pytest.raises(DatagramError) as caught:
                await stream.send_datagram(b"ping")
            assert (str(caught.value), caught.value.limit_bytes) == (NOT_NEGOTIATED, 0)
        await stream.write(b"the stream lives")
        assert await anext(stream) == b"the stream lives"


@pytest.mark.parametrize("able", UNABLE)
async def test_where_aioquics_client_takes_none_our_handler_is_told(server, credentials, able):
    refused = []

    @server.route("/ping")
    async def ping(request, response):
        async with await response.take_over() as stream:
            with pytest.raises(DatagramError) as caught:
                await stream.send_datagram(b"ping")
            refused.append((str(caught.value), caught.value.limit_bytes))
            await stream.write(b"the stream lives")

    async with their_client(server, credentials, **able) as client:
        client.ask(b"/ping", server.port)
        assert await client.data.get() == b"the stream lives"
    assert refused == [(NOT_NEGOTIATED, 0)]
    assert server.errors == []


async def test_a_server_that_takes_short_ones_only_gets_no_longer_ones(credentials):
    async with our_stream(credentials, frame_bytes=100, speaks=True) as stream:
        with pytest.raises(DatagramError) as caught:
            await stream.send_datagram(bytes(101))
        limit_bytes = caught.value.limit_bytes
        assert 90 <= limit_bytes < 100
        with pytest.raises(DatagramError):
            await stream.send_datagram(bytes(limit_bytes + 1))
        await stream.send_datagram(b"x" * limit_bytes)
        assert await stream.receive_datagram(WAIT_S) == b"x" * limit_bytes


async def test_of_ten_thousand_from_aioquic_at_once_the_newest_wait(server, credentials):
    """However many come, a bounded number is kept, and who reads then goes on."""
    kept = asyncio.Queue()
    loop = asyncio.get_running_loop()

    @server.route("/burst")
    async def burst(request, response):
        async with await response.take_over() as stream:
            assert await anext(stream) == b"all sent"
            numbers = [int(await stream.receive_datagram(WAIT_S))]
            with contextlib.suppress(TimeoutError):
                while True:
                    numbers.append(int(await stream.receive_datagram(0)))
            await stream.send_datagram(b"thanks")
            loop.call_soon_threadsafe(kept.put_nowait, numbers)

    async with their_client(server, credentials) as client:
        stream_id = client.ask(b"/burst", server.port)
        await client.ping()
        for number in range(10_000):
            client.http.send_datagram(stream_id, b"%d" % number)
            if number % 100 == 99:
                client.transmit()
                await client.ping()
        client.http.send_data(stream_id, b"all sent", end_stream=False)
        client.transmit()
        numbers = await kept.get()
        assert len(numbers) <= 256
        assert numbers == sorted(set(numbers))
        assert numbers[0] > 9000
        assert await client.datagrams.get() == (stream_id, b"thanks")
    assert server.errors == []
