"""aioquic's TLS, which judges a server's certificate as OpenSSL does.

aioquic has OpenSSL verify the chain, and asks a package about the name (service-identity), which
raises for one odd name among good ones. What the certificate may be used for nobody asks. And of
the three curves that TLS 1.3 signs with (RFC 8446 section 4.2.3) it uses two.
"""

import ssl

from aioquic.buffer import Buffer
from aioquic.tls import AlertBadCertificate, Context, SignatureAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from helpers.certificates import is_for, why_not_for_servers
from helpers.connection.aioquic_inside import texts

P521 = SignatureAlgorithm.ECDSA_SECP521R1_SHA512


class TLSLayer(Context):
    """One connection's TLS; takes over from a Context that has not begun."""

    def __init__(self, context: Context) -> None:
        # aioquic makes its own class, with all that the connection's configuration says.
        vars(self).update(vars(context))
        self._signature_algorithms = [*self._signature_algorithms, P521]

    def _signature_algorithms_for_private_key(self) -> list[SignatureAlgorithm]:
        key = self.certificate_private_key
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP521R1):
            return [P521]
        return super()._signature_algorithms_for_private_key()

    def _client_handle_certificate_verify(self, input_buf: Buffer) -> None:
        # Before the state moves on: what is refused here must not be followed by a Finished.
        host, certificate = self._server_name, self._peer_certificate
        if self._verify_mode != ssl.CERT_NONE and certificate is not None:
            if host is not None and not is_for(certificate, host):
                raise AlertBadCertificate(f"{texts.WRONG_NAME}{host!r} is not in the certificate")
            unfit = why_not_for_servers(certificate)
            if unfit is not None:
                raise AlertBadCertificate(f"{texts.WRONG_USE}{unfit}")
        self._server_name = None  # then aioquic checks all but the name
        super()._client_handle_certificate_verify(input_buf)
        self._server_name = host
