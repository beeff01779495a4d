"""A request and its response, as a handler sees them.

The response has one question to answer: when does what was written leave? `write` collects up to
4096 bytes; `flush` sends them now; the end of the handler sends the rest. `take_over` hands out the
stream itself, and the response does nothing more.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from typing import Protocol, TypeVar, runtime_checkable
from urllib.parse import unquote_to_bytes

import httpx2
from aioquic.h3.connection import ErrorCode

from helpers.errors import BodyTooLarge, ContentLengthError, UsageError, in_one_line
from helpers.stream import (
    NAME,
    Fields,
    Half,
    Headers,
    HTTP3Stream,
    content_length,
    encode_fields,
    join_cookies,
)

A = TypeVar("A")
T = TypeVar("T")

BUFFER_BYTES = 4096


@runtime_checkable
class Flusher(Protocol):
    """What can send its buffer now; `isinstance(response, Flusher)` asks for it."""

    async def flush(self) -> None:
        """Send what was collected, now."""


class ResponseState(Enum):
    """The life of a response."""

    COLLECTING = "collecting"
    STREAMING = "streaming"
    TAKEN_OVER = "taken over"
    FINISHED = "finished"
    BROKEN = "broken"


class Request:
    """What the client asked: `method`, `path`, `query`, `headers`, `client`, and the body.

    `async for chunk in request` gives the body's bytes as they arrive. `path` is decoded text
    without the query; `query` is a httpx2.QueryParams, `headers` a httpx2.Headers, `client` the
    (host, port) of the peer. Raises ValueError where one of them is no text or has a NUL in it.
    """

    def __init__(self, stream: HTTP3Stream, fields: Fields, client: tuple[str, int]) -> None:
        pseudo = {name: value for name, value in fields if name.startswith(b":")}
        target, _, query = pseudo.get(b":path", b"").partition(b"?")
        if not NAME.fullmatch(pseudo[b":method"].lower()) or b":scheme" not in pseudo:
            raise ValueError(in_one_line(f"{pseudo} names no method or no scheme"))
        self.method = pseudo[b":method"].decode("ascii")
        if self.method == "CONNECT":  # RFC 9114 section 4.4
            raise ValueError(in_one_line(f"{pseudo}: CONNECT has neither scheme nor path"))
        self.path = unquote_to_bytes(target).decode("utf-8")
        if not self.path.startswith("/") or "\0" in self.path:
            raise ValueError(in_one_line(f"{target!r} is no path"))
        self.query = httpx2.QueryParams(query.decode("utf-8"))
        headers = [field for field in join_cookies(fields) if not field[0].startswith(b":")]
        self.headers = httpx2.Headers(headers)
        authority = pseudo.get(b":authority", b"").lower()
        hosts = [value.lower() for name, value in fields if name == b"host"]
        # RFC 9110 section 7.2: one at most; RFC 9114 section 4.3.1: the same, and without a user.
        if hosts not in ([], [authority]):
            raise ValueError(in_one_line(f"{[authority, *hosts]} are several hosts"))
        if b"@" in authority:
            raise ValueError(in_one_line(f"{authority!r} names a user"))
        if b":authority" in pseudo and "host" not in self.headers:
            self.headers["host"] = pseudo[b":authority"].decode("ascii")
        self.client = client
        self.stream_id = stream.stream_id
        self.max_body_bytes: int | None = None
        self._stream = stream
        self._before_body: Callable[[], None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises ClientDisconnected where the client breaks off, MalformedMessage where its
        content-length is not true, BodyTooLarge above the route's limit (which becomes 413).
        """
        if self._before_body is not None:
            self._before_body()
            self._before_body = None
        total_bytes = 0
        async for chunk in self._stream:
            total_bytes += len(chunk)
            if self.max_body_bytes is not None and total_bytes > self.max_body_bytes:
                raise BodyTooLarge(
                    f"The body of {self.method} {self.path} exceeds {self.max_body_bytes} bytes."
                )
            yield chunk

    async def read(self) -> bytes:
        """Return the whole body; raises as the iteration does."""
        return b"".join([chunk async for chunk in self])

    @property
    def trailers(self) -> httpx2.Headers:
        """The trailer section, once the body was read to its end (RFC 9114 section 4.1)."""
        return httpx2.Headers(self._stream.trailers)


