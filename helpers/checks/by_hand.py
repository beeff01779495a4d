"""The exercises on the pair by hand: who waits for a slow reader, and who hears of an end.

An answer is a class, one end of a connection in aioquic's terms (one_end.py). The exercises ask
whether it waits, hears and tells where something happens at the other end.
"""

import asyncio
import contextlib
import inspect
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx2
from aioquic.asyncio.client import connect
from aioquic.h3.connection import H3_ALPN, ErrorCode
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from helpers.certificates import Credentials
from helpers.checks import one_end
from helpers.checks.one_end import (
    Handlers,
    Stage,
    Write,
    new_client,
    not_an_answer,
    run_endpoint,
    served,
)
from helpers.checks.run import BEAT_S
from helpers.checks.verdict import (
    Verdict,
    never_raises,
    solved,
    wrong,
)
from helpers.errors import UsageError
from helpers.exchange import Request, Response
from helpers.server import Server
from helpers.stream import HTTP3Stream

PIECE_BYTES = 64 * 1024
PIECES = 64
MIB = 2**20
# What may be written ahead of a reader that sleeps: 256 KiB unacknowledged, the client's window of
# 512 KiB, and as much again for who counts in larger steps.
AHEAD_BYTES = 2 * MIB
GROWTH_BYTES = 4 * MIB
STILL_BEATS = 75
"""A writer that has not moved for so long waits: for its reader, or for a time that it chose."""
MOVING_BEATS = 400
HEARS_WITHIN_BEATS = 75


# ---- a writer that waits


@dataclass
class _Flood:
    """A handler that writes 4 MiB, and how far it got."""

    written: int = 0
    moves_on: bool = False
    """Whether it still did when its reader had slept for long."""
    took_s: float | None = None
    error: BaseException | None = None

    async def __call__(self, write: Write) -> None:
        started = perf_counter()
        try:
            for number in range(PIECES):
                await write(bytes([number]) * PIECE_BYTES)
                self.written += 1
        except BaseException as error:
            self.error = error
            raise
        self.took_s = perf_counter() - started

    @property
    def size_bytes(self) -> int:
        return self.written * PIECE_BYTES


@never_raises
def check_patient(answer: object) -> Verdict:
    """Say whether a handler waits for a slow reader, by memory and by time; never raises.

    `answer` is the class of a server's end. Its handler writes 4 MiB to a client that sleeps, and
    another handler three lines meanwhile.
    """
    hint = "let `write` wait while too much is unacknowledged, and wake it in `transmit`."
    refused = not_an_answer(answer, "ServerEndpoint", "write", hint)
    if refused is not None:
        return refused
    assert isinstance(answer, type), "else it was refused"
    if not inspect.iscoroutinefunction(answer.write):  # type: ignore[attr-defined] # it has one
        return wrong("Handlers await `write`, and yours is a plain function: make it `async def`.")
    return run_endpoint(answer, _judge_patient)


def _judge_patient(stage: Stage, answer: type, files: Credentials) -> Verdict:
    flood = _Flood()

    async def line(write: Write) -> None:
        await write(b"one line\n")

    async def another(write: Write) -> None:
        await _Flood()(write)

    body = bytearray()
    handlers: Handlers = {"/flood": flood, "/line": line, "/another": another}
    with (
        served(stage, answer, files, handlers) as url,
        new_client(files) as client,
    ):
        client.get(f"{url}/line")  # so that no handshake is measured
        with client.stream("GET", f"{url}/flood") as response:
            pieces = response.iter_raw()
            with _memory() as grown_bytes:
                try:
                    body += next(pieces, b"")
                except httpx2.TransportError as error:
                    return _nothing_came(stage, flood, error)
                _wait_until_still(flood)
                ahead_bytes, growth_bytes = flood.size_bytes, grown_bytes()
            if flood.took_s is not None or flood.moves_on or ahead_bytes > AHEAD_BYTES:
                return _did_not_wait(stage, flood, ahead_bytes, growth_bytes)
            if growth_bytes > GROWTH_BYTES:
                return stage.wrong(
                    f"The handler waits, with {ahead_bytes / MIB:.1f} MiB written, but memory grew "
                    f"by {growth_bytes / MIB:.1f} MiB: something keeps what was sent."
                )
            try:
                client.get(f"{url}/line")
            except httpx2.TransportError:
                return stage.wrong(
                    "One reader sleeps, and the handler of another request waits with it: only "
                    "who writes to the slow one should."
                )
            deadline = perf_counter() + one_end.LIMIT_S
            try:
                for piece in pieces:
                    body += piece
                    if perf_counter() > deadline:
                        return stage.wrong(_got(body, "reads as fast as it can") + _HINT_SLEEP)
            except httpx2.TransportError as error:
                return _stopped_half_way(stage, flood, body, error)
        expected = b"".join(bytes([number]) * PIECE_BYTES for number in range(PIECES))
        if bytes(body) != expected:
            return stage.wrong(_differs(body, expected))
        if not _both_arrive(client, f"{url}/another"):
            return stage.wrong(
                "One response comes whole, but of two at once not both: each handler waits for its "
                "own stream, and `transmit` has to wake whoever waits."
            )
    _wait_for(lambda: flood.took_s is not None or flood.error is not None)
    if flood.took_s is None:
        return stage.wrong("The reader has all 4 MiB, and the handler still waits in `write`.")
    return solved(
        f"While its reader slept, memory grew by {growth_bytes / MIB:.1f} MiB, with "
        f"{ahead_bytes / MIB:.1f} MiB of 4 written. The handler took {flood.took_s:.1f} s, as long "
        "as its reader."
    )


