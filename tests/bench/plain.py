"""A server and a client on aioquic's own asyncio API, as its documentation suggests.

No backpressure, no errors, default settings: what a competent user writes first.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from urllib.parse import parse_qsl, urlsplit

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from tests.bench.scenarios import answer

RESPONSE_HEADERS = [(b":status", b"200"), (b"content-type", b"application/octet-stream")]


class Body:
    """A body as it arrives: `async for chunk in body`."""

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()

    def feed(self, event: HeadersReceived | DataReceived) -> None:
        """Take what an HTTP/3 event brought."""
        if isinstance(event, DataReceived) and event.data:
            self._chunks.put_nowait(event.data)
        if event.stream_ended:
            self._chunks.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


class PlainProtocol(QuicConnectionProtocol):
    """HTTP/3 over one QUIC connection: a `Body` for each stream."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.http: H3Connection | None = None
        self.bodies: dict[int, Body] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Hand QUIC's events to HTTP/3."""
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if self.http is not None:
            for http_event in self.http.handle_event(event):
                self.http_event_received(http_event)

    def http_event_received(self, event: H3Event) -> None:
        """Hand a stream's data to its reader."""
        if isinstance(event, HeadersReceived | DataReceived):
            self.bodies[event.stream_id].feed(event)
            if event.stream_ended:
                del self.bodies[event.stream_id]


class PlainServer(PlainProtocol):
    """Answers each request in a task of its own."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._tasks: set[asyncio.Task] = set()

    def http_event_received(self, event: H3Event) -> None:
        """Start a task for a new request."""
        if isinstance(event, HeadersReceived):
            body = self.bodies[event.stream_id] = Body()
            task = asyncio.create_task(self._respond(event.stream_id, dict(event.headers), body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        super().http_event_received(event)

    async def _respond(self, stream_id: int, headers: dict[bytes, bytes], body: Body) -> None:
        url = urlsplit(headers[b":path"].decode())
        self.http.send_headers(stream_id, RESPONSE_HEADERS)

        async def write(data: bytes) -> None:
            self.http.send_data(stream_id, data, end_stream=False)
            self.transmit()

        async def flush() -> None:
            # Lets the loop read acknowledgments; without it a long response blocks everybody.
            await asyncio.sleep(0)

        await answer(url.path, dict(parse_qsl(url.query)), aiter(body), write, flush)
        self.http.send_data(stream_id, b"", end_stream=True)
        self.transmit()


class PlainClient(PlainProtocol):
    """Sends requests and reads responses as they arrive."""

    async def stream(
        self, method: str, path: str, pieces: Iterable[bytes] | None = None
    ) -> AsyncIterator[bytes]:
        """Send a request and yield its response's body as it arrives."""
        stream_id = self._quic.get_next_available_stream_id()
        body = self.bodies[stream_id] = Body()
        headers = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
        ]
        self.http.send_headers(stream_id, headers, end_stream=pieces is None)
        self.transmit()
        if pieces is not None:
            for piece in pieces:
                self.http.send_data(stream_id, piece, end_stream=False)
                self.transmit()
                await asyncio.sleep(0)
            self.http.send_data(stream_id, b"", end_stream=True)
            self.transmit()
        async for chunk in body:
            yield chunk
