"""What a server says to a client that it does not know yet, and keeps nothing for it.

Anybody can send a first packet, with any address as its sender, and a handshake costs memory and
time. Two answers come before it: Version Negotiation, to a client that speaks another QUIC, and
Retry, which asks a client to show that it is where it says it is (RFC 9000 sections 6 and 8.1).
"""

import os
import time

from aioquic.buffer import Buffer
from aioquic.quic.packet import (
    QuicHeader,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from helpers.connection import Address

# RFC 9000 section 7.2: the connection ID that a client makes up for its first packet.
MIN_FIRST_ID_BYTES = 8


class Tokens:
    """Proof that a client is at its address: what was sent there comes back (RFC 9000, 8.1.2).

    The token says all that has to be known of the client, so nothing is kept for it meanwhile.
    """

    def __init__(self) -> None:
        self._handler = QuicRetryTokenHandler()

    def retry(self, header: QuicHeader, address: Address) -> bytes:
        """Return the Retry packet that answers a client's first packet."""
        assert header.version is not None  # only packets that come later leave it out
        our_id = os.urandom(MIN_FIRST_ID_BYTES)
        token = self._handler.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=our_id,
            now=time.monotonic(),
        )
        return encode_quic_retry(
            version=header.version,
            source_cid=our_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def original_id(self, header: QuicHeader, address: Address) -> bytes | None:
        """Return the connection ID that a client chose before its Retry; None where it had none."""
        try:
            return self._handler.validate_token(
                address=address,
                destination_cid=header.destination_cid,
                token=header.token,
                now=time.monotonic(),
            )
        except ValueError:
            return None


def negotiate_version(data: bytes, versions: list[int]) -> bytes | None:
    """Return the answer to a packet of a version not spoken here (RFC 9000 section 6), or None.

    Only what all versions share is looked at (RFC 8999 section 5.1).
    """
    buffer = Buffer(data=data)
    try:
        is_long = buffer.pull_uint8() & 0x80
        version = buffer.pull_uint32()
        destination_id = buffer.pull_bytes(buffer.pull_uint8())
        source_id = buffer.pull_bytes(buffer.pull_uint8())
    except ValueError:
        return None
    if not is_long or version == QuicProtocolVersion.NEGOTIATION or version in versions:
        return None
    return encode_quic_version_negotiation(
        source_cid=destination_id, destination_cid=source_id, supported_versions=versions
    )
