"""What stands in the notebooks' files: executed, clean, short cells, and no churn."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests import shipped

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = [FOLDER / name for name in shipped.names() if shipped.is_as_shipped(name)]
LINES_PER_CELL = 15
MACHINE_PATH = r"/(home|Users|root|tmp|site-packages)/|[A-Z]:\\\\|File ~"

each_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.relative_to(FOLDER).as_posix()
)


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in load(path)["cells"] if cell["cell_type"] == "code"]


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_each_notebook_is_as_it_was_stored():
    shipped.none_but_a_learners([f"notebooks/{name}" for name in shipped.changed()])


def test_no_other_notebook_is_there():
    shipped.none_but_a_learners([f"notebooks/{name}" for name in shipped.unlisted()])


@each_notebook
def test_every_code_cell_was_run_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_nothing_was_written_to_stderr(path):
    for cell in code_cells(path):
        assert not [out for out in cell["outputs"] if out.get("name") == "stderr"], cell["id"]


@each_notebook
def test_a_cell_raises_where_its_tag_says_so_and_nowhere_else(path):
    for cell in code_cells(path):
        raised = any(out["output_type"] == "error" for out in cell["outputs"])
        assert raised == ("raises-exception" in tags(cell)), cell["id"]


@each_notebook
def test_cells_are_short(path):
    for cell in code_cells(path):
        assert len("".join(cell["source"]).splitlines()) <= LINES_PER_CELL, cell["id"]


def test_each_exemption_from_nbval_is_listed_with_its_reason():
    listed = tomllib.loads((ROOT / "tests" / "nbval_exemptions.toml").read_text(encoding="utf-8"))
    wanted = {
        (name, cell_id, entry["tag"])
        for name, cells in listed.items()
        for cell_id, entry in cells.items()
        if FOLDER / name in NOTEBOOKS and entry["reason"].strip()
    }
    found = {
        (path.relative_to(FOLDER).as_posix(), cell["id"], tag)
        for path in NOTEBOOKS
        for cell in code_cells(path)
        for tag in tags(cell)
        if tag.lower().startswith("nbval")
    }
    assert found == wanted


@each_notebook
def test_no_comment_in_a_learners_cell_steers_nbval(path):
    for cell in code_cells(path):
        source = "".join(cell["source"])
        assert "NBVAL_" not in source, cell["id"]
        assert "PYTEST_VALIDATE_IGNORE_OUTPUT" not in source, cell["id"]


@each_notebook
def test_what_changes_from_run_to_run_is_not_stored(path):
    notebook = load(path)
    assert "widgets" not in notebook["metadata"]
    assert "version" not in notebook["metadata"].get("language_info", {})
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in code_cells(path):
        assert "execution" not in cell["metadata"], cell["id"]
        for out in cell["outputs"]:
            assert "application/vnd.jupyter.widget-view+json" not in out.get("data", {}), cell["id"]


@each_notebook
def test_no_path_of_the_machine_it_ran_on_is_stored(path):
    for cell in code_cells(path):
        stored = json.dumps(cell["outputs"])
        assert ROOT.as_posix() not in stored, cell["id"]
        assert not re.search(MACHINE_PATH, stored), cell["id"]
