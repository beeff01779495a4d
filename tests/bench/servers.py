"""One server process: `python -m tests.bench.servers KIND CERT_FILE KEY_FILE`.

It prints its UDP port, and how long it took to start, as JSON when it is ready. The peers are
written as their documentation suggests, with default settings.
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

from tests.bench.lifeline import end_with_stdin
from tests.bench.scenarios import PATHS, answer

HEADER = {"content-type": "application/octet-stream"}


def serve_ours(cert_file: str, key_file: str) -> None:
    """Run `helpers.server.Server`, as a notebook does."""
    from helpers.server import Server

    server = Server(cert_file=cert_file, key_file=key_file)

    async def handler(request, response):
        response.write_header(200, HEADER)
        query = dict(request.query)
        await answer(request.path, query, request, response.write, response.flush)

    for path in PATHS:
        server.route(path)(handler)
    start_s = time.perf_counter()
    server.start()
    _announce(server.port, time.perf_counter() - start_s)
    threading.Event().wait()


def serve_aioquic(cert_file: str, key_file: str) -> None:
    """Run a plain server on aioquic's asyncio API."""
    from aioquic.asyncio import serve
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    from tests.bench.plain import PlainServer

    async def main():
        configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
        configuration.load_cert_chain(cert_file, key_file)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))  # aioquic does not say which port it got
            port = sock.getsockname()[1]
        start_s = time.perf_counter()
        await serve("127.0.0.1", port, configuration=configuration, create_protocol=PlainServer)
        _announce(port, time.perf_counter() - start_s)
        await asyncio.Event().wait()

    asyncio.run(main())


def serve_hypercorn(cert_file: str, key_file: str) -> None:
    """Run hypercorn with a small ASGI application."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    config = Config()
    config.certfile, config.keyfile = cert_file, key_file
    config.bind = "127.0.0.1:0"
    config.quic_bind = f"fd://{sock.detach()}"
    config.errorlog = None
    # The socket is bound, so what a client sends from now on waits for hypercorn.
    _announce(port)
    asyncio.run(serve(_asgi_app, config, shutdown_trigger=_never))


async def _never() -> None:
    await asyncio.Event().wait()


async def _asgi_app(scope: dict, receive, send) -> None:
    if scope["type"] != "http":
        return
    headers = [(name.encode(), value.encode()) for name, value in HEADER.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    query = dict(parse_qsl(scope["query_string"].decode()))
    await answer(scope["path"], query, _asgi_body(receive), write, _flush_nothing)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _asgi_body(receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _flush_nothing() -> None:
    """Each ASGI body message leaves at once."""


def _announce(port: int, start_s: float | None = None) -> None:
    figures = {} if start_s is None else {"start_ms": start_s * 1000}
    print(json.dumps({"port": port, **figures}), flush=True)


KINDS = {"ours": serve_ours, "aioquic": serve_aioquic, "hypercorn": serve_hypercorn}

if __name__ == "__main__":
    end_with_stdin()
    KINDS[sys.argv[1]](*sys.argv[2:4])
