"""What pytest runs of notebooks/ in a learner's checkout, and from which folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import collected_notebooks, exercises, shipped

ROOT = Path(__file__).parent.parent
COPIED = [
    ".pytest.ini",
    "helpers/errors.py",
    "notebooks/conftest.py",
    "tests/collected_notebooks.py",
    "tests/conftest.py",
    "tests/exercises.py",
    "tests/nbval_sanitize.cfg",
    "tests/shipped.py",
]
NEEDS_HELPERS = "from pathlib import Path\nassert (Path.cwd().parent / 'helpers').is_dir()"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small project with one notebook, whose output is a time that differs from run to run."""
    root = tmp_path / "Übung ß 日本 1"
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    monkeypatch.setattr(shipped, "FOLDER", root / "notebooks")
    monkeypatch.setattr(shipped, "LIST", root / "tests" / "notebooks.sha256")
    shipped.LIST.write_text("new  01.ipynb\nnew  solutions/01.ipynb\n")
    timed = new_code_cell("import time\nprint(f'{time.monotonic():.6f} s')", execution_count=1)
    timed.outputs = [new_output("stream", text="0.5 s\n")]
    exercise = new_code_cell("answer = 42", execution_count=2)
    exercise.metadata.update({"tags": ["solution"], "stub": [NEEDS_HELPERS]})
    (root / "notebooks" / "solutions").mkdir()
    nbformat.write(new_notebook(cells=[timed, exercise]), root / "notebooks/solutions/01.ipynb")
    exercises.main()
    shipped.record()
    return root


def run_pytest(folder, *arguments, **variables):
    options = ["-p", "no:cacheprovider", "--nbval", "--color=no"]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, arguments)],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return process.returncode, process.stdout


def collected(root, *arguments):
    code, output = run_pytest(root, "--collect-only", "-q", *arguments or ["notebooks"])
    assert code == 0, output
    return sorted(set(re.findall(r"^(\S.*)::", output, re.MULTILINE))), output


def answer(path):
    changed = exercises.read(path)
    changed.cells[-1].source = "raise ValueError('my answer')"
    nbformat.write(changed, path)


@pytest.mark.parametrize("folder", [".", "notebooks", "../elsewhere"])
def test_a_notebook_is_tested_from_any_folder(checkout, folder):
    (checkout / folder).mkdir(exist_ok=True)
    named = os.path.relpath(checkout / "notebooks" / "solutions" / "01.ipynb", checkout / folder)
    code, output = run_pytest(checkout / folder, named)
    assert code == 0, output
    assert "2 passed" in output


def test_of_a_learners_folder_only_what_ships_is_collected(checkout):
    folder = checkout / "notebooks"
    for name in ["Untitled.ipynb", "01-Copy1.ipynb", "solutions/01-Copy1.ipynb", "test_mine.py"]:
        (folder / name).write_text("no notebook, and no program")
    (folder / "Untitled Folder").mkdir()
    (folder / "Untitled Folder" / "test_mine.py").write_text("no program")
    (checkout / "tests" / "test_ours.py").write_text("def test_ours():\n    pass\n")
    names, _ = collected(checkout, "tests", "notebooks")
    assert names == ["notebooks/01.ipynb", "notebooks/solutions/01.ipynb", "tests/test_ours.py"]


def test_in_place_of_a_changed_notebook_what_ships_is_tested(checkout):
    answer(checkout / "notebooks" / "01.ipynb")
    code, output = run_pytest(checkout, "notebooks", "-v")
    assert code == 0, output
    assert "4 passed" in output
    assert output.count("notebooks/01.ipynb as shipped::Cell ") == 2
    assert "notebooks/01.ipynb has been changed: it is yours, and not tested" in output


@pytest.mark.parametrize("order", ["no:randomly", "randomly"])
def test_exercises_run_once_more_after_the_last_cell(checkout, order):
    path = checkout / "notebooks" / "solutions" / "01.ipynb"
    solved = exercises.read(path)
    solved.cells.insert(1, new_markdown_cell("## Exercises"))
    stops = "assert answer == 42\ndel answer"
    solved.cells += [new_code_cell("assert answer == 42"), new_code_cell(stops)]
    nbformat.write(solved, path)
    shipped.record()
    code, output = run_pytest(checkout, path, "-v", "-p", order)
    assert code == 0, output
    assert re.findall(r"::(Cell .+?) PASSED", output) == [
        *(f"Cell {number}" for number in range(4)),
        "Cell 1 again",
        "Cell 2 again",
    ]


