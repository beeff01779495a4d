"""Fixtures that many tests share, and what holds for each test: it leaves nothing behind."""

import asyncio
import logging
import os
import runpy
import signal
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

import psutil
import pytest

LEFT_BEHIND_WAIT_S = 2.0
PROCESS_WIDE_THREADS = {"tqdm_monitor"}
# Side by side, a run is over when its last file is: these begin, the longest first.
LONGEST = [
    "test_checks_by_hand",
    "04_real_network",
    "test_setup",
    "test_lines",
    "07_by_hand",
    "test_checks_datagrams",
    "06_datagrams",
    "test_learners_folder",
    "test_checks",
    "test_checks_wrong_answers",
    "test_backpressure",
    "02_buffered_stream",
    "test_link",
    "test_main",
    "test_preflight",
    "test_soak",
    "test_storms",
    "03_takeover_stream",
    "test_by_hand",
    "05_client_stream",
    "test_checks_client_stream",
    "test_silence",
    "test_client_errors",
    "test_servers",
    "test_leaving",
    "test_chromium",
    "test_client",
    "test_windows",
    "test_fuzz",
]
COARSE_CLOCK = Path(__file__).parent / "coarse_clock"


def pytest_addoption(parser):
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test fails: for machines where everything is installed",
    )
    parser.addoption(
        "--coarse-clock",
        action="store_true",
        help="the clocks move in steps of 15.6 ms, as on Windows up to Python 3.12",
    )


def pytest_configure(config):
    if config.getoption("coarse_clock"):
        paths = [str(COARSE_CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        runpy.run_path(str(COARSE_CLOCK / "sitecustomize.py"))


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    report = yield
    # A notebook's skipped cells are listed in nbval_exemptions.toml, and compared with it.
    if item.config.getoption("no_skips") and item.path.suffix != ".ipynb":
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    if collector.config.getoption("no_skips"):
        _fail_if_skipped(report)
    return report


def _fail_if_skipped(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        path, line, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: {reason} (--no-skips: nothing may be skipped here)"


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch):
    """Fails a test that leaves a thread, a task or a UDP socket, or an error in asyncio's log."""
    tasks = _record_tasks(monkeypatch)
    errors = _AsyncioErrors()
    threads_before = _threads()
    sockets_before = _udp_sockets()
    logging.getLogger("asyncio").addHandler(errors)
    yield
    deadline = time.monotonic() + LEFT_BEHIND_WAIT_S
    while True:
        left = [f"thread {thread!r}" for thread in _threads() - threads_before]
        left += [f"task {task!r}" for ref in tasks if (task := ref()) and not task.done()]
        left += [f"UDP socket at {address}" for address in _udp_sockets() - sockets_before]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    logging.getLogger("asyncio").removeHandler(errors)
    left += [f"in asyncio's log: {message}" for message in errors.messages]
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


def _threads():
    return {thread for thread in threading.enumerate() if thread.name not in PROCESS_WIDE_THREADS}


def _record_tasks(monkeypatch):
    """Weak references to every task that is made from now on, on any loop and thread."""
    tasks = []
    create_task = asyncio.BaseEventLoop.create_task

    def create_and_record(loop, coro, **kwargs):
        task = create_task(loop, coro, **kwargs)
        tasks.append(weakref.ref(task))
        return task

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_task", create_and_record)
    return tasks


def _udp_sockets():
    """How many UDP sockets this process has at each of its local addresses."""
    return Counter(entry.laddr for entry in psutil.Process().net_connections(kind="udp"))


class _AsyncioErrors(logging.Handler):
    """Collects what asyncio only logs: exceptions nobody saw, tasks destroyed while pending."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages = []

    def emit(self, record):
        self.messages.append(logging.Formatter().format(record))


@pytest.fixture
def interruptible():
    """SIGINT interrupts this process, and the programs that the test starts."""
    # Where a script started the tests in the background, SIGINT is ignored, also by children.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.fixture(scope="module")
def one_connection():
    """Give a busy machine time for a sign of life, where tests count on one connection."""
    from helpers.connection import http3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http3, "GONE_AFTER_PROBE_TIMEOUTS", 1000)
        yield


@pytest.fixture(scope="session")
def anyio_backend():
    """Tests marked with anyio run on asyncio alone, as aioquic does."""
    return "asyncio"


@pytest.fixture(scope="session")
def credentials(tmp_path_factory):
    """A certificate authority and a leaf for loopback, made once for the whole run."""
    from helpers.certificates import load_or_create

    return load_or_create(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def server(credentials):
    """A running server on a free port, without routes."""
    from helpers.server import Server

    with Server(cert_file=credentials.cert_file, key_file=credentials.key_file) as server:
        yield server


@pytest.fixture
def client(credentials):
    """An httpx2 client that trusts the server of these tests."""
    import httpx2

    from helpers.client import HTTP3Transport

    with httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)) as client:
        yield client
