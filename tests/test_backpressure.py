"""A slow reader slows down its writer, from one end to the other, and nobody else.

Memory is that of real processes. Each test prints its figures; `pytest -rP` shows them.
"""

import asyncio
import contextlib
import math
import statistics
import threading
import time

import httpx2
import pytest

from helpers.client import AsyncHTTP3Transport
from helpers.connection.aioquic_inside import STREAM_WINDOW_BYTES
from helpers.connection.aioquic_inside.quic import UNSENT_LIMIT_BYTES
from tests.peers import MB, PIECE, Growth, Peer, has_settled

UNREAD_MB = 200
# What is read to its end: twenty times what may be held of it.
WHOLE_MB = 80
# A writer that has not moved for so long waits for its reader.
QUIET_S = 0.5
CONCURRENT_STREAMS = 128  # what aioquic allows a peer (quic/connection.py 328)

pytestmark = pytest.mark.usefixtures("one_connection")


@pytest.fixture
def serving(credentials):
    """A server in a process of its own."""
    with Peer("serve", credentials.cert_file, credentials.key_file) as server:
        server.url = f"https://localhost:{server.line()['port']}"
        yield server


@pytest.fixture
def progress(serving, client):
    """What the handlers of that server say of themselves, each time it is called."""

    def ask():
        return client.get(serving.url + "/progress").json()

    ask()  # the first request is not part of any measurement
    return ask


@pytest.mark.parametrize("reader", ["stop_reading", "stop_reading_with_curl"])
@pytest.mark.parametrize("after_mb", [0, 200], ids=["at its first bytes", "after a fast phase"])
def test_200_mb_for_a_reader_that_stopped_stay_with_the_handler(
    serving, progress, credentials, reader, after_mb
):
    growth = Growth(serving)
    url = f"{serving.url}/download?mb={after_mb + UNREAD_MB}"
    with Peer(reader, url, credentials.ca_file, after_mb) as stopped:
        read_mb = stopped.line()["read_bytes"] / MB
        reader_growth = Growth(stopped)
        growth.watch_until(has_settled(lambda: progress()["moved_bytes"]["/download"], QUIET_S))
        reader_growth.look()
        now = progress()
        written_mb = now["moved_bytes"]["/download"] / MB
        print(
            f"{reader}: read {read_mb:.2f} MB of {after_mb + UNREAD_MB}; the handler wrote "
            f"{written_mb:.1f} MB, the server grew by {growth.mb(serving):.1f} MB, "
            f"the reader by {reader_growth.mb(stopped):.1f} MB"
        )
        assert now["running"]["/download"] == 1
        assert read_mb < written_mb < read_mb + 4
        assert growth.mb(serving) <= 4
        assert reader_growth.mb(stopped) <= 4


def test_a_reader_that_goes_on_gets_all_of_it(serving, progress, credentials):
    growth = Growth(serving)
    url = f"{serving.url}/download?mb={WHOLE_MB}"
    with Peer("stop_reading", url, credentials.ca_file) as reader:
        reader.line()
        growth.watch_until(has_settled(lambda: progress()["moved_bytes"]["/download"], QUIET_S))
        reader.go_on()
        began_at = time.perf_counter()
        growth.watch_until(lambda: progress()["running"]["/download"] == 0)
        read_bytes = reader.line()["read_bytes"]
        rate = WHOLE_MB / (time.perf_counter() - began_at)
        print(f"all {WHOLE_MB} MB at {rate:.0f} MB/s, server +{growth.mb(serving):.1f} MB")
        assert read_bytes == WHOLE_MB * MB // len(PIECE) * len(PIECE)
        assert growth.mb(serving) <= 4


