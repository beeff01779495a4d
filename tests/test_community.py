"""What platforms read in the dot-folders: that it parses, and agrees with what it is about."""

import json
import re
from pathlib import Path

import pytest
import yaml

from helpers.preflight import environment

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
LINK = re.compile(r"\]\(([^)]+)\)")
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
TEXTS = sorted(GITHUB.glob("*.md"))


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_all_that_is_yaml_parses():
    files = [path for end in ("yml", "yaml", "cff") for path in GITHUB.rglob(f"*.{end}")]
    assert len(files) >= 7
    for path in files:
        assert load(path), path


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_asks_of_it(path):
    form = load(path)
    assert form["name"]
    assert form["description"]
    names = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(names) == len(set(names)) > 0
    for part in form["body"]:
        assert part["type"] in {"markdown", "textarea", "input"}
        assert part["attributes"].get("label" if part["type"] != "markdown" else "value")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_each_file_that_is_linked_exists(path):
    files = [link for link in LINK.findall(load_text(path)) if "://" not in link]
    assert not [name for name in files if not (path.parent / name.split("#")[0]).exists()]


def load_text(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["test", "newest"])
def test_a_workflow_ends_and_only_reads(name):
    workflow = load(GITHUB / "workflows" / f"{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 30


def test_both_workflows_use_the_same_actions():
    used = {
        match
        for path in GITHUB.rglob("*.yml")
        for match in re.findall(r"uses: (\S+)@(\S+)", load_text(path))
    }
    assert len({name for name, _ in used}) == len(used) == 3


def test_binder_takes_a_python_that_is_supported_and_a_learners_packages():
    name, _, version = text(".binder", "runtime.txt").strip().partition("-")
    assert name == "python"
    version = tuple(map(int, version.split(".")))
    assert environment.OLDEST <= version <= environment.NEWEST_TESTED
    assert text(".binder", "requirements.txt").startswith("-r ../requirements.txt\n")


def test_a_codespace_is_set_up_by_make_and_uses_that_python():
    lines = text(".devcontainer", "devcontainer.json").splitlines()
    container = json.loads("\n".join(line for line in lines if line.strip()[:2] != "//"))
    assert container["postCreateCommand"] == "make setup"
    assert re.search("^setup:", text("Makefile"), re.MULTILINE)
    settings = container["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    version = tuple(map(int, container["image"].rpartition(":")[2].split(".")))
    assert environment.OLDEST <= version <= environment.NEWEST_TESTED


def test_code_and_text_have_the_licences_that_the_readme_names():
    assert text("helpers", "LICENSE").startswith("MIT License\n")
    assert text("notebooks", "LICENSE").startswith("Attribution 4.0 International\n")
    readme = text("README.md")
    assert "[MIT](helpers/LICENSE)" in readme
    assert "[CC BY 4.0](notebooks/LICENSE)" in readme
