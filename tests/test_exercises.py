"""The learners' notebooks come from those with the solutions, and say nothing of them."""

import os
import subprocess
import sys

import nbformat
import pytest

from tests import exercises, shipped


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


def test_outputs_above_the_first_solution_can_be_kept(solved):
    solved.cells.insert(1, cell("code", "show(1)"))
    for c in solved.cells:
        if c.cell_type == "code":
            c.outputs = [nbformat.v4.new_output("stream", text="shown\n")]
    code = [c for c in exercises.for_learners(solved, keep_outputs=True).cells if "outputs" in c]
    assert [len(c.outputs) for c in code] == [1, 0, 0]


@pytest.fixture
def guessed(solved):
    """The notebook with a cell whose output answers a guess, and the verdict on it."""
    surprise = cell("code", "surprise()", tags=["guess"])
    surprise.outputs = [nbformat.v4.new_output("stream", text="one chunk\n")]
    surprise.execution_count = 1
    verdict = cell("markdown", "Verdict, see [why](../../helpers/x.py).", tags=["verdict"])
    solved.cells[1:1] = [surprise, verdict]
    return solved


def test_a_verdict_is_folded_for_learners(guessed):
    verdict = exercises.for_learners(guessed).cells[2].source
    assert verdict.startswith("<details>\n<summary>")
    assert "\n\nVerdict, see [why](../helpers/x.py).\n\n" in verdict
    assert verdict.endswith("</details>")


def test_what_answers_a_guess_is_compared_and_does_not_ship(guessed):
    compared = exercises.for_learners(guessed, keep_outputs=True)
    assert compared.cells[1].outputs[0].text == "one chunk\n"
    exercises.hide_guesses(compared)
    assert (compared.cells[1].outputs, compared.cells[1].execution_count) == ([], None)
    assert [c.source for c in exercises.common_cells(guessed)] == ["surprise()"]


@pytest.fixture
def folders(tmp_path, monkeypatch, solved):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "LIST", tmp_path / "notebooks.sha256")
    shipped.LIST.write_text("new  01.ipynb\nnew  solutions/01.ipynb\n")
    (tmp_path / "solutions").mkdir()
    nbformat.write(solved, tmp_path / "solutions" / "01.ipynb")
    return tmp_path


@pytest.fixture
def written(folders):
    """The learners' notebook after `make notebooks`."""
    exercises.main()
    shipped.record()
    return folders / "01.ipynb"


def edit(path, number, source):
    edited = exercises.read(path)
    edited.cells[number].source = source
    nbformat.write(edited, path)


def test_drift_is_found_and_mended(folders):
    assert list(exercises.drifted()) == [("01.ipynb", "is missing, or is no notebook")]
    exercises.main()
    assert list(exercises.drifted()) == []
    shipped.record()
    edit(folders / "solutions" / "01.ipynb", 3, "check(41)")
    assert [name for name, _ in exercises.drifted()] == ["01.ipynb"]
    exercises.main()
    assert list(exercises.drifted()) == []
    (folders / "solutions" / "01.ipynb").unlink()
    assert list(exercises.drifted()) == [("01.ipynb", "has no notebook with solutions")]


def test_outputs_of_cells_that_stay_the_same_are_kept(written, solved):
    run = exercises.read(written)
    for c in run.cells[1:]:
        c.outputs = [nbformat.v4.new_output("stream", text=f"ran {c.source}")]
    nbformat.write(run, written)
    shipped.record()
    solved.cells[1].metadata.stub = ["answer = None"]
    nbformat.write(solved, written.parent / "solutions" / "01.ipynb")
    exercises.main()
    stub, check = exercises.read(written).cells[1:]
    assert stub.outputs == []
    assert check.outputs[0].text == "ran check(answer)"


def answer(path):
    edit(path, 1, "answer = 6 * 7")


def edit_a_text(path):
    edit(path, 0, "I do not get this.")


def add_a_cell(path):
    edited = exercises.read(path)
    edited.cells.append(cell("code", "print(answer)"))
    nbformat.write(edited, path)


def half_a_merge(path):
    path.write_text("<<<<<<< HEAD\n" + path.read_text())


def no_text_at_all(path):
    path.write_bytes(b"\xff\xfe")


CHANGES = [answer, edit_a_text, add_a_cell, half_a_merge, no_text_at_all]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_learner_wrote_is_lost_only_when_asked_for(written, change):
    change(written)
    before = written.read_bytes()
    assert not shipped.is_as_shipped("01.ipynb")
    with pytest.raises(SystemExit) as refused:
        exercises.main()
    assert str(refused.value) == (
        "notebooks/01.ipynb holds answers or other changes.\nNothing was written. To keep them,"
        " give the notebook another name first; to lose them: make notebooks ARGS=--overwrite"
    )
    assert written.read_bytes() == before
    exercises.main(["--overwrite"])
    assert list(exercises.drifted()) == []


def test_what_an_author_has_written_twice_is_no_learners(written):
    """A cell may have failed in between, before the new outputs were stored."""
    for source in ["check(41)", "check(43)"]:
        edit(written.parent / "solutions" / "01.ipynb", 3, source)
        exercises.main()
        assert exercises.read(written).cells[2].source == source


def test_outputs_alone_are_no_loss(written):
    run = exercises.read(written)
    run.metadata.language_info = {"name": "python", "version": "3.11.7"}
    run.cells[1].execution_count = 9
    nbformat.write(run, written)
    assert not shipped.is_as_shipped("01.ipynb")
    exercises.main()
    assert [c.source for c in exercises.read(written).cells] == [c.source for c in run.cells]


def test_whatever_a_learner_wrote_the_edition_is_what_ships(written):
    answer(written)
    assert [c.source for c in exercises.edition("01.ipynb").cells][1] == "answer = ...\n# your turn"


def test_other_notebooks_are_left_alone(written):
    for name in ["Untitled.ipynb", "01-Copy1.ipynb", "solutions/01-Copy1.ipynb"]:
        (written.parent / name).write_text("the learner's")
    exercises.main()
    assert list(exercises.drifted()) == []
    assert shipped.unlisted() == ["01-Copy1.ipynb", "Untitled.ipynb", "solutions/01-Copy1.ipynb"]
    assert (written.parent / "Untitled.ipynb").read_text() == "the learner's"
    assert sorted(path.name for path in written.parent.glob("*.ipynb")) == [
        "01-Copy1.ipynb",
        "01.ipynb",
        "Untitled.ipynb",
    ]


def test_the_stored_notebooks_have_not_drifted():
    learners = set(shipped.changed())
    drifted = {name for name, _ in exercises.drifted()}
    # What a learner has changed is not compared; in CI that is a failure of its own.
    assert not {n for n in drifted if not {n, shipped.SOLUTIONS + n} & learners}, "`make notebooks`"


@pytest.mark.parametrize("name", ["conftest.py", *shipped.names()])
def test_what_ships_in_the_notebooks_folder_is_linted(name):
    """As `ruff check` does for the rest: in that folder there may be files of a learner, too."""
    path = shipped.FOLDER / name
    if name in shipped.learners():
        text = nbformat.writes(exercises.edition(name))
    elif name in shipped.changed():
        shipped.none_but_a_learners([f"notebooks/{name}"])
    else:
        text = path.read_text(encoding="utf-8")
    for command in (["check"], ["format", "--check"]):
        ruff = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "--stdin-filename", path, "-"],
            cwd=shipped.ROOT,
            input=text.encode(),
            capture_output=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
        assert ruff.returncode == 0, ruff.stdout.decode() + ruff.stderr.decode()
