"""The set-up behind `make`: what it says when it cannot go on, and that nothing half-made stays."""

import http.server
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.certificates import load_or_create

ROOT = Path(__file__).parent.parent
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
SYSTEM_TOOLS = ["dirname", "grep", "ls", "mkdir", "mktemp", "rm", "sh", "tail", "touch"]
COPIED = [
    ".ci/constraints.txt",
    ".ci/setup",
    "Makefile",
    "requirements.txt",
    "tests/requirements.txt",
]
CLOSED_PORT = 9  # "discard", which nobody serves

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no make")


class Checkout:
    """A copy of what the set-up reads, with a PATH that holds only what a test puts there."""

    def __init__(self, folder):
        self.root = folder / "a checkout"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in COPIED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
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
            f"""echo "$@" >>"{self.calls}"
            if [ "$1" = --version ]; then exit; fi
            if [ "$1" = venv ]; then mkdir -p .venv/bin; echo >.venv/bin/python "exit 0"
            chmod +x .venv/bin/python; else {when_installing}; fi""",
        )
        (self.bin / "chmod").symlink_to(shutil.which("chmod"))

    def what_uv_did(self):
        """The first word of each of its calls, which says what was to be done."""
        calls = [call.split()[0] for call in self.calls.read_text().splitlines()]
        return [call for call in calls if call != "--version"]

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
        "requirements.txt could not be installed. The disk is full: .venv takes 800 MB at most."
        " uv says: No space left on device"
    ]
    assert not checkout.venv.exists()


@pytest.fixture
def broken_index():
    """The address of an index that has all there is, and is gone in the midst of each download."""

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/").split("/")[-1]
            body = b"PK\3\4 the beginning of a wheel"
            if not name.endswith(".whl"):
                version = re.search(rf"^{name}==([\w.]+)", REQUIREMENTS, re.MULTILINE)
                wheel = f"{name}-{version[1] if version else 1}-py3-none-any.whl"
                body = f'<a href="/{wheel}">{wheel}</a>'.encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body) + 1000 * name.endswith(".whl")))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_index_that_goes_away_leaves_nothing(checkout, broken_index):
    code, _, lines = checkout.set_up(
        python=sys.executable, PIP_INDEX_URL=broken_index, PIP_RETRIES="0", PIP_NO_CACHE_DIR="1"
    )
    assert code != 0
    assert len(lines) == 1, lines
    assert lines[0].startswith("requirements.txt could not be installed. Check the network")
    assert not checkout.venv.exists()


def test_a_proxy_that_does_not_answer_is_named(checkout):
    proxy = f"http://127.0.0.1:{CLOSED_PORT}"
    code, _, (line,) = checkout.set_up(
        python=sys.executable,
        PIP_INDEX_URL="https://index.invalid/simple",
        PIP_RETRIES="0",
        HTTPS_PROXY=proxy,
    )
    assert code != 0
    assert line.startswith(
        "requirements.txt could not be installed. "
        f"Check the network connection and the proxy {proxy} and try again. pip says: ERROR: "
    )
    assert not checkout.venv.exists()


