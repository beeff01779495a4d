"""The UDP socket: bursts, errors, and both address families."""

import asyncio
import contextlib
import errno
import socket
import sys

import pytest

from helpers.udp import DATAGRAMS_PER_TURN, UDPSocket, means_unavailable

pytestmark = pytest.mark.anyio

LOCAL = ("127.0.0.1", 0)
WAIT_S = 5.0
# What the kernel takes of a socket's buffer for one datagram of 1200 bytes, at most.
KERNEL_BYTES = 4096


class Inbox:
    """Takes datagrams and errors."""

    def __init__(self):
        self.datagrams = []
        self.senders = []
        self.errors = asyncio.Queue()

    def on_datagram(self, data, address):
        self.datagrams.append(data)
        self.senders.append(address)

    async def has(self, count):
        async with asyncio.timeout(WAIT_S):
            while len(self.datagrams) < count:  # noqa: ASYNC110 - the socket calls, and no more
                await asyncio.sleep(0)


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
async def bound(inbox):
    with contextlib.closing(
        await UDPSocket.bind(LOCAL, socket.AF_INET, inbox.on_datagram)
    ) as endpoint:
        yield endpoint


@pytest.fixture
def plain():
    """An ordinary blocking socket: the other side."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(LOCAL)
        sock.settimeout(WAIT_S)
        yield sock


def closed_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(LOCAL)
        return sock.getsockname()


async def test_a_bound_socket_knows_who_sent_and_answers(bound, inbox, plain):
    plain.sendto(b"question", bound.address)
    await inbox.has(1)
    assert (inbox.datagrams, inbox.senders) == ([b"question"], [plain.getsockname()])
    bound.send(b"answer", plain.getsockname())
    assert plain.recvfrom(100) == (b"answer", bound.address)


async def test_a_connected_socket_hears_its_peer_alone(inbox, plain):
    peer = plain.getsockname()
    endpoint = await UDPSocket.connect(
        peer, socket.AF_INET, inbox.on_datagram, inbox.errors.put_nowait
    )
    with contextlib.closing(endpoint):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"from a stranger", endpoint.address)
        plain.sendto(b"from the peer", endpoint.address)
        await inbox.has(1)
        assert inbox.datagrams == [b"from the peer"]
        endpoint.send(b"answer")
        assert plain.recv(100) == b"answer"


async def test_a_closed_port_is_reported_on_a_connected_socket(inbox):
    endpoint = await UDPSocket.connect(
        closed_port(), socket.AF_INET, inbox.on_datagram, inbox.errors.put_nowait
    )
    with contextlib.closing(endpoint):
        endpoint.send(b"is anybody there")
        error = await asyncio.wait_for(inbox.errors.get(), WAIT_S)
    assert isinstance(error, ConnectionRefusedError)


async def test_a_bound_socket_survives_a_peer_that_has_gone(bound, inbox, plain):
    bound.send(b"is anybody there", closed_port())
    plain.sendto(b"still here", bound.address)
    await inbox.has(1)
    assert inbox.datagrams == [b"still here"]


async def test_a_burst_is_taken_whole_while_others_get_their_turns(bound, inbox, plain):
    burst = 5 * DATAGRAMS_PER_TURN
    turn, turns = 0, []

    def count():
        nonlocal turn
        turn += 1
        if len(turns) < burst:
            asyncio.get_running_loop().call_soon(count)

    bound._on_datagram = lambda data, address: turns.append(turn)
    for _ in range(burst):  # the loop does not run meanwhile: all of it waits in the kernel
        plain.sendto(b"x", bound.address)
    count()
    async with asyncio.timeout(WAIT_S):
        while len(turns) < burst:  # noqa: ASYNC110 - the socket calls, and no more
            await asyncio.sleep(0)
    in_each = [turns.count(number) for number in sorted(set(turns))]
    assert in_each == [DATAGRAMS_PER_TURN] * 5


async def test_the_kernel_keeps_a_burst_for_a_loop_that_is_late(bound, inbox, plain):
    granted_bytes = bound._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if sys.platform == "linux":
        assert granted_bytes > plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    burst = granted_bytes // KERNEL_BYTES
    for number in range(burst):
        plain.sendto(number.to_bytes(1200, "big"), bound.address)
    await inbox.has(burst)
    assert [int.from_bytes(data, "big") for data in inbox.datagrams] == list(range(burst))


async def test_both_families_share_a_port_number(bound, inbox, plain):
    try:
        second = await UDPSocket.bind(("::1", bound.address[1]), socket.AF_INET6, inbox.on_datagram)
    except OSError as error:
        if not means_unavailable(error):
            raise
        pytest.skip("this machine has no IPv6")
    with contextlib.closing(second), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        plain.sendto(b"four", bound.address)
        six.sendto(b"six", second.address)
        await inbox.has(2)
    assert set(inbox.datagrams) == {b"four", b"six"}


async def test_a_taken_port_is_an_error_and_leaves_no_socket(bound, inbox):
    with pytest.raises(OSError, match="in use") as caught:
        await UDPSocket.bind(bound.address, socket.AF_INET, inbox.on_datagram)
    assert caught.value.errno == errno.EADDRINUSE
    assert not means_unavailable(caught.value)


async def test_an_address_of_another_machine_cannot_be_bound(inbox):
    with pytest.raises(OSError, match="assign") as caught:
        await UDPSocket.bind(("192.0.2.1", 0), socket.AF_INET, inbox.on_datagram)
    assert means_unavailable(caught.value)


async def test_a_refused_connect_leaves_no_socket(inbox):
    # An IPv6 address on an IPv4 socket is refused everywhere, and without a network as well.
    with pytest.raises(socket.gaierror):
        await UDPSocket.connect(
            ("::1", 9), socket.AF_INET, inbox.on_datagram, inbox.errors.put_nowait
        )


async def test_what_was_sent_before_close_leaves_and_nothing_after(bound, plain):
    bound.send(b"last words", plain.getsockname())
    bound.close()
    bound.send(b"too late", plain.getsockname())
    bound.close()
    assert plain.recv(100) == b"last words"
    plain.setblocking(False)
    with pytest.raises(BlockingIOError):
        plain.recv(100)
