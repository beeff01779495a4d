"""What arrived when: the body of a response or request, chunk by chunk, as text and as a picture.

A chunk is what its reader is handed at once. The time of each is taken when it is handed over, so
a reader that is slow shows in the picture, as a writer that is slow does.
"""

import statistics
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httpx2

# Takes a while in a notebook: not while a response is waiting to be read.
from tqdm.auto import tqdm

from helpers.display import style
from helpers.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES_SHOWN = 12
COLUMNS_SHOWN = 80

# All lengths are in CSS pixels.
HEAD = 8
LANE_HEIGHT = 74
AXIS_HEIGHT = 58
MARGIN = 24
ROOM_FOR_A_LABEL = 52
DOTS = 100
"""More chunks than this are drawn as thin strokes."""


@dataclass(frozen=True)
class Timeline:
    """The chunks of one body, and when each arrived.

    `chunks` is a list of (seconds since the request was sent, bytes); `ended_s` is when the body
    ended, in the same seconds.
    """

    chunks: list[tuple[float, bytes]]
    ended_s: float

    @classmethod
    def record(cls, response: httpx2.Response, *, progress: bool = False) -> "Timeline":
        """Return the timeline of a streaming response, read to its end in the caller's thread.

        Prints each chunk as it arrives, or with `progress` shows a bar with the rate instead, as
        suits a long download. Keeps the whole body. Raises UsageError where the response is not
        open for reading or does not know when its request was sent, and whatever reading it
        raises: httpx2's timeouts bound the wait for each chunk.
        """
        sent_at = _check(response)
        chunks = []
        show, close = _progress_bar(response) if progress else (_print_chunk, lambda: None)
        try:
            for chunk in response.iter_raw():
                arrived_s = perf_counter() - sent_at
                chunks.append((arrived_s, chunk))
                show(arrived_s, chunk)
        finally:
            close()
        return cls(chunks, perf_counter() - sent_at)

    @classmethod
    async def receive(cls, body: AsyncIterable[bytes], sent_at: float | None = None) -> "Timeline":
        """Return the timeline of a body that a handler receives: a request, or a stream's.

        Seconds count from `sent_at`, what `time.perf_counter()` gave when the request was sent;
        without it from now. Prints nothing. Keeps the whole body, and raises what reading it does.
        """
        sent_at = perf_counter() if sent_at is None else sent_at
        chunks = [(perf_counter() - sent_at, chunk) async for chunk in body]
        return cls(chunks, perf_counter() - sent_at)

    def __repr__(self) -> str:
        return f"<Timeline: {self.summary()}>"

    @property
    def gaps_s(self) -> list[float]:
        """Return the seconds between each chunk and the next."""
        times = [arrived_s for arrived_s, _ in self.chunks]
        return [after - before for before, after in pairwise(times)]

    def summary(self, gap_s: float | None = None) -> str:
        """Return how many chunks and bytes arrived.

        With `gap_s` the text also says whether they came about that far apart: whether the median
        gap is within half of it and twice as much. The same run gives the same text unless the
        answer is no: then it holds what was measured.
        """
        size_bytes = sum(len(chunk) for _, chunk in self.chunks)
        counted = f"{_count(len(self.chunks), 'chunk')}, {_count(size_bytes, 'byte')}"
        if gap_s is None:
            return counted
        question = f"{counted}, gaps of about {gap_s * 1000:.0f} ms:"
        if not self.gaps_s:
            return f"{question} no, there are no gaps"
        median_s = statistics.median(self.gaps_s)
        if gap_s / 2 <= median_s <= gap_s * 2:
            return f"{question} yes"
        return f"{question} no, the median is {median_s * 1000:.1f} ms"

    def plot(self, name: str = "response") -> style.Picture:
        """Return the picture of this timeline: one mark per chunk, at its arrival."""
        return Timeline.compare({name: self})

    @staticmethod
    def compare(timelines: Mapping[str, "Timeline"]) -> style.Picture:
        """Return one picture of several timelines, by name, one above the other on one scale.

        Raises UsageError where there is none.
        """
        if not timelines:
            raise UsageError('Nothing to compare. Pass timelines by name: {"flush": timeline}.')
        wrong = [name for name, timeline in timelines.items() if not isinstance(timeline, Timeline)]
        if wrong:
            raise UsageError(
                f"{', '.join(map(repr, wrong))}: no Timeline. Pass what Timeline.record returned."
            )
        with style.applied():
            height = HEAD + LANE_HEIGHT * len(timelines) + AXIS_HEIGHT
            figure = style.blank(style.WIDTH, height)
            axes = _time_axes(figure, timelines)
            for lane, (name, timeline) in enumerate(timelines.items()):
                _draw_lane(axes, lane, name, timeline)
        told = "; ".join(f"{name}: {timeline.summary()}" for name, timeline in timelines.items())
        return style.Picture(figure, _alt(timelines), f"<Arrivals of {told}>")