def _both_arrive(client: httpx2.Client, url: str) -> bool:
    """Return whether two responses come whole that are asked for at the same time."""

    def ask(_: int) -> bool:
        try:
            return len(client.get(url).content) == PIECES * PIECE_BYTES
        except httpx2.TransportError:
            return False

    with ThreadPoolExecutor(2) as pool:
        return all(pool.map(ask, range(2)))


_HINT_SLEEP = (
    ". The handler waits for time to pass, not for what is acknowledged: look at how much that is, "
    "and wait for the next `transmit` only."
)


def _got(body: bytearray, does: str) -> str:
    return f"The client {does}, and has {len(body) / MIB:.1f} of 4 MiB after seconds"


def _nothing_came(stage: Stage, flood: _Flood, error: Exception) -> Verdict:
    return stage.wrong(
        f"The client got nothing. The handler has written {flood.size_bytes / MIB:.1f} MiB and "
        f"waits in `write`: does it send, and call `transmit`, before it waits? ({error})"
    )


def _did_not_wait(stage: Stage, flood: _Flood, ahead_bytes: int, growth_bytes: int) -> Verdict:
    far = f"{ahead_bytes / MIB:.1f} of 4 MiB"
    memory = f"memory grew by {growth_bytes / MIB:.1f} MiB"
    if flood.took_s is None:
        return stage.wrong(
            f"The handler writes on while its reader sleeps: {far} so far, and {memory}. It waits "
            "for something else than the acknowledgement of what it wrote."
        )
    return stage.wrong(
        f"Its reader slept, and the handler had written {far} after {flood.took_s:.2f} s; "
        f"{memory}. `write` did not wait."
    )


def _stopped_half_way(stage: Stage, flood: _Flood, body: bytearray, error: Exception) -> Verdict:
    if flood.error is not None:
        name = type(flood.error).__name__
        return stage.wrong(f"`write` raised {name}: {flood.error}. The handler ended with it.")
    return stage.wrong(
        f"{_got(body, 'reads on')}. Nothing more comes: the handler waits in `write`, and nobody "
        f"wakes it. What was acknowledged shows after each `transmit`. ({error})"
    )


def _differs(body: bytearray, expected: bytes) -> str:
    if len(body) != len(expected):
        return (
            f"The client got {len(body):,} bytes, and the handler wrote {len(expected):,}: each "
            "`write` sends its data once, whole."
        )
    pairs = enumerate(zip(body, expected, strict=True))
    place = next(at for at, (one, other) in pairs if one != other)
    return f"From byte {place:,} on, the client got something else than the handler wrote."


@contextlib.contextmanager
def _memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns what Python's memory has grown by at most."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()


def _wait_until_still(flood: _Flood) -> None:
    """Sleep, as the slow reader, until the writer stands still or has ended, or moves on."""
    still_beats, last = 0, -1
    for _ in range(MOVING_BEATS):
        if still_beats == STILL_BEATS or flood.took_s is not None or flood.error is not None:
            return
        time.sleep(BEAT_S)
        still_beats = still_beats + 1 if flood.written == last else 0
        last = flood.written
    flood.moves_on = True


def _wait_for(condition: Callable[[], object], beats: int = HEARS_WITHIN_BEATS) -> bool:
    for _ in range(beats):
        if condition():
            return True
        time.sleep(BEAT_S)
    return bool(condition())


# ---- a handler that hears


@dataclass
class _Waiting:
    """A handler that writes one line and then waits for something else; how each call ended."""

    begun: int = 0
    ended: list[BaseException | None] = field(default_factory=list)

    async def __call__(self, write: Write) -> None:
        self.begun += 1
        try:
            await write(b"one line\n")
            await asyncio.sleep(60)
        except BaseException as error:
            self.ended.append(error)
            raise
        self.ended.append(None)


