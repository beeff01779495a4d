"""What a certificate's extensions say: for whom it is, and what for (RFC 5280 section 4.2).

They are read one by one here. A parser that reads all at once refuses a certificate for one odd
name in it; OpenSSL passes over that name, and the others serve.
"""

import ipaddress
import re

from cryptography import x509

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Tags as DER writes them (ITU-T X.690 section 8.1.2).
BOOLEAN = 0x01
EXTENSIONS = 0xA3  # [3] of a certificate
DNS_NAME, IP_ADDRESS = 0x82, 0x87  # [2] and [7] of a GeneralName
INDEFINITE = 0x80  # a length that DER does not have; above it, so many bytes hold the length
# Object identifiers: 2.5.29.15, .17, .19 and .37; 1.3.6.1.5.5.7.3.1.
KEY_USAGE, ALTERNATIVE_NAMES = bytes.fromhex("551d0f"), bytes.fromhex("551d11")
BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE = bytes.fromhex("551d13"), bytes.fromhex("551d25")
SERVER_AUTH = bytes.fromhex("2b06010505070301")
# digitalSignature, keyEncipherment, keyAgreement: OpenSSL is content with any of them.
KEY_USAGES_OF_A_SERVER = 0x80 | 0x20 | 0x08

# `*` is a whole label, the first of three at least.
WILDCARD = re.compile(r"\*((?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?){2,})")
LABEL = re.compile(r"[a-z0-9-]+")


def names(certificate: x509.Certificate) -> list[str]:
    """Return the host names and IP addresses that a certificate is for.

    They stand in its subject alternative names; nothing else counts (RFC 9110 section 4.3.4). What
    is not ASCII is escaped, and a host name that reads like an address is given as `DNS:127.0.0.1`;
    an address of an impossible length is left out.
    """
    return [
        f"DNS:{name}" if isinstance(name, str) and _address(name) else str(name)
        for name in _names(certificate)
    ]


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Return whether a certificate is for a host name or an IP address, as OpenSSL judges.

    `*` stands for one whole label, the first of three at least; an address matches an address
    alone, never a name that reads like one (RFC 9525 section 6).
    """
    address, alternatives = _address(host), _names(certificate)
    if address is not None:
        return address in alternatives
    hosts = [name.lower() for name in alternatives if isinstance(name, str)]
    return any(_covers(name, host.lower()) for name in hosts)


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:  # a name, then
        return None


def _covers(name: str, host: str) -> bool:
    wildcard = WILDCARD.fullmatch(name)
    if wildcard is None:
        return name == host
    rest = wildcard[1]
    return host.endswith(rest) and LABEL.fullmatch(host.removesuffix(rest)) is not None


def _names(certificate: x509.Certificate) -> list[str | Address]:
    found: list[str | Address] = []
    for tag, content in _elements(_extension(certificate, ALTERNATIVE_NAMES) or b""):
        if tag == DNS_NAME:
            found.append(repr(content)[2:-1])
        elif tag == IP_ADDRESS and len(content) in (4, 16):
            found.append(ipaddress.ip_address(content))
    return found


def is_ca(certificate: x509.Certificate) -> bool:
    """Return whether a certificate may issue others (RFC 5280 section 4.2.1.9)."""
    constraints = _elements(_extension(certificate, BASIC_CONSTRAINTS) or b"")
    return any(tag == BOOLEAN and any(content) for tag, content in constraints)


def why_not_for_servers(certificate: x509.Certificate) -> str | None:
    """Return which extension forbids a certificate to be a server's, None where it may be one.

    As OpenSSL judges (RFC 5280 sections 4.2.1.3 and 4.2.1.12): where a usage is stated, it must be
    that of a server.
    """
    purposes = _extension(certificate, EXTENDED_KEY_USAGE)
    if purposes is not None and SERVER_AUTH not in [oid for _, oid in _elements(purposes)]:
        return "its extended key usage is without serverAuth"
    bits = _extension(certificate, KEY_USAGE)
    # The first byte of a BIT STRING tells how many bits of the last are not used.
    if bits is not None and not (len(bits) > 1 and bits[1] & KEY_USAGES_OF_A_SERVER):
        return "its key usage is without digitalSignature"
    return None


def _extension(certificate: x509.Certificate, oid: bytes) -> bytes | None:
    """Return what an extension holds, None where there is none; nothing where it is damaged."""
    ((_, fields),) = _elements(certificate.tbs_certificate_bytes)
    explicit = dict(_elements(fields)).get(EXTENSIONS, b"")
    extensions = [_elements(one) for _, many in _elements(explicit) for _, one in _elements(many)]
    values = [parts[-1][1] for parts in extensions if parts[0][1] == oid]
    if not values:
        return None
    held = _elements(values[0])
    return held[0][1] if len(values) == len(held) == 1 else b""


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return the elements that stand side by side, each as tag and content; none in damaged DER."""
    found = []
    while der:
        start, length = 2, der[1] if len(der) > 1 else INDEFINITE
        if length > INDEFINITE:
            start += length - INDEFINITE
            length = int.from_bytes(der[2:start])
        elif length == INDEFINITE:
            return []
        if len(der) < start + length:
            return []
        found.append((der[0], der[start : start + length]))
        der = der[start + length :]
    return found
