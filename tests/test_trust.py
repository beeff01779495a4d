"""Whom our client trusts: whom OpenSSL trusts; and what is said about the others.

Each certificate is shown in two handshakes in memory: one of ours, and one of Python's ssl, whose
OpenSSL decides what is right.
"""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from aioquic.quic.events import HandshakeCompleted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509 import ExtensionOID
from cryptography.x509.oid import ExtendedKeyUsageOID

from helpers.certificates import (
    CertificateFileError,
    Credentials,
    check_key_pair,
    credentials,
    describe,
    explain_distrust,
    extensions,
    pem,
)
from helpers.checks.certificates import refusal
from helpers.connection import distrust_of, new_configuration
from helpers.connection.aioquic_inside import QUICLayer
from helpers.server import Server
from tests.pair import ADDRESS

DAY = timedelta(days=1)
NOW = datetime.now(UTC)


class Issued:
    """A certificate and its key, issued by another or by itself."""

    def __init__(self, name, issuer=None, extensions=(), key=None, start=NOW - DAY, end=NOW + DAY):
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        issuer = issuer or self
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(
            issuer.subject, self.subject, self.key.public_key(), x509.random_serial_number()
        )
        builder = builder.not_valid_before(start).not_valid_after(end)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        edwards = isinstance(issuer.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        self.certificate = builder.sign(issuer.key, None if edwards else hashes.SHA256())
        self.chain = [] if issuer is self else [self, *issuer.chain]

    def show(self, directory):
        """Write the files that a server shows."""
        files = Credentials(*(directory / name for name in ("ca.pem", "cert.pem", "key.pem")))
        form, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
        sent = self.chain or [self]
        pems = [one.certificate.public_bytes(encoding) for one in sent]
        files.cert_file.write_bytes(b"".join(pems))
        key = self.key.private_bytes(encoding, form, serialization.NoEncryption())
        files.key_file.write_bytes(key)
        return files

    def trust(self, file):
        file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))


def usage(**granted):
    """A key usage with nothing but what is granted."""
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**(dict.fromkeys(names.split(), False) | granted))


def a_ca(name, issuer=None, length=None, **more):
    constraints = x509.BasicConstraints(ca=True, path_length=length)
    rights = usage(key_cert_sign=True)
    return Issued(name, issuer, [constraints, rights, *more.pop("extensions", ())], **more)


def names(*alternatives):
    return x509.SubjectAlternativeName(alternatives)


def raw_names(*parts):
    """Alternative names as a careless issuer writes them; each part is a tag and its content."""
    encoded = b"".join(bytes([tag]) + _length(content) + content for tag, content in parts)
    der = b"\x30" + _length(encoded) + encoded
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, der)


def _length(content):
    size = len(content)
    return bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")


ROOT = a_ca("root")
LOCALHOST = names(x509.DNSName("localhost"))
DNS, IP, URI, EMAIL = 0x82, 0x87, 0x86, 0x81


def ours(files, ca_file, name):
    """Return why our client refuses what a server shows; None if it does not."""
    mine, theirs = new_configuration(is_client=True), new_configuration(is_client=False)
    mine.load_verify_locations(cadata=ca_file.read_bytes())
    mine.server_name = name
    theirs.certificate, *theirs.certificate_chain = pem.read_certificates(files.cert_file)
    theirs.private_key = pem.read_key(files.key_file)
    all_that_is_asked = lambda size_bytes: size_bytes  # noqa: E731
    client = QUICLayer(mine, lambda stream_id: 0, all_that_is_asked)
    client.connect(ADDRESS, now=0.0)
    original_id = client.original_destination_connection_id
    server = QUICLayer(theirs, lambda stream_id: 0, all_that_is_asked, original_id)
    for turn in range(6):
        ends = (client, server) if turn % 2 == 0 else (server, client)
        for data, _ in ends[0].datagrams_to_send(now=0.0):
            ends[1].receive_datagram(data, ADDRESS, now=0.0)
    lost = client.why_closing()
    completed = any(isinstance(event, HandshakeCompleted) for event in events_of(client))
    assert completed == (lost is None)
    return None if lost is None else lost.reason


def events_of(layer):
    while (event := layer.next_event()) is not None:
        yield event


