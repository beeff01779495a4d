"""What stands in the notebooks' files: executed, clean, short cells, and no churn."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests import exercises, refresh, shipped

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = [FOLDER / name for name in shipped.names() if shipped.is_as_shipped(name)]
LINES_PER_CELL = 15
# A class in the open, which would say less in pieces.
LINES_PER_LONGHAND_CELL = 40
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


def is_hidden(path, cell):
    """Whether it ships without its output, which would answer a guess."""
    return path.parent == FOLDER and exercises.GUESS in tags(cell)


@each_notebook
def test_every_code_cell_was_run_from_top_to_bottom(path):
    for number, cell in enumerate(code_cells(path), start=1):
        assert cell["execution_count"] == (None if is_hidden(path, cell) else number), cell["id"]


@each_notebook
def test_no_answer_to_a_guess_ships_in_the_learners_edition(path):
    for cell in code_cells(path):
        assert not (is_hidden(path, cell) and cell["outputs"]), cell["id"]


@pytest.mark.parametrize("name", shipped.learners())
def test_both_editions_print_the_same_above_the_first_solution(name):
    """Where both are as they were stored; pytest --nbval compares what does not ship."""
    if {name, shipped.SOLUTIONS + name} & set(shipped.changed()):
        pytest.skip("one of the two is not what ships")
    stored = {cell["id"]: cell for cell in exercises.read(FOLDER / name).cells}
    for cell in exercises.common_cells(exercises.read(FOLDER / shipped.SOLUTIONS / name)):
        if not exercises.is_tagged(cell, exercises.GUESS):
            compared = refresh.what_is_compared(stored[cell.id])
            assert compared == refresh.what_is_compared(cell), cell.id


@each_notebook
def test_a_guess_is_announced_and_its_verdict_has_no_heading(path):
    """What is folded in the learner's edition stands in no table of contents."""
    if path.parent == FOLDER:
        return
    announced = False
    for cell in exercises.read(path).cells:
        if cell.cell_type == "markdown":
            announced = "**Guess first**" in cell.source or announced
            if exercises.is_tagged(cell, exercises.VERDICT):
                assert not re.search("^#", cell.source, re.MULTILINE), cell.id
        elif exercises.is_tagged(cell, exercises.GUESS):
            assert announced, cell.id


@each_notebook
def test_a_copy_elsewhere_says_where_it_belongs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = code_cells(path)[0]
    with pytest.raises(AssertionError, match=r"No helpers/ above .+: put this notebook into noteb"):
        exec("".join(first["source"]), {})


@each_notebook
def test_nothing_was_written_to_stderr(path):
    for cell in code_cells(path):
        assert not [out for out in cell["outputs"] if out.get("name") == "stderr"], cell["id"]


@each_notebook
def test_a_cell_raises_where_its_tag_says_so_and_nowhere_else(path):
    for cell in code_cells(path):
        raised = any(out["output_type"] == "error" for out in cell["outputs"])
        raises = "raises-exception" in tags(cell) and not is_hidden(path, cell)
        assert raised == raises, cell["id"]


@each_notebook
def test_cells_are_short(path):
    for cell in code_cells(path):
        limit = LINES_PER_LONGHAND_CELL if "longhand" in tags(cell) else LINES_PER_CELL
        assert len("".join(cell["source"]).splitlines()) <= limit, cell["id"]


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


def texts(path):
    return [cell.source for cell in exercises.read(path).cells if cell.cell_type == "markdown"]


@each_notebook
def test_each_rfc_that_is_named_is_a_link(path):
    for text in texts(path):
        for found in re.finditer(r"RFC \d{4}(?: section [\d.]*\d)?", text):
            assert text[found.start() - 1] == "[", text[found.start() - 60 : found.end()]
            assert re.match(r"\]\(https://www\.rfc-editor\.org/rfc/rfc\d+", text[found.end() :])


@each_notebook
def test_each_picture_and_link_in_a_text_leads_somewhere(path):
    for text in texts(path):
        for picture, words, target in re.findall(r"(!?)\[([^]]*)\]\(([^)#]+)", text):
            if not target.startswith("https://"):
                assert (path.parent / target).exists(), target
            if picture:
                assert words.startswith(("Drawing: ", "Screenshot: ")), words


@each_notebook
def test_a_recap_has_five_questions_with_folded_answers(path):
    (recap,) = (text for text in texts(path) if text.startswith("## Recap"))
    assert len(re.findall(r"^\d\. .*\?$", recap, re.MULTILINE)) == 5
    assert recap.count("<details><summary>Answer</summary>") == 5
    assert 3 <= len(re.findall(r"^- .*https://", recap, re.MULTILINE)) <= 6


@each_notebook
def test_the_first_screen_has_a_picture_that_is_drawn(path):
    (title,) = (text for text in texts(path)[:2] if text.startswith("# "))
    assert title.index("![Drawing: ") < title.index("**What you'll do**")
