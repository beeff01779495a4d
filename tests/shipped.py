"""Which notebooks the project ships, and which of them are as they were shipped.

tests/notebooks.sha256 lists them; `make notebooks` writes it. A notebook that is not listed is the
learner's, and so is one that has changed since, be it by an answer or only by being run and saved.
What is a learner's is no business of the tests, except where nobody learns: see `nobody_learns`.
"""

import hashlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
LIST = ROOT / "tests" / "notebooks.sha256"
SOLUTIONS = "solutions/"


def _listed():
    """The digest of each notebook that ships, by its path below notebooks/."""
    rows = (line.split(maxsplit=1) for line in LIST.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in rows}


def names():
    """The notebooks that ship, as paths below notebooks/."""
    return list(_listed())


def learners():
    """Those of them that a learner works in, rather than the ones with solutions."""
    return [name for name in names() if not name.startswith(SOLUTIONS)]


def _digest(path):
    # The ends of lines may differ between systems; a learner's file may be no text at all.
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def is_as_shipped(name):
    """Whether nobody has changed it, and a change to the project would show in its solutions."""
    path = FOLDER / name
    return path.exists() and _digest(path) == _listed().get(name)


def changed():
    """The notebooks that ship, but are no longer as they were."""
    return [name for name in names() if not is_as_shipped(name)]


def unlisted():
    """All other notebooks in notebooks/ and below it."""
    found = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.ipynb")}
    return sorted(name for name in found - set(names()) if ".ipynb_checkpoints" not in name)


def nobody_learns():
    """Whether this is a build of the project, where every change is the project's: CI is set."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def none_but_a_learners(paths):
    """Skip a test that found what may be a learner's; in a build of the project, fail it."""
    if paths and nobody_learns():
        pytest.fail(
            f"not what ships; have you run `make notebooks`? {', '.join(paths)}", pytrace=False
        )
    if paths:
        pytest.skip(f"yours, and not tested: {', '.join(paths)}")


def record(changed_names=None):
    """Write the list anew, from these notebooks as they are now; without an argument, from all."""
    changed_names = names() if changed_names is None else changed_names
    listed = _listed() | {name: _digest(FOLDER / name) for name in changed_names}
    rows = [f"{digest}  {name}\n" for name, digest in listed.items()]
    LIST.write_text("".join(rows), encoding="utf-8", newline="\n")
