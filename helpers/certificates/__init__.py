"""Certificates: made by `credentials`, read from files and refused with a reason by `pem`."""

from helpers.certificates.credentials import (
    Credentials,
    check_ca_file,
    check_key_pair,
    create,
    describe,
    explain_verification_failure,
    load_or_create,
)

__all__ = [
    "Credentials",
    "check_ca_file",
    "check_key_pair",
    "create",
    "describe",
    "explain_verification_failure",
    "load_or_create",
]
