"""Three programs in a terminal: `python -m helpers buffered`, `... takeover` and `... upload`.

Server and client run in this one process and talk HTTP/3 over loopback, or over a line with
distance and loss. Each of the ten lines is shown when it arrives; read `buffered` and `takeover` to
see who sends them, as in the article. With `upload` the client does, and is told of each.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
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


def send_lines(transport: HTTP3Transport, url: str) -> None:
    """Send ten lines as they come into being, and print the answer to each."""
    with transport.open_stream("POST", url, timeout_s=ANSWER_TIMEOUT_S) as stream:
        answers = iter(stream)
        for number in range(10):
            stream.write(b"data chunk #%d\n" % number)
            print(next(answers, b"").decode(), end="", flush=True)
            time.sleep(0.1)
        stream.close()
        print(b"".join(answers).decode(), end="", flush=True)


def print_lines(transport: HTTP3Transport, url: str) -> None:
    """Ask for the lines, and print each when it comes."""
    with httpx2.Client(transport=transport).stream("GET", url) as response:
        response.raise_for_status()
        for text in response.iter_text():
            print(text, end="", flush=True)


def show(handler: Handler, line: dict[str, Any] | None = None) -> None:
    """Serve a handler, send it what it wants, and print what comes as it comes.

    It comes over a Link with the conditions of `line`, where there are some.
    """
    # The certificate is made for this run: what a client trusts must not outlive it.
    with tempfile.TemporaryDirectory() as directory:
        credentials = load_or_create(directory)
        server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
        server.route("/stream")(handler)
        transport = HTTP3Transport(ca_file=credentials.ca_file)
        link = Link(server, **line) if line else contextlib.nullcontext(server)
        ask = send_lines if handler is upload else print_lines
        with server, link as end, transport:
            ask(transport, end.url("/stream"))


def main() -> int:
    """Run the program that the command line names; return the exit code."""
    programs = {"buffered": buffered, "takeover": takeover, "upload": upload}
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
    program = programs[conditions.pop("program")]
    line = {name: value for name, value in conditions.items() if value is not None}
    try:
        show(program, line)
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
