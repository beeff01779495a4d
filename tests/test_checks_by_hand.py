"""The checks of notebook 07: right answers pass, wrong ones are told why, with their cause."""

import asyncio
import textwrap
import threading
import warnings

import pytest
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

from helpers.checks import by_hand as oracle
from helpers.checks import check_attentive, check_patient, check_telling, one_end
from helpers.checks.verdict import State
from tests import by_hand

CHECKS = [check_patient, check_attentive, check_telling]
LIMIT = "sender._buffer_stop - sender._buffer_start > 2**18"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    from helpers.certificates import load_or_create

    return by_hand.pair(load_or_create(tmp_path_factory.mktemp("certs")))


@pytest.fixture
def impatient(monkeypatch):
    """Wrong answers are given less time, to save time here: what hangs, hangs."""
    monkeypatch.setattr(one_end, "TIMEOUT_S", 3.0)


def text(verdict, state):
    assert verdict.state is state, verdict
    return " ".join(repr(verdict).split())


def answer(pair, base, body):
    """A class that inherits from one of the pair, with this body."""
    names = {
        **vars(pair),
        "ConnectionTerminated": ConnectionTerminated,
        "StopSendingReceived": StopSendingReceived,
        "StreamReset": StreamReset,
        "threading": threading,
    }
    source = f"class Answer({base}):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    exec(compile(source, "<answer>", "exec"), names)
    return names["Answer"]


@pytest.mark.parametrize(
    ("check", "name"),
    [(check_patient, "Patient"), (check_attentive, "Attentive"), (check_telling, "Telling")],
)
def test_the_solution_is_right(pair, check, name):
    source = next(cell.source for cell in by_hand.answers() if f"class {name}(" in cell.source)
    names = dict(vars(pair), ConnectionTerminated=ConnectionTerminated)
    exec(source, names)
    text(check(names[name]), State.SOLVED)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("stub", [..., None, "a class without anything of its own"])
def test_a_stub_gets_a_hint(pair, check, stub):
    if isinstance(stub, str):
        base = "ClientEndpoint" if check is check_telling else "ServerEndpoint"
        stub = answer(pair, base, '"""Your turn."""')
    assert "Hint" in text(check(stub), State.UNSOLVED)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("other", [42, "ServerEndpoint", dict, print, lambda: None, [int]])
def test_what_is_no_such_class_is_told_what_is_asked(check, other):
    assert "a class that inherits from your" in text(check(other), State.WRONG)


@pytest.mark.parametrize("check", CHECKS)
def test_the_wrong_end_is_told_what_is_asked(pair, check):
    base = "ServerEndpoint" if check is check_telling else "ClientEndpoint"
    assert "let it inherit from your" in text(check(answer(pair, base, "x = 1")), State.WRONG)


def test_an_instance_is_no_class(pair):
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    async def make():
        quic = QuicConnection(configuration=QuicConfiguration(is_client=True))
        return pair.ServerEndpoint(quic)

    assert "without parentheses" in text(check_patient(asyncio.run(make())), State.WRONG)


# ---- check_patient

PATIENT = """
def __init__(self, quic, **options):
    self.moved = asyncio.Event()
    super().__init__(quic, **options)

def transmit(self):
    super().transmit()
    self.moved.set()

async def write(self, stream_id, data):
    await super().write(stream_id, data)
    sender = self.quic._streams[stream_id].sender
    while sender._buffer_stop - sender._buffer_start > 2**18:
        self.moved.clear()
        await self.moved.wait()
"""


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("y = 1", "`write` did not wait"),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                await asyncio.sleep(0)
            """,
            "`write` did not wait",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                await asyncio.sleep(0.3)
            """,
            "writes on while its reader sleeps",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                await self.ping()
            """,
            "reader slept",
        ),
        (
            """
            async def write(self, stream_id, data):
                super().write(stream_id, data)
            """,
            "`ServerEndpoint.write` was called and never awaited",
        ),
        (
            """
            def write(self, stream_id, data):
                self.http.send_data(stream_id, data, end_stream=False)
            """,
            "make it `async def`",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                sender = self.quic._streams[stream_id].sender
                if sender._buffer_stop - sender._buffer_start > 2**18:
                    await asyncio.Event().wait()
            """,
            "nobody wakes it",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                sender = self.quic._streams[stream_id].sender
                while sender._buffer_stop > 2**18:
                    await asyncio.sleep(0.005)
            """,
            "has",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                while self.quic.unacknowledged_bytes(stream_id) > 2**18:
                    await asyncio.sleep(0.01)
            """,
            "AttributeError: 'QuicConnection' object has no attribute 'unacknowledged_bytes'",
        ),
        (
            """
            async def write(self, stream_id, data):
                try:
                    self.http.send(stream_id, data)
                except Exception:
                    pass
            """,
            "In `write`, line 5: AttributeError: 'H3Connection' object has no attribute 'send'.",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                sender = self.quic._streams[stream_id].sender
                while sender._buffer_stop - sender._buffer_start > 2**18:
                    time.sleep(0.01)
            """,
            "blocks the loop",
        ),
        (
            """
            async def write(self, stream_id, data):
                sender = self.quic._streams[stream_id].sender
                while sender._buffer_stop - sender._buffer_start > 2**18:
                    await asyncio.sleep(0.002)
                await super().write(stream_id, data[:-1])
            """,
            "each `write` sends its data once, whole",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, bytes(len(data)))
                sender = self.quic._streams[stream_id].sender
                while sender._buffer_stop - sender._buffer_start > 2**18:
                    await asyncio.sleep(0.002)
            """,
            "got something else than the handler wrote",
        ),
        (
            """
            lock = asyncio.Lock()

            async def write(self, stream_id, data):
                async with self.lock:
                    await super().write(stream_id, data)
                    sender = self.quic._streams[stream_id].sender
                    while sender._buffer_stop - sender._buffer_start > 2**18:
                        await asyncio.sleep(0.002)
            """,
            "the handler of another request waits with it",
        ),
        (PATIENT.replace("self.moved.set()", "self.moved.sett()"), "no attribute 'sett'"),
        (PATIENT.replace("    super().transmit()\n", ""), "got no answer"),
        (PATIENT.replace("super().__init__(quic, **options)", "pass"), "got no answer"),
    ],
)
def test_patient_wrong(pair, impatient, body, cause):
    assert cause in text(check_patient(answer(pair, "ServerEndpoint", body)), State.WRONG)


