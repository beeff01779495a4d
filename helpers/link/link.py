"""A line with distance and loss, between a client and a server on this machine.

A relay for UDP on loopback: who asks the link's port reaches the server behind it, whatever
programs the two are. It knows nothing of what it carries, which is encrypted: a datagram is a
number of bytes.
"""

import math
import numbers
from collections.abc import Callable

from helpers.errors import UsageError
from helpers.link.between import (
    MILLISECONDS,
    NOT_RUNNING,
    SHARE,
    TIMEOUT_S,
    Address,
    Between,
    Condition,
    Listening,
)
from helpers.link.line import Datagram
from helpers.link.relay import Relay


class Link(Between):
    """A line between clients and a server: `start`, `stop`, or `with Link(server) as link`.

    `server` is a running Server, or the port or (host, port) of any other program's; clients ask
    `link.url("/path")`. A datagram takes `delay_ms` each way, and up to `jitter_ms` more. With
    `rate_mbit` it waits for those before it, `queue_ms` at most: what would wait longer is lost. So
    is, as on Ethernet, what is longer than 1472 bytes. `loss` is the share that gets lost on the
    way; of the others, `reorder` is the share that takes twice the time and is overtaken,
    `duplicate` that which arrives twice. These are attributes too, which may be set while it runs,
    for what comes from then on.

    The n-th datagram of a direction has the same fate whenever the `seed` is the same. Raises
    UsageError where a condition is out of range.
    """

    jitter_ms = Condition(0, 10_000, MILLISECONDS)
    rate_mbit = Condition(0.001, math.inf, "a number of Mbit/s from 0.001, or None for no limit")
    queue_ms = Condition(0, 10_000, MILLISECONDS)
    reorder = Condition(0, 1, SHARE)
    duplicate = Condition(0, 1, SHARE)

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
        super().__init__(server, seed)
        self.delay_ms = delay_ms
        self.jitter_ms = jitter_ms
        self.loss = loss
        self.rate_mbit = rate_mbit
        self.queue_ms = queue_ms
        self.reorder = reorder
        self.duplicate = duplicate
        self._relay: Relay | None = None

    async def _open(self, family: int, address: Address) -> tuple[Relay, int]:
        self._relay = relay = Relay(family, address, self._conditions, self.seed)
        try:
            return relay, relay.bind()
        except OSError:
            relay.close()
            raise

    def pause(self, seconds: float | None = None) -> None:
        """Lose all that comes, for so many seconds or until `resume`.

        Raises UsageError where the link is not running, or that is no time to wait.
        """
        is_number = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 <= seconds < math.inf):
            raise UsageError(
                f"A pause lasts a number of seconds, or until resume(), not {seconds!r}."
            )
        self._call(Relay.cut, seconds)

    def resume(self) -> None:
        """End a pause; raises UsageError where the link is not running."""
        self._call(Relay.mend)

    def rebind(self) -> None:
        """Let each client come from another port from now on, as behind a NAT that forgot it.

        QUIC goes on (RFC 9000 section 9). Raises UsageError where the link is not running.
        """
        self._call(Relay.rebind)

    def _call(self, method: Callable[..., None], *args: object) -> None:
        if self._relay is None or self._port is None:
            raise UsageError(NOT_RUNNING)
        self._background.run(_on_loop, method, self._relay, *args, timeout_s=TIMEOUT_S)

    @property
    def datagrams(self) -> list[Datagram]:
        """Return what came to this link since it started, oldest first (the last 50,000)."""
        return [] if self._relay is None else self._relay.datagrams


async def _on_loop(method: Callable[..., None], *args: object) -> None:
    method(*args)
