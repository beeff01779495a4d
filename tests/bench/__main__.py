"""`python -m tests.bench [ROW ...]`: measure, print the table, write .bench/."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import report
from tests.bench.processes import (
    ROOT,
    Certificates,
    MeasurementFailed,
    make_certificates,
    run_import,
    run_pair,
)
from tests.bench.results import Figures, line
from tests.bench.rows import ROWS, SUITE, Measurement, Row
from tests.bench.suite import run_suite

FOLDER = ROOT / ".bench"
BUDGET_S = 290.0


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code is 1 where a row of ours could not be measured."""
    options = _parser().parse_args(argv)
    rows = _select(options.rows, options.with_tests)
    if options.list:
        for row in rows:
            print(f"{row.name:26}{row.title:34}{row.target}")
        return 0
    try:
        figures = asyncio.run(_measure(rows, options))
    except KeyboardInterrupt:
        print("interrupted; every process was ended", file=sys.stderr)
        return 130
    lines = [line(row, figures) for row in rows]
    report.save_json(lines, figures, options.folder / "bench.json")
    report.save_picture(lines, options.folder / "bench.png")
    print(report.markdown(lines) if options.markdown else report.table(lines))
    return 1 if any(line.ours is None for line in lines) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a row, or how its name begins")
    parser.add_argument("--list", action="store_true", help="name the rows and their targets")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--with-tests", action="store_true", help="also time the test suite")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to try it out")
    parser.add_argument("--side", action="append", help="only this side (may be given twice)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for JSON and picture")
    return parser


def _select(names: list[str], with_tests: bool) -> list[Row]:
    unknown = [n for n in names if not any(row.name.startswith(n) for row in ROWS)]
    if unknown:
        sys.exit(f"no row is called {', '.join(unknown)}: see --list")
    if names:
        return [row for row in ROWS if any(row.name.startswith(n) for n in names)]
    return [row for row in ROWS if with_tests or row.measurement is not SUITE]


async def _measure(rows: list[Row], options: argparse.Namespace) -> Figures:
    """All measurements of a round, then the next round: so each side meets the same weather."""
    measurements = list(dict.fromkeys(row.measurement for row in rows))
    figures = {m: {side: [] for side in _sides(m, options)} for m in measurements}
    took_s = dict.fromkeys(measurements, 0.0)
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = make_certificates(Path(folder))
        for number in range(options.rounds):
            for measurement in (m for m in measurements if number < m.rounds):
                before_s = time.monotonic()
                if number and before_s - start_s + took_s[measurement] > BUDGET_S:
                    continue
                for side in figures[measurement]:
                    await _one(measurement, side, files, options, figures)
                took_s[measurement] = time.monotonic() - before_s
    return figures


def _sides(measurement: Measurement, options: argparse.Namespace) -> list[str]:
    return [side for side in measurement.sides if not options.side or side in options.side]


async def _one(
    measurement: Measurement,
    side: str,
    files: Certificates,
    options: argparse.Namespace,
    figures: Figures,
) -> None:
    players = measurement.sides[side]
    parameters = measurement.parameters | (measurement.tiny if options.tiny else {})
    label = f"{measurement.workload or 'import'} {side}"
    _show(f"{label} ...")
    try:
        if measurement is SUITE:
            result = await run_suite()
        elif isinstance(players, str):
            result = await run_import(players)
        else:
            result = await run_pair(
                files, *players, measurement.workload, parameters, measurement.line
            )
    except MeasurementFailed as error:
        _show("")
        print(f"{label}: {error}", file=sys.stderr)
    else:
        figures[measurement][side].append(result)
    _show("")


def _show(text: str) -> None:
    """What runs now, on a terminal's last line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
