"""How long the project's own tests take, and how much of the notebooks' share is sleep.

The notebooks run as `make test` runs them; a start-up file of IPython notes when a cell sleeps.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.processes import ROOT, MeasurementFailed

SUITE_TIMEOUT_S = 900.0

# Runs in each kernel. Only sleeps that a cell asks for count, not those of libraries.
NOTE_SLEEPS = """
import asyncio, os, sys, time

def _noting(sleep):
    def noting(seconds, *more):
        if sys._getframe(1).f_globals.get("__name__") == "__main__":
            now = time.monotonic()
            with open(os.path.join(os.environ["BENCH_SLEEPS"], str(os.getpid())), "a") as notes:
                notes.write(f"{now} {now + seconds}\\n")
        return sleep(seconds, *more)
    return noting

asyncio.sleep, time.sleep = _noting(asyncio.sleep), _noting(time.sleep)
"""


async def run_suite() -> dict[str, float]:
    """Return how long `make test` and the notebooks in it take, and how long cells sleep."""
    with tempfile.TemporaryDirectory() as folder:
        startup = Path(folder) / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "00-sleeps.py").write_text(NOTE_SLEEPS)
        sleeps = Path(folder) / "sleeps"
        sleeps.mkdir()
        environment = {"IPYTHONDIR": folder, "BENCH_SLEEPS": str(sleeps)}
        pytest = (sys.executable, "-m", "pytest", "--nbval", "-q", "notebooks")
        figures = {"notebooks_s": await _timed(*pytest, **environment)}
        figures["sleeps_s"] = sum(_covered_s(notes.read_text()) for notes in sleeps.iterdir())
    if shutil.which("make"):
        figures["make_test_s"] = await _timed("make", "test")
    return figures


def _covered_s(notes: str) -> float:
    """How much time the intervals cover: sleeps at the same time count once."""
    covered_s, end_s = 0.0, float("-inf")
    for start, stop in sorted(tuple(map(float, line.split())) for line in notes.splitlines()):
        covered_s += max(0.0, stop - max(start, end_s))
        end_s = max(end_s, stop)
    return covered_s


async def _timed(*command: str, **environment: str) -> float:
    start_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        code = await asyncio.wait_for(process.wait(), SUITE_TIMEOUT_S)
    except TimeoutError:
        raise MeasurementFailed(f"{command[0]} took longer than {SUITE_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if code != 0:
        raise MeasurementFailed(f"{' '.join(command[-3:])} failed with {code}; run it by itself")
    return time.monotonic() - start_s
