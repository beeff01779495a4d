"""From a host name to an open connection, or the reason why not.

aioquic reports every failed handshake alike: a ConnectionError without a text, after up to a
minute. What happened is known all the same, from the code that closed the connection, the
certificate that came, or the system's word that the port is closed. Here it becomes an httpx2
exception that says so.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable

import httpx2
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import AlertDescription
from cryptography.x509 import Certificate

from helpers.certificates import Trust, explain_distrust
from helpers.connection import (
    NOBODY_LISTENS,
    Address,
    ConnectionState,
    Driver,
    UDPSocket,
    distrust_of,
)
from helpers.errors import ConnectionLost

# RFC 9001 section 4.8: a TLS alert closes a QUIC connection with 0x100 plus its number.
TLS_ALERT = 0x100
CERTIFICATE_ALERTS = {
    TLS_ALERT + AlertDescription.bad_certificate,
    TLS_ALERT + AlertDescription.certificate_expired,
    TLS_ALERT + AlertDescription.unknown_ca,
}
NO_APPLICATION_PROTOCOL = TLS_ALERT + AlertDescription.no_application_protocol

Resolved = list[tuple[int, Address]]


async def connect(
    host: str,
    port: int,
    server_name: str,
    new_configuration: Callable[[], QuicConfiguration],
    trust: Trust | None,
    timeout_s: float,
    asked_at: float,
) -> Driver:
    """Return an open connection, from the first address of `host` that answers.

    Its certificate has to be for `server_name`; `trust` explains why one was refused. The loop it
    is called on runs the connection. Raises httpx2.ConnectError with the reason, or
    httpx2.ConnectTimeout where nothing answers within `timeout_s` seconds of `asked_at`, on the
    loop's clock.
    """
    addresses = await _resolve(host, port)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    nobody: Exception | None = None  # the reason that says most
    for tried, (family, address) in enumerate(addresses):
        configuration = new_configuration()
        configuration.server_name = _canonical(server_name)
        # One that does not answer must leave time for the next: localhost may be ::1 or 127.0.0.1.
        left_s = asked_at + timeout_s - asyncio.get_running_loop().time()
        attempt_s = left_s / (len(addresses) - tried)
        try:
            return await _attempt(family, address, configuration, attempt_s)
        except OSError as error:  # TimeoutError is one
            if nobody is None or _weight(error) >= _weight(nobody):
                nobody = error
        except _HandshakeFailed as failure:
            raise httpx2.ConnectError(_why(failure, server_name, where, trust)) from failure.lost
    kind = httpx2.ConnectTimeout if isinstance(nobody, TimeoutError) else httpx2.ConnectError
    how = f"(UDP) within {timeout_s:g} s"
    if isinstance(nobody, NOBODY_LISTENS):
        how = "(UDP): the port is closed"
    text = f"No HTTP/3 server answered at {where} {how}. Is the server's cell running?"
    if isinstance(nobody, OSError) and _weight(nobody) == 0:
        text = f"This machine cannot send to {where} (UDP): {nobody.strerror or nobody}."
    try:
        raise kind(text) from nobody
    finally:
        del nobody  # it holds this frame


def _weight(error: Exception) -> int:
    """Return how much an attempt's end tells: silence took longest, a closed port is an answer."""
    return 2 if isinstance(error, TimeoutError) else int(isinstance(error, NOBODY_LISTENS))


def _canonical(host: str) -> str:
    """Return a host as a certificate names it: no dot at its end, an address in its short form."""
    with contextlib.suppress(ValueError):  # a name, then
        return str(ipaddress.ip_address(host))
    return host.removesuffix(".")


class _HandshakeFailed(Exception):
    """The peer answered, and the handshake failed; `certificate` is what it presented."""

    def __init__(self, lost: ConnectionLost | None, certificate: Certificate | None) -> None:
        super().__init__(str(lost))
        self.lost = lost
        self.certificate = certificate


async def _attempt(
    family: int, address: Address, configuration: QuicConfiguration, timeout_s: float
) -> Driver:
    endpoint = await UDPSocket.connect(address, family)
    refused: list[OSError] = []
    unsent: list[OSError] = []  # why the last datagram has not left

    def on_error(error: OSError) -> None:
        reason = f"port {address[1]} is closed"
        is_refused = isinstance(error, NOBODY_LISTENS)
        if driver.connection.state is ConnectionState.CONNECTING:
            # Its traceback holds the frames that sent, and they this driver.
            (refused if is_refused else unsent).append(error.with_traceback(None))
            if is_refused:
                driver.abandon(reason)
        elif is_refused:
            driver.doubt(reason)

    def send(data: bytes, _: Address) -> None:
        unsent.clear()
        endpoint.send(data)

    driver = Driver(
        configuration,
        send,
        on_closed=endpoint.close,
        read_waiting=endpoint.read_waiting,
        max_send_bytes=endpoint.max_send_bytes,
    )
    endpoint.deliver(driver.receive, on_error)
    try:
        async with asyncio.timeout(timeout_s):
            await driver.connect(address)
        if driver.connection.alpn != "h3":
            raise _HandshakeFailed(None, None)
    except ConnectionLost as lost:
        driver.abandon("the handshake failed")
        if refused:
            raise refused.pop() from lost  # a list would hold it, and it this frame
        raise _HandshakeFailed(lost, driver.connection.peer_certificate) from lost
    except TimeoutError as timeout:
        cannot_send = unsent.copy()  # saying good bye sends too
        _give_up(driver)
        if cannot_send:
            raise cannot_send.pop() from timeout
        raise
    except BaseException:
        _give_up(driver)
        raise
    return driver


def _give_up(driver: Driver) -> None:
    driver.close()
    driver.abandon("given up")


def _why(failure: _HandshakeFailed, server_name: str, where: str, trust: Trust | None) -> str:
    lost = failure.lost
    if lost is None or (lost.transport and lost.code == NO_APPLICATION_PROTOCOL):
        return "The server does not speak HTTP/3 (ALPN offered: h3)."
    if lost.transport and lost.code in CERTIFICATE_ALERTS:
        distrust = distrust_of(lost.reason)
        return explain_distrust(distrust, failure.certificate, server_name, lost.reason, trust)
    return f"The handshake with {where} failed. {lost}"


async def _resolve(host: str, port: int) -> Resolved:
    name = host.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        # RFC 6761 section 6.3: always this machine, no lookup
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))]
    with contextlib.suppress(ValueError):  # a name, then
        address = ipaddress.ip_address(host)  # answers come from its short form
        if address.version == 6:
            return [(socket.AF_INET6, (str(address), port, 0, 0))]
        return [(socket.AF_INET, (str(address), port))]
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise httpx2.ConnectError(f"Host {host!r} has no address: {error.strerror}.") from error
    except (UnicodeError, RuntimeError) as error:  # a label of 64 bytes; the process exits
        raise httpx2.ConnectError(f"Host {host!r} cannot be looked up: {error}.") from error
    return list(dict.fromkeys((info[0], info[4]) for info in infos))
