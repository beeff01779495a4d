"""A network with distance and loss between a client and a server on this machine.

`link` is the relay that puts it there, `line` what happens on it, without any I/O.

Without it: what a distance costs can only be told: on loopback there is none.
"""

from helpers.link.line import Datagram, Line
from helpers.link.link import Link
from helpers.link.tcp import Segments, TCPLink

__all__ = ["Datagram", "Line", "Link", "Segments", "TCPLink"]
