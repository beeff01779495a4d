"""The two transports under httpx2: what an HTTP client has to do, over one HTTP/3 connection."""

import asyncio
import gc
import gzip
import hashlib
import io
import itertools
import queue
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2
import pytest
from aioquic.h3.connection import ErrorCode
from aioquic.h3.events import DataReceived, HeadersReceived

from helpers.background import Background
from helpers.certificates import load_or_create
from helpers.client import AsyncHTTP3Transport, HTTP3Transport
from helpers.errors import ClientDisconnected, StreamReset, UsageError
from helpers.server import Server
from tests.interop.scripted import scripted_server

WAIT_S = 30.0  # for what happens at once
MAX_STREAMS = 128  # aioquic's limit for one connection
RANDOM = random.Random(9114)
BODY = RANDOM.randbytes(300_000)
NUMBERS = [f"number {number}\n" for number in range(5)]


@pytest.fixture
def new_async_client(credentials):
    """Makes asynchronous clients that trust the server of these tests."""

    def make(**options):
        transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
        return httpx2.AsyncClient(transport=transport, **options)

    return make


@pytest.fixture
def transport(credentials):
    """A synchronous transport, for what httpx2's client does not reach."""
    transport = HTTP3Transport(ca_file=credentials.ca_file)
    yield transport
    transport.close()


@pytest.fixture
def count(server):
    """The URL of a route that sends the next of NUMBERS when its client has the one before.

    The client says so by asking for `next`. A client that collects waits for ever, until its read
    time-out.
    """
    received = asyncio.Queue()

    @server.route("/count")
    async def count(request, response):
        for number in NUMBERS:
            await response.write(number)
            await response.flush()
            await received.get()

    @server.route("/next")
    async def next_number(request, response):
        received.put_nowait(True)

    return server.url("/count")


@pytest.fixture
def echo(server):
    """The URL of a route that sends back what comes, as it comes."""

    @server.route("/echo")
    async def echo(request, response):
        await response.flush()
        async for chunk in request:
            await response.write(chunk)
            await response.flush()

    return server.url("/echo")


@pytest.fixture
def digest(server):
    """The URL of a route that reads its body to the end, and answers with its hash."""

    @server.route("/digest")
    async def digest(request, response):
        sha = hashlib.sha256()
        async for chunk in request:
            sha.update(chunk)
        await response.write(sha.hexdigest())

    return server.url("/digest")


@pytest.fixture
def who(server):
    """The URL of a route that answers with the client's UDP port: one port, one connection."""

    @server.route("/who")
    async def who(request, response):
        await response.write(str(request.client[1]))

    return server.url("/who")


@pytest.fixture
def endless(server):
    """The URL of a route that streams until its client leaves; and a queue of how that was."""
    ends = queue.SimpleQueue()

    @server.route("/endless")
    async def endless(request, response):
        try:
            for number in itertools.count():
                await response.write(f"number {number}\n")
                await response.flush()
                await asyncio.sleep(0.01)
        except BaseException as error:
            ends.put(await why(error, response))
            raise

    return server.url("/endless"), ends


async def why(error, response):
    """What a cancellation keeps to itself, the next write tells."""
    if isinstance(error, asyncio.CancelledError):
        try:
            await response.flush()
        except ClientDisconnected as told:
            return told
    return error


def assert_left(ends, code=ErrorCode.H3_REQUEST_CANCELLED):
    error = ends.get(timeout=WAIT_S)
    assert isinstance(error, ClientDisconnected)
    assert error.code == code


# Chunks arrive one by one


@pytest.mark.parametrize("read", ["iter_text", "iter_lines", "iter_bytes", "iter_raw"])
def test_what_is_flushed_is_read_at_once(client, count, read):
    numbers = []
    with client.stream("GET", count) as response:
        for chunk in getattr(response, read)():
            numbers.append(chunk if isinstance(chunk, str) else chunk.decode())
            client.get(response.url.join("/next"))
    assert [number.strip("\n") + "\n" for number in numbers] == NUMBERS


@pytest.mark.anyio
@pytest.mark.parametrize("read", ["aiter_text", "aiter_lines", "aiter_bytes", "aiter_raw"])
async def test_what_is_flushed_is_read_at_once_in_async_code(new_async_client, count, read):
    numbers = []
    async with new_async_client() as client, client.stream("GET", count) as response:
        async for chunk in getattr(response, read)():
            numbers.append(chunk if isinstance(chunk, str) else chunk.decode())
            await client.get(response.url.join("/next"))
    assert [number.strip("\n") + "\n" for number in numbers] == NUMBERS


@pytest.fixture
def events(server):
    """The URL of a stream of server-sent events, of which each waits for `next` too."""
    received = asyncio.Queue()

    @server.route("/events")
    async def events(request, response):
        assert request.headers["accept"] == "text/event-stream"
        response.write_header(200, {"content-type": "text/event-stream"})
        for number in range(3):
            await response.write(f"event: tick\nid: {number}\ndata: number {number}\n\n")
            await response.flush()
            await received.get()

    @server.route("/next")
    async def next_event(request, response):
        received.put_nowait(True)

    return server.url("/events")


TICKS = [("tick", str(number), f"number {number}") for number in range(3)]


def test_server_sent_events_come_one_by_one(client, events):
    ticks = []
    with client.sse(events) as source:
        for event in source:
            ticks.append((event.event, event.id, event.data))
            client.get(httpx2.URL(events).join("/next"))
    assert ticks == TICKS


@pytest.mark.anyio
async def test_server_sent_events_come_one_by_one_in_async_code(new_async_client, events):
    ticks = []
    async with new_async_client() as client, client.sse(events) as source:
        async for event in source:
            ticks.append((event.event, event.id, event.data))
            await client.get(httpx2.URL(events).join("/next"))
    assert ticks == TICKS


# What a request can carry


def pieces():
    for start in range(0, len(BODY), 70_000):
        yield BODY[start : start + 70_000]


async def async_pieces():
    for piece in pieces():
        yield piece
        await asyncio.sleep(0)


@pytest.fixture
def body_file(tmp_path):
    path = tmp_path / "body"
    path.write_bytes(BODY)
    with path.open("rb") as file:
        yield file


