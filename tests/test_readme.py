"""What the README says, as far as a test can tell whether it is true."""

import ast
import asyncio
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

import helpers
from helpers.client import HTTP3Transport
from helpers.exchange import Flusher, Request, Response
from helpers.server import Server
from helpers.stream import HTTP3Stream
from helpers.timeline import Timeline
from tests import exercises, picture, shipped

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SUPPORT = (ROOT / ".github" / "SUPPORT.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
TEACHING = (ROOT / ".github" / "TEACHING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match[1], match[2]) for match in BLOCK.finditer(README)]
PROSE = BLOCK.sub("", README)
SHELL = "".join(text for language, text in BLOCKS if language == "sh")
SHELL += "".join(match[2] for match in BLOCK.finditer(CONTRIBUTING))
LINES = [line.split("  #")[0].strip() for line in SHELL.splitlines()]
COMMANDS = [*LINES, *re.findall(r"`([^`\n]+)`", PROSE + SUPPORT)]
LINK = re.compile(r"\]\(([^)]+)\)")
LINKS = LINK.findall(PROSE)
NOTEBOOKS = shipped.learners()
HOW_LONG = re.compile(
    r"^\*\*How long\*\*: (\d+) minutes of reading and running"
    r"(?:, \d+ of them for the core)?(?:, and (.+?)(?: minutes)? for the exercises)?\.$",
    re.MULTILINE,
)

# What stands behind the words in the table of names.
MEANT = {
    "Flusher": [Flusher],
    "HTTP3Transport": [HTTP3Transport],
    "Server": [Server],
    "asyncio": [asyncio],
    "ca_file": [HTTP3Transport],
    "client": [httpx2.Client],
    "httpx2": [httpx2],
    "request": [Request],
    "response": [Response, httpx2.Response],
    "server": [Server],
    "stream": [HTTP3Stream],
    "transport": [HTTP3Transport],
}
# What others say, so that no source of ours has it.
FOREIGN = {
    ".venv/bin/python: not found",
    "ModuleNotFoundError: No module named 'httpx2'",
    "Running as root is not recommended",
}


def table(head, page=README):
    """The rows of the table whose head begins so, each a list of its cells."""
    lines = page.split(f"\n| {head} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def texts(name):
    """The text cells of a learners' notebook."""
    return [cell.source for cell in exercises.edition(name).cells if cell.cell_type == "markdown"]


# ---- what it names exists


def test_each_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {match[1] for line in COMMANDS if (match := re.match(r"make ([a-z]+)", line))}
    assert {"lab", "test", "clean"} <= named <= targets


def test_each_module_that_is_run_exists():
    named = {match[1] for line in COMMANDS if (match := re.search(r"python -m ([\w.]+)", line))}
    assert {"helpers", "tests.bench", "tests.picture"} <= named
    for name in named - {"pip"}:  # an environment that uv made has none
        spec = importlib.util.find_spec(name)
        assert spec, name
        assert not spec.submodule_search_locations or importlib.util.find_spec(f"{name}.__main__")


def test_each_file_exists():
    files = {link for link in LINKS if not link.startswith(("https://", "#"))}
    for line in COMMANDS:
        files.update(re.findall(r"\b(?:helpers|notebooks|tests)/[\w/]+\.\w+", line))
    assert len(files) > 10
    assert not [name for name in files if not (ROOT / name).exists()]


def test_each_heading_that_it_links_exists():
    headings = re.findall(r"^#+ (.+)$", PROSE, re.MULTILINE)
    anchors = {"#" + heading.lower().replace(" ", "-") for heading in headings}
    linked = {link for link in LINKS if link.startswith("#")}
    assert linked
    assert linked <= anchors


@pytest.mark.parametrize("row", table("the article (Go)"), ids=lambda row: row[1])
def test_each_name_of_ours_exists(row):
    _, ours, file = row
    things = [thing for word in re.findall(r"\w+", ours) for thing in MEANT.get(word, [])]
    assert things
    for name, attribute in re.findall(r"([a-z]\w+)\.(\w+)", ours):
        assert any(hasattr(thing, attribute) for thing in MEANT[name])
    for keyword in re.findall(r"(\w+)=\.\.\.", ours):
        assert keyword in inspect.signature(things[0]).parameters
    if "async with" in ours:
        assert hasattr(things[0], "__aexit__")
    if file:
        modules = {getattr(thing, "__module__", "") for thing in things}
        assert ".".join(Path(LINK.search(file)[1]).with_suffix("").parts) in modules


@pytest.mark.parametrize("row", table("what you see", SUPPORT), ids=lambda row: row[0])
def test_each_message_is_what_the_sources_say(row):
    sources = [*(ROOT / "helpers").rglob("*.py"), ROOT / ".ci" / "setup"]
    sources += (ROOT / "notebooks" / "solutions").glob("*.ipynb")
    said = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for message in set(re.findall(r"`([^`]+)`", row[0])) - FOREIGN:
        parts = (re.escape(part) for part in message.removesuffix("…").split("…"))
        assert re.search(".{1,40}".join(parts), said), message


# ---- the notebooks


def test_the_notebooks_and_their_minutes_are_those_of_the_notebooks():
    claimed = {}
    for name, _, *times in table("notebook | what works at the end"):
        claimed[LINK.search(name)[1]] = tuple(time.removesuffix(" min") for time in times)
    said = {}
    for name in NOTEBOOKS:
        ((minutes, exercises),) = HOW_LONG.findall("\n".join(texts(name)))
        said[f"notebooks/{name}"] = (minutes, exercises or "none")
    assert claimed == said


def test_the_names_in_the_notebooks_are_those_of_the_readme():
    ours = {(row[0], row[1]) for row in table("the article (Go)")}
    shown = set()
    for name in NOTEBOOKS:
        for text in texts(name):
            if "\n| the article (Go) | here |" in text:
                rows = re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE)
                shown.update(row for row in rows if row != ("the article (Go)", "here"))
    assert shown == ours


@pytest.mark.parametrize("row", table("notebook | stop at", TEACHING), ids=lambda row: row[1])
def test_each_place_to_stop_at_is_a_heading(row):
    number, place, *_ = row
    (name,) = (name for name in NOTEBOOKS if name.startswith(f"{number}_"))
    headings = re.findall(r"^#+ (.+)$", "\n".join(texts(name)), re.MULTILINE)
    assert place.strip("*") in headings


def test_the_walk_through_the_helpers_is_as_short_as_it_says():
    """Its classes with those that they inherit from, without the sections that it skips."""
    lines = 0
    for names, link, _ in table("read | in"):
        source = (ROOT / LINK.search(link)[1]).read_text(encoding="utf-8")
        classes = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)}
        walked = [classes[name] for name in re.findall(r"`(\w+)`", names)]
        walked += [
            classes[b.id] for c in walked for b in c.bases if getattr(b, "id", "") in classes
        ]
        for one in walked:
            lines += one.end_lineno - one.lineno + 1
        for skipped in names.partition("without: ")[2].split(", ") if "without" in names else ():
            section = source.split(f"    # ---- {skipped}\n")[1].split("    # ---- ")[0]
            section = section.split("\n\n\n")[0]
            assert section
            lines -= section.count("\n") + 1
    stated = int(re.search(r"less than (\d),(\d+) lines", README).expand(r"\1\2"))
    assert stated - 150 < lines <= stated == 1500


