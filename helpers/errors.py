"""Who broke what, and the remedy.

Two families, because the remedy differs. A UsageError is a mistake on this side of the wire: the
program is told what it did and what to do instead. A PeerError is what the other side or the
network did: nothing here was wrong, and the program can only react. Every message carries the
values that explain it.

On the client's side these become the cause of an httpx2 exception (see client/messages.py), so a
program written for httpx2 catches what it always catches.
"""

from typing import TypeVar

from aioquic.h3.connection import ErrorCode as H3ErrorCode
from aioquic.quic.packet import QuicErrorCode

MAX_QUOTE_CHARACTERS = 200

E = TypeVar("E", bound=Exception)


class UsageError(Exception):
    """This side's program did something that cannot work; the message names the remedy."""


class CertificateFileError(UsageError, ValueError):
    """A certificate or key file is missing, unreadable, no PEM, or does not fit its partner."""


class ServerStartError(UsageError, OSError):
    """The server could not bind its UDP port."""


class BodyTooLarge(UsageError):
    """A request body is longer than its route accepts; the client gets 413 (RFC 9110, 15.5.14)."""


class ContentLengthError(UsageError):
    """A body is longer or shorter than the content-length its header declared."""


class DatagramError(UsageError):
    """A datagram is too large, or the connection did not negotiate datagrams (RFC 9297).

    `limit_bytes` is how long one may be at this moment; 0 where the peer takes none.
    """

    def __init__(self, text: str, limit_bytes: int) -> None:
        super().__init__(text)
        self.limit_bytes = limit_bytes


class PeerError(Exception):
    """The other side, or the network in between, ended what was going on."""


class StreamReset(PeerError):
    """The peer ended one direction of a stream early (RFC 9000 section 3).

    `stream_id` and `error_code` are those of the RESET_STREAM or STOP_SENDING frame.
    """

    def __init__(self, stream_id: int, error_code: int, frame: str = "RESET_STREAM") -> None:
        super().__init__(
            f"The peer ended stream {stream_id} with {frame}, {describe_code(error_code)}."
        )
        self.stream_id = stream_id
        self.error_code = error_code


class MalformedMessage(PeerError):
    """The peer's message breaks HTTP/3's rules (RFC 9114 section 4.1.2): an error of its stream."""

    def __init__(self, stream_id: int, what: str) -> None:
        super().__init__(f"The message on stream {stream_id} is malformed: {what}.")
        self.stream_id = stream_id


class HeaderTooLarge(MalformedMessage):
    """A header or trailer section is larger than this end takes (RFC 9114 section 4.2.2)."""

    def __init__(self, stream_id: int, limit_bytes: int, is_trailer: bool) -> None:
        which = "trailer" if is_trailer else "header"
        super().__init__(stream_id, f"its {which} section has more than {limit_bytes} bytes")
        self.is_trailer = is_trailer


class ClientDisconnected(PeerError):
    """The client of this request has gone; nobody will read what is written.

    `code` is the error code it left with, or None where it vanished without one.
    """

    def __init__(self, stream_id: int, code: int | None, reason: str) -> None:
        super().__init__(f"The client of stream {stream_id} has gone: {reason}.")
        self.stream_id = stream_id
        self.code = code


class ConnectionLost(PeerError):
    """The whole connection ended: closed by the peer, timed out, or failed in its handshake.

    `code` is the error code, None where none came; `reason` the text. `transport` tells the two
    number spaces apart: QUIC's own codes (RFC 9000 section 20.1) or HTTP/3's.
    """

    def __init__(self, code: int | None, reason: str, transport: bool = False) -> None:
        text = "The connection ended"
        if code is not None:
            text += f" with {describe_code(code, transport=transport)}"
        super().__init__(f"{text}: {reason}." if reason else f"{text}.")
        self.code = code
        self.reason = reason
        self.transport = transport


def again(error: E) -> E:
    """Return a copy of an error, without its traceback: one to raise, where another is kept.

    Whatever was raised holds the frames that it passed, and what they hold: a stream that kept it
    would keep itself, and its handler's request.
    """
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy


def in_one_line(text: str) -> str:
    """Return what a peer said, or a complaint that quotes it, as it fits a packet and a log."""
    return "".join(filter(str.isprintable, text))[:MAX_QUOTE_CHARACTERS]


def describe_code(code: int, transport: bool = False) -> str:
    """Return an error code by name and number, such as `H3_INTERNAL_ERROR (0x102)`.

    The names of HTTP/3 are those of RFC 9114 section 8.1. With `transport`, the code is one of
    QUIC itself (RFC 9000 section 20.1), where 0x100 to 0x1ff carry a TLS alert (RFC 9001
    section 4.8).
    """
    if transport and 0x100 <= code <= 0x1FF:
        return f"TLS alert {code - 0x100} ({code:#x})"
    names = QuicErrorCode if transport else H3ErrorCode
    try:
        return f"{names(code).name} ({code:#x})"
    except ValueError:
        return f"unknown error ({code:#x})"
