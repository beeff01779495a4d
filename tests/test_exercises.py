"""The learners' notebooks come from those with the solutions, and say nothing of them."""

import nbformat
import pytest

from tests import exercises


def cell(cell_type, source, **metadata):
    made = getattr(nbformat.v4, f"new_{cell_type}_cell")(source, id=source.split(maxsplit=1)[0][:4])
    made.metadata.update(metadata)
    return made


@pytest.fixture
def solved():
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        cell("markdown", "Task: see [it](../../helpers/x.py) and [next](03.ipynb)."),
        cell("code", "answer = 42", tags=["solution"], stub=["answer = ...", "# your turn"]),
        cell("markdown", "Why it is 42.", tags=["solution"]),
        cell("code", "check(answer)"),
    ]
    notebook.cells[1].execution_count = 1
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", text="Solved\n")]
    return notebook


def test_solutions_are_dropped_and_stubs_stand_in_their_place(solved):
    cells = exercises.for_learners(solved).cells
    assert [c.source for c in cells] == [
        "Task: see [it](../helpers/x.py) and [next](03.ipynb).",
        "answer = ...\n# your turn",
        "check(answer)",
    ]
    assert not cells[1].metadata


def test_what_the_solutions_printed_is_not_handed_on(solved):
    code = [c for c in exercises.for_learners(solved).cells if c.cell_type == "code"]
    assert [(c.outputs, c.execution_count) for c in code] == [([], None), ([], None)]


def test_the_notebook_with_solutions_stays_as_it_was(solved):
    before = nbformat.writes(solved)
    exercises.for_learners(solved)
    assert nbformat.writes(solved) == before


@pytest.fixture
def folders(tmp_path, monkeypatch, solved):
    monkeypatch.setattr(exercises, "LEARNERS", tmp_path)
    monkeypatch.setattr(exercises, "SOLUTIONS", tmp_path / "solutions")
    exercises.SOLUTIONS.mkdir()
    nbformat.write(solved, exercises.SOLUTIONS / "01.ipynb")
    return tmp_path


def test_drift_is_found_and_mended(folders):
    assert list(exercises.drifted()) == [("01.ipynb", "is missing")]
    exercises.main()
    assert list(exercises.drifted()) == []
    edited = exercises.read(folders / "01.ipynb")
    edited.cells[2].source = "check(41)"
    nbformat.write(edited, folders / "01.ipynb")
    nbformat.write(edited, folders / "02.ipynb")
    assert [name for name, _ in exercises.drifted()] == ["01.ipynb", "02.ipynb"]


def test_outputs_of_cells_that_stay_the_same_are_kept(folders, solved):
    exercises.main()
    run = exercises.read(folders / "01.ipynb")
    for c in run.cells[1:]:
        c.outputs = [nbformat.v4.new_output("stream", text=f"ran {c.source}")]
    nbformat.write(run, folders / "01.ipynb")
    solved.cells[1].metadata.stub = ["answer = None"]
    nbformat.write(solved, folders / "solutions" / "01.ipynb")
    exercises.main()
    stub, check = exercises.read(folders / "01.ipynb").cells[1:]
    assert stub.outputs == []
    assert check.outputs[0].text == "ran check(answer)"


def test_the_stored_notebooks_have_not_drifted():
    assert list(exercises.drifted()) == [], "run `make notebooks`"
