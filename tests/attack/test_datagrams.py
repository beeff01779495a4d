"""Datagrams from strangers: what is no client's first packet gets no answer and leaves nothing."""

import itertools
import random

import httpx2
import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    pull_quic_header,
)

from helpers.client import HTTP3Transport
from helpers.server import listener
from tests.attack.tools import (
    HOST,
    UNKNOWN_VERSION,
    WAIT_S,
    Attacker,
    answers,
    client_hello,
    drain,
    first_flights,
    hello_from,
    initial,
    long_header,
    udp_socket,
)

CRYPTO = (QuicFrameType.CRYPTO, b"\0\1\1")
PING = (QuicFrameType.PING, b"")


@pytest.fixture
def stranger(target):
    """Sends datagrams, and returns what came back."""
    with udp_socket(target.port) as sock:

        def send(*datagrams):
            for datagram in datagrams:
                sock.send(datagram)
            return answers(sock)

        yield send


# ---- versions


OTHERS = {
    "as version 1 looks": (b"d" * 8, b"s" * 8, b"\0\x44\x90" + bytes(1200)),
    "as it does not": (b"d" * 8, b"s" * 8, b"\xff" * 1200),
    "with long IDs": (b"d" * 30, b"s" * 200, b"\xff" * 1200),
    "without IDs": (b"", b"", bytes(1200)),
}


@pytest.mark.parametrize(("destination_id", "source_id", "rest"), OTHERS.values(), ids=OTHERS)
def test_another_version_is_answered_with_those_that_are_spoken(
    stranger, destination_id, source_id, rest
):
    """RFC 9000 section 6.1; the IDs come back swapped."""
    datagram = long_header(UNKNOWN_VERSION, destination_id, source_id, rest)
    (answer,) = stranger(datagram)
    shared = long_header(0, source_id, destination_id, b"", first=answer[0])
    assert answer.startswith(shared)
    spoken = [version.to_bytes(4, "big") for version in QuicProtocolVersion if version]
    assert {answer[i : i + 4] for i in range(len(shared), len(answer), 4)} <= set(spoken)
    assert len(answer) < len(datagram)


IDS = (b"d" * 8, b"s" * 8)
V1 = QuicProtocolVersion.VERSION_1
REST = b"\x44\xb0" + bytes(1200)
SILENCE = {
    "nothing": b"",
    "one byte": b"\xc0",
    "noise": b"\x25" + random.Random(1).randbytes(1300),
    "a short header for nobody": b"\x41" + bytes(1300),
    "Version Negotiation": long_header(0, *IDS, b"\0\0\0\1" * 300),
    "another version in too small a datagram": long_header(UNKNOWN_VERSION, *IDS, bytes(1100)),
    "Handshake": long_header(V1, *IDS, REST, first=0xE0),
    "0-RTT": long_header(V1, *IDS, REST, first=0xD0),
    "Retry": long_header(V1, *IDS, REST, first=0xF0),
    "an Initial of 1199 bytes": initial([CRYPTO], size_bytes=1199),
    "an Initial for a short ID": initial([CRYPTO], b"seven.."),
    "an Initial for no ID": initial([CRYPTO], b""),
    "an Initial with garbage": long_header(V1, *IDS, b"\0" + REST),
    "an Initial cut off": initial([CRYPTO])[:30],
    "an Initial overwritten": initial([CRYPTO])[:30].ljust(1200, b"\0"),
}


@pytest.mark.parametrize("datagram", SILENCE.values(), ids=SILENCE)
def test_what_is_no_first_packet_gets_no_answer_and_leaves_nothing(target, stranger, datagram):
    before = target.held()
    assert stranger(datagram) == []
    assert target.held()["connections"] <= before["connections"]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([PING], QuicErrorCode.PROTOCOL_VIOLATION),
        ([CRYPTO, (QuicFrameType.STREAM_BASE, b"\0x")], QuicErrorCode.PROTOCOL_VIOLATION),
        ([CRYPTO, (0x3F, b"")], QuicErrorCode.FRAME_ENCODING_ERROR),
        ([(QuicFrameType.CRYPTO, b"\0\x05\1\0\0\1\0")], QuicErrorCode.CRYPTO_ERROR + 50),
    ],
    ids=["no TLS", "a stream", "an unknown frame", "TLS garbage"],
)
def test_a_first_packet_that_breaks_the_rules_is_closed(target, frames, code):
    quic = hello_from(target.port)
    quic.datagrams_to_send(now=0)  # this says something else, under its name
    ids = (quic._peer_cid.cid, quic.host_cid)
    with udp_socket(target.port) as sock:
        sock.send(initial(frames, *ids))
        for answer in drain(sock, WAIT_S):
            quic.receive_datagram(answer, (HOST, target.port), now=0)
    assert quic._close_event.error_code == code


# ---- Retry


@pytest.fixture
def crowded(monkeypatch):
    """A server that has no room for strangers."""
    monkeypatch.setattr(listener, "RETRY_ABOVE", -1)


def test_where_there_is_no_room_a_client_comes_back_with_a_token(target, crowded):
    with Attacker(target.port) as attacker:
        assert attacker.quic._retry_count == 1
        assert b"hello" in attacker.ask()


def test_where_there_is_no_room_our_client_does_not_notice(target, crowded, credentials):
    transport = HTTP3Transport(ca_file=credentials.ca_file)
    with httpx2.Client(transport=transport) as client:
        assert client.get(target.server.url("/")).text == "hello"


def test_what_never_comes_back_leaves_nothing(target, crowded, stranger):
    before = target.held()
    datagrams = list(itertools.islice(first_flights(target.port), 50))
    came = stranger(*datagrams)
    assert [kind_of(answer) for answer in came] == [QuicPacketType.RETRY] * 50
    assert sum(map(len, came)) < sum(map(len, datagrams)) / 5
    assert target.held()["connections"] <= before["connections"]


def kind_of(datagram):
    return pull_quic_header(Buffer(data=datagram)).packet_type


def test_a_token_is_for_one_address_and_one_connection(target, crowded, stranger):
    (retry,) = stranger(next(first_flights(target.port)))
    header = pull_quic_header(Buffer(data=retry))
    token, our_id = header.token, header.source_cid
    other_id = bytes(8)
    hello, source_id = client_hello(target.port)
    turned = token[:-1] + bytes([token[-1] ^ 1])
    for forged, destination_id in ((token, other_id), (turned, our_id), (b"x", our_id)):
        (answer,) = stranger(initial([CRYPTO], destination_id, peer_token=forged))
        assert kind_of(answer) == QuicPacketType.RETRY
    with udp_socket(target.port) as elsewhere:
        elsewhere.send(initial([CRYPTO], our_id, peer_token=token))
        (answer,) = drain(elsewhere, WAIT_S)
        assert kind_of(answer) == QuicPacketType.RETRY
    (answer, *_) = stranger(initial([hello], our_id, source_id, peer_token=token))
    assert kind_of(answer) == QuicPacketType.INITIAL
