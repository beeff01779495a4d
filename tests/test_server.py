"""A server's life: where it is bound, how it stops, what its clients notice of a new one."""

import asyncio
import contextlib
import errno
import gc
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from helpers.certificates import load_or_create
from helpers.client import HTTP3Transport
from helpers.connection.udp import UDPSocket
from helpers.errors import CertificateFileError, ServerStartError, UsageError
from helpers.server import Server, listener

ROOT = Path(__file__).parent.parent
WAIT_S = 30.0


@pytest.fixture
def gate():
    """What a handler waits for with `await passing(gate)`, until the test calls set_result."""
    return Future()


def passing(gate):
    return asyncio.wrap_future(gate)


@pytest.fixture
def new_server(credentials):
    """Makes servers that are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def new(**options):
            server = Server(
                cert_file=credentials.cert_file, key_file=credentials.key_file, **options
            )
            stack.callback(server.stop, grace_s=0)

            @server.route("/")
            async def root(request, response):
                await response.write("here")

            return server

        yield new


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def server_threads():
    return [thread for thread in threading.enumerate() if thread.name == "http3-server"]


def stop_in_background(server, **options):
    thread = threading.Thread(target=server.stop, kwargs=options, daemon=True)
    thread.start()
    return thread


# ---- start


def test_start_returns_the_server_bound(new_server, client):
    server = new_server()
    assert server.start() is server
    assert server.port > 0
    assert server.url("/a?b=c") == f"https://localhost:{server.port}/a?b=c"
    assert client.get(server.url("/")).text == "here"
    assert repr(server) == f"<Server https://localhost:{server.port}/, routes: />"


def test_the_port_is_unknown_before_the_start(new_server):
    with pytest.raises(UsageError) as raised:
        new_server().port  # noqa: B018 - the property raises
    assert str(raised.value) == (
        "The port is known once the server has started: call start() first."
    )


def test_starting_twice_and_stopping_twice_is_harmless(new_server, client):
    server = new_server().start()
    port = server.port
    assert server.start().port == port
    assert len(server_threads()) == 1
    assert client.get(server.url("/")).text == "here"
    server.stop()
    server.stop()
    assert server_threads() == []
    assert repr(server) == "<Server stopped, routes: />"


def test_a_server_that_never_started_can_be_stopped(new_server):
    new_server().stop()


def test_with_starts_and_stops(new_server, client):
    with new_server() as server:
        assert client.get(server.url("/")).text == "here"
    assert server_threads() == []


def test_a_block_that_raises_stops_its_server(new_server):
    with pytest.raises(LookupError), new_server():
        raise LookupError
    assert server_threads() == []


def test_thirty_servers_at_once(new_server, client):
    servers = [new_server().start() for _ in range(30)]
    assert len({server.port for server in servers}) == 30
    assert [client.get(server.url("/")).text for server in servers] == ["here"] * 30


# ---- files that cannot serve


def test_missing_files_are_told_at_construction(credentials, tmp_path):
    missing = tmp_path / "missing.pem"
    for files in ((missing, credentials.key_file), (credentials.cert_file, missing)):
        with pytest.raises(CertificateFileError) as raised:
            Server(*files)
        assert str(raised.value) == (
            f"{missing} does not exist. Check the path, or let load_or_create() make the file."
        )


def test_swapped_files_are_told_at_construction(credentials):
    with pytest.raises(CertificateFileError) as raised:
        Server(cert_file=credentials.key_file, key_file=credentials.cert_file)
    assert str(raised.value) == (
        f"{credentials.key_file} holds no certificate but EC PRIVATE KEY. Pass the certificate's "
        "file here; a key's file belongs in key_file."
    )


def test_files_that_do_not_match_are_told_at_construction(credentials, tmp_path):
    other = load_or_create(tmp_path)
    with pytest.raises(CertificateFileError) as raised:
        Server(cert_file=credentials.cert_file, key_file=other.key_file)
    assert str(raised.value) == (
        f"The key in {other.key_file} does not match the certificate in {credentials.cert_file}. "
        "Pass the two files that were made together."
    )


# ---- the port


def test_a_port_that_is_in_use_is_told_at_the_start(new_server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        server = new_server(port=port)
        with pytest.raises(ServerStartError) as raised:
            server.start()
    assert isinstance(raised.value, OSError)
    assert str(raised.value) == (
        f"UDP port {port} on 127.0.0.1 is in use. Stop the earlier server, or pass port=0 to get a "
        "free one."
    )
    assert server_threads() == []
    # The port is free now, and nothing of the failed start is in the way.
    assert server.start().port == port


def test_an_address_of_another_machine_is_told_at_the_start(new_server):
    # RFC 5737: nobody's address.
    with pytest.raises(ServerStartError, match=r"^Cannot bind UDP port 0 on 192\.0\.2\.1: "):
        new_server(host="192.0.2.1").start()
    assert server_threads() == []


@pytest.mark.parametrize(
    ("system", "port", "why"),
    [
        ("linux", 443, "needs administrator rights. Pass port=0."),
        ("win32", 443, "is in use. Stop the earlier server, or pass port=0 to get a free one."),
        ("win32", 4433, "is in use. Stop the earlier server, or pass port=0 to get a free one."),
    ],
)
def test_a_denied_port_is_told_as_the_system_means_it(new_server, monkeypatch, system, port, why):
    async def deny(*_):
        raise PermissionError(errno.EACCES, "in the system's own words")

    monkeypatch.setattr(UDPSocket, "bind", deny)
    monkeypatch.setattr(listener, "sys", SimpleNamespace(platform=system))
    with pytest.raises(ServerStartError) as caught:
        new_server(port=port).start()
    assert str(caught.value) == f"UDP port {port} on 127.0.0.1 {why}"


def test_a_cell_that_is_run_again_replaces_its_own_server(new_server, client):
    port = free_port()
    earlier = new_server(port=port).start()
    assert client.get(earlier.url("/")).text == "here"

    later = new_server(port=port)

    @later.route("/")
    async def root(request, response):
        await response.write("replaced")

    later.start()
    assert client.get(later.url("/")).text == "replaced"
    assert repr(earlier).startswith("<Server stopped")
    assert len(server_threads()) == 1
    # What the earlier cell left behind cannot harm the later one.
    earlier.stop()
    assert client.get(later.url("/")).text == "replaced"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_each_name_of_this_machine_works_wherever_it_is_bound(new_server, client, host):
    server = new_server(host=host).start()
    urls = [f"https://{name}:{server.port}/" for name in ("localhost", "127.0.0.1")]
    assert server.url("/") == urls[0]
    assert [client.get(url).text for url in urls] == ["here", "here"]
    if has_ipv6():
        assert client.get(f"https://[::1]:{server.port}/").text == "here"
    else:
        with pytest.raises(httpx2.ConnectError):
            client.get(f"https://[::1]:{server.port}/")


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_a_machine_without_ipv6_has_the_other_names(new_server, client, monkeypatch, code):
    bind = UDPSocket.bind

    async def bind_ipv4_alone(address, family):
        if family == socket.AF_INET6:
            raise OSError(code, "no IPv6 here")
        return await bind(address, family)

    monkeypatch.setattr(UDPSocket, "bind", bind_ipv4_alone)
    server = new_server().start()
    assert client.get(server.url("/")).text == "here"


def test_loopback_alone_is_bound_and_nothing_is_said(new_server, caplog):
    new_server().start()
    assert caplog.records == []


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_a_wider_binding_is_said_and_its_url_works_here(new_server, client, caplog, host):
    server = new_server(host=host).start()
    (record,) = caplog.records
    assert record.getMessage() == f"Listening on {host or '*'}: other machines can reach it."
    assert client.get(server.url("/")).text == "here"


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 and its like exist on Linux alone")
@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_a_server_answers_from_the_address_that_was_asked(new_server, host):
    """Each client's socket takes answers from there alone."""
    server = new_server(host=host).start()

    @server.route("/whom")
    async def whom(request, response):
        await response.write(f"{request.client[0]} with {len(await request.read())} bytes")

    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    if host == "" and has_ipv6():
        hosts.append("[::1]")
    with httpx2.Client(transport=HTTP3Transport(verify=False)) as client:
        for _ in range(2):
            for name in hosts:
                response = client.post(f"https://{name}:{server.port}/whom", content=bytes(10**6))
                assert response.text.endswith(" with 1000000 bytes")


