"""Who runs a whole notebook first and solves its exercises then gets the same verdicts."""

import nbclient
import pytest

from tests import exercises, shipped

CELL_TIMEOUT_S = 60
FOLDER = shipped.FOLDER / shipped.SOLUTIONS


def code_below(notebook, heading):
    """The code cells below a heading that are run, but for the last one, which stops everything."""
    sources = [cell.source.partition("\n")[0] for cell in notebook.cells]
    below = notebook.cells[sources.index(heading) : -1] if heading in sources else []
    return [cell for cell in below if cell.cell_type == "code" and is_run(cell)]


def is_run(cell):
    return not exercises.is_tagged(cell, "nbval-skip")


def with_exercises():
    for name in filter(shipped.is_as_shipped, (f"solutions/{name}" for name in shipped.learners())):
        if code_below(exercises.read(shipped.FOLDER / name), "## Exercises"):
            yield name.removeprefix(shipped.SOLUTIONS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(with_exercises()))
def test_the_exercises_work_after_the_last_cell(name):
    notebook = exercises.read(FOLDER / name)
    again = code_below(exercises.read(FOLDER / name), "## Exercises")
    for cell in again:
        cell.id += "-again"
    notebook.cells = [*filter(is_run, notebook.cells), *again]
    place = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources=place).execute()
    shown = [out.data["text/plain"] for cell in again for out in cell.outputs if "data" in out]
    checks = sum("check_" in cell.source.splitlines()[-1] for cell in again)
    assert sum(text.startswith("Solved. ") for text in shown) == checks > 0, shown
