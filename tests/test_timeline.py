"""Timelines of bodies whose chunks arrive when the test says: no clock, no sleep."""

import asyncio
from io import BytesIO

import httpx2
import pytest
from matplotlib.image import imread

from helpers import timeline
from helpers.display import style
from helpers.errors import ClientDisconnected, UsageError
from helpers.timeline import Timeline


class Clock:
    """Stands still until it is set."""

    def __init__(self):
        self.now_s = 50.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timeline, "perf_counter", clock)
    return clock


class Body(httpx2.SyncByteStream):
    """Chunks that arrive at these seconds after the request was sent; None is the end."""

    def __init__(self, clock, arrivals, before_next=lambda: None):
        self.clock = clock
        self.arrivals = arrivals
        self.before_next = before_next

    def __iter__(self):
        sent_s = self.clock()
        for at_s, chunk in self.arrivals:
            self.before_next()
            self.clock.now_s = sent_s + at_s
            if isinstance(chunk, Exception):
                raise chunk
            if chunk is not None:
                yield chunk


class Transport(httpx2.BaseTransport):
    def __init__(self, body, headers=(), notes_time=True):
        self.body = body
        self.headers = headers
        self.notes_time = notes_time

    def handle_request(self, request):
        extensions = {"request_sent_at": self.body.clock()} if self.notes_time else {}
        return httpx2.Response(200, headers=self.headers, stream=self.body, extensions=extensions)


def get(transport, use):
    """What `use` returns for the response inside the block of client.stream."""
    with (
        httpx2.Client(transport=transport) as client,
        client.stream("GET", "https://localhost/") as response,
    ):
        return use(response)


def lines(count, gap_s=0.1):
    chunks = [
        (0.002 + number * gap_s, b"data chunk #%d\n" % (number + 1)) for number in range(count)
    ]
    return [*chunks, (count * gap_s, None)]


def test_each_chunk_is_recorded_with_its_time(clock):
    recorded = get(Transport(Body(clock, lines(3))), Timeline.record)
    assert [chunk for _, chunk in recorded.chunks] == [b"data chunk #%d\n" % n for n in (1, 2, 3)]
    assert [arrived_s for arrived_s, _ in recorded.chunks] == pytest.approx([0.002, 0.102, 0.202])
    assert recorded.ended_s == pytest.approx(0.3)
    assert recorded.gaps_s == pytest.approx([0.1, 0.1])


def test_each_chunk_is_printed_before_the_next_is_waited_for(clock, capsys):
    printed = []
    body = Body(clock, lines(2), before_next=lambda: printed.append(capsys.readouterr().out))
    get(Transport(body), Timeline.record)
    assert printed == ["", "  0.002 s  data chunk #1\n", "  0.102 s  data chunk #2\n"]


@pytest.mark.parametrize(
    ("chunk", "shown"),
    [
        (b"one\ntwo\n", ["  1.003 s  one", "           two"]),
        (b"\n", ["  1.003 s  "]),
        (b"caf\xc3", ["  1.003 s  caf\\xc3"]),
        (b"\x1b[31mred\t\x00", ["  1.003 s  \\x1b[31mred\\t\\x00"]),
        (b"x" * 200, [f"  1.003 s  {80 * 'x'}... (200 bytes)"]),
        (14 * b"y\n", ["  1.003 s  y", *11 * ["           y"], "           ... and 2 lines more"]),
    ],
)
def test_a_chunk_is_shown_as_text_however_it_looks(clock, capsys, chunk, shown):
    get(Transport(Body(clock, [(1.0034, chunk)])), Timeline.record)
    assert capsys.readouterr().out.splitlines() == shown


def test_what_the_server_breaks_off_raises_after_what_arrived(clock, capsys):
    broken = httpx2.RemoteProtocolError("reset")
    with pytest.raises(httpx2.RemoteProtocolError, match="reset"):
        get(Transport(Body(clock, [(0.1, b"first\n"), (0.2, broken)])), Timeline.record)
    assert capsys.readouterr().out == "  0.100 s  first\n"


@pytest.mark.parametrize("length", [{"content-length": "4000"}, {}])
def test_a_long_download_shows_a_bar_with_its_rate_and_no_lines(clock, capsys, length):
    body = Body(clock, [(0.1, b"x" * 2048), (0.2, b"x" * 1952)])
    recorded = get(
        Transport(body, length), lambda response: Timeline.record(response, progress=True)
    )
    shown = capsys.readouterr()
    assert [len(chunk) for _, chunk in recorded.chunks] == [2048, 1952]
    assert shown.out == ""
    assert "3.91k" in shown.err
    assert "B/s]" in shown.err
    assert ("100%|" in shown.err) == bool(length)


