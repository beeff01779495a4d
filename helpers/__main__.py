"""The article's two programs in a terminal: `python -m helpers buffered` and `... takeover`.

Server and client run in this one process and talk HTTP/3 over loopback, or over a line with
distance and loss. Each of the ten lines is shown when it arrives; read `buffered` and `takeover` to
see who sends them.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from typing import Any

import httpx2

from helpers.certificates import load_or_create
from helpers.client import HTTP3Transport
from helpers.errors import UsageError
from helpers.exchange import Flusher, Request, Response
from helpers.link import Link
from helpers.server import Handler, Server

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


def show(handler: Handler, line: dict[str, Any] | None = None) -> None:
    """Serve a handler, ask for it, and print what comes as it comes.

    It comes over a Link with the conditions of `line`, where there are some.
    """
    # The certificate is made for this run: what a client trusts must not outlive it.
    with tempfile.TemporaryDirectory() as directory:
        credentials = load_or_create(directory)
        server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
        server.route("/stream")(handler)
        client = httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file))
        link = Link(server, **line) if line else contextlib.nullcontext(server)
        with server, link as end, client, client.stream("GET", end.url("/stream")) as response:
            response.raise_for_status()
            for text in response.iter_text():
                print(text, end="", flush=True)


def main() -> int:
    """Run the program that the command line names; return the exit code."""
    programs = {"buffered": buffered, "takeover": takeover}
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