@pytest.fixture
def judged(tmp_path):
    """Returns why our client refuses, once OpenSSL has been asked whether it should."""

    def judge(shown, name="localhost", root=ROOT):
        files = shown.show(tmp_path)
        root.trust(files.ca_file)
        theirs = refusal(files, files.ca_file, name)
        reason = ours(files, files.ca_file, name)
        assert (reason is None) == (theirs is None), (reason, theirs)
        return reason

    return judge


@pytest.fixture
def explained(judged):
    def explain(shown, name="localhost", root=ROOT):
        reason = judged(shown, name, root)
        return (
            explain_distrust(distrust_of(reason), shown.certificate, name, reason, None),
            explain_distrust(distrust_of(reason), None, name, reason, None),
        )

    return explain


# ---- names

ODD = {
    "an address as a name": (DNS, b"127.0.0.1"),
    "a number": (DNS, b"1"),
    "everything": (DNS, b"*"),
    "a part of a label": (DNS, b"x*.test"),
    "two stars": (DNS, b"*.*.test"),
    "a star inside": (DNS, b"a.*.test"),
    "empty": (DNS, b""),
    "a space": (DNS, b" "),
    "not ASCII": (DNS, "bücher.test".encode()),
    "an A-label that is none": (DNS, b"xn--\xff.test"),
    "too long": (DNS, b"a" * 300 + b".test"),
    "a NUL": (DNS, b"localhost\0.test"),
    "an address of five bytes": (IP, b"12345"),
    "an address without bytes": (IP, b""),
    "a network": (IP, bytes([10, 0, 0, 0, 255, 0, 0, 0])),
    "a URI that is none": (URI, b"nonsense"),
    "an e-mail address that is none": (EMAIL, b"\xff"),
    "an X.400 address": (0xA3, b""),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("is_first", [True, False])
def test_one_odd_name_leaves_the_others_usable(judged, odd, is_first):
    good = [(DNS, b"good.test"), (IP, bytes([127, 0, 0, 1]))]
    shown = Issued("leaf", ROOT, [raw_names(*([odd, *good] if is_first else [*good, odd]))])
    assert judged(shown, "good.test") is None
    assert judged(shown, "127.0.0.1") is None
    assert judged(shown, "other.test") == "hostname 'other.test' is not in the certificate"


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_name_alone_is_for_nobody(judged, odd):
    shown = Issued("leaf", ROOT, [raw_names(odd)])
    for host in ("localhost", "127.0.0.1", "xa.test", "a.b.test"):
        assert judged(shown, host) == f"hostname {host!r} is not in the certificate"


NAMES = {
    "localhost": ["LOCALHOST", "localhos", "a.localhost", "localhost.test"],
    "Example.TEST": ["example.test", "www.example.test"],
    "*.example.test": ["a.example.test", "A.EXAMPLE.test", "example.test", "a.b.example.test"],
    "*.test": ["a.test", "test"],
    "*.a_b.test": ["x.a_b.test"],
    "*.xn--bcher-kva.test": ["www.xn--bcher-kva.test", "xn--www.xn--bcher-kva.test"],
    "xn--bcher-kva.test": ["xn--bcher-kva.test"],
    "a_b.test": ["a_b.test"],
    "*.0.0.1": ["127.0.0.1"],
    "www.example.test.": ["www.example.test"],
    "*a.example.test": ["ba.example.test"],
    "a*.example.test": ["ab.example.test"],
    "*.-a.example.test": ["b.-a.example.test"],
}


@pytest.mark.parametrize(
    ("name", "host"), [(name, host) for name, hosts in NAMES.items() for host in hosts]
)
def test_a_name_is_for_the_hosts_that_openssl_takes_it_for(judged, name, host):
    judged(Issued("leaf", ROOT, [raw_names((DNS, name.encode()))]), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "::2", "::ffff:127.0.0.1"])