def test_a_bar_is_finished_where_the_download_breaks_off(clock, capsys):
    body = Body(clock, [(0.1, b"x" * 2048), (0.2, httpx2.RemoteProtocolError("reset"))])
    # The traceback keeps the bar alive, as it does in a notebook.
    with pytest.raises(httpx2.RemoteProtocolError) as caught:
        get(Transport(body), lambda response: Timeline.record(response, progress=True))
    assert capsys.readouterr().err.endswith("B/s]\n")
    del caught


# misuse


async def arriving(clock, arrivals):
    started_s = clock()
    for at_s, chunk in arrivals:
        clock.now_s = started_s + at_s
        if isinstance(chunk, Exception):
            raise chunk
        if chunk is not None:
            yield chunk


@pytest.mark.parametrize(("sent_at", "earlier_s"), [(None, 0.0), (49.5, 0.5)])
def test_what_a_handler_receives_has_its_times_too(clock, capsys, sent_at, earlier_s):
    received = asyncio.run(Timeline.receive(arriving(clock, lines(3)), sent_at))
    assert [chunk for _, chunk in received.chunks] == [b"data chunk #%d\n" % n for n in (1, 2, 3)]
    assert [at_s for at_s, _ in received.chunks] == pytest.approx(
        [earlier_s + at_s for at_s in (0.002, 0.102, 0.202)]
    )
    assert received.ended_s == pytest.approx(earlier_s + 0.3)
    assert capsys.readouterr().out == ""


def test_a_body_that_breaks_off_raises_in_its_handler(clock):
    gone = ClientDisconnected(0, None, "the test says so")
    with pytest.raises(ClientDisconnected, match="the test says so"):
        asyncio.run(Timeline.receive(arriving(clock, [(0.1, b"one"), (0.2, gone)])))


def test_a_request_and_a_stream_can_be_received(server, client):
    received = []

    @server.route("/upload")
    async def upload(request, response):
        received.append(await Timeline.receive(request))

    @server.route("/taken-over")
    async def taken_over(request, response):
        async with await response.take_over() as stream:
            received.append(await Timeline.receive(stream))

    for path in ("/upload", "/taken-over"):
        client.post(server.url(path), content=iter([b"one", b"three"]))
    assert [timeline.summary()[-7:] for timeline in received] == ["8 bytes", "8 bytes"]


def test_a_body_that_was_already_read_is_refused(clock):
    transport = Transport(Body(clock, lines(1)))
    with httpx2.Client(transport=transport) as client:
        response = client.get("https://localhost/")
    with pytest.raises(UsageError, match=r"already read.*client\.stream"):
        Timeline.record(response)


def test_a_response_whose_block_has_ended_is_refused(clock):
    response = get(Transport(Body(clock, lines(1))), lambda response: response)
    with pytest.raises(UsageError, match=r"closed.*inside the `with"):
        Timeline.record(response)


def test_another_transport_is_refused_before_the_body_is_read(clock, capsys):
    transport = Transport(Body(clock, lines(1)), notes_time=False)
    with pytest.raises(UsageError, match="HTTP3Transport, which notes the time"):
        get(transport, Timeline.record)
    assert capsys.readouterr().out == ""


def test_the_response_of_an_asynchronous_client_is_refused():
    class AsyncBody(httpx2.AsyncByteStream):
        pass

    response = httpx2.Response(200, stream=AsyncBody())
    with pytest.raises(UsageError, match=r"httpx2\.Client\(transport=HTTP3Transport"):
        Timeline.record(response)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({}, "Nothing to compare"), ({"a": Timeline([], 0.0), "b": b"text"}, "'b': no Timeline")],
)
def test_nothing_or_something_else_cannot_be_compared(wrong, message):
    with pytest.raises(UsageError, match=message):
        Timeline.compare(wrong)


# summary

ARRIVED = {
    "none": Timeline([], 0.2),
    "one": Timeline([(1.0, b"x")], 1.0),
    "at 100 ms": Timeline([(number * 0.1, b"abc") for number in range(10)], 1.0),
    "one late": Timeline([(0, b"x"), (0.1, b"x"), (0.2, b"x"), (0.9, b"x")], 1.0),
    "at once": Timeline([(1.0, b"x"), (1.0005, b"x")], 1.0),
    "slow": Timeline([(0.0, b"x" * 500), (0.21, b"x" * 500)], 1.0),
}


