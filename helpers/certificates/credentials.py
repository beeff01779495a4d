"""A throwaway CA and the certificate it issues: made, checked, described.

HTTP/3 has no plain-text form: QUIC carries TLS 1.3 inside (RFC 9001 section 4), so even a server
on localhost needs a certificate, and its client a reason to trust it. Here that reason is a CA of
your own, made by trustme. The CA's key is never written to disk: nobody, not even you, can issue
a second certificate with it.
"""

import base64
import contextlib
import hashlib
import ipaddress
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from html import escape
from pathlib import Path

import idna
import trustme
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import PublicKeyAlgorithmOID

from helpers.certificates import extensions, pem
from helpers.display import style
from helpers.errors import CertificateFileError

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

# What public CAs commonly grant a web server: long enough for a course, and a copy that is
# forgotten on some disk stops working by itself.
VALIDITY = timedelta(days=90)
# Clocks of containers and virtual machines run behind their host's.
CLOCK_SKEW = timedelta(hours=1)
# A kernel that stays open overnight must not see its certificate expire.
MARGIN = timedelta(days=1)
LOCK_TIMEOUT_S = 10.0
# OpenSSL takes no less at any of its security levels above 0.
MIN_RSA_BITS = 1024
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Credentials:
    """Three PEM files: what a client trusts (`ca_file`), what a server shows and signs with."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def load_or_create(
    directory: str | os.PathLike[str] = "certs", names: Sequence[str] = LOCAL_NAMES
) -> Credentials:
    """Return ca.pem, cert.pem and key.pem in `directory`, made anew unless they still serve.

    They serve while all three parse and belong together, and the certificate holds each of `names`
    (host names or IP addresses) and is valid for another day. Any number of notebooks may call
    this at once. A call with other names replaces the files: give each set of names a directory of
    its own. Nothing is written where they serve, so the disk may be full or read-only then.

    A class may share one checkout that none of it can write to. What would be in there is then in
    the same place below `.http3-streaming` in the user's home.

    The paths that are returned are absolute: changing the working directory changes nothing.
    Raises CertificateFileError where a name cannot be in a certificate, or the directory cannot be
    used, or holds a certificate that trustme did not make; that one is never overwritten.
    """
    names = [_as_in_certificate(name) for name in ([names] if isinstance(names, str) else names)]
    if not names:
        raise CertificateFileError("A certificate needs a name. Pass names=..., or leave it out.")
    directory = Path(directory).absolute()
    files = _files(directory)
    if _serve(files, names):
        return files
    directory = _writable(directory)
    files = _files(directory)
    if _serve(files, names):
        return files
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / ".lock"):
            if not _serve(files, names):
                _refuse_foreign(files.cert_file)
                create(files, names)
    except (OSError, sqlite3.Error) as error:
        raise CertificateFileError(
            f"Cannot keep certificates in {directory}: {error}. Pass a directory that you may "
            "write to, and that no other program keeps locked."
        ) from error
    return files


def _files(directory: Path) -> Credentials:
    return Credentials(*(directory / name for name in ("ca.pem", "cert.pem", "key.pem")))


def _writable(directory: Path) -> Path:
    if not directory.is_relative_to(CHECKOUT):
        return directory
    there = next(folder for folder in (directory, *directory.parents) if folder.exists())
    if os.access(there, os.W_OK):
        return directory
    return Path.home() / ".http3-streaming" / directory.relative_to(CHECKOUT)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # SQLite's is the one lock in the standard library that works alike on Linux, macOS and
    # Windows, waits with a bound, and is let go of by the system when its process dies.
    with contextlib.closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield


def _serve(files: Credentials, names: Sequence[str]) -> bool:
    try:
        (leaf, *_), _ = check_key_pair(files.cert_file, files.key_file)
        leaf.verify_directly_issued_by(pem.read_certificates(files.ca_file)[0])
    except (CertificateFileError, ValueError, TypeError, InvalidSignature):
        return False
    now = datetime.now(UTC)
    in_time = leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc - MARGIN
    return in_time and set(names) <= set(extensions.names(leaf))


def _as_in_certificate(name: str) -> str:
    """Return a name as clients look for it: an address in its short form, a host in A-labels."""
    with contextlib.suppress(ValueError):  # a host name, then
        return str(ipaddress.ip_address(name.split("%")[0]))  # an address has no zone there
    wildcard, host = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    host = host.removesuffix(".")
    try:
        if wildcard and "." not in host:
            raise idna.IDNAError("clients take it for no host")
        # IDNA 2008 (RFC 5891); Python's own codec is of 2003, and writes another name for ß.
        return wildcard + idna.encode(host, uts46=True).decode()
    except idna.IDNAError as error:
        raise CertificateFileError(
            f"{name!r} cannot be in a certificate: {error}. Pass host names, such as 'app.test' or "
            "'*.app.test', and IP addresses."
        ) from error


def _refuse_foreign(cert_file: Path) -> None:
    try:
        issuer = pem.read_certificates(cert_file)[0].issuer.rfc4514_string()
    except CertificateFileError:
        return
    if "trustme" not in issuer:
        raise CertificateFileError(
            f"{cert_file} was issued by {issuer}, and would be replaced together with its key. "
            "Pass another directory, or move these files away."
        )


def create(files: Credentials, names: Sequence[str]) -> None:
    """Write a new CA's certificate, and a server's certificate with its key that this CA issued.

    `load_or_create` calls this, one caller at a time.
    """
    now = datetime.now(UTC)
    ca = trustme.CA(organization_unit_name="Throwaway CA")
    leaf = ca.issue_cert(
        *names,
        organization_unit_name="Throwaway server",
        not_before=now - CLOCK_SKEW,
        not_after=now + VALIDITY,
    )
    # All are written before one is replaced: a disk that is full leaves the old ones.
    written = [
        _write(files.key_file, leaf.private_key_pem.bytes(), mode=0o600),
        _write(files.ca_file, ca.cert_pem.bytes(), mode=0o644),
        _write(files.cert_file, leaf.cert_chain_pems[0].bytes(), mode=0o644),
    ]
    # Whoever dies between two of these leaves files that do not belong together: the next caller
    # finds that out, and makes all three anew.
    for new in written:
        new.replace(new.with_suffix(""))


def _write(path: Path, data: bytes, mode: int) -> Path:
    new = path.with_suffix(".pem.new")
    new.unlink(missing_ok=True)
    new.touch(mode, exist_ok=False)
    new.write_bytes(data)
    return new


def check_ca_file(path: str | os.PathLike[str]) -> list[x509.Certificate]:
    """Return the certificates in `path`, where a client can trust one: a root CA, or a self-signed.

    Raises CertificateFileError with the path, what is wrong with it, and the remedy.
    """
    certificates = pem.read_certificates(path)
    if not any(certificate.issuer == certificate.subject for certificate in certificates):
        issuer = certificates[-1].issuer.rfc4514_string()
        raise CertificateFileError(
            f"{path} holds no root CA: what is in it was issued by {issuer}. Pass the file of that "
            "one, such as ca.pem."
        )
    return certificates


def check_key_pair(
    cert_file: str | os.PathLike[str], key_file: str | os.PathLike[str]
) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    """Return the certificates in `cert_file`, the server's first, and the key that fits it.

    Raises CertificateFileError where either file cannot be used, the two do not belong together,
    or no client would take them from a server, with the paths, what is wrong, and the remedy.
    """
    certificates = pem.read_certificates(cert_file)
    if not _signs_handshakes(certificates[0]):
        raise CertificateFileError(
            f"{cert_file} is for a key that cannot sign a handshake here: "
            f"{_key_type(certificates[0])}. Use P-256, which every client takes, P-384, P-521, RSA "
            f"from {MIN_RSA_BITS} bits on but not RSA-PSS, Ed25519 or Ed448."
        )
    unfit = extensions.why_not_for_servers(certificates[0])
    if unfit is not None:
        raise CertificateFileError(
            f"{cert_file} is not for servers: {unfit}. Pass a certificate that is."
        )
    key = pem.read_key(key_file)
    if pem.public_key_der(certificates[0].public_key()) != pem.public_key_der(key.public_key()):
        raise CertificateFileError(
            f"The key in {key_file} does not match the certificate in {cert_file}. Pass the two "
            "files that were made together."
        )
    return certificates, key


def _signs_handshakes(certificate: x509.Certificate) -> bool:
    """Return whether a certificate's key has a signature scheme of RFC 8446 section 4.2.3 here.

    RSA-PSS has one of its own there, which aioquic does not know.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(key, rsa.RSAPublicKey):
        is_plain = certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5
        return is_plain and key.key_size >= MIN_RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
    return isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)


