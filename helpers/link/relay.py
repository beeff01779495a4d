"""The sockets of a link, on its loop: one that all clients send to, and one for each client.

The server sees each client come from a port of its own, as it would behind a NAT.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

from helpers.clock import Alarm, now_s
from helpers.link.between import Address
from helpers.link.line import Datagram, Fate, Line

logger = logging.getLogger("helpers.link")

# As a server's: `localhost` means the one on some machines and the other on others.
LOOPBACK_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
PORT_ATTEMPTS = 10
MAX_DATAGRAM_BYTES = 65536
# What goes into an Ethernet frame of 1500 bytes, with 28 of IPv4 and UDP: loopback takes 65,507, a
# real line does not, and QUIC's datagrams are never cut into pieces (RFC 9000 section 14).
LONGEST_BYTES = 1472
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
# What is due elsewhere gets its turn after so many.
DATAGRAMS_PER_TURN = 64
# Systems wait in steps of a millisecond: what arrives may be half of one early, or late.
HALF_STEP_S = 0.0005
# A client's socket is closed when it has been silent for so long, as a NAT forgets it (RFC 4787
# section 4.3), or longest of so many. Windows' select takes 512.
IDLE_S = 120.0
MAX_CLIENTS = 400
MAX_RECORDED = 50_000


class Client:
    """A client of a link: where it is, and the socket by which the server knows it."""

    def __init__(self, front: socket.socket, address: Address, back: socket.socket) -> None:
        self.front = front
        self.address = address
        self.back = back
        self.heard_at = now_s()


class Relay:
    """Carries datagrams between its clients and the server at `address`, over a line each way.

    It lives on the running loop, where all methods are called; `datagrams` is what passed so far.
    """

    def __init__(
        self, family: int, address: Address, conditions: Mapping[str, float], seed: object
    ) -> None:
        self._family, self._address = family, address
        self._up = Line[tuple[Client, bytes]](conditions, f"{seed} up")
        self._down = Line[tuple[Client, bytes]](conditions, f"{seed} down")
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop)
        self._fronts: list[socket.socket] = []
        self._clients: dict[tuple[socket.socket, Address], Client] = {}
        self._forgetting = self._loop.call_later(IDLE_S, self._forget_the_silent)
        self._mending: asyncio.TimerHandle | None = None
        self._recorded: deque[Datagram] = deque(maxlen=MAX_RECORDED)
        self._started_at = now_s()

    @property
    def datagrams(self) -> list[Datagram]:
        """Return what passed, oldest first; from any thread."""
        return list(self._recorded)  # in one step: another thread gets its turn after that

    # ---- beginning and end

    def bind(self) -> int:
        """Bind the loopback addresses, all on one free port, and return it; raises OSError."""
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            try:
                return self._bind_all()
            except OSError:
                self._close_fronts()
                if not attempts_left:
                    raise
        raise AssertionError("unreachable")

    def _bind_all(self) -> int:
        port = 0
        for family, host in LOOPBACK_ADDRESSES:
            try:
                front = _new_socket(family, socket.socket.bind, (host, port))
            except OSError as error:
                if family == socket.AF_INET or error.errno == errno.EADDRINUSE:
                    raise
                continue  # this machine has no IPv6
            self._fronts.append(front)
            self._loop.add_reader(front, self._take, front, self._from_client, front)
            port = front.getsockname()[1]
        return port

    def close(self) -> None:
        """Close all sockets; what is on the way is lost."""
        self._forgetting.cancel()
        self.mend()
        self._alarm.cancel()
        for client in list(self._clients.values()):
            self._forget(client)
        self._close_fronts()

    def _close_fronts(self) -> None:
        while self._fronts:
            self._close_socket(self._fronts.pop())

    def _close_socket(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        sock.close()

    # ---- clients

    def _welcome(self, front: socket.socket, address: Address) -> Client | None:
        """Return a new client; None where the system has no socket for it."""
        if len(self._clients) >= MAX_CLIENTS:
            self._forget(min(self._clients.values(), key=lambda client: client.heard_at))
        try:
            client = Client(front, address, self._new_back())
        except OSError as error:
            _note_loss(error)
            return None
        self._clients[front, address] = client
        self._listen(client)
        return client

    def _new_back(self) -> socket.socket:
        return _new_socket(self._family, socket.socket.connect, self._address)

    def _listen(self, client: Client) -> None:
        self._loop.add_reader(client.back, self._take, client.back, self._from_server, client)

    def _forget(self, client: Client) -> None:
        self._close_socket(client.back)
        del self._clients[client.front, client.address]

    def _forget_the_silent(self) -> None:
        self._forgetting = self._loop.call_later(IDLE_S / 2, self._forget_the_silent)
        for client in list(self._clients.values()):
            if client.heard_at < now_s() - IDLE_S:
                self._forget(client)

    def rebind(self) -> None:
        """Let each client come from another port from now on; raises OSError where none is left."""
        for client in self._clients.values():
            back = self._new_back()  # before the other is closed, so that it is not the same port
            self._close_socket(client.back)
            client.back = back
            self._listen(client)

    # ---- datagrams

    def _take(self, sock: socket.socket, enter: Callable[..., None], by: object) -> None:
        """Put on the line what has arrived at a socket, and let arrive what is due."""
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, address = sock.recvfrom(MAX_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                _note_loss(error)  # such as: the port at the other end is closed
            else:
                enter(by, data, address)
        self._move()

    def _from_client(self, front: socket.socket, data: bytes, address: Address) -> None:
        client = self._clients.get((front, address)) or self._welcome(front, address)
        if client is not None:
            self._enter(self._up, "up", client, data)

    def _from_server(self, client: Client, data: bytes, _: Address) -> None:
        self._enter(self._down, "down", client, data)

    def _enter(
        self,
        line: Line[tuple[Client, bytes]],
        direction: Literal["up", "down"],
        client: Client,
        data: bytes,
    ) -> None:
        client.heard_at = now = now_s()
        fate: Fate = "too long"
        if len(data) <= LONGEST_BYTES:
            fate = line.enter((client, data), len(data), now)
        self._recorded.append(Datagram(now - self._started_at, direction, len(data), fate))

    def _move(self) -> None:
        """Let arrive what is due, and be asked again when the next is."""
        soon = now_s() + HALF_STEP_S
        for client, data in self._up.leave(soon):
            _send(client.back.send, data)
        for client, data in self._down.leave(soon):
            _send(client.front.sendto, data, client.address)
        for line in (self._up, self._down):
            arrival = line.next_arrival()
            if arrival is not None:
                self._alarm.set(arrival - HALF_STEP_S, self._move)

    # ---- the line

    def cut(self, seconds: float | None) -> None:
        """From now on, lose what comes, for so long or until `mend`."""
        self.mend()
        self._up.cut()
        self._down.cut()
        if seconds is not None:
            self._mending = self._loop.call_later(seconds, self.mend)

    def mend(self) -> None:
        """End what `cut` began."""
        if self._mending is not None:
            self._mending.cancel()
        self._up.mend()
        self._down.mend()


def _new_socket(
    family: int, attach: Callable[[socket.socket, Address], None], address: Address
) -> socket.socket:
    """Return a new UDP socket, bound or connected to an address by `attach`; raises OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    _open_sockets.add(sock)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):  # then the system's default has to do
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        attach(sock, address)
    except OSError:
        sock.close()
        raise
    return sock


_open_sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _close_in_child() -> None:
    """Close what a forked process has inherited: no loop of it runs there, and it held the port."""
    for sock in list(_open_sockets):
        sock.close()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_close_in_child)


def _send(send: Callable[..., int], *arguments: object) -> None:
    try:
        send(*arguments)
    except OSError as error:  # a client that was forgotten has no socket either
        _note_loss(error)


def _note_loss(error: OSError) -> None:
    logger.info("A datagram could not be sent or received, and is lost: %s", error)
