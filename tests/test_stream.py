"""Both ends of one stream: most in memory, with a clock of their own, a few with real sockets."""

import asyncio
import contextlib
import gc
import itertools
import math
import time
import warnings

import pytest
from aioquic.h3.connection import ErrorCode

from helpers.client import AsyncHTTP3Transport, HTTP3Transport
from helpers.connection import ConnectionState, new_configuration
from helpers.connection.aioquic_inside import STREAM_WINDOW_BYTES, quic
from helpers.connection.aioquic_inside.quic import UNSENT_LIMIT_BYTES
from helpers.errors import (
    ClientDisconnected,
    ConnectionLost,
    DatagramError,
    StreamReset,
    UsageError,
)
from helpers.exchange import Response
from helpers.server.listener import Listener
from helpers.stream import MAX_DATA_FRAME_BYTES, Half, HTTP3Stream
from helpers.stream.halves import MAX_WAITING_DATAGRAMS
from tests.pair import POST as REQUEST
from tests.pair import Pair

pytestmark = pytest.mark.anyio  # says nothing to tests that are not async

ANSWER = [(b":status", b"200")]
WAIT_S = 30.0


class Link:
    """A client's connection to a listener, on real sockets, and the streams that arrive there."""

    def __init__(self, credentials):
        configuration = new_configuration(is_client=False)
        configuration.load_cert_chain(credentials.cert_file, credentials.key_file)
        self._listener = Listener(configuration, self._accept, lambda stream: None)
        self._transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
        self._accepted = asyncio.Queue()

    def _accept(self, stream, fields, address):
        self._accepted.put_nowait(stream)

    async def __aenter__(self):
        self.port = await self._listener.bind("127.0.0.1", 0)
        return self

    async def streams(self):
        """The two ends of a new stream: the client's, and the server's."""
        ours = await self._transport.open_stream("POST", f"https://127.0.0.1:{self.port}/")
        return ours, await self.soon(self._accepted.get())

    async def soon(self, awaitable):
        return await asyncio.wait_for(awaitable, WAIT_S)

    async def __aexit__(self, *_):
        await self._transport.aclose()
        self._listener.close()


@pytest.fixture
async def link(credentials):
    async with Link(credentials) as link:
        yield link


@pytest.fixture
async def linked(link):
    """The client's and the server's end of one stream on real sockets; the header has come."""
    ours, theirs = await link.streams()
    theirs.sending.write_header(ANSWER)
    theirs.sending.flush()
    assert await link.soon(ours.read_header()) == ANSWER
    return ours, theirs


@pytest.fixture
async def pair(credentials):
    """On the loop of its test, where what is made waits."""
    return Pair(credentials).connect()


@pytest.fixture
async def ends(pair):
    """The client's and the server's end of one stream; the server's has sent its header."""
    ours, theirs = pair.streams()
    theirs.sending.write_header(ANSWER)
    theirs.sending.flush()
    assert await pair.soon(ours.read_header()) == ANSWER
    return ours, theirs


async def fill(pair, stream):
    """Return a task that writes to the server's end, once it waits for the client."""

    async def write_on():
        while True:
            await stream.write(bytes(64 * 1024))

    writing = asyncio.create_task(write_on())
    await pair.run(1.0)
    assert pair.server.quic.unacknowledged_bytes(stream.stream_id) > UNSENT_LIMIT_BYTES
    assert not writing.done()
    return writing


# ---- writing


async def test_each_write_leaves_at_once_as_one_data_frame(linked, link):
    ours, theirs = linked
    frames = []
    server = theirs._carrier
    sent = server.send_data
    server.send_data = lambda stream_id, data: (frames.append(data), sent(stream_id, data))
    for word in (b"one", b"two"):
        await theirs.write(word)
        assert await link.soon(anext(ours)) == word
    assert frames == [b"one", b"two"]


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
async def test_what_is_bytes_can_be_written(ends, data, pair):
    ours, theirs = ends
    await theirs.write(data)
    assert await pair.soon(anext(ours)) == b"bytes"


async def test_text_is_refused_with_the_remedy(ends):
    with pytest.raises(UsageError, match=r"A stream carries bytes: write\('words'\.encode\(\)\)"):
        await ends[1].write("words")


async def test_an_empty_write_sends_nothing_and_says_where_the_stream_has_ended(ends, pair):
    ours, theirs = ends
    await theirs.write(b"")
    await pair.run()
    assert ours.receiving.unread_bytes == 0
    await theirs.close()
    with pytest.raises(UsageError, match="finished"):
        await theirs.write(b"")


