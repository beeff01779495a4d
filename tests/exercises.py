"""Writes the learners' notebooks from those with the solutions: `python -m tests.exercises`.

A notebook has one source, notebooks/solutions/NAME.ipynb, and two editions: that one, which holds
everything, and the learner's, notebooks/NAME.ipynb, which holds no answer. The tags of its cells
say what is different in the learner's; a new notebook needs nothing else.

    solution   A text cell is left out. A code cell shows the lines in its metadata under `stub`
               instead. From here on the two editions may print different things.
    guess      A code cell that is announced with *guess first*: it ships without its output, and
               not yet run, so that no answer is on the screen before somebody has guessed. The
               form for the guess, too: stored, it would stand there without its field.
    verdict    A text cell that gives such an answer away: it is folded. It holds no heading, and
               its links are Markdown, as everywhere.

Everything else is the same cell, whose links out of the folder have one step less to go. Above the
first solution both editions print the same when they are run. `make notebooks` runs both and stores
the same outputs in both; pytest compares the outputs of the learner's with those in the solutions,
the ones that do not ship included.
"""

import argparse
import copy
import itertools
import sys

import nbformat
from nbformat.reader import NotJSONError

from tests import shipped

TAG = "solution"
GUESS = "guess"
VERDICT = "verdict"
FOLDED = "<details>\n<summary><b>After the run</b>: what it showed</summary>\n\n{}\n\n</details>"


def for_learners(solved, keep_outputs=False):
    """The learner's notebook, not run yet, that belongs to a notebook with solutions.

    `keep_outputs` leaves those of the cells above the first solution, which no solution changes,
    and which the learner's has to print as well: also where it ships without.
    """
    notebook = copy.deepcopy(solved)
    common = [cell.id for cell in common_cells(solved)] if keep_outputs else []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id not in common:
            cell.outputs, cell.execution_count = [], None
    notebook.cells = [_for_learners(cell) for cell in notebook.cells if not _is_dropped(cell)]
    return notebook


def common_cells(solved):
    """The code cells of a notebook with solutions whose outputs are those of the learner's too."""
    above = itertools.takewhile(
        lambda cell: cell.cell_type != "code" or not is_tagged(cell, TAG), solved.cells
    )
    return [cell for cell in above if cell.cell_type == "code"]


def hide_guesses(notebook):
    """Take away what the learner's edition does not ship: the outputs that answer a guess."""
    for cell in notebook.cells:
        if is_tagged(cell, GUESS):
            cell.outputs, cell.execution_count = [], None


def is_tagged(cell, tag):
    """Whether a cell has this tag."""
    return tag in cell.metadata.get("tags", [])


def ids_below(notebook, heading):
    """Return the ids of the cells that stand below a heading."""
    first_lines = [cell.source.partition("\n")[0] for cell in notebook.cells]
    below = first_lines.index(heading) if heading in first_lines else len(first_lines)
    return {cell.id for cell in notebook.cells[below:]}


def _is_solution(cell):
    return is_tagged(cell, TAG)


def _is_dropped(cell):
    return _is_solution(cell) and cell.cell_type != "code"


def _for_learners(cell):
    if _is_solution(cell):
        cell.source = "\n".join(cell.metadata.pop("stub"))
        cell.metadata.tags.remove(TAG)
        if not cell.metadata.tags:
            del cell.metadata["tags"]
    if cell.cell_type != "code":
        cell.source = cell.source.replace("](../", "](")
        if is_tagged(cell, VERDICT):
            cell.source = FOLDED.format(cell.source)
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


def _solved(name):
    return read(shipped.FOLDER / shipped.SOLUTIONS / name)


def _stored(name):
    """The learners' notebook as it is now, or None: it may be half a merge."""
    try:
        return read(shipped.FOLDER / name)
    except (FileNotFoundError, UnicodeDecodeError, NotJSONError, nbformat.ValidationError):
        return None


def edition(name):
    """The learners' notebook as it ships, whatever its learner has made of it."""
    return (
        read(shipped.FOLDER / name) if shipped.is_as_shipped(name) else for_learners(_solved(name))
    )


def drifted():
    """The names of the learners' notebooks that are not what their solutions give, and why."""
    for name in shipped.learners():
        stored = _stored(name)
        if not (shipped.FOLDER / shipped.SOLUTIONS / name).exists():
            yield name, "has no notebook with solutions"
        elif stored is None:
            yield name, "is missing, or is no notebook"
        elif without_outputs(stored) != without_outputs(for_learners(_solved(name))):
            yield name, "differs from what its solutions give"


def held():
    """The learners' notebooks that hold more than outputs of their own: writing would lose it."""
    for name in shipped.learners():
        if (shipped.FOLDER / name).exists() and not shipped.is_as_shipped(name):
            stored = _stored(name)
            if stored is None or _texts(stored) != _texts(for_learners(_solved(name))):
                yield name


def _texts(notebook):
    """What a person writes in a notebook: the cells' kinds, texts and pasted pictures, in order."""
    return [(cell.cell_type, cell.source, cell.get("attachments", {})) for cell in notebook.cells]


def main(arguments=()):
    """Write what drifted; the outputs of cells that stay the same are kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.exercises")
    parser.add_argument("--overwrite", action="store_true", help="also what holds a learner's work")
    options = parser.parse_args(arguments)
    drift = list(drifted())
    if not options.overwrite and (theirs := list(held())):
        raise SystemExit(
            "\n".join(f"notebooks/{name} holds answers or other changes." for name in theirs)
            + "\nNothing was written. To keep them, give the notebook another name first;"
            " to lose them: make notebooks ARGS=--overwrite"
        )
    for name, _ in drift:
        if not (shipped.FOLDER / shipped.SOLUTIONS / name).exists():
            raise SystemExit(f"notebooks/{name} has no notebooks/solutions/{name} to come from.")
        notebook = for_learners(_solved(name))
        if stored := _stored(name):
            _keep_outputs(stored, notebook)
        nbformat.write(notebook, shipped.FOLDER / name)
        shipped.record([name])  # now: a cell may fail before all are run and recorded
        print(f"notebooks/{name}: written from its solutions")


def _keep_outputs(stored, notebook):
    cells = {cell.get("id"): cell for cell in stored.cells}
    for cell in notebook.cells:
        old = cells.get(cell.id)
        if old and cell.cell_type == "code" and cell.source == old.source:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count


if __name__ == "__main__":
    main(sys.argv[1:])
