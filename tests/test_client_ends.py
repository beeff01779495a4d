"""A client that was closed, cannot begin, or whose process ends: what it raises is httpx2's."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from helpers.client import AsyncHTTP3Transport, HTTP3Transport
from helpers.link import Link

ROOT = Path(__file__).parent.parent
WAIT_S = 30.0  # for what happens at once
CLOSED = r"^This client was closed\. Make a new one\.$"


@pytest.fixture
def transport(credentials):
    with HTTP3Transport(ca_file=credentials.ca_file) as transport:
        yield transport


@pytest.fixture
def hello(server):
    """The URL of a route that says hello."""

    @server.route("/hello")
    async def hello(request, response):
        await response.write("hello")

    return server.url("/hello")


@pytest.fixture
def endless(server):
    """The URL of a route that streams until its client leaves."""

    @server.route("/endless")
    async def endless(request, response):
        while True:
            await response.write("on and on\n")
            await response.flush()
            await asyncio.sleep(0.01)

    return server.url("/endless")


def get(transport, url):
    return transport.handle_request(httpx2.Request("GET", url))


# Closed


@pytest.mark.parametrize("used", [True, False])
def test_a_closed_transport_stays_closed(transport, hello, used):
    if used:
        assert get(transport, hello).read() == b"hello"
    transport.close()
    for ask in (get, lambda transport, url: transport.open_stream("GET", url)):
        with pytest.raises(httpx2.LocalProtocolError, match=CLOSED):
            ask(transport, hello)
    assert not transport._background.running


@pytest.mark.anyio
async def test_a_closed_transport_stays_closed_in_async_code(credentials, hello):
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    await transport.aclose()
    with pytest.raises(httpx2.LocalProtocolError, match=CLOSED):
        await transport.handle_async_request(httpx2.Request("GET", hello))
    with pytest.raises(httpx2.LocalProtocolError, match=CLOSED):
        await transport.open_stream("GET", hello)


def test_threads_that_use_a_closed_transport_at_once_are_all_told(transport, hello):
    get(transport, hello)
    transport.close()
    at_once = threading.Barrier(4)

    def ask(_):
        at_once.wait(WAIT_S)
        with pytest.raises(httpx2.LocalProtocolError, match=CLOSED):
            get(transport, hello)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))


def test_threads_may_close_at_once(transport, hello):
    get(transport, hello)
    at_once = threading.Barrier(4)

    def close(_):
        at_once.wait(WAIT_S)
        transport.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(close, range(4)))
    assert not transport._background.running


@pytest.mark.anyio
async def test_who_connects_while_the_client_is_closed_leaves_no_connection(
    credentials, server, hello
):
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    with Link(server, delay_ms=50) as link:
        request = httpx2.Request("GET", link.url("/hello"))
        asking = asyncio.create_task(transport.handle_async_request(request))
        while not transport._dialing:  # noqa: ASYNC110 - the dialing itself is looked for
            await asyncio.sleep(0.001)
        await transport.aclose()
        with pytest.raises(httpx2.LocalProtocolError, match=CLOSED):
            await asyncio.wait_for(asking, WAIT_S)
    assert transport._connections == {}


def test_a_response_that_another_thread_closes_says_so(transport, endless):
    response = get(transport, endless)
    chunks = iter(response.stream)
    next(chunks)
    response.stream.close()
    with pytest.raises(httpx2.ReadError, match=r"^The response was closed after \d+ chunk"):
        for _ in chunks:
            pass


def test_a_response_whose_client_was_closed_says_so(transport, endless):
    response = get(transport, endless)
    transport.close()
    with pytest.raises(httpx2.ReadError, match="client was closed"):
        response.read()


# What never begins


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..test"])
def test_a_name_that_cannot_be_looked_up_is_a_connect_error(client, host):
    with pytest.raises(httpx2.ConnectError, match="cannot be looked up"):
        client.get(f"https://{host}/")


def test_a_method_that_is_no_text_is_refused(client, hello):
    with pytest.raises(httpx2.LocalProtocolError, match="is no method"):
        client.request("G\ud800T", hello)


def test_a_system_without_threads_is_a_connect_error(client, hello, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(httpx2.ConnectError, match="can't start new thread"):
            client.get(hello)
    assert client.get(hello).text == "hello"


def test_without_asyncio_it_says_so(credentials, hello):
    """As where trio runs."""
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    asking = transport.handle_async_request(httpx2.Request("GET", hello))
    with pytest.raises(httpx2.LocalProtocolError, match="needs a loop of asyncio"):
        asking.send(None)


# The end of the process

SET_UP = """
import os, sys, tempfile, threading, httpx2
from helpers.certificates import load_or_create
from helpers.client import HTTP3Transport
from helpers.server import Server
import asyncio
credentials = load_or_create(tempfile.mkdtemp())
client = httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))
server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
@server.route("/endless")
async def endless(request, response):
    while True:
        await response.write("x"); await response.flush(); await asyncio.sleep(0.01)
server.start()
"""
READS = """
reads = threading.Event()
def read():
    with client.stream("GET", server.url("/endless")) as response:
        for _ in response.iter_raw():
            reads.set()
threading.Thread(target=read, daemon=True).start()
assert reads.wait(30)
"""
PROGRAMS = {
    "a thread that reads": READS,
    "threads that ask": """
def ask():
    while True:
        client.get(server.url("/none"))
for _ in range(4):
    threading.Thread(target=ask, daemon=True).start()
threading.Event().wait(0.2)
""",
    "a response half read": "r = client.stream('GET', server.url('/endless')).__enter__()",
    "used after it": "import atexit\natexit.register(print)\n" + READS,
}


def run(program):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SET_UP + textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
    )


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_process_ends_without_a_word(program):
    ended = run(program)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_told_that_the_client_is_not_its_own():
    ended = run("""
        import warnings
        warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside a thread
        client.get(server.url("/none"))
        child = os.fork()
        try:
            client.get(server.url("/none"))
        except httpx2.TransportError as error:
            print(type(error).__name__, error)
        client.close()
        if child:
            os.waitpid(child, 0)
        sys.stdout.flush()
        os._exit(0)
    """)
    assert ended.stderr == ""
    assert ended.stdout == (
        "ReadError 'http3-client' has no thread in this process: a fork takes none along. "
        "Make a new client or server here.\n"
    )