class Response:
    """The answer to one request; a handler writes it, on the server's loop.

    `state` tells where it stands. Mistakes raise UsageError. Of a client that has gone, `write` and
    `flush` raise ClientDisconnected; whatever else the handler awaits then is cancelled.
    """

    def __init__(self, stream: HTTP3Stream, method: str, owner: str) -> None:
        self.state = ResponseState.COLLECTING
        self.status: int | None = None
        self._stream = stream
        self._sending = stream.sending
        self._is_head = method == "HEAD"
        self._owner = owner
        self._fields: Fields = []
        self._trailers: dict[str, str] = {}
        self._buffer = bytearray()
        self._declared_bytes: int | None = None
        self._written_bytes = 0
        self._told = False  # of a mistake

    @property
    def header_sent(self) -> bool:
        """Whether status and headers have left, so that they cannot change any more."""
        return self.state is not ResponseState.COLLECTING

    def write_header(self, status: int = 200, headers: Headers = ()) -> None:
        """Set status and headers; they leave with the first bytes, or with `flush`.

        A 1xx status is an interim response: it leaves at once, and the final one follows (RFC 9114
        section 4.1). Raises UsageError for a second final header and for one that HTTP/3 forbids.
        """
        self._check_open("write_header")
        if self.status is not None:
            raise UsageError(
                f"The header was set already, with status {self.status}. Call write_header once, "
                "before the first write."
            )
        if not 100 <= status <= 599 or status == 101:
            raise UsageError(f"{status} is no status of HTTP/3 (RFC 9114 section 4.5).")
        fields = encode_fields(headers)
        try:
            length = content_length(fields)
        except ValueError:
            given = b", ".join(v for name, v in fields if name == b"content-length").decode()
            raise UsageError(f"content-length must be a number of bytes, not {given!r}.") from None
        if length is not None and (status < 200 or status == 204):
            raise UsageError(
                f"A {status} response has no content-length (RFC 9110 section 8.6). Leave it out."
            )
        if status < 200:
            self._sending.write_header([(b":status", b"%d" % status), *fields])
            self._sending.flush(now=False)
            return
        self.status, self._fields = status, fields
        self._declared_bytes = length

    def write_trailers(self, trailers: Headers) -> None:
        """Set the fields that follow the body, such as a checksum (RFC 9114 section 4.1)."""
        self._check_open("write_trailers")
        fields = encode_fields(trailers)
        self._trailers |= {name.decode(): value.decode() for name, value in fields}

    async def write(self, data: str | bytes) -> None:
        """Collect text (as UTF-8) or bytes; above 4096 bytes, send what was collected.

        The first write without `write_header` means status 200.
        """
        accepted = await self._checked(self._accept, data)
        self._buffer += accepted
        if len(self._buffer) > BUFFER_BYTES:
            await self._send()
            self._sending.flush(now=False)

    async def flush(self) -> None:
        """Send the header and what was collected, now; waits while the client is slow."""
        await self._checked(self._check_open, "flush")
        await self._send()
        self._sending.flush()

    async def take_over(self) -> HTTP3Stream:
        """Send the header and what was collected; return the stream, which is yours from now on.

        The response does nothing more: you write to the stream and you close it, best with `async
        with stream:`. It outlives the handler. Where the request is HEAD, the stream drops what you
        write. Raises UsageError for a status that has no body.
        """
        await self._checked(self._check_open, "take_over")
        await self._send()
        self._sending.flush()
        self.state = ResponseState.TAKEN_OVER
        self._sending.take_over(self._owner, discards_data=not self._sends_body)
        return self._stream

    # ---- inside

    async def _checked(self, check: Callable[[A], T], argument: A) -> T:
        """Return what `check` does; raises what it does, or why the client left.

        A loop that tries again and again, whatever it is told, would keep the loop for itself.
        """
        if self._sending.error is not None:
            await self._sending.wait()
        try:
            return check(argument)
        except UsageError:
            if self._told:
                await asyncio.sleep(0)
            self._told = True
            raise

    def _accept(self, data: str | bytes) -> bytes:
        self._check_open("write")
        if isinstance(data, str):
            data = data.encode()
        elif not isinstance(data, bytes | bytearray | memoryview):
            raise UsageError(f"write takes text or bytes, not {type(data).__name__}.")
        data = bytes(data)  # a view counts items, not bytes
        if self.status is None:
            self.write_header()
        self._count(len(data))
        return data

    async def _send(self) -> None:
        await self._sending.wait()
        if self.state is ResponseState.COLLECTING:
            if self.status is None:
                self.write_header()
            status = (b":status", str(self.status).encode())
            if b"date" not in dict(self._fields):  # RFC 9110 section 6.6.1
                self._fields.append((b"date", _date(int(time.time()))))
            self._sending.write_header([status, *self._fields])
            self.state = ResponseState.STREAMING
        data, self._buffer = bytes(self._buffer), bytearray()
        if data and self._sends_body:
            try:
                await self._sending.write(data)
            except BaseException:
                # Cut off, by a timeout perhaps: what came next would look like the rest.
                break_off(self)
                raise

    def _continue(self) -> None:
        receiving, sending = self._stream.receiving, self._sending
        has_begun = receiving.state is not Half.OPEN or receiving.unread_bytes > 0
        if self.state is ResponseState.COLLECTING and sending.state is Half.OPEN and not has_begun:
            sending.write_header([(b":status", b"100")])
            sending.flush()

    @property
    def _may_have_body(self) -> bool:
        return self.status not in (204, 304)

    @property
    def _sends_body(self) -> bool:
        # A HEAD request runs the same handler as GET; its body is counted and not sent (RFC 9110
        # section 9.3.2).
        return not self._is_head and self.status not in (204, 304)

    def _count(self, size_bytes: int) -> None:
        if size_bytes and not self._may_have_body:
            raise UsageError(f"A {self.status} response has no body (RFC 9110 section 6.4.1).")
        self._written_bytes += size_bytes
        if self._declared_bytes is not None and self._written_bytes > self._declared_bytes:
            break_off(self)
            raise ContentLengthError(
                f"content-length says {self._declared_bytes} bytes, this write makes it "
                f"{self._written_bytes}. The client sees a reset, not a cut body."
            )

    def _check_open(self, call: str) -> None:
        if self.state is ResponseState.TAKEN_OVER:
            raise UsageError(
                f"{call}: stream {self._stream.stream_id} was taken over. Write to the stream that "
                "take_over returned, not to the response."
            )
        if self._sending.state in (Half.STOPPED, Half.LOST):
            self._sending.check()  # raises why
        if self.state in (ResponseState.FINISHED, ResponseState.BROKEN):
            raise UsageError(f"{call}: this response is {self.state.value}.")
        if call == "take_over" and not self._may_have_body:
            raise UsageError(f"A {self.status} response has no body (RFC 9110 section 6.4.1).")
        if call == "write_header" and self.header_sent:
            raise UsageError("write_header: the header has left already. Call it before `flush`.")


