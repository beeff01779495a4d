"""The exercises on streams from the client: an upload that can be cancelled, a room for a chat.

An answer is run against a server or clients of the check's own, and judged by what came out at the
other end: which bytes, how they ended, and how far the answer was when it said so.
"""

import asyncio
import contextlib
import inspect
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from helpers.certificates import load_or_create
from helpers.checks.run import OwnLog, interrupt, is_alive, is_stub
from helpers.checks.trial import Trial
from helpers.checks.verdict import Verdict, never_raises, shown, told, unsolved, wrong
from helpers.checks.witness import Witness
from helpers.client import HTTP3Transport
from helpers.errors import PeerError, UsageError
from helpers.exchange import Request, Response
from helpers.server import Handler, Server

PATH = "/exercise"
PIECE_BYTES = 64 * 1024
WHOLE = os.urandom(16 * PIECE_BYTES)
# More than a connection holds for a reader that has stopped: see helpers/stream/halves.py.
LONG = bytes(64 * PIECE_BYTES)
ANSWER_TIMEOUT_S = 8.0
STEP_TIMEOUT_S = 2.0
ALIVE_TIMEOUT_S = 1.0
STANDS_STILL_S = 0.3

Upload = Callable[[httpx2.Client, str, bytes, Callable[[int], None], Callable[[], bool]], object]


class _Stage:
    """A server with one route and a transport for it; what an answer does on it is noted."""

    def __init__(self, handler: Handler, *answers: object) -> None:
        self.witness = Witness(*answers)
        self.requests = 0
        self.idle_requests = 0
        """Those whose handler returned without a word, as a stub does."""
        self._handler = handler
        self._loop_thread: int | None = None
        self._blocked = False
        self._log = OwnLog()

    @contextlib.contextmanager
    def set_up(self) -> Iterator["_Stage"]:
        with tempfile.TemporaryDirectory() as directory, self.witness.at_work():
            files = load_or_create(directory)
            self.server = Server(cert_file=files.cert_file, key_file=files.key_file)
            self.server.route(PATH)(self._handler)  # says why, where it is no handler
            self.server.route(PATH)(self._observed)
            self.server.route("/alive")(is_alive)
            self.transport = HTTP3Transport(files.ca_file)
            self._log.begin()
            answers = False
            try:
                self.url = self.server.start().url(PATH)
                yield self
            finally:
                answers = self._end()
                self._log.end(answers)

    def _end(self) -> bool:
        """Leave nothing running, whatever the answer does; return whether the server answers."""
        answers = self._answers()
        self._blocked = not answers
        for _ in range(self.requests):  # each of its handlers may block, one after the other
            if not answers:
                interrupt(self._loop_thread)
                answers = self._answers()
        self.transport.close()
        with contextlib.suppress(UsageError):  # it is blocked, and its thread a daemon
            self.server.stop(grace_s=0)
        return answers

    def _answers(self) -> bool:
        client = httpx2.Client(transport=self.transport, timeout=ALIVE_TIMEOUT_S)
        try:
            return client.get(self.server.url("/alive")).status_code == 204
        except (httpx2.TransportError, UsageError):
            return False

    async def _observed(self, request: Request, response: Response) -> None:
        self._loop_thread = threading.get_ident()
        self._log.join()
        self.requests += 1
        self.witness.watch()
        await self._handler(request, response)
        self.idle_requests += response.status is None and not response.header_sent

    def verdict(self, why: str | None, shown: str) -> Verdict:
        """Return what to say, with what the answer has kept to itself."""
        trial = Trial(
            notes=self.witness.notes,
            never_awaited=self.witness.never_awaited,
            blocked=self._blocked,
        )
        if why and self._blocked:
            why = trial.trouble()
        return trial.verdict(why, shown)


# ---- an upload with progress that can be cancelled


class _Receiver:
    """The server's end of an upload: what came, and how it ended."""

    def __init__(self, holds: bool = False) -> None:
        self.came = threading.Event()
        self.over = threading.Event()
        self.ended = False
        """Whether the body had an end: FIN."""
        self.body = bytearray()
        self._gate: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._holds = holds

    async def handle(self, request: Request, response: Response) -> None:
        self._loop, self._gate = asyncio.get_running_loop(), asyncio.Event()
        try:
            async for chunk in request:
                self.body += chunk
                self.came.set()
                if self._holds:
                    await self._gate.wait()
            self.ended = True
            response.write_header(201)
        finally:
            self.over.set()

    def go_on(self) -> None:
        """Read on; called on another thread."""
        self._holds = False
        if self._loop is not None and self._gate is not None:
            self._loop.call_soon_threadsafe(self._gate.set)


