"""Certificates: made by `credentials`, read from files by `pem`; `extensions`: their use.

Without it: whoever answers is believed, and one that is refused is not told why (notebook 01).
"""

from helpers.certificates.credentials import (
    Credentials,
    Distrust,
    Trust,
    check_ca_file,
    check_key_pair,
    create,
    describe,
    explain_distrust,
    load_or_create,
    spki_sha256,
)
from helpers.certificates.extensions import is_for, why_not_for_servers
from helpers.errors import CertificateFileError

__all__ = [
    "CertificateFileError",
    "Credentials",
    "Distrust",
    "Trust",
    "check_ca_file",
    "check_key_pair",
    "create",
    "describe",
    "explain_distrust",
    "is_for",
    "load_or_create",
    "spki_sha256",
    "why_not_for_servers",
]
