"""A UDP socket that survives a burst.

QUIC runs over UDP, and UDP drops what the receiver does not fetch in time. asyncio fetches one
datagram per turn of its loop; with hundreds of connections the kernel's buffer overflows while the
loop is hardly busy. So the socket here has a larger buffer, and each wake-up takes several; where
it serves many connections, mostly all.
"""

import asyncio
import errno
import functools
import ipaddress
import logging
import os
import socket
import sys
import weakref
from collections.abc import Callable
from typing import Any, cast

from helpers.connection.configuration import MAX_DATAGRAM_BYTES, Address

logger = logging.getLogger("helpers.udp")

# What the kernel grants of it differs: Linux caps it at net.core.rmem_max for ordinary users.
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
# Linux doubles what is asked for, since it counts its own book-keeping too (man 7 socket).
KERNEL_SHARE = 2 if sys.platform == "linux" else 1
# Where many connections share a socket, timers and handlers get their turn after so many datagrams.
DATAGRAMS_PER_TURN = 64
# What a datagram takes of the buffer at the least, its book-keeping included.
SMALLEST_SHARE_BYTES = 512
# Python has a name for it from 3.14 on; this is Linux' (ip(7)).
IP_PKTINFO = 8
PATH_BYTES = 64  # what the kernel says beside a datagram: 28 or 36 of them
ANY_ADDRESS = ("0.0.0.0", "::")
# A client's share one acknowledgement: one by one, they cost a third of the rate at a distance. Who
# waits for the first of them waits for the others too, so there are few.
CLIENT_DATAGRAMS_PER_TURN = 8
# How a system reports that the port at the other end is closed; Windows calls that a reset.
NOBODY_LISTENS = (ConnectionRefusedError, ConnectionResetError)


class UDPSocket(asyncio.DatagramProtocol):
    """A bound or connected UDP socket on the running loop: see `bind` and `connect`.

    `max_send_bytes` is the longest datagram that it sends, `address` its own. `send(data, address)`
    sends one, on a connected socket without an address. What the system cannot send is lost, as it
    could be anywhere on its way, and so is what is sent after `close`.
    """

    def __init__(self, sock: socket.socket, datagrams_per_turn: int) -> None:
        self._socket = sock
        self._datagrams_per_turn = datagrams_per_turn
        self._on_datagram: Callable[[bytes, Address], None] = _drop
        self._on_error: Callable[[OSError], None] | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._receive: Callable[[], tuple[bytes, Address]]
        self._receive = functools.partial(sock.recvfrom, MAX_DATAGRAM_BYTES)
        self.send: Callable[..., None] = _drop  # asyncio's own, as soon as there is one
        self.address: Address = sock.getsockname()
        buffer_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.max_send_bytes = buffer_bytes // KERNEL_SHARE

    @classmethod
    async def bind(cls, address: Address, family: int) -> "UDPSocket":
        """Return a socket bound to `address`; raises OSError where that cannot be.

        Bound to every address of the machine, it answers from the one that was asked (Linux).
        """
        kind = AnyAddressSocket if address[0] in ANY_ADDRESS and sys.platform == "linux" else cls
        return await kind._open(family, lambda sock: sock.bind(address), DATAGRAMS_PER_TURN)

    @classmethod
    async def connect(cls, address: Address, family: int) -> "UDPSocket":
        """Return a socket connected to `address`, so that the system reports a closed port."""
        return await cls._open(
            family, lambda sock: sock.connect(address), CLIENT_DATAGRAMS_PER_TURN
        )

    @classmethod
    async def _open(
        cls, family: int, attach: Callable[[socket.socket], Any], datagrams_per_turn: int
    ) -> "UDPSocket":
        sock = _new_socket(family)
        try:
            attach(sock)
        except OSError:
            sock.close()
            raise
        endpoint = cls(sock, datagrams_per_turn)
        _open_sockets.add(sock)
        await endpoint._begin()
        return endpoint

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, sock=self._socket)

    def deliver(
        self,
        on_datagram: Callable[[bytes, Address], None],
        on_error: Callable[[OSError], None] | None = None,
    ) -> None:
        """From now on, call `on_datagram(data, address)` on this loop for each datagram.

        `on_error(error)` is called where the system reports that nobody listens at the other end,
        or that a datagram could not be sent.
        """
        self._on_datagram, self._on_error = on_datagram, on_error

    def read_waiting(self) -> None:
        """Take all that has arrived by now, as far as the buffer holds it, before anything else."""
        room_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._drain(room_bytes // SMALLEST_SHARE_BYTES)

    def close(self) -> None:
        """Close the socket once what was handed to `send` has left."""
        self.send = _drop
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls, on the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Python 3.11's is one in all but its base class.
        self._transport = cast(asyncio.DatagramTransport, transport)
        # asyncio reads into a new buffer of 256 KiB each time, which the allocator gives back each
        # time; the attribute is its own, without an underscore and without a word about it. Other
        # loops, uvloop's for one, have none.
        if hasattr(transport, "max_size"):
            transport.max_size = MAX_DATAGRAM_BYTES
        self.send = self._transport.sendto

    def datagram_received(self, data: bytes, address: Address) -> None:
        self._on_datagram(data, address)
        self._drain(self._datagrams_per_turn - 1)

    def _drain(self, count: int) -> None:
        """Take what has arrived already, so many datagrams at most."""
        gone: OSError | None = None
        for _ in range(count):
            try:
                data, address = self._receive()
            except (BlockingIOError, InterruptedError):
                break
            except NOBODY_LISTENS as error:
                gone = error.with_traceback(None)  # which holds this frame
            except OSError as error:
                _note_loss(error)
            else:
                self._on_datagram(data, address)
        if gone is not None and self._on_error is not None:
            self._on_error(gone)

    def error_received(self, error: Exception) -> None:
        # A full buffer, a route that is missing for a moment or a firewall (ENOBUFS, ENETUNREACH,
        # EPERM) cost one datagram, and QUIC sends its content again. On an unconnected socket even
        # a closed port concerns some earlier peer, whose timers will notice.
        if not isinstance(error, NOBODY_LISTENS):
            _note_loss(error)
        elif self._on_error is not None:
            self._drain(DATAGRAMS_PER_TURN)  # what the peer said before it left
        if self._on_error is not None and isinstance(error, OSError):
            self._on_error(error)


_open_sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _close_in_child() -> None:
    """Close what a forked process has inherited: no loop of it runs there, and it held the port."""
    for sock in list(_open_sockets):
        sock.close()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_close_in_child)


