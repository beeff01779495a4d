"""Runs an exercise's answer on a server of its own, and notes what its client received and when.

An answer may raise, hang, block the loop or write for ever. So it runs on a server of its own, is
read on a thread of its own, and both are ended after a few seconds, whatever they do. Nothing here
looks at the answer's source.

Seconds mean little on a machine that is busy, with thirty learners at once perhaps. So time is told
in beats: the caller's thread, which has nothing else to do, sleeps again and again for so long, and
as the machine gets slower, so do its beats.
"""

import asyncio
import contextlib
import ctypes
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import httpx2

from helpers.certificates import load_or_create
from helpers.checks.trial import Ending, Trial
from helpers.checks.verdict import Verdict, shown, unsolved, wrong
from helpers.checks.witness import Witness
from helpers.client import HTTP3Transport
from helpers.errors import UsageError
from helpers.exchange import Request, Response, ResponseState
from helpers.server import Handler, Server
from helpers.wire import WireLog

BEAT_S = 0.02
LIMIT_S = 2.5
"""For handler and reader together, where the machine is idle; ending both takes 2 s more there."""
# A reader that is ended later than its client gives up would be taken for one that got an error.
READ_TIMEOUT_S = 60.0
# Of what is read here, not in an exercise's own way: none needs so much, and a slow machine too has
# sent it in time.
MAX_BODY_BYTES = 1024 * 1024
ALIVE_TIMEOUT_S = 0.5
ALIVE_ATTEMPTS = 10
PATH = "/exercise"


def try_answer(
    handler: object,
    hint: str,
    read: Callable[[httpx2.Response], object] | None = None,
    wire: WireLog | None = None,
    beats_afterwards: int = 0,
) -> Trial | Verdict:
    """Return the trial of an exercise's answer, or at once the verdict where it is no handler.

    As `run` otherwise. A stub gets the hint: `...`, None, or a handler that does nothing.
    """
    if is_stub(handler):
        return unsolved(hint)
    if not callable(handler):
        return wrong(f"A handler is an `async def` with (request, response), not {shown(handler)}.")
    try:
        trial = run(handler, read, wire, beats_afterwards)
    except UsageError as error:
        return wrong(str(error))
    return unsolved(hint) if trial.did_nothing else trial


def is_stub(answer: object) -> bool:
    """Return whether an answer is still what the exercise began with."""
    return answer is None or answer is ...


def run(
    handler: Handler,
    read: Callable[[httpx2.Response], object] | None = None,
    wire: WireLog | None = None,
    beats_afterwards: int = 0,
) -> Trial:
    """Return the trial of a handler, which is asked once by a client of the same process.

    `read` is called with the streaming response, on a thread of its own; without it the body is
    read to its end. Then the server's loop goes on for so many beats more. Takes LIMIT_S and 2 s
    more at most where the machine is idle. Raises UsageError where the handler is a plain function.
    """
    with tempfile.TemporaryDirectory() as directory:
        files = load_or_create(directory)
        server = Server(cert_file=files.cert_file, key_file=files.key_file)
        server.route(PATH)(handler)  # says why, where it is no handler
        transport = HTTP3Transport(files.ca_file, connect_timeout_s=READ_TIMEOUT_S, wire=wire)
        return _Run(server, transport, handler, read).to_its_end(beats_afterwards)


