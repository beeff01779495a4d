"""A QUIC peer without manners: raw streams, frames, packets and datagrams.

aioquic's HTTP/3 layer refuses to send what is wrong, so here its QUIC layer alone is used, and
below that its packet builder. Everything runs on the test's own thread, on a plain UDP socket.
"""

import itertools
import os
import select
import socket
import ssl
import time
from collections import defaultdict
from dataclasses import dataclass

from aioquic.buffer import encode_uint_var as varint
from aioquic.h3.connection import FrameType, Setting, encode_frame, encode_settings
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch

HOST = "127.0.0.1"
# The fuzz is seeded and short; ATTACK_ROUNDS=100 makes it long.
ROUNDS = int(os.environ.get("ATTACK_ROUNDS", "1"))
WAIT_S = 30.0
PATIENCE_S = 0.01

UNKNOWN_VERSION = 0x1A2A3A4A  # RFC 9000 section 15: reserved, so that it is never spoken

# The client's first streams in one direction: control and QPACK's two.
CONTROL, ENCODER, DECODER, NEXT = 2, 6, 10, 14
SETTINGS = b"\0" + encode_frame(
    FrameType.SETTINGS, encode_settings({Setting.QPACK_MAX_TABLE_CAPACITY: 0})
)
GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/"),
]


# ---- HTTP/3 by hand


def prefixed(number, bits, first=0):
    """An integer with a prefix of so many bits (RFC 9204 section 4.1.1)."""
    limit = (1 << bits) - 1
    if number < limit:
        return bytes([first | number])
    encoded = bytearray([first | limit])
    number -= limit
    while number >= 128:
        encoded.append(number % 128 + 128)
        number //= 128
    return bytes(encoded) + bytes([number])


def section(fields):
    """A header section of literals (RFC 9204 section 4.5.6), whatever the fields say."""
    lines = [
        prefixed(len(name), 3, 0x20) + name + prefixed(len(value), 7) + value
        for name, value in fields
    ]
    return b"\0\0" + b"".join(lines)


def headers(fields):
    return encode_frame(FrameType.HEADERS, section(fields))


def data(content):
    return encode_frame(FrameType.DATA, content)


def request(path=b"/", extra=(), **pseudo):
    """A request's HEADERS frame; `method=b"POST"` replaces a pseudo-header, None leaves it out."""
    replaced = {b":" + name.encode(): value for name, value in pseudo.items()} | {b":path": path}
    fields = [(name, replaced.get(name, value)) for name, value in GET]
    return headers([field for field in fields if field[1] is not None] + list(extra))


# ---- QUIC by hand


def packet(crypto, kind, frames, number, size_bytes=1200, **header):
    """One protected packet of any frames, each a type and what follows it."""
    builder = QuicPacketBuilder(
        is_client=True, max_datagram_size=size_bytes, packet_number=number, **header
    )
    builder.start_packet(kind, crypto)
    for frame_type, content in frames:
        builder.start_frame(frame_type).push_bytes(content)
    [datagram], _ = builder.flush()
    return datagram


def initial(frames, destination_id=None, source_id=b"attacker", number=0, **options):
    """A first packet with any frames: its keys follow from the ID in it (RFC 9001, 5.2)."""
    destination_id = os.urandom(8) if destination_id is None else destination_id
    version = QuicProtocolVersion.VERSION_1
    crypto = CryptoPair()
    crypto.setup_initial(cid=destination_id, is_client=True, version=version)
    header = {"peer_cid": destination_id, "host_cid": source_id, "version": version}
    return packet(crypto, QuicPacketType.INITIAL, frames, number, **header, **options)


