"""The set-up behind `make`: what it says when it cannot go on, and that nothing half-made stays."""

import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from helpers.certificates import load_or_create

ROOT = Path(__file__).parent.parent
SYSTEM_TOOLS = ["dirname", "grep", "ls", "mkdir", "mktemp", "rm", "sh", "tail", "touch"]
CLOSED_PORT = 9  # "discard", which nobody serves

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no make")


class Checkout:
    """A copy of what the set-up reads, with a PATH that holds only what a test puts there."""

    def __init__(self, folder):
        self.root = folder / "a checkout"
        self.bin = folder / "bin"
        (self.root / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        for name in ["Makefile", "requirements.txt", ".ci/setup"]:
            shutil.copy(ROOT / name, self.root / name)
        for name in SYSTEM_TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.venv = self.root / ".venv"
        self.calls = folder / "calls"

    def add_command(self, name, script):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def add_python(self, before=""):
        """A python3 for `python3 -c CODE` that runs `before` in front of the code."""
        start = f"import sys; {before or 'pass'}; exec(sys.argv.pop(1))"
        self.add_command("python3", f"""shift; exec "{sys.executable}" -c '{start}' "$@" """)

    def add_uv(self, when_installing=":"):
        """A uv that writes down its calls, and for `uv pip` runs `when_installing`."""
        self.add_command(
            "uv",
            f"""echo "$1" >>"{self.calls}"
            if [ "$1" = --version ]; then exit; fi
            if [ "$1" = venv ]; then mkdir -p .venv/bin; echo >.venv/bin/python "exit 0"
            chmod +x .venv/bin/python; else {when_installing}; fi""",
        )
        (self.bin / "chmod").symlink_to(shutil.which("chmod"))

    def what_uv_did(self):
        return [call for call in self.calls.read_text().split() if call != "--version"]

    def environment(self, **variables):
        home = str(self.root.parent)
        return {"PATH": str(self.bin), "HOME": home, "PIP_CONFIG_FILE": os.devnull, **variables}

    def make(self, *arguments, **variables):
        """Runs make; the lines on stderr come without make's own."""
        process = subprocess.run(
            [shutil.which("make"), *arguments],
            cwd=self.root,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
        )
        lines = [line for line in process.stderr.splitlines() if not line.startswith("make")]
        return process.returncode, process.stdout, lines

    def set_up(self, python=None, **variables):
        named = [f"PYTHON={python}"] if python else []
        return self.make(".venv/.ready", *named, **variables)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_without_python_one_line_says_what_to_do(checkout):
    code, _, lines = checkout.set_up()
    assert code != 0
    assert lines == [
        "No Python 3.11 to 3.14 on PATH: install one (https://www.python.org/downloads/),"
        " or name it: make PYTHON=/path/to/python"
    ]
    assert not checkout.venv.exists()


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 15, 0)])
def test_a_python_without_wheels_is_passed_over(checkout, version):
    checkout.add_python(before=f"sys.version_info = {version}")
    code, _, (line,) = checkout.set_up()
    assert code != 0
    assert line.startswith("No Python 3.11 to 3.14 on PATH")
    assert not checkout.venv.exists()


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 15, 0)])
def test_a_named_python_without_wheels_is_refused(checkout, version):
    checkout.add_python(before=f"sys.version_info = {version}")
    code, _, lines = checkout.set_up(python="python3")
    assert code != 0
    assert lines == [
        "PYTHON=python3 is not a Python 3.11 to 3.14: name another, or leave PYTHON out"
    ]
    assert not checkout.venv.exists()


def test_a_python_without_venv_names_the_package_that_has_it(checkout):
    checkout.add_python(before='sys.modules["ensurepip"] = None')
    code, _, lines = checkout.set_up()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert code != 0
    assert lines == [
        f"Python {version} has no venv. On Debian and Ubuntu: sudo apt install python{version}-venv"
    ]
    assert not checkout.venv.exists()


def test_without_a_network_one_line_says_so_and_nothing_stays(checkout):
    code, _, (line,) = checkout.set_up(
        python=sys.executable, PIP_INDEX_URL=f"http://127.0.0.1:{CLOSED_PORT}", PIP_RETRIES="0"
    )
    assert code != 0
    assert line.startswith("requirements.txt could not be installed. Check the network connection")
    assert "pip says: ERROR: No matching distribution found for aioquic" in line
    assert not checkout.venv.exists()


