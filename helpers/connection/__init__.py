"""One HTTP/3 connection, the same for both ends.

`http3` turns events into streams, `driver` is the loop around it, `udp` the socket below;
`aioquic_inside` is the one place that relies on what aioquic does not promise.
"""

from helpers.connection.aioquic_inside.flow_control import peer_certificate
from helpers.connection.driver import State
from helpers.connection.http3 import HTTP3Connection, Observer, new_configuration
from helpers.connection.udp import Address, UDPSocket, means_unavailable

__all__ = [
    "Address",
    "HTTP3Connection",
    "Observer",
    "State",
    "UDPSocket",
    "means_unavailable",
    "new_configuration",
    "peer_certificate",
]
