"""Outputs that nbval takes for the same stay as they were stored; all others are stored anew."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests import refresh, shipped


def notebook(*outputs, source="run()", count=1, tags=()):
    cell = new_code_cell(source, id="one", outputs=list(outputs), execution_count=count)
    if tags:
        cell.metadata.tags = list(tags)
    return new_notebook(cells=[cell])


def printed(text):
    return new_output("stream", text=text)


def result(text, picture=None):
    data = {"text/plain": text} | ({"image/png": picture} if picture else {})
    return new_output("execute_result", data, execution_count=1)


def outputs_after(stored, fresh):
    refresh.clean(fresh)
    refresh.keep(stored, fresh)
    return fresh.cells[0].outputs


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (printed("0.101 s  line\n"), printed("0.999 s  line\n")),
        (printed("https://localhost:50123/\n"), printed("https://localhost:50999/\n")),
        (result("<Picture>", "b2xk"), result("<Picture>", "bmV3")),
        (new_output("error", evalue="after 0.51 s"), new_output("error", evalue="after 0.52 s")),
    ],
)
def test_what_nbval_takes_for_the_same_stays(old, new):
    assert outputs_after(notebook(old), notebook(new)) == [old]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (printed("9 chunks\n"), printed("10 chunks\n")),
        (result("<Picture>", "b2xk"), result("<Other picture>", "bmV3")),
        (new_output("error", evalue="one"), new_output("error", evalue="two")),
    ],
)
def test_what_has_changed_is_stored(old, new):
    assert outputs_after(notebook(old), notebook(new)) == [new]


def test_a_cell_that_was_edited_is_stored_anew():
    old, new = printed("0.1 s\n"), printed("0.2 s\n")
    assert outputs_after(notebook(old), notebook(new, source="walk()")) == [new]


def test_a_cell_that_nbval_ignores_stays():
    old, new = printed("fast\n"), printed("slow\n")
    tags = ["nbval-ignore-output"]
    assert outputs_after(notebook(old, tags=tags), notebook(new, tags=tags)) == [old]


def test_results_are_numbered_as_their_cells():
    (kept,) = outputs_after(notebook(result("1")), notebook(result("1"), count=7))
    assert kept.execution_count == 7


def test_what_was_printed_piece_by_piece_is_stored_as_one():
    fresh = notebook(printed("0.1 s\n"), printed("0.2 s\n"))
    assert outputs_after(notebook(), fresh) == [printed("0.1 s\n0.2 s\n")]
    again = notebook(printed("0.3 s\n0.4 s\n"))
    assert outputs_after(again, fresh) == [printed("0.3 s\n0.4 s\n")]


def test_a_widget_is_left_out():
    widget = new_output("display_data", {refresh.WIDGET: {"model_id": "1"}, "text/plain": "0%"})
    assert outputs_after(notebook(), notebook(widget)) == []


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "LIST", tmp_path / "notebooks.sha256")
    shipped.LIST.write_text("new  01.ipynb\n")
    path = tmp_path / "01.ipynb"
    nbformat.write(notebook(printed("0.1 s\n")), path)
    return path


def run_gives(text, monkeypatch, tags=()):
    def execute(paths, options):
        for path in paths:
            nbformat.write(notebook(printed(text), tags=tags), path)
        if text == "broken\n":
            raise OSError("no kernel")

    monkeypatch.setattr(refresh, "execute", execute)


def test_a_run_with_other_times_gives_the_same_file(stored, monkeypatch, capsys):
    before = stored.read_bytes()
    run_gives("0.7 s\n", monkeypatch)
    refresh.main([])
    assert stored.read_bytes() == before
    assert "as it was" in capsys.readouterr().out
    refresh.main(["--all"])
    assert stored.read_bytes() != before
    assert "new outputs" in capsys.readouterr().out


def test_a_run_that_fails_changes_nothing(stored, monkeypatch):
    before = stored.read_bytes()
    run_gives("broken\n", monkeypatch)
    with pytest.raises(OSError, match="no kernel"):
        refresh.main([])
    assert stored.read_bytes() == before


def test_a_learners_own_notebooks_are_neither_run_nor_written(stored, monkeypatch, capsys):
    for name in ["Untitled.ipynb", "01-Copy1.ipynb"]:
        stored.with_name(name).write_text("the learner's")
    run_gives("0.7 s\n", monkeypatch)
    refresh.main(["--all"])
    assert stored.with_name("Untitled.ipynb").read_text() == "the learner's"
    assert stored.with_name("01-Copy1.ipynb").read_text() == "the learner's"
    assert "notebooks/Untitled.ipynb: left alone" in capsys.readouterr().out


def test_what_was_stored_is_what_ships(stored, monkeypatch):
    assert not shipped.is_as_shipped("01.ipynb")
    run_gives("0.7 s\n", monkeypatch)
    refresh.main([])
    assert shipped.is_as_shipped("01.ipynb")
    stored.write_bytes(stored.read_bytes() + b"\n")
    assert shipped.changed() == ["01.ipynb"]
    stored.unlink()
    assert shipped.changed() == ["01.ipynb"]


def test_a_form_leaves_the_text_that_stands_for_it():
    data = {refresh.WIDGET: {"model_id": "1"}, "text/plain": "a guess", "text/html": "<p>a guess"}
    (left,) = outputs_after(notebook(), notebook(new_output("display_data", data)))
    assert left.data == {"text/plain": "a guess", "text/html": "<p>a guess"}


def test_the_learners_edition_gets_the_outputs_of_the_solutions(stored, monkeypatch):
    (stored.parent / "solutions").mkdir()
    for path in (stored, stored.parent / "solutions" / "01.ipynb"):
        nbformat.write(notebook(printed("0.1 s\n"), tags=["guess"]), path)
    shipped.LIST.write_text("new  01.ipynb\nnew  solutions/01.ipynb\n")
    run_gives("0.7 s\n", monkeypatch, tags=["guess"])
    refresh.main(["--all"])
    assert nbformat.read(stored, 4).cells[0].outputs == []
    assert nbformat.read(stored, 4).cells[0].execution_count is None
    solved = nbformat.read(stored.parent / "solutions" / "01.ipynb", 4)
    assert solved.cells[0].outputs == [printed("0.7 s\n")]
