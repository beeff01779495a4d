"""The picture of a moving thing: what came of it, when, and what never did."""

import pytest

from helpers.display import style, track

SENT = {number: (100 + 0.05 * number, number % 7) for number in range(20)}
STREAM = {number: 100.3 + 0.05 * number for number in range(20)}
DATAGRAMS = {number: 100.05 + 0.05 * number for number in range(20) if number not in (3, 4, 11)}


def test_each_way_has_a_lane_with_what_came_and_what_did_not():
    picture = track(SENT, {"on a stream": STREAM, "in datagrams": DATAGRAMS})
    lanes = picture.figure.axes
    assert len(lanes) == 2
    for axes, came in zip(lanes, (STREAM, DATAGRAMS), strict=True):
        was, dots, crosses = axes.lines
        assert list(was.get_xdata()) == pytest.approx([0.05 * number for number in range(20)])
        assert list(dots.get_xdata()) == pytest.approx([at - 100 for at in came.values()])
        assert list(dots.get_ydata()) == [SENT[number][1] for number in came]
        missing = [number for number in SENT if number not in came]
        assert list(crosses.get_xdata()) == pytest.approx([0.05 * number for number in missing])
    assert lanes[0].get_xlim() == lanes[1].get_xlim()


def test_it_is_told_in_words():
    picture = track(SENT, {"on a stream": STREAM, "in datagrams": DATAGRAMS})
    assert repr(picture) == (
        "<Track, on a stream: 20 of 20 positions, the latest 0.300 s after it was sent; "
        "in datagrams: 17 of 20 positions, the latest 0.050 s after it was sent>"
    )
    assert picture.alt.startswith("A moving thing, and its positions. on a stream: 20 of 20")


@pytest.mark.parametrize("came", [{}, {0: 100.0}])
def test_next_to_nothing_can_be_drawn_too(came, tmp_path):
    picture = track({0: (100.0, 1.0)}, {"in datagrams": came})
    assert f"in datagrams: {len(came)} of 1 positions" in repr(picture)
    picture.save(tmp_path / "track.png")


def test_the_titles_fit_into_the_picture():
    picture = track(SENT, {"a way with a name that is not short": STREAM})
    (axes,) = picture.figure.axes
    assert axes.title.get_window_extent().x1 <= style.WIDTH