@never_raises
def check_attentive(answer: object) -> Verdict:
    """Say whether a handler is cancelled when its client has gone, and no other; never raises.

    `answer` is the class of a server's end. One client leaves a stream, another the connection.
    """
    hint = "`quic_event_received` sees the events, and `self.streams` has the tasks."
    refused = not_an_answer(answer, "ServerEndpoint", "answer", hint)
    if refused is not None:
        return refused
    assert isinstance(answer, type), "else it was refused"
    return run_endpoint(answer, _judge_attentive)


def _judge_attentive(stage: Stage, answer: type, files: Credentials) -> Verdict:
    leaves, stays, vanishes = _Waiting(), _Waiting(), _Waiting()

    async def line(write: Write) -> None:
        await write(b"one line\n")

    handlers: Handlers = {"/leaves": leaves, "/stays": stays, "/vanishes": vanishes, "/": line}

    with served(stage, answer, files, handlers) as url, new_client(files) as client:
        if client.get(f"{url}/").text != "one line\n":
            return stage.wrong("A handler that writes one line and returns: the line did not come.")
        with client.stream("GET", f"{url}/stays") as staying:
            pieces = staying.iter_raw()  # dropped, it would close the response
            next(pieces)
            with client.stream("GET", f"{url}/leaves") as response:
                next(response.iter_raw())
            left_at = perf_counter()
            heard = _wait_for(lambda: leaves.ended)
            heard_s = perf_counter() - left_at
            if not heard:
                return stage.wrong(
                    "A client left its stream (STOP_SENDING), and the handler waits on as if "
                    "nothing had happened. Which event says so, and which task belongs to its "
                    "stream_id?"
                )
            if (why := _not_cancelled(leaves, "its client had left the stream")) is not None:
                return stage.wrong(why)
            if stays.ended:
                return stage.wrong(
                    "One client left its stream, and the handler of another request on the same "
                    "connection was ended too. `event.stream_id` says which one is meant."
                )
            if client.get(f"{url}/").text != "one line\n":
                return stage.wrong("After a client left one stream, the next request fails.")
        with new_client(files) as other, other.stream("GET", f"{url}/vanishes") as vanishing:
            pieces = vanishing.iter_raw()
            next(pieces)
            other.close()
        left_at = perf_counter()
        if not _wait_for(lambda: vanishes.ended):
            return stage.wrong(
                "A client that leaves its stream is heard of. Another closed the whole connection, "
                "and its handler waits on: that event is ConnectionTerminated, which has no "
                "stream_id."
            )
        if (why := _not_cancelled(vanishes, "the connection had ended")) is not None:
            return stage.wrong(why)
        gone_s = perf_counter() - left_at
    if [error for error in stage.unseen if error not in (*leaves.ended, *vanishes.ended)]:
        return stage.wrong("Both handlers hear of it, but something goes wrong besides.")
    return solved(
        f"The handler is cancelled {heard_s:.2f} s after its client left the stream, and "
        f"{gone_s:.2f} s after another closed the connection. Its neighbour goes on."
    )


def _not_cancelled(waiting: _Waiting, when: str) -> str | None:
    error = waiting.ended[0]
    if isinstance(error, asyncio.CancelledError):
        return None
    told = "returned" if error is None else f"got {type(error).__name__}: {error}"
    return f"When {when}, the handler {told}. It should get CancelledError: cancel its task."


# ---- an error that tells


@never_raises
def check_telling(answer: object) -> Verdict:
    """Say whether a client's `get` raises what says why the response broke off; never raises.

    `answer` is the class of a client's end. It reads a whole response, one that is reset, and one
    whose connection ends.
    """
    hint = "put the error into the queue, behind the pieces, and let `get` raise it."
    refused = not_an_answer(answer, "ClientEndpoint", "get", hint)
    if refused is not None:
        return refused
    assert isinstance(answer, type), "else it was refused"
    return run_endpoint(answer, _judge_telling)


@dataclass
class _Reading:
    """What a client's `get` yielded, and how it ended."""

    pieces: list[object] = field(default_factory=list)
    error: BaseException | None = None
    hangs: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(piece for piece in self.pieces if isinstance(piece, bytes))


