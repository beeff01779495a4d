"""One UDP port, many connections.

Every QUIC packet names its connection by a connection ID that the receiver chose (RFC 9000 section
5.1), so a client may change its address and stay connected. The listener keeps the table of IDs,
starts a connection for each new client, and forgets it when its closing period is over. A stranger
costs little until it has shown that it is a client: nothing, then one handshake for so long.
"""

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicHeader, QuicPacketType, pull_quic_header

from helpers.connection import (
    Address,
    ConnectionState,
    Driver,
    HTTP3Connection,
    OnRequest,
    Total,
    UDPSocket,
    means_unavailable,
)
from helpers.errors import ServerStartError
from helpers.server.retry import MIN_FIRST_ID_BYTES, Tokens, negotiate_version
from helpers.stream import HTTP3Stream

logger = logging.getLogger("helpers.server")

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
# `localhost` means 127.0.0.1 on some machines and ::1 on others, so both are bound.
LOOPBACK_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
# With port 0 the second address may find the first one's port taken; then both try another.
PORT_ATTEMPTS = 10
MIN_FIRST_DATAGRAM_BYTES = 1200  # RFC 9000 section 14.1: a client pads its first packet
# A handshake costs 115 KB until it is done or given up. Whoever comes while so many are under way
# first shows, with a token, that it is where it says it is (RFC 9000 section 8.1.2).
RETRY_ABOVE = 256


