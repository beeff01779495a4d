"""A browser in front of our server: real pages that fetch, upload, leave, and take the time."""

import asyncio
import hashlib
import itertools
import logging
import queue
import statistics
from logging.handlers import QueueHandler
from pathlib import Path

import pytest

from helpers.browser import add_page
from helpers.certificates import spki_sha256
from helpers.connection.aioquic_inside.quic import LOOPBACK_DATAGRAM_BYTES, QUICLayer
from helpers.errors import ClientDisconnected
from helpers.server import Server

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("needs the package chromium", allow_module_level=True)

PAUSE_MS = 100
CHUNKS = [f"chunk {number}\n" for number in range(10)]
WAIT_S = 30.0
BODY_BYTES = 8_000_000
PIECE = bytes(range(256)) * 256

# The page's own script reads the stream that the page's address names, and notes when each chunk
# came, in milliseconds since the request.
PAGE = """<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>A stream</title>
<pre id="text"></pre>
<script>
const text = document.getElementById("text");
async function readStream(path) {
  const started = performance.now();
  const response = await fetch(path);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const arrivals = [];
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return arrivals;
    arrivals.push(performance.now() - started);
    text.append(value);
  }
}
async function sha256(buffer) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", buffer));
  return Array.from(hash, byte => byte.toString(16).padStart(2, "0")).join("");
}
const finished = location.hash ? readStream(location.hash.slice(1)) : null;
</script>
"""


@pytest.fixture(scope="module")
def announced():
    """What Chromium announces as max_udp_payload_size, in bytes, for each connection."""
    sizes = []
    peer_max_udp_payload_bytes = QUICLayer._peer_max_udp_payload_bytes

    def remember(quic):
        sizes.append(peer_max_udp_payload_bytes(quic))
        return sizes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QUICLayer, "_peer_max_udp_payload_bytes", remember)
        yield sizes


@pytest.fixture(scope="module")
def site(credentials, announced):
    """A server with the page, for all tests: a browser is told its port when it starts."""
    with Server(cert_file=credentials.cert_file, key_file=credentials.key_file) as server:

        @server.route("/tests")
        async def page(request, response):
            response.write_header(200, {"content-type": "text/html; charset=utf-8"})
            await response.write(PAGE)

        yield server


@pytest.fixture(scope="module")
def browser(site, credentials, tmp_path_factory):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",  # it refuses to run as root with one
                f"--origin-to-force-quic-on=localhost:{site.port}",
                f"--ignore-certificate-errors-spki-list={spki_sha256(credentials.cert_file)}",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, site):
    page = browser.new_page()
    page.goto(site.url("/tests"))
    yield page
    page.close()


@pytest.fixture
def endless(site):
    """The path of a stream without end; and queues of how it ends, and of why, in the log."""
    ends, told = queue.SimpleQueue(), queue.SimpleQueue()
    logger, handler = logging.getLogger("helpers.server"), QueueHandler(told)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    @site.route("/endless")
    async def endless(request, response):
        try:
            for number in itertools.count():
                await response.write(f"number {number}\n")
                await response.flush()
                await asyncio.sleep(0.01)
        except BaseException as error:
            ends.put(error)
            raise

    yield "/endless", ends, told
    logger.removeHandler(handler)
    logger.setLevel(level)


def why_it_ended(ends, told):
    """It is cancelled where it waits for the time, and told where it waits for its client."""
    assert isinstance(ends.get(timeout=WAIT_S), asyncio.CancelledError | ClientDisconnected)
    lines = iter(lambda: told.get(timeout=WAIT_S).getMessage(), None)
    # On a busy machine a handler may also be said to block.
    return next(line for line in lines if line.startswith("GET /endless: The client of stream "))


def read_in_a_new_page(browser, url, path):
    """Open the page on a stream; return when its chunks came, its text, and the protocols."""
    page = browser.new_page()
    page.goto(f"{url}#{path}")
    arrivals_ms = page.evaluate("finished")
    text = page.text_content("#text")
    protocols = page.evaluate(
        """performance.getEntries().filter(entry => "nextHopProtocol" in entry)
           .map(entry => [new URL(entry.name).pathname, entry.nextHopProtocol])"""
    )
    page.close()
    return arrivals_ms, text, dict(protocols)


def assert_one_by_one(arrivals_ms):
    """Ten arrivals about 100 ms apart; where the machine is busy, two may come together."""
    gaps_ms = [later - earlier for earlier, later in itertools.pairwise(arrivals_ms)]
    assert len(CHUNKS) / 2 < len(arrivals_ms) <= len(CHUNKS)
    assert PAUSE_MS / 5 < statistics.median(gaps_ms) < PAUSE_MS * 5


def test_a_page_reads_a_stream_chunk_by_chunk(browser, site):
    @site.route("/flushed")
    async def flushed(request, response):
        for chunk in CHUNKS:
            await response.write(chunk)
            await response.flush()
            await asyncio.sleep(PAUSE_MS / 1000)

    arrivals_ms, text, protocols = read_in_a_new_page(browser, site.url("/tests"), "/flushed")
    assert text == "".join(CHUNKS)
    assert_one_by_one(arrivals_ms)
    assert protocols == {"/tests": "h3", "/flushed": "h3"}


def test_a_page_reads_a_stream_that_was_taken_over(browser, site):
    @site.route("/taken")
    async def taken(request, response):
        async with await response.take_over() as stream:
            for chunk in CHUNKS:
                await stream.write(chunk.encode())
                await asyncio.sleep(PAUSE_MS / 1000)

    arrivals_ms, text, protocols = read_in_a_new_page(browser, site.url("/tests"), "/taken")
    assert text == "".join(CHUNKS)
    assert_one_by_one(arrivals_ms)
    assert protocols == {"/tests": "h3", "/taken": "h3"}