class _Run:
    """One call of an answer, on a thread of its own."""

    def __init__(self, stage: _Stage, upload: Upload, data: bytes) -> None:
        self.reports: list[Any] = []
        self.asked = 0
        self.cancelled = False
        self.result: object = None
        self.error: BaseException | None = None
        self._stage, self._upload, self._data = stage, upload, data
        self._thread = threading.Thread(target=self._call, name="upload", daemon=True)
        self._thread.start()

    def _call(self) -> None:
        self._stage.witness.watch()
        client = httpx2.Client(transport=self._stage.transport)
        try:
            self.result = self._upload(
                client, self._stage.url, self._data, self.reports.append, self._is_cancelled
            )
        except BaseException as error:  # noqa: BLE001 - the verdict tells it
            self.error = error

    def _is_cancelled(self) -> bool:
        self.asked += 1
        return self.cancelled

    def ends(self) -> bool:
        """Whether the call returns or raises in time; it is ended where it does not."""
        self._thread.join(ANSWER_TIMEOUT_S)
        if not self._thread.is_alive():
            return True
        interrupt(self._thread.ident)
        return False

    def wait_until_it_stands_still(self) -> None:
        """Return when no report has come for a while, or the call is over."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        count, since = -1, time.monotonic()
        while self._thread.is_alive() and time.monotonic() < deadline:
            if len(self.reports) != count:
                count, since = len(self.reports), time.monotonic()
            elif time.monotonic() - since > STANDS_STILL_S:
                return
            time.sleep(0.01)


@never_raises
def check_upload(upload: Upload) -> Verdict:
    """Say whether an upload tells how far it is, and leaves no half body where it is cancelled.

    It is called twice: once to its end, and once against a server that stops reading, where it is
    cancelled.
    """
    hint = "a generator hands out piece after piece. What if it raises instead?"
    if is_stub(upload):
        return unsolved(hint)
    if not callable(upload):
        return wrong(f"The answer is a function that uploads, not {shown(upload)}.")
    if inspect.iscoroutinefunction(upload) or inspect.isasyncgenfunction(upload):
        return wrong(
            "The answer is `async def`, so a call sends nothing. A plain function is asked, since "
            "this client is a synchronous one."
        )
    if inspect.isgeneratorfunction(upload):
        return wrong(
            "The answer has a `yield` in itself, so a call of it sends nothing. Put the generator "
            "into a function of its own, and pass what it returns as `content=`."
        )
    receiver = _Receiver()
    with _Stage(receiver.handle, upload).set_up() as stage:
        run = _Run(stage, upload, WHOLE)
        ends = run.ends()
        receiver.over.wait(STEP_TIMEOUT_S if receiver.came.is_set() else 0)
    did_nothing = not (run.reports or run.asked or stage.requests or stage.witness.notes)
    if did_nothing and run.error is None and run.result is None and ends:
        return unsolved(hint)
    if why := _why_not_whole(run, receiver, ends):
        return stage.verdict(why, "")
    receiver = _Receiver(holds=True)
    with _Stage(receiver.handle, upload).set_up() as stage:
        run = _Run(stage, upload, LONG)
        receiver.came.wait(STEP_TIMEOUT_S)
        run.wait_until_it_stands_still()
        read_bytes, reports = len(receiver.body), list(run.reports)
        run.cancelled = True
        receiver.go_on()
        ends = run.ends()
        waits = not receiver.over.wait(STEP_TIMEOUT_S)
    why = _why_not_in_step(reports, read_bytes) or _why_not_cancelled(run, receiver, ends, waits)
    return stage.verdict(
        why,
        f"{len(WHOLE):,} bytes came whole, with a report for each piece. The other one was held "
        "up with its server, then cancelled, and the server took no half for a whole.",
    )


def _why_not_whole(run: _Run, receiver: _Receiver, ends: bool) -> str | None:
    got = f"{len(receiver.body):,} of {len(WHOLE):,} bytes"
    if not ends:
        return f"The upload does not return: seconds later, the server has {got}."
    if run.error is not None:
        return f"Nobody cancelled, and the upload raised {told(run.error)}"
    if not receiver.ended:
        return f"The server got {got}, and no end. Send them with `client.post(url, content=...)`."
    if receiver.body != WHOLE:
        if len(receiver.body) == len(WHOLE):
            return "The server got as many bytes as it should, but others."
        return f"The server got {got}: each piece is to be sent once, and the last one, too."
    if not run.reports:
        return "All bytes came, and `report` was never called: nobody knows how far you are."
    if why := _why_no_progress(run.reports):
        return why
    if not run.asked:
        return "All bytes came, and `cancelled` was never asked: call it before each piece."
    if run.result != 201:
        return (
            f"The server answered 201, and the upload returned {shown(run.result)}. Return the "
            "response's `status_code`."
        )
    return None


def _why_no_progress(reports: list[Any]) -> str | None:
    total = f"{len(WHOLE):,}"
    for report in reports:
        if not isinstance(report, int) or isinstance(report, bool):
            return f"`report` takes the number of bytes sent so far, not {shown(report)}."
    if len(reports) > 1 and set(reports[:-1]) == {reports[0]} and reports[-1] <= reports[0]:
        return (
            f"`report` was told {reports[0]:,} again and again: that is the size of a piece. It "
            "takes the sum of all that was sent so far."
        )
    if reports != sorted(reports):
        return "The numbers that `report` was told do not grow. It takes all bytes sent so far."
    if reports[-1] != len(WHOLE):
        return f"The last report was {reports[-1]:,}, and all of it is {total} bytes."
    steps = [after - before for before, after in zip([0, *reports], reports, strict=False)]
    if max(steps) > PIECE_BYTES:
        return (
            f"Between two reports lie {max(steps):,} bytes. Send pieces of {PIECE_BYTES:,} bytes "
            "at most, and report after each."
        )
    return None


def _why_not_in_step(reports: list[Any], read_bytes: int) -> str | None:
    if reports and reports[-1] == len(LONG):
        return (
            f"The server has read {read_bytes:,} bytes and stopped, and you report all of "
            f"{len(LONG):,}. A piece is sent when the generator is asked for the next one, after "
            "the `yield`; who makes a list of all pieces first reports what has not left."
        )
    return None


def _why_not_cancelled(run: _Run, receiver: _Receiver, ends: bool, waits: bool) -> str | None:
    sent = f"{len(receiver.body):,} of {len(LONG):,} bytes"
    if not ends:
        return "The upload was cancelled, and does not return."
    if receiver.ended and len(receiver.body) == len(LONG):
        return (
            "The upload was cancelled in its midst, and sent everything all the same. Ask "
            "`cancelled()` before each piece."
        )
    if receiver.ended:
        return (
            f"Cancelled, and the server got {sent} and a clean end (FIN): it takes them for the "
            "whole. A generator that returns has ended its body; one that raises has broken it off."
        )
    if waits:
        return f"Cancelled, and the server has {sent} and still waits: nobody broke the body off."
    if run.error is not None:
        return (
            f"Cancelled, and the upload raised {told(run.error)} The body is broken off, which is "
            "right. Catch your own exception around `client.post`, and return None."
        )
    if run.result is not None:
        return f"Cancelled, and the upload returned {shown(run.result)}, not None."
    return None


# ---- a room for a chat


class _Guest:
    """One client in the room."""

    def __init__(self, name: str, stage: _Stage) -> None:
        self.name = name
        self.stream = stage.transport.open_stream("POST", stage.url, timeout_s=STEP_TIMEOUT_S)
        self.heard = b""
        self._chunks = iter(self.stream)

    def says(self, line: bytes) -> None:
        self.stream.write(line)

    def hears(self, line: bytes) -> str | None:
        """Return what is wrong with what comes to this guest's ears next, or None."""
        instead = self._listen(len(line))
        heard, self.heard = self.heard, self.heard[len(line) :]
        if heard.startswith(line):
            return None
        if not instead:
            return f"{self.name} should hear {line!r}, and got {heard!r}."
        before = f"{heard!r}, then " if heard else ""
        return f"{self.name} should hear {line!r}, and got {before}{instead}."

    def _listen(self, size_bytes: int) -> str:
        """Read until so much was heard; return what came instead of more, or nothing."""
        try:
            while len(self.heard) < size_bytes:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return "the end of the stream"
                self.heard += chunk
        except TimeoutError:
            return "nothing more"
        except PeerError as error:
            return f"an error ({error})"
        return ""


