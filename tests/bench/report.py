"""The table, the JSON and the picture of one run."""

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.bench.results import Figures, Line

HEADINGS = ("row", "what", "ours", "best peer", "ratio", "target", "met")
PACKAGES = ("aioquic", "hypercorn", "httpx2", "curl_cffi")
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
    """Draw how far each row is from its target, on a logarithmic axis, to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [(line, margin) for line in lines if (margin := _margin(line)) is not None]
    if not drawn:
        return
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.32 * len(drawn)), layout="constrained")
    for position, (line, margin) in enumerate(reversed(drawn)):
        colour = "#2a7f62" if margin >= 1 else "#c8553d"
        axes.barh(position, margin - 1, left=1, color=colour, height=0.6)
        text = " ".join(_cells(line)[2:6:2])
        axes.annotate(
            text,
            (margin, position),
            xytext=(4 if margin >= 1 else -4, 0),
            textcoords="offset points",
            ha="left" if margin >= 1 else "right",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(drawn)), [line.row.title for line, _ in reversed(drawn)])
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.25)
    axes.set_xlabel("times better than the target")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _margin(line: Line) -> float | None:
    """How many times better than its target a line is."""
    value = line.ours if line.row.against is None else line.ratio
    if value is None or line.row.limit is None:
        return None
    value = max(value, line.row.limit / 1000)
    return value / line.row.limit if line.row.higher_is_better else line.row.limit / value