def test_a_body_of_bytes_is_known_by_its_length(client, server):
    @server.route("/length")
    async def length(request, response):
        body = await request.read()
        assert body == BODY
        await response.write(request.headers["content-length"])

    assert client.post(server.url("/length"), content=BODY).text == "300000"


@pytest.mark.parametrize("path", ["/digest", "/echo"])
@pytest.mark.parametrize("kind", ["bytes", "generator", "file"])
@pytest.mark.usefixtures("digest", "echo")
def test_bodies_of_each_kind(client, server, body_file, path, kind):
    content = {"bytes": BODY, "generator": pieces(), "file": body_file}[kind]
    response = client.post(server.url(path), content=content)
    expected = hashlib.sha256(BODY).hexdigest().encode() if path == "/digest" else BODY
    assert response.content == expected
    assert not server.errors


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/digest", "/echo"])
@pytest.mark.parametrize("kind", ["bytes", "generator"])
@pytest.mark.usefixtures("digest", "echo")
async def test_bodies_of_each_kind_in_async_code(new_async_client, server, path, kind):
    content = {"bytes": BODY, "generator": async_pieces()}[kind]
    async with new_async_client() as client:
        response = await client.post(server.url(path), content=content)
    expected = hashlib.sha256(BODY).hexdigest().encode() if path == "/digest" else BODY
    assert response.content == expected
    assert not server.errors


def test_a_form_with_a_file(client, server, body_file):
    @server.route("/form")
    async def form(request, response):
        body = await request.read()
        assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert BODY in body
        await response.write(str(len(body)))

    response = client.post(server.url("/form"), files={"upload": body_file})
    assert int(response.text) > len(BODY)


def test_a_file_of_a_form_is_read_on_the_callers_thread(client, digest):
    """It may belong to its thread, or block; an interrupt of the cell reaches no other."""
    readers = set()

    class File(io.BytesIO):
        def read(self, size=-1):
            readers.add(threading.current_thread())
            return super().read(size)

    assert client.post(digest, files={"upload": File(BODY)}).status_code == 200
    assert readers == {threading.current_thread()}


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        (None, "bytes-like object"),
        (1, "bytes-like object"),
        ("a text of some length", r"bytes: yield 'a text of some lengt'\.encode\(\), not a str"),
    ],
)
def test_a_piece_that_is_no_bytes_is_a_mistake_and_no_end(client, digest, piece, why):
    with pytest.raises(TypeError, match=why):
        client.post(digest, content=iter([b"one", piece, b"three"]))
    assert client.post(digest, content=iter([b"one"])).status_code == 200


def test_an_empty_body_ends_the_request_with_its_header(client, digest):
    empty = hashlib.sha256(b"").hexdigest()
    assert client.post(digest).text == empty
    assert client.post(digest, content=b"").text == empty
    assert client.post(digest, content=iter([])).text == empty


@pytest.fixture
def half(server):
    """The URL of a route that reads; an event of its first chunk; and how its body ended."""
    arrived = threading.Event()
    ends = queue.SimpleQueue()

    @server.route("/half")
    async def half(request, response):
        try:
            async for _ in request:
                arrived.set()
        except BaseException as error:
            ends.put(await why(error, response))
            raise

    return server.url("/half"), arrived, ends


def test_what_a_body_raises_reaches_its_caller(client, half):
    url, arrived, ends = half

    def broken():
        yield b"the first half"
        assert arrived.wait(WAIT_S)
        raise TimeoutError("the second half is late")

    with pytest.raises(TimeoutError, match="the second half is late") as caught:
        client.post(url, content=broken())
    assert caught.type is TimeoutError
    assert_left(ends)


def test_what_a_body_raises_after_the_answer_began_ends_the_request(client, server):
    """The caller never gets the response: nobody else could tell the server."""
    ends = queue.SimpleQueue()
    arrived = threading.Event()

    @server.route("/early")
    async def early(request, response):
        await response.flush()
        try:
            async for _ in request:
                arrived.set()
        except BaseException as error:
            ends.put(await why(error, response))
            raise

    def broken():
        yield b"the first half"
        assert arrived.wait(WAIT_S)
        time.sleep(0.2)  # the response's header comes, and goes to nobody
        raise LookupError("the second half is lost")

    with pytest.raises(LookupError, match="the second half is lost") as caught:
        client.post(server.url("/early"), content=broken())
    assert_left(ends)  # and not only when the error is gone, which holds the response
    del caught


@pytest.mark.anyio
async def test_what_a_body_raises_reaches_its_caller_in_async_code(new_async_client, half):
    url, arrived, ends = half

    async def broken():
        yield b"the first half"
        assert await asyncio.to_thread(arrived.wait, WAIT_S)
        raise TimeoutError("the second half is late")

    async with new_async_client() as client:
        with pytest.raises(TimeoutError, match="the second half is late") as caught:
            await client.post(url, content=broken())
        assert caught.type is TimeoutError
        await asyncio.to_thread(assert_left, ends)


def test_header_fields_arrive(client, server):
    @server.route("/header")
    async def header(request, response):
        assert request.headers.get_list("x-twice", split_commas=False) == ["one", "two"]
        assert "connection" not in request.headers
        assert "transfer-encoding" not in request.headers
        answer = [("X-Mixed-Case", request.query["q"]), ("x-twice", "1"), ("x-twice", "2")]
        response.write_header(200, answer)
        await response.write(request.headers["host"])

    twice = [("X-Twice", "one"), ("x-twice", "two")]
    response = client.get(server.url("/header"), headers=twice, params={"q": "a b&c"})
    assert response.headers["x-mixed-case"] == "a b&c"
    assert response.headers.get_list("x-twice", split_commas=False) == ["1", "2"]
    assert response.text == f"localhost:{server.port}"
    assert not server.errors


def test_the_host_header_names_another_origin(client, server):
    """RFC 9114 section 4.3.1: it becomes :authority."""

    @server.route("/host")
    async def host(request, response):
        await response.write(request.headers["host"])

    assert client.get(server.url("/host"), headers={"Host": "example.test"}).text == "example.test"