def test_what_the_walk_leaves_out_is_named():
    """A folder or module that no word in the README leads to would be found by nobody."""
    linked = set(re.findall(r"\]\(helpers/(\w+)", README))
    rooms = set(re.findall(r"^\d+\. (\w+)", helpers.__doc__, re.MULTILINE))
    assert rooms <= linked


# ---- what it shows


def test_the_program_prints_what_stands_below_it(tmp_path):
    (program,) = (text for language, text in BLOCKS if language == "python")
    (output,) = (text for language, text in BLOCKS if language == "text")
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert process.stderr == ""
    assert process.stdout == output


def test_the_picture_and_its_text_are_what_such_a_run_gives(tmp_path):
    runs = picture.record(0.01, tmp_path)
    assert [len(run.chunks) for run in runs.values()] == [1, 10, 10]
    described = picture.IN_README.search(README)[1]
    measured = re.compile(r"\d+\.\d+ s")
    assert measured.sub("", described) == measured.sub("", Timeline.compare(runs).alt)
    assert picture.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_the_plain_commands_are_those_that_are_run_on_windows():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    steps = re.findall(r"- run: (.+)", text.split("\n  windows:")[1])
    assert len(steps) > 4
    plain = {line.replace(".venv/bin/", ".venv\\Scripts\\") for line in LINES}
    assert {step.replace(" --quiet", "") for step in steps} <= plain


def test_each_python_that_it_names_is_tried_on_each_system():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    pythons = re.findall(r"^ +python: \[(.+)\]$", text, re.MULTILINE)
    assert pythons == ['"3.11", "3.12", "3.13", "3.14"'] * 3
    assert "With Python 3.11 to 3.14" in README
    setup = (ROOT / ".ci" / "setup").read_text(encoding="utf-8")
    assert "(3, 11) <= sys.version_info[:2] <= (3, 14)" in setup


def test_jupyterlab_opens_where_make_lab_does():
    (plain,) = (line for line in LINES if " -m jupyterlab " in line)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert plain.split(" -m jupyterlab ")[1] in makefile
    assert (ROOT / plain.split("default_url=/lab/tree/")[1]).exists()


def test_jupyterlab_asks_no_question_about_news():
    settings = json.loads((ROOT / ".jupyter" / "overrides.json").read_text(encoding="utf-8"))
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