def test_patient_with_one_future_for_all_its_writers(pair, impatient):
    one_future = answer(
        pair,
        "ServerEndpoint",
        """
        waits_for = None

        async def write(self, stream_id, data):
            await super().write(stream_id, data)
            sender = self.quic._streams[stream_id].sender
            while sender._buffer_stop - sender._buffer_start > 2**18:
                self.waits_for = asyncio.get_running_loop().create_future()
                await self.waits_for

        def transmit(self):
            super().transmit()
            if self.waits_for is not None and not self.waits_for.done():
                self.waits_for.set_result(None)
        """,
    )
    assert "of two at once not both" in text(check_patient(one_future), State.WRONG)


def test_telling_that_overtakes_what_came_before(pair, impatient):
    overtakes = answer(
        pair,
        "ClientEndpoint",
        """
        errors = None

        def quic_event_received(self, event):
            super().quic_event_received(event)
            self.errors = self.errors or {}
            if isinstance(event, StreamReset):
                self.errors[event.stream_id] = event.error_code
                self.streams[event.stream_id].put_nowait(None)

        async def get(self, path):
            stream_id = self.quic.get_next_available_stream_id()
            async for piece in super().get(path):
                if stream_id in (self.errors or {}):
                    raise ConnectionError(f"reset with {self.errors[stream_id]:#x}")
                yield piece
        """,
    )
    why = text(check_telling(overtakes), State.WRONG)
    assert "Let the error wait its turn in the queue" in why


def test_patient_may_ask_again_and_again(pair):
    body = """
    async def write(self, stream_id, data):
        await super().write(stream_id, data)
        sender = self.quic._streams[stream_id].sender
        while sender._buffer_stop - sender._buffer_start > 2**18:
            await asyncio.sleep(0.002)
    """
    assert "MiB of 4 written" in text(
        check_patient(answer(pair, "ServerEndpoint", body)), State.SOLVED
    )


# ---- check_attentive

ATTENTIVE = """
def quic_event_received(self, event):
    super().quic_event_received(event)
    if isinstance(event, StopSendingReceived) and event.stream_id in self.streams:
        self.streams[event.stream_id].cancel()
    elif isinstance(event, ConnectionTerminated):
        for task in self.streams.values():
            task.cancel()
"""


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("y = 1", "STOP_SENDING"),
        (ATTENTIVE.replace("StopSendingReceived)", "StreamReset)"), "STOP_SENDING"),
        (ATTENTIVE.split("    elif")[0], "that event is ConnectionTerminated"),
        (
            """
            def quic_event_received(self, event):
                super().quic_event_received(event)
                if isinstance(event, StopSendingReceived | ConnectionTerminated):
                    for task in self.streams.values():
                        task.cancel()
            """,
            "another request on the same connection was ended too",
        ),
        (ATTENTIVE.replace("    super().quic_event_received(event)\n", ""), "got no answer"),
        (
            ATTENTIVE.replace("self.streams.values()", "self.stream.values()"),
            "AttributeError: 'Answer' object has no attribute 'stream'",
        ),
        (
            ATTENTIVE.replace("self.streams[event.stream_id].cancel()", "self.streams[0].cancel()"),
            "STOP_SENDING",
        ),
        (
            ATTENTIVE.replace(
                "self.streams[event.stream_id].cancel()", "raise OSError('the client left')"
            ),
            "OSError: the client left",
        ),
        (
            """
            def quic_event_received(self, event):
                super().quic_event_received(event)
                try:
                    if isinstance(event, StopSendingReceived):
                        self.tasks[event.stream_id].cancel()
                except Exception:
                    pass
            """,
            "line 7: AttributeError: 'Answer' object has no attribute 'tasks'.",
        ),
        (
            """
            async def write(self, stream_id, data):
                await super().write(stream_id, data)
                raise ConnectionError("the client left")
            """,
            "In `write`, line 5: ConnectionError: the client left.",
        ),
        (
            ATTENTIVE.replace("self.streams[event.stream_id].cancel()", "self.close()"),
            "another request on the same connection was ended too",
        ),
        (
            """
            def quic_event_received(self, event):
                super().quic_event_received(event)
                if isinstance(event, StopSendingReceived):
                    while True:
                        time.sleep(0.01)
            """,
            "blocks the loop",
        ),
    ],
)
def test_attentive_wrong(pair, impatient, monkeypatch, body, cause):
    monkeypatch.setattr(oracle, "HEARS_WITHIN_BEATS", 25)
    assert cause in text(check_attentive(answer(pair, "ServerEndpoint", body)), State.WRONG)


