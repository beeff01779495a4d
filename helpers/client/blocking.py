"""What a client holds, for a thread that may block: a response's body, a request stream.

A notebook's cell is a plain `for` loop in the notebook's thread; the connection lives on a
background loop. Each call here hands one coroutine over and waits for it, which an interrupt of the
cell ends.
"""

import asyncio
import concurrent.futures
import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import httpx2
from aioquic.h3.connection import ErrorCode

from helpers.background import Background
from helpers.client.messages import ResponseBody
from helpers.errors import UsageError
from helpers.stream import Half, HTTP3Stream, check_code

T = TypeVar("T")

SLICE_S = 1.0
NO_MORE = object()  # what is handed over after the last piece


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

    def _run(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        more_s: float = 0.0,
    ) -> T:
        return self._background.run(function, *args, timeout_s=self._timeout_s + more_s)

    def _wait_for(self, function: Callable[..., Coroutine[Any, Any, T]]) -> T:
        try:
            return self._run(function)
        except TimeoutError as error:
            if self._stream.sending.state is not Half.OPEN:
                raise
            raise TimeoutError(
                f"Nothing came from the server within {self._timeout_s:g} s. Your body has not "
                "ended: if the server waits for more of it, `write`; if for its end, `close`."
            ) from error

    def write(self, data: bytes) -> None:
        """Send one DATA frame at once; waits while the server is slow."""
        self._run(self._stream.write, data)

    def close(self, trailers: Mapping[str, str] | None = None) -> None:
        """Finish the request (FIN), after `trailers` where given."""
        self._run(self._stream.close, trailers)

    def read_header(self) -> httpx2.Headers:
        """Return the response's header; `:status` is one of its fields."""
        return httpx2.Headers(self._wait_for(self._stream.read_header))

    def __iter__(self) -> Iterator[bytes]:
        while chunks := self._wait_for(self._stream.receive):
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
        self._run(self._stream.send_datagram, payload)

    def receive_datagram(self, timeout_s: float | None = None) -> bytes:
        """Return the next HTTP datagram of this stream.

        Raises TimeoutError after `timeout_s` seconds, or after those of each call.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        # The stream keeps the time: what comes at the last moment is not lost between two threads.
        return self._run(self._stream.receive_datagram, limit_s, more_s=limit_s)

    def datagrams(self) -> Iterator[bytes]:
        """Yield the datagrams of this stream as they come, until the server ends it.

        Raises TimeoutError where none comes for as long as each call may take.
        """
        while (datagram := self._run(self._stream.receiving.take_datagram)) is not None:
            yield datagram

    def reset(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """End the request early (RESET_STREAM)."""
        check_code(error_code)  # here, where it can be raised
        self._background.call(self._stream.reset, error_code)

    def stop(self, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Ask the server to stop (STOP_SENDING)."""
        check_code(error_code)
        self._background.call(self._stream.stop, error_code)

    def __enter__(self) -> "BlockingStream":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.close()
        self._background.call(self._stream.cancel)


class CallersBody(httpx2.AsyncByteStream):
    """A request's body whose pieces a blocking caller makes, each on the caller's own thread.

    An iterator may belong to its thread, as a database's cursor does, and an interrupt of the cell
    reaches no other. So the loop asks for the next piece, and `make_pieces` makes it.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        # Futures of pieces that are asked for; None where none is wanted any more.
        self._asked: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()
        self._upload: asyncio.Task[Any] | None = None  # who asks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        self._upload = asyncio.current_task()
        try:
            while True:
                asked: asyncio.Future[Any] = loop.create_future()
                self._asked.put(asked)
                piece = await asked
                if piece is NO_MORE:
                    return
                yield piece
        finally:
            self._asked.put(None)

    def make_pieces(self, answer: "concurrent.futures.Future[Any]") -> None:
        """Make what is asked for, until nobody wants more or the request has failed.

        Called on the caller's thread; raises what the iterator raises.
        """
        answer.add_done_callback(self._answered)
        try:
            while (asked := self._next_asked()) is not None:
                piece = next(self._pieces, NO_MORE)
                with contextlib.suppress(RuntimeError):  # the loop has closed: the answer says so
                    asked.get_loop().call_soon_threadsafe(_hand_over, asked, piece)
        except BaseException:
            # The response may have begun, and goes to nobody: then this ends the request.
            if self._upload is not None:
                with contextlib.suppress(RuntimeError):  # as above
                    self._upload.get_loop().call_soon_threadsafe(self._upload.cancel)
            raise

    def _answered(self, answer: "concurrent.futures.Future[Any]") -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._asked.put(None)

    def _next_asked(self) -> "asyncio.Future[Any] | None":
        while True:
            # In slices: Windows lets an interrupt in between two of them only.
            with contextlib.suppress(queue.Empty):
                return self._asked.get(timeout=SLICE_S)


def _hand_over(asked: "asyncio.Future[Any]", piece: object) -> None:
    if not asked.done():  # the upload was cancelled meanwhile
        asked.set_result(piece)


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
            return self._background.run(self._body.receive)
        except UsageError as error:
            if self._background.running:  # in a forked process, say
                raise httpx2.ReadError(f"The body was not read to its end. {error}") from error
            raise httpx2.ReadError(
                "The client was closed before the end of the body. Read it before `close`, or "
                "inside the client's `with`."
            ) from error

    def close(self) -> None:
        """Tell the server that nobody reads on, where something was left."""
        if not self._body.is_over:
            self._background.call(self._body.cancel)
