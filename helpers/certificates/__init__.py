"""Certificates: made by `credentials`, read from files and refused with a reason by `pem`."""

from helpers.certificates.credentials import (
    Credentials,
    Distrust,
    check_ca_file,
    check_key_pair,
    create,
    describe,
    explain_distrust,
    load_or_create,
)
from helpers.errors import CertificateFileError

__all__ = [
    "CertificateFileError",
    "Credentials",
    "Distrust",
    "check_ca_file",
    "check_key_pair",
    "create",
    "describe",
    "explain_distrust",
    "load_or_create",
]
