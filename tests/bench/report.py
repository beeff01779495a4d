"""The table, the JSON and the picture of one run."""

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from helpers.display import style
from tests.bench.results import Figures, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADINGS = ("row", "what", "ours", "best peer", "ratio", "target", "met")
PACKAGES = ("aioquic", "hypercorn", "httpx2", "niquests", "curl_cffi")
ROW_PIXELS = 24
MET = {True: "yes", False: "NO", None: ""}


def table(lines: list[Line]) -> str:
    """Return the lines as a table for the terminal."""
    rows = [HEADINGS, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(lines: list[Line]) -> str:
    """Return the lines as a table in Markdown, under the date and the machine."""
    rows = [HEADINGS[1:], ("---",) * (len(HEADINGS) - 1), *(_cells(line)[1:] for line in lines)]
    return "\n".join([machine(), "", *("| " + " | ".join(row) + " |" for row in rows)])


def _cells(line: Line) -> tuple[str, ...]:
    row = line.row
    reference = f"{_number(line.reference)} {line.reference_name}".strip()
    if row.against is None and line.peers:
        best = (max if row.higher_is_better else min)(line.peers, key=line.peers.get)
        reference = f"({_number(line.peers[best])} {best})"
    return (
        row.name,
        row.title,
        "failed" if line.ours is None else f"{_number(line.ours)} {row.unit}",
        reference.replace("_", " "),
        "" if line.ratio is None else f"{line.ratio:.2f}x",
        row.target,
        "NO" if line.ours is None and row.limit is not None else MET[line.met],
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return (
        f"{value:.2f}"
        if abs(value) < 10
        else f"{value:.1f}"
        if abs(value) < 100
        else f"{value:.0f}"
    )


def machine() -> str:
    """Return the date, and what was measured on and with, in one line."""
    memory_gb = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {memory_gb:.0f} GiB, "
        f"{platform.system()} {platform.machine()}, Python {sys.version.split()[0]}, {packages}"
    )


def save_json(lines: list[Line], figures: Figures, path: Path) -> None:
    """Write the lines, and every figure of every round, to `path`."""
    rows = {
        line.row.name: {
            "ours": line.ours,
            "reference": line.reference,
            "reference_name": line.reference_name,
            "ratio": line.ratio,
            "target": line.row.target,
            "met": line.met,
            "unit": line.row.unit,
            "peers": line.peers,
            "rounds": figures[line.row.measurement],
        }
        for line in lines
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


def save_picture(lines: list[Line], path: Path) -> None:
    """Draw how many times better or worse than its target each row is, to `path`."""
    drawn = [(line, margin) for line in reversed(lines) if (margin := _margin(line)) is not None]
    with style.applied():
        figure = style.blank(style.WIDTH, 90 + ROW_PIXELS * len(drawn))
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot(xscale="log", xlabel="times better than the target")
        for position, (line, margin) in enumerate(drawn):
            colour = style.SERIES[0] if line.met else style.SERIES[1]
            axes.barh(position, margin - 1, left=1, color=colour, height=0.6)
            _name_bar(axes, position, line, margin)
        axes.axvline(1, color=style.TEXT, linewidth=0.8)
        axes.set_yticks(range(len(drawn)), [line.row.title for line, _ in drawn])
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.3, y=0.01)
        figure.suptitle(machine(), fontsize=8, color=style.MUTED)
        figure.savefig(path, dpi=style.PIXELS_PER_INCH * style.SHARPNESS)


def _name_bar(axes: "Axes", position: int, line: Line, margin: float) -> None:
    cells = dict(zip(HEADINGS, _cells(line), strict=True))
    axes.annotate(
        " ".join(filter(None, (cells["ours"], cells["ratio"] and f"({cells['ratio']})"))),
        (margin, position),
        xytext=(4 if line.met else -4, 0),
        textcoords="offset points",
        ha="left" if line.met else "right",
        va="center",
        fontsize=8,
    )


def _margin(line: Line) -> float | None:
    """How many times better than its target a line is."""
    value = line.ours if line.row.against is None else line.ratio
    if value is None or line.row.limit is None:
        return None
    value = max(value, line.row.limit / 1000)
    return value / line.row.limit if line.row.higher_is_better else line.row.limit / value
