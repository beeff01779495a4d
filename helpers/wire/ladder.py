"""The ladder: client and server as two lines, and each frame as an arrow between them.

Time runs downwards. The frames of one run may be microseconds or seconds apart, and each needs
room for a line of text: so every frame gets that room, and what time passes in between is added in
proportion. A longer wait is a longer way down, though not on one scale; the exact times stand at
the edges. Labels stand outside the two lines, at their sender's side, where no arrow crosses them.
"""

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from helpers.display import Row, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_FRAMES = 40
"""More than this cannot be read in one picture."""

# All lengths are in CSS pixels.
LINE_X: dict[str, float] = {"client": 360, "server": 540}
EDGE_X = {"client": 14, "server": style.WIDTH - 14}
TOP, BOTTOM = 56, 34
LABEL_STEP = 24
ARROW_STEP = 9
STRETCH = 240
"""The height that is shared out in proportion to the time that passes."""
LABEL_WIDTH = 272
"""What has room between a line and the times at its edge."""
LABEL_POINTS = 9.6
SMALL: dict[str, Any] = {"va": "center", "color": style.MUTED, "size": "small"}
"""How times and notes look."""

COLORS = {
    "DATA": style.SERIES[0],
    "DATAGRAM": style.SERIES[2],
    "HEADERS": style.SERIES[1],
    "FIN": style.TEXT,
    "RESET_STREAM": style.SERIES[3],
    "STOP_SENDING": style.SERIES[3],
    "CONNECTION_CLOSE": style.SERIES[3],
}


def draw(rows: list[Row], things: str = "frames") -> style.Picture:
    """Return the picture of these rows, which are frames or other `things` in the order of time.

    An arrow falls from where the frame left to where it arrived. It is level where only one end
    was observed, and stops half-way where the other end did not see the frame arrive. The times are
    those of the end at whose edge they stand, or of the other where only that was observed.
    """
    shown = rows[:MAX_FRAMES]
    y_of = _positions(shown)
    height = max(y_of.values()) + BOTTOM
    both_ends = any(row["received_ms"] not in (None, row["time_ms"]) for row in shown)
    several = len({_stream(row) for row in shown} - {""}) > 1
    digits = 1 if shown[-1]["time_ms"] - shown[0]["time_ms"] >= 100 else 2
    with style.applied():
        figure, axes = style.canvas(style.WIDTH, height)
        for side, x in LINE_X.items():
            axes.plot([x, x], [TOP - 22, height - BOTTOM / 2], color=style.MUTED, linewidth=1.5)
            axes.text(x, TOP - 36, side, ha="center", va="center", weight="bold")
            _draw_time(axes, side, TOP - 36, "time")
        for number, row in enumerate(shown):
            start, end = y_of[number, "time_ms"], y_of[number, "received_ms"]
            _draw_arrow(axes, row, start, end, lost=both_ends and row["received_ms"] is None)
            _draw_label(axes, row, start, _stream(row) * several + _words(row))
            _draw_time(axes, row["sender"], start, f"{row['time_ms']:.{digits}f} ms")
        if len(rows) > len(shown):
            text = f"the first {len(shown)} of {len(rows)} {things}"
            middle = style.WIDTH / 2
            axes.text(middle, height - BOTTOM / 4, text, ha="center", **SMALL)
    told = _in_words(rows, things)
    return style.Picture(figure, alt=f"Ladder diagram. {told}", text=f"<Ladder: {told}>")


def _positions(rows: list[Row]) -> dict[tuple[int, str], float]:
    """Return how far down each frame leaves and arrives, by row number and column."""
    moments = sorted(
        (row[column], column == "received_ms", number)
        for number, row in enumerate(rows)
        for column in ("time_ms", "received_ms")
        if column == "time_ms" or row[column] not in (None, row["time_ms"])
    )
    passed_ms = moments[-1][0] - moments[0][0]
    per_ms = STRETCH / passed_ms if passed_ms else 0.0
    y: float = TOP - ARROW_STEP
    before_ms = moments[0][0] - 1e-9
    free_from: dict[str, float] = dict.fromkeys(LINE_X, TOP)
    y_of: dict[tuple[int, str], float] = {}
    for time_ms, arrives, number in moments:
        if time_ms != before_ms:
            y += ARROW_STEP + per_ms * (time_ms - before_ms)
            before_ms = time_ms
        if arrives:
            y_of[number, "received_ms"] = y
        else:
            side = rows[number]["sender"]
            y = max(y, free_from[side])
            free_from[side] = y + LABEL_STEP
            y_of[number, "time_ms"] = y_of[number, "received_ms"] = y
    return y_of


def _draw_arrow(axes: "Axes", row: Row, start: float, end: float, lost: bool) -> None:
    here, there = LINE_X["client"], LINE_X["server"]
    if row["sender"] == "server":
        here, there = there, here
    if lost:
        there, end = (here + there) / 2, (start + end) / 2
        axes.plot([there], [end], marker="x", color=_color(row), markersize=7)
    look = {"arrowstyle": "-" if lost else "-|>", "color": _color(row), "linewidth": 1.6}
    arrow = {**look, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=(there, end), xytext=(here, start), arrowprops=arrow)


def _draw_label(axes: "Axes", row: Row, y: float, words: str) -> None:
    towards_line, gap = ("right", -12) if row["sender"] == "client" else ("left", 12)
    label = axes.text(
        LINE_X[row["sender"]] + gap,
        y,
        words,
        ha=towards_line,
        va="center",
        color=_color(row),
        size=LABEL_POINTS,
        # Otherwise matplotlib reads what stands between two dollar signs as a formula.
        parse_math=False,
    )
    too_wide = label.get_window_extent().width / LABEL_WIDTH
    if too_wide > 1:
        label.set_text(words[: int(len(words) / too_wide) - 3] + "...")


def _draw_time(axes: "Axes", side: str, y: float, words: str) -> None:
    towards_edge = "left" if side == "client" else "right"
    axes.text(EDGE_X[side], y, words, ha=towards_edge, **SMALL)


def _words(row: Row) -> str:
    """Return what stands beside an arrow: the frame, and what to know of it first."""
    frame: str = row["frame"]
    detail: str = row["detail"]
    if frame in ("DATA", "DATAGRAM"):
        return f"{frame}, {row['length']} bytes: {detail}"
    if frame == "HEADERS":
        known = re.findall(r":(?:method|path|status): ([^,]*)", detail)
        return f"HEADERS: {' '.join(known) or 'trailers'}"
    if frame in ("RESET_STREAM", "STOP_SENDING", "CONNECTION_CLOSE"):
        return f"{frame}: {detail.split(' (')[0]}"
    return frame


def _stream(row: Row) -> str:
    """Return the request's stream, to tell several apart; nothing for what is no request."""
    is_request = row["stream_id"] is not None and row["stream_id"] % 4 == 0
    return f"stream {row['stream_id']}: " if is_request else ""


def _color(row: Row) -> str:
    return COLORS.get(row["frame"], style.MUTED)


def _in_words(rows: list[Row], things: str) -> str:
    """Return what the picture shows, without the times: the same run gives the same words."""
    sentences = []
    for side in LINE_X:
        frames = [row["frame"] for row in rows if row["sender"] == side]
        runs = [(name, len(list(run))) for name, run in groupby(frames)]
        text = ", ".join(f"{count} times {name}" if count > 1 else name for name, count in runs)
        sentences.append(f"the {side} sends {text or 'nothing'}")
    return f"{len(rows)} {things}; {'; '.join(sentences)}"
