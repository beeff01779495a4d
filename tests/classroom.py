"""How a class fares on this machine: `python -m tests.classroom [LEARNERS]`, thirty by default.

As many kernels as there are learners start at once, and each runs a notebook with its solutions
from top to bottom, as in a room where somebody says "now". All stay open until the last has ended,
and then their memory is measured. A JupyterLab for each learner comes on top of that.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import defaultdict

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

from tests import exercises, shipped

LEARNERS = 30
CELL_TIMEOUT_S = 120
LESSON_TIMEOUT_S = 900
"""For all of it: thirty kernels on two cores take one or two minutes."""
CONFIG = Config({"KernelManager": {"transport_encryption": "auto"}})  # as in the Makefile
MB = 1e6


class Learner:
    """One notebook in a kernel of its own."""

    def __init__(self, name):
        self.name = name
        self.took_s = None
        self.failure = None
        notebook = exercises.read(shipped.FOLDER / shipped.SOLUTIONS / name)
        folder = str((shipped.FOLDER / shipped.SOLUTIONS / name).parent)
        self._client = NotebookClient(
            exercises.without_outputs(notebook),
            timeout=CELL_TIMEOUT_S,
            resources={"metadata": {"path": folder}},
            config=CONFIG,
        )

    async def learn(self, everybody):
        """Run the notebook; then wait for the others, twice, with the kernel open in between."""
        began = time.perf_counter()
        async with self._client.async_setup_kernel():
            try:
                for index, cell in enumerate(self._client.nb.cells):
                    await self._client.async_execute_cell(cell, index)
            except CellExecutionError as error:
                self.failure = f"{error.ename}: {error.evalue}"
            except (CellTimeoutError, DeadKernelError) as error:
                self.failure = str(error).strip().splitlines()[-1]
            self.took_s = time.perf_counter() - began
            await everybody.wait()  # now the memory is measured
            await everybody.wait()


def memory_of_kernels():
    """The memory that this process's children hold, shared pages divided among them, in MB."""
    kernels = psutil.Process().children()
    seen = [kernel.memory_full_info() for kernel in kernels]
    # Only Linux can divide; elsewhere what is shared is left out.
    return [getattr(info, "pss", info.uss) / MB for info in seen]


async def lesson(learners):
    """Let them all learn at once; return the memory of each kernel when all have ended."""
    everybody = asyncio.Barrier(len(learners) + 1)
    async with asyncio.timeout(LESSON_TIMEOUT_S), asyncio.TaskGroup() as room:
        for learner in learners:
            room.create_task(learner.learn(everybody))
        await everybody.wait()
        memory = await asyncio.to_thread(memory_of_kernels)
        await everybody.wait()
    return memory


def table(learners, memory):
    """What came of it, a row for each notebook."""
    by_name = defaultdict(list)
    for learner in learners:
        by_name[learner.name].append(learner)
    yield "| notebook | kernels | median | slowest | failed |"
    yield "|---|---|---|---|---|"
    for name, group in sorted(by_name.items()):
        times = [learner.took_s for learner in group]
        failed = sum(learner.failure is not None for learner in group)
        yield (
            f"| {name.removesuffix('.ipynb')} | {len(group)} | {statistics.median(times):.1f} s "
            f"| {max(times):.1f} s | {failed} |"
        )
    yield ""
    yield (
        f"{len(memory)} kernels held {sum(memory):.0f} MB when all had ended, "
        f"{statistics.median(memory):.0f} MB each; {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, Python {sys.version.split()[0]}"
    )


def main(arguments=None):
    """Hold a lesson and print its table; the exit code is 1 where a notebook failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.classroom")
    parser.add_argument("learners", nargs="?", type=int, default=LEARNERS)
    number = parser.parse_args(arguments).learners
    if number < 1:
        parser.error("a class has a learner at least")
    names = shipped.learners()
    learners = [Learner(names[index % len(names)]) for index in range(number)]
    memory = asyncio.run(lesson(learners))
    print("\n".join(table(learners, memory)))
    for learner in learners:
        if learner.failure:
            print(f"{learner.name}: {learner.failure}")
    return int(any(learner.failure for learner in learners))


if __name__ == "__main__":
    sys.exit(main())
