"""Header and trailer fields as HTTP/3 carries them: lower-case names, nothing that breaks a line.

A peer may close the whole connection over one malformed field (RFC 9114 section 4.1.2), so a field
is checked before it leaves.
"""

import re
from collections.abc import Iterable, Mapping

from helpers.errors import UsageError

Fields = list[tuple[bytes, bytes]]
Headers = Mapping[str, object] | Iterable[tuple[str | bytes, object]]

# RFC 9110 sections 5.1 and 5.5: what a name and a value may consist of.
NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
FORBIDDEN_IN_VALUE = re.compile(rb"[\x00\r\n]")
# RFC 9114 section 4.2: what says something about one HTTP/1.1 connection. `te` may say `trailers`,
# which nothing here needs to hear.
CONNECTION_SPECIFIC = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
}
# aioquic's QPACK library (pylsqpack) takes no longer name and no longer value.
MAX_FIELD_BYTES = 65535
# No body is longer than a stream, and no stream than 2**62 bytes (RFC 9000 section 4.5).
MAX_LENGTH_DIGITS = 19


def encode_fields(headers: Headers) -> Fields:
    """Return headers or trailers as pairs of bytes (RFC 9114 section 4.2).

    Raises UsageError for a field that HTTP/3 forbids.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [_encode(name, value) for name, value in pairs]


def section_bytes(fields: Fields) -> int:
    """Return the size of a header section as its limit counts it (RFC 9114 section 4.2.2)."""
    return sum(len(name) + len(value) + 32 for name, value in fields)


def join_cookies(fields: Fields) -> Fields:
    """Return a request's fields with one `cookie` field where there are several.

    Browsers send a line for each cookie; who reads them knows one list (RFC 9114 section 4.2.1).
    """
    crumbs = [value for name, value in fields if name == b"cookie"]
    if len(crumbs) < 2:
        return fields
    others = [field for field in fields if field[0] != b"cookie"]
    return [*others, (b"cookie", b"; ".join(crumbs))]


def content_length(fields: Fields) -> int | None:
    """Return the length that a body is announced to have, None where none is (RFC 9110, 8.6).

    Raises ValueError where what stands there is no length, or several that differ.
    """
    values = {value for name, value in fields if name == b"content-length"}
    if not values:
        return None
    length = values.pop()
    if values or not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
        raise ValueError("its content-length is not one number of bytes")
    return int(length)


def _encode(name: str | bytes, value: object) -> tuple[bytes, bytes]:
    key, content = _bytes(name).lower(), _bytes(value).strip()
    shown = name.decode(errors="replace") if isinstance(name, bytes) else name
    if not NAME.fullmatch(key) or FORBIDDEN_IN_VALUE.search(content):
        text = content.decode(errors="replace")
        raise UsageError(f"{shown!r}: {text!r} is no header (RFC 9110 section 5).")
    for part in (key, content):
        if len(part) > MAX_FIELD_BYTES:
            raise UsageError(
                f"The header {shown[:40]!r} has {len(part)} bytes, {MAX_FIELD_BYTES} at most can "
                "be sent. Send it in the body."
            )
    if key in CONNECTION_SPECIFIC:
        raise UsageError(f"HTTP/3 has no {shown!r} header (RFC 9114 section 4.2). Leave it out.")
    return key, content


def _bytes(text: object) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()