def hello_from(port, **options):
    """A client's QUIC connection that has made its first packets and not sent them."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["h3"],
        server_name="localhost",
        verify_mode=ssl.CERT_NONE,
        max_datagram_frame_size=65536,
        idle_timeout=2.0,  # the server forgets it after so long
    )
    for name, value in options.items():
        setattr(configuration, name, value)
    quic = QuicConnection(configuration=configuration)
    quic.connect((HOST, port), now=time.perf_counter())
    return quic


def client_hello(port):
    """A frame that begins a handshake, and the connection ID that it speaks of."""
    quic = hello_from(port)
    content = bytes(quic._crypto_streams[Epoch.INITIAL].sender._buffer)
    return (QuicFrameType.CRYPTO, b"\0" + varint(len(content)) + content), quic.host_cid


def first_flights(port):
    """Endless first packets, each of a client that then says no more."""
    hello, source_id = client_hello(port)
    while True:
        yield initial([hello], source_id=source_id)


def long_header(version, destination_id, source_id, rest, first=0xC0):
    """The part of a packet that all versions share (RFC 8999 section 5.1), and what follows."""
    ids = b"".join(bytes([len(one)]) + one for one in (destination_id, source_id))
    return bytes([first]) + version.to_bytes(4, "big") + ids + rest


def udp_socket(port, host=HOST):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, port))
    sock.setblocking(False)
    return sock


def drain(sock, wait_s=0.0):
    """What has arrived at a socket; waits so long for the first datagram."""
    arrived = []
    while select.select([sock], [], [], 0 if arrived else wait_s)[0]:
        try:
            arrived.append(sock.recv(65536))
        except ConnectionRefusedError:
            break
    return arrived


# A packet that is always answered, with its ID: then all that was sent before it has been taken.
PROBE = b"probe"
numbers = itertools.count()


def answers(sock):
    """What comes back for all that a socket has sent so far.

    On a busy machine the answer may find the socket's buffer full, and is asked for again.
    """
    deadline = time.monotonic() + WAIT_S
    probe_id = PROBE + next(numbers).to_bytes(3, "big")
    probe = long_header(UNKNOWN_VERSION, probe_id, b"", bytes(1200))
    came = []
    while not any(probe_id in answer for answer in came):
        assert time.monotonic() < deadline, f"no answer within {WAIT_S:g} s"
        sock.send(probe)
        came += drain(sock, WAIT_S / 30)
    return [answer for answer in came if PROBE not in answer]


@dataclass
class Incoming:
    """What has come on one stream."""

    data: bytes = b""
    finished: bool = False
    reset: int | None = None
    stopped: int | None = None

    @property
    def is_over(self):
        return self.finished or self.reset is not None


class Attacker:
    """A client behind a completed handshake that writes raw bytes on its streams.

    `closed` is the error code with which the server has closed the connection, None while it has
    not; `streams[stream_id]` what has come there.
    """

    def __init__(self, port, opens=True, **options):
        self.quic = hello_from(port, **options)
        self.streams = defaultdict(Incoming)
        self.closed = None
        self.reason = None
        self.is_open = False
        self._opens = opens
        self._address = (HOST, port)
        self._socket = udp_socket(port)

    def __enter__(self):
        self.flush()
        self.until(lambda: self.is_open)
        if self._opens:
            self.write(CONTROL, SETTINGS)
            self.write(ENCODER, b"\2")
            self.write(DECODER, b"\3")
        return self

    def __exit__(self, *_):
        self.quic.close(error_code=0x100)
        self.flush()
        self._socket.close()

    # ---- sending

    def write(self, stream_id, content, fin=False):
        self.quic.send_stream_data(stream_id, content, fin)
        self.flush()

    def ask(self, path=b"/", stream_id=0):
        """Send a whole request and return the answer's bytes."""
        self.write(stream_id, request(path), fin=True)
        incoming = self.streams[stream_id]
        self.until(lambda: incoming.is_over)
        return incoming.data

    def reset(self, stream_id, error_code=0x10C):
        self.quic.reset_stream(stream_id, error_code)
        self.flush()

    def frame(self, frame_type, content=b""):
        """Send one packet with a frame that aioquic would not send."""
        self.frames([(frame_type, content)])

    def frames(self, frames):
        """Send one packet with any frames, as large as they are."""
        quic, kind = self.quic, QuicPacketType.ONE_RTT
        size_bytes = max(1200, 100 + sum(4 + len(content) for _, content in frames))
        header = {"peer_cid": self.peer_id, "host_cid": quic.host_cid, "version": quic._version}
        number, quic._packet_number = quic._packet_number, quic._packet_number + 1
        self.send(packet(quic._cryptos[Epoch.ONE_RTT], kind, frames, number, size_bytes, **header))

    def stop(self, stream_id, error_code=0x10C):
        self.frame(QuicFrameType.STOP_SENDING, varint(stream_id) + varint(error_code))

    def send(self, datagram):
        self._socket.send(datagram)

    @property
    def peer_id(self):
        """The connection ID that the server chose; it tells its connections apart."""
        return self.quic._peer_cid.cid

    def flush(self):
        for datagram, _ in self.quic.datagrams_to_send(now=time.perf_counter()):
            self.send(datagram)

    # ---- receiving

    def until(self, condition, timeout_s=WAIT_S):
        """Take part in the connection until `condition()` is true."""
        deadline = time.perf_counter() + timeout_s
        while not condition():
            assert time.perf_counter() < deadline, f"not within {timeout_s:g} s"
            self.step(PATIENCE_S)

    def step(self, wait_s=0.0):
        """Take what has come, and let timers and answers have their turn."""
        if self.quic._close_event is None and self.quic._close_at is not None:
            # How long it waits for a busy server is its caller's business.
            self.quic._close_at = time.perf_counter() + WAIT_S
        self._take(wait_s)
        if self._is_late():
            # A busy machine may have stood still meanwhile: what has come counts before the time.
            self._take()
            if self._is_late():
                self.quic.handle_timer(now=time.perf_counter())
        while (event := self.quic.next_event()) is not None:
            self._note(event)
        if self.quic._close_event is not None and self.closed is None:
            self.closed = self.quic._close_event.error_code
            self.reason = self.quic._close_event.reason_phrase
        self.flush()

    def _take(self, wait_s=0.0):
        for datagram in drain(self._socket, wait_s):
            self.quic.receive_datagram(datagram, self._address, now=time.perf_counter())

    def _is_late(self):
        timer = self.quic.get_timer()
        return timer is not None and timer <= time.perf_counter()

    def _note(self, event):
        match event:
            case quic_events.HandshakeCompleted():
                self.is_open = True
            case quic_events.StreamDataReceived():
                incoming = self.streams[event.stream_id]
                incoming.data += event.data
                incoming.finished = event.end_stream
            case quic_events.StreamReset():
                self.streams[event.stream_id].reset = event.error_code
            case quic_events.StopSendingReceived():
                self.streams[event.stream_id].stopped = event.error_code

    def closes(self, timeout_s=WAIT_S):
        """Return the error code with which the server closes the connection."""
        self.until(lambda: self.closed is not None, timeout_s)
        return self.closed

    def answer(self, stream_id=0, timeout_s=WAIT_S):
        """Return what has come on a stream once it is over, or the connection closed."""
        incoming = self.streams[stream_id]
        self.until(lambda: incoming.is_over or self.closed is not None, timeout_s)
        return incoming