class AnyAddressSocket(UDPSocket):
    """A UDP socket bound to every address of the machine, which tells them apart.

    The system would choose the source of each answer by its routes, and who asked at another
    address takes no answer from there. So the address of a datagram's sender ends with that at
    which it came in, and `send` takes it from there: RFC 9000 section 9 calls the two a path.
    """

    async def _begin(self) -> None:
        # asyncio's transports have no recvmsg.
        if self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._receive = self._receive_with_path
        self.send = self._send_from
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._drain, self._datagrams_per_turn)

    def close(self) -> None:
        """Close the socket; twice is harmless."""
        if self._socket.fileno() >= 0:
            self.send = _drop
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _receive_with_path(self) -> tuple[bytes, Address]:
        data, notes, _, address = self._socket.recvmsg(MAX_DATAGRAM_BYTES, PATH_BYTES)
        for level, kind, content in notes:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                # Its three: the interface, our address, the one in the datagram.
                return data, (*address, (level, kind, bytes(4) + content[4:8] + bytes(4)))
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                # Our address and the interface, which matters to those that each interface has.
                is_local = ipaddress.IPv6Address(content[:16]).is_link_local
                return data, (
                    *address,
                    (level, kind, content if is_local else content[:16] + bytes(4)),
                )
        return data, (*address, None)

    def _send_from(self, data: bytes, address: Address) -> None:
        *receiver, path = address
        try:
            self._socket.sendmsg([data], [path] if path else [], 0, tuple(receiver))
        except OSError as error:  # a full buffer too: QUIC sends it again
            self.error_received(error)


def _note_loss(error: Exception) -> None:
    logger.info("A datagram could not be sent or received, and is lost: %s", error)


def _drop(data: bytes, address: Address | None = None) -> None:
    """Lose a datagram: nobody has asked for it yet, or the socket is closed."""


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


def means_unavailable(error: OSError) -> bool:
    """Return whether binding failed since this address family does not exist on this machine."""
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
