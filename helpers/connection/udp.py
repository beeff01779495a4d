"""A UDP socket that survives a burst.

QUIC runs over UDP, and UDP drops what the receiver does not fetch in time. asyncio fetches one
datagram per turn of its loop; with hundreds of connections the kernel's buffer overflows while the
loop is hardly busy. So the socket here has a larger buffer, and each wake-up empties it.
"""

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable

logger = logging.getLogger("helpers.udp")

# What the kernel grants of it differs: Linux caps it at net.core.rmem_max for ordinary users.
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
# Linux doubles what is asked for, since it counts its own book-keeping too (man 7 socket).
KERNEL_SHARE = 2 if sys.platform == "linux" else 1
# Timers and handlers get their turn at least every so many datagrams.
DATAGRAMS_PER_TURN = 64
MAX_DATAGRAM_BYTES = 65536

Address = tuple


class UDPSocket(asyncio.DatagramProtocol):
    """A bound or connected UDP socket on the running loop.

    `on_datagram(data, address)` is called on that loop for each datagram, `on_error(error)` where
    the system reports that nobody listens at the other end. `max_send_bytes` is the longest
    datagram that it sends.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_datagram: Callable[[bytes, Address], None],
        on_error: Callable[[OSError], None] | None = None,
    ) -> None:
        self._socket = sock
        self._on_datagram = on_datagram
        self._on_error = on_error
        self._transport: asyncio.DatagramTransport | None = None
        self.address: Address = sock.getsockname()
        buffer_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.max_send_bytes = buffer_bytes // KERNEL_SHARE

    @classmethod
    async def bind(
        cls, address: Address, family: int, on_datagram: Callable[[bytes, Address], None]
    ) -> "UDPSocket":
        """Return a socket bound to `address`; raises OSError where that cannot be."""
        sock = _new_socket(family)
        try:
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        return await cls._attach(cls(sock, on_datagram))

    @classmethod
    async def connect(
        cls,
        address: Address,
        family: int,
        on_datagram: Callable[[bytes, Address], None],
        on_error: Callable[[OSError], None],
    ) -> "UDPSocket":
        """Return a socket connected to `address`, so that the system reports a closed port."""
        sock = _new_socket(family)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return await cls._attach(cls(sock, on_datagram, on_error))

    @staticmethod
    async def _attach(endpoint: "UDPSocket") -> "UDPSocket":
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: endpoint, sock=endpoint._socket)
        return endpoint

    def send(self, data: bytes, address: Address | None = None) -> None:
        """Send one datagram; `address` is left out on a connected socket.

        What the system cannot send is lost, as it could be anywhere on its way.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, address)

    def close(self) -> None:
        """Close the socket once what was handed to `send` has left."""
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls, on the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: Address) -> None:
        self._on_datagram(data, address)
        for _ in range(DATAGRAMS_PER_TURN - 1):
            try:
                data, address = self._socket.recvfrom(MAX_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.error_received(error)
                continue
            self._on_datagram(data, address)

    def error_received(self, error: Exception) -> None:
        # A full buffer, a route that is missing for a moment or a firewall (ENOBUFS, ENETUNREACH,
        # EPERM) cost one datagram, and QUIC sends its content again. On an unconnected socket even
        # a closed port concerns some earlier peer, whose timers will notice.
        if not means_nobody_listens(error):
            logger.info("A datagram could not be sent or received, and is lost: %s", error)
        elif self._on_error is not None:
            self._on_error(error)


def _new_socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        # IPv4 has a socket of its own, so that the same code works without IPv6.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        _enlarge(sock, option)
    return sock


def _enlarge(sock: socket.socket, option: int) -> None:
    """Ask for less and less until it is granted; where nothing is, the system's default stays."""
    wanted_bytes, given_bytes = SOCKET_BUFFER_BYTES, sock.getsockopt(socket.SOL_SOCKET, option)
    while wanted_bytes > given_bytes:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, wanted_bytes)
        except OSError:  # macOS refuses more than its limit instead of granting less
            wanted_bytes //= 2
        else:
            return


def means_nobody_listens(error: Exception) -> bool:
    """Return whether the system reports that the port at the other end is closed.

    Windows calls that a reset.
    """
    return isinstance(error, ConnectionRefusedError | ConnectionResetError)


def means_unavailable(error: OSError) -> bool:
    """Return whether binding failed since this address family does not exist on this machine."""
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
