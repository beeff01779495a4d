"""Everything at once, for a long time: `python -m tests.soak [SECONDS]`, ten minutes by default.

One server in this process; clients in processes of their own, which read, upload, read slowly,
leave, reset, are reset, and are killed. Every byte is compared. After a warm-up all of them rest,
and again at the end: memory, tasks and streams must be the same then. Exits with 1 where they are
not, with 130 on Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import gc
import hashlib
import itertools
import random
import sys
import time
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import psutil

from helpers.certificates import load_or_create
from helpers.exchange import break_off
from helpers.server import Server
from helpers.stream import HTTP3Stream
from tests.peers import MB, Peer
from tests.soak_clients import Body, give_memory_back

DEFAULT_SECONDS = 600.0
REPORT_EVERY_S = 10.0
WARM_UP_S = 60.0  # a third of a shorter run, and
WARM_UP_REQUESTS = 400  # no less than this, so that each scenario was seen
CLIENTS = 2
KILL_EVERY_S = 10.0
# A shorter run kills nobody: those who were killed are forgotten after the idle timeout only.
SHORTEST_WITH_KILLS_S = 30.0
REST_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 60.0
# The allocator keeps some of each peak; what has grown by less than this has not grown.
MEMORY_TOLERANCE_MB = 12.0


# ---- the server


def add_routes(server):
    """Routes that give and take bodies in every way, for tests/soak_clients.py."""

    @server.route("/content")
    async def give(request, response):
        body = _asked(request)
        breaks_at = int(request.query.get("breaks_at", body.size + 1))
        for piece, at in _pieces(body):
            if at >= breaks_at:
                break_off(response)
                return
            await response.write(piece)
            if at % 3 == 0:
                await response.flush()

    @server.route("/taken")
    async def take_over(request, response):
        async with await response.take_over() as stream:
            for piece, _ in _pieces(_asked(request)):
                await stream.write(piece)

    @server.route("/digest")
    async def digest(request, response):
        sha = hashlib.sha256()
        async for chunk in request:
            sha.update(chunk)
        await response.write(sha.hexdigest())

    @server.route("/echo")
    async def echo(request, response):
        async for chunk in request:
            await response.write(chunk)
            await response.flush()

    @server.route("/waits")
    async def wait(request, response):
        await response.flush()
        await asyncio.Event().wait()

    @server.route("/datagrams")
    async def send_back(request, response):
        async with await response.take_over() as stream:
            for _ in range(int(request.query["count"])):
                await stream.send_datagram(await stream.receive_datagram())


def _asked(request):
    return Body(int(request.query["offset"]), int(request.query["size"]))


def _pieces(body):
    """The body in pieces of any size, always the same for the same body, and where each begins."""
    rng, at = random.Random(body.offset), 0
    while at < body.size:
        piece = body.data[at : at + rng.choice((10, 1000, 5000, 40_000, 300_000))]
        yield piece, at
        at += len(piece)


# ---- what is looked at


@dataclass
class Rest:
    """What one process holds while nothing moves."""

    rss_mb: float
    tasks: int
    streams: int


def server_holds(server):
    """What the server holds now; its loop is that of a thread of this process."""
    give_memory_back()
    return Rest(
        psutil.Process().memory_info().rss / MB,
        len(asyncio.all_tasks(server._background._loop)),
        sum(isinstance(thing, HTTP3Stream) for thing in gc.get_objects())
        + server._background.run(_open_streams, server._listener.connections),
    )


async def _open_streams(connections):
    """How many streams aioquic has open; on their loop, which else changes them meanwhile."""
    return sum(connection._http.open_streams() for connection in connections)


def checks(before, after, errors, moved_mb, requests):
    """One (passed, text) for each thing that must hold at the end.

    `before` and `after` have a Rest for each process, by name; `errors` is what went wrong.
    """
    yield not errors, f"{moved_mb:.0f} MB in {requests} requests, {len(errors)} of them wrong"
    for name, then in before.items():
        now = after[name]
        grown_mb = now.rss_mb - then.rss_mb
        yield (
            grown_mb <= MEMORY_TOLERANCE_MB,
            f"memory of the {name}: {then.rss_mb:.1f} MB after the warm-up, {now.rss_mb:.1f} MB at "
            f"the end (may grow by {MEMORY_TOLERANCE_MB:g})",
        )
        yield (
            now.tasks == then.tasks,
            f"tasks of the {name}: {then.tasks} after the warm-up, {now.tasks} at the end",
        )
        yield now.streams == 0, f"streams of the {name}: {now.streams} left at the end"


# ---- the run


class Soak:
    """A server, its clients, and one that is killed again and again.

    `stack` ends them, also those that were just started when Ctrl-C came.
    """

    def __init__(self, server, ca_file, kills, stack):
        self._server = server
        self._ca_file = ca_file
        self._kills = kills
        self._seeds = itertools.count()
        self._began_at = time.monotonic()
        self._victims = stack.enter_context(contextlib.ExitStack())
        self._clients = {f"client {n + 1}": self._client(stack) for n in range(CLIENTS)}
        self.said = {}

    def _client(self, stack):
        url = self._server.url("")
        peer = Peer(url, self._ca_file, next(self._seeds), module="tests.soak_clients")
        return stack.enter_context(peer)

    def _tell(self, word):
        for client in self._clients.values():
            client.go_on(word)
        for name, client in self._clients.items():
            self.said[name] = client.line(ANSWER_TIMEOUT_S)

    def run(self, seconds, requests=0):
        """Let all of them work for so long, and say every ten seconds how it goes.

        They work on until so many requests are done, but for a minute more at most.
        """
        end = time.monotonic() + seconds
        self._tell("go")
        while (left_s := end - time.monotonic()) > 0 or (
            self.requests < requests and left_s > -WARM_UP_S
        ):
            if self._kills:
                self._replace_victim()
            time.sleep(min(max(left_s, 1.0), REPORT_EVERY_S))
            self._tell("report")
            self._report()
        self._victims.close()

    def _replace_victim(self):
        self._victims.close()
        self._client(self._victims).go_on("go")

    def _report(self):
        holds = server_holds(self._server)
        memory = " + ".join(f"{c.rss_bytes() / MB:.0f}" for c in self._clients.values())
        print(
            f"{time.monotonic() - self._began_at:5.0f} s   server {holds.rss_mb:.0f} MB, "
            f"{holds.tasks} tasks, {holds.streams} streams   clients {memory} MB   "
            f"{self.requests} requests, {self.moved_mb:.0f} MB, {len(self.errors)} errors",
            flush=True,
        )

    def rest(self):
        """Let all of them finish what they do; return what each process then holds."""
        self._tell("rest")
        deadline = time.monotonic() + REST_TIMEOUT_S
        while True:
            holds = {"server": server_holds(self._server)}
            at_rest = len(self._server._listener.connections) <= 2 * len(self._clients)
            if (at_rest and not holds["server"].streams) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for name, client in self._clients.items():
            said = self.said[name]
            holds[name] = Rest(client.rss_bytes() / MB, said["tasks"], said["streams"])
        return holds

    @property
    def requests(self):
        return sum(said["requests"] for said in self.said.values())

    @property
    def moved_mb(self):
        return sum(said["moved_mb"] for said in self.said.values())

    @property
    def errors(self):
        ours = [f"handler: {error!r}" for error in self._server.errors]
        return ours + [error for said in self.said.values() for error in said["errors"]]


def soak(seconds):
    """Run it and print it; return the exit code."""
    warm_up_s = min(WARM_UP_S, seconds / 3)
    print(f"soak: {seconds:g} s, of which {warm_up_s:g} s are the warm-up", flush=True)
    with contextlib.ExitStack() as stack:
        files = load_or_create(stack.enter_context(TemporaryDirectory()))
        server = stack.enter_context(Server(cert_file=files.cert_file, key_file=files.key_file))
        add_routes(server)
        run = Soak(server, files.ca_file, seconds >= SHORTEST_WITH_KILLS_S, stack)
        run.run(warm_up_s, WARM_UP_REQUESTS)
        before = run.rest()
        run.run(seconds - warm_up_s)
        after = run.rest()
        results = checks(before, after, run.errors, run.moved_mb, run.requests)
        return conclude(results, run.errors)


def conclude(results, errors):
    """Print what went wrong and one line for each check; return the exit code."""
    for error in errors:
        print("      ", error)
    results = list(results)
    for passed, text in results:
        print("ok    " if passed else "FAILED", text)
    return int(not all(passed for passed, _ in results))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", nargs="?", type=float, default=DEFAULT_SECONDS)
    try:
        return soak(parser.parse_args().seconds)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