@pytest.mark.parametrize("fields", [7, 9])
def test_an_oversized_header_section_gets_431(client, who, fields):
    """Seven of these fields have fewer than 64 KiB on the wire, since they are compressed."""
    port = client.get(who).text
    large = {f"x-large-{number}": "x" * 10_000 for number in range(fields)}
    assert client.get(who, headers=large).status_code == 431
    assert client.get(who).text == port  # the connection lives


def test_a_header_field_that_cannot_be_sent(client, who):
    port = client.get(who).text
    with pytest.raises(httpx2.LocalProtocolError) as caught:
        client.get(who, headers={"x-large": "x" * 70_000})
    assert str(caught.value) == (
        "The header 'x-large' has 70000 bytes, 65535 at most can be sent. Send it in the body."
    )
    with pytest.raises(httpx2.LocalProtocolError) as caught:
        client.get(who, headers={"x-lines": "one\ntwo"})
    assert str(caught.value) == "'x-lines': 'one\\ntwo' is no header (RFC 9110 section 5)."
    assert client.get(who, headers={"x-padded": " one "}).text == port  # the connection lives


@pytest.mark.parametrize(
    ("method", "headers", "said"),
    [
        ("G T", {}, "'G T', 3 bytes, is no method (RFC 9110 section 9.1)."),
        ("G\nT", {}, "'G\\nT', 3 bytes, is no method (RFC 9110 section 9.1)."),
        ("G" * 70_000, {}, f"'{'G' * 40}', 70000 bytes, is no method (RFC 9110 section 9.1)."),
        ("GET", {"host": "a b"}, "'a b', 3 bytes, is no host (RFC 9110 section 7.2)."),
        ("GET", {"host": "a\r\nb"}, "'a\\r\\nb', 4 bytes, is no host (RFC 9110 section 7.2)."),
        (
            "GET",
            {"host": "a" * 70_000},
            f"'{'a' * 40}', 70000 bytes, is no host (RFC 9110 section 7.2).",
        ),
        (
            "POST",
            {"content-length": "abc"},
            "This request cannot be sent: its content-length is not one number of bytes.",
        ),
        (
            "GET",
            {"n" * 70_000: "1"},
            f"The header '{'n' * 40}' has 70000 bytes, 65535 at most can be sent. "
            "Send it in the body.",
        ),
    ],
)
def test_a_request_that_cannot_be_sent_harms_no_other(client, server, who, method, headers, said):
    """A peer closes the whole connection over these, and aioquic forgets where its stream was."""
    gate = Future()

    @server.route("/neighbour")
    async def neighbour(request, response):
        await response.write("one")
        await response.flush()
        await asyncio.wrap_future(gate)
        await response.write("two")

    with client.stream("GET", server.url("/neighbour")) as response:
        chunks = response.iter_text()
        assert next(chunks) == "one"
        with pytest.raises(httpx2.LocalProtocolError) as caught:
            client.request(method, who, headers=headers)
        assert str(caught.value) == said
        gate.set_result(None)
        assert next(chunks) == "two"
    assert client.get(who).status_code == 200


@pytest.mark.parametrize("host", ["localhost.", "app.localhost", "[0:0:0:0:0:0:0:1]", "LOCALHOST"])
def test_the_names_of_this_machine_need_no_lookup(tmp_path, host):
    """RFC 6761 section 6.3; and a certificate has no dot at the end of a name."""
    names = ("localhost", "app.localhost", "127.0.0.1", "::1")
    files = load_or_create(tmp_path, names)
    with (
        Server(files.cert_file, files.key_file) as server,
        httpx2.Client(transport=HTTP3Transport(ca_file=files.ca_file)) as client,
    ):
        assert client.get(f"https://{host}:{server.port}/nowhere").status_code == 404


@pytest.mark.parametrize("port", [0, 99999])
def test_a_port_that_is_none_is_refused(client, port):
    with pytest.raises((httpx2.LocalProtocolError, httpx2.InvalidURL)) as caught:
        client.get(f"https://localhost:{port}/")
    assert str(port) in str(caught.value)


def test_a_client_that_another_thread_closes_raises_what_httpx2_raises(credentials, server):
    arrived = threading.Event()

    @server.route("/silent")
    async def silent(request, response):
        arrived.set()
        await asyncio.Event().wait()

    client = httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.get, server.url("/silent"), timeout=WAIT_S)
        assert arrived.wait(WAIT_S)
        client.close()
        assert isinstance(asking.exception(WAIT_S), httpx2.TransportError)


@pytest.mark.anyio
async def test_a_client_belongs_to_the_loop_that_uses_it(new_async_client, who):
    """On another one that runs, its sockets would never wake anybody."""
    async with new_async_client() as client:
        port = (await client.get(who)).text

        async def ask():
            return await client.get(who)

        with pytest.raises(httpx2.LocalProtocolError, match="in use on another event loop"):
            await asyncio.to_thread(asyncio.run, ask())
        assert (await client.get(who)).text == port


def test_a_client_whose_loop_has_ended_may_be_used_on_a_new_one(credentials, who):
    client = httpx2.AsyncClient(transport=AsyncHTTP3Transport(ca_file=credentials.ca_file))

    async def ask_and_leave():
        response = await client.get(who)
        client._transport.disconnect()
        return response.status_code

    assert [asyncio.run(ask_and_leave()) for _ in range(2)] == [200, 200]