def test_without_a_network_uv_says_so_too(checkout):
    checkout.add_python()
    checkout.add_uv(when_installing='printf "error: a\\n  Caused by: no route\\n\\n" >&2; exit 2')
    code, _, lines = checkout.set_up()
    assert code != 0
    assert lines == [
        "requirements.txt could not be installed. Check the network connection and try again."
        " uv says:   Caused by: no route"
    ]
    assert not checkout.venv.exists()


def test_a_full_disk_is_not_taken_for_the_network(checkout):
    checkout.add_python()
    checkout.add_uv(when_installing='echo "No space left on device" >&2; exit 2')
    code, _, lines = checkout.set_up()
    assert code != 0
    assert lines == [
        "requirements.txt could not be installed. The disk is full: .venv takes 700 MB."
        " uv says: No space left on device"
    ]


def test_a_uv_that_does_not_run_is_passed_over(checkout):
    checkout.add_python(before='sys.modules["ensurepip"] = None')
    checkout.add_command("uv", "exit 127")
    code, _, (line,) = checkout.set_up()
    assert code != 0
    assert "has no venv" in line  # pip's way was taken


def test_a_folder_without_room_for_venv_is_told(checkout):
    checkout.add_python()
    checkout.venv.write_text("in the way, as root may write into any folder")
    code, _, (line,) = checkout.set_up()
    assert code != 0
    assert line.startswith(f"No .venv can be made in {checkout.root} (mkdir: ")
    assert line.endswith("): use a copy of this folder that is your own")
    assert checkout.venv.exists()


@pytest.mark.parametrize("left", ["no file", "no packages"])
def test_when_its_python_has_gone_it_is_set_up_anew(checkout, left):
    checkout.add_python()
    checkout.add_uv()
    assert checkout.set_up()[0] == 0
    python = checkout.venv / "bin" / "python"
    if left == "no file":
        python.unlink()
    else:
        python.write_text("#!/bin/sh\necho 'No module named _pytest' >&2; exit 1\n")
    (checkout.venv / "stale").touch()
    assert checkout.set_up()[0] == 0
    assert checkout.what_uv_did() == ["venv", "pip", "venv", "pip"]
    assert not (checkout.venv / "stale").exists()


def test_a_second_run_installs_nothing_and_new_requirements_update(checkout):
    checkout.add_python()
    checkout.add_uv()
    for _ in range(2):
        assert checkout.set_up()[0] == 0
        assert checkout.what_uv_did() == ["venv", "pip"]
    later = (checkout.venv / ".ready").stat().st_mtime + 1
    os.utime(checkout.root / "requirements.txt", (later, later))
    assert checkout.set_up()[0] == 0
    assert checkout.what_uv_did() == ["venv", "pip", "pip"]


def made_by_hand(checkout, python):
    """A .venv that this set-up has not made, with that script as its Python; a file in it."""
    mine = checkout.venv / "mine"
    (checkout.venv / "bin").mkdir(parents=True)
    (checkout.venv / "bin" / "python").write_text(f"#!/bin/sh\n{python}\n")
    (checkout.venv / "bin" / "python").chmod(0o755)
    mine.touch()
    return mine


def test_what_was_made_by_hand_is_completed(checkout):
    checkout.add_uv()
    mine = made_by_hand(checkout, python="exit 0")
    for _ in range(2):
        assert checkout.set_up()[0] == 0
        assert checkout.what_uv_did() == ["pip"]
    assert mine.exists()


def test_what_was_made_by_hand_stays_when_uv_fails(checkout):
    checkout.add_uv(when_installing="exit 2")
    mine = made_by_hand(checkout, python="exit 0")
    code, _, (line,) = checkout.set_up()
    assert code != 0
    assert line.startswith("requirements.txt could not be installed. ")
    assert checkout.what_uv_did() == ["pip"]
    assert mine.exists()


