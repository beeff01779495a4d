"""The QUIC settings that both ends of every connection share (RFC 9000 section 18)."""

from typing import Any, Protocol

from aioquic.quic.configuration import QuicConfiguration

from helpers.connection.aioquic_inside import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES

# Host and port first; IPv6 has two more (socket's documentation, "address families").
Address = tuple[Any, ...]

MAX_DATAGRAM_BYTES = 65536
# A peer that vanished is noticed within 10 s while a request is open: after 2 s of silence a PING
# asks for a sign of life (see http3.py), and 7 s later the connection counts as lost.
IDLE_TIMEOUT_S = 7.0


class Observer(Protocol):
    """What `wire=` accepts: it may attach itself to each configuration (see helpers/wire)."""

    def observe(self, configuration: QuicConfiguration) -> None: ...


def new_configuration(is_client: bool, wire: Observer | None = None) -> QuicConfiguration:
    """Return the QUIC settings that both ends share; the caller adds its certificates."""
    configuration = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=["h3"],  # RFC 9114 section 3.1
        idle_timeout=IDLE_TIMEOUT_S,
        max_data=CONNECTION_WINDOW_BYTES,
        max_stream_data=STREAM_WINDOW_BYTES,
        max_datagram_frame_size=65536,  # RFC 9221 section 3: any datagram that fits a packet
    )
    if wire is not None:
        wire.observe(configuration)
    return configuration
