"""Runs the notebooks and stores their outputs: `python -m tests.refresh [--all] [OPTION ...]`.

Only notebooks that ship are run; the options are for nbconvert. An output that nbval takes for the
same as the stored one stays as it was stored, so that a second run gives no diff, and a diff shows
what has changed. Pictures are compared by the text that stands for them: with `--all` everything is
stored anew.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbval.plugin import coalesce_streams, get_sanitize_patterns

from tests import exercises, shipped

ROOT = Path(__file__).parent.parent
SANITIZE = get_sanitize_patterns((ROOT / "tests/nbval_sanitize.cfg").read_text(encoding="utf-8"))
CELL_TIMEOUT_S = 60
WIDGET = "application/vnd.jupyter.widget-view+json"


def sanitized(text):
    """The text as nbval compares it."""
    for pattern, replacement in SANITIZE:
        text = re.sub(pattern, replacement, text)
    return text


def what_is_compared(cell):
    """A cell's outputs without what may differ from run to run."""
    if "nbval-ignore-output" in cell.metadata.get("tags", []):
        return None
    compared = []
    for out in cell.outputs:
        texts = {"text": out.get("text", ""), "error": out.get("evalue", "")}
        texts |= {kind: data for kind, data in out.get("data", {}).items() if "image/" not in kind}
        compared.append({kind: sanitized(str(text)) for kind, text in texts.items()})
    return compared


def keep(stored, fresh):
    """Give each cell of `fresh` the stored outputs where the source and what is compared agree."""
    cells = {cell.id: cell for cell in stored.cells if cell.cell_type == "code"}
    for cell in fresh.cells:
        old = cells.get(cell.id)
        if old is None or cell.cell_type != "code" or not old.outputs:
            continue
        if old.source == cell.source and what_is_compared(old) == what_is_compared(cell):
            cell.outputs = old.outputs
            for out in cell.outputs:
                if out.output_type == "execute_result":
                    out.execution_count = cell.execution_count


def clean(notebook):
    """Join what was printed in one cell, and leave out widgets: they live in their kernel only.

    One that comes with HTML to stand in its place leaves that.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for out in cell.outputs:
                if "text/html" in out.get("data", {}):
                    out.data.pop(WIDGET, None)
            outputs = [out for out in cell.outputs if WIDGET not in out.get("data", {})]
            cell.outputs = coalesce_streams(outputs)


def execute(paths, options):
    """Run the notebooks, each in a kernel of its own in its own folder, and store all outputs."""
    nbconvert = [sys.executable, "-m", "nbconvert", "--to=notebook", "--inplace", "--execute"]
    nbconvert += ["--log-level=WARN", *options]
    nbconvert += [f"--ExecutePreprocessor.timeout={CELL_TIMEOUT_S}"]
    nbconvert += ["--ExecutePreprocessor.record_timing=False"]
    strip = [sys.executable, "-m", "nbstripout", "--keep-output", "--keep-count", "--keep-id"]
    strip += ["--extra-keys", "metadata.language_info.version cell.metadata.execution"]
    for command in (nbconvert, strip):
        subprocess.run([*command, *paths], check=True)


def main(options):
    """Run every notebook that ships; a failed run leaves the files as they were."""
    paths = [shipped.FOLDER / name for name in shipped.names()]
    before = {path: path.read_bytes() for path in paths}
    try:
        execute(paths, [option for option in options if option != "--all"])
    except BaseException:
        for path, content in before.items():
            path.write_bytes(content)
        raise
    # Those with solutions first: their outputs are the learners' too, where these are the same.
    for path in sorted(paths, key=lambda path: path.parent == shipped.FOLDER):
        fresh = nbformat.read(path, as_version=4)
        clean(fresh)
        if "--all" not in options:
            keep(nbformat.reads(before[path].decode(), as_version=4), fresh)
        solved = shipped.FOLDER / shipped.SOLUTIONS / path.name
        if path.parent == shipped.FOLDER and solved.exists():
            keep(exercises.read(solved), fresh)
            exercises.hide_guesses(fresh)
        nbformat.write(fresh, path)
        changed = path.read_bytes() != before[path]
        name = path.relative_to(shipped.FOLDER).as_posix()
        print(f"notebooks/{name}: {'new outputs' if changed else 'as it was'}")
    shipped.record()
    for name in shipped.unlisted():
        print(f"notebooks/{name}: left alone, for tests/{shipped.LIST.name} does not list it")


if __name__ == "__main__":
    main(sys.argv[1:])
