"""The clients under one small interface, so that a workload is written once.

A client is one connection (curl's: as many as `connections` asks for). `get` and `post` call
`on_data(bytes)` with each piece of the body as it arrives, and return when the body has ended.
A client for which waiting on many streams takes more than `get` has a `hold` too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

OnData = Callable[[bytes], None]
TIMEOUT_S = 60.0
NIQUESTS_HTTP_3 = 30


class Client(Protocol):
    """One connection to one server."""

    async def get(self, path: str, on_data: OnData) -> None: ...
    async def post(self, path: str, pieces: Iterable[bytes], on_data: OnData) -> None: ...


class _Ours:
    def __init__(self, client, origin: str) -> None:
        self._client = client
        self._origin = origin

    async def get(self, path: str, on_data: OnData) -> None:
        await self._send("GET", path, None, on_data)

    async def post(self, path: str, pieces: Iterable[bytes], on_data: OnData) -> None:
        await self._send("POST", path, _aiter(pieces), on_data)

    async def _send(self, method, path, content, on_data):
        url = self._origin + path
        async with self._client.stream(method, url, content=content) as response:
            response.raise_for_status()
            async for chunk in response.aiter_raw():
                on_data(chunk)


async def _aiter(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@asynccontextmanager
async def connect_ours(port: int, ca_file: str) -> AsyncIterator[Client]:
    """Yield httpx2's asynchronous client on our transport."""
    import httpx2

    from helpers.client import AsyncHTTP3Transport

    transport = AsyncHTTP3Transport(ca_file=ca_file)
    async with httpx2.AsyncClient(transport=transport, timeout=TIMEOUT_S) as client:
        yield _Ours(client, f"https://localhost:{port}")


class _OursSync:
    """Blocks the workload's loop, so it suits workloads that do one thing at a time."""

    def __init__(self, client, origin: str) -> None:
        self._client = client
        self._origin = origin

    async def get(self, path: str, on_data: OnData) -> None:
        self._send("GET", path, None, on_data)

    async def post(self, path: str, pieces: Iterable[bytes], on_data: OnData) -> None:
        self._send("POST", path, iter(pieces), on_data)

    def _send(self, method, path, content, on_data):
        with self._client.stream(method, self._origin + path, content=content) as response:
            response.raise_for_status()
            for chunk in response.iter_raw():
                on_data(chunk)


@asynccontextmanager
async def connect_ours_sync(port: int, ca_file: str) -> AsyncIterator[Client]:
    """Yield httpx2's synchronous client on our transport, as the notebooks use it."""
    import httpx2

    from helpers.client import HTTP3Transport

    transport = HTTP3Transport(ca_file=ca_file)
    with httpx2.Client(transport=transport, timeout=TIMEOUT_S) as client:
        yield _OursSync(client, f"https://localhost:{port}")


class _Aioquic:
    def __init__(self, protocol) -> None:
        self._protocol = protocol

    async def get(self, path: str, on_data: OnData) -> None:
        async for chunk in self._protocol.stream("GET", path):
            on_data(chunk)

    async def post(self, path: str, pieces: Iterable[bytes], on_data: OnData) -> None:
        async for chunk in self._protocol.stream("POST", path, pieces):
            on_data(chunk)


@asynccontextmanager
async def connect_aioquic(port: int, ca_file: str) -> AsyncIterator[Client]:
    """Yield a plain client on aioquic's asyncio API."""
    from aioquic.asyncio import connect
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    from tests.bench.plain import PlainClient

    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name="localhost"
    )
    configuration.load_verify_locations(ca_file)
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=PlainClient
    ) as protocol:
        yield _Aioquic(protocol)


class _Curl:
    def __init__(self, multi, origin: str, ca_file: str) -> None:
        self._multi = multi
        self._origin = origin
        self._ca_file = ca_file

    async def get(self, path: str, on_data: OnData) -> None:
        await self._perform(path, on_data, None)

    async def post(self, path: str, pieces: Iterable[bytes], on_data: OnData) -> None:
        await self._perform(path, on_data, b"".join(pieces))

    async def _perform(self, path: str, on_data: OnData, body: bytes | None) -> None:
        from curl_cffi import Curl, CurlHttpVersion, CurlInfo, CurlOpt

        curl = Curl()
        try:
            curl.setopt(CurlOpt.URL, (self._origin + path).encode())
            curl.setopt(CurlOpt.CAINFO, self._ca_file.encode())
            curl.setopt(CurlOpt.HTTP_VERSION, CurlHttpVersion.V3ONLY)
            # Waits for the connection that is being made instead of making a second one.
            curl.setopt(CurlOpt.PIPEWAIT, 1)
            curl.setopt(CurlOpt.WRITEFUNCTION, on_data)
            if body is not None:
                curl.setopt(CurlOpt.POST, 1)
                curl.setopt(CurlOpt.POSTFIELDS, body)
                curl.setopt(CurlOpt.POSTFIELDSIZE_LARGE, len(body))
                curl.setopt(CurlOpt.HTTPHEADER, [b"Expect:"])
            await self._multi.add_handle(curl)
            status = curl.getinfo(CurlInfo.RESPONSE_CODE)
            if status != 200:
                raise RuntimeError(f"{path} answered {status}")
        finally:
            curl.close()


