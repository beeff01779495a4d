"""What a client holds, for a thread that may block: a response's body, a request stream.

A notebook's cell is a plain `for` loop in the notebook's thread; the connection lives on a
background loop. Each call here hands one coroutine over and waits for it, which an interrupt of the
cell ends.
"""

from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

import httpx2
from aioquic.h3.connection import ErrorCode

from helpers.background import Background
from helpers.client.messages import ResponseBody
from helpers.errors import UsageError
from helpers.stream import HTTP3Stream


class BlockingStream:
    """A request stream for the notebook's thread: HTTP3Stream's methods as blocking calls."""

    def __init__(
        self,
        owner: object,
        background: Background,
        stream: HTTP3Stream,
        timeout_s: float,
    ) -> None:
        self.stream_id = stream.stream_id
        self._owner = owner  # its loop runs while the stream is in use
        self._background = background
        self._stream = stream
        self._timeout_s = timeout_s

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._background.run(coroutine, self._timeout_s)

    def write(self, data: bytes) -> None:
        """Send one DATA frame at once; waits while the server is slow."""
        self._run(self._stream.write(data))

    def close(self, trailers: Mapping[str, str] | None = None) -> None:
        """Finish the request (FIN), after `trailers` where given."""
        self._run(self._stream.close(trailers))

    def read_header(self) -> httpx2.Headers:
        """Return the response's header; `:status` is one of its fields."""
        return httpx2.Headers(self._run(self._stream.read_header()))

    def __iter__(self) -> Iterator[bytes]:
        while chunks := self._run(self._stream.receive()):
            yield from chunks

    def read(self) -> bytes:
        """Return the response's body up to its end."""
        return b"".join(self)

    @property
    def trailers(self) -> httpx2.Headers:
        """The fields that followed the body, once it was read to its end."""
        return httpx2.Headers(self._stream.trailers)

    def send_datagram(self, payload: bytes) -> None:
        """Send one HTTP datagram (RFC 9297)."""
        self._run(self._stream.send_datagram(payload))

    def receive_datagram(self) -> bytes:
        """Return the next HTTP datagram of this stream."""
        return self._run(self._stream.receive_datagram())

    def reset(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """End the request early (RESET_STREAM)."""
        self._background.call(self._stream.reset, error_code)

    def stop(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Ask the server to stop (STOP_SENDING)."""
        self._background.call(self._stream.stop, error_code)

    def __enter__(self) -> "BlockingStream":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.close()
        self._background.call(self._stream.cancel)


class BlockingBody(httpx2.SyncByteStream):
    """A response's body for the notebook's thread: one hop for all that has arrived."""

    def __init__(self, owner: object, background: Background, body: ResponseBody) -> None:
        self._owner = owner  # its loop runs while a response is being read
        self._background = background
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        while chunks := self._receive():
            yield from chunks

    def _receive(self) -> list[bytes]:
        rest = self._body.receive_rest()
        if rest is not None:
            return rest
        try:
            return self._background.run(self._body.receive())
        except UsageError as error:
            raise httpx2.ReadError(
                "The client was closed before the end of the body. Read it before `close`, or "
                "inside the client's `with`."
            ) from error

    def close(self) -> None:
        """Tell the server that nobody reads on, where something was left."""
        if not self._body.is_over:
            self._background.call(self._body.cancel)
