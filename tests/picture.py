"""Draws the pictures at the top of README and notebooks from three runs: `python -m tests.picture`.

The text that stands for the README's is written anew with it.
"""

import asyncio
import contextlib
import io
import re
import tempfile
from pathlib import Path

import httpx2

from helpers.certificates import load_or_create
from helpers.client import HTTP3Transport
from helpers.display import sketch
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


def main():
    """Record the three runs, store their pictures, and put what one shows into the README."""
    with tempfile.TemporaryDirectory() as folder:
        timelines = record(0.1, folder)
    picture = Timeline.compare(timelines)
    PICTURE.parent.mkdir(exist_ok=True)
    picture.save(PICTURE)
    timelines["flush"].plot("ten lines").save(PICTURE.with_name("flush.png"))
    for drawn in (sketch.files, sketch.stack, sketch.ways):
        drawn().save(PICTURE.with_name(f"{drawn.__name__}.png"))
    readme = README.read_text(encoding="utf-8")
    link = f"![{picture.alt}]({PICTURE.relative_to(ROOT).as_posix()})"
    README.write_text(IN_README.sub(link, readme), encoding="utf-8")
    print(picture.alt)


if __name__ == "__main__":
    main()
