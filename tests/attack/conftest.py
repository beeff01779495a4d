"""A server to attack, and what holds after each attack: it serves, it is silent, it forgets."""

import asyncio
import contextlib
import logging
import time

import httpx2
import pytest

from helpers.client import HTTP3Transport
from helpers.connection import http3
from helpers.server import Server

# A request takes about 2 ms; one that an attack holds up would wait for it to end.
AT_ONCE_S = 4.0
# Closing periods and idle timeouts run out.
FORGETS_WITHIN_S = 60.0


class Lines(logging.Handler):
    """What the loggers say; what aioquic's say is heard by nobody (http3.py)."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.records = []

    def emit(self, record):
        if record.name.partition(".")[0] != "quic":
            self.records.append(record)

    def texts(self, name="helpers"):
        return [r.getMessage() for r in self.records if r.name.startswith(name)]

    def alarms(self):
        return [r.getMessage() for r in self.records if r.levelno > logging.INFO or r.exc_info]


class Target:
    """A running server, a client that behaves, and what the server says."""

    def __init__(self, credentials):
        self.server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
        self.client = httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))
        self.lines = Lines()

        @self.server.route("/")
        async def hello(request, response):
            await response.write("hello")

        @self.server.route("/length")
        async def length(request, response):
            body = await request.read()
            await response.write(f"{len(body)} {dict(request.trailers)}")

        @self.server.route("/open")
        async def stay_open(request, response):
            await response.flush()
            await asyncio.Event().wait()

        @self.server.route("/endless")
        async def endless(request, response):
            while True:
                await response.write(bytes(65536))

    @property
    def port(self):
        return self.server.port

    @property
    def loop(self):
        return self.server._background._loop

    @property
    def connections(self):
        return self.server._listener.connections

    @property
    def running(self):
        """How many handlers run for attackers."""
        return len(self.server._router.running) - 1

    def connection_of(self, attacker):
        """The server's end of an attacker's connection."""
        attacker.ask(stream_id=0)  # or it may not be in the table yet
        (ours,) = [one for one in self.connections if one.host_id == attacker.peer_id]
        return ours

    def stays_open(self):
        """A request that keeps the good client's connection alive until it is closed."""
        return self.client.stream("GET", self.server.url("/open"))

    def serves(self):
        """Answers a normal request, and says how long that took."""
        started = time.perf_counter()
        assert self.client.get(self.server.url("/")).text == "hello"
        return time.perf_counter() - started

    def held(self):
        """What the server holds for its clients."""
        listener, tasks = self.server._listener, asyncio.all_tasks(self.loop)
        return {
            "connections": len(listener._ids),
            "connection IDs": len(listener._by_id),
            "tasks": len(tasks) + len(self.server._router.running),
            "timers": sum(not timer.cancelled() for timer in list(self.loop._scheduled)),
        }

    def comes_to_hold(self, expected, timeout_s=FORGETS_WITHIN_S):
        """Return what it holds once that is no more than expected, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.serves()  # or the good client would be forgotten too
            held = self.held()
            if all(held[key] <= expected[key] for key in held) or time.monotonic() > deadline:
                return held
            time.sleep(0.05)

    def check(self):
        """After each attack a normal request is answered at once, and no logger raised an alarm."""
        assert self.serves() < AT_ONCE_S
        assert self.lines.alarms() == []
        assert self.server.errors == []


@contextlib.contextmanager
def under_attack(credentials, **settings):
    """A target, also for what its loggers say; at the end nothing of the attacks is left."""
    target = Target(credentials)
    loggers = [logging.getLogger(name) for name in ("", "helpers")]
    levels = [logger.level for logger in loggers]
    loggers[0].addHandler(target.lines)
    loggers[1].setLevel(logging.INFO)
    try:
        with target.server, target.client, target.stays_open():
            for _ in range(3):  # until its connection has all of its IDs
                target.serves()
            (good,) = target.connections
            # For those who come from now on: the good client may have to wait for the processor.
            for name, value in settings.items():
                setattr(target.server._configuration, name, value)
            target.before = target.held() | {"timers": 1}
            yield target
            after = target.comes_to_hold(target.before)
            assert good.lost is None
        assert {key: after[key] for key in after if after[key] > target.before[key]} == {}
    finally:
        loggers[0].removeHandler(target.lines)
        loggers[1].setLevel(levels[1])


@pytest.fixture(scope="module")
def target(credentials, one_connection):
    """One server for all tests of a module that break nothing for each other."""
    with under_attack(credentials) as target:
        yield target


@pytest.fixture
def impatient(credentials, one_connection, monkeypatch):
    """A server that gives a client one second of silence."""
    monkeypatch.setattr(http3, "KEEP_ALIVE_AFTER_S", 0.2)
    with under_attack(credentials, idle_timeout=1.0) as target:
        yield target
        target.check()


@pytest.fixture(autouse=True)
def serves_on(request):
    """Checks the module's server after each test."""
    if "target" not in request.fixturenames:
        yield
        return
    target = request.getfixturevalue("target")
    target.lines.records.clear()
    yield
    target.check()
