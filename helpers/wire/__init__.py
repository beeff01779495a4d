"""What goes over the wire, made visible: `log` is what a notebook asks.

`qlog` records, `frames` reads the record, `handshake` and `ladder` draw it.

Without it: what was sent is believed, since nobody has seen it.
"""

from helpers.wire.log import WireLog

__all__ = ["WireLog"]
