"""Pictures can be read: contrast, colours, alternative text. And they change nothing outside."""

import base64
import itertools
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import IPython.display
import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from helpers.display import style

ROOT = Path(__file__).parent.parent

# How colours look to people who lack one kind of cone: Machado, Oliveira and Fernandes (2009),
# severity 1.0, on linear RGB.
SIGHT = {
    "full": np.eye(3),
    "no red cones": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green cones": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no blue cones": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear_rgb(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The contrast ratio of WCAG 2."""
    dark, light = sorted(linear_rgb(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colour", [style.TEXT, style.MUTED, *style.SERIES])
def test_text_stands_out_from_the_card(colour):
    assert contrast(colour, style.CARD) >= 4.5


def test_no_colour_of_text_would_do_on_both_a_white_and_a_dark_page():
    """Why the card is opaque. Contrast depends on luminance alone, so greys stand for all."""
    greys = [f"#{level:02x}{level:02x}{level:02x}" for level in range(256)]
    best = max(min(contrast(grey, "#ffffff"), contrast(grey, "#111111")) for grey in greys)
    assert best == pytest.approx(4.34, abs=0.005)


@pytest.mark.parametrize("sight", SIGHT)
def test_the_lanes_colours_can_be_told_apart(sight):
    seen = [lab(SIGHT[sight] @ linear_rgb(colour)) for colour in style.SERIES]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 20


def draw():
    with style.applied():
        figure, axes = style.canvas(300, 200)
        axes.text(150, 20, "near the top")
        axes.plot([0, 300], [100, 100])
    return style.Picture(figure, alt="A line &amp; a word: 1 < 2.", text="<a line>")


@pytest.fixture
def shown(monkeypatch):
    """What was displayed in a notebook: data by type, and its metadata."""
    outputs = []

    def display(data, metadata=None, raw=False):
        assert raw
        outputs.append((data, metadata))

    monkeypatch.setattr(IPython.display, "display", display)
    return outputs


def test_a_picture_is_an_opaque_card_of_the_size_that_was_asked_for(shown):
    draw()._ipython_display_()
    data, metadata = shown[0]
    pixels = imread(BytesIO(base64.b64decode(data["image/png"])))
    assert pixels.shape == (200 * style.SHARPNESS, 300 * style.SHARPNESS, 4)
    assert pixels[..., 3].min() == 1
    assert (pixels[0, 0, :3] == 1).all()
    top, bottom = pixels[:150, ..., :3], pixels[250:, ..., :3]
    assert top.min() < 0.2
    assert bottom.min() == 1
    assert metadata["image/png"]["width"] == 300


def test_a_picture_is_described_in_words(shown):
    picture = draw()
    picture._ipython_display_()
    (image, metadata), (words, _) = shown
    assert metadata["image/png"]["alt"] == words["text/plain"] == "A line &amp; a word: 1 < 2."
    assert image["text/plain"] == repr(picture) == "<a line>"
    assert words["text/html"] == (
        "<details><summary>The picture in words</summary>"
        "A line &amp;amp; a word: 1 &lt; 2.</details>" + style.PAGE_STYLE
    )


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_same_drawing_gives_the_same_bytes(tmp_path, ending):
    for name in ("one", "two"):
        draw().save(tmp_path / f"{name}.{ending}")
    one, two = (without_date(tmp_path / f"{name}.{ending}") for name in ("one", "two"))
    assert one == two


def without_date(path):
    return [line for line in path.read_bytes().splitlines() if b"<dc:date>" not in line]


def test_settings_outside_stay_as_they_are_and_change_nothing_inside():
    with matplotlib.rc_context({"figure.facecolor": "red", "lines.linewidth": 40}):
        before = dict(matplotlib.rcParams)
        reddened = png_of(draw())
        assert dict(matplotlib.rcParams) == before
    assert reddened == png_of(draw())


def png_of(picture):
    png = BytesIO()
    picture.save(png, format="png")
    return png.getvalue()


def test_no_helper_imports_matplotlib_before_something_is_drawn():
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "helpers").rglob("*.py"))]
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.stem[0] != "_"]
    program = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "assert 'helpers.display.style' in sys.modules\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=30)
