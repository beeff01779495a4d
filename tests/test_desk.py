"""Two sliders beside a stream: what they turn, how it begins and ends, and what stands for it."""

import asyncio
import sys
import threading
import time

import IPython.display
import pytest

from helpers.desk import WIDGET, Desk
from helpers.link import Link

WAIT_S = 30.0


@pytest.fixture
def ticks(server):
    @server.route("/ticks")
    async def ticks(request, response):
        for number in range(int(request.query.get("count", 10_000))):
            await response.write(f"tick {number}\n")
            await response.flush()
            await asyncio.sleep(0.01)

    return server


@pytest.fixture
def link(ticks):
    with Link(ticks, delay_ms=1) as link:
        yield link


@pytest.fixture
def desk(link, client):
    desk = Desk(link, client, "/ticks")
    yield desk
    desk.stop()


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_reads_until_it_is_stopped(desk):
    desk.stop()
    assert not desk.is_running
    desk.start()
    desk.start()
    assert [t.name for t in threading.enumerate()].count("desk") == 1
    wait_until(lambda: len(desk.arrivals) > 3)
    assert list(desk.arrivals) == sorted(desk.arrivals)
    desk.stop()
    assert not desk.is_running
    assert desk.error is None
    desk.stop()


def test_it_may_begin_again(desk):
    for _ in range(2):
        desk.start()
        wait_until(lambda: desk.arrivals)
        desk.stop()
    desk.start()
    assert desk.is_running


def test_a_stream_that_ends_ends_it(link, client):
    desk = Desk(link, client, "/ticks?count=3")
    desk.start()
    wait_until(lambda: not desk.is_running)
    assert len(desk.arrivals) == 3
    assert "3 chunks came." in desk.svg(time.perf_counter())


def test_what_breaks_the_stream_is_shown(ticks, client):
    link = Link(ticks)  # does not run
    desk = Desk(link, client, "/ticks")
    desk.start()
    wait_until(lambda: not desk.is_running)
    assert "UsageError: This link is not running" in desk.svg(time.perf_counter())


def test_the_picture_has_a_dot_for_each_of_the_last_chunks(desk):
    desk.arrivals.extend([1.0, 90.0, 90.1, 90.2, 91.0, 91.1])  # the first is too old
    svg = desk.svg(now=91.5)
    assert svg.count("<circle") == 5
    assert "800 ms" in svg
    assert svg.count(" ms<") == 1  # where there is room
    assert 'aria-label="Arrivals of the last 5 s: 5 chunks.' in svg


def test_without_widgets_it_is_a_line_of_text(desk, monkeypatch):
    shown = displayed(desk, monkeypatch, "ipywidgets")
    text = "delay_ms=1, loss=0: in JupyterLab, these are two sliders beside a stream."
    assert shown == {"text/plain": text, "text/html": f"<p>{text}</p>"}
    assert repr(desk) == text


def displayed(desk, monkeypatch, absent=None):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    if absent:
        monkeypatch.setitem(sys.modules, absent, None)
    desk._ipython_display_()
    return shown[0]


def test_the_sliders_turn_the_line_while_it_runs(desk, link, monkeypatch):
    shown = displayed(desk, monkeypatch)
    assert {"text/plain", "text/html", WIDGET} == set(shown)
    box = desk._widget()
    delay, loss, button = box.children[0].children
    picture = box.children[1]
    button.click()
    wait_until(lambda: len(desk.arrivals) > 2)
    delay.value, loss.value = 200, 0.25
    assert (link.delay_ms, link.loss) == (200, 0.25)
    wait_until(lambda: "<circle" in picture.value)
    assert button.description == "Stop"
    button.click()
    wait_until(lambda: button.description == "Start")
    assert not desk.is_running
