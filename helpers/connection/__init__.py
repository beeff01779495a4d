"""One HTTP/3 connection, the same for both ends.

`http3` is the protocol without any I/O, `driver` the loop around it, `udp` the socket below,
`total` what a server's connections hold; `aioquic_inside` is the one place that relies on what
aioquic does not promise.

Without it: a stream is reset, and its reader waits for ever (notebook 07).
"""

from helpers.connection.aioquic_inside import distrust_of
from helpers.connection.configuration import (
    MAX_DATAGRAM_BYTES,
    Address,
    Observer,
    new_configuration,
)
from helpers.connection.driver import Driver
from helpers.connection.http3 import ConnectionState, HTTP3Connection, OnRequest
from helpers.connection.total import Total
from helpers.connection.udp import NOBODY_LISTENS, UDPSocket, means_unavailable

__all__ = [
    "MAX_DATAGRAM_BYTES",
    "NOBODY_LISTENS",
    "Address",
    "ConnectionState",
    "Driver",
    "HTTP3Connection",
    "Observer",
    "OnRequest",
    "Total",
    "UDPSocket",
    "distrust_of",
    "means_unavailable",
    "new_configuration",
]