# What the server does with a response, and a handler does not (helpers/server/router.py).


def continue_before_body(request: Request, response: Response) -> None:
    """Say 100 (Continue) once the body is asked for, to a client that waits for it.

    Not before: a handler may answer without reading it (RFC 9110 section 10.1.1).
    """
    request._before_body = response._continue


async def finish(response: Response) -> None:
    """Send what is left, and FIN: the handler has returned.

    Raises ContentLengthError where the body is shorter than its content-length says.
    """
    if response.state not in (ResponseState.COLLECTING, ResponseState.STREAMING):
        return
    if response.status is None:
        response.write_header()
    declared_bytes, written_bytes = response._declared_bytes, response._written_bytes
    if response._sends_body and declared_bytes not in (None, written_bytes):
        break_off(response)
        raise ContentLengthError(
            f"content-length says {declared_bytes} bytes, {written_bytes} were written. The client "
            "sees a reset, not a short body."
        )
    if response.state is ResponseState.COLLECTING and response._may_have_body:
        # HEAD is told the length that GET would be (RFC 9110 section 9.3.2), where it is known: a
        # handler may well write nothing for it.
        is_known = written_bytes > 0 or not response._is_head
        if is_known and declared_bytes is None and not response._trailers:
            response._fields.append((b"content-length", b"%d" % written_bytes))
    await response._send()
    await response._stream.close(response._trailers)
    response.state = ResponseState.FINISHED
    # The rest of the request, where there is one, is of no use (RFC 9114 section 4.1).
    response._stream.stop(ErrorCode.H3_NO_ERROR)


def restart(response: Response) -> None:
    """Forget header and body that have not left, so that an error can be told instead."""
    response._check_open("restart")
    response.status, response._fields, response._declared_bytes = None, [], None
    response._buffer.clear()
    response._trailers.clear()
    response._written_bytes = 0


def break_off(response: Response, error_code: int = ErrorCode.H3_INTERNAL_ERROR) -> None:
    """Reset the stream, so that the client cannot take what it has for a whole response."""
    if response.state is not ResponseState.FINISHED:
        response.state = ResponseState.BROKEN
        response._stream.reset(error_code)
        response._stream.stop(error_code)


@lru_cache(maxsize=1)
def _date(time_s: int) -> bytes:
    """Return a time as a Date header says it; the same for all responses of a second."""
    return formatdate(time_s, usegmt=True).encode()