def _check(response: httpx2.Response) -> float:
    """Return when the request was sent, once it is sure that the response can be read."""
    if not isinstance(response.stream, httpx2.SyncByteStream):
        raise UsageError(
            "This response is of an asynchronous client. Timeline.record reads a synchronous one: "
            "use httpx2.Client(transport=HTTP3Transport(...))."
        )
    if response.is_stream_consumed:
        raise UsageError(
            "The body of this response was already read, so nothing is left to arrive. Write "
            "`with client.stream(...) as response: timeline = Timeline.record(response)`."
        )
    if response.is_closed:
        raise UsageError(
            "This response is closed. Call Timeline.record(response) inside the "
            "`with client.stream(...)` block."
        )
    sent_at: float | None = response.extensions.get("request_sent_at")
    if sent_at is None:
        raise UsageError(
            "This response does not know when its request was sent. Make the request through "
            "HTTP3Transport, which notes the time."
        )
    return sent_at


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _print_chunk(arrived_s: float, chunk: bytes) -> None:
    first, *others = _lines(chunk)
    print(f"{arrived_s:7.3f} s  {first}", *(f"{'':11}{line}" for line in others), sep="\n")


def _lines(chunk: bytes) -> Iterator[str]:
    # A character may be cut in two where a chunk ends: its bytes are shown as they are.
    lines = chunk.decode(errors="backslashreplace").splitlines()
    for line in lines[:LINES_SHOWN]:
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line[:COLUMNS_SHOWN])
        yield shown + f"... ({_count(len(chunk), 'byte')})" * (len(line) > COLUMNS_SHOWN)
    if len(lines) > LINES_SHOWN:
        yield f"... and {_count(len(lines) - LINES_SHOWN, 'line')} more"


def _progress_bar(
    response: httpx2.Response,
) -> tuple[Callable[[float, bytes], object], Callable[[], None]]:
    class Bar(tqdm):  # type: ignore[misc]  # tqdm brings no types
        # tqdm's monitor is a thread that outlives the bar.
        monitor_interval = 0

    length = response.headers.get("content-length", "")
    total = int(length) if length.isdecimal() else None
    bar = Bar(total=total, unit="B", unit_scale=True, unit_divisor=1024)
    return lambda _, chunk: bar.update(len(chunk)), bar.close


def _time_axes(figure: "Figure", timelines: Mapping[str, Timeline]) -> "Axes":
    height = HEAD + LANE_HEIGHT * len(timelines) + AXIS_HEIGHT
    across = (style.WIDTH - 2 * MARGIN) / style.WIDTH
    up = LANE_HEIGHT * len(timelines) / height
    axes = figure.add_axes((MARGIN / style.WIDTH, AXIS_HEIGHT / height, across, up))
    longest_s = max(0.001, *(timeline.ended_s for timeline in timelines.values()))
    axes.set(xlim=(-0.01 * longest_s, 1.01 * longest_s), ylim=(len(timelines), 0))
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("seconds since the request was sent   (● a chunk arrives, | the body ends)")
    return axes


def _draw_lane(axes: "Axes", lane: int, name: str, timeline: Timeline) -> None:
    colour = style.SERIES[lane % len(style.SERIES)]
    times = [arrived_s for arrived_s, _ in timeline.chunks]
    few = len(times) <= DOTS
    y = lane + 0.55
    axes.plot([0, timeline.ended_s], [y, y], color=colour, linewidth=1, alpha=0.5)
    axes.plot([timeline.ended_s], [y], "|", color=colour, markersize=16)
    marker, size = ("o", 9) if few else ("|", 11)
    axes.plot(
        times, len(times) * [y], color=colour, linestyle="none", marker=marker, markersize=size
    )
    if few:
        _label_gaps(axes, y + 0.27, [0, *times])
    text: dict[str, Any] = {
        "y": lane + 0.2,
        "va": "center",
        "transform": axes.get_yaxis_transform(),
        # The grid's lines must not run through the letters.
        "bbox": {"facecolor": style.CARD, "edgecolor": "none", "pad": 1},
    }
    axes.text(0.01, s=name, color=colour, weight="bold", parse_math=False, **text)
    told = f"{timeline.summary()}, {timeline.ended_s:.2f} s in all"
    axes.text(0.99, s=told, color=style.TEXT, ha="right", **text)


def _label_gaps(axes: "Axes", y: float, times: list[float]) -> None:
    left, right = axes.get_xlim()
    seconds_per_pixel = (right - left) / (style.WIDTH - 2 * MARGIN)
    for before, after in pairwise(times):
        if after - before > ROOM_FOR_A_LABEL * seconds_per_pixel:
            text = f"{(after - before) * 1000:,.0f} ms"
            middle = (before + after) / 2
            axes.text(middle, y, text, ha="center", va="center", color=style.MUTED, size="small")


def _alt(timelines: Mapping[str, Timeline]) -> str:
    """Return the picture in words."""
    lanes = []
    for name, timeline in timelines.items():
        times = [arrived_s for arrived_s, _ in timeline.chunks]
        when = ""
        if times:
            when = f", the first after {times[0]:.2f} s, the last after {times[-1]:.2f} s"
        lanes.append(f"{name}: {timeline.summary()}{when}, the end after {timeline.ended_s:.2f} s.")
    return " ".join(["Arrival of each chunk since the request was sent.", *lanes])
