"""Four programs in a terminal: `python -m helpers buffered`, or `takeover`, `upload`, `datagrams`.

Server and client run in this one process and talk HTTP/3 over loopback, or over a line with
distance and loss. Each of the ten lines is shown when it arrives, in datagrams perhaps not each;
read `buffered` and `takeover` to see who sends them, as in the article. With `upload` the client
does, and is told of each.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from helpers.certificates import load_or_create
from helpers.client import HTTP3Transport
from helpers.errors import UsageError
from helpers.exchange import Flusher, Request, Response
from helpers.link import Link
from helpers.server import Handler, Server

ANSWER_TIMEOUT_S = 30.0  # a line may lose the same packet again and again
INTERRUPTED = 130  # what shells report for Ctrl-C: 128 and the number of SIGINT


async def buffered(request: Request, response: Response) -> None:
    """Send ten lines through the response's buffer, which `flush` empties each time."""
    if not isinstance(response, Flusher):
        response.write_header(500)
        await response.write("streaming is not supported\n")
        return
    response.write_header(200)
    for number in range(10):
        await response.write(f"data chunk #{number}\n")
        await response.flush()
        await asyncio.sleep(0.1)


async def takeover(request: Request, response: Response) -> None:
    """Send ten lines on the stream itself, which has no buffer and is closed by its owner."""
    response.write_header(200)
    stream = await response.take_over()
    async with stream:
        for number in range(10):
            await stream.write(b"data chunk #%d\n" % number)
            await asyncio.sleep(0.1)


async def upload(request: Request, response: Response) -> None:
    """Answer each piece of a request's body, as soon as it is there."""
    async for piece in request:
        await response.write(b"the server has " + piece)
        await response.flush()


async def datagrams(request: Request, response: Response) -> None:
    """Send ten lines in datagrams beside the stream, each of which may get lost."""
    async with await response.take_over() as stream:
        for number in range(10):
            await stream.send_datagram(b"data chunk #%d\n" % number)
            await asyncio.sleep(0.1)


Client = Callable[[HTTP3Transport, str], Iterator[str]]


def read_body(transport: HTTP3Transport, url: str) -> Iterator[str]:
    """Yield the body of a response as it comes; raises httpx2.HTTPStatusError for an error."""
    client = httpx2.Client(transport=transport)
    with client.stream("GET", url) as response:
        response.raise_for_status()
        yield from response.iter_text()


def send_lines(transport: HTTP3Transport, url: str) -> Iterator[str]:
    """Send ten lines as they come into being, and yield the answer to each."""
    with transport.open_stream("POST", url, timeout_s=ANSWER_TIMEOUT_S) as stream:
        answers = iter(stream)
        for number in range(10):
            stream.write(b"data chunk #%d\n" % number)
            yield next(answers, b"").decode()
            time.sleep(0.1)
        stream.close()
        yield b"".join(answers).decode()


def read_datagrams(transport: HTTP3Transport, url: str) -> Iterator[str]:
    """Yield the datagrams beside a response's stream as they come."""
    with transport.open_stream("GET", url) as stream:
        yield from (datagram.decode() for datagram in stream.datagrams())


def show(handler: Handler, line: dict[str, Any] | None = None, ask: Client = read_body) -> None:
    """Serve a handler, ask for it, and print what `ask` yields, as it comes.

    It comes over a Link with the conditions of `line`, where there are some.
    """
    # The certificate is made for this run: what a client trusts must not outlive it.
    with tempfile.TemporaryDirectory() as directory:
        credentials = load_or_create(directory)
        server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
        server.route("/stream")(handler)
        client = contextlib.closing(HTTP3Transport(ca_file=credentials.ca_file))
        link = Link(server, **line) if line else contextlib.nullcontext(server)
        with server, link as end, client as transport:
            for text in ask(transport, end.url("/stream")):
                print(text, end="", flush=True)


def main() -> int:
    """Run the program that the command line names; return the exit code."""
    programs: dict[str, tuple[Handler, Client]] = {
        "buffered": (buffered, read_body),
        "takeover": (takeover, read_body),
        "upload": (upload, send_lines),
        "datagrams": (datagrams, read_datagrams),
    }
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    parser.add_argument("program", choices=programs)
    over = parser.add_argument_group("over a line", "without these, there is none in between")
    for option, meaning in {
        "--delay-ms": "what it takes each way (50, where only others are given)",
        "--loss": "the share of packets that it loses, such as 0.02",
        "--rate-mbit": "how much it carries, such as 10",
    }.items():
        over.add_argument(option, type=float, metavar="NUMBER", help=meaning)
    conditions = vars(parser.parse_args())
    handler, ask = programs[conditions.pop("program")]
    line = {name: value for name, value in conditions.items() if value is not None}
    try:
        show(handler, line, ask)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the lines has enough, as in `... | head -n 3`; nothing can be printed now.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
