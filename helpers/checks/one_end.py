"""An answer that is one end of a connection, in aioquic's terms: a class, run as aioquic runs it.

It is on a loop of its own, and at the other end are the helpers. What is raised in the answer's own
code is noted as it is raised: aioquic or asyncio would swallow much of it, and so may the answer.
"""

import asyncio
import contextlib
import tempfile
import threading
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration

from helpers.background import Background
from helpers.certificates import Credentials, load_or_create
from helpers.checks.run import interrupt, is_stub
from helpers.checks.verdict import State, Verdict, shown, told, unsolved, wrong
from helpers.checks.witness import Note, Witness
from helpers.client import HTTP3Transport
from helpers.errors import UsageError

Write = Callable[[bytes], Awaitable[object]]
Handlers = dict[str, Callable[[Write], Awaitable[object]]]

TIMEOUT_S = 6.0
# Of a whole transfer. A busy machine needs ten seconds where an idle one needs half of one.
LIMIT_S = 60.0


class Stage:
    """The loop on which an answer is run, and what was raised there."""

    def __init__(self, answer: type) -> None:
        self.background = Background("http3-check")
        self.witness = Witness(*_written_by_hand(answer))
        self.unseen: list[BaseException] = []
        """What nobody caught but the loop."""
        self._thread: int | None = None

    def start(self) -> None:
        """Begin to watch; raises UsageError where the system has no thread for it."""
        self.background.start()
        self.background.run(self._begin(), timeout_s=LIMIT_S)

    async def _begin(self) -> None:
        self._thread = threading.get_ident()
        asyncio.get_running_loop().set_exception_handler(self._keep_unseen)
        self.witness.watch()

    def _keep_unseen(self, _: object, context: dict[str, Any]) -> None:
        if "exception" in context:
            self.unseen.append(context["exception"])

    def is_blocked(self) -> bool:
        """Return whether the loop stands still."""
        try:
            self.background.run(asyncio.sleep, 0, timeout_s=TIMEOUT_S)
        except TimeoutError:
            return True
        except UsageError:  # an exit() has ended it
            return False
        return False

    def stop(self) -> None:
        """End the loop, whatever the answer does on it."""
        if self._thread is not None and self.is_blocked():
            interrupt(self._thread)
        with contextlib.suppress(UsageError):  # it is blocked, and its thread a daemon
            self.background.stop()

    def wrong(self, why: str) -> Verdict:
        """Return the verdict on what was seen, where the loop turns; else on that."""
        if self.is_blocked():
            why = (
                "Your class blocks the loop: nothing is received or sent meanwhile. Wait with "
                "`await`, not with time.sleep, nor in a loop without an `await`."
            )
        return wrong(why)

    def with_what_it_hid(self, verdict: Verdict) -> Verdict:
        """Return a verdict with what went wrong inside the answer and came to nobody's ears."""
        if verdict.state is not State.WRONG:
            return verdict
        if self.witness.never_awaited:
            names = ", ".join(f"`{name}`" for name in dict.fromkeys(self.witness.never_awaited))
            return wrong(f"{verdict.text} {names} was called and never awaited: write `await`.")
        mistakes = [str(note) for note in self.witness.notes if not _is_an_answer(note)]
        mistakes += [f"Nobody caught {told(error).rstrip('.')}." for error in self.unseen]
        return wrong(" ".join([*mistakes[:1], verdict.text]))


def _is_an_answer(note: Note) -> bool:
    """Return whether an exception was asked for: what `get` raises is for its caller."""
    return note.on_purpose and note.where.startswith("`get`")


def _written_by_hand(answer: type) -> list[types.FunctionType]:
    """Return the functions of a class and of those that it inherits from, without aioquic's."""
    return [
        thing
        for cls in answer.__mro__
        if cls.__module__.split(".")[0] not in ("aioquic", "asyncio", "builtins")
        for thing in vars(cls).values()
        if isinstance(thing, types.FunctionType)
    ]


def not_an_answer(answer: object, name: str, does: str, hint: str) -> Verdict | None:
    """Return the verdict on what cannot be run at all: a stub, an instance, another class."""
    if is_stub(answer):
        return unsolved(hint)
    if isinstance(answer, QuicConnectionProtocol):
        return wrong(
            f"The answer is the class {type(answer).__name__} itself, without parentheses: aioquic "
            "makes one for each connection."
        )
    if not isinstance(answer, type) or not issubclass(answer, QuicConnectionProtocol):
        return wrong(f"The answer is a class that inherits from your {name}, not {shown(answer)}.")
    if does not in dir(answer):
        return wrong(f"{answer.__name__} has no `{does}`: let it inherit from your {name}.")
    own = {key for key in vars(answer) if key not in ("__module__", "__doc__")}
    if not own - {"__firstlineno__", "__static_attributes__"}:
        return unsolved(hint)
    return None


def run_endpoint(answer: type, judge: Callable[[Stage, Any, Credentials], Verdict]) -> Verdict:
    """Let `judge` run the answer on a loop of its own, with certificates; leave nothing."""
    stage = Stage(answer)
    with tempfile.TemporaryDirectory() as folder, stage.witness.at_work():
        try:
            stage.start()
            verdict = judge(stage, answer, load_or_create(folder))
        except (httpx2.TransportError, TimeoutError, UsageError) as error:
            verdict = stage.wrong(
                f"The other end got no answer: {told(error)} Does what you override still call "
                "super(), `transmit` and `quic_event_received` too?"
            )
        finally:
            stage.stop()
    return stage.with_what_it_hid(verdict)


@contextlib.contextmanager
def served(stage: Stage, answer: Any, files: Credentials, handlers: Handlers) -> Iterator[str]:
    """Run the block with a server of the answer's class and these handlers; yield its URL."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(files.cert_file, files.key_file)
    probe = type(answer.__name__, (answer,), {"handlers": handlers, "__module__": __name__})

    async def listen() -> tuple[asyncio.DatagramTransport, QuicServer]:
        return await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: QuicServer(configuration=configuration, create_protocol=probe),
            local_addr=("127.0.0.1", 0),
        )

    transport, server = stage.background.run(listen(), timeout_s=TIMEOUT_S)
    try:
        yield f"https://localhost:{transport.get_extra_info('sockname')[1]}"
    finally:
        stage.background.call(server.close)
        stage.background.call(transport.close)  # where closing its connections failed


def new_client(files: Credentials) -> httpx2.Client:
    """Return a client of the helpers' that gives an answer so much time, and no more."""
    transport = HTTP3Transport(files.ca_file, connect_timeout_s=TIMEOUT_S)
    return httpx2.Client(transport=transport, timeout=TIMEOUT_S)
