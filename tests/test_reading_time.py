"""The times that notebooks state are those that reading and running them takes."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import exercises, reading_time, shipped

TOLERANCE = 0.1
LONGEST_MINUTES = 45


@pytest.mark.parametrize("name", shipped.learners())
def test_the_stated_times_are_right(name):
    if shipped.SOLUTIONS + name in shipped.changed():
        pytest.skip("not what ships")
    solved = exercises.read(shipped.FOLDER / shipped.SOLUTIONS / name)
    measured, stated = reading_time.minutes(solved), reading_time.stated(solved)
    for took, said in zip(measured, stated, strict=True):
        assert abs(took - said) <= max(1, TOLERANCE * took), (measured, stated)
    assert stated[0] < LONGEST_MINUTES


def test_prose_code_output_and_running_count_and_exercises_do_not():
    printing = new_code_cell("word " * 50, outputs=[new_output("stream", text="word " * 50)])
    notebook = new_notebook(
        cells=[
            new_markdown_cell("solutions"),
            new_markdown_cell("**How long**: 3 minutes of reading and running."),
            new_markdown_cell("## Core\n" + "word " * 200),
            printing,
            new_markdown_cell("## More (optional)\n" + "[word](https://x/y/z) " * 200),
            new_markdown_cell("## Exercises\n" + "word " * 900),
        ]
    )
    every, core = reading_time.minutes(notebook)
    assert every == pytest.approx(4, abs=0.1)
    assert core == pytest.approx(3, abs=0.1)
    assert reading_time.stated(notebook) == (3, 3)