def test_a_large_upload_into_a_slow_handler_stays_with_its_client(serving, progress, credentials):
    url = f"{serving.url}/upload?pause_s=0.01"
    with Peer("upload", url, credentials.ca_file, WHOLE_MB) as uploader:
        uploader.line()
        growth = Growth(serving, uploader)
        uploader.go_on()
        began_at = time.perf_counter()
        answers = []
        threading.Thread(target=lambda: answers.append(uploader.line())).start()
        growth.watch_until(lambda: answers)
        took_s = time.perf_counter() - began_at
        print(
            f"upload of {WHOLE_MB} MB in {took_s:.1f} s: the server grew by "
            f"{growth.mb(serving):.1f} MB, the client by {growth.mb(uploader):.1f} MB"
        )
        assert answers == [{"status": 200, "read_bytes": WHOLE_MB * MB // len(PIECE) * len(PIECE)}]
        assert growth.mb(serving) <= 8
        assert growth.mb(uploader) <= 8


def test_an_upload_into_a_handler_that_stopped_reading_waits(serving, progress, credentials):
    url = f"{serving.url}/upload?pause_s=3600"
    with Peer("upload", url, credentials.ca_file, UNREAD_MB) as uploader:
        uploader.line()
        growth = Growth(serving, uploader)
        uploader.go_on()
        growth.watch_until(lambda: progress()["moved_bytes"]["/upload"])
        growth.watch_until(has_settled(uploader.cpu_s, QUIET_S))
        print(
            f"upload of {UNREAD_MB} MB that nobody reads: the server grew by "
            f"{growth.mb(serving):.1f} MB, the client by {growth.mb(uploader):.1f} MB"
        )
        assert progress()["moved_bytes"]["/upload"] < MB
        assert growth.mb(serving) <= 8
        assert growth.mb(uploader) <= 8


@pytest.fixture
def producer(server):
    """A route /endless, and how many bytes its handler has written."""
    written = []

    @server.route("/endless")
    async def endless(request, response):
        while True:
            await response.write(PIECE)
            written.append(len(PIECE))

    return lambda: sum(written)


def test_a_notebook_that_sleeps_in_its_loop_stops_the_handler(server, client, producer):
    with client.stream("GET", server.url("/endless")) as response:
        for _chunk in response.iter_raw():
            settled = has_settled(producer, QUIET_S)
            while not settled():
                time.sleep(0.01)
            break
        print(f"the handler stopped at {producer() / MB:.2f} MB")
        assert producer() < 4 * MB


def test_the_handler_goes_on_as_far_as_its_client_has_read(server, client, producer, monkeypatch):
    """Each time the reader stops, the writer is ahead by windows, never by more."""
    # On a busy machine a round trip takes as long as a line's, whose windows grow.
    monkeypatch.setattr("helpers.connection.aioquic_inside.quic.NEAR_S", math.inf)
    # One window is in the hands of the `for` loop, one on its way there, and the rest is unsent.
    ahead_limit = 2 * STREAM_WINDOW_BYTES + UNSENT_LIMIT_BYTES + 2 * len(PIECE)
    read_bytes = 0
    ahead = []
    with client.stream("GET", server.url("/endless")) as response:
        chunks = response.iter_raw()
        for target_bytes in (MB, 5 * MB, 10 * MB):
            while read_bytes < target_bytes:
                read_bytes += len(next(chunks))
            settled = has_settled(producer, QUIET_S / 2)
            while not settled():
                time.sleep(0.01)
            ahead.append(producer() - read_bytes)
    print(f"ahead of its reader by {[f'{size / MB:.2f} MB' for size in ahead]}")
    assert all(0 < size <= ahead_limit for size in ahead)


# Far more streams than the connection's own window has room for: the rest is credit.
MANY = 36


# aioquic looks at each open stream for each packet: beside 36 of them a transfer takes twice as
# long. The machine may be five times as slow at one moment as at another.
@pytest.mark.parametrize(("stalled", "most_times"), [(1, 5), (MANY, 10)])
def test_siblings_of_stalled_streams_go_on_at_full_speed(
    server, client, producer, stalled, most_times
):
    body = PIECE * 160  # 10 MB

    @server.route("/body")
    async def answer(request, response):
        for start in range(0, len(body), len(PIECE)):
            await response.write(body[start : start + len(PIECE)])

    def download_s():
        began_at = time.perf_counter()
        assert client.get(server.url("/body")).content == body
        return time.perf_counter() - began_at

    alone_s = statistics.median(download_s() for _ in range(3))
    with contextlib.ExitStack() as stack:
        for _ in range(stalled):
            stack.enter_context(client.stream("GET", server.url("/endless")))
        settled = has_settled(producer, QUIET_S)
        while not settled():
            time.sleep(0.01)
        beside_s = statistics.median(download_s() for _ in range(3))
    print(
        f"10 MB: {alone_s * 1000:.0f} ms alone, {beside_s * 1000:.0f} ms "
        f"beside {stalled} that stalled"
    )
    assert beside_s < most_times * alone_s


@pytest.mark.anyio
async def test_uploads_that_nobody_reads_do_not_hold_up_another(server, credentials):
    arrived = []

    @server.route("/ignores")
    async def ignore(request, response):
        arrived.append(request.stream_id)
        await asyncio.Event().wait()

    @server.route("/reads")
    async def read(request, response):
        await response.write(str(len(await request.read())))

    async def pieces():
        while True:
            yield PIECE

    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport, timeout=20) as client:
        ignored = [
            asyncio.create_task(client.post(server.url("/ignores"), content=pieces()))
            for _ in range(MANY)
        ]
        async with asyncio.timeout(10):
            while len(arrived) < MANY:  # noqa: ASYNC110 - they come on another thread's loop
                await asyncio.sleep(0.01)
        answer = await client.post(server.url("/reads"), content=bytes(5 * MB))
        assert answer.text == str(5 * MB)
        assert not any(task.done() for task in ignored)
        for task in ignored:
            task.cancel()
        await asyncio.wait(ignored)


@pytest.mark.anyio
async def test_the_129th_request_waits_for_a_free_stream(server, credentials):
    arrived, release = asyncio.Queue(), {}
    loop = asyncio.get_running_loop()

    @server.route("/wait")
    async def wait(request, response):
        number = request.query["number"]
        release[number] = (asyncio.get_running_loop(), asyncio.Event())
        loop.call_soon_threadsafe(arrived.put_nowait, number)
        await release[number][1].wait()
        await response.write(number)

    def let_go(number):
        handler_loop, event = release[number]
        handler_loop.call_soon_threadsafe(event.set)

    transport = AsyncHTTP3Transport(ca_file=credentials.ca_file)
    async with httpx2.AsyncClient(transport=transport, timeout=20) as client:

        def get(number):
            return asyncio.create_task(client.get(server.url("/wait"), params={"number": number}))

        tasks = [get(number) for number in range(CONCURRENT_STREAMS)]
        first = [await asyncio.wait_for(arrived.get(), 10) for _ in range(CONCURRENT_STREAMS)]
        waiting, cancelled = get("129th"), get("130th")
        await asyncio.sleep(0.1)
        assert arrived.empty()

        cancelled.cancel()
        assert not waiting.done()
        let_go("0")
        assert await asyncio.wait_for(arrived.get(), 5) == "129th"
        let_go("129th")
        assert (await waiting).text == "129th"
        for number in first[1:]:
            let_go(number)
        answers = await asyncio.gather(*tasks)
        assert [answer.text for answer in answers] == [str(number) for number in range(128)]
        streams = [answer.extensions["stream_id"] for answer in answers]
        assert streams == list(range(0, 4 * CONCURRENT_STREAMS, 4))
        assert (await waiting).extensions["stream_id"] == 4 * CONCURRENT_STREAMS