def test_an_address_is_for_itself(judged, host):
    addresses = [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
    judged(Issued("leaf", ROOT, [names(*addresses)]), host)


@pytest.mark.parametrize(
    "stated",
    [
        [],
        [
            names(
                x509.RFC822Name("a@localhost"), x509.UniformResourceIdentifier("https://localhost")
            )
        ],
    ],
    ids=["none", "others"],
)
def test_a_common_name_is_no_name(tmp_path, stated):
    """Here OpenSSL, left to itself, takes it for one: RFC 9110 section 4.3.4 does not."""
    shown = Issued("localhost", ROOT, stated)
    files = shown.show(tmp_path)
    ROOT.trust(files.ca_file)
    reason = ours(files, files.ca_file, "localhost")
    assert explain_distrust(distrust_of(reason), shown.certificate, "localhost", reason, None) == (
        "Certificate is for no name, not for 'localhost'."
    )


@pytest.mark.parametrize("host", ["example.test", "127.0.0.2", "::2"])
def test_a_wrong_name_is_explained(explained, host):
    parts = [(DNS, b"localhost"), (DNS, b"127.0.0.2"), (IP, bytes([127, 0, 0, 1])), (IP, b"1")]
    assert explained(Issued("leaf", ROOT, [raw_names(*parts)]), host) == (
        f"Certificate is for localhost, DNS:127.0.0.2, 127.0.0.1, not for '{host}'.",
        f"Certificate is for other names, not for '{host}'.",
    )


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x30\x0b\x82\x20localhost",  # the name is longer than what holds it
        b"\x30\x80\x82\x09localhost\0\0",  # without a length, as BER has it
        b"\x30\x0b\x82\x09localhost\x82",  # something follows
        b"\x82\x09localhost",
        b"\x30",
        b"",
    ],
)
def test_names_in_a_damaged_extension_are_for_nobody(damaged):
    held = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, damaged)
    certificate = Issued("localhost", ROOT, [held]).certificate
    assert not extensions.is_for(certificate, "localhost")
    assert "localhost" not in extensions.names(certificate)


# ---- what a certificate may be used for

CLIENTS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
USAGES = {
    "clients": ([CLIENTS], "its extended key usage is without serverAuth"),
    "anything": (
        [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])],
        "its extended key usage is without serverAuth",
    ),
    "clients and servers": (
        [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])],
        None,
    ),
    "certificates": ([usage(key_cert_sign=True)], "its key usage is without digitalSignature"),
    "signatures": ([usage(digital_signature=True)], None),
    "keys": ([usage(key_encipherment=True)], None),
    "agreement": ([usage(key_agreement=True, decipher_only=True)], None),
}


@pytest.mark.parametrize(("stated", "unfit"), USAGES.values(), ids=USAGES)
def test_a_certificate_serves_where_its_usage_is_a_servers(judged, stated, unfit):
    shown = Issued("leaf", ROOT, [LOCALHOST, *stated])
    assert judged(shown) == (unfit and f"not for servers: {unfit}")


def test_a_usage_that_forbids_servers_is_explained(explained):
    with_details, without = explained(Issued("leaf", ROOT, [LOCALHOST, CLIENTS]))
    assert with_details == without
    assert with_details == (
        "Certificate is not for servers: its extended key usage is without serverAuth. Have one "
        "issued that is."
    )


# ---- keys

KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_keys_that_openssl_takes_are_taken(judged, key):
    assert judged(Issued("leaf", ROOT, [LOCALHOST], key=key)) is None


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_keys_that_a_handshake_uses_are_taken_at_once(tmp_path, key):
    files = Issued("leaf", ROOT, [LOCALHOST], key=key).show(tmp_path)
    check_key_pair(files.cert_file, files.key_file)


NO_KEYS = {
    "EC secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "EC secp224r1": ec.generate_private_key(ec.SECP224R1()),
    "EC brainpoolP256r1": ec.generate_private_key(ec.BrainpoolP256R1()),
    "DSA 1024 bits": dsa.generate_private_key(1024),
}


@pytest.mark.parametrize(("kind", "key"), NO_KEYS.items(), ids=NO_KEYS)
def test_keys_that_no_handshake_uses_are_refused_at_once(tmp_path, kind, key):
    shown = Issued("leaf", ROOT, [LOCALHOST], key=key)
    _refused_at_once(shown.show(tmp_path), rf"cannot sign a handshake here: {kind}\. Use P-256")


def _refused_at_once(files, text):
    with pytest.raises(CertificateFileError, match=text):
        Server(cert_file=files.cert_file, key_file=files.key_file)


# Object identifier and parameters.
RSA = bytes.fromhex("06092a864886f70d0101010500")
KINDS_OF_RSA = {
    "RSA-PSS 2048 bits": bytes.fromhex("06092a864886f70d01010a3000"),
    "algorithm 1.2.840.113549.1.1.99, not known here": bytes.fromhex("06092a864886f70d0101630500"),
}


