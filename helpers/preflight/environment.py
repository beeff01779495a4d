"""Is this the Python that the workbook needs, with the packages it needs? And if not, what to do.

Only the standard library is imported at the top: where a package is missing, this has to say so.
"""

from __future__ import annotations  # a Python that is too old gets as far as being told so

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
NEWEST_TESTED = (3, 14)
# Parts of Python that the helpers use, and that it can be built without.
OPTIONAL_PARTS = ("ctypes", "sqlite3", "ssl")
# Each is imported under the name that it is installed by.
NEEDED = (
    "aioquic",
    "httpx2",
    "hypercorn",
    "trustme",
    "cryptography",
    "matplotlib",
    "tqdm",
    "jupyter",
)
PROCESS_TIMEOUT_S = 60.0
"""For another Python to import what it is asked to, which takes a second or two: it takes long the
first time on a slow disk, and where thirty learners share two cores and all begin at once."""
# Imports one after the other, and prints each that succeeded.
IMPORT = "import sys\nfor name in sys.argv[1:]:\n    __import__(name)\n    print(name)"


class Fault(Exception):
    """A check failed: what was `seen`, and the `remedy`."""

    def __init__(self, seen: str, remedy: str) -> None:
        super().__init__(f"{seen} {remedy}")
        self.seen = seen
        self.remedy = remedy


def python() -> str:
    """Check that this Python is new enough and complete."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    oldest, newest = (".".join(map(str, limit)) for limit in (OLDEST, NEWEST_TESTED))
    if sys.version_info[:2] < OLDEST:
        raise Fault(
            f"{version} is too old, so nothing else was tried.",
            f"Install Python {oldest} to {newest}, then `make lab PYTHON=/path/to/it`.",
        )
    for name in OPTIONAL_PARTS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise Fault(
                f"{sys.executable} was built without {name} ({error}), so nothing else was tried.",
                "Take another Python, such as the system's or python.org's, and make the "
                "environment anew: `make clean`, then `make lab PYTHON=/path/to/it`.",
            ) from error
    untested = sys.version_info[:2] > NEWEST_TESTED
    return f"{version}{f', tested up to {newest},' * untested} at {sys.executable}"


def packages() -> str:
    """Check that what notebooks and helpers import is there and can be imported.

    aioquic has to be the pinned version, since aioquic_inside relies on more than it promises. Of
    the others only the public side is used, so another version may do, and is told: whether it
    does, the later checks show.
    """
    installed = {name: _version(name) for name in NEEDED}
    missing = [name for name in NEEDED if installed[name] is None]
    if missing:
        raise Fault(f"{', '.join(missing)} missing.", how_to_install())
    pinned = _pinned()
    if installed["aioquic"] != pinned["aioquic"]:
        raise Fault(
            f"aioquic is {installed['aioquic']}, and has to be {pinned['aioquic']}: "
            "helpers/connection/aioquic_inside is written against its inside.",
            how_to_install(),
        )
    _import_all()
    different = [
        f"{name} {installed[name]} instead of {pinned[name]}"
        for name in NEEDED
        if installed[name] != pinned[name]
    ]
    others = f"{len(NEEDED) - 1} others, as in requirements.txt"
    if different:
        others += f", but {', '.join(different)}"
    return f"aioquic {installed['aioquic']} and {others}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pinned() -> dict[str, str]:
    """Return the version of each package that requirements.txt asks for on this system."""
    from packaging.markers import Marker

    pinned = {}
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for name, version, marker in re.findall(r"^([\w.-]+)==([\w.]+)(?:; *([^#\n]+))?", text, re.M):
        if not marker or Marker(marker).evaluate():
            pinned[name] = version
    return pinned


def _import_all() -> None:
    """Import all packages in another process: a library that crashes must not end this one."""
    with tempfile.TemporaryDirectory() as directory:
        # matplotlib would make a folder in the user's home.
        environment = {**os.environ, "MPLCONFIGDIR": directory}
        process = run_python("-c", IMPORT, *NEEDED, env=environment, cwd=directory)
    if process.returncode != 0:
        name = NEEDED[len(process.stdout.splitlines())]
        raise Fault(f"{name} cannot be imported: {last_line(process.stderr)}.", how_to_install())


def run_python(
    *arguments: str, env: dict[str, str] | None = None, cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run this Python with these arguments; raises Fault where it does not end in time."""
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PROCESS_TIMEOUT_S,
            env=env,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired as error:
        raise Fault(
            f"python {' '.join(arguments[:2])} did not end within {PROCESS_TIMEOUT_S:g} s.",
            "The first time takes longest, and so does a busy machine: try again.",
        ) from error


def last_line(text: str) -> str:
    """Return what a program said last on stderr, in Python's tracebacks the exception itself."""
    return (text.strip().splitlines() or ["it says nothing"])[-1].rstrip(".")


def how_to_install() -> str:
    """Return how the packages get into this Python, or which Python to take instead."""
    own = ROOT / ".venv"
    if is_same(sys.prefix, own) and os.name != "nt":
        return "Make the environment anew: `make clean`, then `make lab`."
    if own.exists() and not is_same(sys.prefix, own):
        return f"This is {sys.executable}, and the workbook's Python is in {own}: use that one."
    requirements = ROOT / "requirements.txt"
    if importlib.util.find_spec("pip") is None:  # uv made the environment
        return f'Install: uv pip install --python "{sys.executable}" -r "{requirements}"'
    return f'Install: "{sys.executable}" -m pip install -r "{requirements}"'


def is_same(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths lead to the same place, whatever links are on the way."""
    return os.path.realpath(one) == os.path.realpath(other)