def test_a_ca_file_is_read_when_it_is_named(credentials, server, tmp_path, monkeypatch):
    """What happens to it later, or to the folder that its path starts in, changes nothing."""
    (tmp_path / "ca.pem").write_bytes(credentials.ca_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    with httpx2.Client(transport=HTTP3Transport(ca_file="ca.pem")) as client:
        (tmp_path / "ca.pem").unlink()
        monkeypatch.chdir("/")
        assert client.get(server.url("/nowhere")).status_code == 404


def test_a_large_header_section_passes(client, server):
    @server.route("/header")
    async def header(request, response):
        response.write_header(200, {"x-large": request.headers["x-large"]})

    large = "x" * 50_000
    assert client.get(server.url("/header"), headers={"x-large": large}).headers["x-large"] == large


# What a response can carry


def test_a_response_says_that_it_is_http3(client, who):
    response = client.get(who)
    assert response.http_version == "HTTP/3"
    assert response.extensions["stream_id"] == 0
    assert response.headers["content-length"] == str(len(response.text))


def test_a_request_carries_when_it_was_sent(client, count):
    with client.stream("GET", count) as response:
        assert response.extensions["request_sent_at"] > 0


def test_head_has_the_header_alone(client, who):
    response = client.head(who)
    assert (response.status_code, response.content) == (200, b"")
    assert client.get(who).content != b""  # the connection lives


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_a_length_without_a_body_is_no_mistake(client, credentials, method, status):
    """It tells how long the body would have been (RFC 9110 section 8.6)."""

    def answer(connection, event):
        if isinstance(event, HeadersReceived):
            header = [(b":status", b"%d" % status), (b"content-length", b"10")]
            connection.http.send_headers(event.stream_id, header, end_stream=True)

    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, answer) as port:
        for stream_id in (0, 4):
            response = client.request(method, f"https://127.0.0.1:{port}/")
            assert (response.status_code, response.content) == (status, b"")
            assert response.headers["content-length"] == "10"
            assert response.extensions["stream_id"] == stream_id


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(client, server, status):
    @server.route("/empty")
    async def empty(request, response):
        response.write_header(status, {"etag": "x"})

    response = client.get(server.url("/empty"))
    assert (response.status_code, response.content) == (status, b"")


def test_trailers_follow_the_body(client, server):
    @server.route("/trailers")
    async def trailers(request, response):
        await response.write("a body")
        await response.flush()
        response.write_trailers({"X-Checksum": "12345"})

    with client.stream("GET", server.url("/trailers")) as response:
        assert response.extensions["trailers"] == {}
        response.read()
        assert response.extensions["trailers"] == {"x-checksum": "12345"}
    assert response.text == "a body"
    assert "x-checksum" not in response.headers


def test_interim_responses_are_passed_over(client, server):
    @server.route("/hints")
    async def hints(request, response):
        response.write_header(103, {"link": "</style.css>; rel=preload"})
        response.write_header(103, {"link": "</script.js>; rel=preload"})
        response.write_header(200, {"x-final": "yes"})
        await response.write("a body")
        response.write_trailers({"x-last": "yes"})

    response = client.get(server.url("/hints"))
    assert (response.status_code, response.text) == (200, "a body")
    assert response.headers["x-final"] == "yes"
    assert "link" not in response.headers
    assert response.extensions["trailers"] == {"x-last": "yes"}


def test_a_compressed_body_is_decoded_and_raw_is_not(client, server):
    packed = gzip.compress(BODY)

    @server.route("/packed")
    async def compressed(request, response):
        response.write_header(200, {"content-encoding": "gzip"})
        await response.write(packed)

    assert client.get(server.url("/packed")).content == BODY
    with client.stream("GET", server.url("/packed")) as response:
        assert b"".join(response.iter_raw()) == packed


# What httpx2 adds


def test_cookies_come_back(client, server):
    @server.route("/cookie")
    async def cookie(request, response):
        response.write_header(200, {"set-cookie": "flavour=vanilla"})
        await response.write(request.headers.get("cookie", "none"))

    assert client.get(server.url("/cookie")).text == "none"
    assert client.get(server.url("/cookie")).text == "flavour=vanilla"


def test_redirects_are_followed_on_the_same_connection(client, server, who):
    @server.route("/moved")
    async def moved(request, response):
        response.write_header(307, {"location": "/who"})
        await response.write("over there")

    response = client.get(server.url("/moved"), follow_redirects=True)
    assert [earlier.status_code for earlier in response.history] == [307]
    assert response.text == client.get(who).text


@pytest.mark.parametrize("auth", [("user", "word"), httpx2.DigestAuth("user", "word")])
def test_authentication(client, server, auth):
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'

    @server.route("/secret")
    async def secret(request, response):
        if "authorization" not in request.headers:
            response.write_header(401, {"www-authenticate": challenge})
            return
        await response.write(request.headers["authorization"].split()[0])

    response = client.get(server.url("/secret"), auth=auth)
    assert response.text == ("Basic" if isinstance(auth, tuple) else "Digest")


# Connections


def test_a_connection_is_used_again(client, who):
    assert len({client.get(who).text for _ in range(3)}) == 1


@pytest.mark.anyio
async def test_first_requests_at_once_share_one_connection(new_async_client, who):
    async with new_async_client() as client:
        responses = await asyncio.gather(*(client.get(who) for _ in range(16)))
    assert len({response.text for response in responses}) == 1


def test_threads_share_one_client_from_its_first_request(client, who):
    ready = threading.Barrier(8)

    def ask():
        ready.wait(WAIT_S)
        return {client.get(who).text for _ in range(5)}

    with ThreadPoolExecutor(8) as pool:
        ports = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert len(set.union(*ports)) == 1


def test_each_origin_has_its_own_connection(client, who):
    by_name = client.get(who).text
    by_address = client.get(who.replace("localhost", "127.0.0.1")).text
    assert by_name != by_address
    assert client.get(who).text == by_name


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_every_name_of_this_machine_works(client, who, host):
    assert client.get(who.replace("localhost", host)).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_localhost_is_found_where_one_of_its_addresses_listens(client, credentials, host):
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, host=host) as port:
        assert client.get(f"https://localhost:{port}/").text == "hello"


@pytest.mark.anyio
@pytest.mark.parametrize("total", [120, 1000])
async def test_many_requests_one_after_the_other(new_async_client, who, total):
    async with new_async_client() as client:
        ports = {(await client.get(who)).text for _ in range(total)}
    assert len(ports) == 1


def test_many_requests_one_after_the_other_from_a_notebook(client, who):
    assert len({client.get(who).text for _ in range(120)}) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("total", [16, MAX_STREAMS])
async def test_many_requests_at_once(new_async_client, server, who, total):
    """All of them are there before the first is answered."""
    everybody = asyncio.Barrier(total)

    @server.route("/together")
    async def together(request, response):
        await everybody.wait()
        await response.write(str(request.client[1]))

    async with new_async_client() as client:
        await client.get(who)
        requests = (client.get(server.url("/together")) for _ in range(total))
        responses = await asyncio.gather(*requests)
    assert len({response.text for response in responses}) == 1


# Refused, and asked again