def _judge_telling(stage: Stage, answer: Any, files: Credentials) -> Verdict:
    server = Server(cert_file=files.cert_file, key_file=files.key_file)
    kept: list[HTTP3Stream] = []

    @server.route("/whole")
    async def whole(request: Request, response: Response) -> None:
        for _ in range(3):
            await response.write("one line\n")
            await response.flush()

    @server.route("/reset")
    async def reset(request: Request, response: Response) -> None:
        stream = await response.take_over()
        for _ in range(3):
            await stream.write(b"one line\n")
        stream.reset(ErrorCode.H3_INTERNAL_ERROR)

    @server.route("/lost")
    async def lost(request: Request, response: Response) -> None:
        kept.append(await response.take_over())  # who waits in here is cancelled, and resets
        await kept[-1].write(b"one line\n")

    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name="localhost"
    )
    configuration.load_verify_locations(cafile=str(files.ca_file))

    async def read(path: str, then: Callable[[], object]) -> _Reading:
        reading = _Reading()
        answer(
            QuicConnection(configuration=configuration)
        )  # raised in `connect`, it leaves a socket
        try:
            async with connect(
                "127.0.0.1", server.port, configuration=configuration, create_protocol=answer
            ) as endpoint:
                await _read_to_its_end(endpoint, path, reading, then)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the verdict tells it
            reading.error = error
        return reading

    def stop() -> None:
        with contextlib.suppress(UsageError):
            server.stop(grace_s=0)

    def get(path: str, then: Callable[[], object] = lambda: None) -> _Reading:
        return stage.background.run(read(path, then), timeout_s=one_end.LIMIT_S + one_end.TIMEOUT_S)

    with server:
        seen = get("/whole")
        if (why := _not_whole(seen)) is not None:
            return stage.wrong(why)
        seen = get("/reset")
        if (
            why := _not_told(seen, "the server reset the stream", 3, _RESET, "StreamReset")
        ) is not None:
            return stage.wrong(why)
        said = str(seen.error)
        seen = get("/lost", stop)
        event = "ConnectionTerminated"
        if (why := _not_told(seen, "the connection ended", 1, _LOST, event)) is not None:
            return stage.wrong(why)
    if str(seen.error) == said:
        return stage.wrong(
            f"A stream that was reset and a connection that ended get the same text: {said!r}."
        )
    return solved(
        f"A whole body is whole. A reset says {said!r}, a lost connection {str(seen.error)!r}."
    )


async def _read_to_its_end(
    endpoint: Any, path: str, reading: _Reading, then: Callable[[], object]
) -> None:
    if getattr(endpoint, "http", None) is None:
        raise UsageError(
            "after the handshake there is no `http` yet. Does your quic_event_received still call "
            "super().quic_event_received(event)?"
        )
    pieces = endpoint.get(path)
    if not isinstance(pieces, AsyncIterator):
        if inspect.iscoroutine(pieces):
            pieces.close()
        raise TypeError("it is read with `async for`: an `async def` with a `yield` in it")
    try:
        async with asyncio.timeout(one_end.TIMEOUT_S) as limit:
            async for piece in pieces:
                reading.pieces.append(piece)
                await asyncio.sleep(BEAT_S)  # so that the end comes while others wait to be read
                # It waits for a thread, which is not this one.
                await asyncio.get_running_loop().run_in_executor(None, then)
    except TimeoutError:
        if not limit.expired():
            raise
        reading.hangs = True


_RESET = ("0x102", "258", "H3_INTERNAL_ERROR")
_LOST = ("0x100", "256", "H3_NO_ERROR")


def _not_whole(seen: _Reading) -> str | None:
    if seen.error is not None:
        name = type(seen.error).__name__
        return f"A response that ends as it should: `get` raised {name}: {seen.error}."
    if seen.hangs:
        return (
            f"A response that ends as it should: `get` yielded {len(seen.body)} of 27 bytes, and "
            "then waits. Does it still look at `stream_ended`, and does your class still call "
            "super().quic_event_received(event)?"
        )
    if seen.body != 3 * b"one line\n":
        return f"A response that ends as it should: `get` yielded {seen.pieces!r}, not three lines."
    return None


def _not_told(
    seen: _Reading, what: str, lines: int, codes: tuple[str, ...], event: str
) -> str | None:
    """Return why this is no error, after so many lines, that says what happened; or None."""
    if seen.hangs:
        return (
            f"When {what}, `get` still waits, as before. QUIC told it with {event}; who waits in "
            "`get` has to hear of it, through its queue."
        )
    if seen.error is None:
        return (
            f"When {what}, `get` ended as if that had been all: {len(seen.body)} bytes, and no "
            "error. A body that was cut off must not look like a whole one."
        )
    if seen.body != lines * b"one line\n":
        return (
            f"When {what}, `get` raised, but had yielded {seen.body!r} and not all that came "
            "before. Let the error wait its turn in the queue."
        )
    name, text = type(seen.error).__name__, str(seen.error)
    if not isinstance(seen.error, Exception):
        return f"When {what}, `get` raised {name}: that is not for errors. Raise a ConnectionError."
    if not any(code.lower() in text.lower() for code in codes):
        return (
            f"When {what}, `get` raised {name}: {text.rstrip('.') or '(no text)'}. It does not "
            f"name the error code, which was {codes[0]} ({codes[2]}); {event} has it as "
            "`error_code`."
        )
    return None