class _Run:
    def __init__(
        self,
        server: Server,
        transport: HTTP3Transport,
        handler: Handler,
        read: Callable[[httpx2.Response], object] | None,
    ) -> None:
        server.route(PATH)(self._observed)
        server.route("/alive")(is_alive)
        self.trial = Trial()
        self._server = server
        self._client = httpx2.Client(transport=transport, timeout=READ_TIMEOUT_S)
        self._handler = handler
        self._read = read or self._read_all
        self._witness = Witness(handler, read)
        self._response: httpx2.Response | None = None
        self._loop_thread: int | None = None
        self._log = OwnLog()
        self._beats = 0
        """Of the server's loop, since the handler was called."""
        self._free_beats = 0
        """Of the caller's thread, which nothing blocks."""
        self._first_free_beat = 0
        self._last_beats: tuple[int, int] | None = None
        """Both, when the handler returned."""
        self._computed_s = 0.0
        """What the handler took of the processor, with what else the loop did meanwhile."""
        self._sent_at = perf_counter()
        self._returned_at: float | None = None

    def to_its_end(self, beats_afterwards: int) -> Trial:
        with self._witness.at_work():
            self._try(beats_afterwards)
        self.trial.notes = self._witness.notes
        self.trial.never_awaited = self._witness.never_awaited
        return self.trial

    def _try(self, beats_afterwards: int) -> None:
        reader = threading.Thread(target=self._receive, name="trial-reader", daemon=True)
        self._log.begin()
        try:
            self._server.start()
            reader.start()
            while reader.is_alive() and self._free_beats < LIMIT_S / BEAT_S:
                reader.join(BEAT_S)
                self._free_beats += 1
            last_beat = self._beats + beats_afterwards
            while self._beats < last_beat and self._free_beats < LIMIT_S / BEAT_S:
                time.sleep(BEAT_S)
                self._free_beats += 1
        finally:
            answered = self._end(reader)
            self._log.end(answered)
        self.trial.was_called = self._loop_thread is not None
        self.trial.blocked = self.trial.was_called and (not answered or self._stood_still())
        self.trial.handler_errors = list(self._server.errors)

    # ---- the server's side, on its loop

    async def _observed(self, request: Request, response: Response) -> None:
        self._loop_thread = threading.get_ident()
        self._log.join()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._keep_unseen)
        self._first_free_beat = self._free_beats
        self._computed_s = -time.thread_time()
        self._beat = loop.create_task(self._count_beats())
        self._witness.watch()
        try:
            await self._handler(request, response)
        finally:
            self._returned_at = perf_counter()
            self.trial.took_over = response.state is ResponseState.TAKEN_OVER
            self._computed_s += time.thread_time()
            self._last_beats = self._beats, self._free_beats

    async def _count_beats(self) -> None:
        """Count on after the handler has returned: what it started may block the loop as well."""
        while True:
            await asyncio.sleep(BEAT_S)
            self._beats += 1

    def _stood_still(self) -> bool:
        if self._last_beats is None:
            return False
        beats, free_beats = self._last_beats
        # What computes in C may hold up the caller's thread too, but not unseen.
        expected = max(free_beats - self._first_free_beat, self._computed_s / BEAT_S)
        # A loop that is free misses some; one that is blocked, nearly all.
        return expected > 10 and beats < expected / 8

    def _keep_unseen(self, _: object, context: dict[str, Any]) -> None:
        if "exception" in context:
            self.trial.unseen_errors.append(context["exception"])

    # ---- the client's side, on the reader's thread

    def _receive(self) -> None:
        trial = self.trial
        self._witness.watch()
        try:
            with self._client.stream("GET", self._server.url(PATH)) as response:
                self._response = response
                self._sent_at = response.extensions["request_sent_at"]
                trial.status, trial.headers = response.status_code, response.headers
                assert isinstance(response.stream, httpx2.SyncByteStream)  # as its client is
                response.stream = _Observed(response.stream, trial, self._sent_at)
                trial.result = self._read(response)
        except BaseException as error:  # noqa: BLE001 - the verdict tells it, also an exit()
            trial.client_error, trial.ending = error, Ending.FAILED
        else:
            if trial.ending is Ending.OPEN:
                trial.ending = Ending.COMPLETE
        trial.ended_s = perf_counter() - self._sent_at

    def _read_all(self, response: httpx2.Response) -> None:
        for _ in response.iter_raw():
            if response.num_bytes_downloaded > MAX_BODY_BYTES:
                self.trial.ending = Ending.TOO_LONG
                return

    # ---- afterwards, on the caller's thread

    def _end(self, reader: threading.Thread) -> bool:
        """Leave nothing running, whatever it does; return whether the server still answers."""
        if reader.is_alive():
            # What the reader still notes while it is being stopped is not what was seen.
            seen = self.trial
            self.trial = replace(seen, chunks=list(seen.chunks), ending=Ending.OPEN)
            self._note_return()  # now: leaving makes it return
        if self._response is not None:
            self.trial.size_bytes = self._response.num_bytes_downloaded
            self._response.close()
        # Its answer also means that the server knows by now that its client has left, and that a
        # handler has returned whose return completed the response.
        answers = self._answers()
        if self.trial.ending is not Ending.OPEN:
            self._note_return()
        self._client.close()
        if not answers:
            interrupt(self._loop_thread)
        with contextlib.suppress(UsageError):  # it is blocked, and its thread a daemon
            self._server.stop(grace_s=0)
        reader.join(0.2)
        if reader.is_alive():
            interrupt(reader.ident)
        return answers

    def _note_return(self) -> None:
        if self._returned_at is not None:
            self.trial.returned_s = self._returned_at - self._sent_at

    def _answers(self) -> bool:
        """Return whether the server answers; it may take its time while its loop moves."""
        for _ in range(ALIVE_ATTEMPTS):
            beats = self._beats
            try:
                url = self._server.url("/alive")
                return self._client.get(url, timeout=ALIVE_TIMEOUT_S).status_code == 204
            except (httpx2.TransportError, UsageError):
                if self._beats == beats:
                    return False
        return False


