"""Is this machine ready? `make check`, or `python -m helpers.preflight`, says so in seconds.

One line for each check: `[ OK ]` and what was seen, or `[FAIL]`, what was seen and what to do. Each
check is one function, needs no network, ends within a bound and leaves nothing behind. Only the
standard library is imported at the top, so that a package which is missing becomes a line as well,
and no traceback. All that works is not shown by this: that is `make test`.
"""

from __future__ import annotations  # a Python that is too old gets as far as being told so

import asyncio
import errno
import io
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from helpers.preflight.environment import Fault, how_to_install, packages, python
from helpers.preflight.kernel import jupyterlab

CHECK_TIMEOUT_S = 150.0
"""For any check: more than its own waits take together, which have bounds that say more."""
INTERRUPT_GRACE_S = 5.0
UDP_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 10.0
LINE_TIMEOUT_S = 5.0
"""How long the server waits for the client to have a line before that one counts as held up."""
LINES = [f"data chunk #{number}" for number in range(10)]
LINE_EVERY_S = 0.1
DATAGRAM_BYTES = 1200  # what QUIC has to be able to send (RFC 9000 section 14)
# As helpers.connection.means_unavailable has it, which is not to be had without aioquic.
UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
CLOCK_TOLERANCE_S = 24 * 3600.0
INTERRUPTED = 130  # what shells report for Ctrl-C: 128 and the number of SIGINT

FIREWALL = (
    "Something on this machine blocks UDP on loopback, a firewall or a VPN perhaps: make an "
    "exception for Python."
)


@dataclass(frozen=True)
class Result:
    """What came of one check; as text it is one line.

    `seen` is what was found, `remedy` what to do about it, empty where all is well.
    """

    name: str
    ok: bool
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'[ OK ]' if self.ok else '[FAIL]'} {self.name}: {self.seen} {self.remedy}"
        return " ".join(line.split())  # what others said may have lines of its own


def run() -> Iterator[Result]:
    """Yield the result of each check as soon as it is known; a Python too old ends it early.

    Whatever a check raises becomes its result. The checks run on a thread of their own, so this
    can be called where a loop runs, in a notebook's cell too.
    """
    for name, check in CHECKS.items():
        result = _result(name, check)
        yield result
        if check is python and not result.ok:
            return


def _result(name: str, check: Callable[[], str]) -> Result:
    results: list[Result] = []
    ended = threading.Event()  # an interrupted join would take the thread for ended

    def judge() -> None:
        try:
            results.append(Result(name, True, check()))
        except Fault as fault:
            results.append(Result(name, False, fault.seen, fault.remedy))
        except ModuleNotFoundError as error:
            results.append(Result(name, False, f"{error.name} is missing.", how_to_install()))
        except Exception as error:  # noqa: BLE001 - whatever it is, the line tells it
            seen = f"{type(error).__name__}: {error}"
            remedy = "See to the lines above first, if one has failed; `make test` shows more."
            results.append(Result(name, False, seen, remedy))
        finally:
            ended.set()

    # A daemon: one that hangs holds up neither the other checks nor the end of the program.
    threading.Thread(target=judge, name=f"check of {name}", daemon=True).start()
    deadline = time.monotonic() + CHECK_TIMEOUT_S
    try:
        # In slices: on Windows no interrupt ends such a wait.
        while time.monotonic() < deadline and not ended.wait(min(1.0, CHECK_TIMEOUT_S)):
            pass
    except KeyboardInterrupt:
        ended.wait(INTERRUPT_GRACE_S)  # it ends its kernel, and removes its files
        raise
    if results:
        return results[0]
    seen = f"no result within {CHECK_TIMEOUT_S:g} s."
    return Result(name, False, seen, "End what keeps this machine busy, and try again.")


# ---- the checks of this file: each returns what it saw, or raises Fault


def udp_over_ipv4() -> str:
    """Check that a datagram gets to 127.0.0.1 and back."""
    try:
        return _there_and_back(socket.AF_INET, "127.0.0.1")
    except OSError as error:
        raise Fault(f"{_told(error)}.", FIREWALL) from error


def udp_over_ipv6() -> str:
    """Check that a datagram gets to ::1 and back, where this machine has IPv6 at all."""
    if not socket.has_ipv6:
        return "none in this Python; the helpers do without"
    try:
        return _there_and_back(socket.AF_INET6, "::1")
    except OSError as error:
        if error.errno in UNAVAILABLE:
            return "none on this machine; the helpers do without"
        remedy = f"{FIREWALL} Notebooks work without: clients try IPv4 first."
        raise Fault(f"{_told(error)}.", remedy) from error


def _there_and_back(family: int, host: str) -> str:
    sent = secrets.token_bytes(DATAGRAM_BYTES)
    kind = socket.SOCK_DGRAM
    with socket.socket(family, kind) as server, socket.socket(family, kind) as client:
        for sock in (server, client):
            sock.settimeout(UDP_TIMEOUT_S)
            sock.bind((host, 0))
        # Connected to each other, they hear no one else who knows the port from earlier.
        server.connect(client.getsockname())
        client.connect(server.getsockname())
        client.send(sent)
        server.send(server.recv(2 * DATAGRAM_BYTES))
        received = client.recv(2 * DATAGRAM_BYTES)
    if received != sent:
        raise OSError(f"{len(received)} other bytes than were sent")
    return f"a datagram of {DATAGRAM_BYTES} bytes went to {host} and back"


