"""The programs as a terminal shows them."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from helpers import __main__ as programs

ROOT = Path(__file__).parent.parent
LINES = [f"data chunk #{number}\n" for number in range(10)]
PRINTED = {
    "buffered": LINES,
    "takeover": LINES,
    "upload": [f"the server has {line}" for line in LINES],
    "datagrams": LINES,
}
WAIT_S = 30.0


@pytest.fixture
def run(tmp_path, interruptible):
    """Starts a program whose warnings are errors and whose temporary files go to tmp_path."""
    processes = []
    # With it, lines that are not flushed would leave all the same.
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}

    def start(*arguments):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "helpers", *arguments],
                cwd=ROOT,
                env=environment | {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is sent to this one alone
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("program", PRINTED)
def test_ten_lines_arrive_one_by_one_and_nothing_stays(run, tmp_path, program):
    process = run(program)
    lines, arrived_at = [], []
    for line in process.stdout:
        lines.append(line)
        arrived_at.append(time.monotonic())
        if len(lines) == 1:
            # The certificates are there while they are needed.
            assert len(list(tmp_path.glob("*/ca.pem"))) == 1
    assert lines == PRINTED[program]
    # 0.9 s in all, 0.1 s each: not in one piece, and not in two.
    assert arrived_at[-1] - arrived_at[0] > 0.9 / 5
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(arrived_at)]
    assert sorted(gaps_s)[4] > 0.1 / 5
    assert process.stderr.read() == ""
    assert process.wait(WAIT_S) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("program", PRINTED)
def test_an_interrupt_ends_it_cleanly(run, tmp_path, program):
    process = run(program)
    assert [process.stdout.readline() for _ in range(3)] == PRINTED[program][:3]
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 130
    assert process.stderr.read() == ""
    assert len(process.stdout.readlines()) < 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["buffered", "upload"])
def test_a_reader_that_has_enough_ends_it_without_a_traceback(run, tmp_path, program):
    process = run(program)
    assert process.stdout.readline() == PRINTED[program][0]
    process.stdout.close()
    assert process.wait(WAIT_S) == 1
    assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_another_name_is_refused_with_those_that_there_are(run):
    process = run("unbuffered")
    assert process.wait(WAIT_S) == 2
    last = process.stderr.read().splitlines()[-1]
    assert "invalid choice: 'unbuffered'" in last
    assert "buffered" in last
    assert "takeover" in last
    assert "upload" in last


@pytest.mark.parametrize("program", ["takeover", "upload"])
def test_over_a_line_that_loses_packets_all_come(run, tmp_path, program):
    process = run(program, "--delay-ms", "150", "--loss", "0.05", "--rate-mbit", "5")
    lines = process.stdout.readlines()
    assert lines == PRINTED[program]
    assert process.stderr.read() == ""
    assert process.wait(WAIT_S) == 0
    assert list(tmp_path.iterdir()) == []


def test_over_a_line_that_loses_packets_some_datagrams_come_in_order(run, tmp_path):
    process = run("datagrams", "--delay-ms", "20", "--loss", "0.3")
    lines = process.stdout.readlines()
    assert lines
    assert lines == [line for line in LINES if line in lines]
    assert process.stderr.read() == ""
    assert process.wait(WAIT_S) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], {}),
        (["--delay-ms", "50"], {"delay_ms": 50}),
        (["--loss=0.02", "--rate-mbit=10"], {"loss": 0.02, "rate_mbit": 10}),
    ],
)
def test_the_options_are_the_conditions_of_the_line(monkeypatch, options, line):
    shown = []
    monkeypatch.setattr(programs, "show", lambda *arguments: shown.append(arguments))
    monkeypatch.setattr(sys, "argv", ["helpers", "buffered", *options])
    assert programs.main() == 0
    assert shown == [(programs.buffered, line, programs.read_body)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--loss", "5"], "loss is a share from 0 to 1, such as 0.05 for 5 %, not 5.0."),
        (["--delay-ms", "-1"], "delay_ms is a number of milliseconds from 0 to 10,000, not -1.0."),
        (["--delay-ms", "far"], "argument --delay-ms: invalid float value: 'far'"),
        (["--rate-mbit", "0"], "rate_mbit is a number of Mbit/s from 0.001, or None for no limit"),
    ],
)
def test_a_line_that_cannot_be_is_refused_in_a_sentence(run, tmp_path, options, told):
    process = run("buffered", *options)
    assert process.wait(WAIT_S) == 2
    said = process.stderr.read()
    assert f"python -m helpers: error: {told}" in said
    assert "Traceback" not in said
    assert process.stdout.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_the_line(run):
    process = run("--help")
    said = process.stdout.read()
    assert process.wait(WAIT_S) == 0
    assert "over a line:" in said
    assert all(option in said for option in ("--delay-ms", "--loss", "--rate-mbit"))


def test_over_a_line_the_first_response_takes_two_round_trips(monkeypatch):
    arrived_at = []
    monkeypatch.setattr(
        programs, "print", lambda *_, **__: arrived_at.append(time.perf_counter()), raising=False
    )
    started = time.perf_counter()
    programs.show(programs.takeover, {"delay_ms": 150})
    assert arrived_at[0] - started > 0.59
    assert len(arrived_at) == 10


@pytest.mark.parametrize("handler", [programs.buffered, programs.takeover])
def test_the_programs_chunks_are_frames_of_their_own(server, client, handler):
    server.route("/stream")(handler)
    with client.stream("GET", server.url("/stream")) as response:
        assert response.status_code == 200
        assert [chunk.decode() for chunk in response.iter_raw()] == LINES


def test_a_program_whose_server_answers_an_error_says_so():
    async def refuse(request, response):
        response.write_header(500)

    with pytest.raises(httpx2.HTTPStatusError, match="500 Internal Server Error"):
        programs.show(refuse)


def test_a_response_that_cannot_flush_is_told():
    sent = []

    class WithoutFlush:
        def write_header(self, status):
            sent.append(status)

        async def write(self, text):
            sent.append(text)

    asyncio.run(programs.buffered(None, WithoutFlush()))
    assert sent == [500, "streaming is not supported\n"]
