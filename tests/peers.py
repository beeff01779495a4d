"""Programs that tests run in a process of their own: `python -m tests.peers NAME ARGUMENT...`.

Memory and sudden death need real processes. Each program says what it has to say in lines of JSON,
and ends when its standard input does, so that it cannot outlive its test.
"""

import asyncio
import contextlib
import itertools
import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
LINE_TIMEOUT_S = 30.0
POLL_S = 0.01
MB = 1_000_000
PIECE = bytes(range(256)) * 256  # 64 KiB, so that a byte's value tells where it belongs


class Peer:
    """A running program: what it says, how much memory it has, and its end."""

    def __init__(self, *arguments, module="tests.peers"):
        self._name = str(arguments[0])
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is the business of the tests' process
        )
        self.pid = self._process.pid
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def line(self, timeout_s=LINE_TIMEOUT_S):
        """Return what the program says next."""
        said = self._lines.get(timeout=timeout_s)
        assert said is not None, f"{self._name} ended, see its standard error"
        return said

    def go_on(self, word=""):
        """Let a program that waits for it go on, or tell it how."""
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def rss_bytes(self):
        return psutil.Process(self.pid).memory_info().rss

    def cpu_s(self):
        """How long it has computed so far."""
        return sum(psutil.Process(self.pid).cpu_times()[:2])

    def kill(self):
        """End it at once (SIGKILL), without a word to anybody."""
        self._process.kill()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()