class Listener:
    """The UDP sockets of a server and the connections behind them, on the running loop.

    `on_request(stream, fields, address)` is called for each request of any connection,
    `on_abandoned(stream)` where its client will not read on.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        on_request: OnRequest,
        on_abandoned: Callable[[HTTP3Stream], None],
    ) -> None:
        self._configuration = configuration
        self._on_request = on_request
        self._on_abandoned = on_abandoned
        self._sockets: list[UDPSocket] = []
        self._by_id: dict[bytes, Driver] = {}
        self._ids: dict[Driver, set[bytes]] = {}
        self._endpoints: dict[Driver, UDPSocket] = {}
        self._tokens = Tokens()
        self._total = Total()

    @property
    def connections(self) -> list[HTTP3Connection]:
        """All connections that are not over, those in their closing period too."""
        return [driver.connection for driver in self._ids]

    async def bind(self, host: str, port: int) -> int:
        """Bind every address of `host`, all on one port, and return that port.

        A loopback host binds 127.0.0.1 and ::1, so that each of its names works. Raises
        ServerStartError where the port is in use or the host is not this machine's.
        """
        addresses = LOOPBACK_ADDRESSES if host in LOOPBACK_HOSTS else await _resolve(host)
        for attempt in range(PORT_ATTEMPTS):
            try:
                return await self._bind_all(addresses, port)
            except OSError as error:
                self._close_sockets()
                if port != 0 or attempt == PORT_ATTEMPTS - 1:
                    raise ServerStartError(_why_not_bound(host, port, error)) from error
        raise AssertionError("unreachable")

    async def _bind_all(self, addresses: tuple[tuple[int, str], ...], port: int) -> int:
        unavailable: OSError | None = None
        for family, address in addresses:
            try:
                endpoint = await UDPSocket.bind((address, port), family)
            except OSError as error:
                if not means_unavailable(error):
                    raise
                unavailable = error
                continue
            endpoint.deliver(self._route(endpoint))
            self._sockets.append(endpoint)
            port = endpoint.address[1]
        if not self._sockets:
            raise unavailable or OSError("no address to bind")
        return port

    def _route(self, endpoint: UDPSocket) -> Callable[[bytes, Address], None]:
        """Return what takes the datagrams of one socket, and answers on the same one."""
        id_bytes = self._configuration.connection_id_length

        def on_datagram(data: bytes, address: Address) -> None:
            try:
                header = pull_quic_header(Buffer(data=data), id_bytes)
            except ValueError:
                header = None
            driver = self._by_id.get(header.destination_cid) if header is not None else None
            if driver is not None:
                # One that comes by another socket is lost: an answer to its address, of another
                # family, would end the socket that the connection began on, for everybody.
                if self._endpoints[driver] is endpoint:
                    driver.receive(data, address)
            elif len(data) >= MIN_FIRST_DATAGRAM_BYTES:
                self._welcome(header, data, address, endpoint)

        return on_datagram

    def _welcome(
        self, header: QuicHeader | None, data: bytes, address: Address, endpoint: UDPSocket
    ) -> None:
        """Answer a client's first packet; to what is none, the answer is silence."""
        negotiation = negotiate_version(data, self._configuration.supported_versions)
        if negotiation is not None:
            endpoint.send(negotiation, address)
            return
        if header is None or header.packet_type is not QuicPacketType.INITIAL:
            return
        if len(header.destination_cid) < MIN_FIRST_ID_BYTES:
            return
        original_id = self._tokens.original_id(header, address)
        if original_id is None and self._is_crowded():
            endpoint.send(self._tokens.retry(header, address), address)
            return
        self._start(header, original_id, data, address, endpoint)

    def _is_crowded(self) -> bool:
        """Return whether more handshakes are under way than strangers may have."""
        return len(self._ids) > RETRY_ABOVE and RETRY_ABOVE < sum(
            connection.state is ConnectionState.CONNECTING for connection in self.connections
        )

    def _start(
        self,
        header: QuicHeader,
        original_id: bytes | None,
        data: bytes,
        address: Address,
        endpoint: UDPSocket,
    ) -> None:
        """Begin a connection; `original_id` is its first ID where it comes back from a Retry."""
        driver = Driver(
            self._configuration,
            endpoint.send,
            on_closed=lambda: self._forget(driver),
            read_waiting=endpoint.read_waiting,
            on_request=self._on_request,
            on_abandoned=self._on_abandoned,
            on_connection_id=lambda connection_id, is_ours: (
                self._add(driver, connection_id) if is_ours else self._drop(driver, connection_id)
            ),
            max_send_bytes=endpoint.max_send_bytes,
            original_id=original_id or header.destination_cid,
            retry_id=header.destination_cid if original_id else None,
            total=self._total,
        )
        self._ids[driver] = set()
        self._endpoints[driver] = endpoint
        driver.receive(data, address)
        if driver.transmit() == 0:
            # Nothing in it could be decrypted, or there would be an acknowledgement: no client.
            driver.abandon("its first packet made no sense")
            return
        self._add(driver, header.destination_cid)
        self._add(driver, driver.connection.host_id)

    def _add(self, driver: Driver, connection_id: bytes) -> None:
        self._by_id[connection_id] = driver
        self._ids[driver].add(connection_id)

    def _drop(self, driver: Driver, connection_id: bytes) -> None:
        self._by_id.pop(connection_id, None)
        self._ids[driver].discard(connection_id)

    def _forget(self, driver: Driver) -> None:
        connection_ids = self._ids.pop(driver)
        del self._endpoints[driver]
        for connection_id in connection_ids:
            self._by_id.pop(connection_id, None)
        if connection_ids:  # a stranger's that made no sense has none
            logger.info("Connection over: %s", driver.connection.lost)

    async def drain(self, timeout_s: float) -> None:
        """Wait until streams that were taken over are closed and all data is acknowledged.

        Gives up after `timeout_s` seconds: a client that stopped reading acknowledges nothing.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while busy := [d for d in self._ids if d.connection.is_busy()]:
                    await busy[0].drain()
        except TimeoutError:
            logger.info("Some streams were not done within %g s", timeout_s)

    def close(self) -> None:
        """Close every connection (CONNECTION_CLOSE) and the sockets."""
        for driver in list(self._ids):
            driver.close()
            driver.abandon("the server has stopped")
        self._close_sockets()

    def _close_sockets(self) -> None:
        for endpoint in self._sockets:
            endpoint.close()
        self._sockets.clear()


async def _resolve(host: str) -> tuple[tuple[int, str], ...]:
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(
            host or None, 0, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ServerStartError(f"Host {host!r} has no address: {error.strerror}.") from error
    return tuple(dict.fromkeys((info[0], str(info[4][0])) for info in infos))


def _why_not_bound(host: str, port: int, error: OSError) -> str:
    if port != 0 and error.errno in (errno.EADDRINUSE, errno.EACCES):
        # On Windows low ports need no rights: there it means that somebody has this one to himself.
        if error.errno == errno.EACCES and port < 1024 and sys.platform != "win32":
            return f"UDP port {port} on {host} needs administrator rights. Pass port=0."
        return (
            f"UDP port {port} on {host} is in use. Stop the earlier server, or pass port=0 to get "
            "a free one."
        )
    return f"Cannot bind UDP port {port} on {host}: {error.strerror}."