@never_raises
def check_chat(chat: Handler, members: list[Any]) -> Verdict:
    """Say whether what one client says reaches all that are in the room, and only them.

    Three clients come. One of them vanishes, one leaves as one should, one stays to the end.
    """
    hint = "take over, put the stream on the list, and write what you read to all that are on it."
    if is_stub(chat):
        return unsolved(hint)
    if not callable(chat):
        return wrong(f"A handler is an `async def` with (request, response), not {shown(chat)}.")
    if not isinstance(members, list):
        return wrong(f"`members` is the list of the streams in the room, not {shown(members)}.")
    members.clear()
    stage = _Stage(chat, chat)
    try:
        with stage.set_up():
            why = _why_no_chat(stage, members)
            did_nothing = stage.requests == stage.idle_requests
    except UsageError as error:
        return wrong(str(error))
    if did_nothing and not (stage.witness.notes or stage.witness.never_awaited):
        return unsolved(hint)
    return stage.verdict(
        why, "All heard each line once, one vanished and one left, and the room is empty."
    )


def _why_no_chat(stage: _Stage, members: list[Any]) -> str | None:
    guests: list[_Guest] = []
    for name in ("Ann", "Ben", "Cat"):
        guests.append(_Guest(name, stage))
        if why := _why_not_in(guests[-1], stage):
            return why
    ann, ben, cat = guests
    if why := _all_hear(ann, b"Ann: hello\n", guests):
        return f"Ann, Ben and Cat are in the room. {_with_errors(why, stage)}"
    for speaker, line in ((ben, b"Ben: I am here, too\n"), (cat, b"Cat: so am I\n")):
        if why := _all_hear(speaker, line, guests):
            return _with_errors(why, stage)
    cat.stream.reset()
    cat.stream.stop()
    for number in range(5):
        if why := _all_hear(ann, b"Ann: is Cat gone? %d\n" % number, [ann, ben]):
            return "Cat has vanished, which must be no matter to the others. " + _with_errors(
                why, stage
            )
    for guest in (ben, ann):
        guest.stream.close()
        if why := _why_no_end(guest):
            return _with_errors(why, stage)
    return _why_not_empty(members) or (_raised(stage) if stage.server.errors else None)