# ---- stop


def test_stop_waits_for_handlers_and_refuses_new_requests(new_server, client, gate):
    server = new_server().start()

    @server.route("/stream")
    async def stream(request, response):
        await response.write("before ")
        await response.flush()
        await passing(gate)
        await response.write("after")

    with client.stream("GET", server.url("/stream")) as response:
        body = response.iter_raw()
        assert next(body) == b"before "
        stopping = stop_in_background(server, grace_s=WAIT_S)
        assert refusal(client, server.url("/")) == (
            "The server ended stream 0 with H3_REQUEST_REJECTED (0x10b) before the response began."
        )
        gate.set_result(None)
        assert list(body) == [b"after"]
    stopping.join(WAIT_S)
    assert server_threads() == []
    assert server.errors == []


def refusal(client, url):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            client.get(url)
        except httpx2.RemoteProtocolError as error:
            return str(error)
    return "none"


def test_stop_is_bounded_by_its_grace(new_server, client):
    server = new_server().start()
    ended = Future()

    @server.route("/stream")
    async def stream(request, response):
        await response.flush()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            ended.set_result(error)
            raise

    with client.stream("GET", server.url("/stream")):
        started = time.monotonic()
        server.stop(grace_s=0.2)
        assert 0.2 <= time.monotonic() - started < 30  # the handler sleeps for twice as long
    assert isinstance(ended.result(WAIT_S), asyncio.CancelledError)
    assert server_threads() == []