async def test_a_long_write_becomes_frames_that_wait_for_each_other(linked, link, monkeypatch):
    # On a busy machine a round trip takes as long as a line's, which has more in flight.
    monkeypatch.setattr(quic, "NEAR_S", math.inf)
    ours, theirs = linked
    server = theirs._carrier
    data = bytes(range(256)) * (4 * MAX_DATA_FRAME_BYTES // 256) + b"end"
    most = 0
    sent = server.send_data

    def send_and_look(stream_id, piece):
        nonlocal most
        assert len(piece) <= MAX_DATA_FRAME_BYTES
        sent(stream_id, piece)
        most = max(most, server.quic.unacknowledged_bytes(stream_id))

    server.send_data = send_and_look
    writing = asyncio.create_task(theirs.write(data))
    received = b""
    while len(received) < len(data):
        received += await link.soon(anext(ours))
    await link.soon(writing)
    assert received == data
    assert most <= UNSENT_LIMIT_BYTES + MAX_DATA_FRAME_BYTES + 100


async def test_a_write_that_was_cancelled_while_it_waited_harms_nobody(ends, pair):
    ours, theirs = ends
    writing = await fill(pair, theirs)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await theirs.close()
    body = await pair.soon(ours.read())
    assert len(body) % (64 * 1024) == 0
    assert not any(body)


async def test_a_writer_that_never_has_to_wait_lets_others_run(ends):
    _, theirs = ends
    others = 0

    async def count():
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    for _ in range(1000):
        await theirs.write(b"x")
    counting.cancel()
    assert others >= 10


# ---- closing


async def test_closing_finishes_one_half_and_twice_is_harmless(linked, link):
    ours, theirs = linked
    await ours.write(b"the question")
    await ours.close()
    await ours.close()
    assert await link.soon(theirs.read()) == b"the question"
    assert (ours.sending.state, ours.receiving.state) == (Half.FINISHED, Half.OPEN)
    await theirs.write(b"the answer")
    await theirs.close()
    assert await link.soon(ours.read()) == b"the answer"
    assert await link.soon(ours.read()) == b""
    assert not ours.is_open
    assert not theirs.is_open
    with pytest.raises(UsageError, match="Stream 0 is finished by its writer"):
        await theirs.write(b"more")


async def test_async_with_closes(ends, pair):
    ours, theirs = ends
    async with theirs:
        await theirs.write(b"all")
    assert await pair.soon(ours.read()) == b"all"
    # What the client would still send is of no use: it is asked to stop.
    await pair.run()
    with pytest.raises(StreamReset, match="STOP_SENDING, H3_NO_ERROR"):
        await ours.write(b"more")


async def test_async_with_resets_where_its_block_raised(ends, pair):
    ours, theirs = ends
    with contextlib.suppress(ZeroDivisionError):
        async with theirs:
            await theirs.write(b"half")
            raise ZeroDivisionError
    assert await pair.soon(anext(ours)) == b"half"
    with pytest.raises(StreamReset) as caught:
        await pair.soon(anext(ours))
    assert caught.value.error_code == ErrorCode.H3_INTERNAL_ERROR


async def test_trailers_go_both_ways(ends, pair):
    ours, theirs = ends
    await ours.write(b"question")
    await ours.close({"X-Sum": "8"})
    await theirs.write(b"answer")
    await theirs.close({"x-sum": "6"})
    assert await pair.soon(theirs.read()) == b"question"
    assert await pair.soon(ours.read()) == b"answer"
    assert theirs.trailers == [(b"x-sum", b"8")]
    assert ours.trailers == [(b"x-sum", b"6")]


async def test_trailers_of_a_request_that_nobody_holds_any_more_are_no_request(pair):
    ours, theirs = pair.streams()
    theirs.sending.write_header(ANSWER, end_stream=True)
    theirs.sending.flush()
    del theirs
    pair.requests.clear()
    assert list(pair.server.streams) == []
    await ours.close({"x-sum": "0"})
    assert await pair.soon(ours.read()) == b""
    await pair.run()
    assert pair.requests == []


# ---- reading


async def test_receive_gives_all_that_has_arrived_and_nothing_at_the_end(ends, pair):
    ours, theirs = ends
    await theirs.write(b"one")
    await theirs.write(b"two")
    await theirs.close()
    await pair.run()
    assert b"".join(await pair.soon(ours.receive())) == b"onetwo"
    assert await pair.soon(ours.receive()) == []
    assert [chunk async for chunk in ours] == []


async def test_reading_alone_lets_the_peer_go_on(ends, pair):
    """What is read is granted at once, not with some later packet."""
    ours, theirs = ends
    writing = await fill(pair, theirs)
    begun_at, read_bytes = pair.now, 0
    while read_bytes < 4 * STREAM_WINDOW_BYTES:
        read_bytes += sum(map(len, await pair.soon(ours.receive())))
    assert pair.now - begun_at < 0.1  # the next sign of life comes later
    writing.cancel()


async def test_a_read_that_was_cancelled_loses_nothing(ends, pair):
    ours, theirs = ends
    reading = asyncio.create_task(ours.receive())
    await asyncio.sleep(0)
    reading.cancel()
    await theirs.write(b"for the next one")
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await pair.soon(ours.receive()) == [b"for the next one"]


async def test_the_header_cannot_come_after_the_end(pair):
    ours, theirs = pair.streams()
    await theirs.close()
    with pytest.raises(StreamReset, match="FIN, H3_REQUEST_INCOMPLETE"):
        await pair.soon(ours.read_header())


# ---- the peer ends it


async def test_a_reset_comes_after_what_arrived_before_it(ends, pair):
    ours, theirs = ends
    await theirs.write(b"half of it")
    theirs.reset(ErrorCode.H3_INTERNAL_ERROR)
    assert await pair.soon(anext(ours)) == b"half of it"
    for _ in range(2):
        with pytest.raises(StreamReset) as caught:
            await pair.soon(anext(ours))
        assert str(caught.value) == (
            "The peer ended stream 0 with RESET_STREAM, H3_INTERNAL_ERROR (0x102)."
        )
    assert ours.receiving.state is Half.RESET
    await ours.write(b"the other half goes on")
    assert await pair.soon(anext(theirs)) == b"the other half goes on"


async def test_a_reset_wakes_who_waits_in_a_write(ends, pair):
    _, theirs = ends
    writing = await fill(pair, theirs)
    theirs.reset()
    with pytest.raises(UsageError, match="reset by its writer"):
        await pair.soon(writing)


async def test_a_server_whose_client_stops_reading_gets_client_disconnected(ends, pair):
    ours, theirs = ends
    writing = await fill(pair, theirs)
    ours.stop(0x123)
    with pytest.raises(ClientDisconnected) as caught:
        await pair.soon(writing)
    assert (caught.value.stream_id, caught.value.code) == (0, 0x123)
    assert str(caught.value) == (
        "The client of stream 0 has gone: it sent STOP_SENDING with unknown error (0x123)."
    )
    assert theirs.sending.state is Half.STOPPED
    assert pair.abandoned == [theirs]
    with pytest.raises(ClientDisconnected):
        await theirs.write(b"more")
    await theirs.close()


async def test_what_the_writer_was_busy_with_is_told_beside_its_client_s_leaving(ends, pair):
    ours, theirs = ends
    ours.cancel()
    await pair.run()

    async def look_up_and_write():
        try:
            raise LookupError("no such row")
        except LookupError:
            await theirs.write(b"sorry")

    with pytest.raises(ClientDisconnected) as caught:
        await look_up_and_write()
    assert isinstance(caught.value.__context__, LookupError)
    assert not caught.value.__suppress_context__


@pytest.mark.parametrize("code", [-1, 2**62, "0x10c", None])
@pytest.mark.parametrize("end", ["reset", "stop"])
async def test_what_is_no_error_code_harms_its_own_call_alone(ends, pair, end, code):
    ours, theirs = ends
    await ours.write(b"unread")
    await pair.run()
    with pytest.raises(UsageError, match=r"is no error code: .* RFC 9000 section 16"):
        getattr(theirs, end)(code)
    await theirs.write(b"it goes on")
    assert await pair.soon(anext(ours)) == b"it goes on"
    assert await pair.soon(anext(theirs)) == b"unread"
    getattr(theirs, end)(2**62 - 1)
    await pair.run()
    assert pair.client.lost is pair.server.lost is None


async def test_a_client_whose_server_stops_reading_gets_stream_reset(ends, pair):
    ours, theirs = ends
    theirs.stop(ErrorCode.H3_NO_ERROR)
    await pair.run()
    with pytest.raises(StreamReset, match=r"STOP_SENDING, H3_NO_ERROR \(0x100\)"):
        await ours.write(b"more")
    await theirs.write(b"the answer goes on")
    assert await pair.soon(anext(ours)) == b"the answer goes on"


async def test_what_was_not_read_is_dropped_by_stop(ends, pair):
    ours, theirs = ends
    await theirs.write(b"too late")
    await pair.run()
    assert ours.receiving.unread_bytes == 8
    ours.stop()
    assert ours.receiving.unread_bytes == 0
    assert await pair.soon(ours.receive()) == []


async def test_a_lost_connection_ends_both_halves_on_both_ends(ends, pair):
    ours, theirs = ends
    waiting = [asyncio.create_task(end.read()) for end in ends]
    pair.client.close(ErrorCode.H3_NO_ERROR, "the client was closed")
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await pair.soon(waiting[0])
    with pytest.raises(ClientDisconnected, match=r"stream 0 has gone: .*the client was closed"):
        await pair.soon(waiting[1])
    with pytest.raises(ConnectionLost):
        await ours.write(b"more")
    with pytest.raises(ClientDisconnected):
        await theirs.write(b"more")
    assert {end.sending.state for end in ends} == {Half.LOST}
    assert repr(ours) == "<HTTP3Stream 0: sending LOST, receiving LOST>"
    ours.cancel()
    await theirs.close()


async def test_the_end_is_told_before_the_draining_period_is_over(ends, pair):
    reading = asyncio.create_task(ends[1].read())
    await pair.run()
    pair.client.close()
    await pair.run()
    assert isinstance(reading.exception(), ClientDisconnected)
    assert pair.server.state is ConnectionState.CLOSING


async def test_an_error_of_this_side_is_raised_as_it_is_once(ends):
    """Such as one that the iterator of an upload raised."""
    ours, _ = ends
    error = ZeroDivisionError("while uploading")
    ours.receiving.fail(error, ErrorCode.H3_REQUEST_CANCELLED)
    with pytest.raises(ZeroDivisionError) as caught:
        await ours.read()
    assert caught.value is error
    for _ in range(2):
        with pytest.raises(UsageError) as again:
            await ours.read()
        assert str(again.value) == ("Stream 0 was given up: ZeroDivisionError('while uploading').")


# ---- waiting in vain


def futures():
    """How many futures, tasks too, something holds."""
    gc.collect()
    return sum(isinstance(thing, asyncio.Future) for thing in gc.get_objects())


async def wait_in_vain(wait, times):
    """Wait for something so many times, each time no longer than one turn of the loop."""
    for _ in range(times):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wait()
    await asyncio.sleep(0)  # the turn that the last one woke still holds its future


@pytest.mark.parametrize("what", ["write", "data", "all", "header", "datagram"])
async def test_waits_that_time_out_leave_nothing_behind(ends, pair, what):
    _, full = ends
    (await fill(pair, full)).cancel()
    silent, _ = pair.streams()
    await pair.run()
    wait = {
        "write": lambda: full.write(b"x"),
        "data": lambda: anext(silent),
        "all": silent.receive,
        "header": silent.read_header,
        "datagram": silent.receive_datagram,
    }[what]
    before = futures()
    await wait_in_vain(wait, times=100)
    assert futures() == before
    for half in (full.sending, silent.receiving):
        assert not half.is_awaited_by(asyncio.current_task())
        assert half._happened is None or not half._happened._waiters


async def test_waits_for_a_free_stream_that_time_out_leave_nothing_behind(link):
    (ours, theirs), *others = [await link.streams() for _ in range(128)]
    (driver,) = link._transport._all
    await asyncio.sleep(0)
    before = futures()
    await wait_in_vain(lambda: driver.open_stream(REQUEST), times=100)
    assert futures() == before
    assert not driver._may_open._waiters
    # And who waits next gets what becomes free.
    waiting = asyncio.create_task(driver.open_stream(REQUEST))
    for one, other in [(ours, theirs), *others]:
        one.cancel()
        other.cancel()
    assert (await link.soon(waiting)).stream_id == 4 * 128


# ---- what a learner sees


def public(thing):
    return [name for name in dir(thing) if not name.startswith("_")]


def test_a_stream_has_few_names():
    assert public(HTTP3Stream(None, 0)) == [
        "cancel",
        "close",
        "datagrams",
        "is_open",
        "read",
        "read_header",
        "receive",
        "receive_datagram",
        "receiving",
        "reset",
        "send_datagram",
        "sending",
        "stop",
        "stream_id",
        "trailers",
        "write",
    ]


def test_a_response_shows_what_a_handler_does_and_not_what_the_server_does():
    assert public(Response(HTTP3Stream(None, 0), "GET", "GET /")) == [
        "flush",
        "header_sent",
        "state",
        "status",
        "take_over",
        "write",
        "write_header",
        "write_trailers",
    ]


# ---- taken over and forgotten


def test_a_stream_taken_over_that_nobody_closes_is_reported():
    stream = HTTP3Stream(carrier=None, stream_id=44)
    stream.sending.take_over("GET /stream", discards_data=False)
    with pytest.warns(ResourceWarning) as caught:
        del stream
    assert str(caught[0].message) == (
        "Stream 44 of GET /stream was taken over and never closed: its client still waits. "
        "Use `async with stream:`."
    )


async def test_a_stream_that_was_closed_is_not_reported(ends):
    _, theirs = ends
    theirs.sending.take_over("GET /stream", discards_data=False)
    await theirs.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs.sending.warn_if_open()


# ---- datagrams


async def test_datagrams_go_both_ways_beside_the_stream(linked, link):
    ours, theirs = linked
    await ours.send_datagram(b"ping")
    assert await link.soon(theirs.receive_datagram()) == b"ping"
    for number in range(3):
        await theirs.send_datagram(b"pong %d" % number)
    assert [await link.soon(ours.receive_datagram()) for _ in range(3)] == [
        b"pong 0",
        b"pong 1",
        b"pong 2",
    ]


async def test_the_first_datagram_needs_no_round_trip(credentials):
    """The server's SETTINGS arrive with its handshake, before any request can leave."""
    for _ in range(10):
        async with Link(credentials) as link:
            ours, theirs = await link.streams()
            await ours.send_datagram(b"at once")
            assert await link.soon(theirs.receive_datagram()) == b"at once"


async def test_the_first_datagram_waits_for_settings_that_were_lost(credentials):
    from_server = itertools.count()
    drops = lambda is_from_client, _: not is_from_client and next(from_server) == 0  # noqa: E731
    pair = Pair(credentials, delay_s=0.05, drops=drops)
    while pair.client.state is not ConnectionState.OPEN:
        pair.pass_time(0.001)
    ours = pair.request(REQUEST, end_stream=False)
    assert pair.client.max_datagram_bytes(ours.stream_id) is None
    await pair.soon(ours.send_datagram(b"ping"))
    await pair.run(1)
    ((theirs, _),) = pair.requests
    assert await pair.soon(theirs.receive_datagram()) == b"ping"


async def test_who_waits_for_settings_is_told_that_they_never_come(ends, pair):
    ours, _ = ends
    pair.client._http._received_settings = None
    sending = asyncio.create_task(ours.send_datagram(b"ping"))
    await pair.run()
    assert not sending.done()
    pair.server.close()
    with pytest.raises(ConnectionLost):
        await pair.soon(sending)


async def test_a_datagram_that_fits_exactly_arrives_and_a_longer_one_is_refused(ends, pair):
    ours, theirs = ends
    limit_bytes = pair.client.max_datagram_bytes(ours.stream_id)
    assert limit_bytes > 1000
    with pytest.raises(DatagramError) as caught:
        await ours.send_datagram(bytes(limit_bytes + 1))
    assert caught.value.limit_bytes == limit_bytes
    assert str(caught.value) == (
        f"A datagram of {limit_bytes + 1} bytes does not fit: {limit_bytes} bytes at most on this "
        "connection. Send less, or write to the stream."
    )
    await ours.send_datagram(b"x" * limit_bytes)
    assert await pair.soon(theirs.receive_datagram()) == b"x" * limit_bytes
    await pair.run()


def test_a_peer_that_negotiated_no_datagrams_gets_none(server, credentials):
    """curl knows none."""
    requests = pytest.importorskip("curl_cffi").requests
    refused = []

    @server.route("/stream")
    async def handler(request, response):
        async with await response.take_over() as stream:
            try:
                await stream.send_datagram(b"ping")
            except DatagramError as error:
                refused.append((str(error), error.limit_bytes))
            await stream.write(b"the connection lives")

    with requests.Session(verify=str(credentials.ca_file), http_version="v3only") as curl:
        for _ in range(2):
            assert curl.get(server.url("/stream")).content == b"the connection lives"
    assert refused == [("The peer did not negotiate datagrams (RFC 9297 section 2.1.1).", 0)] * 2
    assert server.errors == []


async def test_of_too_many_datagrams_the_oldest_are_lost(ends, pair):
    ours, theirs = ends
    for number in range(MAX_WAITING_DATAGRAMS + 10):
        await theirs.send_datagram(b"%d" % number)
    await pair.run()
    await theirs.close()
    kept = [await pair.soon(ours.receive_datagram()) for _ in range(MAX_WAITING_DATAGRAMS)]
    assert kept == [b"%d" % number for number in range(10, MAX_WAITING_DATAGRAMS + 10)]
    with pytest.raises(UsageError, match="nothing comes"):
        await pair.soon(ours.receive_datagram())


async def test_a_datagram_of_text_is_refused_with_the_remedy(ends, pair):
    ours, theirs = ends
    with pytest.raises(
        UsageError, match=r"A datagram carries bytes: 'ping'\.encode\(\), not a str"
    ):
        await theirs.send_datagram("ping")
    await theirs.send_datagram(b"ping")
    assert await pair.soon(ours.receive_datagram()) == b"ping"


async def test_a_datagram_may_be_empty(ends, pair):
    ours, theirs = ends
    await theirs.send_datagram(b"")
    await theirs.send_datagram(b"next")
    assert [await pair.soon(ours.receive_datagram()) for _ in range(2)] == [b"", b"next"]


async def test_waiting_for_a_datagram_takes_as_long_as_it_is_told(linked, link):
    ours, theirs = linked
    started = time.perf_counter()
    with pytest.raises(TimeoutError) as caught:
        await ours.receive_datagram(timeout_s=0.05)
    assert 0.05 <= time.perf_counter() - started < 5
    assert str(caught.value) == (
        "No datagram came on stream 0 within 0.05 s. One that was lost never comes: go on without "
        "it."
    )
    await theirs.send_datagram(b"later")
    assert await ours.receive_datagram(timeout_s=30) == b"later"
    await theirs.send_datagram(b"there already")
    await theirs.write(b"after it")
    await link.soon(anext(ours))
    assert await ours.receive_datagram(timeout_s=0) == b"there already"


async def test_datagrams_come_one_after_the_other_until_the_end(ends, pair):
    ours, theirs = ends
    for number in range(3):
        await theirs.send_datagram(b"%d" % number)
    await theirs.close()

    async def all_of_them():
        return [datagram async for datagram in ours.datagrams()]

    assert await pair.soon(all_of_them()) == [b"0", b"1", b"2"]
    assert await pair.soon(all_of_them()) == []


async def test_datagrams_of_a_stream_that_breaks_off_end_with_the_reason(ends, pair):
    ours, theirs = ends
    theirs.reset()
    await pair.run()
    with pytest.raises(StreamReset, match="H3_REQUEST_CANCELLED"):
        await pair.soon(anext(ours.datagrams()))


def test_a_blocking_stream_waits_for_datagrams_as_it_is_told(server, credentials):
    @server.route("/count")
    async def count(request, response):
        async with await response.take_over() as stream:
            for number in range(3):
                await stream.send_datagram(b"%d" % number)
            assert await stream.receive_datagram(timeout_s=30) == b"enough"

    transport = HTTP3Transport(ca_file=credentials.ca_file)
    with contextlib.closing(transport), transport.open_stream("GET", server.url("/count")) as ours:
        assert ours.receive_datagram() == b"0"
        assert ours.receive_datagram(timeout_s=30) == b"1"
        datagrams = ours.datagrams()
        assert next(datagrams) == b"2"
        with pytest.raises(TimeoutError, match=r"No datagram came on stream 0 within 0\.05 s"):
            ours.receive_datagram(timeout_s=0.05)
        ours.send_datagram(b"enough")
        assert list(datagrams) == []
    assert server.errors == []


async def test_nobody_waits_for_a_datagram_that_cannot_come(ends, pair):
    ours, theirs = ends
    waiting = asyncio.create_task(ours.receive_datagram())
    await theirs.close()
    with pytest.raises(UsageError, match="Stream 0 is finished by its writer: nothing comes"):
        await pair.soon(waiting)


async def test_a_closed_stream_sends_no_datagram(ends):
    ours, _ = ends
    await ours.close()
    with pytest.raises(UsageError, match="finished by its writer"):
        await ours.send_datagram(b"ping")