def _why_not_in(guest: _Guest, stage: _Stage) -> str | None:
    try:
        status = guest.stream.read_header()[":status"]
    except TimeoutError:
        return (
            f"{guest.name} waits at the door: no header came. `await response.take_over()` sends "
            "it; call that before you read."
        )
    except PeerError as error:
        return _with_errors(f"{guest.name} did not get in: {error}", stage)
    if status != "200":
        return _with_errors(f"{guest.name} got status {status} instead of the room.", stage)
    return None


def _all_hear(speaker: _Guest, line: bytes, guests: list[_Guest]) -> str | None:
    try:
        speaker.says(line)
    except (PeerError, UsageError, TimeoutError) as error:
        return f"{speaker.name} cannot speak any more: {told(error)}"
    for guest in guests:
        if why := guest.hears(line):
            return f"{speaker.name} said {line!r}. {why}"
    return None


def _why_no_end(guest: _Guest) -> str | None:
    try:
        rest = guest.heard + guest.stream.read()
    except TimeoutError:
        return (
            f"{guest.name} has closed the request, and the answer has no end: close the stream "
            "when its `async for` is over. `async with stream:` does."
        )
    except PeerError as error:
        return f"{guest.name} has closed the request, and got no clean end: {error}"
    if rest:
        return f"{guest.name} left, and had heard {rest!r} besides: each line once is enough."
    return None


def _why_not_empty(members: list[Any]) -> str | None:
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while members and time.monotonic() < deadline:
        time.sleep(0.01)
    if members:
        return (
            f"All three have gone, and `members` still has {len(members)}. Take a stream off the "
            "list in a `finally`, which also sees those who vanish."
        )
    return None


def _with_errors(why: str, stage: _Stage) -> str:
    return f"{why} {_raised(stage)}" if stage.server.errors else why


def _raised(stage: _Stage) -> str:
    error = stage.server.errors[-1]
    return f"A handler raised {told(error)}"