def reject_first(times):
    """A script that rejects so many requests and answers the next with what it read of it."""
    bodies = {}

    def answer(connection, event):
        nonlocal times
        if isinstance(event, HeadersReceived):
            bodies[event.stream_id] = b""
        if isinstance(event, DataReceived):
            bodies[event.stream_id] += event.data
        if event.stream_ended and times > 0:
            times -= 1
            connection.quic.reset_stream(event.stream_id, ErrorCode.H3_REQUEST_REJECTED)
        elif event.stream_ended:
            connection.respond(event.stream_id, 200, bodies[event.stream_id])

    return answer


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_rejected_request_is_sent_again(client, credentials, method):
    """Also one that is not idempotent: it was not processed (RFC 9114 section 4.1.1)."""
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, reject_first(1)) as port:
        response = client.request(method, f"https://127.0.0.1:{port}/", content=b"a body")
    assert response.content == b"a body"


def test_a_request_that_is_rejected_twice_fails(client, credentials):
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, reject_first(2)) as port:
        with pytest.raises(httpx2.RemoteProtocolError, match=r"H3_REQUEST_REJECTED \(0x10b\)"):
            client.get(f"https://127.0.0.1:{port}/")
        assert client.get(f"https://127.0.0.1:{port}/").status_code == 200


def test_a_rejected_iterator_cannot_be_sent_again(client, credentials):
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, reject_first(1)) as port:
        with pytest.raises(httpx2.RemoteProtocolError, match=r"H3_REQUEST_REJECTED \(0x10b\)"):
            client.post(f"https://127.0.0.1:{port}/", content=iter([b"a ", b"body"]))
        assert client.get(f"https://127.0.0.1:{port}/").status_code == 200


@pytest.mark.anyio
async def test_a_rejected_iterator_cannot_be_sent_again_in_async_code(
    new_async_client, credentials
):
    async def parts():
        yield b"a "
        yield b"body"

    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, reject_first(1)) as port:
        async with new_async_client() as client:
            with pytest.raises(httpx2.RemoteProtocolError, match=r"H3_REQUEST_REJECTED \(0x10b\)"):
                await client.post(f"https://127.0.0.1:{port}/", content=parts())


@pytest.mark.anyio
async def test_rejected_requests_share_the_next_connection(new_async_client, credentials):
    """One is rejected at once, the other when the first has found a new connection already."""
    connections = []

    def answer(connection, event):
        if not isinstance(event, HeadersReceived):
            return
        if connection not in connections:
            connections.append(connection)
        if len(connections) == 1 and event.stream_id == 4:
            connection.quic.reset_stream(4, ErrorCode.H3_REQUEST_REJECTED)
        elif len(connections) == 1 and event.stream_id == 8:
            return
        else:
            connection.respond(event.stream_id, 200, b"hello")
        if len(connections) == 2 and event.stream_id == 0:
            connections[0].quic.reset_stream(8, ErrorCode.H3_REQUEST_REJECTED)
            connections[0].transmit()

    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        async with new_async_client() as client:
            await client.get(url)
            responses = await asyncio.gather(client.get(url), client.get(url))
    assert [response.text for response in responses] == ["hello", "hello"]
    assert len(connections) == 2


# A server that leaves: GOAWAY (RFC 9114 section 5.2)


def leaves_after(requests, first_refused_id):
    """A script that says GOAWAY on its first connection at the n-th request, and where each came.

    There it answers only requests below `first_refused_id`.
    """
    connections, asked = [], []

    def answer(connection, event):
        if not event.stream_ended:
            return
        if connection not in connections:
            connections.append(connection)
        number = connections.index(connection)
        asked.append((number, event.stream_id))
        if number == 0 and len(asked) == requests:
            connection.go_away(first_refused_id)
        if number > 0 or event.stream_id < first_refused_id:
            connection.respond(event.stream_id, 200, b"hello")

    return answer, asked


def test_no_request_goes_to_a_connection_that_announced_its_end(client, credentials):
    files = (credentials.cert_file, credentials.key_file)
    answer, asked = leaves_after(1, 4)
    with scripted_server(*files, answer) as port:
        for _ in range(3):
            assert client.post(f"https://127.0.0.1:{port}/", content=iter([b"x"])).text == "hello"
    assert asked == [(0, 0), (1, 0), (1, 4)]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_a_goaway_rejects_is_sent_again(client, credentials, method):
    files = (credentials.cert_file, credentials.key_file)
    answer, asked = leaves_after(2, 4)
    with scripted_server(*files, answer) as port:
        for _ in range(2):
            response = client.request(method, f"https://127.0.0.1:{port}/", content=b"a body")
            assert response.text == "hello"
    assert asked == [(0, 0), (0, 4), (1, 0)]


def test_an_iterator_that_a_goaway_rejects_cannot_be_sent_again(client, credentials):
    files = (credentials.cert_file, credentials.key_file)
    answer, _ = leaves_after(1, 0)
    with scripted_server(*files, answer) as port:
        with pytest.raises(httpx2.RemoteProtocolError, match=r"H3_REQUEST_REJECTED \(0x10b\)"):
            client.post(f"https://127.0.0.1:{port}/", content=iter([b"a body"]))
        assert client.get(f"https://127.0.0.1:{port}/").text == "hello"


def test_what_was_begun_before_a_goaway_goes_on(client, credentials):
    connections = []

    def answer(connection, event):
        if not event.stream_ended:
            return
        if not connections:
            connections.append(connection)
            connection.http.send_headers(0, [(b":status", b"200")])
            connection.http.send_data(0, b"first", end_stream=False)
            connection.go_away(4)
        else:
            connection.respond(event.stream_id, 200, b"second")
            connections[0].http.send_data(0, b", still", end_stream=True)
            connections[0].transmit()

    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        with client.stream("GET", url) as response:
            chunks = response.iter_text()
            assert next(chunks) == "first"
            assert client.get(url).text == "second"
            assert "".join(chunks) == ", still"


