"""What a handler or a client holds of a request: its stream.

`stream` is the whole of it, `halves` the two one-way streams that it consists of (RFC 9000 section
2.1), `fields` how its header sections are written and checked.

Without it: a line is slow, nobody makes the writer wait, and the news is older with each piece
(notebook 07).
"""

from helpers.stream.fields import (
    CONNECTION_SPECIFIC,
    MAX_FIELD_BYTES,
    NAME,
    Fields,
    Headers,
    content_length,
    encode_fields,
    join_cookies,
    section_bytes,
)
from helpers.stream.halves import (
    MAX_DATA_FRAME_BYTES,
    Half,
    ReceivingHalf,
    SendingHalf,
    check_code,
)
from helpers.stream.stream import HTTP3Stream

__all__ = [
    "CONNECTION_SPECIFIC",
    "MAX_DATA_FRAME_BYTES",
    "MAX_FIELD_BYTES",
    "NAME",
    "Fields",
    "HTTP3Stream",
    "Half",
    "Headers",
    "ReceivingHalf",
    "SendingHalf",
    "check_code",
    "content_length",
    "encode_fields",
    "join_cookies",
    "section_bytes",
]
