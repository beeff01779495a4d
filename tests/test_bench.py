"""The benchmark itself: it measures, it compares the right figures, it leaves no process."""

import asyncio
import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.bench import clients, servers
from tests.bench.__main__ import main
from tests.bench.processes import make_certificates
from tests.bench.results import line
from tests.bench.rows import NIQUESTS, NIQUESTS_ASYNC, ROWS, Measurement, Row
from tests.bench.scenarios import (
    BLOCK,
    PATHS,
    BodyCheck,
    Records,
    answer,
    blocks,
    clock_ns,
    record,
)
from tests.bench.suite import _covered_s
from tests.bench.workloads import WORKLOADS

MEASURED = Measurement({"ours": ("ours", "ours"), "a": ("a", "a"), "b": ("b", "b")}, "download")


def test_the_smallest_row_runs_end_to_end(tmp_path, capsys):
    assert (
        main(["burst", "--tiny", "--rounds", "1", "--side", "ours", "--folder", str(tmp_path)]) == 0
    )
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert list(rows) == ["burst", "burst-memory"]
    assert rows["burst"]["ours"] > 0
    assert rows["burst-memory"]["met"] is True
    assert (tmp_path / "bench.png").stat().st_size > 1000
    printed = capsys.readouterr().out.splitlines()
    assert [text.split()[0] for text in printed] == ["row", "burst", "burst-memory"]


