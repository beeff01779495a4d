"""What pytest collects in notebooks/: the notebooks that ship, and nothing of a learner's.

Where a learner has changed one, what ships in its place comes from its solutions and is tested in
its stead. A notebook that is named on the command line is tested as it stands, whoever wrote it.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import nbformat
import nbval.kernel
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from tests import exercises, shipped

KERNEL_ATTEMPTS = 3


def pytest_configure(config):
    # nbval takes the path in .pytest.ini for one below the caller's folder.
    config.option.nbval_sanitize_with = str(shipped.ROOT / "tests" / "nbval_sanitize.cfg")
    nbval.kernel.start_new_kernel = again_where_it_died(nbval.kernel.start_new_kernel)


def again_where_it_died(start):
    """Return what starts a kernel as `start` does, but up to three times.

    Jupyter chooses a kernel's ports before the kernel binds them. Beside others that start at the
    same moment, one of them may be taken by then, and the kernel dies before it has said a word.
    """

    def start_again(**options):
        for _ in range(KERNEL_ATTEMPTS - 1):
            with contextlib.suppress(RuntimeError):
                return start(**options)
        return start(**options)

    return start_again


def pytest_ignore_collect(collection_path):
    if not collection_path.is_relative_to(shipped.FOLDER):
        return None
    name = collection_path.relative_to(shipped.FOLDER).as_posix()
    ships = [*shipped.learners(), *filter(shipped.is_as_shipped, shipped.names())]
    inside = name == "." or any(other.startswith(f"{name}/") for other in ships)
    return None if inside or name in ships else True


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collectors = yield
    ours = file_path.suffix == ".ipynb" and file_path.is_relative_to(shipped.FOLDER)
    if not (collectors and ours) or parent.session.isinitpath(file_path):
        return collectors
    name = file_path.relative_to(shipped.FOLDER).as_posix()
    if shipped.is_as_shipped(name):
        # The notebooks keep certificates in the checkout, which may be somebody else's.
        if os.access(shipped.ROOT, os.W_OK):
            return collectors
        notebook = exercises.read(file_path)
    elif name in shipped.learners() and shipped.is_as_shipped(shipped.SOLUTIONS + name):
        solved = exercises.read(shipped.FOLDER / shipped.SOLUTIONS / name)
        notebook = exercises.for_learners(solved, keep_outputs=True)
    else:
        return []
    path = _write_elsewhere(notebook, name, parent.config)
    nodeid = f"{parent.nodeid}/{file_path.name} as shipped"
    return [IPyNbFile.from_parent(parent, path=path, name=file_path.name, nodeid=nodeid)]


def _write_elsewhere(notebook, name, config):
    """Write a notebook into a temporary folder that is like the checkout; return its path."""
    folder = Path(tempfile.mkdtemp())
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    shutil.copytree(shipped.ROOT / "helpers", folder / "helpers")
    path = folder / "notebooks" / name
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    return path


def pytest_collection_modifyitems(items):
    items += exercises_after_the_last_cell(items)
    places = [place for place, item in enumerate(items) if item.path.suffix == ".ipynb"]
    # Whatever order the tests are in, a notebook's cells run from top to bottom.
    cells = sorted((items[place] for place in places), key=lambda item: (item.path, item.cell_num))
    for place, cell in zip(places, cells, strict=True):
        items[place] = cell
        _expect_what_the_solutions_print(cell)
        # nbval bounds each cell by itself and says which one: its 60 s have to come first.
        cell.add_marker(pytest.mark.timeout(90))


def exercises_after_the_last_cell(cells):
    """Return the exercises of what ships solved once more, to be run after all cells have been.

    Many run a whole notebook first, to its last cell, which stops everything, and solve then.
    """
    cells = [cell for cell in cells if cell.path.suffix == ".ipynb"]
    solved = {cell.path: [] for cell in cells if cell.path.parent.name == "solutions"}
    for cell in cells:
        if cell.path in solved:
            solved[cell.path].append(cell)
    again = []
    for run in solved.values():
        run.sort(key=lambda cell: cell.cell_num)
        notebook = run[0].parent.nb
        ids = exercises.ids_below(notebook, "## Exercises")
        is_whole = len(run) == sum(cell.cell_type == "code" for cell in notebook.cells)
        exercised = [
            cell
            for cell in run[:-1]
            if is_whole and cell.cell.id in ids and not exercises.is_tagged(cell.cell, "nbval-skip")
        ]
        again += [
            IPyNbCell.from_parent(
                cell.parent,
                name=f"{cell.name} again",
                cell_num=len(run) + cell.cell_num,
                cell=cell.cell,
                options=cell.options,
            )
            for cell in exercised
        ]
    return again


def _expect_what_the_solutions_print(item):
    """Give a learner's cell that ships without its output the one of the solutions to compare."""
    solved = shipped.FOLDER / shipped.SOLUTIONS / item.path.name
    ours = item.path.parent == shipped.FOLDER and shipped.is_as_shipped(item.path.name)
    if not (exercises.is_tagged(item.cell, exercises.GUESS) and ours and solved.exists()):
        return
    for cell in exercises.read(solved).cells:
        if cell.id == item.cell.id:
            item.cell.outputs, item.cell.execution_count = cell.outputs, cell.execution_count


def pytest_terminal_summary(terminalreporter, config):
    if config.option.nbval:
        for name in shipped.changed():
            terminalreporter.write_line(
                f"notebooks/{name} has been changed: it is yours, and not tested unless you name it"
            )