@pytest.mark.anyio
@pytest.mark.parametrize("end", ["GOAWAY", "CONNECTION_CLOSE"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_waits_for_a_free_stream_goes_to_the_next_connection(
    new_async_client, credentials, end, method
):
    """Nothing of it was sent, so its body may be an iterator too."""
    connections, waiting = [], set()

    def answer(connection, event):
        if not isinstance(event, HeadersReceived):
            return
        if connection not in connections:
            connections.append(connection)
        if connection is connections[-1] and len(connections) > 1:
            connection.respond(event.stream_id, 200, b"hello")
        elif len(waiting) < MAX_STREAMS:
            waiting.add(event.stream_id)
            if len(waiting) == MAX_STREAMS:
                loop.call_soon_threadsafe(all_taken.set)
                connections[0].end = lambda: (
                    connection.go_away(4 * MAX_STREAMS)
                    if end == "GOAWAY"
                    else connection.quic.close(error_code=ErrorCode.H3_NO_ERROR)
                )

    async def parts():
        yield b"a body"

    loop, all_taken = asyncio.get_running_loop(), asyncio.Event()
    files = (credentials.cert_file, credentials.key_file)
    with scripted_server(*files, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        async with new_async_client(timeout=None) as client:
            taken = [asyncio.create_task(client.post(url)) for _ in range(MAX_STREAMS)]
            await asyncio.wait_for(all_taken.wait(), WAIT_S)
            content = parts() if method == "POST" else None
            (driver,) = client._transport._connections.values()
            waits = asyncio.create_task(client.request(method, url, content=content))
            while not driver._openers:  # noqa: ASYNC110 - the waiting itself is looked for
                await asyncio.sleep(0.01)
            first = connections[0]
            first._loop.call_soon_threadsafe(lambda: (first.end(), first.transmit()))
            assert (await asyncio.wait_for(waits, WAIT_S)).text == "hello"
            for task in taken:
                task.cancel()
            await asyncio.wait(taken)
    assert len(connections) == 2


def test_a_new_connection_leaves_the_streams_of_the_old_one_alone(client, credentials):
    """And closing the client closes both."""
    files = (credentials.cert_file, credentials.key_file)
    connections = []

    def answer(connection, event):
        if isinstance(event, HeadersReceived):
            if not connections:
                connections.append(connection)
                connection.http.send_headers(event.stream_id, [(b":status", b"200")])
                connection.http.send_data(event.stream_id, b"first", end_stream=False)
            elif connection is connections[0]:
                connection.quic.reset_stream(event.stream_id, ErrorCode.H3_REQUEST_REJECTED)
            else:
                connection.respond(event.stream_id, 200, b"second")
                connections[0].http.send_data(0, b", still", end_stream=False)
                connections[0].transmit()

    with scripted_server(*files, answer) as port:
        url = f"https://127.0.0.1:{port}/"
        with client.stream("GET", url) as response:
            chunks = response.iter_text()
            assert next(chunks) == "first"
            assert client.get(url).text == "second"
            assert next(chunks) == ", still"
        client.close()


# Both directions


def test_an_early_answer_ends_the_upload(client, server):
    """The server answers 413 and stops the upload, of which there is no end."""

    @server.route("/small", max_body_bytes=100_000)
    async def small(request, response):
        await request.read()

    sent = 0

    def without_end():
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 10_000

    response = client.post(server.url("/small"), content=without_end())
    assert (response.status_code, response.text) == (413, "request body too large\n")
    assert sent > 10


@pytest.mark.anyio
async def test_an_early_answer_ends_the_upload_in_async_code(new_async_client, server):
    @server.route("/small", max_body_bytes=100_000)
    async def small(request, response):
        await request.read()

    ended = asyncio.Event()

    async def without_end():
        try:
            while True:
                yield b"x" * 10_000
        finally:
            ended.set()

    async with new_async_client() as client:
        response = await client.post(server.url("/small"), content=without_end())
        assert (response.status_code, response.text) == (413, "request body too large\n")
        async with asyncio.timeout(WAIT_S):
            await ended.wait()


def test_an_early_answer_to_a_body_of_bytes(client, server):
    @server.route("/small", max_body_bytes=100_000)
    async def small(request, response):
        await request.read()

    response = client.post(server.url("/small"), content=bytes(5_000_000))
    assert (response.status_code, response.text) == (413, "request body too large\n")


@pytest.mark.anyio
async def test_a_body_goes_out_while_the_response_comes_in(new_async_client, echo):
    """Each piece is sent when the one before has come back."""
    back = asyncio.Queue()

    async def one_by_one():
        for number in range(5):
            yield b"piece %d" % number
            assert await back.get() == b"piece %d" % number

    chunks = []
    async with (
        new_async_client() as client,
        client.stream("POST", echo, content=one_by_one()) as response,
    ):
        async for chunk in response.aiter_raw():
            chunks.append(chunk)
            back.put_nowait(chunk)
    assert chunks == [b"piece %d" % number for number in range(5)]


def test_an_open_stream_reads_and_writes_in_turn(transport, echo):
    with transport.open_stream("POST", echo, {"x-one": "1"}) as stream:
        header = stream.read_header()
        assert header[":status"] == "200"
        chunks = iter(stream)
        for number in range(5):
            stream.write(b"piece %d" % number)
            assert next(chunks) == b"piece %d" % number
        stream.close()
        assert stream.read() == b""


def test_what_is_no_error_code_is_refused_where_it_is_named(transport, echo):
    with transport.open_stream("POST", echo) as stream:
        for end in (stream.reset, stream.stop):
            with pytest.raises(UsageError, match="is no error code"):
                end(2**62)
        stream.write(b"it goes on")
        assert next(iter(stream)) == b"it goes on"


@pytest.mark.anyio
async def test_an_open_stream_reads_and_writes_in_turn_in_async_code(credentials, echo):
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with transport, await transport.open_stream("POST", echo) as stream:
        assert (b":status", b"200") in await stream.read_header()
        for number in range(5):
            await stream.write(b"piece %d" % number)
            assert await anext(stream) == b"piece %d" % number
        await stream.close()
        assert await stream.read() == b""


def test_an_open_stream_carries_trailers_both_ways(transport, server):
    @server.route("/trailers")
    async def trailers(request, response):
        await response.write(await request.read())
        response.write_trailers({"x-back": request.trailers["x-there"]})

    with transport.open_stream("POST", server.url("/trailers")) as stream:
        stream.write(b"a body")
        stream.close({"X-There": "12345"})
        assert stream.read() == b"a body"
        assert stream.trailers == {"x-back": "12345"}


def test_a_call_on_an_open_stream_is_bounded(transport, server):
    @server.route("/silent")
    async def silent(request, response):
        await request.read()

    with transport.open_stream("POST", server.url("/silent"), timeout_s=0.2) as stream:
        for wait in (stream.read_header, stream.read):
            with pytest.raises(TimeoutError, match=r"within 0\.2 s\. Your body .+, `close`\.$"):
                wait()


def test_a_server_that_is_silent_after_the_end_of_a_body_is_told(transport, server):
    @server.route("/silent")
    async def silent(request, response):
        await request.read()
        await asyncio.Event().wait()

    with transport.open_stream("POST", server.url("/silent"), timeout_s=0.2) as stream:
        stream.close()
        with pytest.raises(TimeoutError, match=r"^Not done within 0\.2 s\.$"):
            stream.read_header()


def test_what_is_written_after_its_end_or_is_text_is_refused(transport, echo):
    with transport.open_stream("POST", echo) as stream:
        with pytest.raises(UsageError, match=r"carries bytes: write\('text'\.encode\(\)\)"):
            stream.write("text")
        stream.write(b"bytes")
        stream.close()
        with pytest.raises(UsageError, match="is finished by its writer: nothing can be written"):
            stream.write(b"more")
        assert stream.read() == b"bytes"


def write_on(stream):
    """Write until it raises: what leaves before STOP_SENDING has come is no mistake."""
    for _ in range(1000):
        stream.write(b"more")


def test_an_open_stream_whose_body_is_refused_still_has_its_answer(transport, server):
    @server.route("/limited", max_body_bytes=1000)
    async def limited(request, response):
        await request.read()

    with transport.open_stream("POST", server.url("/limited")) as stream:
        stream.write(bytes(1001))
        assert stream.read_header()[":status"] == "413"
        assert stream.read() == b"request body too large\n"
        with pytest.raises(StreamReset, match=r"with STOP_SENDING, H3_NO_ERROR \(0x100\)"):
            write_on(stream)


def test_a_300_kb_body_both_ways_on_an_open_stream(transport, echo):
    with transport.open_stream("POST", echo) as stream, ThreadPoolExecutor(1) as pool:
        back = pool.submit(stream.read)
        for piece in pieces():
            stream.write(piece)
        stream.close()
        assert back.result(WAIT_S) == BODY


# Leaving


def test_breaking_off_the_loop_ends_the_handler(client, endless):
    url, ends = endless
    with client.stream("GET", url) as response:
        for _ in response.iter_text():
            break
    assert_left(ends)


def test_a_response_that_is_dropped_ends_the_handler(client, endless):
    url, ends = endless
    response = client.send(client.build_request("GET", url), stream=True)
    assert response.status_code == 200
    del response
    gc.collect()
    assert_left(ends)
    assert client.get(httpx2.URL(url).join("/none")).status_code == 404


@pytest.mark.anyio
async def test_a_response_that_is_dropped_ends_the_handler_in_async_code(new_async_client, endless):
    url, ends = endless
    async with new_async_client() as client:
        response = await client.send(client.build_request("GET", url), stream=True)
        assert response.status_code == 200
        del response
        gc.collect()
        await asyncio.to_thread(assert_left, ends)


@pytest.mark.anyio
async def test_a_response_that_is_dropped_ends_the_iterator_of_its_request(
    new_async_client, server
):
    ended = asyncio.Event()

    @server.route("/early")
    async def early(request, response):
        await response.flush()
        await request.read()

    async def pieces():
        try:
            yield b"the first of many"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with new_async_client() as client:
        request = client.build_request("POST", server.url("/early"), content=pieces())
        response = await client.send(request, stream=True)
        assert response.status_code == 200
        del request, response
        gc.collect()
        async with asyncio.timeout(WAIT_S):
            await ended.wait()


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(WAIT_S)


WHERE = {"in its own thread": lambda function: function(), "in another thread": in_a_thread}


@pytest.mark.parametrize("collect", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_open_stream_that_is_dropped_ends_the_handler(transport, endless, collect, method):
    """Also where it is part of a cycle: then the collector finds it, on whatever thread."""
    url, ends = endless
    stream = transport.open_stream(method, url)
    assert next(iter(stream)) == b"number 0\n"
    stream.itself = stream
    del stream
    collect(gc.collect)
    assert_left(ends)


@pytest.mark.anyio
@pytest.mark.parametrize("collect", WHERE.values(), ids=WHERE)
async def test_an_open_stream_that_is_dropped_ends_the_handler_in_async_code(
    credentials, endless, collect
):
    url, ends = endless
    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    stream = await transport.open_stream("GET", url)
    assert await anext(stream) == b"number 0\n"
    holder = [stream]
    holder.append(holder)
    del stream, holder
    collect(gc.collect)
    await asyncio.to_thread(assert_left, ends)
    await transport.aclose()


@pytest.mark.anyio
async def test_the_word_of_a_stream_that_was_dropped_is_a_reset_and_a_stop(credentials, server):
    """And one that ended well is dropped without a word."""
    errors = queue.SimpleQueue()

    @server.route("/read")
    async def read(request, response):
        try:
            await request.read()
        except ClientDisconnected as error:
            errors.put(str(error))
            raise

    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with await transport.open_stream("POST", server.url("/read")) as stream:
        await stream.close()
        await stream.read()
    del stream
    stream = await transport.open_stream("POST", server.url("/read"))
    await stream.write(b"x")
    del stream
    gc.collect()
    text = await asyncio.to_thread(errors.get, timeout=WAIT_S)
    assert "with H3_REQUEST_CANCELLED" in text
    await transport.aclose()
    assert errors.empty()


@pytest.mark.anyio
async def test_cancelling_a_request_ends_the_handler(new_async_client, server):
    ends = queue.SimpleQueue()
    arrived = threading.Event()

    @server.route("/silent")
    async def silent(request, response):
        arrived.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ends.put(await why(error, response))
            raise

    async with new_async_client() as client:
        request = asyncio.create_task(client.get(server.url("/silent")))
        assert await asyncio.to_thread(arrived.wait, WAIT_S)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.to_thread(assert_left, ends)


@pytest.mark.anyio
async def test_leaving_a_response_ends_the_iterator_of_its_request(new_async_client, echo):
    ended = asyncio.Event()

    async def first_half():
        try:
            yield b"the first half"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with new_async_client() as client:
        async with client.stream("POST", echo, content=first_half()) as response:
            assert await anext(response.aiter_raw()) == b"the first half"
        async with asyncio.timeout(WAIT_S):
            await ended.wait()


@pytest.mark.parametrize("what", ["get", "post", "stream", "read", "close"])
def test_an_interrupt_on_the_way_to_the_loop_loses_no_coroutine(
    transport, echo, endless, monkeypatch, what
):
    """Python looks for signals where a function begins; a lost coroutine is a warning."""
    url, _ = endless
    client = httpx2.Client(transport=transport)
    with client.stream("GET", url) as response:
        actions = {
            "get": lambda: client.get(echo),
            "post": lambda: client.post(echo, content=iter([b"x"])),
            "stream": lambda: transport.open_stream("GET", echo),
            "read": lambda: next(response.iter_raw()),
            "close": transport.close,
        }

        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Background, "run", interrupt)
            with pytest.raises(KeyboardInterrupt):
                actions[what]()
        gc.collect()


def test_closing_the_client_ends_the_handler(credentials, endless):
    url, ends = endless
    client = httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))
    response = client.send(client.build_request("GET", url), stream=True)
    client.close()
    assert_left(ends, ErrorCode.H3_NO_ERROR)
    with pytest.raises(httpx2.ReadError, match="The client was closed before the end of the body"):
        response.read()


def test_a_client_that_is_dropped_ends_its_thread(credentials, endless):
    url, ends = endless
    before = set(threading.enumerate())
    client = httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))
    response = client.send(client.build_request("GET", url), stream=True)
    (thread,) = set(threading.enumerate()) - before
    del client, response
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert isinstance(ends.get(timeout=WAIT_S), ClientDisconnected)


