"""The UDP socket: bursts, errors, and both address families."""

import asyncio
import contextlib
import errno
import logging
import socket
import sys
import types
from collections import Counter

import httpx2
import pytest

from helpers.connection import udp
from helpers.connection.udp import (
    CLIENT_DATAGRAMS_PER_TURN,
    DATAGRAMS_PER_TURN,
    NOBODY_LISTENS,
    SOCKET_BUFFER_BYTES,
    UDPSocket,
    means_unavailable,
)

pytestmark = pytest.mark.anyio

LOCAL = ("127.0.0.1", 0)
WAIT_S = 30.0
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


async def bind(inbox, address=LOCAL, family=socket.AF_INET):
    """A bound socket that delivers into the inbox."""
    endpoint = await UDPSocket.bind(address, family)
    endpoint.deliver(inbox.on_datagram)
    return endpoint


async def connect(inbox, address):
    """A connected one, which reports errors too."""
    endpoint = await UDPSocket.connect(address, socket.AF_INET)
    endpoint.deliver(inbox.on_datagram, inbox.errors.put_nowait)
    return endpoint


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
async def bound(inbox):
    with contextlib.closing(await bind(inbox)) as endpoint:
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
    with contextlib.closing(await connect(inbox, plain.getsockname())) as endpoint:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"from a stranger", endpoint.address)
        plain.sendto(b"from the peer", endpoint.address)
        await inbox.has(1)
        assert inbox.datagrams == [b"from the peer"]
        endpoint.send(b"answer")
        assert plain.recv(100) == b"answer"


async def test_a_closed_port_is_reported_on_a_connected_socket(inbox):
    with contextlib.closing(await connect(inbox, closed_port())) as endpoint:
        endpoint.send(b"is anybody there")
        error = await asyncio.wait_for(inbox.errors.get(), WAIT_S)
    assert isinstance(error, NOBODY_LISTENS)


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

    bound.deliver(lambda data, address: turns.append(turn))
    for _ in range(burst):  # the loop does not run meanwhile: all of it waits in the kernel
        plain.sendto(b"x", bound.address)
    count()
    async with asyncio.timeout(WAIT_S):
        while len(turns) < burst:  # noqa: ASYNC110 - the socket calls, and no more
            await asyncio.sleep(0)
    in_each = [turns.count(number) for number in sorted(set(turns))]
    assert in_each == [DATAGRAMS_PER_TURN] * 5


