"""The pair of notebook 07: small, on public names alone, and failing as the notebook says."""

import ast
import asyncio
import importlib
import socket
import sys
import time
import tracemalloc

import httpx2
import pytest

from helpers.background import Background
from helpers.client import HTTP3Transport
from helpers.link import Link
from tests import by_hand, stack_picture

MAX_LINES = 120
MIB = 2**20
LINES = "".join(f"data chunk #{number}\n" for number in range(10))


@pytest.fixture
def pair(credentials):
    return by_hand.pair(credentials)


@pytest.fixture
def background():
    background = Background("by-hand")
    background.start()
    yield background
    background.stop()


@pytest.fixture
def port(pair, background):
    """Where the server by hand listens."""
    listening, port = background.run(pair.listen())
    yield port
    background.call(listening.close)


@pytest.fixture
def closed_port():
    """A port on which nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def handle(pair, path):
    """Let the handler that is decorated answer at this path."""

    def register(handler):
        pair.ServerEndpoint.handlers[path] = handler
        return handler

    return register


# ---- what it is


def test_it_can_be_held_in_the_head():
    lines = [line for cell in by_hand.longhand_cells() for line in cell.source.splitlines() if line]
    assert len(lines) <= MAX_LINES


def test_it_is_made_of_the_standard_library_and_aioquic_alone():
    source = "\n".join(cell.source for cell in by_hand.longhand_cells())
    tree = ast.parse(source)
    modules = set()
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Import)
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module)
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr == "__init__", node.attr
    assert modules
    for module in modules:
        root = module.split(".")[0]
        assert root == "aioquic" or root in sys.stdlib_module_names


def test_its_notebook_is_told_nothing_of_the_helpers_in_its_cells():
    """`credentials` and a wire log are all that they are handed."""
    source = "\n".join(cell.source for cell in by_hand.longhand_cells())
    assert "helpers" not in source
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert not names & {"server", "client", "Server", "httpx2", "HTTP3Transport"}


def test_its_picture_can_be_drawn(tmp_path):
    stack_picture.draw().save(tmp_path / "drawn.png")
    for path in (tmp_path / "drawn.png", stack_picture.PICTURE):
        assert path.read_bytes().startswith(b"\x89PNG")


# ---- that it works


def test_its_client_reads_its_server(pair, background, port, capsys):
    chunks, ended_s = background.run(pair.read(port, "/stream"), timeout_s=20)
    assert b"".join(data for _, data in chunks).decode() == LINES
    assert capsys.readouterr().out.count("data chunk #") == 10
    assert 0.9 < ended_s < 10


def test_its_client_reads_the_helpers_server(pair, background, server, capsys):
    @server.route("/stream")
    async def stream(request, response):
        async with await response.take_over() as taken:
            await pair.ten_lines(taken.write)

    chunks, _ = background.run(pair.read(server.port, "/stream"), timeout_s=20)
    assert b"".join(data for _, data in chunks).decode() == LINES


def test_the_helpers_client_reads_its_server(port, credentials):
    with httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)) as client:
        assert client.get(f"https://localhost:{port}/stream").text == LINES


# ---- how it fails: where aioquic mends one of these, the notebook has to say something else


def test_a_reader_that_sleeps_costs_what_was_written(pair, background, port):
    @handle(pair, "/flood")
    async def flood(write):
        for _ in range(128):
            await write(bytes(64 * 2**10))

    async def take_one_and_sleep():
        async with pair.connection(port) as endpoint:
            pieces = endpoint.get("/flood")
            await anext(pieces)
            await asyncio.sleep(0.2)

    tracemalloc.start()
    background.run(take_one_and_sleep(), timeout_s=30)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 8 * MIB < peak_bytes < 64 * MIB


def test_a_handler_does_not_hear_of_a_client_that_left(pair, background, port):
    written = []

    @handle(pair, "/ticks")
    async def ticks(write):
        for number in range(20):
            await write(b"tick\n")
            written.append(number)
            await asyncio.sleep(0.01)

    async def take_one_and_leave():
        async with pair.connection(port) as endpoint:
            await anext(endpoint.get("/ticks"))

    background.run(take_one_and_leave(), timeout_s=10)
    deadline = time.monotonic() + 10
    while len(written) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reset_leaves_its_client_waiting(pair, background, server):
    @server.route("/failing")
    async def failing(request, response):
        stream = await response.take_over()
        await stream.write(b"first line\n")
        stream.reset()

    with pytest.raises(TimeoutError, match="Not done within"):
        background.run(pair.read(server.port, "/failing"), timeout_s=1)
    background.run(others_end(), timeout_s=20)


async def others_end():
    """Wait for a client that was cancelled: it says good-bye first."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=10)


def test_where_nobody_listens_it_says_nothing_after_a_long_while(pair, background, closed_port):
    configuration = pair.configure(is_client=True)
    assert configuration.idle_timeout == 60
    configuration.idle_timeout = 0.5

    async def knock():
        async with pair.connect("127.0.0.1", closed_port, configuration=configuration):
            pass

    with pytest.raises(ConnectionError) as failed:
        background.run(knock(), timeout_s=20)
    assert str(failed.value) == ""


def test_on_a_slow_line_its_news_are_old(pair, background, port):
    done_s = []

    @handle(pair, "/news")
    async def news(write):
        started = time.perf_counter()
        for _ in range(32):
            await write(bytes(16 * 2**10))
        done_s.append(time.perf_counter() - started)

    async def collect(port):
        async with pair.connection(port) as endpoint:
            return sum([len(data) async for data in endpoint.get("/news")])

    with Link(port, delay_ms=1, rate_mbit=4) as line:
        started = time.perf_counter()
        assert background.run(collect(line.port), timeout_s=60) == 32 * 16 * 2**10
        took_s = time.perf_counter() - started
    assert took_s > 1  # half a mebibyte at half a mebibyte a second
    assert done_s[0] < took_s / 2


def test_more_than_128_streams_wait_in_silence(pair, background, port):
    @handle(pair, "/news")
    async def news(write):
        await write(b"here it is\n")
        await asyncio.sleep(60)

    async def ask(count):
        async with pair.connection(port) as endpoint:
            lines = [anext(endpoint.get("/news")) for _ in range(count)]
            tasks = [asyncio.ensure_future(line) for line in lines]
            done, waiting = await asyncio.wait(tasks, timeout=3)
            for task in waiting:
                task.cancel()
            return len(done), len(waiting)

    assert background.run(ask(140), timeout_s=30) == (128, 12)


def test_it_keeps_something_of_each_request(pair, background, port):
    @handle(pair, "/one")
    async def one(write):
        await write(b"one line\n")

    async def ask(times):
        async with pair.connection(port) as endpoint:
            for _ in range(times):
                async for _ in endpoint.get("/one"):
                    pass
            return len(endpoint.streams)

    assert background.run(ask(20), timeout_s=20) == 20