def _told(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"a datagram of {DATAGRAM_BYTES} bytes had not arrived after {UDP_TIMEOUT_S:g} s"
    return str(error)


def certificates() -> str:
    """Check that certificates can be made and are valid by a clock that may be right."""
    from helpers.certificates import describe, load_or_create
    from helpers.errors import CertificateFileError

    # A clock that was never set, as on a small board without a battery, is far behind.
    now, newest = time.time(), Path(__file__).stat().st_mtime
    if now < newest - CLOCK_TOLERANCE_S:
        raise Fault(
            f"this machine's clock says {_date(now)}, and this checkout is of {_date(newest)}.",
            "Set the clock: certificates are valid from one date to another.",
        )
    try:
        with tempfile.TemporaryDirectory() as directory:
            seen = describe(load_or_create(directory).cert_file)
    except (OSError, CertificateFileError) as error:
        raise Fault(
            f"{error}",
            f"See to {tempfile.gettempdir()}, or name another folder in TMPDIR (TEMP on Windows).",
        ) from error
    if not seen.not_before.timestamp() <= now <= seen.not_after.timestamp():
        raise Fault(
            f"one made now is valid from {seen.not_before} to {seen.not_after}, and it is "
            f"{_date(now)}.",
            "Set this machine's clock.",
        )
    return f"made one for {', '.join(seen.names)}, valid until {seen.not_after:%Y-%m-%d}"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) + " UTC"


def one_stream() -> str:
    """Check that ten flushed lines come over HTTP/3, each before the next one is written.

    The server asks the client for that and waits for it with much patience: how fast the lines
    come is no matter here, so a busy machine is no fault.
    """
    import httpx2

    from helpers.certificates import load_or_create
    from helpers.client import HTTP3Transport
    from helpers.exchange import Request, Response
    from helpers.server import Server

    arrived: list[Future[float]] = [Future() for _ in LINES]
    held_up: list[str] = []
    received: list[str] = []

    async def ten_lines(_: Request, response: Response) -> None:
        for line, arrival in zip(LINES, arrived, strict=True):
            await response.write(f"{line}\n")
            await response.flush()
            await asyncio.sleep(LINE_EVERY_S)
            arrives = asyncio.wrap_future(arrival)
            await asyncio.wait([arrives], timeout=LINE_TIMEOUT_S)
            if not arrives.done():
                held_up.append(line)
                return

    with tempfile.TemporaryDirectory() as directory:
        credentials = load_or_create(directory)
        server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
        server.route("/stream")(ten_lines)
        client = httpx2.Client(
            transport=HTTP3Transport(
                ca_file=credentials.ca_file, connect_timeout_s=CONNECT_TIMEOUT_S
            ),
            timeout=CONNECT_TIMEOUT_S,
        )
        try:
            with server, client, client.stream("GET", server.url("/stream")) as response:
                response.raise_for_status()
                for line, arrival in zip(response.iter_lines(), arrived, strict=False):
                    received.append(line)
                    arrival.set_result(time.perf_counter())
        except httpx2.HTTPError as error:
            raise Fault(
                f"{type(error).__name__}: {error}",
                "See to UDP and the certificates first, if their lines have failed; `make test` "
                "shows more.",
            ) from error
    if held_up:
        raise Fault(
            f"{held_up[0]!r} was flushed, and had not arrived {LINE_TIMEOUT_S:g} s later.",
            "Something holds datagrams back, or helpers/ was changed: `git diff helpers` shows it.",
        )
    if received != LINES:
        raise Fault(
            f"{received} came instead of {LINES}.",
            "helpers/ was changed, perhaps: `git diff helpers` shows it.",
        )
    took_s = arrived[-1].result() - arrived[0].result()
    return f"ten lines in {took_s:.2f} s, each there before the next was written"


# ---- the program

CHECKS: dict[str, Callable[[], str]] = {
    "Python": python,
    "Packages": packages,
    "UDP over IPv4": udp_over_ipv4,
    "UDP over IPv6": udp_over_ipv6,
    "Certificates": certificates,
    "HTTP/3 stream": one_stream,
    "JupyterLab": jupyterlab,
}


def main() -> int:
    """Print a line for each check and one for all; return the exit code, 1 where one failed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path in a message may have letters that the terminal has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    failed = []
    try:
        for result in run():
            print(result, flush=True)
            if not result.ok:
                failed.append(result.name)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the lines has enough, as in `... | grep -q FAIL`; nothing can be printed now.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if failed:
        names = ", ".join(failed)
        print(f"{len(failed)} of {len(CHECKS)} checks failed: {names}. Begin with the first.")
        return 1
    print("This machine is ready" + (": make lab" if os.name != "nt" else "."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
