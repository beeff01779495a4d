"""What goes over the wire, made visible: `log` is what a notebook asks.

`qlog` records, `frames` reads the record, `handshake` and `ladder` draw it.
"""

from helpers.wire.log import WireLog

__all__ = ["WireLog"]
