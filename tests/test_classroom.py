"""The load test of a class, with a class of one and a notebook that takes no time."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests import classroom, shipped


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Stores the one notebook that there is, with this cell."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "learners", lambda: ["01.ipynb"])
    (tmp_path / "solutions").mkdir()

    def store(source):
        cells = [new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells), tmp_path / "solutions" / "01.ipynb")

    return store


def test_a_class_that_gets_through(notebook, capsys):
    notebook("1 + 1")
    assert classroom.main(["2"]) == 0
    printed = capsys.readouterr().out
    assert "| 01 | 2 | " in printed
    assert "2 kernels held " in printed


def test_what_failed_is_named(notebook, capsys):
    notebook("raise ValueError('no flush')")
    assert classroom.main(["1"]) == 1
    printed = capsys.readouterr().out
    assert " | 1 |\n" in printed
    assert "01.ipynb: ValueError: no flush" in printed


def test_a_class_of_nobody(capsys):
    with pytest.raises(SystemExit):
        classroom.main(["0"])
    assert "a class has a learner at least" in capsys.readouterr().err
