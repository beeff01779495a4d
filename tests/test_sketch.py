"""Boxes and arrows: what is written in a box fits into it, and each picture is told in words."""

import pytest

from helpers.display import sketch, style

SKETCHES = {
    "stack": sketch.stack,
    "files": sketch.files,
    "ways": sketch.ways,
    "both_ways": sketch.both_ways,
    "signature": sketch.signature,
    "streams": lambda: sketch.streams(["GET /news", "GET /film", "GET /chat"]),
}


@pytest.mark.parametrize("name", SKETCHES)
def test_what_is_written_in_a_box_fits_into_it(name):
    picture = SKETCHES[name]()
    (axes,) = picture.figure.axes
    boxes = [patch.get_window_extent() for patch in axes.patches]
    assert boxes
    for text in filter(lambda text: text.get_text(), axes.texts):
        words = text.get_window_extent()
        within = [box for box in boxes if box.contains(*words.get_points().mean(axis=0))]
        for box in within:
            assert box.x0 <= words.x0 < words.x1 <= box.x1, text.get_text()
            assert box.y0 <= words.y0 < words.y1 <= box.y1, text.get_text()
        assert words.x1 <= style.WIDTH


@pytest.mark.parametrize("name", SKETCHES)
def test_it_is_told_in_words(name):
    picture = SKETCHES[name]()
    assert picture.alt.endswith(".")
    assert len(picture.alt.split()) > 15
    assert repr(picture).startswith("<")
    assert not repr(picture).startswith("<helpers")


def test_streams_have_the_numbers_that_clients_give_them():
    assert "stream 0: GET /a; stream 4: GET /b" in sketch.streams(["GET /a", "GET /b"]).alt