class _Observed(httpx2.SyncByteStream):
    """A response's body; what its reader does between two pieces is the reader's own time."""

    def __init__(self, body: httpx2.SyncByteStream, trial: Trial, sent_at: float) -> None:
        self._body = body
        self._trial = trial
        self._sent_at = sent_at
        self._handed_over_at = perf_counter()

    def __iter__(self) -> Iterator[bytes]:
        pieces, kept_bytes = iter(self._body), 0
        while True:
            self._trial.own_s += perf_counter() - self._handed_over_at
            piece = next(pieces, None)
            self._handed_over_at = perf_counter()
            if piece is None:
                return
            if kept_bytes <= MAX_BODY_BYTES:
                self._trial.chunks.append((self._handed_over_at - self._sent_at, piece))
                kept_bytes += len(piece)
            yield piece

    def close(self) -> None:
        self._body.close()


class OwnLog:
    """Keeps what the server of an answer logs from the notebook: the verdict tells it.

    It knows its own by the thread that logs; others that serve meanwhile log as ever.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("helpers.server")
        self._threads = {threading.current_thread()}

    def begin(self) -> None:
        """Keep what this thread logs from now on, and each that joins."""
        self._logger.addFilter(self._is_of_others)

    def join(self) -> None:
        """Keep what the calling thread logs, too."""
        self._threads.add(threading.current_thread())

    def end(self, answers: bool) -> None:
        """Let this thread log again; the others too, where their server still `answers`."""
        self._threads.discard(threading.current_thread())
        if answers:  # else its thread still logs when the blocking call returns
            self._logger.removeFilter(self._is_of_others)

    def _is_of_others(self, _: logging.LogRecord) -> bool:
        return threading.current_thread() not in self._threads


async def is_alive(_: Request, response: Response) -> None:
    """Answer: the handler beside an answer's own, by which a check sees that its loop turns."""
    response.write_header(204)


def in_time(name: str, judge: Callable[[], Verdict], timeout_s: float) -> Verdict:
    """Return the verdict on a function that `judge` calls, on a thread of its own.

    Where it does not return in time, the function is interrupted, and the verdict says so.
    """
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(judge()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    if verdicts:
        return verdicts[0]
    interrupt(thread.ident)
    thread.join(0.2)
    return wrong(
        f"`{name}` did not return within {timeout_s:g} s: it waits for something, or a loop in it "
        "has no end."
    )


def interrupt(thread: int | None) -> None:
    """Raise CancelledError in a thread that is busy for ever, at its next step in Python."""
    if thread is not None:
        error = ctypes.py_object(asyncio.CancelledError)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)
