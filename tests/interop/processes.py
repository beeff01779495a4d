"""Servers in a process of their own: `python -m tests.interop.processes NAME ARGUMENT...`.

A server says its UDP port on standard output when it is ready, and ends when its standard input
does, so that it cannot outlive its test.
"""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

READY_TIMEOUT_S = 30.0
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class RunningServer:
    """A server's process: where it listens, and its sudden end."""

    process: subprocess.Popen
    port: int

    def kill(self) -> None:
        """End it at once (SIGKILL), without a word to anybody."""
        self.process.kill()
        self.process.wait()

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"


@contextmanager
def server_process(name: str, *arguments: object) -> Iterator[RunningServer]:
    """Run one of the servers below until the block ends."""
    command = [sys.executable, "-m", "tests.interop.processes", name, *map(str, arguments)]
    with _running(command) as process:
        line = process.stdout.readline()
        assert line, f"{name} did not start: see its standard error"
        yield RunningServer(process, json.loads(line)["port"])


@contextmanager
def gtls_server(
    cert_file: Path, key_file: Path, directory: Path, *options: str
) -> Iterator[RunningServer]:
    """Run ngtcp2's example server on the files of a directory until the block ends."""
    port = _free_port()
    command = ["gtlsserver", "--quiet", "--no-quic-dump", "--no-http-dump", "-d", str(directory)]
    command += [*options, "127.0.0.1", str(port), str(key_file), str(cert_file)]
    with _running(command) as process:
        deadline = time.monotonic() + READY_TIMEOUT_S
        # It does not say when it is ready; its socket does.
        while not any(entry.laddr.port == port for entry in _udp_sockets(process)):
            assert process.poll() is None, "gtlsserver did not start: see its standard error"
            assert time.monotonic() < deadline, f"gtlsserver: no socket in {READY_TIMEOUT_S:g} s"
            time.sleep(0.01)
        yield RunningServer(process, port)


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is the business of the tests' process
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _udp_sockets(process: subprocess.Popen) -> list:
    return psutil.Process(process.pid).net_connections(kind="udp")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def serve_three_chunks(cert_file: str, key_file: str, pause_s: str = "0") -> None:
    """Run our server: /three sends two chunks, pauses, sends a third, and leaves it at that."""
    from helpers.server import Server

    server = Server(cert_file=cert_file, key_file=key_file)

    @server.route("/three")
    async def three(request, response):
        for number in range(3):
            await asyncio.sleep(float(pause_s) if number == 2 else 0)
            await response.write(f"chunk {number}\n")
            await response.flush()
        await asyncio.Event().wait()

    server.start()
    _announce(server.port)
    threading.Event().wait()


def serve_hypercorn(cert_file: str, key_file: str) -> None:
    """Run hypercorn with the ASGI application below."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    config = Config()
    config.certfile, config.keyfile = cert_file, key_file
    config.bind = "127.0.0.1:0"  # it always wants TCP too
    config.quic_bind = f"fd://{sock.detach()}"
    config.errorlog = None
    # The socket is bound, so what a client sends from now on waits for hypercorn.
    _announce(port)
    asyncio.run(serve(application, config, shutdown_trigger=asyncio.Event().wait))


async def application(scope: dict, receive, send) -> None:
    """An ASGI application: /stream, /body, /upload, /echo, /fail."""
    if scope["type"] != "http":
        return
    path, query = scope["path"], scope["query_string"].decode()
    status = 200 if path in ("/stream", "/body", "/upload", "/echo", "/fail") else 404
    header = [(b"content-type", b"text/plain"), (b"x-query", query.encode())]
    await send({"type": "http.response.start", "status": status, "headers": header})

    async def write(data: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path == "/stream":
        for number in range(10):
            await write(b"chunk %d\n" % number)
            await asyncio.sleep(0.1)
    elif path == "/body":
        await write(bytes(range(256)) * (int(query) // 256))
    elif path in ("/upload", "/echo"):
        digest = hashlib.sha256()
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            digest.update(message.get("body", b""))
            if path == "/echo":
                await write(message.get("body", b""))
        if path == "/upload":
            await write(digest.hexdigest().encode())
    elif path == "/fail":
        await write(b"the first half")
        raise RuntimeError("the second half is missing")
    await write(b"", more=False)


def _announce(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    SERVERS = {"three_chunks": serve_three_chunks, "hypercorn": serve_hypercorn}
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    SERVERS[sys.argv[1]](*sys.argv[2:])
