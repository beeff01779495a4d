"""How long the notebooks take: `python -m tests.reading_time` prints minutes for each.

Prose is read at 200 words a minute, code and what it prints at half of that; running takes
RUNNING_MINUTES. The exercises are not counted: their times stand beside them, as experience has it.
"""

import re

from tests import exercises, shipped

PROSE_WORDS_A_MINUTE = 200
CODE_WORDS_A_MINUTE = 100
# Measured with nbconvert on two cores: 6 to 17 s a notebook; with a learner's hand, a minute.
RUNNING_MINUTES = 1
NOT_READ_NOW = ("Glossary", "Exercises")


def minutes(solved):
    """How long a notebook takes without its exercises, and how long its core does."""
    every = core = RUNNING_MINUTES
    optional = skipped = False
    for cell in solved.cells:
        if cell.cell_type == "markdown" and (found := re.search("^## (.*)", cell.source, re.M)):
            optional = found[1].endswith("(optional)")
            skipped = found[1] in NOT_READ_NOW
        if skipped or exercises.is_tagged(cell, exercises.TAG):
            continue
        took = _minutes_of(cell)
        every += took
        core += 0 if optional else took
    return every, core


def _minutes_of(cell):
    if cell.cell_type == "markdown":
        text = re.sub(r"!\[[^]]*\]\([^)]*\)|\]\([^)]*\)|<[^>]*>", " ", cell.source)
        return _words(text) / PROSE_WORDS_A_MINUTE
    printed = [out.get("text", "") or out.get("evalue", "") for out in cell.outputs]
    printed += [out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return _words(" ".join([cell.source, *printed])) / CODE_WORDS_A_MINUTE


def _words(text):
    return len(re.findall(r"\w[\w.'-]*", text))


def stated(solved):
    """The two numbers that the title of a notebook states; the second may be left out."""
    (line,) = re.findall(r"\*\*How long\*\*: (.*)", solved.cells[1].source)
    every = int(re.match(r"(\d+) minutes of reading and running", line)[1])
    core = re.search(r"(\d+) of them for the core", line)
    return every, int(core[1]) if core else every


def main():
    """Print what is measured beside what is stated."""
    for name in shipped.learners():
        solved = exercises.read(shipped.FOLDER / shipped.SOLUTIONS / name)
        every, core = minutes(solved)
        print(f"{name}: {every:.1f} minutes, core {core:.1f}; stated {stated(solved)}")


if __name__ == "__main__":
    main()
