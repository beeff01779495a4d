"""Does JupyterLab start, and is its Python kernel this Python?

A kernel of the same name in the user's own folders can hide the environment's: then a notebook runs
on another Python, and finds none of the packages.
"""

from __future__ import annotations  # a Python that is too old gets as far as being told so

import ast
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.preflight.environment import Fault, how_to_install, is_same, last_line, run_python

if TYPE_CHECKING:
    from jupyter_client import AsyncKernelManager

KERNEL_TIMEOUT_S = 60.0
"""For a kernel to be there, which takes a second; PROCESS_TIMEOUT_S says why so long."""
KERNEL_END_TIMEOUT_S = 5.0
PYTHON = "(__import__('sys').prefix, __import__('platform').python_version())"
"""Which Python it is: a folder such as /usr can hold two."""


def jupyterlab() -> str:
    """Check that JupyterLab can be started and that its `python3` kernel is this Python."""
    _home()
    # zmq needs a selector loop, which on Windows is not the default.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        version = runner.run(_jupyterlab())
    return f"{version}, and its kernel is this Python: 1 + 1 is 2 there"


def _home() -> None:
    """Check that Jupyter can keep its files, which it does in the user's home by default."""
    from jupyter_core.paths import jupyter_config_dir, jupyter_runtime_dir

    for directory in (Path(jupyter_runtime_dir()), Path(jupyter_config_dir())):
        there = next(path for path in (directory, *directory.parents) if path.exists())
        if not os.access(there, os.W_OK):
            raise Fault(
                f"it keeps files in {directory}, and {there} cannot be written to.",
                "Give it a home that can: `HOME=/path/to/a/folder make lab`.",
            )


async def _jupyterlab() -> str:
    version, _ = await asyncio.gather(asyncio.to_thread(_jupyterlab_version), _kernel())
    return version


def _jupyterlab_version() -> str:
    """Return the version that JupyterLab prints: for that it has to import most of itself."""
    process = run_python("-m", "jupyterlab", "--version")
    if process.returncode != 0:
        raise Fault(f"it does not start: {last_line(process.stderr)}.", how_to_install())
    return process.stdout.strip()


async def _kernel() -> None:
    """Start the kernel that JupyterLab would start, ask it something, and end it."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    from jupyter_core.paths import jupyter_path

    # The default adds a folder of old times, and makes it in the user's home.
    specs = KernelSpecManager(kernel_dirs=jupyter_path("kernels"))
    try:
        spec = specs.get_kernel_spec("python3")
    except NoSuchKernel as error:
        raise Fault("Jupyter knows no kernel python3.", how_to_install()) from error
    # Windows keeps files of a process that was killed for a moment longer.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        kernel = AsyncKernelManager(
            kernel_name="python3",
            transport_encryption="auto",  # as in the Makefile
            # Goes with the folder, whatever happens.
            connection_file=str(Path(directory, "kernel.json")),
            kernel_spec_manager=specs,
        )
        try:
            seen = await _ask(kernel, Path(directory))
        except (OSError, RuntimeError, TimeoutError) as error:
            raise Fault(
                f"the kernel in {spec.resource_dir} runs {spec.argv[0]} and does not answer: "
                f"{error}.",
                _repair(spec.resource_dir),
            ) from error
    two, (prefix, version) = (
        ast.literal_eval(seen[expression]["data"]["text/plain"]) for expression in ("two", "python")
    )
    if not is_same(prefix, sys.prefix) or version != platform.python_version():
        raise Fault(
            f"the kernel in {spec.resource_dir} is Python {version} in {prefix}, and this is "
            f"{platform.python_version()} in {sys.prefix}.",
            _repair(spec.resource_dir),
        )
    if two != 2:
        raise Fault(f"1 + 1 is {two} in the kernel.", _repair(spec.resource_dir))


async def _ask(kernel: AsyncKernelManager, directory: Path) -> dict[str, Any]:
    """Start a kernel, whose files go to `directory`, and end it again.

    Returns its answers to two expressions, in Jupyter's form. Raises OSError where it does not
    start, RuntimeError where it does not answer, TimeoutError where it does not end.
    """
    said = directory / "stderr"
    with said.open("wb") as stderr:
        try:
            await kernel.start_kernel(
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # Its profile and history are not to stay, nor to grow.
                env={**os.environ, "IPYTHONDIR": str(directory)},
            )
            client = kernel.client()
            # Without the heartbeat's thread, which may outlive the sockets when this ends early.
            client.start_channels(stdin=False, hb=False)
            try:
                await client.wait_for_ready(timeout=KERNEL_TIMEOUT_S)
                reply = await client.execute(
                    "",
                    store_history=False,
                    user_expressions={"two": "1 + 1", "python": PYTHON},
                    reply=True,
                    timeout=KERNEL_TIMEOUT_S,
                )
            except (RuntimeError, TimeoutError) as error:
                # Read before it is ended, about which it may say something as well.
                raise RuntimeError(f"{error}{_last_words(said)}") from error
            finally:
                client.stop_channels()
        finally:
            async with asyncio.timeout(KERNEL_END_TIMEOUT_S):
                await kernel.shutdown_kernel(now=True)
    answers: dict[str, Any] = reply["content"]["user_expressions"]
    return answers


def _last_words(said: Path) -> str:
    text = said.read_text(encoding="utf-8", errors="replace")
    return f" (it says: {last_line(text)})" if text.strip() else ""


def _repair(directory: str) -> str:
    if Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(sys.prefix)):
        return how_to_install()
    return (
        f"Move {directory} away, which hides this environment's own kernel, and start JupyterLab "
        "anew."
    )