@pytest.mark.skipif(sys.platform == "win32", reason="there, SIGINT cannot be sent to one process")
def test_an_interrupt_ends_every_process(tmp_path, interruptible):
    command = [sys.executable, "-m", "tests.bench", "stalled", "--side", "ours"]
    bench = subprocess.Popen([*command, "--folder", tmp_path], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while len(children := psutil.Process(bench.pid).children()) < 2:
            assert time.monotonic() < deadline, "no server and client were started"
            time.sleep(0.01)
        bench.send_signal(signal.SIGINT)
        _, errors = bench.communicate(timeout=10)
    finally:
        bench.kill()
        bench.wait()
    assert bench.returncode == 130
    assert b"interrupted" in errors
    assert not [child for child in children if child.is_running()]


def test_a_failed_side_says_what_failed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(MEASURED.sides, "ours", ("no-such-server", "ours"))
    monkeypatch.setattr("tests.bench.__main__.ROWS", [Row("x", "x", MEASURED, "mb_per_s", "", 1)])
    assert main(["--rounds", "1", "--side", "ours", "--folder", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "KeyError: 'no-such-server'" in output.err
    assert output.out.split()[-1] == "NO"


def test_the_best_peer_is_the_one_with_the_best_median():
    rounds = {
        "ours": [{"rate": 40.0}, {"rate": 10.0}, {"rate": 30.0}],
        "a": [{"rate": 10.0}, {"rate": 99.0}, {"rate": 8.0}],
        "b": [{"rate": 15.0}, {"rate": 15.0}, {"rate": 15.0}],
    }
    higher = line(Row("x", "x", MEASURED, "rate", "", 2, True), {MEASURED: rounds})
    assert (higher.ours, higher.reference_name, higher.ratio, higher.met) == (30, "b", 2, True)
    lower = line(Row("x", "x", MEASURED, "rate", "", 2), {MEASURED: rounds})
    assert (lower.reference_name, lower.ratio, lower.met) == ("a", 3, False)


def test_a_row_is_held_against_its_own_figure_or_none():
    rounds = {"ours": [{"rate": 8.0, "other": 10.0}], "a": [{"rate": 1.0}]}
    own = line(Row("x", "x", MEASURED, "rate", "", 0.8, True, "other"), {MEASURED: rounds})
    assert (own.reference, own.ratio, own.met) == (10, 0.8, True)
    alone = line(Row("x", "x", MEASURED, "rate", "", 4, against=None), {MEASURED: rounds})
    assert (alone.ratio, alone.met) == (None, False)


def test_nothing_measured_is_not_met():
    lines = line(Row("x", "x", MEASURED, "rate", "", 4), {MEASURED: {"ours": [], "a": []}})
    assert (lines.ours, lines.ratio, lines.met) == (None, None, None)


def test_names_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_each_side_has_a_server_and_a_client():
    for row in ROWS:
        for side in row.measurement.sides.values():
            if row.measurement.workload in WORKLOADS:
                server, client = side
                assert server in servers.KINDS
                assert client in clients.KINDS


def test_niquests_is_a_peer_wherever_the_speed_of_our_client_counts():
    blocking, several = (set(sides.items()) for sides in (NIQUESTS, NIQUESTS_ASYNC))
    sides = {row.name: row.measurement.sides.items() for row in ROWS}
    alone = {"download", "ticks-p50", "ticks-p99", "requests", "first-byte"}
    assert all(blocking <= sides[name] for name in alone)
    assert all(several <= sides[name] for name in ("requests-16", "memory-stream-client"))


def test_targets_of_delivery_requests_and_open_streams():
    targets = {row.name: row.target for row in ROWS}
    assert targets["ticks-p50"] == targets["ticks-p99"] == "at most 1x"
    assert targets["ticks-sync-p50"] == targets["ticks-sync-p99"] == "at most 1.3x"
    assert targets["requests"] == "at least 1x"
    assert targets["memory-stream-client"] == "at most 1.3x"


def test_an_unknown_row_is_named():
    with pytest.raises(SystemExit, match="no row is called nonsense"):
        main(["nonsense"])


def test_a_body_is_checked_byte_by_byte():
    check = BodyCheck()
    whole = b"".join(blocks(200_000))
    for start in range(0, len(whole), 77_777):
        check.feed(whole[start : start + 77_777])
    assert check.size_bytes == 200_000
    with pytest.raises(ValueError, match="differs after byte 200000"):
        check.feed(BLOCK[:100])


def test_records_are_found_in_any_pieces():
    records = Records()
    data = b"".join(record() for _ in range(10))
    for start in range(0, len(data), 37):
        records.feed(data[start : start + 37])
    assert len(records.late_ns) == 10
    assert all(0 < delivery_ns < 5e9 for delivery_ns in records.delivery_ns)


def test_a_record_is_late_from_when_it_was_due():
    records = Records()
    records.feed(record(due_ns=clock_ns() - 10**9))
    assert records.late_ns[0] >= 10**9 > records.delivery_ns[0]


def test_sleeps_at_the_same_time_count_once():
    assert _covered_s("0 2\n1 3\n10 11\n") == 4


async def _ticking():
    written = []

    async def write(data):
        written.append(data)

    async def flush():
        written.append(b"")

    await answer("/ticks", {"count": "3", "interval_ms": "20"}, None, write, flush)
    return written


def test_ticks_come_at_their_moments():
    start_s = time.perf_counter()
    written = asyncio.run(_ticking())
    assert time.perf_counter() - start_s >= 0.04
    assert [len(data) for data in written] == [64, 0] * 3


# ---- niquests as a client


NIQUESTS_KINDS = [clients.connect_niquests, clients.connect_niquests_sync]


@pytest.fixture
def scenarios(server):
    """Our server with the benchmark's scenarios."""

    async def handler(request, response):
        response.write_header(200)
        query = dict(request.query)
        await answer(request.path, query, request, response.write, response.flush)

    for path in PATHS:
        server.route(path)(handler)
    return server


@pytest.mark.parametrize("connect", NIQUESTS_KINDS)
def test_niquests_hands_over_each_chunk_when_it_arrives(scenarios, credentials, connect):
    pytest.importorskip("niquests")
    records, pieces = Records(), []

    def on_data(data):
        pieces.append(data)
        records.feed(data)

    async def run():
        async with connect(scenarios.port, str(credentials.ca_file)) as client:
            await client.get("/ticks?count=10&interval_ms=50", on_data)

    asyncio.run(run())
    assert len(records.delivery_ns) == 10
    assert len(pieces) > 5  # on a busy machine, two may come together
    assert sorted(records.delivery_ns)[5] < 40e6


@pytest.mark.parametrize("connect", NIQUESTS_KINDS)
def test_niquests_sends_a_body(scenarios, credentials, connect):
    pytest.importorskip("niquests")
    answered = []

    async def run():
        async with connect(scenarios.port, str(credentials.ca_file)) as client:
            await client.post("/upload", blocks(200_000), answered.append)

    asyncio.run(run())
    assert b"".join(answered) == b"200000"


@pytest.mark.parametrize("connect", NIQUESTS_KINDS)
def test_niquests_trusts_the_given_ca_alone(scenarios, tmp_path, connect):
    niquests = pytest.importorskip("niquests")
    another = make_certificates(tmp_path)

    async def run():
        async with connect(scenarios.port, str(another.ca_file)) as client:
            await client.get("/hello", print)

    with pytest.raises(niquests.exceptions.SSLError):
        asyncio.run(run())


def test_niquests_that_speaks_another_version_is_refused():
    class Response:
        http_version = 20

        def raise_for_status(self):
            pass

    with pytest.raises(RuntimeError, match="HTTP version 20"):
        clients._check_niquests(Response())


def test_niquests_holds_several_streams_of_one_connection(tmp_path):
    pytest.importorskip("niquests")
    sides = ["--side", "ours", "--side", "niquests"]
    tiny = ["--tiny", "--rounds", "1", "--folder", str(tmp_path)]
    assert main(["memory-stream", *sides, *tiny]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert list(rows["memory-stream-client"]["peers"]) == ["niquests"]
