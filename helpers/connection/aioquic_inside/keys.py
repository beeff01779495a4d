"""aioquic's keys for what is received, with the next ones derived once.

A bit in each packet's header says which of two keys it is sealed with (RFC 9001 section 6), and
until the seal is checked, anybody may have set it. aioquic derives the next key for each packet
that asks for it, and so a forged one costs it three times as much as another.
"""

from aioquic.quic.crypto import CryptoContext, next_key_phase
from aioquic.quic.packet import is_long_header

KEY_PHASE_BIT = 0x04


class ReceivingKeys(CryptoContext):
    """What opens one connection's packets; takes over from a context that has no key yet."""

    def __init__(self, context: CryptoContext) -> None:
        vars(self).update(vars(context))
        self._next: CryptoContext | None = None
        self._next_of: bytes | None = None

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int, bool]:
        """Return a packet's header, payload and number, and whether its key was the next one.

        Raises aioquic's CryptoError where no key of ours sealed it.
        """
        arguments = packet, encrypted_offset, expected_packet_number
        if self.hp is None or is_long_header(packet[0]):
            return super().decrypt_packet(*arguments)
        header, _ = self.hp.remove(packet, encrypted_offset)
        if bool(header[0] & KEY_PHASE_BIT) == bool(self.key_phase):
            return super().decrypt_packet(*arguments)
        # RFC 9001 section 6.3: made ahead, and the time that it takes tells nobody anything.
        if self._next is None or self._next_of != self.secret:
            self._next, self._next_of = next_key_phase(self), self.secret
            self._next.hp = self.hp  # this key stays
        header, payload, packet_number, _ = self._next.decrypt_packet(*arguments)
        return header, payload, packet_number, True