def test_stop_without_requests_takes_no_time(new_server, client):
    server = new_server().start()
    client.get(server.url("/"))
    started = time.monotonic()
    server.stop(grace_s=60)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("method", ["write", "take_over"])
def test_stop_delivers_what_was_written_before(new_server, client, method):
    server = new_server().start()
    size_bytes = 200_000

    @server.route("/data")
    async def data(request, response):
        if method == "take_over":
            async with await response.take_over() as stream:
                await stream.write(bytes(size_bytes))
        else:
            await response.write(bytes(size_bytes))

    with client.stream("GET", server.url("/data")) as response:
        server.stop()
        assert len(response.read()) == size_bytes


def test_stop_waits_for_a_reader_that_is_slow(new_server, client):
    server = new_server().start()
    size_bytes = 3_000_000

    @server.route("/data")
    async def data(request, response):
        await response.write(bytes(size_bytes))

    with client.stream("GET", server.url("/data")) as response:
        stopping = stop_in_background(server, grace_s=WAIT_S)
        received = 0
        for chunk in response.iter_raw():
            received += len(chunk)
            time.sleep(0.0005)
    assert received == size_bytes
    stopping.join(WAIT_S)


def test_stop_waits_for_a_stream_that_outlives_its_handler(new_server, client, gate):
    server = new_server().start()
    tasks = set()

    async def finish_later(stream):
        async with stream:
            await passing(gate)
            await stream.write(b"last words")

    @server.route("/stream")
    async def stream(request, response):
        tasks.add(asyncio.create_task(finish_later(await response.take_over())))

    with client.stream("GET", server.url("/stream")) as response:
        stopping = stop_in_background(server, grace_s=WAIT_S)
        assert refusal(client, server.url("/")) != "none"
        gate.set_result(None)
        assert response.read() == b"last words"
    stopping.join(WAIT_S)


def test_a_handler_that_blocks_cannot_hold_up_stop(new_server, client):
    server = new_server().start()
    port = server.port
    blocked, release = threading.Event(), threading.Event()

    @server.route("/blocked")
    async def block(request, response):
        await response.flush()
        await asyncio.sleep(0.02)
        blocked.set()
        release.wait(WAIT_S)

    with client.stream("GET", server.url("/blocked")):
        assert blocked.wait(WAIT_S)
        (thread,) = server_threads()
        started = time.monotonic()
        with pytest.raises(UsageError, match="did not stop within"):
            server.stop(grace_s=0)
        assert time.monotonic() - started < WAIT_S / 2
        release.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()
    # Its port is free again.
    assert client.get(new_server(port=port).start().url("/")).text == "here"


def test_a_server_that_nobody_holds_ends_its_thread(credentials, client):
    server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file).start()

    @server.route("/stream")
    async def stream(request, response):
        await response.flush()
        await asyncio.sleep(60)

    (thread,) = server_threads()
    with client.stream("GET", server.url("/stream")) as response:
        gone = weakref.ref(server)
        del server
        gc.collect()
        assert gone() is None
        thread.join(WAIT_S)
        assert not thread.is_alive()
        with pytest.raises(httpx2.ReadError, match="connection was lost"):
            response.read()


# ---- a new server where an old one was


def test_the_same_server_starts_again_on_its_port(new_server, client):
    server = new_server(port=free_port())
    for _ in range(3):
        server.start()
        assert client.get(server.url("/")).text == "here"
        server.stop()


