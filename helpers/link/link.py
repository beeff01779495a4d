"""A line with distance and loss, between a client and a server on this machine.

A relay for UDP on loopback: who asks the link's port reaches the server behind it, whatever
programs the two are. It knows nothing of what it carries, which is encrypted: a datagram is a
number of bytes. Its sockets (relay.py) are on the loop of a background thread (background.py); the
methods here are called from the notebook's thread.
"""

import math
import numbers
import socket
import weakref
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from helpers.background import Background
from helpers.errors import UsageError
from helpers.link.line import Datagram
from helpers.link.relay import Address, Relay

TIMEOUT_S = 5.0
# Where to reach a server that listens on every address, and one that listens on `localhost`.
REACHED_AT = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}


@runtime_checkable
class Listening(Protocol):
    """What a link takes for a server, as `Server` is: it says where it listens."""

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

    def __get__(self, link: "Link | None", owner: type | None = None) -> Any:
        return self if link is None else link._conditions[self._name]

    def __set__(self, link: "Link", value: float | None) -> None:
        if value is None and self._high == math.inf:
            value = math.inf
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if value is None or not is_number or not self._low <= value <= self._high:
            raise UsageError(f"{self._name} is {self._meaning}, not {value!r}.")
        link._conditions[self._name] = float(value)


MILLISECONDS = "a number of milliseconds from 0 to 10,000"
SHARE = "a share from 0 to 1, such as 0.05 for 5 %"


NOT_RUNNING = "This link is not running: call start(), or use it in a `with` block."


class Link:
    """A line between clients and a server: `start`, `stop`, or `with Link(server) as link`.

    `server` is a running Server, or the port or (host, port) of any other program's; clients ask
    `link.url("/path")`. A datagram takes `delay_ms` each way, and up to `jitter_ms` more. With
    `rate_mbit` it waits for those before it, `queue_ms` at most: what would wait longer is lost.
    `loss` is the share that gets lost on the way; of the others, `reorder` is the share that takes
    twice the time and is overtaken, `duplicate` that which arrives twice. These are attributes too,
    which may be set while it runs, for what comes from then on.

    The n-th datagram of a direction has the same fate whenever the `seed` is the same. Raises
    UsageError where a condition is out of range.
    """

    delay_ms = Condition(0, 10_000, MILLISECONDS)
    jitter_ms = Condition(0, 10_000, MILLISECONDS)
    loss = Condition(0, 1, SHARE)
    rate_mbit = Condition(0.001, math.inf, "a number of Mbit/s from 0.001, or None for no limit")
    queue_ms = Condition(0, 10_000, MILLISECONDS)
    reorder = Condition(0, 1, SHARE)
    duplicate = Condition(0, 1, SHARE)
    host = "127.0.0.1"

    def __init__(
        self,
        server: Listening | tuple[str, int] | int,
        delay_ms: float = 50,
        jitter_ms: float = 0,
        loss: float = 0.0,
        rate_mbit: float | None = None,
        queue_ms: float = 100,
        reorder: float = 0.0,
        duplicate: float = 0.0,
        seed: int = 1,
    ) -> None:
        self._conditions: dict[str, float] = {}
        self.delay_ms = delay_ms
        self.jitter_ms = jitter_ms
        self.loss = loss
        self.rate_mbit = rate_mbit
        self.queue_ms = queue_ms
        self.reorder = reorder
        self.duplicate = duplicate
        self.seed = seed
        self._server = server
        self._background = Background("link")
        self._relay: Relay | None = None
        self._port: int | None = None
        self._finalizer: weakref.finalize[Any, Link] | None = None

    # ---- start and stop

    def start(self) -> "Link":
        """Bind a free port and return this link, running; starting twice is harmless.

        Raises UsageError where `server` is none, or is a Server that is not running.
        """
        if self._port is not None:
            return self
        family, address = _find(self._server)
        self._background.start()
        try:
            self._relay, self._port = self._background.run(
                _open, family, address, self._conditions, self.seed, timeout_s=TIMEOUT_S
            )
        except BaseException as error:  # an interrupt too
            self._background.stop()
            if isinstance(error, OSError):
                raise UsageError(f"A link cannot bind a UDP port: {error.strerror}.") from error
            raise
        self._finalizer = weakref.finalize(self, _shut_down, self._background, self._relay)
        return self

    def stop(self) -> None:
        """Close the sockets; what is on the way is lost. Stopping twice is harmless."""
        self._port = None
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> "Link":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- where it is

    @property
    def port(self) -> int:
        """The UDP port that clients ask; raises UsageError where the link is not running."""
        if self._port is None:
            raise UsageError(NOT_RUNNING)
        return self._port

    def url(self, path: str = "/") -> str:
        """Return the URL of a path on the server, over this link."""
        return f"https://localhost:{self.port}{path}"

    # ---- what happens to it

    def pause(self) -> None:
        """Lose all that comes, until `resume`; raises UsageError where the link is not running."""
        self._call(Relay.cut)

    def resume(self) -> None:
        """End a pause; raises UsageError where the link is not running."""
        self._call(Relay.mend)

    def rebind(self) -> None:
        """Let each client come from another port from now on, as behind a NAT that forgot it.

        QUIC goes on (RFC 9000 section 9). Raises UsageError where the link is not running.
        """
        self._call(Relay.rebind)

    def _call(self, method: Callable[[Relay], None]) -> None:
        if self._relay is None or self._port is None:
            raise UsageError(NOT_RUNNING)
        self._background.run(_on_loop, method, self._relay, timeout_s=TIMEOUT_S)

    @property
    def datagrams(self) -> list[Datagram]:
        """Return what came to this link since it started, oldest first (the last 50,000)."""
        return [] if self._relay is None else self._relay.datagrams

    def __repr__(self) -> str:
        where = "stopped" if self._port is None else self.url()
        told = (f"{name}={value:g}" for name, value in self._conditions.items())
        return f"<Link {where}, {', '.join(told)}, seed={self.seed}>"


async def _open(
    family: int, address: Address, conditions: dict[str, float], seed: int
) -> tuple[Relay, int]:
    relay = Relay(family, address, conditions, seed)
    try:
        return relay, relay.bind()
    except OSError:
        relay.close()
        raise


async def _on_loop(method: Callable[[Relay], None], relay: Relay) -> None:
    method(relay)


def _shut_down(background: Background, relay: Relay) -> None:
    """End a link that was stopped, that nobody holds any more, or whose process exits."""
    background.call(relay.close)
    background.stop(TIMEOUT_S)


def _find(server: object) -> tuple[int, Address]:
    """Return the address family and the address of a server; raises UsageError."""
    match server:
        case int():
            return _resolve("127.0.0.1", server)
        case (str(host), int(port)):
            return _resolve(host, port)
        case Listening(host=host, port=port):  # raises where it was never started
            family, address = _resolve(REACHED_AT.get(host, host), port)
            if _is_free(family, address):
                raise UsageError(f"Nobody listens on {host}:{port} any more: {server!r}. Start it.")
            return family, address
    raise UsageError(f"A link leads to a Server, a port, or a (host, port), not to {server!r}.")


def _resolve(host: str, port: int) -> tuple[int, Address]:
    if not 1 <= port <= 65535:
        raise UsageError(f"A UDP port is a number from 1 to 65535, not {port}.")
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise UsageError(f"Host {host!r} has no address: {error.strerror}.") from error
    return infos[0][0], infos[0][4]


def _is_free(family: int, address: Address) -> bool:
    """Return whether a UDP port of this machine is nobody's."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(address)
        except OSError:  # in use, or another machine's
            return False
    return True
