"""What aioquic says in English, and nowhere else.

Its errors have a code and a text; where several things share a code, the text tells them apart.
"""

from helpers.certificates import Distrust

# The end of a connection that no frame announced.
IDLE_TIMEOUT = "Idle timeout"
EXPIRED = "Certificate is no longer valid"
NOT_YET_VALID = "Certificate is not valid yet"
# OpenSSL's, of which some releases say more after that; aioquic asks it about the whole chain when
# the server's certificate is in time.
ISSUER_EXPIRED = "certificate has expired"
ISSUER_NOT_YET_VALID = "certificate is not yet valid"
UNKNOWN_ISSUER = {
    "unable to get local issuer certificate",
    "unable to get issuer certificate",
    "unable to verify the first certificate",
    "self-signed certificate",
    "self-signed certificate in certificate chain",
}
# Ours (tls.py), which a failed handshake carries in the same way.
WRONG_NAME = "hostname "
WRONG_USE = "not for servers: "


def distrust_of(reason: str) -> Distrust:
    """Return why a certificate was refused, from the reason of the failed handshake.

    All of these are TLS alerts of two kinds (RFC 8446 section 6.2), which do not say as much.
    """
    if reason == EXPIRED:
        return Distrust.EXPIRED
    if reason == NOT_YET_VALID:
        return Distrust.NOT_YET_VALID
    if reason.startswith(ISSUER_EXPIRED):
        return Distrust.ISSUER_EXPIRED
    if reason.startswith(ISSUER_NOT_YET_VALID):
        return Distrust.ISSUER_NOT_YET_VALID
    if reason.startswith(WRONG_NAME):
        return Distrust.WRONG_NAME
    if reason.startswith(WRONG_USE):
        return Distrust.WRONG_USE
    if reason in UNKNOWN_ISSUER:
        return Distrust.UNKNOWN_ISSUER
    return Distrust.INVALID
