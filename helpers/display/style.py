"""Colours and fonts of all pictures, and how a picture shows itself in a notebook.

A picture stands on an opaque light card. Transparent ones cannot be read everywhere: no colour of
text has the contrast of 4.5 to 1 that WCAG asks for both on white and on the #111111 of
JupyterLab's dark theme; 4.3 to 1 is the most. So where that theme is on, the whole picture is
turned round, light for dark, and keeps its hues. Colours never carry a meaning alone.

matplotlib is imported when something is drawn, not before.
"""

import base64
import contextlib
import io
import os
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

CARD = "#ffffff"
TEXT = "#1f2328"
MUTED = "#57606a"
GRID = "#d8dee4"
# Can be told apart with each kind of colour blindness, and are dark enough for text on the card.
SERIES = ("#1a6fd0", "#b34700", "#004d40", "#8f2d7a")

WIDTH = 900
"""Of a picture, in CSS pixels: what a notebook's output has room for."""
PIXELS_PER_INCH = 96
SHARPNESS = 2
"""Pixels stored for each CSS pixel, along one side: screens with a high density show them all."""

PAGE_STYLE = """<style>
[data-jp-theme-light="false"] :is(.jp-RenderedImage img, .jp-RenderedMarkdown img[alt^="Drawing"]) {
  filter: invert(0.93) hue-rotate(180deg);
}
.jp-OutputArea-output pre {
  overflow-wrap: anywhere;
  word-break: normal;
}
</style>"""
"""For JupyterLab, whose page says which theme is on; other pages take no notice.

In the dark, of the images in texts only the drawings are turned round, not the screenshots. And
texts, such as an error's message, break between words: JupyterLab itself breaks them anywhere.
"""

RC_PARAMS: "dict[RcKeyType, object]" = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": CARD,
    "axes.labelcolor": TEXT,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": PIXELS_PER_INCH,
    "figure.facecolor": CARD,
    "font.family": "sans-serif",
    # Comes with matplotlib: the same picture on every machine.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "grid.color": GRID,
    "savefig.facecolor": "auto",
    # The identifiers in an SVG are random without it.
    "svg.hashsalt": "streaming",
    "text.color": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Draw in the house's style inside the with block; the settings outside stay as they are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC_PARAMS)
        yield


def canvas(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Return an empty figure and its axes, on which one unit is one CSS pixel, y downwards."""
    figure = blank(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def blank(width: float, height: float) -> "Figure":
    """Return an empty figure of that size in CSS pixels.

    pyplot does not know it: nothing has to close it, and no window opens.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH))


class Picture:
    """A drawn figure with its description in words; the last line of a cell shows both.

    `alt` is the description. JupyterLab 4.6 gives the images of outputs no alternative text, so it
    stands below the picture, folded, where everybody can open it. `text` takes the picture's place
    where there are no pictures. `figure` is matplotlib's.
    """

    def __init__(self, figure: "Figure", alt: str, text: str) -> None:
        self.figure = figure
        self.alt = alt
        self.text = text

    def save(self, path: str | os.PathLike[str] | io.BytesIO, format: str | None = None) -> None:
        """Write the picture to a file; its name's ending says in which form (.png, .svg, .pdf)."""
        with applied():
            self.figure.savefig(path, format=format, dpi=PIXELS_PER_INCH * SHARPNESS)

    def __repr__(self) -> str:
        return self.text

    def _ipython_display_(self) -> None:
        from IPython.display import display

        png = io.BytesIO()
        self.save(png, format="png")
        width = round(self.figure.get_figwidth() * PIXELS_PER_INCH)
        # Some of what shows stored notebooks looks for `alt` here.
        metadata = {"image/png": {"alt": self.alt, "width": width}}
        image = base64.b64encode(png.getvalue()).decode()
        display({"image/png": image, "text/plain": self.text}, metadata=metadata, raw=True)
        words = f"<details><summary>The picture in words</summary>{escape(self.alt)}</details>"
        display({"text/html": words + PAGE_STYLE, "text/plain": self.alt}, raw=True)
