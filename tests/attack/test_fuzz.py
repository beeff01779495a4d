"""Seeded fuzz: real messages, damaged. Nothing reaches a parser's end, no connection another's."""

import contextlib
import random

import pytest
from aioquic.h3.connection import ErrorCode, FrameType, encode_frame, encode_settings
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from tests.attack.tools import (
    CONTROL,
    DECODER,
    ENCODER,
    NEXT,
    ROUNDS,
    Attacker,
    answers,
    client_hello,
    data,
    headers,
    initial,
    prefixed,
    request,
    udp_socket,
    varint,
)

# What a connection may be closed with: H3_INTERNAL_ERROR would mean that something broke here.
CODES = {*ErrorCode, *QuicErrorCode, *range(0x100, 0x200)} - {ErrorCode.H3_INTERNAL_ERROR}
AT_A_TIME = 20


def damage(rng, content):
    """Some bytes turned, lost, doubled or made up."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(content) + 1)
        length = rng.randrange(1, 20)
        match rng.randrange(6):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + 1] = bytes([rng.choice((0, 1, 0x40, 0x7F, 0x80, 0xFF))])
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = rng.randbytes(length)
            case 4:
                content[at:at] = content[:at][-length:]
            case 5 if at:
                del content[at:]
    return bytes(content)


def in_one_packet(content):
    return varint(len(content)) + content


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_client_hellos(target, seed):
    rng = random.Random(seed)
    (_, frame), source_id = client_hello(target.port)
    hello = frame[3:]  # after offset and length
    with udp_socket(target.port) as sock:
        for number in range(400):
            content = damage(rng, hello)
            if number % 2:  # the length in front is right, so that the rest is looked at
                content = content[:1] + max(0, len(content) - 4).to_bytes(3, "big") + content[4:]
            crypto = (QuicFrameType.CRYPTO, b"\0" + in_one_packet(content[:1000]))
            sock.send(initial([crypto], source_id=source_id))
            if number % AT_A_TIME == 0:
                answers(sock)
        answers(sock)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_frames_in_a_first_packet(target, seed):
    rng = random.Random(seed)
    with udp_socket(target.port) as sock:
        for number in range(400):
            count = rng.randrange(1, 4)
            frames = [(rng.randrange(0x40), rng.randbytes(rng.randrange(60))) for _ in range(count)]
            sock.send(initial(frames))
            if number % AT_A_TIME == 0:
                answers(sock)
        answers(sock)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_frames_behind_the_handshake(target, seed):
    rng = random.Random(seed)
    types = [kind for kind in range(0x20) if kind not in (0x1C, 0x1D)] + [0x30, 0x31]
    numbers = [0, 1, 2, 3, 4, 6, 8, 10, 14, 2**14, 2**30, 2**61]
    for _ in range(60):
        with Attacker(target.port) as attacker:
            for _ in range(4):
                parts = [
                    rng.choice((varint(rng.choice(numbers)), rng.randbytes(rng.randrange(4))))
                    for _ in range(rng.randrange(8))
                ]
                attacker.frame(rng.choice(types), b"".join(parts))
                attacker.step()
            ends_well(attacker)


CONVERSATION = (
    request(b"/length", [(b"x", b"1")], method=b"POST")
    + data(b"hello")
    + headers([(b"checksum", b"0")])
    + encode_frame(0x21, b"grease")
)
SETTINGS = encode_frame(FrameType.SETTINGS, encode_settings({0x1: 0, 0x6: 1000, 0x33: 1}))
STREAMS = {
    0: CONVERSATION,
    4: CONVERSATION,
    CONTROL: SETTINGS + encode_frame(FrameType.GOAWAY, b"\4") + encode_frame(0xD, b"\4"),
    ENCODER: prefixed(0, 5, 0x20) + b"\x41a\3bcd\xc5\3xyz",
    DECODER: b"\x80\x81\x44\1",
    NEXT: b"\x21" + SETTINGS,
}


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_streams(target, seed):
    rng = random.Random(seed)
    for _ in range(60):
        with Attacker(target.port, opens=rng.random() < 0.8) as attacker:
            for stream_id in rng.sample(sorted(STREAMS), 3):
                fin = stream_id in (0, 4) and rng.random() < 0.5
                with contextlib.suppress(ValueError):  # the server has reset it already
                    attacker.write(stream_id, damage(rng, STREAMS[stream_id]), fin)
                    if rng.random() < 0.2:
                        attacker.reset(stream_id)
                if rng.random() < 0.2 and stream_id in (0, 4):
                    attacker.stop(stream_id)
                attacker.step()
            ends_well(attacker)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_packets_on_a_bad_line(target, seed):
    """Before each packet some damaged copies of it come; they change nothing."""
    rng = random.Random(seed)
    for _ in range(20):
        attacker = Attacker(target.port)
        send = attacker.send

        def send_damaged_too(datagram, send=send):
            for _ in range(3):
                send(damage(rng, datagram) or b"\0")
            send(datagram)

        attacker.send = send_damaged_too
        with attacker:
            for number in range(3):
                assert b"hello" in attacker.ask(stream_id=4 * number)


def ends_well(attacker):
    """The server has taken everything, and has closed the connection with a code that says why."""
    for _ in range(3):
        attacker.step(0.002)
    assert attacker.closed is None or attacker.closed in CODES, hex(attacker.closed)