@pytest.mark.parametrize(
    ("case", "summary"),
    [
        ("none", "0 chunks, 0 bytes, gaps of about 100 ms: no, there are no gaps"),
        ("one", "1 chunk, 1 byte, gaps of about 100 ms: no, there are no gaps"),
        ("at 100 ms", "10 chunks, 30 bytes, gaps of about 100 ms: yes"),
        ("one late", "4 chunks, 4 bytes, gaps of about 100 ms: yes"),
        ("at once", "2 chunks, 2 bytes, gaps of about 100 ms: no, the median is 0.5 ms"),
        ("slow", "2 chunks, 1,000 bytes, gaps of about 100 ms: no, the median is 210.0 ms"),
    ],
)
def test_a_summary_answers_whether_the_gaps_are_as_expected(case, summary):
    assert ARRIVED[case].summary(gap_s=0.1) == summary
    assert ARRIVED[case].summary() == summary.partition(", gaps")[0]
    assert repr(ARRIVED[case]) == f"<Timeline: {ARRIVED[case].summary()}>"


# pictures


def pixels(picture):
    png = BytesIO()
    picture.save(png, format="png")
    png.seek(0)
    return imread(png)


def marks(picture, lane):
    """The pixel columns of a picture where a lane's colour is more than a thin line, in groups."""
    image = pixels(picture)
    scale = style.SHARPNESS
    middle = round((timeline.HEAD + (lane + 0.55) * timeline.LANE_HEIGHT) * scale)
    colour = [int(style.SERIES[lane][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    # Above the thin line that runs through the marks, and within the dots.
    row = image[middle - 3 * scale]
    columns = [x for x in range(len(row)) if abs(row[x, :3] - colour).max() < 0.1]
    groups = [x for x in columns if x - 1 not in columns]
    return [x / scale for x in groups]


def test_each_chunk_has_a_mark_at_its_arrival_and_the_end_has_one():
    recorded = Timeline([(0.0, b"x"), (0.5, b"x"), (0.75, b"x")], 1.0)
    first, second, third, end = marks(recorded.plot(), 0)
    across = end - first
    assert second - first == pytest.approx(across / 2, rel=0.02)
    assert third - first == pytest.approx(across * 3 / 4, rel=0.02)


def test_lanes_share_one_scale():
    picture = Timeline.compare(
        {
            "no flush": Timeline([(1.0, b"x" * 10)], 1.2),
            "flush": Timeline([(0.0, b"x"), (1.0, b"x")], 1.2),
        }
    )
    late, _ = marks(picture, 0)
    _, last, _ = marks(picture, 1)
    assert late == pytest.approx(last, abs=1)


def test_a_picture_says_in_words_what_it_shows():
    picture = Timeline.compare({"no flush": ARRIVED["one"], "flush": ARRIVED["at 100 ms"]})
    assert picture.alt == (
        "Arrival of each chunk since the request was sent. "
        "no flush: 1 chunk, 1 byte, the first after 1.00 s, the last after 1.00 s, "
        "the end after 1.00 s. "
        "flush: 10 chunks, 30 bytes, the first after 0.00 s, the last after 0.90 s, "
        "the end after 1.00 s."
    )
    assert repr(picture) == "<Arrivals of no flush: 1 chunk, 1 byte; flush: 10 chunks, 30 bytes>"


@pytest.mark.parametrize(
    "arrived",
    [
        Timeline([], 0.2),
        Timeline([], 0.0),
        Timeline([(0.0, b"x")], 0.0),
        Timeline([(number / 1000, b"x") for number in range(5000)], 5.0),
    ],
    ids=["no chunk", "nothing at all", "one chunk at once", "5,000 chunks"],
)
def test_every_timeline_can_be_drawn(arrived):
    picture = arrived.plot("$_^$ is no formula")
    assert pixels(picture)[..., :3].min() < 0.5
    assert arrived.summary() in picture.alt


def test_gaps_are_labelled_where_there_is_room():
    def labels(recorded):
        (axes,) = recorded.plot().figure.axes
        return [text.get_text() for text in axes.texts if text.get_text().endswith(" ms")]

    assert labels(ARRIVED["at 100 ms"]) == 9 * ["100 ms"]
    assert labels(ARRIVED["at once"]) == ["1,000 ms"]
    assert labels(Timeline([(n / 20, b"x") for n in range(20)], 1.0)) == []


def test_drawing_leaves_no_figure_open(capsys):
    import matplotlib.pyplot as plt

    ARRIVED["one"].plot()
    assert plt.get_fignums() == []
    assert capsys.readouterr().out == ""
