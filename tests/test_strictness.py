"""The suite's own strictness: what conftest.py and the sanitize file let through, and what not."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nbval.plugin import get_sanitize_patterns

HERE = Path(__file__).parent

LEAKS = """
import asyncio, socket, threading

kept = []

def test_thread():
    threading.Thread(target=threading.Event().wait, args=(20,), daemon=True).start()

def test_socket():
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    kept[-1].bind(("127.0.0.1", 0))

def test_task():
    async def start():
        kept.append(asyncio.create_task(asyncio.sleep(20)))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.close()

def test_unseen():
    async def start():
        asyncio.create_task(fail())
        await asyncio.sleep(0)
    async def fail():
        raise ValueError("nobody looks")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.close()
"""
SKIPS = """
import pytest

def test_inside():
    pytest.skip("peer is missing")

@pytest.mark.skip(reason="marked")
def test_marked():
    pass

@pytest.mark.xfail(strict=True)
def test_expected():
    assert False
"""
SKIPPED_FILE = """
import pytest
pytest.importorskip("a_module_that_nobody_has", reason="package is missing")
"""

INTERRUPT = """
import signal, subprocess, sys
import pytest

INTERRUPT_ITSELF = "import signal; signal.raise_signal(signal.SIGINT)"

def test_this_process(interruptible):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)

def test_a_child(interruptible):
    child = subprocess.run([sys.executable, "-c", INTERRUPT_ITSELF], capture_output=True)
    assert child.returncode != 0

def test_afterwards_as_before():
    signal.raise_signal(signal.SIGINT)
"""


def run_pytest(folder, source, *options):
    """What pytest prints about `source` with the conftest.py of these tests, and its exit code."""
    shutil.copy(HERE / "conftest.py", folder)
    with (folder / "conftest.py").open("a") as conftest:
        conftest.write("\n\nLEFT_BEHIND_WAIT_S = 0.05\n")
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:nbval", *options]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return process.stdout, process.returncode


def test_what_a_test_leaves_behind_fails_it(tmp_path):
    output, code = run_pytest(tmp_path, LEAKS)
    assert code == 1
    assert "4 passed, 4 errors" in output
    for left in ["thread <Thread(", "UDP socket at addr(ip='127.0.0.1'", "task <Task pending"]:
        assert f"\n{left}" in output
    assert "in asyncio's log: Task exception was never retrieved" in output


def test_a_skip_fails_where_nothing_may_be_skipped(tmp_path):
    output, code = run_pytest(tmp_path, SKIPS, "--no-skips")
    assert code == 1
    assert "1 failed, 1 xfailed, 1 error" in output
    assert "peer is missing (--no-skips" in output
    assert "marked (--no-skips" in output


def test_a_skipped_file_fails_where_nothing_may_be_skipped(tmp_path):
    output, code = run_pytest(tmp_path, SKIPPED_FILE, "--no-skips")
    assert code == 2
    assert "package is missing (--no-skips" in output


def test_where_interrupts_are_ignored_a_test_can_still_have_them(tmp_path):
    # As in what a script starts in the background.
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        output, code = run_pytest(tmp_path, INTERRUPT)
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert code == 0, output
    assert "3 passed" in output


def test_elsewhere_a_skip_is_a_skip(tmp_path):
    output, code = run_pytest(tmp_path, SKIPS)
    assert code == 0
    assert "2 skipped, 1 xfailed" in output


def sanitize(text):
    for pattern, replacement in get_sanitize_patterns(
        (HERE / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    ):
        text = re.sub(pattern, replacement, text)
    return text


def test_nbval_reads_each_pattern_of_the_sanitize_file():
    text = (HERE / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    assert len(get_sanitize_patterns(text)) == text.count("\nregex:")
    assert all(replacement.strip() for _, replacement in get_sanitize_patterns(text))


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("https://localhost:54321/stream", "https://localhost:4433/stream"),
        ("nobody at 127.0.0.1:4433 (UDP)", "nobody at 127.0.0.1:60000 (UDP)"),
        ("at [::1]:4433", "at [::1]:5544"),
        ("after 12.3 ms", "after 0.9 ms"),
        ("0.101 s  line 1", "0.107 s  line 1"),
        ("12.5 MB/s", "88.1 MB/s"),
        ("'date': 'Wed, 25 Nov 2026 21:23:12 GMT'", "'date': 'Sun, 31 Jan 2027 00:00:00 GMT'"),
        (
            "HEADERS      27  :status: 200, date: Wed, 25 Nov 2026 21:23:12 GMT",
            "HEADERS      26  :status: 200, date: Sun, 31 Jan 2027 00:00:00 GMT",
        ),
        ("FIN           0  after 189 bytes", "FIN           0  after 188 bytes"),
        ("in datagrams: 34 of 40 positions", "in datagrams: 29 of 40 positions"),
        ("memory grew by 1.4 MiB", "memory grew by 0.9 MiB"),
        ("since 2026-11-02 10:00:00 UTC", "since 2027-01-31 23:59:59 UTC"),
        ("AB:" * 31 + "CD", "EF:" * 31 + "01"),
        ("0f" * 32, "e1" * 32),
    ],
)
def test_what_varies_from_run_to_run_is_blanked_out(one, another):
    assert sanitize(one) == sanitize(another)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("10 chunks, gaps of about 100 ms: yes", "10 chunks, gaps of about 10 ms: yes"),
        ("10 chunks", "1 chunks"),
        ("after 1.5 s", "after 1.5 ms"),
        ("until 3000-01-01", "until 2000-01-01"),
        ("https://localhost:4433/stream", "https://example.test:4433/stream"),
        ("250 bytes", "25 bytes"),
        ("on a stream: 40 of 40 positions", "on a stream: 39 of 40 positions"),
        ("in datagrams: 34 of 40 positions", "in datagrams: 0 of 40 positions"),
        ("of 8 MiB", "of 4 MiB"),
    ],
)
def test_what_a_cell_teaches_is_compared(one, another):
    assert sanitize(one) != sanitize(another)
