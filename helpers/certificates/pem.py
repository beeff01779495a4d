"""PEM files: what is in one, or what is wrong with it.

A PEM file is text: each object in it stands in Base64 between a BEGIN and an END line, and the
label on these lines says what it is (RFC 7468). TLS libraries answer to a wrong file with a
parser's error, or accept it and fail much later in a handshake. Here every file is read through
the functions below, so that the message names the file, what was found in it, and the remedy.
"""

import codecs
import os
import re
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from helpers.errors import CertificateFileError

FilePath = str | os.PathLike[str]

CERTIFICATE_LABELS = {"CERTIFICATE", "X509 CERTIFICATE"}  # RFC 7468 sections 5.1 and 5.3
# What editors on Windows put before text, in UTF-8 and in UTF-16.
MARK, WIDE_MARKS = codecs.BOM_UTF8, (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_certificates(path: FilePath) -> list[x509.Certificate]:
    """Return the certificates in a PEM file, at least one, in their order.

    Raises CertificateFileError where there is none, or the file cannot be read.
    """
    data, labels = _read(path)
    if not CERTIFICATE_LABELS & set(labels):
        raise CertificateFileError(
            f"{path} holds no certificate but {', '.join(labels)}. Pass the certificate's file "
            "here; a key's file belongs in key_file."
        )
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise CertificateFileError(f"{path} holds a damaged certificate. Make it anew.") from error


def read_key(path: FilePath) -> PrivateKeyTypes:
    """Return the private key in a PEM file.

    Raises CertificateFileError where there is none, it is encrypted, or the file cannot be read.
    """
    data, labels = _read(path)
    if not any(label.endswith("PRIVATE KEY") for label in labels):
        raise CertificateFileError(
            f"{path} holds no private key but {', '.join(labels)}. Pass the file of the key that "
            "the certificate was made with, such as key.pem."
        )
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CertificateFileError(
            f"The key in {path} is encrypted with a password. Pass one without, such as "
            f"`openssl pkey -in {path} -out plain.pem` writes."
        ) from error
    except UnsupportedAlgorithm as error:
        raise CertificateFileError(
            f"{path} holds a key of a kind that is not known here: {error}. Use P-256."
        ) from error
    except ValueError as error:
        raise CertificateFileError(f"{path} holds a damaged key. Make it anew.") from error


def _read(path: FilePath) -> tuple[bytes, list[str]]:
    """Return the content of a PEM file, and the labels of the objects in it."""
    data = _read_bytes(Path(path))
    if data.startswith(WIDE_MARKS):
        raise CertificateFileError(
            f"{path} is text in UTF-16, as `>` writes it in PowerShell. Save it as UTF-8."
        )
    # Where files were put together, a mark may stand before each, and lines end in three ways.
    data = data.replace(MARK, b"").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    labels = re.findall(rb"^-----BEGIN ([A-Z0-9 ]+)-----", data, re.MULTILINE)
    if labels:
        return data, [label.decode() for label in labels]
    if not data.strip():
        raise CertificateFileError(f"{path} is empty. Make it anew.")
    if b"-----BEGIN " in data:
        raise CertificateFileError(
            f"{path} has something before a -----BEGIN on its line. Let it begin the line."
        )
    # A DER or PKCS #12 file is one ASN.1 sequence, and 0x30 opens it.
    form = "in binary form (DER or PKCS #12)" if data[0] == 0x30 else "not a PEM file"
    raise CertificateFileError(
        f"{path} is {form}: it has no -----BEGIN line. Convert it with openssl, or pass the file "
        "that ends in .pem."
    )


def _read_bytes(path: Path) -> bytes:
    # Windows reports a directory as one that may not be read.
    if path.is_dir():
        raise CertificateFileError(f"{path} is a directory. Pass the path of a PEM file.")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CertificateFileError(
            f"{path} does not exist. Check the path, or let load_or_create() make the file."
        ) from error
    except OSError as error:
        raise CertificateFileError(
            f"{path} cannot be read: {error.strerror}. Check who may read it."
        ) from error


def public_key_der(key: PublicKeyTypes) -> bytes:
    """Return a public key as certificates hold it, a SubjectPublicKeyInfo in DER."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)
