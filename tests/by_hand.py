"""The pair of notebook 07 as its cells have it, without a notebook around it."""

import asyncio
import time
import types

from tests import exercises, shipped

NOTEBOOK = "07_by_hand.ipynb"


def _longhand(are_solutions):
    solved = exercises.read(shipped.FOLDER / shipped.SOLUTIONS / NOTEBOOK)
    for cell in solved.cells:
        tags = cell.metadata.get("tags", [])
        if "longhand" in tags and (exercises.TAG in tags) is are_solutions:
            yield cell


def longhand_cells():
    """The cells that are the pair."""
    return list(_longhand(are_solutions=False))


def answers():
    """The cells with the solutions to its exercises."""
    return list(_longhand(are_solutions=True))


def pair(credentials):
    """The names that the cells define, after they have run with these certificates."""
    module = types.ModuleType("by_hand")
    module.__dict__.update(asyncio=asyncio, time=time, credentials=credentials)
    for cell in longhand_cells():
        exec(compile(cell.source, f"<{cell.id}>", "exec"), module.__dict__)
    return module
