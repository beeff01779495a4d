"""A server made of aioquic's own `serve`, whose answers a test writes out frame by frame."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, H3Connection, encode_frame
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from helpers.background import Background


class Scripted(QuicConnectionProtocol):
    """One connection; `answer(connection, event)` is called for each HTTP/3 event."""

    def __init__(self, *args, answer: Callable[["Scripted", H3Event], None], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.quic = self._quic
        self.http: H3Connection | None = None
        self._answer = answer

    def quic_event_received(self, event: QuicEvent) -> None:
        """Hand QUIC's events to HTTP/3, and HTTP/3's to the script."""
        if isinstance(event, ProtocolNegotiated) and event.alpn_protocol == "h3":
            self.http = H3Connection(self._quic)
        if self.http is not None:
            for http_event in self.http.handle_event(event):
                self._answer(self, http_event)

    def respond(self, stream_id: int, status: int, body: bytes = b"", **header: object) -> None:
        """Send a whole response."""
        fields = [(b":status", b"%d" % status)]
        fields += [(name.encode(), str(value).encode()) for name, value in header.items()]
        self.http.send_headers(stream_id, fields)
        self.http.send_data(stream_id, body, end_stream=True)

    def go_away(self, first_refused_id: int) -> None:
        """Announce that requests from this stream ID on are refused (GOAWAY)."""
        frame = encode_frame(FrameType.GOAWAY, encode_uint_var(first_refused_id))
        self.quic.send_stream_data(self.http._local_control_stream_id, frame)


def say_hello(connection: Scripted, event: H3Event) -> None:
    """Answer each request with `hello`."""
    if isinstance(event, HeadersReceived):
        connection.respond(event.stream_id, 200, b"hello")


def say_nothing(connection: Scripted, event: H3Event) -> None:
    """Read requests and never answer."""


@contextmanager
def scripted_server(
    cert_file: Path,
    key_file: Path,
    answer: Callable[[Scripted, H3Event], None] = say_hello,
    host: str = "127.0.0.1",
    alpn: str = "h3",
    **options: object,
) -> Iterator[int]:
    """Run such a server on a thread of its own; yield its port."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[alpn], **options)
    configuration.load_cert_chain(cert_file, key_file)

    def new_protocol(*args, **kwargs):
        return Scripted(*args, answer=answer, **kwargs)

    background = Background("scripted-server")
    background.start()
    try:
        server = background.run(
            functools.partial(
                serve, host, 0, configuration=configuration, create_protocol=new_protocol
            )
        )
        yield server._transport.get_extra_info("sockname")[1]
        background.call(server.close)
    finally:
        background.stop()
