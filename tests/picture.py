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
from helpers.display import sketch, style
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


def line():
    """A client, a server and the line between them, with what may happen to a packet on it."""
    blue, orange, _, purple = style.SERIES
    parts = [
        sketch.Box(30, 20, 150, "client", "at your end", blue, height=90),
        sketch.Box(720, 20, 150, "server", "far away", orange, height=90),
        sketch.Arrow((190, 34), (710, 34), "a packet takes its time, each way", blue),
        sketch.Arrow((710, 70), (480, 70), "another gets lost", purple),
        sketch.Arrow((710, 104), (190, 104), "and what came later goes on, or waits", orange),
    ]
    words = (
        "A client, a server far away, and the line between them: a packet takes its time each way."
    )
    return sketch.draw(130, parts, words, "A line with distance and loss")


def datagrams():
    """The same messages on a stream, as one row, and in datagrams, each for itself."""
    blue, orange, _, purple = style.SERIES
    parts = [
        sketch.Box(30, 20, 150, "server", "", blue, height=150),
        sketch.Box(720, 20, 150, "client", "", orange, height=150),
        sketch.Arrow((190, 50), (710, 50), "a stream: 1, 2, 3, 4 in one row", blue),
    ]
    for number, y in enumerate((84, 108, 132, 156), start=1):
        is_lost = number == 3
        end, colour = (450, purple) if is_lost else (710, orange)
        parts.append(sketch.Arrow((190, y), (end, y), f"datagram {number}", colour))
    words = (
        "A server sends the messages 1, 2, 3 and 4 to a client: on a stream, as one row, and in "
        "datagrams, of which each is an arrow of its own, and one ends half-way."
    )
    return sketch.draw(190, parts, words, "Messages on a stream, and in datagrams")


def main():
    """Record the three runs, store their pictures, and put what one shows into the README."""
    with tempfile.TemporaryDirectory() as folder:
        timelines = record(0.1, folder)
    picture = Timeline.compare(timelines)
    PICTURE.parent.mkdir(exist_ok=True)
    picture.save(PICTURE)
    timelines["flush"].plot("ten lines").save(PICTURE.with_name("flush.png"))
    for drawn in (sketch.files, sketch.stack, sketch.ways, sketch.both_ways):
        drawn().save(PICTURE.with_name(f"{drawn.__name__}.png"))
    line().save(PICTURE.with_name("line.png"))
    datagrams().save(PICTURE.with_name("datagrams.png"))
    readme = README.read_text(encoding="utf-8")
    link = f"![{picture.alt}]({PICTURE.relative_to(ROOT).as_posix()})"
    README.write_text(IN_README.sub(link, readme), encoding="utf-8")
    print(picture.alt)


if __name__ == "__main__":
    main()