FORKS = """
import os, sys, warnings
import httpx2, psutil
from helpers.client import HTTP3Transport
from helpers.server import Server

warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
server = Server(cert_file=sys.argv[1], key_file=sys.argv[2], port=int(sys.argv[4]))

@server.route("/")
async def root(request, response):
    await response.write("here")

with httpx2.Client(transport=HTTP3Transport(ca_file=sys.argv[3])) as client:
    server.start()
    client.get(server.url("/"))
    ended, end = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        held = psutil.Process().net_connections(kind="udp")
        os.write(tell, f"{len(held)} sockets".encode())
        os.close(end)
        os.read(ended, 1)  # until the parent has closed its end
        os._exit(0)
    try:
        print("in the child:", os.read(told, 100).decode())
        print("in use:", client.get(server.url("/")).text)
        server.stop()
        server.start()
        print("started again:", client.get(server.url("/")).text)
        server.stop()
    finally:
        os.close(end)
        os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_holds_no_port(credentials):
    """It has a copy of each socket, and may live for long."""
    files = [str(path) for path in (credentials.cert_file, credentials.key_file)]
    arguments = [*files, str(credentials.ca_file), str(free_port())]
    run = subprocess.run(
        [sys.executable, "-c", FORKS, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert run.stdout.splitlines() == [
        "in the child: 0 sockets",
        "in use: here",
        "started again: here",
    ], run.stderr


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_restart_costs_the_client_no_error(new_server, client, method):
    port = free_port()
    for _ in range(3):
        server = new_server(port=port).start()
        assert client.request(method, server.url("/")).text == "here"
        server.stop()


SERVE = """
    import sys, time
    from helpers.server import Server

    server = Server(cert_file=sys.argv[1], key_file=sys.argv[2], port=int(sys.argv[3]))

    @server.route("/")
    async def root(request, response):
        await response.write(sys.argv[4])

    print("ready", flush=True)
    sys.stdin.readline()
    server.start()
    print("started", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def process_that_serves(credentials, port, word):
    """A process with a server that is ready to start, and ends when its standard input does."""
    arguments = (credentials.cert_file, credentials.key_file, port, word)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVE), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        yield process


def start_server(process):
    process.stdin.write("start\n")
    process.stdin.flush()
    assert process.stdout.readline() == "started\n"


def test_a_server_that_was_killed_and_came_back_costs_the_client_no_error(credentials, client):
    port = free_port()
    url = f"https://localhost:{port}/"
    with (
        process_that_serves(credentials, port, "first") as first,
        process_that_serves(credentials, port, "second") as second,
    ):
        start_server(first)
        assert client.get(url, timeout=WAIT_S).text == "first"
        # Until all is acknowledged: what the client sends later would show that nobody is there.
        time.sleep(0.2)
        first.kill()
        first.wait(WAIT_S)
        start_server(second)
        assert client.get(url, timeout=WAIT_S).text == "second"


def test_a_kernel_that_ends_without_stop_hangs_for_nothing_and_shows_errors(credentials):
    script = """
        import sys
        import httpx2
        from helpers.client import HTTP3Transport
        from helpers.server import Server

        server = Server(cert_file=sys.argv[1], key_file=sys.argv[2])

        @server.route("/boom")
        async def boom(request, response):
            raise ZeroDivisionError("in the handler")

        server.start()
        client = httpx2.Client(transport=HTTP3Transport(ca_file=sys.argv[3]))
        print(client.get(server.url("/boom")).status_code)
    """
    files = (credentials.cert_file, credentials.key_file, credentials.ca_file)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert (done.returncode, done.stdout) == (0, "500\n")
    first, second, *_, last = done.stderr.splitlines()
    assert first == "GET /boom: the handler raised"
    assert second == "Traceback (most recent call last):"
    assert last == "ZeroDivisionError: in the handler"


def test_clients_of_many_threads_share_one_server(new_server, credentials):
    server = new_server().start()
    answers = []

    def ask():
        with httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)) as client:
            answers.extend(client.get(server.url("/")).text for _ in range(5))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert answers == ["here"] * 40


@pytest.mark.parametrize(
    "spoil", [lambda pem: pem + b"\n\n", lambda pem: pem.replace(b"\n", b"\r\n")]
)
def test_a_certificate_file_may_have_blank_lines_or_windows_line_ends(credentials, tmp_path, spoil):
    cert_file = tmp_path / "cert.pem"
    cert_file.write_bytes(spoil(credentials.cert_file.read_bytes()))
    with (
        Server(cert_file=cert_file, key_file=credentials.key_file) as server,
        httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)) as client,
    ):
        assert client.get(server.url("/nowhere")).status_code == 404
