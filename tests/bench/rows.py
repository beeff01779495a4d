"""The rows of the table: what is measured, between whom, and what is aimed at."""

from dataclasses import dataclass, field

MIB = 1024 * 1024

# A server and a client by their names in servers.py and clients.py, or modules to import.
Side = tuple[str, ...] | str

PYTHON_CLIENTS: dict[str, Side] = {
    "ours": ("ours", "ours"),
    "aioquic": ("aioquic", "aioquic"),
    "hypercorn": ("hypercorn", "aioquic"),
}
# The plain server answers niquests, so that this pair and `aioquic` differ in the client alone. Its
# blocking session is the faster one where one thing is done at a time, the other where several are.
NIQUESTS: dict[str, Side] = {"niquests": ("aioquic", "niquests-sync")}
NIQUESTS_ASYNC: dict[str, Side] = {"niquests": ("aioquic", "niquests")}
WITH_SYNC = PYTHON_CLIENTS | NIQUESTS | {"ours, sync": ("ours", "ours-sync")}
# Where the target is one of our own figures, or aioquic's server, one peer is enough.
AND_AIOQUIC = {side: PYTHON_CLIENTS[side] for side in ("ours", "aioquic")}
CURL_CLIENT: dict[str, Side] = {
    "ours": ("ours", "curl"),
    "aioquic": ("aioquic", "curl"),
    "hypercorn": ("hypercorn", "curl"),
}
CURL_AND_AIOQUIC = {side: CURL_CLIENT[side] for side in ("ours", "aioquic")}