@asynccontextmanager
async def connect_curl(port: int, ca_file: str) -> AsyncIterator[Client]:
    """Yield curl (ngtcp2, nghttp3), a client in C that shares no code with aioquic."""
    from curl_cffi import AsyncCurl

    multi = AsyncCurl()
    try:
        yield _Curl(multi, f"https://127.0.0.1:{port}", ca_file)
    finally:
        await multi.close()


class _Niquests:
    """One session; its requests share the one connection that its pool may hold."""

    def __init__(self, session, origin: str) -> None:
        self._session = session
        self._origin = origin

    async def get(self, path: str, on_data: OnData) -> None:
        await self._send("GET", path, None, on_data)

    async def post(self, path: str, pieces: Iterable[bytes], on_data: OnData) -> None:
        await self._send("POST", path, b"".join(pieces), on_data)

    async def hold(self, path: str, on_data: OnData) -> None:
        """Read the first chunk alone: whoever waits for a second one keeps the connection."""
        chunks = await self._chunks("GET", path, None)
        on_data(await anext(chunks))
        await asyncio.Event().wait()

    async def _send(self, method, path, body, on_data):
        async for chunk in await self._chunks(method, path, body):
            on_data(chunk)

    async def _chunks(self, method, path, body):
        response = await self._session.request(method, self._origin + path, data=body, stream=True)
        await self._session.gather(response)  # waits for the header
        _check_niquests(response)
        return await response.iter_content(-1)  # each piece as it arrives


@asynccontextmanager
async def connect_niquests(port: int, ca_file: str) -> AsyncIterator[Client]:
    """Yield niquests' asynchronous session, with as many requests on a connection as one likes."""
    import niquests

    async with niquests.AsyncSession(
        multiplexed=True, pool_maxsize=1, **_niquests_options(ca_file)
    ) as session:
        yield _Niquests(session, _expect_http3(session, port))


class _NiquestsSync:
    """Blocks the workload's loop, so it suits workloads that do one thing at a time."""

    def __init__(self, session, origin: str) -> None:
        self._session = session
        self._origin = origin

    async def get(self, path: str, on_data: OnData) -> None:
        self._send("GET", path, None, on_data)

    async def post(self, path: str, pieces: Iterable[bytes], on_data: OnData) -> None:
        self._send("POST", path, b"".join(pieces), on_data)

    def _send(self, method, path, body, on_data):
        response = self._session.request(method, self._origin + path, data=body, stream=True)
        _check_niquests(response)
        for chunk in response.iter_content(-1):  # each piece as it arrives
            on_data(chunk)


@asynccontextmanager
async def connect_niquests_sync(port: int, ca_file: str) -> AsyncIterator[Client]:
    """Yield niquests' plain session, which is what its documentation begins with."""
    import niquests

    with niquests.Session(**_niquests_options(ca_file)) as session:
        yield _NiquestsSync(session, _expect_http3(session, port))


def _niquests_options(ca_file: str) -> dict[str, object]:
    return {
        "disable_http1": True,
        "disable_http2": True,
        "verify": str(ca_file),
        "timeout": TIMEOUT_S,
    }


def _expect_http3(session, port: int) -> str:
    """Let a session know beforehand that the server speaks HTTP/3; return the server's origin."""
    session.trust_env = False  # the environment may name other CAs
    session.quic_cache_layer.add_domain("127.0.0.1", port, port)
    return f"https://127.0.0.1:{port}"


def _check_niquests(response) -> None:
    response.raise_for_status()
    if response.http_version != NIQUESTS_HTTP_3:
        raise RuntimeError(f"niquests spoke HTTP version {response.http_version}, not HTTP/3")


KINDS = {
    "ours": connect_ours,
    "ours-sync": connect_ours_sync,
    "aioquic": connect_aioquic,
    "curl": connect_curl,
    "niquests": connect_niquests,
    "niquests-sync": connect_niquests_sync,
}
