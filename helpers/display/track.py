"""A moving thing as its watchers see it: where it was, and which of its positions came when.

One lane for each way of sending, all on one scale. The line is where the thing was, a dot a
position that came, at the moment when it came: the further to the right of the line, the older it
was. A cross is a position that never came.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from helpers.display import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# All lengths are in CSS pixels.
TOP = 10
LANE_HEIGHT = 190
HEAD = 30
AXIS_HEIGHT = 58
MARGIN = 24

Sent = Mapping[int, tuple[float, float]]
Came = Mapping[int, float]


def track(sent: Sent, ways: Mapping[str, Came]) -> style.Picture:
    """Return one picture of all `ways`, by name, in which the same positions travelled.

    `sent` holds (when it was sent, the position) by number, each of the ways when it came, by the
    same numbers. All times are seconds on one clock; the picture begins with the first. At least
    one was sent.
    """
    first_s = min(at_s for at_s, _ in sent.values())
    places = {number: (at_s - first_s, place) for number, (at_s, place) in sent.items()}
    moved = {name: {n: at_s - first_s for n, at_s in came.items()} for name, came in ways.items()}
    height = TOP + LANE_HEIGHT * len(ways) + AXIS_HEIGHT
    times = [
        at_s for came in (*moved.values(), {0: places[max(places)][0]}) for at_s in came.values()
    ]
    last_s = max(0.001, *times)
    with style.applied():
        figure = style.blank(style.WIDTH, height)
        for lane, (name, came) in enumerate(moved.items()):
            bottom = height - TOP - LANE_HEIGHT * (lane + 1)
            box = (MARGIN, bottom, style.WIDTH - 2 * MARGIN, LANE_HEIGHT - HEAD)
            axes = figure.add_axes(_share_of(box, height), xlim=(-0.01 * last_s, 1.01 * last_s))
            _draw_lane(axes, places, came, style.SERIES[lane % len(style.SERIES)])
            told = f"{name}: {_summary(places, came)}"
            axes.set_title(told, loc="left", color=axes.lines[1].get_color(), size="medium")
            axes.tick_params(labelbottom=lane == len(moved) - 1)
        axes.set_xlabel("seconds   (line: where it was, ● a position comes, x one never does)")
    told = "; ".join(f"{name}: {_summary(places, came)}" for name, came in moved.items())
    return style.Picture(figure, f"A moving thing, and its positions. {told}", f"<Track, {told}>")


def _share_of(box: tuple[float, ...], height: float) -> tuple[float, float, float, float]:
    left, bottom, width, up = box
    return left / style.WIDTH, bottom / height, width / style.WIDTH, up / height


def _draw_lane(axes: "Axes", places: Sent, came: Came, colour: str) -> None:
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.margins(y=0.15)
    axes.plot(*zip(*places.values(), strict=True), color=style.MUTED, linewidth=1)
    dots: dict[str, Any] = {"linestyle": "none", "color": colour}
    there = [(at_s, places[number][1]) for number, at_s in came.items()]
    axes.plot(*_columns(there), marker="o", markersize=6, **dots)
    missing = [at for number, at in places.items() if number not in came]
    axes.plot(*_columns(missing), marker="x", markersize=8, markeredgewidth=2, **dots)


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _summary(places: Sent, came: Came) -> str:
    count = f"{len(came)} of {len(places)} positions"
    if not came:
        return count
    latest_s = max(at_s - places[number][0] for number, at_s in came.items())
    return f"{count}, the latest {latest_s:.3f} s after it was sent"
