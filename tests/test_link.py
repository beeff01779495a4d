"""A line with distance and loss: exactly, on a clock of its own, and with sockets and programs."""

import contextlib
import gc
import math
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

import httpx2
import psutil
import pytest

from helpers.client import HTTP3Transport
from helpers.errors import UsageError
from helpers.link import Line, Link, relay
from helpers.server import Server

ROOT = Path(__file__).parent.parent
WAIT_S = 30.0
PERFECT = {
    "delay_ms": 0.0,
    "jitter_ms": 0.0,
    "loss": 0.0,
    "rate_mbit": math.inf,
    "queue_ms": 100.0,
    "reorder": 0.0,
    "duplicate": 0.0,
}
MBIT_BYTES = 125_000


def line(seed="1", **conditions):
    return Line(PERFECT | conditions, seed)


def arrivals(line):
    """What is on the way, each with the time at which it arrives, to the nanosecond."""
    arrived = []
    while (at := line.next_arrival()) is not None:
        assert line.leave(math.nextafter(at, 0)) == []
        arrived += [(round(at, 9), thing) for thing in line.leave(at)]
    return arrived


# ---- the line, on a clock of its own


def test_each_takes_the_delay():
    one = line(delay_ms=50)
    assert [one.enter(number, 1200, now=number / 1000) for number in range(3)] == 3 * ["delivered"]
    assert arrivals(one) == [(0.05, 0), (0.051, 1), (0.052, 2)]


def test_nothing_is_on_the_way_before_and_after():
    one = line(delay_ms=50)
    assert one.next_arrival() is None
    one.enter("a", 1200, now=7.0)
    assert one.leave(7.0) == []
    assert one.leave(8.0) == ["a"]
    assert one.next_arrival() is None


def test_jitter_adds_up_to_so_much_and_keeps_the_order():
    one = line(delay_ms=50, jitter_ms=20)
    for number in range(1000):
        one.enter(number, 1200, now=float(number))
    taken_ms = [(at - number) * 1000 for at, number in arrivals(one)]
    assert 50 <= min(taken_ms) < 51
    assert 69 < max(taken_ms) <= 70
    assert statistics.fmean(taken_ms) == pytest.approx(60, abs=1)
    for number in range(100):
        one.enter(number, 1200, now=2000 + number / 1000)
    assert [number for _, number in arrivals(one)] == list(range(100))


def test_a_delay_that_shrinks_lets_nobody_overtake():
    conditions = PERFECT | {"delay_ms": 200.0}
    one = Line(conditions, "1")
    one.enter("first", 1200, now=0.0)
    conditions["delay_ms"] = 10.0
    one.enter("second", 1200, now=0.0)
    one.enter("third", 1200, now=0.3)
    assert arrivals(one) == [(0.2, "first"), (0.2, "second"), (0.31, "third")]


