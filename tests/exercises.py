"""Writes the learners' notebooks from those with the solutions: `python -m tests.exercises`.

A cell tagged `solution` is all that differs. In notebooks/ a text cell with that tag is left out,
and a code cell with it shows the lines in its metadata under `stub` instead. Everything else is
the same cell, whose links out of the folder have one step less to go.
"""

import copy
from pathlib import Path

import nbformat

LEARNERS = Path(__file__).parent.parent / "notebooks"
SOLUTIONS = LEARNERS / "solutions"
TAG = "solution"


def for_learners(solved):
    """The learner's notebook, not run yet, that belongs to a notebook with solutions."""
    notebook = copy.deepcopy(solved)
    notebook.cells = [_for_learners(cell) for cell in notebook.cells if not _is_dropped(cell)]
    return notebook


def _is_solution(cell):
    return TAG in cell.metadata.get("tags", [])


def _is_dropped(cell):
    return _is_solution(cell) and cell.cell_type != "code"


def _for_learners(cell):
    if _is_solution(cell):
        cell.source = "\n".join(cell.metadata.pop("stub"))
        cell.metadata.tags.remove(TAG)
        if not cell.metadata.tags:
            del cell.metadata["tags"]
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    else:
        cell.source = cell.source.replace("](../../", "](../")
    return cell


def without_outputs(notebook):
    """A copy in which nothing is left that running the cells changes."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)
    return notebook


def read(path):
    """A notebook as nbformat reads it, in the newest form of notebook files."""
    return nbformat.read(path, as_version=4)


def drifted():
    """The names of the learners' notebooks that are not what their solutions give, and why."""
    for path in sorted(SOLUTIONS.glob("*.ipynb")):
        learners = LEARNERS / path.name
        if not learners.exists():
            yield path.name, "is missing"
        elif without_outputs(read(learners)) != without_outputs(for_learners(read(path))):
            yield path.name, "differs from what its solutions give"
    for path in sorted(LEARNERS.glob("*.ipynb")):
        if not (SOLUTIONS / path.name).exists():
            yield path.name, "has no notebook with solutions"


def main():
    """Write what drifted; the outputs of cells that stay the same are kept."""
    for name, _ in list(drifted()):
        if not (SOLUTIONS / name).exists():
            raise SystemExit(f"notebooks/{name} has no notebooks/solutions/{name} to come from.")
        notebook = for_learners(read(SOLUTIONS / name))
        if (LEARNERS / name).exists():
            stored = {cell.id: cell for cell in read(LEARNERS / name).cells}
            for cell in notebook.cells:
                old = stored.get(cell.id)
                if old and cell.cell_type == "code" and cell.source == old.source:
                    cell.outputs, cell.execution_count = old.outputs, old.execution_count
        nbformat.write(notebook, LEARNERS / name)
        print(f"notebooks/{name}: written from its solutions")


if __name__ == "__main__":
    main()
