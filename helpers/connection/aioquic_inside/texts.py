"""What aioquic says in English, and nowhere else.

Its errors have a code and a text; where several things share a code, the text tells them apart.
"""

from helpers.certificates import Distrust

# The end of a connection that no frame announced.
IDLE_TIMEOUT = "Idle timeout"
EXPIRED = "Certificate is no longer valid"
NOT_YET_VALID = "Certificate is not valid yet"
WRONG_NAME = "hostname "
NO_NAMES = "subjectAltName"


def distrust_of(reason: str) -> Distrust:
    """Return why a certificate was refused, from the reason of the failed handshake.

    All of these are TLS alerts of three kinds (RFC 8446 section 6.2), which do not say as much.
    """
    if reason == EXPIRED:
        return Distrust.EXPIRED
    if reason == NOT_YET_VALID:
        return Distrust.NOT_YET_VALID
    if reason.startswith(WRONG_NAME) or NO_NAMES in reason:
        return Distrust.WRONG_NAME
    return Distrust.UNKNOWN_ISSUER
