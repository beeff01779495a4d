"""Draws the pictures at the top of README and notebooks from three runs: `python -m tests.picture`.

The text that stands for the README's is written anew with it.
"""

import asyncio
import contextlib
import io
import re
import tempfile
import time
from pathlib import Path

import httpx2

from helpers.certificates import load_or_create
from helpers.client import HTTP3Transport
from helpers.display import sketch
from helpers.link import Link
from helpers.server import Server
from helpers.timeline import Timeline

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "notebooks" / "images" / "timeline.png"
IN_README = re.compile(r"!\[([^]]*)\]\(notebooks/images/timeline\.png\)")


def record(gap_s, folder):
    """The timelines of ten lines, `gap_s` apart: collected, flushed one by one, taken over."""
    credentials = load_or_create(folder)
    server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
    client = httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))

    @server.route("/no flush")
    async def no_flush(request, response):
        async for line in lines():
            await response.write(line)

    @server.route("/flush")
    async def flush(request, response):
        async for line in lines():
            await response.write(line)
            await response.flush()

    @server.route("/take over")
    async def take_over(request, response):
        async with await response.take_over() as stream:
            async for line in lines():
                await stream.write(line)

    async def lines():
        for number in range(10):
            yield b"data chunk #%d\n" % number
            await asyncio.sleep(gap_s)

    timelines = {}
    with server, client, contextlib.redirect_stdout(io.StringIO()):
        client.get(server.url("/flush"))  # so that no handshake is in the picture
        for name in ("no flush", "flush", "take over"):
            with client.stream("GET", server.url(f"/{name}")) as response:
                timelines[name] = Timeline.record(response)
    return timelines


def record_over_lines(delays_ms, gap_s, folder):
    """The timelines of ten lines over lines that take so long each way, with their handshakes."""
    credentials = load_or_create(folder)
    timelines = {}
    with Server(cert_file=credentials.cert_file, key_file=credentials.key_file) as server:

        @server.route("/")
        async def flush(request, response):
            for number in range(10):
                await response.write(b"data chunk #%d\n" % number)
                await response.flush()
                await asyncio.sleep(gap_s)

        for delay_ms in delays_ms:
            transport = HTTP3Transport(ca_file=credentials.ca_file)
            with (
                Link(server, delay_ms=delay_ms) as link,
                httpx2.Client(transport=transport) as client,
            ):
                started = time.perf_counter()
                with client.stream("GET", link.url()) as response:
                    came = [(time.perf_counter() - started, chunk) for chunk in response.iter_raw()]
                ended_s = time.perf_counter() - started
            timelines[f"{delay_ms} ms each way"] = Timeline(came, ended_s)
    return timelines


def main():
    """Record the three runs, store their pictures, and put what one shows into the README."""
    with tempfile.TemporaryDirectory() as folder:
        timelines = record(0.1, folder)
        over_lines = Timeline.compare(record_over_lines((0, 50, 200), 0.1, folder))
    picture = Timeline.compare(timelines)
    PICTURE.parent.mkdir(exist_ok=True)
    picture.save(PICTURE)
    timelines["flush"].plot("ten lines").save(PICTURE.with_name("flush.png"))
    for drawn in (sketch.files, sketch.stack, sketch.ways):
        drawn().save(PICTURE.with_name(f"{drawn.__name__}.png"))
    over_lines.save(PICTURE.with_name("line.png"))
    readme = README.read_text(encoding="utf-8")
    link = f"![{picture.alt}]({PICTURE.relative_to(ROOT).as_posix()})"
    README.write_text(IN_README.sub(link, readme), encoding="utf-8")
    print(picture.alt)


if __name__ == "__main__":
    main()