def spki_sha256(cert_file: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the first certificate's public key in Base64.

    That is the form which Chromium takes in --ignore-certificate-errors-spki-list.
    """
    key = pem.read_certificates(cert_file)[0].public_key()
    return base64.b64encode(hashlib.sha256(pem.public_key_der(key)).digest()).decode()


class Distrust(Enum):
    """Why a client refuses a server's certificate (RFC 5280 section 6.1; RFC 9110, 4.3.4)."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not valid yet"
    WRONG_NAME = "for other names"
    WRONG_USE = "not for servers"
    ISSUER_EXPIRED = "of an issuer whose own has expired"
    ISSUER_NOT_YET_VALID = "of an issuer whose own is not valid yet"
    INVALID = "against a rule of those that issued it"
    UNKNOWN_ISSUER = "of an issuer that is not trusted"


@dataclass(frozen=True)
class Trust:
    """Whom a client trusts: the CAs in one file."""

    ca_file: Path
    certificates: tuple[x509.Certificate, ...]

    def explain(self, certificate: x509.Certificate) -> str:
        """Return who issued a certificate that was refused, and who would have had to."""
        if any(_issued(ca, certificate) for ca in self.certificates):
            return ""  # that was not why
        issuer = certificate.issuer.rfc4514_string()
        trusted = [ca.subject.rfc4514_string() for ca in self.certificates]
        held = "another CA of that name" if issuer in trusted else " and ".join(trusted)
        return f" It was issued by {issuer}, and {self.ca_file} holds {held}."


def _issued(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def explain_distrust(
    distrust: Distrust,
    certificate: x509.Certificate | None,
    server_name: str,
    reason: str,
    trust: Trust | None,
) -> str:
    """Return why a client refused a server's certificate, and what to do.

    `reason` is what the verification said, `certificate` what the server sent, or None where it is
    no longer at hand, `trust` whom the client trusts, None where it trusts the public CAs.
    """
    if distrust is Distrust.EXPIRED:
        until = f" on {_time(certificate.not_valid_after_utc)}" if certificate else ""
        return f"Certificate expired{until}. Make a new one, or set this machine's clock."
    if distrust is Distrust.NOT_YET_VALID:
        since = f"before {_time(certificate.not_valid_before_utc)}" if certificate else "yet"
        return f"Certificate is not valid {since}. Make a new one, or set this machine's clock."
    if distrust is Distrust.WRONG_NAME:
        names = (
            (", ".join(extensions.names(certificate)) or "no name")
            if certificate
            else "other names"
        )
        return f"Certificate is for {names}, not for {server_name!r}."
    if distrust is Distrust.WRONG_USE:
        return f"Certificate is {reason}. Have one issued that is."
    if distrust in (Distrust.ISSUER_EXPIRED, Distrust.ISSUER_NOT_YET_VALID):
        what = "has expired" if distrust is Distrust.ISSUER_EXPIRED else "is not valid yet"
        return (
            f"Certificate not accepted: that of a CA above it {what}. Make new ones, the CA's too, "
            "or set this machine's clock."
        )
    if distrust is Distrust.INVALID:
        return (
            f"Certificate not accepted: {reason}. A CA above it does not allow it, or it is "
            "damaged: have it issued anew."
        )
    if trust is None:
        return f"Certificate not trusted: {reason}. Pass ca_file=... of the CA that issued it."
    # No advice to trust what was refused: whoever is in between would like that.
    return f"Certificate not trusted: {reason}." + (
        trust.explain(certificate) if certificate else ""
    )


@dataclass(frozen=True, repr=False)
class Description:
    """What a certificate says: text where printed, a table where a notebook shows it.

    `not_before` and `not_after` are in UTC; `sha256` is the fingerprint of the whole certificate.
    `chain` holds the certificates that follow in the same file, each the issuer of the one before.
    """

    title: str
    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    key_type: str
    sha256: str
    is_ca: bool
    chain: tuple["Description", ...] = ()

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "subject", self.subject
        yield "issuer", self.issuer + " (itself)" * (self.issuer == self.subject)
        yield "names", ", ".join(self.names) or "none"
        yield "valid", f"{_time(self.not_before)} to {_time(self.not_after)}"
        yield "key", self.key_type
        yield "is a CA", "yes: it may issue others" if self.is_ca else "no"
        yield "SHA-256", self.sha256

    def __repr__(self) -> str:
        lines = [self.title, *(f"  {label:<9}{value}" for label, value in self._rows())]
        return "\n".join([*lines, *map(repr, self.chain)])

    def _repr_html_(self) -> str:
        return self._card() + style.PAGE_STYLE

    def _card(self) -> str:
        # Text and lines take the page's colours: readable on light and on dark.
        left = "text-align: left; vertical-align: top"
        rows = "\n".join(
            f'<tr><th scope="row" style="{left}; white-space: nowrap">{escape(label)}</th>'
            f'<td style="{left}; overflow-wrap: anywhere">{escape(value)}</td></tr>'
            for label, value in self._rows()
        )
        border = "border: 1px solid var(--jp-border-color1, currentColor)"
        caption = f'<caption style="{left}; font-weight: bold">{escape(self.title)}</caption>'
        card = f'<table style="{border}; margin: 0.5em 0">\n{caption}\n{rows}\n</table>\n'
        return card + "".join(issuer._card() for issuer in self.chain)


def describe(path: str | os.PathLike[str]) -> Description:
    """Return what the first certificate in a PEM file says, with those that follow as its chain.

    Raises CertificateFileError where the file holds no certificate.
    """
    path = Path(path)
    first, *others = pem.read_certificates(path)
    chain = tuple(_describe(c, f"{path.name}, certificate {n}") for n, c in enumerate(others, 2))
    return _describe(first, path.name, chain)


def _describe(
    certificate: x509.Certificate, title: str, chain: tuple[Description, ...] = ()
) -> Description:
    return Description(
        title=title,
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=tuple(extensions.names(certificate)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key_type=_key_type(certificate),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        is_ca=extensions.is_ca(certificate),
        chain=chain,
    )


def _key_type(certificate: x509.Certificate) -> str:
    algorithm = certificate.public_key_algorithm_oid
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return f"algorithm {algorithm.dotted_string}, not known here"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    name = type(key).__name__.strip("_").removesuffix("PublicKey")
    if algorithm == PublicKeyAlgorithmOID.RSASSA_PSS:
        name = "RSA-PSS"
    return f"{name} {key.key_size} bits" if hasattr(key, "key_size") else name


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