@dataclass(frozen=True, eq=False)
class Measurement:
    """A workload and its parameters for each side; `tiny` changes them to the smallest size.

    A slow measurement is made in the first `rounds` rounds only. Where there is a `line`, that is
    what lies between the two: the conditions of a `helpers.link.Link`.
    """

    sides: dict[str, Side]
    workload: str = ""
    parameters: dict[str, object] = field(default_factory=dict)
    tiny: dict[str, object] = field(default_factory=dict)
    rounds: int = 3
    line: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Our `figure` of the measurement is divided by the best peer's, or by our own figure called
    `against`, and the ratio is held against `limit`; with `against=None` the figure itself is.
    A row without `limit` is only printed.
    """

    name: str
    title: str
    measurement: Measurement
    figure: str
    unit: str
    limit: float | None = None
    higher_is_better: bool = False
    against: str | None = "peers"
    ours: str = "ours"

    @property
    def target(self) -> str:
        """Return the target in words."""
        if self.limit is None:
            return "printed"
        unit = f" {self.unit}" if self.against is None else "x"
        return f"{'at least' if self.higher_is_better else 'at most'} {self.limit:g}{unit}"

    def meets(self, value: float) -> bool:
        """Return whether a ratio (or a figure, without `against`) is as aimed at."""
        return value >= self.limit if self.higher_is_better else value <= self.limit


_BODY = {"size_bytes": 40 * MIB}
_TINY_BODY = {"size_bytes": MIB}
_TICKS = {"count": 2000, "interval_ms": 1}
_TINY_TICKS = {"count": 20, "interval_ms": 1}

DOWNLOAD = Measurement(WITH_SYNC, "download", _BODY, _TINY_BODY)
DOWNLOAD_CURL = Measurement(CURL_CLIENT, "download", _BODY, _TINY_BODY)
UPLOAD = Measurement(AND_AIOQUIC, "upload", _BODY, _TINY_BODY, rounds=2)
BOTH = Measurement(AND_AIOQUIC, "both", _BODY, _TINY_BODY, rounds=2)
TICKS = Measurement(WITH_SYNC, "ticks", _TICKS, _TINY_TICKS)
TICKS_CURL = Measurement(CURL_CLIENT, "ticks", _TICKS, _TINY_TICKS, rounds=1)
BURST = Measurement(PYTHON_CLIENTS, "burst", {"count": 20_000}, {"count": 200})
STALLED = Measurement(
    CURL_CLIENT, "stalled", {"size_bytes": 200 * MIB, "wait_s": 3}, {"wait_s": 1}, rounds=1
)
REQUESTS = Measurement(
    PYTHON_CLIENTS | NIQUESTS, "requests", {"count": 800, "at_once": 1}, {"count": 10}
)
REQUESTS_16 = Measurement(
    PYTHON_CLIENTS | NIQUESTS_ASYNC,
    "requests",
    {"count": 1600, "at_once": 16},
    {"count": 32},
    rounds=2,
)
CONNECTIONS_300 = Measurement(
    CURL_AND_AIOQUIC, "connections", {"count": 300, "streams_each": 1}, {"count": 3}, rounds=2
)
STREAMS_30X30 = Measurement(
    CURL_AND_AIOQUIC,
    "streams",
    {"count": 30, "streams_each": 30},
    {"count": 2, "streams_each": 2},
    rounds=2,
)
ROUND_TRIPS_MS = (20, 50, 100, 200)


def _far(sides: dict[str, Side], size_bytes: int, **line: float) -> Measurement:
    return Measurement(
        sides, "upload", {"size_bytes": size_bytes}, {"size_bytes": 100_000}, rounds=2, line=line
    )


DISTANCE = {ms: _far(AND_AIOQUIC, 10_000_000, delay_ms=ms / 2) for ms in ROUND_TRIPS_MS}
DISTANCE_CURL = {ms: _far(CURL_AND_AIOQUIC, 10_000_000, delay_ms=ms / 2) for ms in ROUND_TRIPS_MS}
LOSS = _far(AND_AIOQUIC, 2_000_000, delay_ms=10, loss=0.01)
STREAM_COST = Measurement(
    AND_AIOQUIC,
    "stream_cost",
    {"steps": {"1": 20, "10": 100, "100": 500, "1000": 1000}},
    {"steps": {"1": 2, "4": 8}},
    rounds=1,
)
MEMORY_CONNECTIONS = Measurement(
    PYTHON_CLIENTS, "memory_connections", {"count": 180}, {"count": 3}, rounds=1
)
MEMORY_STREAMS = Measurement(
    PYTHON_CLIENTS | NIQUESTS_ASYNC,
    "memory_streams",
    {"connections": 8, "streams": 60},
    {"connections": 1, "streams": 3},
    rounds=1,
)
FIRST_BYTE = Measurement(WITH_SYNC, "first_byte", {"count": 11}, {"count": 2}, rounds=2)
IMPORT = Measurement(
    {
        "ours": "helpers.server, helpers.client",
        "aioquic and httpx2": "aioquic.asyncio, aioquic.h3.connection, httpx2",
    },
)
# Runs for minutes, so only where it is asked for.
SUITE = Measurement({"ours": ()}, "suite", rounds=1)

UP = {"higher_is_better": True}
OF_DOWNLOAD = {"against": "download_mb_per_s"} | UP
ALONE = {"against": None}
SYNC = {"ours": "ours, sync"}


def _both_ways(name: str, title: str, measurement: Measurement) -> list[Row]:
    """One body down and one up, on one connection."""
    down, up = "download_mb_per_s", "mb_per_s"
    return [
        Row(f"{name}-down", f"{title}, down", measurement, down, "MB/s", 1, **UP),
        Row(f"{name}-up", f"{title}, up", measurement, up, "MB/s", 1, **UP),
    ]


FAR_ROWS = [
    row
    for ms in ROUND_TRIPS_MS
    for name, who, measurement in (
        (f"distance-{ms}", "", DISTANCE[ms]),
        (f"distance-{ms}-curl", ", curl", DISTANCE_CURL[ms]),
    )
    for row in _both_ways(name, f"{ms} ms away{who}", measurement)
] + _both_ways("distance-loss", "20 ms away, 1 % lost", LOSS)

ROWS = [
    Row("download", "40 MiB body", DOWNLOAD, "mb_per_s", "MB/s", 4, **UP),
    Row(
        "download-sync", "40 MiB, notebooks' client", DOWNLOAD, "mb_per_s", "MB/s", 4, **UP, **SYNC
    ),
    Row("download-curl", "40 MiB body, curl reads", DOWNLOAD_CURL, "mb_per_s", "MB/s", 4, **UP),
    Row("upload", "40 MiB upload, to download", UPLOAD, "mb_per_s", "MB/s", 0.8, **OF_DOWNLOAD),
    Row("both", "both at once, to download", BOTH, "mb_per_s", "MB/s", 0.8, **OF_DOWNLOAD),
    *FAR_ROWS,
    Row("ticks-p50", "chunk every ms, delivery p50", TICKS, "p50_us", "us", 1.0),
    Row("ticks-p99", "chunk every ms, delivery p99", TICKS, "p99_us", "us", 1.0),
    Row("ticks-sync-p50", "chunk every ms, notebooks', p50", TICKS, "p50_us", "us", 1.3, **SYNC),
    Row("ticks-sync-p99", "chunk every ms, notebooks', p99", TICKS, "p99_us", "us", 1.3, **SYNC),
    Row("ticks-curl-p50", "chunk every ms, curl, p50", TICKS_CURL, "p50_us", "us"),
    Row("ticks-curl-p99", "chunk every ms, curl, p99", TICKS_CURL, "p99_us", "us"),
    Row("burst", "20,000 flushed chunks", BURST, "chunks_per_s", "chunks/s", 1.5, **UP),
    Row("burst-memory", "burst, server's growth", BURST, "server_growth_mb", "MB", 4, **ALONE),
    Row("stalled", "200 MiB, stalled reader", STALLED, "server_growth_mb", "MB", 4, **ALONE),
    Row("requests", "requests, one at a time", REQUESTS, "requests_per_s", "/s", 1.0, **UP),
    Row("requests-16", "requests, 16 at once", REQUESTS_16, "requests_per_s", "/s", 1.3, **UP),
    Row("connections-total", "300 connections, total", CONNECTIONS_300, "total_s", "s", 0.6),
    Row("connections-late", "300 connections, worst", CONNECTIONS_300, "worst_late_ms", "ms", 0.6),
    Row("connections-behind", "300, behind handler", CONNECTIONS_300, "worst_behind_ms", "ms", 0.6),
    Row("streams", "30 x 30 streams", STREAMS_30X30, "total_s", "s", 1.1, against="floor_s"),
    Row("stream-cost", "cost rise, 1 to 1,000 streams", STREAM_COST, "growth", "x", 1.25, **ALONE),
    Row("memory-connection", "server, idle connection", MEMORY_CONNECTIONS, "server_kb", "kB", 1),
    Row(
        "memory-connection-client",
        "client, idle connection",
        MEMORY_CONNECTIONS,
        "client_kb",
        "kB",
        1,
    ),
    Row("memory-stream", "server, open stream", MEMORY_STREAMS, "server_kb", "kB", 1),
    Row("memory-stream-client", "client, open stream", MEMORY_STREAMS, "client_kb", "kB", 1.3),
    Row("import", "import server and client", IMPORT, "ms", "ms", 1.15),
    Row("start", "Server.start", FIRST_BYTE, "start_ms", "ms", 20, **ALONE),
    Row("first-byte", "first byte, new connection", FIRST_BYTE, "ms", "ms", 30, **ALONE),
    Row("first-byte-sync", "first byte, notebooks'", FIRST_BYTE, "ms", "ms", 30, **ALONE, **SYNC),
    Row("suite", "make test", SUITE, "make_test_s", "s", **ALONE),
    Row("suite-notebooks", "notebooks under nbval", SUITE, "notebooks_s", "s", **ALONE),
    Row("suite-sleeps", "sleeps in their cells", SUITE, "sleeps_s", "s", **ALONE),
]