def test_a_rate_puts_one_after_the_other_on_the_line():
    one = line(rate_mbit=10, delay_ms=50)
    for number in range(3):
        one.enter(number, MBIT_BYTES // 100, now=0.0)  # a millisecond each
    one.enter(3, MBIT_BYTES // 100, now=1.0)
    assert [at for at, _ in arrivals(one)] == pytest.approx([0.051, 0.052, 0.053, 1.051])


def test_the_rate_is_exact_in_the_long_run():
    one = line(rate_mbit=8, queue_ms=10_000)
    for number in range(1000):
        one.enter(number, 1000, now=number * 0.0005)  # twice what it takes
    assert arrivals(one)[-1][0] == pytest.approx(1.0)


def test_what_would_wait_longer_than_the_queue_is_lost():
    one = line(rate_mbit=8, queue_ms=5)
    fates = [one.enter(number, 1000, now=0.0) for number in range(8)]  # a millisecond each
    assert fates == 6 * ["delivered"] + 2 * ["lost"]
    assert [number for _, number in arrivals(one)] == list(range(6))
    # Two milliseconds later there is room for two.
    fates = [one.enter(number, 1000, now=0.002) for number in range(3)]
    assert fates == ["delivered", "delivered", "lost"]


def test_without_a_queue_only_what_need_not_wait_gets_through():
    one = line(rate_mbit=8, queue_ms=0)
    assert [one.enter(0, 1000, now) for now in (0.0, 0.0005, 0.001)] == [
        "delivered",
        "lost",
        "delivered",
    ]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
@pytest.mark.parametrize("fate", ["loss", "reorder", "duplicate"])
def test_shares_are_exact_in_the_long_run(fate, share):
    one = line(**{fate: share})
    named = {"loss": "lost", "reorder": "late", "duplicate": "doubled"}[fate]
    count = 100_000
    fates = Counter(one.enter(None, 0, now=0.0) for _ in range(count))
    four_sigma = 4 * math.sqrt(share * (1 - share) / count)
    assert fates[named] / count == pytest.approx(share, abs=four_sigma)
    assert fates[named] + fates["delivered"] == count
    copies = {"loss": 0, "reorder": 1, "duplicate": 2}[fate]
    assert len(one.leave(1.0)) == fates["delivered"] + copies * fates[named]


def test_who_is_lost_is_neither_late_nor_doubled():
    one = line(loss=0.5, reorder=0.5, duplicate=0.5)
    fates = Counter(one.enter(None, 0, now=0.0) for _ in range(100_000))
    shares = [fates[fate] / 100_000 for fate in ("lost", "late", "doubled", "delivered")]
    assert shares == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.01)


def test_who_is_late_takes_the_time_twice_and_is_overtaken():
    conditions = PERFECT | {"delay_ms": 50.0, "reorder": 1.0}
    one = Line(conditions, "1")
    assert one.enter("late", 1200, now=0.0) == "late"
    conditions["reorder"] = 0.0
    one.enter("next", 1200, now=0.001)
    assert arrivals(one) == [(0.051, "next"), (0.1, "late")]


def test_also_on_a_line_without_distance_the_late_are_overtaken():
    conditions = PERFECT | {"reorder": 1.0}
    one = Line(conditions, "1")
    one.enter("late", 1200, now=0.0)
    conditions["reorder"] = 0.0
    one.enter("next", 1200, now=0.001)
    assert [thing for _, thing in arrivals(one)] == ["next", "late"]


def test_who_is_doubled_arrives_twice_at_once():
    one = line(delay_ms=50, duplicate=1)
    assert one.enter("a", 1200, now=0.0) == "doubled"
    assert arrivals(one) == [(0.05, "a"), (0.05, "a")]


FATEFUL = {"loss": 0.1, "reorder": 0.1, "duplicate": 0.1}


def fates_of(seed, count=1000, **conditions):
    one = line(seed, **FATEFUL | conditions)
    return [one.enter(None, 1200, now=0.0) for _ in range(count)]


def test_the_same_seed_gives_the_nth_the_same_fate():
    assert fates_of("1") == fates_of("1")
    assert fates_of("1") == fates_of("1", delay_ms=70, jitter_ms=50)
    assert fates_of("1") != fates_of("2")


def test_what_the_earlier_met_changes_nothing_for_the_later():
    conditions = PERFECT | FATEFUL
    one = Line(conditions, "1")
    conditions |= {"loss": 0.7, "reorder": 0.0}
    for _ in range(400):
        one.enter(None, 1200, now=0.0)
    one.cut()
    for _ in range(100):
        one.enter(None, 1200, now=0.0)
    one.mend()
    conditions |= FATEFUL
    assert [one.enter(None, 1200, now=0.0) for _ in range(500)] == fates_of("1")[500:]


def test_more_loss_loses_those_that_less_would_and_others():
    little, much = fates_of("1", loss=0.1), fates_of("1", loss=0.3)
    assert all(more == "lost" for less, more in zip(little, much, strict=True) if less == "lost")


def test_a_cut_line_loses_what_enters_and_brings_what_is_on_the_way():
    one = line(delay_ms=50)
    one.enter("before", 1200, now=0.0)
    one.cut()
    assert one.enter("meanwhile", 1200, now=0.01) == "lost"
    one.mend()
    assert one.enter("after", 1200, now=0.02) == "delivered"
    assert [thing for _, thing in arrivals(one)] == ["before", "after"]


def test_no_sender_fills_the_memory():
    one = line(delay_ms=10_000)
    fates = Counter(one.enter(None, 65536, now=0.0) for _ in range(2000))
    assert fates["delivered"] == 64 * 1024 * 1024 // 65536
    one.leave(20.0)
    assert one.enter(None, 65536, now=20.0) == "delivered"


# ---- the conditions


WRONG = {
    "delay_ms": [-1, -0.001, 10_001, math.nan, math.inf, "50", None, True, [50], 1j],
    "jitter_ms": [-1, 10_001, None],
    "loss": [-0.01, 1.01, 5, math.nan, "1%", None, False],
    "rate_mbit": [0, -1, math.nan, "fast", True],
    "queue_ms": [-1, 10_001, None],
    "reorder": [-0.01, 2, None],
    "duplicate": [-0.01, 2, None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_condition_out_of_range_is_refused_with_the_range(name, value):
    with pytest.raises(UsageError) as at_construction:
        Link(4433, **{name: value})
    link = Link(4433)
    before = repr(link)
    with pytest.raises(UsageError) as when_set:
        setattr(link, name, value)
    assert str(when_set.value) == str(at_construction.value)
    assert str(when_set.value).startswith(f"{name} is a ")
    assert str(when_set.value).endswith(f", not {value!r}.")
    assert repr(link) == before


def test_a_share_that_was_meant_as_a_percentage_is_explained():
    with pytest.raises(UsageError) as raised:
        Link(4433, loss=5)
    assert str(raised.value) == "loss is a share from 0 to 1, such as 0.05 for 5 %, not 5."


def test_conditions_are_read_as_they_were_set():
    link = Link(4433, delay_ms=1, jitter_ms=2, loss=0.3, rate_mbit=4, queue_ms=5, seed=8)
    assert (link.delay_ms, link.jitter_ms, link.loss, link.rate_mbit) == (1, 2, 0.3, 4)
    link.delay_ms, link.rate_mbit = 10_000, None
    assert (link.delay_ms, link.rate_mbit, link.queue_ms) == (10_000, math.inf, 5)
    assert repr(link) == (
        "<Link stopped, delay_ms=10000, jitter_ms=2, loss=0.3, rate_mbit=inf, queue_ms=5, "
        "reorder=0, duplicate=0, seed=8>"
    )


# ---- on sockets


@pytest.fixture
def echo():
    """The port of a program that sends each datagram back, and the addresses it came from."""
    came_from = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

        def run():
            while (received := sock.recvfrom(65536))[0] != b"end":
                came_from.append(received[1])
                sock.sendto(*received)

        thread = threading.Thread(target=run)
        thread.start()
        yield port, came_from
        with udp_client(port) as last:
            last.send(b"end")
        thread.join(WAIT_S)


@contextlib.contextmanager
def udp_client(port, host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.connect((host, port))
        yield sock


def ask(sock, data=b"hello"):
    sock.send(data)
    return sock.recv(65536)


def test_at_rest_it_adds_the_delay_and_next_to_nothing(echo):
    port, _ = echo
    with Link(port, delay_ms=20) as link, udp_client(link.port) as sock:
        taken_ms = []
        for _ in range(15):
            started = time.perf_counter()
            ask(sock)
            taken_ms.append((time.perf_counter() - started) * 1000)
    assert min(taken_ms) > 40 - 1.1
    # 0.3 ms where nothing else runs.
    assert statistics.median(taken_ms) < 40 + 10


def test_a_delay_set_while_it_runs_is_that_of_the_next_datagram(echo):
    port, _ = echo
    with Link(port, delay_ms=0) as link, udp_client(link.port) as sock:
        ask(sock)
        link.delay_ms = 150
        started = time.perf_counter()
        ask(sock)
        assert time.perf_counter() - started > 0.29


def test_a_rate_is_kept(echo):
    port, _ = echo
    with (
        Link(port, delay_ms=0, rate_mbit=2, queue_ms=10_000) as link,
        udp_client(link.port) as sock,
    ):
        started = time.perf_counter()
        for _ in range(50):
            sock.send(bytes(1000))
        for _ in range(50):
            sock.recv(65536)
        taken_s = time.perf_counter() - started
    # 50 kB there, and all but the first of them are on their way back meanwhile.
    assert 0.204 * 0.95 < taken_s < 0.204 * 5


def test_it_is_not_what_slows_others_down():
    """It carries 300 Mbit/s where it is alone; a fifth of 200 here, and loses none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, relay.SOCKET_BUFFER_BYTES)
        server.settimeout(WAIT_S)
        with Link(server.getsockname(), delay_ms=1) as link, udp_client(link.port) as sock:
            started = time.perf_counter()
            for _ in range(50):
                for _ in range(20):  # what the smallest of the systems' buffers takes
                    sock.send(bytes(1200))
                for _ in range(20):
                    server.recv(1500)
            taken_s = time.perf_counter() - started
    # Each of the fifty rounds also takes the delay.
    assert 1000 * 1200 * 8 / (taken_s - 50 * 0.001) > 40e6


def test_each_datagram_that_passed_is_recorded_with_its_fate(echo):
    port, _ = echo
    with Link(port, delay_ms=0, seed=3) as link, udp_client(link.port) as sock:
        assert link.datagrams == []
        ask(sock, b"1234567")
        sock.send(bytes(1473))
        ask(sock, bytes(1472))
        link.loss = 1
        sock.send(b"123")
        wait_until(lambda: len(link.datagrams) == 6)
    what = [(d.direction, d.size_bytes, d.fate) for d in link.datagrams]
    assert what[:2] == [("up", 7, "delivered"), ("down", 7, "delivered")]
    assert what[2:] == [
        ("up", 1473, "too long"),
        ("up", 1472, "delivered"),
        ("down", 1472, "delivered"),
        ("up", 3, "lost"),
    ]
    times = [datagram.time_s for datagram in link.datagrams]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < WAIT_S


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_passed_is_remembered_up_to_a_limit(echo, monkeypatch):
    monkeypatch.setattr(relay, "MAX_RECORDED", 10)
    port, _ = echo
    with Link(port, delay_ms=0) as link, udp_client(link.port) as sock:
        for size in range(20):
            ask(sock, bytes(size))
    assert [datagram.size_bytes for datagram in link.datagrams] == [
        size for size in range(15, 20) for _ in range(2)
    ]


def test_a_link_that_is_started_again_begins_anew(echo):
    port, _ = echo
    link = Link(port, delay_ms=0, loss=0.5)
    fates = []
    for _ in range(2):
        with link, udp_client(link.port) as sock:
            for _ in range(100):
                sock.send(b"hello")
            wait_until(lambda: [d.direction for d in link.datagrams].count("up") == 100)
        fates.append([d.fate for d in link.datagrams if d.direction == "up"])
    assert fates[0] == fates[1]


def test_both_loopback_addresses_lead_to_the_server(echo):
    port, _ = echo
    with Link(port, delay_ms=0) as link:
        for host in ("127.0.0.1", "::1"):
            with contextlib.suppress(OSError), udp_client(link.port, host) as sock:
                assert ask(sock) == b"hello"


def test_several_clients_get_each_their_own_answers(echo):
    port, came_from = echo
    with Link(port, delay_ms=5) as link, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(udp_client(link.port)) for _ in range(20)]
        for number, sock in enumerate(clients):
            sock.send(b"%d" % number)
        for number, sock in enumerate(clients):
            assert sock.recv(65536) == b"%d" % number
    assert len(set(came_from)) == 20


def test_several_links_stand_in_a_row_or_side_by_side(echo):
    port, _ = echo
    with Link(port, delay_ms=20) as near, Link(near, delay_ms=20) as far, Link(port) as other:
        assert len({port, near.port, far.port, other.port}) == 4
        with udp_client(far.port) as sock:
            started = time.perf_counter()
            ask(sock)
            assert time.perf_counter() - started > 0.077


def test_a_pause_loses_what_comes_until_it_ends(echo):
    port, _ = echo
    with Link(port, delay_ms=0) as link, udp_client(link.port) as sock:
        ask(sock)
        link.pause()
        sock.send(b"into the dark")
        wait_until(lambda: len(link.datagrams) == 3)
        link.resume()
        assert ask(sock) == b"hello"
    assert [datagram.fate for datagram in link.datagrams].count("lost") == 1


def test_a_pause_may_end_by_itself(echo):
    port, _ = echo
    with Link(port, delay_ms=0) as link, udp_client(link.port) as sock:
        link.pause(60)
        link.pause(0.1)  # the last one counts
        started = time.perf_counter()
        sock.settimeout(0.02)
        while True:
            with contextlib.suppress(TimeoutError):
                assert ask(sock) == b"hello"
                break
        assert time.perf_counter() - started > 0.09
        link.pause(60)
        link.resume()
        sock.settimeout(WAIT_S)
        assert ask(sock) == b"hello"
        link.pause(60)  # holds up no end


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "3", True])
def test_a_pause_that_is_no_time_is_refused(echo, seconds):
    port, _ = echo
    with Link(port) as link:
        with pytest.raises(UsageError, match="A pause lasts a number of seconds"):
            link.pause(seconds)


def test_a_client_that_is_bound_anew_comes_from_another_port(echo):
    port, came_from = echo
    with Link(port, delay_ms=0) as link, udp_client(link.port) as sock:
        for _ in range(3):
            assert ask(sock) == b"hello"
            link.rebind()
        assert ask(sock) == b"hello"
    assert len(set(came_from)) == 4


def test_a_server_that_is_away_for_a_while_costs_datagrams_alone():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    with Link(address, delay_ms=0) as link, udp_client(link.port) as client:
        for _ in range(5):
            client.send(b"hello")
        wait_until(lambda: len(link.datagrams) == 5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(address)
            sock.settimeout(WAIT_S)
            client.send(b"hello")  # the next one may meet the news that the port was closed
            client.send(b"hello")
            assert sock.recv(100) == b"hello"


# ---- what it costs


def test_a_thousand_clients_cost_so_many_sockets_at_most(echo):
    port, came_from = echo
    before = len(psutil.Process().net_connections(kind="udp"))
    with Link(port, delay_ms=0) as link:
        for _ in range(1000):
            with udp_client(link.port) as sock:
                assert ask(sock) == b"hello"
        during = len(psutil.Process().net_connections(kind="udp"))
        assert len(came_from) == 1000
        assert during - before <= relay.MAX_CLIENTS + 2
    assert len(psutil.Process().net_connections(kind="udp")) == before


def test_a_client_that_was_forgotten_is_known_again_as_another(echo, monkeypatch):
    monkeypatch.setattr(relay, "MAX_CLIENTS", 2)
    port, came_from = echo
    with Link(port, delay_ms=0) as link, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(udp_client(link.port)) for _ in range(3)]
        for sock in [*clients, clients[0]]:
            assert ask(sock) == b"hello"
    assert len(set(came_from)) == 4


def test_the_socket_of_a_silent_client_is_closed(echo, monkeypatch):
    monkeypatch.setattr(relay, "IDLE_S", 0.05)
    port, _ = echo
    with Link(port, delay_ms=0) as link:
        before = len(psutil.Process().net_connections(kind="udp"))
        with udp_client(link.port) as sock:
            assert ask(sock) == b"hello"
        wait_until(lambda: len(psutil.Process().net_connections(kind="udp")) == before)
        with udp_client(link.port) as sock:
            assert ask(sock) == b"hello"


def test_a_client_for_whom_there_is_no_socket_loses_its_datagrams(echo, monkeypatch):
    port, _ = echo
    with (
        Link(port, delay_ms=0) as link,
        udp_client(link.port) as first,
        udp_client(link.port) as second,
    ):
        assert ask(first) == b"hello"

        def refuse(*_):
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(relay, "_new_socket", refuse)
            second.send(b"lost")
            assert ask(first) == b"hello"
        assert ask(second) == b"hello"


# ---- what can be done wrong


@pytest.mark.parametrize("server", [None, "localhost:4433", 4433.0, ("localhost",), (4433, "a")])
def test_what_is_no_server_is_refused(server):
    with pytest.raises(UsageError) as raised:
        Link(server).start()
    assert str(raised.value) == (
        f"A link leads to a Server, a port, or a (host, port), not to {server!r}."
    )


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(UsageError, match=rf"A port is a number from 1 to 65535, not {port}\."):
        Link(("127.0.0.1", port)).start()


def test_a_host_without_an_address_is_refused(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UsageError, match=r"Host 'nowhere\.test' has no address: Name or service"):
        Link(("nowhere.test", 4433)).start()


def test_a_server_that_was_never_started_is_told(credentials):
    server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
    with pytest.raises(UsageError, match=r"call start\(\) first"):
        Link(server).start()


def test_a_server_that_has_stopped_is_told(credentials):
    with Server(cert_file=credentials.cert_file, key_file=credentials.key_file) as server:
        pass
    with pytest.raises(UsageError, match=r"Nobody listens on .* any more: <Server stopped,"):
        Link(server).start()


def test_where_no_port_is_left_it_says_so(monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(relay, "_new_socket", refuse)
    with pytest.raises(UsageError, match=r"A link cannot bind a port: Too many open files\."):
        Link(4433).start()


def test_without_ipv6_it_is_bound_to_the_other(echo, monkeypatch):
    port, _ = echo
    new_socket = relay._new_socket

    def without_six(family, *arguments):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return new_socket(family, *arguments)

    monkeypatch.setattr(relay, "_new_socket", without_six)
    with Link(port, delay_ms=0) as link, udp_client(link.port) as sock:
        assert ask(sock) == b"hello"


def test_starting_and_stopping_twice_is_harmless(echo):
    port, _ = echo
    link = Link(port)
    link.stop()
    with link:
        here = link.port
        assert link.start() is link
        assert link.port == here
        assert link.url("/stream") == f"https://localhost:{here}/stream"
        assert f"https://localhost:{here}/" in repr(link)
    link.stop()


@pytest.mark.parametrize(
    "use",
    [Link.pause, Link.resume, Link.rebind, Link.url, lambda link: link.port],
    ids=["pause", "resume", "rebind", "url", "port"],
)
def test_one_that_does_not_run_says_so(echo, use):
    port, _ = echo
    link = Link(port)
    for _ in range(2):  # before it starts, and after it stopped
        with pytest.raises(UsageError, match="This link is not running: call start"):
            use(link)
        link.loss = 0.5
        with link:
            pass


def test_one_that_nobody_holds_any_more_ends(echo):
    port, _ = echo
    link = Link(port).start()
    gone, here = weakref.ref(link), link.port
    del link
    gc.collect()
    assert gone() is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", here))


LEFT_OPEN = """
import sys
from helpers.link import Link
links = [Link(4433, delay_ms=1000, loss=0.5).start() for _ in range(3)]
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for link in links:
        for _ in range(100):
            sock.sendto(b"hello", ("127.0.0.1", link.port))
"""


def test_one_left_open_holds_up_nobody_and_says_nothing():
    run_to_its_end(LEFT_OPEN)


def run_to_its_end(program):
    """Run a program that has to end soon, and without a word."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < WAIT_S / 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_that_it_has_none_and_harms_none(echo):
    port, _ = echo
    with Link(port, delay_ms=0) as link, udp_client(link.port) as sock:
        pid = os.fork()
        if pid == 0:
            try:
                link.loss = 1
                link.rebind()
            except UsageError as error:
                os._exit(42 if "has no thread in this process" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        assert ask(sock) == b"hello"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_keep_the_port(echo):
    port, _ = echo
    link = Link(port).start()
    here, (is_over, end) = link.port, os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        os.read(is_over, 1)  # until the parent has looked
        os._exit(0)
    link.stop()

    def is_free():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", here))
                return True
        return False

    try:
        wait_until(is_free)  # the child may take a moment to begin
    finally:
        os.close(end)
        os.close(is_over)
        os.waitpid(pid, 0)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_it_starts_leaves_nothing(echo, monkeypatch):
    port, _ = echo

    def interrupt(*_, timeout_s):
        raise KeyboardInterrupt

    link = Link(port)
    with monkeypatch.context() as patch:
        patch.setattr(link._background, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            link.start()
    with link, udp_client(link.port) as sock:
        assert ask(sock) == b"hello"


# ---- with HTTP/3 over it


@pytest.fixture
def stream(server):
    """A server that sends what it is told, line by line."""

    @server.route("/lines")
    async def lines(request, response):
        for number in range(20):
            await response.write(f"line {number}\n")
            await response.flush()

    @server.route("/body")
    async def body(request, response):
        for _ in range(20):
            await response.write(bytes(50_000))

    return server


HARD = {"loss": 0.05, "reorder": 0.1, "duplicate": 0.1, "jitter_ms": 5}


@pytest.mark.parametrize("conditions", [{}, HARD], ids=["perfect", "hard"])
def test_a_response_comes_whole_over_any_line(stream, client, conditions):
    with Link(stream, delay_ms=5, **conditions) as link:
        assert client.get(link.url("/body")).content == bytes(1_000_000)
        text = client.get(link.url("/lines")).text
    assert text == "".join(f"line {number}\n" for number in range(20))


def test_a_first_response_takes_two_round_trips(stream, credentials):
    """One for the handshake, one for the request."""
    with (
        Link(stream, delay_ms=100) as link,
        httpx2.Client(transport=HTTP3Transport(ca_file=credentials.ca_file)) as client,
    ):
        started = time.perf_counter()
        client.get(link.url("/lines"))
        first_s = time.perf_counter() - started
    assert 0.39 < first_s < 5 * 0.4