@pytest.mark.parametrize(("kind", "oid"), KINDS_OF_RSA.items(), ids=KINDS_OF_RSA)
def test_a_key_whose_algorithm_is_another_is_named(tmp_path, kind, oid):
    shown = Issued("leaf", ROOT, [LOCALHOST], key=KEYS["RSA"])
    files = shown.show(tmp_path)
    der = shown.certificate.public_bytes(serialization.Encoding.DER)
    assert der.count(RSA) == 1
    files.cert_file.write_text(ssl.DER_cert_to_PEM_cert(der.replace(RSA, oid)))
    assert describe(files.cert_file).key_type == kind
    _refused_at_once(files, f"cannot sign a handshake here: {kind}")


def test_a_short_rsa_key_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(credentials, "MIN_RSA_BITS", 2049)  # cryptography makes none below 1024
    shown = Issued("leaf", ROOT, [LOCALHOST], key=KEYS["RSA"])
    _refused_at_once(shown.show(tmp_path), "cannot sign a handshake here: RSA 2048 bits")


@pytest.mark.parametrize(("stated", "unfit"), USAGES.values(), ids=USAGES)
def test_a_usage_that_forbids_servers_is_refused_at_once(tmp_path, stated, unfit):
    files = Issued("leaf", ROOT, [LOCALHOST, *stated]).show(tmp_path)
    if unfit is None:
        Server(cert_file=files.cert_file, key_file=files.key_file)
    else:
        _refused_at_once(files, f"is not for servers: {unfit}. Pass a certificate that is")


# ---- who issued it, and when


def test_an_unknown_issuer_is_explained(explained):
    message = (
        "Certificate not trusted: unable to get local issuer certificate. "
        "Pass ca_file=... of the CA that issued it."
    )
    shown = Issued("leaf", a_ca("other"), [LOCALHOST])
    assert explained(shown) == (message, message)


PAST = {"start": datetime(2019, 1, 1), "end": datetime(2020, 1, 1, 12)}
FUTURE = {"start": datetime(2219, 1, 1), "end": datetime(2220, 1, 1)}


def test_an_expired_certificate_is_explained(explained):
    remedy = "Make a new one, or set this machine's clock."
    assert explained(Issued("leaf", ROOT, [LOCALHOST], **PAST)) == (
        f"Certificate expired on 2020-01-01 12:00 UTC. {remedy}",
        f"Certificate expired. {remedy}",
    )


def test_a_certificate_from_the_future_is_explained(explained):
    remedy = "Make a new one, or set this machine's clock."
    assert explained(Issued("leaf", ROOT, [LOCALHOST], **FUTURE)) == (
        f"Certificate is not valid before 2219-01-01 00:00 UTC. {remedy}",
        f"Certificate is not valid yet. {remedy}",
    )


@pytest.mark.parametrize(("times", "what"), [(PAST, "has expired"), (FUTURE, "is not valid yet")])
@pytest.mark.parametrize("is_root", [True, False])
def test_where_the_cas_time_is_over_the_certificate_is_not_blamed(explained, times, what, is_root):
    ca = a_ca("ca", None if is_root else ROOT, **times)
    shown = Issued("leaf", ca, [LOCALHOST])
    message, _ = explained(shown, root=ca if is_root else ROOT)
    assert message == (
        f"Certificate not accepted: that of a CA above it {what}. Make new ones, the CA's too, or "
        "set this machine's clock."
    )


SHORT = a_ca("short", ROOT, length=0)
ELSEWHERE = x509.NameConstraints([x509.DNSName("example.test")], None)
UNFIT_CHAINS = {
    "path length constraint exceeded": Issued("leaf", a_ca("under", SHORT), [LOCALHOST]),
    "permitted subtree violation": Issued(
        "leaf", a_ca("named", ROOT, extensions=[ELSEWHERE]), [LOCALHOST]
    ),
    "invalid CA certificate": Issued("leaf", Issued("no ca", ROOT), [LOCALHOST]),
}


@pytest.mark.parametrize(("reason", "shown"), UNFIT_CHAINS.items(), ids=UNFIT_CHAINS)
def test_where_a_ca_may_not_issue_it_nobody_is_told_to_trust_that_ca(explained, reason, shown):
    message, _ = explained(shown)
    assert message == (
        f"Certificate not accepted: {reason}. A CA above it does not allow it, or it is damaged: "
        "have it issued anew."
    )