@pytest.mark.parametrize("setting", ["PIP_REQUIRE_VIRTUALENV", "PIP_USER", "UV_SYSTEM_PYTHON"])
def test_what_pip_does_elsewhere_does_not_matter(checkout, tmp_path, setting):
    """Settings that some courses and hosts make for all of their users."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "nothing-1-py3-none-any.whl", "w") as wheel:
        for name, text in {
            "nothing.py": "",
            "nothing-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: nothing\nVersion: 1\n",
            "nothing-1.dist-info/RECORD": "",
            "nothing-1.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        }.items():
            wheel.writestr(name, text)
    (checkout.root / "requirements.txt").write_text("nothing\n")
    code, _, lines = checkout.set_up(python=sys.executable, WHEELS=str(wheels), **{setting: "1"})
    assert (lines, code) == ([], 0)
    assert list(checkout.venv.rglob("nothing.py"))


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


def test_what_only_tests_need_is_installed_only_for_them(checkout):
    checkout.add_python()
    checkout.add_uv()
    assert checkout.make("setup")[0] == 0
    assert "tests/requirements.txt" not in checkout.calls.read_text()
    for _ in range(2):
        assert checkout.make(".venv/.ready-for-tests")[0] == 0
        assert checkout.what_uv_did() == ["venv", "pip", "pip"]
    assert checkout.calls.read_text().splitlines()[-1].endswith(" tests/requirements.txt")


def test_when_it_cannot_be_installed_what_a_learner_has_stays(checkout):
    checkout.add_python()
    checkout.add_uv(when_installing='case "$*" in *tests/*) exit 2;; esac')
    code, _, (line,) = checkout.make(".venv/.ready-for-tests")
    assert code != 0
    assert line.startswith("tests/requirements.txt could not be installed. Check the network")
    assert checkout.make("setup")[0] == 0
    assert checkout.what_uv_did() == ["venv", "pip", "pip"]  # the last make had nothing to do


def test_targets_that_share_the_set_up_do_so_side_by_side(checkout):
    checkout.add_python()
    checkout.add_uv()
    code, _, lines = checkout.make("-j", "setup", ".venv/.ready", ".venv/.ready-for-tests")
    assert (lines, code) == ([], 0)
    assert checkout.what_uv_did() == ["venv", "pip", "pip"]


def test_targets_do_not_run_side_by_side(checkout):
    """`make -j clean setup` makes what it has removed, and not the other way round."""
    for name in ["rm", "rmdir", "find", "sleep"]:
        if not (checkout.bin / name).exists():
            (checkout.bin / name).symlink_to(shutil.which(name))
    checkout.add_python()
    checkout.add_uv()
    (checkout.root / "helpers").mkdir()
    (checkout.bin / "find").rename(checkout.bin / "really-find")
    checkout.add_command("find", 'sleep 0.5; exec really-find "$@"')  # in the midst of `clean`
    code, _, lines = checkout.make("-j", "clean", "setup")
    assert (lines, code) == ([], 0)
    assert (checkout.venv / ".ready").exists()


def test_without_a_network_all_can_come_from_a_folder(checkout):
    checkout.add_python()
    checkout.add_uv()
    assert checkout.make("setup", "WHEELS=../a stick")[0] == 0
    last = checkout.calls.read_text().splitlines()[-1]
    assert last.endswith("requirements.txt --no-index --find-links ../a stick")


def test_a_folder_without_the_wheels_is_named(checkout):
    code, _, (line,) = checkout.make("setup", "WHEELS=../a stick", f"PYTHON={sys.executable}")
    assert code != 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert line.startswith(
        "requirements.txt could not be installed. "
        f"Has ../a stick what `make wheels` made with Python {version}? pip says: ERROR: "
    )
    assert not checkout.venv.exists()


def test_a_folder_for_the_wheels_has_to_be_named(checkout):
    checkout.add_python()
    checkout.add_uv()
    code, _, lines = checkout.make("wheels")
    assert code != 0
    assert lines == ["Name a folder: make wheels WHEELS=FOLDER"]


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
        assert (lines, code) == ([], 0)
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
    targets = ["setup", "lab", "check", "test", "notebooks", "bench", "soak", "wheels", "clean"]
    for target in targets:
        assert f"make {target} " in output
    assert not checkout.venv.exists()


# ---- what is installed


def pinned_by(*names):
    """The packages to which these files give one exact version, on this Python and system."""
    pinned = set()
    for name in names:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if re.match(r"\w", line):
                requirement = Requirement(line.split(" #")[0])
                assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), line
                if not requirement.marker or requirement.marker.evaluate():
                    pinned.add(canonicalize_name(requirement.name))
    return pinned


def all_that_comes_with(names):
    """The names of these packages and of those that they need, as they are installed here."""
    seen, todo = set(), list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in seen:
            seen.add(name)
            needed = map(Requirement, importlib.metadata.requires(name) or [])
            todo += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return seen


def test_all_that_a_learner_installs_is_pinned():
    installed = all_that_comes_with(pinned_by("requirements.txt"))
    assert len(installed) > 100
    assert installed <= pinned_by("requirements.txt", ".ci/constraints.txt")


def test_all_that_tests_install_is_pinned():
    required = ["requirements.txt", "tests/requirements.txt"]
    installed = all_that_comes_with(pinned_by(*required))
    assert installed <= pinned_by(*required, ".ci/constraints.txt")


def test_each_version_stands_in_one_place():
    """Where pip cannot have it, it would else speak of versions that are in conflict."""
    files = ["requirements.txt", "tests/requirements.txt", ".ci/constraints.txt"]
    pinned = [name for file in files for name in pinned_by(file)]
    assert sorted(pinned) == sorted(set(pinned))


def test_tests_need_what_a_learner_needs_first():
    text = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8")
    assert re.findall(r"^[^#\n].*$", text, re.MULTILINE)[0] == "-r ../requirements.txt"
    assert "\n-c .ci/constraints.txt\n" in REQUIREMENTS
