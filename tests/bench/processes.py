"""One server process and one client process per measurement; each is ended by its own handle."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import trustme

from helpers.link import Link

ROOT = Path(__file__).parent.parent.parent
READY_TIMEOUT_S = 20.0
CLIENT_TIMEOUT_S = 60.0
END_TIMEOUT_S = 2.0
STDERR_LINES = 5


class MeasurementFailed(Exception):
    """A process of a measurement failed or took too long; the message has its last words."""


@dataclass(frozen=True)
class Certificates:
    """A throwaway authority and leaf for loopback."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def make_certificates(directory: Path) -> Certificates:
    """Return new certificates in `directory`, the same for all servers of one run."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1", "::1")
    files = Certificates(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(files.ca_file)
    leaf.cert_chain_pems[0].write_to_path(files.cert_file)
    leaf.private_key_pem.write_to_path(files.key_file)
    return files


async def run_pair(
    files: Certificates,
    server: str,
    client: str,
    workload: str,
    parameters: dict,
    line: dict[str, float],
) -> dict[str, float]:
    """Return the figures of one workload between a new server and a new client process.

    They go with those that the server gives of its start. Where there is a `line`, a Link with
    these conditions is between the two. Raises MeasurementFailed.
    """
    cores = _cores()
    async with _process(
        "-m", "tests.bench.servers", server, files.cert_file, files.key_file, core=cores[0]
    ) as serving:
        started = await serving.answer(READY_TIMEOUT_S)
        port = started.pop("port")
        with Link(port, **line) if line else nullcontext() as link:
            async with _process(
                "-m", "tests.bench.workloads", workload, client, link.port if link else port,
                files.ca_file, json.dumps(parameters), core=cores[-1],
            ) as working:  # fmt: skip
                return started | await working.answer(CLIENT_TIMEOUT_S)


async def run_import(modules: str) -> dict[str, float]:
    """Return how long a new process takes to import `modules`. Raises MeasurementFailed."""
    code = (
        "import json, time; start_s = time.perf_counter()\n"
        f"import {modules}\n"
        "print(json.dumps({'ms': (time.perf_counter() - start_s) * 1000}))"
    )
    async with _process("-c", code, core=_cores()[-1]) as working:
        return await working.answer(CLIENT_TIMEOUT_S)


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, name: str, stderr: IO[bytes]) -> None:
        self._process = process
        self._name = name
        self._stderr = stderr

    async def answer(self, timeout_s: float) -> dict[str, float]:
        """Return the line of JSON that the process prints next."""
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise MeasurementFailed(
                f"{self._name} took longer than {timeout_s:.0f} s{self._last_words()}"
            ) from None
        if not line:
            raise MeasurementFailed(f"{self._name} failed{self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return "".join("\n    " + line for line in lines[-STDERR_LINES:])


@asynccontextmanager
async def _process(*arguments: object, core: int | None) -> AsyncIterator[_Process]:
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile() as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            # Ctrl-C is this process's business: it ends the others.
            start_new_session=True,
        )
        try:
            if core is not None:
                psutil.Process(process.pid).cpu_affinity([core])
            yield _Process(process, " ".join(command[1:4]), stderr)
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """A process of ours ends when its standard input does; one that hangs is killed."""
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _cores() -> tuple[int | None, ...]:
    """A core for the server and one for the client, where the system lets us choose."""
    if not hasattr(psutil.Process, "cpu_affinity") or (os.cpu_count() or 1) < 2:
        return (None,)
    return tuple(sorted(psutil.Process().cpu_affinity())[:2])
