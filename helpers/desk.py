"""A stream beside the sliders of its line: turn one, and see what that does to the chunks.

In a notebook whose page can show widgets there are two sliders, a button and a picture that moves.
Anywhere else, as on GitHub, it is a line of text that says how to do the same in code.
"""

import threading
import time
from collections import deque
from html import escape
from itertools import pairwise
from typing import Any, Protocol

import httpx2

from helpers.display import style

WIDGET = "application/vnd.jupyter.widget-view+json"
MAX_DELAY_MS = 300
MAX_LOSS = 0.3
SHOWN_S = 5.0
"""So far back the picture reaches."""
REDRAWN_S = 0.1
STOP_TIMEOUT_S = 5.0
HEIGHT = 110
MARGIN = 16
ROOM_FOR_A_LABEL = 48
# The page's own, in light and dark; the others where it has none.
DOT = f"var(--jp-brand-color1, {style.SERIES[0]})"
WORDS = f"var(--jp-content-font-color1, {style.TEXT})"


class Line(Protocol):
    """What is turned here, as a Link is: its conditions may be set while it runs."""

    delay_ms: float
    loss: float

    def url(self, path: str) -> str: ...


class Desk:
    """Two sliders for a line and a stream over it; the last line of a cell shows them.

    `start` asks for `path` and reads, on a thread of its own, until the stream ends or `stop`;
    the button does the same. `arrivals` is when chunks came, in seconds of time.perf_counter, and
    `error` what ended the stream, where something did.
    """

    def __init__(self, link: Line, client: httpx2.Client, path: str) -> None:
        self._link = link
        self._client = client
        self._path = path
        self._thread: threading.Thread | None = None
        self._response: httpx2.Response | None = None
        self._is_over = threading.Event()
        self._controls: Any = None
        self.arrivals: deque[float] = deque(maxlen=1000)
        self.error: Exception | None = None

    # ---- the stream

    @property
    def is_running(self) -> bool:
        """Whether the stream is being read."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to read; does nothing where that has begun."""
        if self.is_running:
            return
        self.arrivals.clear()
        self.error = None
        self._is_over.clear()
        self._thread = threading.Thread(target=self._read, name="desk", daemon=True)
        self._thread.start()
        if self._controls is not None:
            threading.Thread(target=self._redraw, name="desk-picture", daemon=True).start()

    def stop(self) -> None:
        """Leave the stream, and wait until that is done, 5 s at most; twice is harmless."""
        self._is_over.set()
        if (response := self._response) is not None:
            response.close()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _read(self) -> None:
        try:
            url = self._link.url(self._path)
            with self._client.stream("GET", url, timeout=60.0) as self._response:
                for _ in self._response.iter_raw():
                    self.arrivals.append(time.perf_counter())
                    if self._is_over.is_set():
                        return
        except Exception as error:  # noqa: BLE001 - nobody else hears of it on this thread
            if not self._is_over.is_set():
                self.error = error
        finally:
            self._response = None

    # ---- how it shows itself

    def __repr__(self) -> str:
        return (
            f"delay_ms={self._link.delay_ms:g}, loss={self._link.loss:g}: in JupyterLab, these are "
            "two sliders beside a stream."
        )

    def _ipython_display_(self) -> None:
        from IPython.display import display

        data = {"text/plain": repr(self), "text/html": f"<p>{escape(repr(self))}</p>"}
        widget = self._widget()
        if widget is not None:
            view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
            display({**data, WIDGET: view}, raw=True)
        else:
            display(data, raw=True)

    def _widget(self) -> Any:
        """Return the sliders, the button and the picture; None where there are no widgets."""
        try:
            import ipywidgets
        except ImportError:
            return None
        delay = ipywidgets.FloatSlider(
            self._link.delay_ms, min=0, max=MAX_DELAY_MS, step=10, description="delay_ms"
        )
        loss = ipywidgets.FloatSlider(
            self._link.loss, min=0, max=MAX_LOSS, step=0.01, description="loss"
        )
        delay.observe(lambda change: self._turn("delay_ms", change["new"]), names="value")
        loss.observe(lambda change: self._turn("loss", change["new"]), names="value")
        button = ipywidgets.Button(description="Start", icon="play")
        button.on_click(lambda _: self.stop() if self.is_running else self.start())
        picture = ipywidgets.HTML(self.svg(time.perf_counter()))
        self._controls = button, picture
        return ipywidgets.VBox([ipywidgets.HBox([delay, loss, button]), picture])

    def _turn(self, name: str, value: float) -> None:
        if name == "delay_ms":
            self._link.delay_ms = value
        else:
            self._link.loss = value

    def _redraw(self) -> None:
        """Draw again and again while the stream is read; on a thread of its own."""
        button, picture = self._controls
        button.description, button.icon = "Stop", "stop"
        while self.is_running:
            picture.value = self.svg(time.perf_counter())
            time.sleep(REDRAWN_S)
        picture.value = self.svg(time.perf_counter())
        button.description, button.icon = "Start", "play"

    def svg(self, now: float) -> str:
        """Return the picture of what has come in the last seconds before `now`."""
        width = style.WIDTH
        times = [at for at in list(self.arrivals) if at >= now - SHOWN_S]

        per_s = (width - 2 * MARGIN) / SHOWN_S

        def x(at: float) -> float:
            return width - MARGIN - (now - at) * per_s

        parts = [
            f'<line x1="{MARGIN}" x2="{width - MARGIN}" y1="50" y2="50" stroke="{style.MUTED}"/>',
            *(f'<circle cx="{x(at):.1f}" cy="50" r="5" fill="{DOT}"/>' for at in times),
        ]
        for before, after in pairwise(times):
            if (after - before) * per_s > ROOM_FOR_A_LABEL:
                parts.append(_text((x(before) + x(after)) / 2, 76, _ms(after - before), "middle"))
        parts.append(_text(MARGIN, 24, self._words(now), "start"))
        parts.append(_text(width - MARGIN, HEIGHT - 8, "now", "end"))
        parts.append(_text(MARGIN, HEIGHT - 8, f"{SHOWN_S:g} s ago", "start"))
        alt = f"Arrivals of the last {SHOWN_S:g} s: {len(times)} chunks. {self._words(now)}"
        return (
            f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {HEIGHT}" '
            f'style="max-width: {width}px; width: 100%">{"".join(parts)}</svg>'
        )

    def _words(self, now: float) -> str:
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        if not self.arrivals:
            return "Nothing has come yet." if self.is_running else "Press Start."
        if not self.is_running:
            return f"{len(self.arrivals)} chunks came."
        return f"{len(self.arrivals)} chunks, the last {_ms(now - self.arrivals[-1])} ago"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{WORDS}" '
        f'font-family="sans-serif" font-size="13">{escape(words)}</text>'
    )