def test_without_flush_a_page_gets_all_at_the_end(browser, site):
    @site.route("/collected")
    async def collected(request, response):
        for chunk in CHUNKS:
            await response.write(chunk)
            await asyncio.sleep(PAUSE_MS / 1000)

    arrivals_ms, text, _ = read_in_a_new_page(browser, site.url("/tests"), "/collected")
    assert text == "".join(CHUNKS)
    assert arrivals_ms[0] >= len(CHUNKS) * PAUSE_MS
    assert arrivals_ms[-1] - arrivals_ms[0] < PAUSE_MS


def test_server_sent_events_reach_an_event_source(page, site):
    """Each event is sent when the page has said that it has the one before."""
    received = asyncio.Queue()

    @site.route("/events")
    async def events(request, response):
        response.write_header(200, {"content-type": "text/event-stream"})
        for number in range(3):
            await response.write(f"event: tick\nid: {number}\ndata: number {number}\n\n")
            await response.flush()
            await received.get()

    @site.route("/next")
    async def next_event(request, response):
        received.put_nowait(True)

    ticks = page.evaluate("""new Promise((resolve, reject) => {
        const source = new EventSource("/events"), ticks = [];
        source.addEventListener("tick", event => {
            ticks.push([event.lastEventId, event.data]);
            fetch("/next");
            if (ticks.length === 3) { source.close(); resolve(ticks); }
        });
        source.onerror = () => reject("the stream broke");
    })""")
    assert ticks == [[str(number), f"number {number}"] for number in range(3)]


def test_a_pages_cookies_are_one_header(page, site):
    """A browser sends a line for each (RFC 9114 section 4.2.1)."""

    @site.route("/cookies")
    async def cookies(request, response):
        assert request.headers.get_list("cookie") == [request.headers["cookie"]]
        await response.write(request.headers["cookie"])

    said = page.evaluate("""(async () => {
        for (const name of ["one", "two", "three"])
            document.cookie = `${name}=${name.repeat(20)}; path=/`;
        return await (await fetch("/cookies")).text();
    })()""")
    assert said == "; ".join(f"{name}={name * 20}" for name in ("one", "two", "three"))


def test_a_page_uploads(page, site):
    @site.route("/upload")
    async def upload(request, response):
        await response.write(hashlib.sha256(await request.read()).hexdigest())

    sent, received = page.evaluate("""(async () => {
        const body = new Uint8Array(3000000).map((_, index) => index % 251);
        const response = await fetch("/upload", {method: "POST", body});
        return [await sha256(body), await response.text()];
    })()""")
    assert sent == received


def test_a_page_reads_a_big_body_in_datagrams_that_it_takes(page, site, announced):
    @site.route("/body")
    async def body(request, response):
        for _ in range(BODY_BYTES // len(PIECE)):
            await response.write(PIECE)

    received = page.evaluate("""(async () => {
        const response = await fetch("/body");
        return sha256(await response.arrayBuffer());
    })()""")
    assert received == hashlib.sha256(PIECE * (BODY_BYTES // len(PIECE))).hexdigest()
    assert announced
    assert all(size < LOOPBACK_DATAGRAM_BYTES for size in announced)


def test_a_reset_mid_body_is_an_error_in_the_page(page, site):
    read = asyncio.Event()

    @site.route("/breaks")
    async def breaks(request, response):
        await response.write("the first half")
        await response.flush()
        await read.wait()
        raise RuntimeError("no second half")

    @site.route("/next")
    async def next_half(request, response):
        read.set()

    seen, error = page.evaluate("""(async () => {
        const response = await fetch("/breaks");
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        const {value} = await reader.read();
        fetch("/next");
        try {
            await reader.read();
        } catch (error) {
            return [value, error.name];
        }
    })()""")
    assert (seen, error) == ("the first half", "TypeError")


def test_a_page_that_aborts_ends_the_handler(page, endless):
    path, ends, told = endless
    page.evaluate(
        """async path => {
            const controller = new AbortController();
            const response = await fetch(path, {signal: controller.signal});
            await response.body.getReader().read();
            controller.abort();
        }""",
        path,
    )
    assert "H3_REQUEST_CANCELLED" in why_it_ended(ends, told)


def test_a_page_that_is_closed_ends_the_handler(browser, site, endless):
    path, ends, told = endless
    page = browser.new_page()
    page.goto(site.url("/tests#") + path)
    page.wait_for_function("""text.textContent.includes("number 3")""")
    page.close()
    assert " has gone: " in why_it_ended(ends, told)


def test_the_page_of_the_notebook_shows_the_bar(browser, site):
    """As notebook 02 opens it, with an event each time that the page has shown the one before."""
    shown = asyncio.Queue()

    @site.route("/progress")
    async def progress(request, response):
        response.write_header(200, {"content-type": "text/event-stream"})
        for percent in (20, 60, 100):
            await response.write(f"event: progress\ndata: {percent}\n\n")
            await response.flush()
            await shown.get()
        await response.write("event: done\ndata: all of it\n\n")

    @site.route("/shown")
    async def one_more(request, response):
        shown.put_nowait(True)

    page = browser.new_page()
    page.goto(add_page(site, "/progress"))
    for percent in (20, 60, 100):
        page.wait_for_function("percent => bar.value === percent", arg=percent)
        page.evaluate("fetch('/shown')")
    page.wait_for_function("text.textContent === 'done: all of it'")
    page.wait_for_function("protocol.textContent === 'h3'")
    page.close()
