"""All that relies on what aioquic does not promise: its private names, texts and constants.

`quic` is its QUIC connection, `tls` the handshake and `keys` the keys in it, `http3` its HTTP/3
layer, each with what is missing there; `texts` is what it says in English.
tests/test_aioquic_inside.py fails when aioquic changes under any of it.

Without it: a reader sleeps, and all that was written lies in memory (notebook 07); aioquic has no
public way to hold it up.
"""

from helpers.connection.aioquic_inside.http3 import HTTP3Layer
from helpers.connection.aioquic_inside.quic import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    QUICLayer,
)
from helpers.connection.aioquic_inside.texts import distrust_of

__all__ = [
    "CONNECTION_WINDOW_BYTES",
    "STREAM_WINDOW_BYTES",
    "HTTP3Layer",
    "QUICLayer",
    "distrust_of",
]
