"""The soak finds what it is made to find; a short one runs with the tests."""

import signal
import subprocess
import sys

import psutil
import pytest

from tests import soak
from tests.peers import ROOT
from tests.soak_clients import Body, Wrong

SHORT_S = 1.5


@pytest.mark.timeout(180)
def test_a_short_soak_passes(capsys, monkeypatch):
    # CI's real one comes to each scenario often; this one is about the machinery.
    monkeypatch.setattr(soak, "WARM_UP_REQUESTS", 50)
    assert soak.soak(SHORT_S) == 0
    lines = capsys.readouterr().out.splitlines()
    print("\n".join(lines))
    assert lines[0] == "soak: 1.5 s, of which 0.5 s are the warm-up"
    verdicts = [line for line in lines if line.startswith(("ok ", "FAILED"))]
    assert len(verdicts) == 1 + 3 * (1 + soak.CLIENTS)
    assert any(" requests, 0 of them wrong" in line for line in verdicts)


@pytest.mark.timeout(180)
def test_one_wrong_byte_fails_the_soak(capsys, monkeypatch):
    monkeypatch.setattr(soak, "WARM_UP_REQUESTS", 0)
    pieces = soak._pieces

    def one_byte_wrong(body):
        for piece, at in pieces(body):
            yield (piece[:-1] + bytes([piece[-1] ^ 1]) if at else piece), at

    monkeypatch.setattr(soak, "_pieces", one_byte_wrong)
    assert soak.soak(0.5) == 1
    out = capsys.readouterr().out
    assert "bytes that are not those of Body(" in out
    assert "FAILED" in out


REST = soak.Rest(rss_mb=50.0, tasks=3, streams=0)


@pytest.mark.parametrize(
    ("after", "failed"),
    [
        (REST, None),
        (soak.Rest(50.0 + soak.MEMORY_TOLERANCE_MB, 3, 0), None),
        (soak.Rest(50.1 + soak.MEMORY_TOLERANCE_MB, 3, 0), "memory of the server: 50.0 MB"),
        (soak.Rest(50.0, 4, 0), "tasks of the server: 3 after the warm-up, 4 at the end"),
        (soak.Rest(50.0, 3, 1), "streams of the server: 1 left at the end"),
    ],
)
def test_each_check_fails_on_its_own(capsys, after, failed):
    results = soak.checks({"server": REST}, {"server": after}, [], 1.0, 10)
    assert soak.conclude(results, []) == int(failed is not None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert [line.startswith(f"FAILED {failed}") for line in lines] == [True] * len(lines)
    assert len(lines) == int(failed is not None)


def test_an_error_of_anybody_fails_the_soak_and_is_shown(capsys):
    results = soak.checks({"server": REST}, {"server": REST}, ["echo: Wrong()"], 1.0, 10)
    assert soak.conclude(results, ["echo: Wrong()"]) == 1
    out = capsys.readouterr().out
    assert "echo: Wrong()" in out
    assert "FAILED 1 MB in 10 requests, 1 of them wrong" in out


def test_bodies_differ_where_a_byte_is_lost_doubled_or_moved():
    body = Body(1000, 5000)
    body.check(body.data)
    body.check(body.data[:10], whole=False)
    for other in (body.data[:-1], body.data[1:], body.data + b"x", body.data[::-1]):
        with pytest.raises(Wrong):
            body.check(other)
    with pytest.raises(Wrong):
        body.check(body.data[1:10], whole=False)


@pytest.mark.skipif(sys.platform == "win32", reason="there, SIGINT cannot be sent to one process")
def test_ctrl_c_ends_it_and_all_its_clients(interruptible):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.soak", "60"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout.readline().startswith("soak: 60 s")
        children = []
        while len(children) < soak.CLIENTS:
            children = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=10)
    assert running.returncode == 130
    assert errors == "interrupted\n"
    _, left = psutil.wait_procs(children, timeout=10)
    assert left == []