def test_a_client_that_asked_nothing_has_no_thread(credentials):
    before = threading.active_count()
    with httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)):
        assert threading.active_count() == before


def test_closing_twice_is_harmless(credentials, who):
    transport = HTTP3Transport(ca_file=credentials.ca_file)
    with httpx2.Client(transport=transport) as client:
        client.get(who)
    transport.close()
    transport.close()


def test_a_server_that_was_started_again_is_found_again(client, server, who):
    before = client.get(who).text
    server.stop()
    server.start()
    assert client.get(server.url("/who")).text != before


# Time-outs


def test_a_slow_upload_is_no_silence_of_the_server(client, digest):
    """The read time-out counts from the end of the body."""
    gate = threading.Event()

    def slow():
        for piece in (b"a", b"b", b"c"):
            gate.wait(0.3)
            yield piece

    response = client.post(digest, content=slow(), timeout=httpx2.Timeout(5, read=0.4))
    assert response.text == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.anyio
async def test_a_slow_upload_is_no_silence_of_the_server_in_async_code(new_async_client, server):
    @server.route("/header-first")
    async def header_first(request, response):
        if request.query["flush"] == "yes":
            await response.flush()
        await response.write(await request.read())

    async def slow():
        for piece in (b"a", b"b", b"c"):
            await asyncio.sleep(0.3)
            yield piece

    async with new_async_client(timeout=httpx2.Timeout(5, read=0.4)) as client:
        for flush in ("yes", "no"):
            url = server.url(f"/header-first?flush={flush}")
            assert (await client.post(url, content=slow())).text == "abc"