async def test_a_clients_datagrams_are_taken_a_few_at_a_time(inbox, plain):
    turn, turns = 0, []

    def count():
        nonlocal turn
        turn += 1
        if len(turns) < 20:
            asyncio.get_running_loop().call_soon(count)

    with contextlib.closing(await connect(inbox, plain.getsockname())) as endpoint:
        endpoint.deliver(lambda data, address: turns.append(turn))
        for _ in range(20):
            plain.sendto(b"x", endpoint.address)
        count()
        async with asyncio.timeout(WAIT_S):
            while len(turns) < 20:  # noqa: ASYNC110 - the socket calls, and no more
                await asyncio.sleep(0)
    in_each = [turns.count(number) for number in sorted(set(turns))]
    assert in_each == [CLIENT_DATAGRAMS_PER_TURN, CLIENT_DATAGRAMS_PER_TURN, 4]


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
        second = await bind(inbox, ("::1", bound.address[1]), socket.AF_INET6)
    except OSError as error:
        if not means_unavailable(error):
            raise
        pytest.skip("this machine has no IPv6")
    with contextlib.closing(second), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        plain.sendto(b"four", bound.address)
        six.sendto(b"six", second.address)
        await inbox.has(2)
    assert set(inbox.datagrams) == {b"four", b"six"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system chooses the source")
async def test_every_address_answers_for_itself(inbox):
    endpoint = await bind(inbox, ("0.0.0.0", 0))
    port = endpoint.address[1]
    asked = ["127.0.0.1", "127.0.0.2", "127.1.2.3"]
    with contextlib.ExitStack() as stack:
        stack.callback(endpoint.close)
        peers = []
        for host in asked:
            peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            peer.settimeout(WAIT_S)
            peer.connect((host, port))
            peer.send(host.encode())
            peers.append(peer)
        await inbox.has(len(asked))
        for data, sender in zip(inbox.datagrams, inbox.senders, strict=True):
            endpoint.send(b"to " + data, sender)
        assert [peer.recv(100) for peer in peers] == [b"to " + host.encode() for host in asked]
        assert {sender[:2] for sender in inbox.senders} == {peer.getsockname() for peer in peers}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system chooses the source")
async def test_what_every_address_cannot_send_is_lost(inbox, caplog):
    caplog.set_level(logging.INFO, "helpers.udp")
    endpoint = await bind(inbox, ("0.0.0.0", 0))
    endpoint.send(bytes(70_000), ("127.0.0.1", 9, None))
    endpoint.close()
    endpoint.close()
    endpoint.send(b"after", ("127.0.0.1", 9, None))
    (line,) = caplog.messages
    assert line.startswith("A datagram could not be sent")


async def test_a_taken_port_is_an_error_and_leaves_no_socket(bound):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its text differs between systems
        await UDPSocket.bind(bound.address, socket.AF_INET)
    # Windows says EACCES where the other one has the port for itself.
    assert caught.value.errno in (errno.EADDRINUSE, errno.EACCES)
    assert not means_unavailable(caught.value)


async def test_an_address_of_another_machine_cannot_be_bound():
    with pytest.raises(OSError) as caught:  # noqa: PT011
        await UDPSocket.bind(("192.0.2.1", 0), socket.AF_INET)
    assert means_unavailable(caught.value)


async def test_a_refused_connect_leaves_no_socket():
    # An IPv6 address on an IPv4 socket is refused everywhere, and without a network as well.
    with pytest.raises(socket.gaierror):
        await UDPSocket.connect(("::1", 9), socket.AF_INET)


async def test_what_was_sent_before_close_leaves_and_nothing_after(bound, plain):
    bound.send(b"last words", plain.getsockname())
    bound.close()
    bound.send(b"too late", plain.getsockname())
    bound.close()
    assert plain.recv(100) == b"last words"
    plain.setblocking(False)
    with pytest.raises(BlockingIOError):
        plain.recv(100)


# ---- what other systems do


class OtherSystem(socket.socket):
    """A socket that grants, and fails, as a test says.

    `grants` has (default, limit) for an option, `fails` the error of the n-th call of a method. The
    fixture gives each test a class of its own, which knows its sockets: `made`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.granted = {option: default for option, (default, _) in self.grants.items()}
        self.calls = Counter()
        self.longest_bytes = 0
        self.made.append(self)

    def setsockopt(self, level, option, value):
        if option not in self.granted:
            super().setsockopt(level, option, value)
        elif value > self.grants[option][1]:
            raise OSError(errno.ENOBUFS, "as macOS does")
        else:
            self.granted[option] = value

    def getsockopt(self, level, option, *args):
        return self.granted.get(option) or super().getsockopt(level, option, *args)

    def fail_if_asked(self, method):
        self.calls[method] += 1
        if (error := self.fails.get(method, {}).get(self.calls[method])) is not None:
            raise error

    def check_sent(self, data):
        if len(data) > self.granted.get(socket.SO_SNDBUF, len(data)):
            raise OSError(errno.EMSGSIZE, "longer than the buffer")
        self.fail_if_asked("send")
        self.longest_bytes = max(self.longest_bytes, len(data))

    def send(self, data, *args):
        self.check_sent(data)
        return super().send(data, *args)

    def sendto(self, data, *args):
        self.check_sent(data)
        return super().sendto(data, *args)

    def recvfrom(self, *args):
        self.fail_if_asked("recvfrom")
        return super().recvfrom(*args)


@pytest.fixture
def other_system(monkeypatch):
    """Makes the helpers' sockets another system's; nothing fails yet, and all is granted."""
    kind = type("OneSystem", (OtherSystem,), {"grants": {}, "fails": {}, "made": []})
    monkeypatch.setattr(udp, "KERNEL_SHARE", 1)
    monkeypatch.setattr(udp, "socket", types.SimpleNamespace(**{**vars(socket), "socket": kind}))
    return kind


def move_both_ways(server, client, size_bytes=10**6):
    """Sends a body there and back, and checks it."""

    @server.route("/")
    async def echo(request, response):
        await response.write(await request.read())

    body = bytes(range(250)) * (size_bytes // 250)
    assert client.post(server.url("/"), content=body).content == body


@pytest.mark.parametrize(
    ("at_most", "granted"),
    [(9216, 9216), (100_000, 65_536), (8 * 1024 * 1024, SOCKET_BUFFER_BYTES)],
)
async def test_a_system_that_refuses_much_is_asked_for_less(other_system, inbox, at_most, granted):
    other_system.grants[socket.SO_SNDBUF] = (9216, at_most)
    with contextlib.closing(await bind(inbox)) as endpoint:
        assert other_system.made[0].granted == {socket.SO_SNDBUF: granted}
        assert endpoint.max_send_bytes == granted


@pytest.fixture
def short_buffers(other_system):
    """What macOS may grant; before the server, whose sockets are then such."""
    other_system.grants[socket.SO_SNDBUF] = (9216, 9216)
    return other_system


def test_datagrams_are_as_long_as_the_send_buffer_where_that_is_short(
    short_buffers, server, client
):
    move_both_ways(server, client)
    lengths = [sock.longest_bytes for sock in short_buffers.made if sock.calls["send"]]
    assert [9216 - 200 < length <= 9216 for length in lengths] == [True, True]


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("code", ["ENOBUFS", "EMSGSIZE", "EPERM", "ENETUNREACH", "EHOSTUNREACH"])
def test_a_datagram_that_cannot_be_sent_is_lost_and_no_more(
    other_system, server, client, code, number, caplog
):
    caplog.set_level(logging.INFO, "helpers.udp")
    other_system.fails["send"] = {number: OSError(getattr(errno, code), "only this once")}
    move_both_ways(server, client)
    so_many = [sock for sock in other_system.made if sock.calls["send"] >= number]
    assert len(so_many) == 2  # the client's and the server's
    told = [record.getMessage() for record in caplog.records if record.name == "helpers.udp"]
    assert len(told) == 2
    assert all(
        text.endswith("and is lost: " + str(other_system.fails["send"][number])) for text in told
    )
    assert len(client._transport._transport._all) == 1


@pytest.mark.parametrize("number", [1, 5])
def test_a_server_hears_of_a_peer_that_has_gone_and_goes_on(other_system, server, client, number):
    """Windows reports at the unconnected socket that a datagram sent from it came to no port."""
    (of_the_server, *_) = other_system.made
    of_the_server.fails = {"recvfrom": {number: ConnectionResetError(errno.ECONNRESET, "gone")}}
    move_both_ways(server, client)
    assert of_the_server.calls["recvfrom"] > number
    assert len(client._transport._transport._all) == 1


@pytest.mark.parametrize("kind", [ConnectionRefusedError, ConnectionResetError])
def test_a_client_takes_both_words_for_a_closed_port(other_system, server, client, kind):
    for sock in other_system.made:
        sock.fails = {}  # the server's own
    other_system.fails["send"] = {1: kind(errno.ECONNREFUSED, "in some other words")}
    with pytest.raises(httpx2.ConnectError, match=r"^No HTTP/3 server answered at ") as caught:
        client.get(f"https://127.0.0.1:{server.port}/")
    assert type(caught.value.__cause__) is kind


async def test_a_burst_goes_on_after_an_error_in_it(other_system, inbox, plain):
    other_system.fails["recvfrom"] = {2: ConnectionResetError()}
    with contextlib.closing(await bind(inbox)) as endpoint:
        for data in (b"second", b"third"):  # the loop does not run: they wait in the kernel
            plain.sendto(data, endpoint.address)
        endpoint.datagram_received(b"first", plain.getsockname())
        assert inbox.datagrams == [b"first", b"second", b"third"]


async def test_a_client_hears_amid_a_burst_that_nobody_listens(other_system, inbox, plain):
    """The system says it once: who takes that with the datagrams passes it on."""
    other_system.fails["recvfrom"] = {2: ConnectionRefusedError()}
    with contextlib.closing(await connect(inbox, plain.getsockname())) as endpoint:
        for data in (b"second", b"third"):
            plain.sendto(data, endpoint.address)
        endpoint.datagram_received(b"first", plain.getsockname())
        assert inbox.datagrams == [b"first", b"second", b"third"]
        assert isinstance(inbox.errors.get_nowait(), ConnectionRefusedError)