# ---- check_telling

TELLING = """
def quic_event_received(self, event):
    super().quic_event_received(event)
    if isinstance(event, StreamReset):
        error = ConnectionError(f"reset with {event.error_code:#x}")
        self.streams[event.stream_id].put_nowait(error)
    elif isinstance(event, ConnectionTerminated):
        for events in self.streams.values():
            events.put_nowait(ConnectionError(f"ended with {event.error_code}"))

async def get(self, path):
    stream_id = self.quic.get_next_available_stream_id()
    self.streams[stream_id] = events = asyncio.Queue()
    self.http.send_headers(stream_id, request(path), end_stream=True)
    self.transmit()
    ended = False
    while not ended:
        event = await events.get()
        if isinstance(event, Exception):
            raise event
        if isinstance(event, DataReceived) and event.data:
            yield event.data
        ended = event.stream_ended
"""


def test_telling_may_name_the_code_in_its_own_way(pair):
    body = TELLING.replace("{event.error_code:#x}", "H3_INTERNAL_ERROR")
    text(check_telling(answer(pair, "ClientEndpoint", body)), State.SOLVED)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("y = 1", "`get` still waits, as before"),
        (TELLING.replace("{event.error_code:#x}", "a code"), "does not name the error code"),
        (TELLING.replace("ConnectionError(f", "ConnectionError() or (f"), "(no text)"),
        (TELLING.replace("    raise event", "    return"), "no error. A body that was cut off"),
        (TELLING.split("    elif")[0] + TELLING[TELLING.index("\nasync") :], "connection ended"),
        (TELLING.replace("raise event", "raise event.error"), "does not name the error code"),
        (TELLING.replace("    super().quic_event_received(event)\n", ""), "still call super()"),
        (TELLING.replace("ended = event.stream_ended", "pass"), "still look at `stream_ended`"),
        (TELLING.replace("yield event.data", "yield event"), "not three lines"),
        (TELLING.replace("yield event.data", "pass; yield b''"), "not three lines"),
        (TELLING.replace("yield event.data", "return"), "with a `yield` in it"),
        (
            TELLING.replace("            yield event.data", "            pass"),
            "with a `yield` in it",
        ),
        (TELLING.replace("error_code:#x", "code:#x"), "no attribute 'code'"),
        (TELLING.replace("request(path)", "requests(path)"), "NameError: name 'requests'"),
        (TELLING.replace("raise event", "raise SystemExit(str(event))"), "not for errors"),
        (
            TELLING.replace("{event.error_code:#x}", "0x102, 256").replace(
                "ended with {event.error_code}", "reset with 0x102, 256"
            ),
            "get the same text",
        ),
        (
            TELLING.replace("self.streams[event.stream_id].put_nowait(error)", "raise error"),
            "In `quic_event_received`, line 7: ConnectionError: reset with 0x102.",
        ),
        (
            TELLING.replace(
                "self.streams[event.stream_id].put_nowait(error)",
                "self.streams[event.stream_id]._queue.clear(); "
                "self.streams[event.stream_id].put_nowait(error)",
            ).replace("event = await events.get()", "event = await events.get() if 0 else None"),
            "AttributeError: 'NoneType' object has no attribute 'stream_ended'",
        ),
    ],
)
def test_telling_wrong(pair, impatient, body, cause):
    assert cause in text(check_telling(answer(pair, "ClientEndpoint", body)), State.WRONG)


# ---- all of them


@pytest.mark.parametrize("check", CHECKS)
def test_whatever_an_answer_does_the_check_says_something(pair, impatient, check):
    base = "ClientEndpoint" if check is check_telling else "ServerEndpoint"
    body = """
    def __init__(self, quic, **options):
        raise ValueError("no")
    """
    assert "ValueError: no" in text(check(answer(pair, base, body)), State.WRONG)


def test_nothing_of_the_tracing_is_left(pair):
    with warnings.catch_warnings(record=True):
        check_attentive(answer(pair, "ServerEndpoint", ATTENTIVE))
    assert not [t for t in threading.enumerate() if t.name == "http3-check"]


def test_ten_wrong_answers_each():
    """As many as the exercises are worth."""
    for test in (test_patient_wrong, test_attentive_wrong, test_telling_wrong):
        assert len(test.pytestmark[0].args[1]) >= 10
