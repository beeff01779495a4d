"""The response as a handler writes it, and what of it arrives: rows of frames, headers, ends."""

import array
import asyncio
import gc
import queue
import re
import threading
import time
import warnings
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx2
import pytest
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamReset

from helpers.client import HTTP3Transport
from helpers.errors import ContentLengthError, UsageError
from helpers.exchange import Flusher, ResponseState

WAIT_S = 30.0


@pytest.fixture
def gate():
    """What a handler waits for with `await passing(gate)`, until the test calls set_result."""
    return Future()


def passing(gate):
    return asyncio.wrap_future(gate)


@pytest.fixture
def transport(credentials):
    transport = HTTP3Transport(ca_file=credentials.ca_file)
    yield transport
    transport.close()


def serve(server, handler):
    """Route a handler; return its URL, and a list that receives what the handler raised."""
    raised = []

    @server.route("/")
    async def noting(request, response):
        try:
            await handler(request, response)
        except Exception as error:
            raised.append(error)
            raise

    return server.url("/"), raised


DATE = re.compile(rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


def without_date(fields):
    """A final response's fields but for its date, which must be there (RFC 9110, 6.6.1)."""
    (date,) = [value for name, value in fields if name == b"date"]
    assert DATE.fullmatch(date)
    return [field for field in fields if field[0] != b"date"]


def chunks_of(client, url):
    """The DATA frames of a small response, and its headers."""
    with client.stream("GET", url) as response:
        return list(response.iter_raw()), response.headers


# ---- aioquic's own client: it closes the connection over what RFC 9114 forbids


class Layer(H3Connection):
    """aioquic's, but for what it takes amiss against RFC 9110 section 8.6."""

    def _check_content_length(self, stream):
        """HEAD and 304 tell the length of a body that is not sent."""


class Peer(QuicConnectionProtocol):
    """Keeps every HTTP/3 event, every reset and the end of the connection."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._http = Layer(self._quic)
        self.events = asyncio.Queue()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated | StreamReset):
            self.events.put_nowait(event)
        for http_event in self._http.handle_event(event):
            self.events.put_nowait(http_event)

    async def ask(self, request):
        stream_id = self._quic.get_next_available_stream_id()
        if isinstance(request, bytes):
            self._quic.send_stream_data(stream_id, request)
        else:
            method, path = (part.encode() for part in request)
            origin = [(b":scheme", b"https"), (b":authority", b"localhost")]
            fields = [(b":method", method), *origin, (b":path", path)]
            self._http.send_headers(stream_id, fields, end_stream=True)
        self.transmit()
        events = []
        while not events or not is_last(events[-1]):
            events.append(await asyncio.wait_for(self.events.get(), WAIT_S))
        return events


def is_last(event):
    return isinstance(event, ConnectionTerminated | StreamReset) or event.stream_ended


def ask_as_aioquic(server, credentials, *requests):
    """The events of each request, (method, path) or bytes, one after the other."""

    async def ask_all():
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["h3"], server_name="localhost"
        )
        configuration.load_verify_locations(str(credentials.ca_file))
        quic = QuicConnection(configuration=configuration)
        udp, peer = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Peer(quic), local_addr=("127.0.0.1", 0)
        )
        try:
            peer.connect(("127.0.0.1", server.port))
            await peer.wait_connected()
            return [await peer.ask(request) for request in requests]
        finally:
            peer.close()
            await peer.wait_closed()
            udp.close()

    return asyncio.run(ask_all())


# ---- what leaves when


def test_what_is_never_flushed_comes_as_one_frame_with_its_length(server, client):
    async def handler(request, response):
        for number in range(10):
            await response.write(f"chunk {number}\n")
            await asyncio.sleep(0.005)

    url, _ = serve(server, handler)
    chunks, headers = chunks_of(client, url)
    assert chunks == [b"".join(b"chunk %d\n" % number for number in range(10))]
    assert headers["content-length"] == "80"


def test_flush_sends_while_the_handler_goes_on(server, client, gate):
    async def handler(request, response):
        await response.write("early ")
        await response.flush()
        await passing(gate)
        await response.write("late")

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        body = response.iter_raw()
        assert next(body) == b"early "
        gate.set_result(None)
        assert next(body) == b"late"
        assert list(body) == []
        assert "content-length" not in response.headers


def test_flush_sends_the_header_alone(server, client, gate):
    async def handler(request, response):
        response.write_header(202, {"x-word": "now"})
        await response.flush()
        await passing(gate)

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        assert (response.status_code, response.headers["x-word"]) == (202, "now")
        gate.set_result(None)
        assert response.read() == b""


def test_flushed_chunks_come_in_order_and_on_time(server, client):
    flushed_at, arrived_at = [], []

    async def handler(request, response):
        for number in range(10):
            await response.write(f"{number}")
            await response.flush()
            flushed_at.append(time.perf_counter())
            await asyncio.sleep(0.02)

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        for number, chunk in enumerate(response.iter_raw()):
            arrived_at.append(time.perf_counter())
            assert chunk == b"%d" % number
    # Most are there before the next one is made.
    pairs = zip(flushed_at[1:], arrived_at, strict=False)
    assert sum(arrived < next_flushed for next_flushed, arrived in pairs) > 4
    assert arrived_at[-1] - arrived_at[0] > 0.18 / 5


def test_4096_bytes_stay(server, client):
    async def handler(request, response):
        await response.write(b"x" * 4096)
        await asyncio.sleep(0.02)
        await response.write(b"")

    url, _ = serve(server, handler)
    chunks, headers = chunks_of(client, url)
    assert b"".join(chunks) == b"x" * 4096
    # The header has not left before the end either, or there would be no length.
    assert headers["content-length"] == "4096"


def test_4097_bytes_leave(server, client, gate):
    async def handler(request, response):
        await response.write(b"x" * 4096)
        await response.write(b"y")
        await passing(gate)
        await response.write(b"z")

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        body = response.iter_raw()
        come = b""
        while len(come) < 4097:  # in pieces where datagrams are small: a busy machine seems far
            come += next(body)
        assert come == b"x" * 4096 + b"y"
        gate.set_result(None)
        assert list(body) == [b"z"]
        assert "content-length" not in response.headers


def test_after_a_flush_the_buffer_is_a_buffer_still(server, client, gate):
    async def handler(request, response):
        await response.flush()
        await response.write("a")
        await asyncio.sleep(0.02)
        await response.write("b")
        await response.flush()
        await passing(gate)

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        body = response.iter_raw()
        assert next(body) == b"ab"
        gate.set_result(None)
        assert list(body) == []


def test_a_handler_that_writes_nothing_answers_200_with_length_0(server, client):
    async def handler(request, response):
        pass

    url, _ = serve(server, handler)
    response = client.get(url)
    assert (response.status_code, response.headers["content-length"]) == (200, "0")


@pytest.mark.parametrize("data", ["déjà", b"vu", bytearray(b"vu"), memoryview(b"vu")])
def test_write_takes_text_and_bytes(server, client, data):
    async def handler(request, response):
        await response.write(data)

    url, _ = serve(server, handler)
    assert client.get(url).content == (data.encode() if isinstance(data, str) else bytes(data))


def test_a_view_of_larger_items_counts_in_bytes(server, client):
    numbers = array.array("I", [1, 2, 3])

    async def handler(request, response):
        await response.write(memoryview(numbers))

    url, _ = serve(server, handler)
    assert client.get(url).content == numbers.tobytes()


def test_write_refuses_what_is_neither_text_nor_bytes(server, client):
    async def handler(request, response):
        await response.write(17)

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert str(raised[0]) == "write takes text or bytes, not int."


# ---- status and headers


def test_the_first_write_means_200(server, client):
    async def handler(request, response):
        await response.write("x")
        response.write_header(404)

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert isinstance(raised[0], UsageError)
    assert str(raised[0]) == (
        "The header was set already, with status 200. Call write_header once, before the first "
        "write."
    )


def test_a_second_header_is_refused(server, client):
    async def handler(request, response):
        response.write_header(201)
        response.write_header(202)

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert str(raised[0]) == (
        "The header was set already, with status 201. Call write_header once, before the first "
        "write."
    )


def test_a_header_after_the_header_left_is_refused(server, client):
    async def handler(request, response):
        await response.flush()
        response.write_header(201)

    url, raised = serve(server, handler)
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get(url)
    assert isinstance(raised[0], UsageError)
    assert str(raised[0]) == ("write_header: the header has left already. Call it before `flush`.")


@pytest.mark.parametrize("status", [99, 101, 600])
def test_a_status_that_http3_does_not_have_is_refused(server, client, status):
    async def handler(request, response):
        response.write_header(status)

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert str(raised[0]) == f"{status} is no status of HTTP/3 (RFC 9114 section 4.5)."


def test_header_names_leave_in_lower_case(server, credentials):
    async def handler(request, response):
        response.write_header(200, {"X-Mixed-Case": " padded ", "X-Number": 7})
        await response.write("x")

    serve(server, handler)
    (events,) = ask_as_aioquic(server, credentials, ("GET", "/"))
    assert without_date(events[0].headers) == [
        (b":status", b"200"),
        (b"x-mixed-case", b"padded"),
        (b"x-number", b"7"),
        (b"content-length", b"1"),
    ]


def test_a_name_may_come_twice(server, client):
    async def handler(request, response):
        response.write_header(200, [("set-cookie", "a=1"), ("set-cookie", "b=2")])

    url, _ = serve(server, handler)
    assert client.get(url).headers.get_list("set-cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"a b": "x"}, "'a b': 'x' is no header (RFC 9110 section 5)."),
        ({":status": "204"}, "':status': '204' is no header (RFC 9110 section 5)."),
        ({"x": "a\nb"}, "'x': 'a\\nb' is no header (RFC 9110 section 5)."),
        (
            {"Connection": "close"},
            "HTTP/3 has no 'Connection' header (RFC 9114 section 4.2). Leave it out.",
        ),
        ({"content-length": "ten"}, "content-length must be a number of bytes, not 'ten'."),
        (
            [("content-length", 1), ("Content-Length", 2)],
            "content-length must be a number of bytes, not '1, 2'.",
        ),
    ],
)
def test_a_header_that_would_break_the_stream_is_refused(server, client, headers, message):
    async def handler(request, response):
        response.write_header(200, headers)

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert isinstance(raised[0], UsageError)
    assert str(raised[0]) == message


def test_a_header_section_that_is_announced_too_large_is_refused_at_once(server, credentials):
    # No more of it comes than its length.
    frame_header = encode_uint_var(FrameType.HEADERS) + encode_uint_var(65 * 1024)
    (events,) = ask_as_aioquic(server, credentials, frame_header)
    assert [event.headers for event in events] == [[(b":status", b"431")]]


# ---- answers without a body


def test_head_runs_the_handler_and_sends_no_body(server, client):
    async def handler(request, response):
        response.write_header(200, {"x-method": request.method})
        await response.write("four")
        await response.flush()
        await response.write("five" * 2000)

    url, raised = serve(server, handler)
    response = client.head(url)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["x-method"] == "HEAD"
    assert "content-length" not in response.headers  # nor would GET have one, after a flush
    assert not raised


def test_head_is_told_what_get_would_be(server, client):
    async def handler(request, response):
        await response.write("hello")

    url, raised = serve(server, handler)
    get, head = client.get(url), client.head(url)
    assert get.headers["content-length"] == head.headers["content-length"] == "5"
    assert set(get.headers) == set(head.headers)
    assert not raised


@pytest.mark.parametrize(
    ("method", "status", "headers", "text", "length"),
    [
        ("HEAD", 200, {}, "hello", b"5"),
        ("HEAD", 200, {}, "", None),  # a handler that knows of HEAD; GET may have a body
        ("HEAD", 200, {"content-length": "5"}, "hello", b"5"),
        ("HEAD", 200, {"content-length": "5"}, "", b"5"),
        ("GET", 204, {}, "", None),
        ("GET", 304, {}, "", None),
        ("GET", 304, {"content-length": "5"}, "", b"5"),
    ],
)
def test_an_answer_without_body_tells_its_length_and_keeps_the_connection(
    server, credentials, method, status, headers, text, length
):
    async def handler(request, response):
        response.write_header(status, headers)
        await response.write(text)

    _, raised = serve(server, handler)
    answers = ask_as_aioquic(server, credentials, (method, "/"), ("GET", "/unknown"))
    assert [type(event) for event in answers[0]] == [HeadersReceived]
    assert dict(answers[0][0].headers)[b":status"] == b"%d" % status
    assert dict(answers[0][0].headers).get(b"content-length") == length
    assert dict(answers[1][0].headers)[b":status"] == b"404"
    assert not raised


@pytest.mark.parametrize("status", [204, 304])
def test_a_body_where_there_can_be_none_is_refused(server, client, status):
    async def handler(request, response):
        response.write_header(status)
        await response.write("body")

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert str(raised[0]) == f"A {status} response has no body (RFC 9110 section 6.4.1)."


def test_a_204_with_a_length_is_refused(server, client):
    async def handler(request, response):
        response.write_header(204, {"content-length": "5"})

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert str(raised[0]) == (
        "A 204 response has no content-length (RFC 9110 section 8.6). Leave it out."
    )


# ---- a declared length that is wrong


def test_a_body_longer_than_declared_raises_and_resets(server, client):
    async def handler(request, response):
        response.write_header(200, {"content-length": 5})
        await response.write("12345")
        await response.flush()
        await response.write("6")

    url, raised = serve(server, handler)
    with (
        pytest.raises(httpx2.RemoteProtocolError, match=r"H3_INTERNAL_ERROR \(0x102\)"),
        client.stream("GET", url) as response,
    ):
        response.read()
    assert isinstance(raised[0], ContentLengthError)
    assert str(raised[0]) == (
        "content-length says 5 bytes, this write makes it 6. The client sees a reset, not a cut "
        "body."
    )
    assert server.errors == raised


def test_a_body_longer_than_declared_cannot_be_hidden_by_the_handler(server, client):
    async def handler(request, response):
        response.write_header(200, {"content-length": 5})
        try:
            await response.write("123456")
        except ContentLengthError:
            assert response.state is ResponseState.BROKEN

    url, raised = serve(server, handler)
    with pytest.raises(httpx2.RemoteProtocolError, match="H3_INTERNAL_ERROR"):
        client.get(url)
    assert not raised


def test_a_body_shorter_than_declared_raises_and_resets(server, client):
    async def handler(request, response):
        response.write_header(200, {"content-length": 5})
        await response.write("1234")

    url, _ = serve(server, handler)
    with pytest.raises(httpx2.RemoteProtocolError, match=r"H3_INTERNAL_ERROR \(0x102\)"):
        client.get(url)
    assert [str(error) for error in server.errors] == [
        "content-length says 5 bytes, 4 were written. The client sees a reset, not a short body."
    ]


def test_a_body_as_long_as_declared_arrives(server, client):
    async def handler(request, response):
        response.write_header(200, {"content-length": 5})
        await response.flush()
        await response.write("12345")

    url, _ = serve(server, handler)
    response = client.get(url)
    assert (response.text, response.headers["content-length"]) == ("12345", "5")


def test_a_write_that_was_cut_off_ends_in_a_reset(server, client):
    # Somebody's timeout strikes while the client reads nothing: half of the data has left.
    cut_off = threading.Event()

    async def handler(request, response):
        try:
            async with asyncio.timeout(0.05):
                await response.write(bytes(10_000_000))
        except TimeoutError:
            cut_off.set()

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        assert cut_off.wait(WAIT_S)
        with pytest.raises(httpx2.RemoteProtocolError, match="H3_INTERNAL_ERROR"):
            response.read()


# ---- taking over


def test_take_over_sends_the_header_and_what_was_collected(server, client, gate):
    async def handler(request, response):
        response.write_header(203, {"x-by": "handler"})
        await response.write("collected ")
        async with await response.take_over() as stream:
            await passing(gate)
            await stream.write(b"written")

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        assert (response.status_code, response.headers["x-by"]) == (203, "handler")
        assert "content-length" not in response.headers
        body = response.iter_raw()
        assert next(body) == b"collected "
        gate.set_result(None)
        assert list(body) == [b"written"]


def test_take_over_means_200_where_no_header_was_set(server, client, gate):
    async def handler(request, response):
        async with await response.take_over():
            await passing(gate)

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        assert response.status_code == 200
        gate.set_result(None)
        assert response.read() == b""


def test_each_write_to_the_stream_is_a_frame_at_once(server, client, gate):
    async def handler(request, response):
        async with await response.take_over() as stream:
            for number in range(3):
                await stream.write(b"%d" % number)
            await passing(gate)

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        body = response.iter_raw()
        assert [next(body) for _ in range(3)] == [b"0", b"1", b"2"]
        gate.set_result(None)
        assert list(body) == []


def test_after_take_over_the_response_does_nothing_more(server, client):
    said = []

    async def handler(request, response):
        async with await response.take_over() as stream:
            calls = {
                "write": response.write("x"),
                "flush": response.flush(),
                "take_over": response.take_over(),
            }
            for name, call in calls.items():
                with pytest.raises(UsageError, match=f"^{name}: stream {stream.stream_id} was"):
                    await call
                said.append(name)
            for name in ("write_header", "write_trailers"):
                with pytest.raises(UsageError, match=f"^{name}: stream {stream.stream_id} was"):
                    getattr(response, name)({})
                said.append(name)
            await stream.write(b"alive")

    url, raised = serve(server, handler)
    response = client.get(url)
    assert (raised, response.text, len(said)) == ([], "alive", 5)


def test_the_remedy_is_named_after_take_over(server, client):
    async def handler(request, response):
        async with await response.take_over():
            await response.write("x")

    url, raised = serve(server, handler)
    with pytest.raises(httpx2.RemoteProtocolError, match="H3_INTERNAL_ERROR"):
        client.get(url)
    assert str(raised[0]) == (
        "write: stream 0 was taken over. Write to the stream that take_over returned, not to the "
        "response."
    )


def test_the_stream_outlives_the_handler_until_its_owner_closes_it(server, client, gate):
    returned = threading.Event()
    tasks = []

    async def finish_later(stream):
        async with stream:
            await passing(gate)
            await stream.write(b" and after")

    async def handler(request, response):
        stream = await response.take_over()
        await stream.write(b"before")
        tasks.append(asyncio.create_task(finish_later(stream)))
        tasks[0].add_done_callback(lambda _: tasks.clear())
        asyncio.current_task().add_done_callback(lambda _: returned.set())

    url, _ = serve(server, handler)
    with client.stream("GET", url) as response:
        body = response.iter_raw()
        assert next(body) == b"before"
        assert returned.wait(WAIT_S)
        gate.set_result(None)
        assert list(body) == [b" and after"]


def test_a_stream_that_answers_head_carries_no_body(server, credentials):
    async def handler(request, response):
        async with await response.take_over() as stream:
            await stream.write(b"body")

    _, raised = serve(server, handler)
    answers = ask_as_aioquic(server, credentials, ("HEAD", "/"), ("GET", "/"))
    # FIN comes alone, or with the header.
    bodies = [b"".join(event.data for event in events[1:]) for events in answers]
    assert bodies == [b"", b"body"]
    assert not raised


def test_a_response_that_has_no_body_cannot_be_taken_over(server, client):
    async def handler(request, response):
        response.write_header(204)
        await response.take_over()

    url, raised = serve(server, handler)
    assert client.get(url).status_code == 500
    assert str(raised[0]) == "A 204 response has no body (RFC 9110 section 6.4.1)."


@pytest.fixture
def resource_warnings(monkeypatch):
    """A queue of the ResourceWarnings of all threads."""
    seen = queue.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        monkeypatch.setattr(warnings, "showwarning", lambda warning, *_: seen.put(warning))
        yield seen


def test_a_stream_that_was_dropped_open_warns_and_names_its_route(
    server, client, resource_warnings
):
    async def handler(request, response):
        await response.take_over()

    url, _ = serve(server, handler)
    with client.stream("GET", url):
        gc.collect()
        warning = resource_warnings.get(timeout=WAIT_S)
    assert isinstance(warning, ResourceWarning)
    assert str(warning) == (
        "Stream 0 of GET / was taken over and never closed: its client still waits. Use `async "
        "with stream:`."
    )


def test_a_stream_that_is_open_when_the_server_stops_warns_once(server, client, resource_warnings):
    kept = []

    async def handler(request, response):
        kept.append(await response.take_over())

    url, _ = serve(server, handler)
    with client.stream("GET", url):
        server.stop(grace_s=0)
        assert str(resource_warnings.get_nowait()).startswith("Stream 0 of GET / was taken over")
    kept.clear()
    gc.collect()
    assert resource_warnings.empty()


def test_a_stream_that_was_closed_warns_of_nothing(server, client, resource_warnings):
    async def handler(request, response):
        stream = await response.take_over()
        await stream.close()

    url, _ = serve(server, handler)
    assert client.get(url).content == b""
    server.stop()
    gc.collect()
    assert resource_warnings.empty()


def test_a_block_that_raises_resets_its_stream(server, client):
    async def handler(request, response):
        async with await response.take_over() as stream:
            await stream.write(b"half")
            raise RuntimeError("in the block")

    url, raised = serve(server, handler)
    with client.stream("GET", url) as response:
        body = response.iter_raw()
        assert next(body) == b"half"
        with pytest.raises(httpx2.RemoteProtocolError, match="H3_INTERNAL_ERROR"):
            next(body)
    assert server.errors == raised


def test_each_final_answer_has_its_date(server, client):
    """RFC 9110 section 6.6.1."""

    @server.route("/taken-over")
    async def taken_over(request, response):
        async with await response.take_over() as stream:
            await stream.write(b"x")

    @server.route("/flushed")
    async def flushed(request, response):
        await response.flush()

    @server.route("/fails", methods=["GET"])
    async def fails(request, response):
        response.write_header(200, {"date": "Mon, 01 Jan 2001 00:00:00 GMT"})
        raise ZeroDivisionError

    answers = [client.get(server.url(path)) for path in ("/taken-over", "/flushed", "/fails", "/-")]
    answers.append(client.post(server.url("/fails")))
    assert [answer.status_code for answer in answers] == [200, 200, 500, 404, 405]
    now = datetime.now(UTC)
    for answer in answers:
        (date,) = answer.headers.get_list("date")
        assert abs(now - parsedate_to_datetime(date)) < timedelta(minutes=5)
    server.errors.clear()


def test_a_date_that_the_handler_sets_is_kept(server, client):
    async def handler(request, response):
        response.write_header(200, {"Date": "Mon, 01 Jan 2001 00:00:00 GMT"})

    url, _ = serve(server, handler)
    assert client.get(url).headers.get_list("date") == ["Mon, 01 Jan 2001 00:00:00 GMT"]


# ---- what comes before and after: 1xx, trailers


def test_an_interim_response_leaves_at_once(server, credentials):
    async def handler(request, response):
        response.write_header(103, {"link": "</style.css>"})
        await asyncio.sleep(0.02)
        response.write_header(200)
        await response.write("x")

    serve(server, handler)
    (events,) = ask_as_aioquic(server, credentials, ("GET", "/"))
    headers = [event.headers for event in events if isinstance(event, HeadersReceived)]
    assert headers[0] == [(b":status", b"103"), (b"link", b"</style.css>")]
    assert without_date(headers[1]) == [(b":status", b"200"), (b"content-length", b"1")]


def test_our_client_skips_interim_responses(server, client):
    async def handler(request, response):
        response.write_header(100)
        response.write_header(103)
        await response.write("final")

    url, _ = serve(server, handler)
    response = client.get(url)
    assert (response.status_code, response.text) == (200, "final")


def test_trailers_follow_the_body(server, credentials):
    async def handler(request, response):
        await response.write("body")
        response.write_trailers({"X-Checksum": "17"})

    serve(server, handler)
    (events,) = ask_as_aioquic(server, credentials, ("GET", "/"))
    assert [type(event) for event in events] == [HeadersReceived, DataReceived, HeadersReceived]
    assert without_date(events[0].headers) == [(b":status", b"200")]
    assert events[2].headers == [(b"x-checksum", b"17")]


def test_the_client_reads_trailers_at_the_end(server, client):
    async def handler(request, response):
        await response.write("body")
        await response.flush()
        response.write_trailers({"x-checksum": 17})

    url, raised = serve(server, handler)
    with client.stream("GET", url) as response:
        assert response.extensions["trailers"] == {}
        assert response.read() == b"body"
        assert response.extensions["trailers"] == {"x-checksum": "17"}
    assert not raised


def test_trailers_that_cannot_be_sent_reset_the_stream(server, client):
    async def handler(request, response):
        await response.write("body")
        await response.flush()
        response.write_trailers({"x-huge": "x" * 70_000})

    url, _ = serve(server, handler)
    with pytest.raises(httpx2.RemoteProtocolError, match="H3_INTERNAL_ERROR"):
        client.get(url)
    assert len(server.errors) == 1


def test_a_header_that_cannot_be_sent_is_a_500(server, client):
    async def handler(request, response):
        response.write_header(200, {"x-huge": "x" * 70_000})

    url, _ = serve(server, handler)
    assert [client.get(url).status_code for _ in range(2)] == [500, 500]
    assert len(server.errors) == 2


# ---- Flusher


class WithoutFlush:
    """A wrapper as middleware writes them, which forgot one method."""

    def __init__(self, response):
        self.write_header = response.write_header
        self.write = response.write


async def only_when_flushable(request, response):
    if not isinstance(response, Flusher):
        response.write_header(500)
        await response.write("streaming is not supported")
        return
    await response.write("streams")
    await response.flush()


def test_a_response_is_a_flusher(server, client):
    url, _ = serve(server, only_when_flushable)
    response = client.get(url)
    assert (response.status_code, response.text) == (200, "streams")


def test_a_wrapper_that_hides_flush_is_none(server, client):
    async def handler(request, response):
        await only_when_flushable(request, WithoutFlush(response))

    url, _ = serve(server, handler)
    response = client.get(url)
    assert (response.status_code, response.text) == (500, "streaming is not supported")


# ---- the request


def test_a_request_tells_what_was_asked(server, client):
    seen = []

    @server.route("/caf\u00e9 \u2615")
    async def handler(request, response):
        seen.append(request)

    client.put(server.url("/caf%C3%A9%20%E2%98%95?a=1&a=2&b=%20"), headers={"X-Word": "yes"})
    (request,) = seen
    assert (request.method, request.path) == ("PUT", "/caf\u00e9 \u2615")
    assert request.query.multi_items() == [("a", "1"), ("a", "2"), ("b", " ")]
    assert request.headers["x-word"] == "yes"
    assert request.headers["host"] == f"localhost:{server.port}"
    host, port = request.client
    assert host == "127.0.0.1"
    assert port != server.port


def test_a_body_is_read_as_it_arrives(server, transport):
    async def handler(request, response):
        async for chunk in request:
            await response.write(chunk.upper())
            await response.flush()
        await response.write(str(dict(request.trailers)))

    url, _ = serve(server, handler)
    with transport.open_stream("POST", url) as stream:
        body = iter(stream)
        stream.write(b"one")
        assert next(body) == b"ONE"
        stream.write(b"two")
        assert next(body) == b"TWO"
        stream.close({"x-sum": "6"})
        assert list(body) == [b"{'x-sum': '6'}"]


def test_read_returns_the_whole_body(server, client):
    async def handler(request, response):
        await response.write(str(len(await request.read())))

    url, _ = serve(server, handler)
    assert client.post(url, content=bytes(300_000)).text == "300000"


@pytest.mark.parametrize("path", ["/%ff", "/%00"])
def test_a_path_that_is_no_text_gets_400(server, client, path):
    assert client.get(server.url(path)).status_code == 400
    assert client.get(server.url("/unknown")).status_code == 404
    assert server.errors == []


def test_what_is_flushed_leaves_before_the_handler_goes_on(server, client):
    """A handler that blocks after its first flush keeps the loop, not what it has flushed."""
    arrived, waited = threading.Event(), queue.SimpleQueue()

    @server.route("/blocking")
    async def blocking(request, response):
        await response.write("first")
        await response.flush()
        waited.put(arrived.wait(WAIT_S))

    with client.stream("GET", server.url("/blocking")) as response:
        assert next(response.iter_bytes()) == b"first"
        arrived.set()
    assert waited.get(timeout=2 * WAIT_S)