def test_what_was_made_by_hand_without_pip_gets_pip_and_stays_when_that_fails(checkout):
    venv.create(checkout.venv, with_pip=False)
    mine = checkout.venv / "mine"
    mine.touch()
    code, _, (line,) = checkout.set_up(
        PIP_INDEX_URL=f"http://127.0.0.1:{CLOSED_PORT}", PIP_RETRIES="0"
    )
    assert code != 0
    assert "pip says: ERROR: No matching distribution found for aioquic" in line
    assert mine.exists()


def test_what_was_made_by_hand_stays_when_its_python_does_not_run(checkout):
    checkout.add_python()
    checkout.add_uv()
    mine = made_by_hand(checkout, python="exit 1")
    code, _, lines = checkout.set_up()
    assert code != 0
    assert lines == [
        "The Python in .venv does not run, or is not a Python 3.11 to 3.14. It may be yours,"
        " so it stays: `make clean` removes it, then try again"
    ]
    assert mine.exists()


def test_a_failed_update_keeps_what_was_there(checkout):
    checkout.add_python()
    checkout.add_uv(when_installing="test ! -e .venv/.ready || exit 2")
    assert checkout.set_up()[0] == 0
    later = (checkout.venv / ".ready").stat().st_mtime + 1
    os.utime(checkout.root / "requirements.txt", (later, later))
    code, _, lines = checkout.set_up()
    assert code != 0
    assert len(lines) == 1
    assert checkout.venv.exists()


def test_an_interrupted_set_up_leaves_nothing(checkout, tmp_path, interruptible):
    installing = tmp_path / "installing"
    os.mkfifo(installing)
    checkout.add_python()
    checkout.add_uv(when_installing=f'echo now >"{installing}"; exec sleep 30')
    (checkout.bin / "sleep").symlink_to(shutil.which("sleep"))
    process = subprocess.Popen(
        [shutil.which("make"), ".venv/.ready"],
        cwd=checkout.root,
        env=checkout.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert installing.read_text() == "now\n"
    assert checkout.venv.exists()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) != 0
    assert not checkout.venv.exists()


def test_clean_removes_what_the_project_made_and_nothing_else(checkout):
    for name in ["rm", "rmdir", "find"]:
        if not (checkout.bin / name).exists():
            (checkout.bin / name).symlink_to(shutil.which(name))
    made = [
        ".venv/bin/python",
        ".bench/bench.json",
        ".mypy_cache/3.11/cache.db",
        "certs/key.pem.new",
        "notebooks/__pycache__/conftest.cpython-311-pytest-9.2.0.pyc",
        "helpers/__pycache__/x.pyc",
        "tests/bench/__pycache__/x.pyc",
    ]
    theirs = [
        "notebooks/Untitled Folder/certs/ca.pem",
        "notebooks/Untitled Folder/.ipynb_checkpoints/x.ipynb",
        "notebooks/Untitled Folder/__pycache__/x.pyc",
        "notebooks/.ipynb_checkpoints/x.ipynb",
        "notebooks/solutions/certs/my own.pem",
        "Untitled.ipynb",
        "Untitled Folder/x.ipynb",
        "x.qlog",
    ]
    for name in [*made, *theirs, "helpers/x.py", "tests/bench/x.py"]:
        (checkout.root / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout.root / name).write_text("")
    load_or_create(checkout.root / "certs")
    load_or_create(checkout.root / "notebooks" / "certs")
    for _ in range(2):  # the second time there is nothing left to remove, which is no error
        code, _, lines = checkout.make("clean")
        assert (code, lines) == (0, [])
        assert not [name for name in made if (checkout.root / name).exists()]
        assert not [name for name in theirs if not (checkout.root / name).exists()]
    assert not (checkout.root / "certs").exists()
    assert not (checkout.root / "notebooks/certs").exists()
    assert not (checkout.root / "notebooks/__pycache__").exists()
    assert (checkout.root / "tests/bench/x.py").exists()


def test_make_alone_lists_the_targets_and_makes_nothing(checkout):
    code, output, lines = checkout.make()
    assert code == 0
    assert lines == []
    for target in ["lab", "check", "test", "notebooks", "bench", "soak", "clean"]:
        assert f"make {target} " in output
    assert not checkout.venv.exists()