@pytest.fixture
def slow_reader(server):
    """The URL of a route that reads its body with a pause after each 300 KB."""

    @server.route("/slow-reader")
    async def slow_reader(request, response):
        total = 0
        pause_at = 300_000
        async for chunk in request:
            total += len(chunk)
            if total >= pause_at:
                pause_at += 300_000
                await asyncio.sleep(0.1)
        await response.write(str(total))

    return server.url("/slow-reader")


@pytest.mark.parametrize("kind", ["bytes", "iterator"])
def test_a_slow_reader_is_no_write_timeout_while_it_reads(client, slow_reader, kind):
    """The time-outs count for what is sent at once, not for the body as a whole."""
    body = bytes(3_000_000)
    content = body if kind == "bytes" else iter([body])
    timeout = httpx2.Timeout(5, write=0.5)  # the body takes 1 s, each piece of it 0.1 s
    assert client.post(slow_reader, content=content, timeout=timeout).text == "3000000"


@pytest.mark.parametrize("kind", ["bytes", "iterator"])
def test_a_server_that_reads_no_more_is_a_write_timeout(client, server, kind):
    ends = queue.SimpleQueue()

    @server.route("/reads-nothing")
    async def reads_nothing(request, response):
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ends.put(await why(error, response))
            raise

    body = bytes(3_000_000)
    content = body if kind == "bytes" else iter([body])
    with pytest.raises(httpx2.WriteTimeout, match="The write operation timed out") as caught:
        client.post(
            server.url("/reads-nothing"), content=content, timeout=httpx2.Timeout(5, write=0.3)
        )
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert_left(ends)


def test_no_timeout_means_none(client, server):
    @server.route("/late")
    async def late(request, response):
        await asyncio.sleep(0.2)
        await response.write("late")

    assert client.get(server.url("/late"), timeout=None).text == "late"


@pytest.mark.anyio
async def test_no_free_stream_is_a_pool_timeout(new_async_client, server, who):
    leave = []

    @server.route("/hold")
    async def hold(request, response):
        leave.append(asyncio.Event())
        await response.flush()
        await leave[-1].wait()

    async with new_async_client() as client:
        held = [
            await client.send(client.build_request("GET", server.url("/hold")), stream=True)
            for _ in range(MAX_STREAMS)
        ]
        with pytest.raises(httpx2.PoolTimeout) as caught:
            await client.get(who, timeout=httpx2.Timeout(5, pool=0.2))
        assert str(caught.value) == (
            "All streams that the server allows at once are in use, and none became free in 0.2 s."
        )
        assert isinstance(caught.value.__cause__, TimeoutError)
        await held.pop().aclose()
        assert (await client.get(who)).status_code == 200
        for response in held:
            await response.aclose()
