"""What stands between clients and a server: it is started, stopped, and asked for its own address.

Its sockets are on the loop of a background thread (background.py); the methods here are called from
the notebook's thread.
"""

import math
import numbers
import socket
import weakref
from typing import Any, Protocol, Self, runtime_checkable

from helpers.background import Background
from helpers.errors import UsageError

Address = tuple[Any, ...]  # host and port first; IPv6 has two more

TIMEOUT_S = 5.0
# Where to reach a server that listens on every address, and one that listens on `localhost`.
REACHED_AT = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}
NOT_RUNNING = "This link is not running: call start(), or use it in a `with` block."
MILLISECONDS = "a number of milliseconds from 0 to 10,000"
SHARE = "a share from 0 to 1, such as 0.05 for 5 %"


@runtime_checkable
class Listening(Protocol):
    """What it takes for a server, as `Server` is: it says where it listens."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Condition:
    """One of a line's conditions: a number that may be set at any time, and is checked then."""

    def __init__(self, low: float, high: float, meaning: str) -> None:
        self._low, self._high, self._meaning = low, high, meaning

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, link: "Between | None", owner: type | None = None) -> Any:
        return self if link is None else link._conditions[self._name]

    def __set__(self, link: "Between", value: float | None) -> None:
        if value is None and self._high == math.inf:
            value = math.inf
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if value is None or not is_number or not self._low <= value <= self._high:
            raise UsageError(f"{self._name} is {self._meaning}, not {value!r}.")
        link._conditions[self._name] = float(value)


class Sockets(Protocol):
    """What is open on the loop while it runs."""

    def close(self) -> None: ...


class Between:
    """What stands in front of `server`, a running Server, or a port or (host, port) of any other.

    `start`, `stop`, or a `with` block; clients ask `url(path)`. The n-th datagram or segment of a
    direction has the same fate whenever the `seed` is the same.
    """

    delay_ms = Condition(0, 10_000, MILLISECONDS)
    loss = Condition(0, 1, SHARE)
    host = "127.0.0.1"
    kind = socket.SOCK_DGRAM

    def __init__(self, server: Listening | tuple[str, int] | int, seed: int) -> None:
        self._conditions: dict[str, float] = {}
        self.seed = seed
        self._server = server
        self._background = Background("link")
        self._port: int | None = None
        self._finalizer: weakref.finalize[Any, Between] | None = None

    def start(self) -> Self:
        """Bind a free port and return this link, running; starting twice is harmless.

        Raises UsageError where `server` is none, or is a Server that is not running.
        """
        if self._port is not None:
            return self
        family, address = _find(self._server, self.kind)
        self._background.start()
        try:
            sockets, port = self._background.run(self._open, family, address, timeout_s=TIMEOUT_S)
        except BaseException as error:  # an interrupt too
            self._background.stop()
            if isinstance(error, OSError):
                raise UsageError(f"A link cannot bind a port: {error.strerror}.") from error
            raise
        self._finalizer = weakref.finalize(self, _shut_down, self._background, sockets)
        self._port = port
        return self

    async def _open(self, family: int, address: Address) -> tuple[Sockets, int]:
        """Return the sockets, open on this loop, and their port; raises OSError."""
        raise NotImplementedError

    def stop(self) -> None:
        """Close the sockets; what is on the way is lost. Stopping twice is harmless."""
        self._port = None
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that clients ask; raises UsageError where the link is not running."""
        if self._port is None:
            raise UsageError(NOT_RUNNING)
        return self._port

    def url(self, path: str = "/") -> str:
        """Return the URL of a path on the server, over this link."""
        return f"https://localhost:{self.port}{path}"

    def __repr__(self) -> str:
        where = "stopped" if self._port is None else self.url()
        told = (f"{name}={value:g}" for name, value in self._conditions.items())
        return f"<{type(self).__name__} {where}, {', '.join(told)}, seed={self.seed}>"


def _shut_down(background: Background, sockets: Sockets) -> None:
    """End a link that was stopped, that nobody holds any more, or whose process exits."""
    background.call(sockets.close)
    background.stop(TIMEOUT_S)


def _find(server: object, kind: socket.SocketKind) -> tuple[int, Address]:
    """Return the address family and the address of a server; raises UsageError."""
    match server:
        case int():
            return _resolve("127.0.0.1", server, kind)
        case (str(host), int(port)):
            return _resolve(host, port, kind)
        case Listening(host=host, port=port):  # raises where it was never started
            family, address = _resolve(REACHED_AT.get(host, host), port, kind)
            if _is_free(family, kind, address):
                raise UsageError(f"Nobody listens on {host}:{port} any more: {server!r}. Start it.")
            return family, address
    raise UsageError(f"A link leads to a Server, a port, or a (host, port), not to {server!r}.")


def _resolve(host: str, port: int, kind: socket.SocketKind) -> tuple[int, Address]:
    if not 1 <= port <= 65535:
        raise UsageError(f"A port is a number from 1 to 65535, not {port}.")
    try:
        infos = socket.getaddrinfo(host, port, type=kind)
    except socket.gaierror as error:
        raise UsageError(f"Host {host!r} has no address: {error.strerror}.") from error
    return infos[0][0], infos[0][4]


def _is_free(family: int, kind: socket.SocketKind, address: Address) -> bool:
    """Return whether a port of this machine is nobody's."""
    with socket.socket(family, kind) as sock:
        try:
            sock.bind(address)
        except OSError:  # in use, or another machine's
            return False
    return True