class Growth:
    """How much memory processes take at most, over what they had when this began."""

    def __init__(self, *peers):
        self._before = {peer: peer.rss_bytes() for peer in peers}
        self._peak = dict(self._before)

    def look(self):
        for peer, peak in self._peak.items():
            self._peak[peer] = max(peak, peer.rss_bytes())

    def mb(self, peer):
        return (self._peak[peer] - self._before[peer]) / MB

    def watch_until(self, condition, timeout_s=LINE_TIMEOUT_S):
        """Look again and again until `condition()` is true."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
            self.look()
            time.sleep(POLL_S)
        self.look()


def has_settled(value, quiet_s):
    """Return a condition: `value()` has been the same for `quiet_s` seconds."""
    last, since = value(), time.monotonic()

    def condition():
        nonlocal last, since
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= quiet_s

    return condition


# ---- the programs


def say(**facts):
    print(json.dumps(facts), flush=True)


def serve(cert_file, key_file):
    """A server whose handlers tell how far they have come."""
    from helpers.server import Server

    server = Server(cert_file=cert_file, key_file=key_file)
    moved_bytes = dict.fromkeys(("/download", "/upload"), 0)
    running = Counter()

    @server.route("/progress")
    async def progress(request, response):
        await response.write(json.dumps({"moved_bytes": moved_bytes, "running": running}))

    @server.route("/download")
    async def download(request, response):
        moved_bytes["/download"] = 0
        running["/download"] += 1
        try:
            if "wait" in request.query:
                await request.read()
            for _ in range(int(request.query["mb"]) * MB // len(PIECE)):
                await response.write(PIECE)
                moved_bytes["/download"] += len(PIECE)
        finally:
            running["/download"] -= 1

    @server.route("/upload")
    async def upload(request, response):
        """Reads slowly: a pause after each half megabyte."""
        moved_bytes["/upload"] = 0
        pause_at = 0
        async for chunk in request:
            start = moved_bytes["/upload"] % 256
            assert chunk == PIECE[start : start + len(chunk)]
            moved_bytes["/upload"] += len(chunk)
            if moved_bytes["/upload"] >= pause_at:
                pause_at += MB // 2
                await asyncio.sleep(float(request.query["pause_s"]))
        await response.write(str(moved_bytes["/upload"]))

    @server.route("/ignore")
    async def ignore(request, response):
        await asyncio.Event().wait()

    with server:
        say(port=server.port)
        sys.stdin.read()


def stop_reading(url, ca_file, after_mb="0"):
    """Our client: reads so much, one chunk at least, stops until told to go on, reads the rest."""
    with _client(ca_file) as client, client.stream("GET", url) as response:
        chunks = response.iter_raw()
        read_bytes = len(next(chunks))
        while read_bytes < int(after_mb) * MB:
            read_bytes += len(next(chunks))
        say(read_bytes=read_bytes)
        sys.stdin.readline()
        for chunk in chunks:
            read_bytes += len(chunk)
        say(read_bytes=read_bytes)
        sys.stdin.read()


def stop_reading_with_curl(url, ca_file, after_mb="0"):
    """curl: reads so much, one chunk at least, and pauses; its connection lives on."""
    from curl_cffi import Curl, CurlHttpVersion, CurlOpt
    from curl_cffi.curl import CURL_WRITEFUNC_PAUSE

    read_bytes = 0

    def on_chunk(chunk):
        nonlocal read_bytes
        if read_bytes and read_bytes >= int(after_mb) * MB:
            return CURL_WRITEFUNC_PAUSE
        read_bytes += len(chunk)
        if read_bytes >= int(after_mb) * MB:
            say(read_bytes=read_bytes)
        return len(chunk)

    curl = Curl()
    curl.setopt(CurlOpt.URL, url.encode())
    curl.setopt(CurlOpt.HTTP_VERSION, CurlHttpVersion.V3ONLY)
    curl.setopt(CurlOpt.CAINFO, ca_file.encode())
    curl.setopt(CurlOpt.WRITEFUNCTION, on_chunk)
    threading.Thread(target=curl.perform, daemon=True).start()
    sys.stdin.read()


def upload(url, ca_file, total_mb):
    """Our client: sends a body as fast as it may."""
    pieces = itertools.repeat(PIECE, int(total_mb) * MB // len(PIECE))
    with _client(ca_file) as client:
        client.get(url.rpartition("/")[0] + "/progress")
        say(ready=True)
        sys.stdin.readline()
        answer = client.post(url, content=pieces, timeout=60)
        say(status=answer.status_code, read_bytes=int(answer.text))
        sys.stdin.read()


def leave_suddenly(ca_file, *urls):
    """Our client: has a stream open at each URL until it is killed."""
    with _client(ca_file) as client, contextlib.ExitStack() as stack:
        for url in urls:
            stack.enter_context(client.stream("GET", url))
        say(streams=len(urls))
        sys.stdin.read()


def read_nothing(url, ca_file, clients, downloads):
    """Clients that ask for so many downloads each when they are told to, and read none of them."""
    asyncio.run(_read_nothing(url, ca_file, int(clients), int(downloads)))


async def _read_nothing(url, ca_file, clients, downloads):
    from helpers.client import AsyncHTTP3Transport

    transports = [AsyncHTTP3Transport(ca_file=ca_file) for _ in range(clients)]
    streams = []
    for transport in transports:
        for _ in range(downloads):
            streams.append(await transport.open_stream("POST", f"{url}/download?mb=2&wait=1"))
    say(streams=len(streams))
    await asyncio.to_thread(sys.stdin.readline)
    for stream in streams:
        await stream.close()
    await asyncio.to_thread(sys.stdin.read)


def upload_to_nobody(url, ca_file, clients, uploads):
    """Clients that begin so many uploads each, and write them when told to as far as they may."""
    asyncio.run(_upload_to_nobody(url, ca_file, int(clients), int(uploads)))


async def _upload_to_nobody(url, ca_file, clients, uploads):
    from helpers.client import AsyncHTTP3Transport

    async def write(stream):
        while True:
            await stream.write(PIECE)

    transports = [AsyncHTTP3Transport(ca_file=ca_file) for _ in range(clients)]
    streams = []
    for transport in transports:
        for _ in range(uploads):
            streams.append(await transport.open_stream("POST", f"{url}/ignore"))
    say(streams=len(streams))
    await asyncio.to_thread(sys.stdin.readline)
    writing = [asyncio.create_task(write(stream)) for stream in streams]
    await asyncio.to_thread(sys.stdin.read)
    for task in writing:
        task.cancel()


def _client(ca_file):
    import httpx2

    from helpers.client import HTTP3Transport

    return httpx2.Client(transport=HTTP3Transport(ca_file=ca_file))


if __name__ == "__main__":
    PROGRAMS = {
        "serve": serve,
        "stop_reading": stop_reading,
        "stop_reading_with_curl": stop_reading_with_curl,
        "upload": upload,
        "leave_suddenly": leave_suddenly,
        "read_nothing": read_nothing,
        "upload_to_nobody": upload_to_nobody,
    }
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