def test_what_ships_is_compared_where_no_answer_changes_it(checkout):
    solved = exercises.read(checkout / "notebooks" / "solutions" / "01.ipynb")
    solved.cells[0].outputs[0].text = "10 chunks\n"
    nbformat.write(solved, checkout / "notebooks" / "solutions" / "01.ipynb")
    shipped.record()
    answer(checkout / "notebooks" / "01.ipynb")
    code, output = run_pytest(checkout, "notebooks")
    assert code == 1
    assert re.search(r"FAILED notebooks/01\.ipynb as shipped::Cell 0", output)
    assert "2 failed, 2 passed" in output


def test_a_changed_notebook_that_is_named_is_tested_as_it_stands(checkout):
    answer(checkout / "notebooks" / "01.ipynb")
    code, output = run_pytest(checkout, "notebooks/01.ipynb")
    assert code == 1
    assert "my answer" in output


def test_where_nothing_can_be_written_the_notebooks_run_elsewhere(checkout):
    # Root may write anywhere, so the answer is made up.
    with (checkout / "notebooks" / "conftest.py").open("a") as conftest:
        conftest.write("\nimport os\nos.access = lambda path, mode: False\n")
    code, output = run_pytest(checkout, "notebooks", "-v")
    assert code == 0, output
    assert output.count("notebooks/01.ipynb as shipped::Cell ") == 2
    assert output.count("notebooks/solutions/01.ipynb as shipped::Cell ") == 2


def test_a_changed_notebook_with_solutions_is_left_out(checkout):
    answer(checkout / "notebooks" / "solutions" / "01.ipynb")
    assert collected(checkout)[0] == ["notebooks/01.ipynb"]
    answer(checkout / "notebooks" / "01.ipynb")
    code, output = run_pytest(checkout, "notebooks")
    assert code == 5, output  # nothing is left of what ships


@pytest.mark.parametrize(("printed", "code"), [("0.5 s\n", 0), ("9 chunks\n", 1)])
def test_what_answers_a_guess_is_compared_with_the_solutions(checkout, printed, code):
    """It does not ship, and is printed all the same where a learner runs the cell."""
    path = checkout / "notebooks" / "solutions" / "01.ipynb"
    solved = exercises.read(path)
    solved.cells[0].metadata.tags = ["guess"]
    solved.cells[0].outputs[0].text = printed
    nbformat.write(solved, path)
    exercises.main()
    shipped.record()
    assert exercises.read(checkout / "notebooks" / "01.ipynb").cells[0].outputs == []
    returned, output = run_pytest(checkout, "notebooks/01.ipynb", "notebooks/solutions/01.ipynb")
    assert returned == code, output
    assert f"{'2 failed, 2' if code else '4'} passed" in output


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_a_learners_change_is_a_skip(monkeypatch, value):
    monkeypatch.setenv("CI", value)
    shipped.none_but_a_learners([])
    with pytest.raises(pytest.skip.Exception, match=r"yours, and not tested: notebooks/01\.ipynb"):
        shipped.none_but_a_learners(["notebooks/01.ipynb"])


def test_in_ci_every_change_is_the_projects_and_fails(monkeypatch):
    monkeypatch.setenv("CI", "true")
    shipped.none_but_a_learners([])
    with pytest.raises(pytest.fail.Exception, match=r"make notebooks.*notebooks/01\.ipynb"):
        shipped.none_but_a_learners(["notebooks/01.ipynb"])


@pytest.mark.parametrize("deaths", [0, 2])
def test_a_kernel_whose_port_was_taken_is_started_again(deaths):
    said = iter([RuntimeError("Kernel died before replying to kernel_info")] * deaths + ["kernel"])

    def start(**options):
        assert options == {"kernel_name": "python3"}
        answer = next(said)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    start_again = collected_notebooks.again_where_it_died(start)
    assert start_again(kernel_name="python3") == "kernel"


def test_a_kernel_that_never_starts_is_told():
    def start():
        raise RuntimeError("no ipykernel")

    with pytest.raises(RuntimeError, match="no ipykernel"):
        collected_notebooks.again_where_it_died(start)()
