"""What helpers/connection/aioquic_inside relies on and aioquic does not promise.

These fail when it changes. Both ends are bare QUIC layers in one thread; a list carries their
datagrams, a number is the time. So each step is exact.
"""

import ast
import importlib.metadata
import inspect
import math
import operator
import ssl
import subprocess
import sys
import types
from collections import deque
from pathlib import Path

import pylsqpack
import pytest
from aioquic.buffer import Buffer
from aioquic.h3 import connection as aioquic_h3
from aioquic.h3.connection import ErrorCode, H3Connection, H3Stream, HeadersState, Setting
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import connection as aioquic_quic
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext
from aioquic.quic.logger import QuicLogger, QuicLoggerTrace
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicStreamFrame,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStreamReceiver
from aioquic.tls import Context, Epoch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from helpers.connection import MAX_DATAGRAM_BYTES, aioquic_inside
from helpers.connection.aioquic_inside import STREAM_WINDOW_BYTES, HTTP3Layer, QUICLayer, texts
from helpers.connection.aioquic_inside import keys as inside_keys
from helpers.connection.aioquic_inside import quic as inside
from helpers.connection.aioquic_inside.http3 import MAX_HEADER_BYTES
from helpers.connection.aioquic_inside.keys import ReceivingKeys
from helpers.connection.aioquic_inside.quic import (
    AIOQUIC_VERSION,
    CONNECTION_WINDOW_BYTES,
    LOOPBACK_DATAGRAM_BYTES,
    MAX_PENDING_CRYPTO_BYTES,
    MAX_UNIDIRECTIONAL_STREAMS,
    MAX_UNSENT_DATAGRAM_BYTES,
    MAX_UNSENT_DATAGRAMS,
)
from helpers.connection.aioquic_inside.tls import TLSLayer
from helpers.errors import HeaderTooLarge
from helpers.stream import CONNECTION_SPECIFIC
from tests.pair import POST as REQUEST

ROOT = Path(__file__).parent.parent
LOOPBACK = ("127.0.0.1", 4433)
ELSEWHERE = ("192.0.2.1", 4433)
STEP_S = 0.001


def new_layer(configuration):
    """A layer whose application reads at once."""
    return QUICLayer(configuration, lambda stream_id: 0, lambda size_bytes: size_bytes)


class Layers:
    """A client's and a server's QUIC layer whose datagrams are carried by hand."""

    def __init__(
        self,
        credentials,
        address=LOOPBACK,
        window_bytes=STREAM_WINDOW_BYTES,
        verify_mode=ssl.CERT_NONE,
        with_helpers=True,
        **announced,
    ):
        self.now = 0.0
        self.lose = False  # what the server sends
        self.sizes = {True: [], False: []}
        self._address = address
        common = {"alpn_protocols": ["h3"], "max_stream_data": window_bytes}
        ours = QuicConfiguration(
            is_client=True, verify_mode=verify_mode, max_datagram_frame_size=65536, **common
        )
        theirs = QuicConfiguration(
            is_client=False, max_datagram_frame_size=65536, quic_logger=QuicLogger(), **common
        )
        theirs.load_cert_chain(credentials.cert_file, credentials.key_file)
        self.client = new_layer(ours)
        _announce(self.client, announced)
        self.client.connect(address, now=self.now)
        self.unread = {}
        self.credit = math.inf  # by how much MAX_DATA may rise each time
        original_id = self.client.original_destination_connection_id
        if with_helpers:
            unread_bytes = lambda stream_id: self.unread.get(stream_id, 0)  # noqa: E731
            more_credit = lambda size_bytes: min(size_bytes, self.credit)  # noqa: E731
            self.server = QUICLayer(theirs, unread_bytes, more_credit, original_id)
        else:
            self.server = QuicConnection(
                configuration=theirs, original_destination_connection_id=original_id
            )
        self.events = {True: [], False: []}

    def step(self):
        """Carry what both have to say; return how many datagrams that were."""
        self.now += STEP_S
        carried = 0
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            for data, _ in sender.datagrams_to_send(now=self.now):
                carried += 1
                is_client = sender.configuration.is_client
                self.sizes[is_client].append(len(data))
                if is_client or not self.lose:
                    receiver.receive_datagram(data, self._address, now=self.now)
            self._collect(receiver)
        return carried

    def _collect(self, quic):
        while (event := quic.next_event()) is not None:
            self.events[quic.configuration.is_client].append(event)
            if quic is self.server and isinstance(event, quic_events.StreamDataReceived):
                unread = self.unread.get(event.stream_id, 0)
                self.unread[event.stream_id] = unread + len(event.data)

    def settle(self):
        """Step until nothing moves any more, timers included."""
        quiet = 0
        while quiet < 100:
            quiet = 0 if self.step() else quiet + 1
            for quic in (self.client, self.server):
                timer = quic.get_timer()
                if timer is not None and timer <= self.now:
                    quic.handle_timer(now=self.now)


def _announce(quic, parameters):
    """Let a connection announce other transport parameters than aioquic would."""
    serialize = quic._serialize_transport_parameters

    def serialize_others():
        ours = pull_quic_transport_parameters(Buffer(data=serialize()))
        for name, value in parameters.items():
            setattr(ours, name, value)
        buffer = Buffer(capacity=3000)
        push_quic_transport_parameters(buffer, ours)
        return buffer.data

    quic._serialize_transport_parameters = serialize_others


@pytest.fixture
def connected(credentials):
    """Makes a pair whose handshake is over."""

    def connect(**parameters):
        pair = Layers(credentials, **parameters)
        pair.settle()
        assert any(isinstance(e, quic_events.HandshakeCompleted) for e in pair.events[False])
        return pair

    return connect


@pytest.fixture
def pair(connected):
    return connected()


# ---- what has to be there


def test_the_installed_aioquic_is_the_one_this_was_written_against():
    assert importlib.metadata.version("aioquic") == AIOQUIC_VERSION


SIGNATURES = {
    # What is overridden.
    QuicConnection._initialize: "self peer_cid",
    QuicConnection.receive_datagram: "self data addr now",
    QuicConnection.datagrams_to_send: "self now",
    QuicConnection._write_stream_limits: "self builder space stream",
    QuicConnection._write_connection_limits: "self builder space",
    QuicConnection._handle_crypto_frame: "self context frame_type buf",
    QuicConnection._handle_datagram_frame: "self context frame_type buf",
    QuicConnection._write_datagram_frame: "self builder data frame_type",
    QuicConnection.send_datagram_frame: "self data",
    CryptoContext.decrypt_packet: "self packet encrypted_offset expected_packet_number",
    Context._client_handle_certificate_verify: "self input_buf",
    Context._signature_algorithms_for_private_key: "self",
    H3Connection.handle_event: "self event",
    H3Connection._init_connection: "self",
    H3Connection._check_control_frame_type: "self frame_type",
    H3Connection._handle_control_frame: "self frame_type frame_data",
    H3Connection._get_local_settings: "self",
    H3Connection._check_content_length: "self stream",
    H3Connection._check_request_or_push_frame_type: "self frame_type stream",
    H3Connection._decode_headers: "self stream_id frame_data",
    H3Connection._receive_stream_data_uni: "self stream data stream_ended",
    # What is called.
    QuicPacketRecovery.get_probe_timeout: "self include_max_ack_delay",
    QuicConnection._on_max_stream_data_delivery: "self delivery stream",
    QuicConnection._flush_builder: "self builder network_path peer_cid now",
    QuicPacketBuilder.start_packet: "self packet_type crypto",
    QuicPacketBuilder.start_frame: "self frame_type capacity handler handler_args",
    QuicLoggerTrace.encode_ping_frame: "self",
    QuicLoggerTrace.encode_padding_frame: "self",
    QuicLoggerTrace.encode_max_stream_data_frame: "self maximum stream_id",
    QuicStreamReceiver.starting_offset: "self",
    H3Connection._get_or_create_stream: "self stream_id",
    H3Stream.finish_sending: "self",
    H3Stream.is_ended: "self",
}
# What a server has once a request is open, a client after its handshake.
ATTRIBUTES = {
    "server._streams": dict,
    "server._crypto_streams": dict,
    "server._crypto_buffers": dict,
    "server._spaces": dict,
    "server._local_max_data.value": int,
    "server._local_max_data.used": int,
    "server._local_max_streams_uni.value": int,
    "server._local_max_streams_uni.sent": int,
    "server._max_datagram_size": int,
    "server._loss._pacer._max_datagram_size": int,
    "server._loss._cc._max_datagram_size": int,
    "server._loss._cc.congestion_window": int,
    "server._loss.get_probe_timeout": types.MethodType,
    "server._loss._rtt_min": float,
    "server._loss._pto_count": int,
    "server._datagrams_pending": deque,
    "server._events": deque,
    "server._remote_max_datagram_frame_size": int,
    "server._remote_max_streams_bidi": int,
    "server._peer_cid.cid": bytes,
    "server._close_event": type(None),
    "server._close_at": float,
    "server._cryptos": dict,
    "server._network_paths": list,
    "server._packet_number": int,
    "server._spin_bit": bool,
    "server._version": int,
    "builder._packet.in_flight": bool,
    "server._quic_logger": QuicLoggerTrace,
    "client._quic_logger": type(None),
    "client.tls._peer_certificate": x509.Certificate,
    "client.tls._server_name": type(None),
    "client.tls._signature_algorithms": list,
    "client.tls._verify_mode": ssl.VerifyMode,
    "server.tls.certificate_private_key": ec.EllipticCurvePrivateKey,
    "client.tls.received_extensions": list,
    "stream.max_stream_data_local": int,
    "stream.max_stream_data_local_sent": int,
    "stream.sender._buffer_start": int,
    "stream.sender._buffer_stop": int,
    "stream.sender._buffer_fin": type(None),
    "stream.sender._reset_error_code": type(None),
    "stream.sender.is_finished": bool,
    "stream.receiver.is_finished": bool,
    "stream.receiver.highest_offset": int,
    "space.sent_packets": dict,
    "space.ack_at": type(None),
    "http._quic": QuicConnection,
    "http._stream": dict,
    "http._local_control_stream_id": int,
    "http._decoder": pylsqpack.Decoder,
    "http._is_client": bool,
    "http._peer_control_stream_id": type(None),
    "kept.stream_id": int,
    "kept.stream_type": type(None),
    "kept.buffer": bytes,
    "kept.frame_size": type(None),
    "kept.frame_type": type(None),
    "kept.headers_recv_state": HeadersState,
    "kept.sending_ended": bool,
    "kept.receiving_ended": bool,
}

OWN_ATTRIBUTES = {"_unread_bytes", "_more_credit", "_now", "_windows", "_granted_at"} | {
    "_large_bytes",
    "_large_from",
    "_black_holes",
    "_full_datagrams",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_private_functions_have_the_parameters_that_are_relied_on(function):
    assert " ".join(inspect.signature(function).parameters) == SIGNATURES[function]


def test_private_attributes_have_the_types_that_are_relied_on(pair):
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    http = H3Connection(pair.server)
    with http._get_or_create_stream(0) as kept:
        assert http._stream == {0: kept}
    things = type("Things", (), vars(pair) | {"http": http, "kept": kept})
    things.stream = pair.server._streams[0]
    things.space = pair.server._spaces[Epoch.ONE_RTT]
    things.builder = QuicPacketBuilder(
        host_cid=b"", peer_cid=b"", version=1, is_client=False, max_datagram_size=1200
    )
    things.builder.start_packet(QuicPacketType.ONE_RTT, pair.server._cryptos[Epoch.ONE_RTT])
    for path, kind in ATTRIBUTES.items():
        assert isinstance(operator.attrgetter(path)(things), kind), path
    for keyed_by_epoch in (pair.server._crypto_streams, pair.server._spaces):
        assert set(keyed_by_epoch) == {Epoch.INITIAL, Epoch.HANDSHAKE, Epoch.ONE_RTT}
    pieces = [s.receiver._ranges for s in (things.stream, *pair.server._crypto_streams.values())]
    assert [len(ranges) for ranges in pieces] == [0, 0, 0, 0]


def test_every_private_name_that_is_relied_on_is_listed_here():
    listed = {function.__name__ for function in SIGNATURES} | {"_ranges"}
    listed |= {name for path in ATTRIBUTES for name in path.split(".")}
    used, own = set(), set()
    for file in Path(aioquic_inside.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
                used |= {node.attr} if node.attr.startswith("_") else set()
            elif isinstance(node, ast.FunctionDef):
                own.add(node.name)
    own |= {"_unread_bytes", "_is_goaway"}
    own |= OWN_ATTRIBUTES
    own |= {"_unread_bytes", "_next", "_next_of"}
    assert used - own - listed == set()


def test_nothing_hides_a_name_of_aioquics_by_accident():
    """A later aioquic may well call something as the helpers do."""
    configuration = QuicConfiguration(is_client=True)
    ours = new_layer(configuration)
    theirs = QuicConnection(configuration=configuration)
    _hides_only_what_is_overridden(ours, theirs, OWN_ATTRIBUTES)
    context = Context(is_client=True)
    _hides_only_what_is_overridden(TLSLayer(context), context, set())
    _hides_only_what_is_overridden(
        HTTP3Layer(ours), H3Connection(ours), {"goaway_id", "_is_goaway"}
    )
    keys = CryptoContext()
    _hides_only_what_is_overridden(ReceivingKeys(keys), keys, {"_next", "_next_of"})


def _hides_only_what_is_overridden(ours, theirs, attributes):
    functions = {name for name in vars(type(ours)) if not name.startswith("__")}
    overridden = {name for name in functions if hasattr(theirs, name)}
    assert {getattr(type(theirs), name) for name in overridden} <= set(SIGNATURES)
    assert set(vars(ours)) - set(vars(theirs)) == attributes
    assert all(not hasattr(theirs, name) for name in attributes)


# ---- aioquic stays as it is

SNAPSHOT = """
import importlib
import pkgutil

import aioquic


def modules(package):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def snapshot():
    seen = {}
    for module in (aioquic, *modules(aioquic)):
        for name, value in vars(module).items():
            seen[f"{module.__name__}.{name}"] = told(value)
            if isinstance(value, type) and value.__module__.startswith("aioquic"):
                for inner, what in vars(value).items():
                    seen[f"{module.__name__}.{name}.{inner}"] = told(what)
    return seen


# What is kept here cannot be freed, so that no other thing gets its identity.
kept = []


def told(value):
    kept.append(value)
    is_filled = isinstance(value, (dict, list, set)) and value is not vars(aioquic)
    return id(value), sorted(map(repr, value)) if is_filled else None


before = snapshot()
import helpers

count = len(list(modules(helpers)))
after = snapshot()
changed = sorted(name for name in before | after if before.get(name) != after.get(name))
print(count, len(before), aioquic.quic.connection.MAX_PENDING_CRYPTO, changed)
"""


def _run(program):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_importing_the_helpers_changes_nothing_in_aioquic():
    """Another program in the same process may use aioquic as well."""
    run = _run(SNAPSHOT)
    assert run.returncode == 0, run.stderr
    helpers, names, max_pending_crypto, changed = run.stdout.split(maxsplit=3)
    assert int(helpers) > 40
    assert int(names) > 2000
    assert int(max_pending_crypto) == 512 * 1024
    assert changed.strip() == "[]"


@pytest.mark.parametrize("module", ["helpers.server", "helpers.client", "helpers.connection"])
def test_another_aioquic_is_refused_in_one_line(module):
    run = _run(f"import aioquic; aioquic.__version__ = '1.8.0'; import {module}")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        f"ImportError: The helpers need aioquic {AIOQUIC_VERSION}, and this is 1.8.0: they rely on "
        "its inside. Install what requirements.txt says."
    )


# ---- keys


def test_forged_packets_of_the_next_key_phase_derive_it_once(pair, monkeypatch):
    derived = []

    def next_key_phase(keys, derive=inside_keys.next_key_phase):
        derived.append(keys)
        return derive(keys)

    monkeypatch.setattr(inside_keys, "next_key_phase", next_key_phase)
    sealing = pair.client._cryptos[Epoch.ONE_RTT].send
    for phase in (0, 1):
        derived.clear()
        for number in range(100):
            first_byte = 0x43 | (0 if phase else 0x04)
            header = bytes([first_byte]) + pair.client._peer_cid.cid + number.to_bytes(4, "big")
            forged = sealing.hp.apply(header, bytes(30))
            pair.server.receive_datagram(forged, LOOPBACK, now=pair.now)
        assert len(derived) == 1
        # The real one is taken all the same, and its successor is another.
        pair.client.request_key_update()
        pair.client.send_stream_data(0, b"x")
        pair.settle()
        assert pair.server._cryptos[Epoch.ONE_RTT].recv.key_phase == 1 - phase
    received = [e.data for e in pair.events[False] if isinstance(e, quic_events.StreamDataReceived)]
    assert received == [b"x", b"x"]


# ---- receive windows


def test_aioquic_alone_opens_the_window_for_a_reader_that_sleeps(connected):
    """Without this ours is not needed any more."""
    pair = connected(window_bytes=64 * 1024, with_helpers=False)
    pair.client.send_stream_data(0, bytes(4_000_000))
    pair.settle()
    assert pair.unread[0] == 4_000_000
    assert pair.server._streams[0].max_stream_data_local >= 4_000_000


def test_the_window_stays_while_nobody_reads_and_follows_who_does(pair):
    pair.client.send_stream_data(0, bytes(4_000_000))
    pair.client.send_stream_data(4, b"a sibling")
    pair.settle()
    assert pair.unread == {0: STREAM_WINDOW_BYTES, 4: 9}
    assert not pair.server.grant_due(0)

    pair.unread[0] -= STREAM_WINDOW_BYTES // 2 - 1
    pair.settle()
    assert pair.server._streams[0].max_stream_data_local == STREAM_WINDOW_BYTES
    pair.unread[0] -= 1
    assert pair.server.grant_due(0)
    pair.settle()
    assert pair.unread[0] == STREAM_WINDOW_BYTES
    assert pair.client._streams[0].max_stream_data_remote == STREAM_WINDOW_BYTES * 3 // 2

    while pair.unread[0]:
        pair.unread[0] = 0
        pair.settle()
    assert pair.server._streams[0].receiver.starting_offset() == 4_000_000


def test_a_grant_that_was_lost_is_sent_again(pair):
    pair.client.send_stream_data(0, bytes(2 * STREAM_WINDOW_BYTES))
    pair.settle()
    pair.unread[0] = 0
    pair.lose = True
    assert pair.step() == 1
    pair.lose = False
    assert pair.client._streams[0].max_stream_data_remote == STREAM_WINDOW_BYTES
    pair.settle()
    assert pair.client._streams[0].max_stream_data_remote == 2 * STREAM_WINDOW_BYTES


def test_grants_are_in_the_log(pair):
    pair.client.send_stream_data(0, bytes(2 * STREAM_WINDOW_BYTES))
    pair.settle()
    pair.unread[0] = 0
    pair.settle()
    events = pair.server.configuration.quic_logger.to_dict()["traces"][0]["events"]
    frames = [frame for event in events for frame in event["data"].get("frames", [])]
    granted = [frame for frame in frames if frame["frame_type"] == "max_stream_data"]
    assert [(frame["maximum"], frame["stream_id"]) for frame in granted] == [
        (2 * STREAM_WINDOW_BYTES, 0)
    ]


def test_a_stream_that_is_over_gets_no_grant(pair):
    pair.client.send_stream_data(0, bytes(STREAM_WINDOW_BYTES), end_stream=True)
    pair.settle()
    pair.unread[0] = 0
    assert pair.step() == 0
    assert not pair.server.grant_due(8)


# ---- the limit of the connection


def write_three_streams(pair):
    """Three windows, where the connection has room for two at first."""
    assert pair.server._local_max_data.value == CONNECTION_WINDOW_BYTES == 2 * STREAM_WINDOW_BYTES
    for stream_id in (0, 4, 8):
        pair.client.send_stream_data(stream_id, bytes(STREAM_WINDOW_BYTES))
    pair.settle()
    return sum(pair.unread.values())


def test_aioquic_alone_doubles_the_limit_of_a_connection_that_nobody_reads(connected):
    """Without this ours is not needed any more."""
    pair = connected(with_helpers=False)
    assert write_three_streams(pair) == 3 * STREAM_WINDOW_BYTES
    assert pair.server._local_max_data.value >= 4 * STREAM_WINDOW_BYTES


def test_the_limit_of_a_connection_follows_what_arrives_as_far_as_its_credit_goes(pair):
    pair.credit = 0
    assert write_three_streams(pair) == CONNECTION_WINDOW_BYTES
    limit = pair.server._local_max_data
    assert limit.value == limit.used == CONNECTION_WINDOW_BYTES
    assert pair.server.ahead_bytes() == 0
    pair.credit = 1000
    pair.step()
    pair.credit = 0
    pair.settle()
    assert sum(pair.unread.values()) == limit.used == CONNECTION_WINDOW_BYTES + 1000
    pair.credit = CONNECTION_WINDOW_BYTES
    pair.settle()
    assert sum(pair.unread.values()) == limit.used == 3 * STREAM_WINDOW_BYTES
    assert pair.server.ahead_bytes() >= CONNECTION_WINDOW_BYTES // 2


def test_a_limit_that_was_lost_is_sent_again(pair):
    pair.credit = 0
    write_three_streams(pair)
    pair.credit = CONNECTION_WINDOW_BYTES
    pair.lose = True
    assert pair.step() == 1
    pair.lose = False
    assert pair.client._remote_max_data == CONNECTION_WINDOW_BYTES
    pair.settle()
    assert pair.client._remote_max_data == pair.server._local_max_data.value
    assert sum(pair.unread.values()) == 3 * STREAM_WINDOW_BYTES


def test_what_waits_for_an_earlier_piece_counts_as_ahead(pair):
    before = pair.server.ahead_bytes()
    receiver = pair.server._get_or_create_stream(QuicFrameType.STREAM_BASE, 0).receiver
    receiver.handle_frame(QuicStreamFrame(data=bytes(1000), offset=500))
    pair.server._local_max_data.used += 1500
    assert pair.server.ahead_bytes() == before
    receiver.handle_frame(QuicStreamFrame(data=bytes(500), offset=0))
    assert pair.server.ahead_bytes() == before - 1500


# ---- bytes in flight


def test_bytes_are_unacknowledged_until_the_peer_has_said_otherwise(pair):
    assert pair.client.unacknowledged_bytes(0) == 0
    pair.client.send_stream_data(0, bytes(10_000))
    assert pair.client.unacknowledged_bytes(0) == 10_000
    pair.client.datagrams_to_send(now=pair.now)  # all of them are lost
    assert pair.client.unacknowledged_bytes(0) == 10_000
    pair.settle()
    assert pair.unread[0] == 10_000
    assert pair.client.unacknowledged_bytes(0) == 0


def test_a_fin_is_on_its_way_too_and_a_reset_stream_is_not(pair):
    HTTP3Layer(pair.client).begin()  # its own streams do not count
    assert not pair.client.has_unacknowledged_data()
    pair.client.send_stream_data(0, b"x")
    assert pair.client.has_unacknowledged_data()
    pair.settle()
    assert not pair.client.has_unacknowledged_data()
    pair.client.send_stream_data(0, b"", end_stream=True)
    assert pair.client.has_unacknowledged_data()
    pair.settle()
    assert not pair.client.has_unacknowledged_data()
    pair.client.send_stream_data(4, b"x")
    pair.client.reset_stream(4, 0)
    assert not pair.client.has_unacknowledged_data()


def test_a_stream_counts_as_stopped_from_the_moment_of_stop_sending(pair):
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    assert not pair.server.is_stopped(0)
    pair.client.stop_stream(0, 0x10C)
    pair.step()
    assert pair.server.is_stopped(0)
    assert pair.server.is_stopped(4)  # one that is not there


def test_an_acknowledgement_can_leave_now(pair):
    pair.client.send_stream_data(0, b"x")
    for data, address in pair.client.datagrams_to_send(now=pair.now):
        pair.server.receive_datagram(data, address, now=pair.now)
    assert pair.server.datagrams_to_send(now=pair.now) == []
    pair.server.acknowledge_now()
    assert len(pair.server.datagrams_to_send(now=pair.now)) == 1


def test_without_a_handshake_there_is_nothing_to_acknowledge():
    new_layer(QuicConfiguration()).acknowledge_now()


def test_the_reason_of_the_end_is_known_before_aioquic_tells(pair):
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    pair.events[False].clear()
    assert pair.server.why_closing() is None
    pair.client.close(error_code=0x100, reason_phrase="good bye")
    pair.step()
    closing = pair.server.why_closing()
    assert (closing.code, closing.reason, closing.transport) == (0x100, "good bye", False)
    assert not any(isinstance(e, quic_events.ConnectionTerminated) for e in pair.events[False])


def test_the_certificate_of_a_handshake_that_failed_is_known(credentials):
    assert new_layer(QuicConfiguration()).peer_certificate is None
    pair = Layers(credentials, verify_mode=ssl.CERT_REQUIRED)
    pair.settle()
    assert "unable to get local issuer" in pair.client.why_closing().reason
    served = x509.load_pem_x509_certificate(credentials.cert_file.read_bytes())
    assert pair.client.peer_certificate == served


def test_who_has_vanished_is_told_apart_from_who_closed(pair):
    pair.now = pair.client.get_timer() + 1
    pair.client.handle_timer(now=pair.now)
    (terminated,) = [
        event
        for event in iter(pair.client.next_event, None)
        if isinstance(event, quic_events.ConnectionTerminated)
    ]
    assert terminated.reason_phrase == texts.IDLE_TIMEOUT
    assert str(pair.client.why_closing()) == (
        "The connection ended: nothing came for 60 s, the peer has vanished."
    )


def test_the_same_headers_are_left_out_as_aioquic_refuses():
    assert CONNECTION_SPECIFIC == aioquic_h3.CONNECTION_SPECIFIC_HEADERS


def test_a_reason_is_one_line_that_fits_a_packet(pair):
    pair.client.close(error_code=0x101, reason_phrase="first\nsecond" + 2000 * "x")
    assert len(pair.client.why_closing().reason) == 200
    pair.step()
    reason = pair.server.why_closing().reason
    assert (reason[:12], len(reason)) == ("firstsecondx", 200)


def test_an_error_of_the_transport_is_one(pair):
    pair.client.close(error_code=QuicErrorCode.PROTOCOL_VIOLATION, frame_type=QuicFrameType.PADDING)
    pair.step()
    assert pair.server.why_closing().transport


# ---- what a peer may cost


@pytest.mark.parametrize("excess_bytes", [0, 1])
def test_a_handshake_runs_64_kib_ahead_of_a_gap_at_most(pair, excess_bytes):
    """aioquic's own limit is larger, or ours would be of no use."""
    assert aioquic_quic.MAX_PENDING_CRYPTO > MAX_PENDING_CRYPTO_BYTES
    sender = pair.client._crypto_streams[Epoch.ONE_RTT].sender
    sender._buffer_start = sender._buffer_stop = MAX_PENDING_CRYPTO_BYTES - 1
    sender.write(bytes(1 + excess_bytes))
    pair.step()
    closing = pair.server.why_closing()
    code = closing.code if closing is not None else None
    assert code == (QuicErrorCode.CRYPTO_BUFFER_EXCEEDED if excess_bytes else None)


def test_streams_in_one_direction_are_few(pair):
    for number in range(MAX_UNIDIRECTIONAL_STREAMS + 1):
        pair.client.send_stream_data(2 + 4 * number, b"x")
    pair.settle()
    assert len(pair.client._streams_blocked_uni) == 1
    assert pair.client._remote_max_streams_uni == MAX_UNIDIRECTIONAL_STREAMS


def test_pieces_that_wait_are_counted_on_streams_and_in_the_handshake(pair, monkeypatch):
    monkeypatch.setattr(inside, "MAX_WAITING_PIECES", 0)
    pair.client.send_stream_data(0, b"x")
    pair.step()
    pair.server.limit_load()
    assert pair.server.why_closing() is None
    pair.client._streams[0].sender._buffer_start += 1
    pair.client._streams[0].sender._buffer_stop += 1
    pair.client.send_stream_data(0, b"x")
    pair.step()
    pair.server.limit_load()
    assert pair.server.why_closing().reason == "more than 0 pieces wait for an earlier one"


def test_packets_that_are_not_acknowledged_are_counted(pair, monkeypatch):
    monkeypatch.setattr(inside, "MAX_UNACKNOWLEDGED_PACKETS", 0)
    pair.server.send_stream_data(1, b"x")
    pair.server.datagrams_to_send(now=pair.now)  # lost
    pair.client.send_stream_data(0, b"x")
    pair.step()
    pair.server.limit_load()
    assert pair.server.why_closing().reason == "more than 0 packets are not acknowledged"


def test_a_finished_handshake_leaves_no_buffers_to_write_into(pair):
    pair.server.forget_handshake()
    assert set(pair.server._crypto_buffers) == {Epoch.ONE_RTT}
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    assert pair.unread[0] == 1


# ---- the size of datagrams


@pytest.mark.parametrize(
    ("address", "announced", "sent_at_most", "size_bytes"),
    [
        (LOOPBACK, None, MAX_DATAGRAM_BYTES, LOOPBACK_DATAGRAM_BYTES),
        (("::1", 4433, 0, 0), None, MAX_DATAGRAM_BYTES, LOOPBACK_DATAGRAM_BYTES),
        (LOOPBACK, 1452, MAX_DATAGRAM_BYTES, 1452),
        (LOOPBACK, 1200, MAX_DATAGRAM_BYTES, 1200),
        (LOOPBACK, 65527, MAX_DATAGRAM_BYTES, LOOPBACK_DATAGRAM_BYTES),
        (LOOPBACK, None, 9216, 9216),
        (LOOPBACK, 1452, 9216, 1452),
        (LOOPBACK, None, 1000, 1200),
        (ELSEWHERE, None, MAX_DATAGRAM_BYTES, 1200),
        (ELSEWHERE, 1452, MAX_DATAGRAM_BYTES, 1200),
        (("fe80::1%eth0", 4433, 0, 2), None, MAX_DATAGRAM_BYTES, 1200),
    ],
)
def test_datagrams_grow_on_loopback_alone_and_to_what_both_ends_take(
    connected, address, announced, sent_at_most, size_bytes
):
    pair = connected(address=address, max_udp_payload_size=announced)
    pair.server.raise_datagram_size(sent_at_most)
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    pair.sizes[False].clear()
    pair.server.send_stream_data(0, bytes(200_000))
    pair.settle()
    assert max(pair.sizes[False]) == size_bytes
    assert pair.client._streams[0].receiver.starting_offset() == 200_000


def test_before_the_handshake_datagrams_stay_small(credentials):
    pair = Layers(credentials)
    pair.server.raise_datagram_size(MAX_DATAGRAM_BYTES)  # it has no peer yet
    pair.client.raise_datagram_size(MAX_DATAGRAM_BYTES)
    assert pair.server._max_datagram_size == pair.client._max_datagram_size == 1200


def test_the_first_window_has_room_for_two_datagrams(pair):
    control = pair.server._loss._cc
    pair.server._set_datagram_size(LOOPBACK_DATAGRAM_BYTES)
    assert control.congestion_window == 2 * LOOPBACK_DATAGRAM_BYTES
    window = control.congestion_window = 10**6
    pair.server._set_datagram_size(LOOPBACK_DATAGRAM_BYTES)
    assert pair.server._loss._cc.congestion_window == window


def test_the_stream_frame_has_room_for_the_length_of_the_largest_datagram():
    assert LOOPBACK_DATAGRAM_BYTES < 1 << 14
    writes = inspect.getsource(QuicConnection._write_stream_frame)
    assert "push_uint16(len(frame.data) | 0x4000)" in writes


@pytest.mark.parametrize("stream_id", [0, 4 * 63, 4 * 64, 4 * 20_000])
@pytest.mark.parametrize("raised", [False, True])
def test_the_longest_http_datagram_leaves_and_one_byte_more_never_does(pair, stream_id, raised):
    if raised:
        pair.client._set_datagram_size(LOOPBACK_DATAGRAM_BYTES)
    http = HTTP3Layer(pair.client)
    http.begin()
    pair.settle()
    longest = pair.client.max_datagram_payload_bytes(stream_id)
    assert longest > 1100
    http.send_datagram(stream_id, bytes(longest))
    pair.settle()
    assert not pair.client._datagrams_pending
    received = [e for e in pair.events[False] if isinstance(e, quic_events.DatagramFrameReceived)]
    assert len(received) == 1
    http.send_datagram(stream_id, bytes(longest + 1))
    pair.settle()
    assert len(pair.client._datagrams_pending) == 1


@pytest.mark.parametrize(("peer_limit", "payload_bytes"), [(None, 0), (0, 0), (100, 96)])
def test_a_peer_that_takes_less_gets_less(connected, peer_limit, payload_bytes):
    pair = connected(max_datagram_frame_size=peer_limit)
    assert pair.server.max_datagram_payload_bytes(0) == payload_bytes


@pytest.mark.parametrize(
    ("size_bytes", "kept"),
    [(1, MAX_UNSENT_DATAGRAMS), (1000, MAX_UNSENT_DATAGRAM_BYTES // 1001), (200_000, 1)],
)
def test_of_the_datagrams_that_wait_to_leave_the_oldest_are_lost(pair, size_bytes, kept):
    """Where a line does not carry them, what leaves at last is new, and memory is bounded."""
    http = HTTP3Layer(pair.client)
    for number in range(10_000 if size_bytes == 1 else 300):
        http.send_datagram(0, bytes([number % 256]) * size_bytes)
    assert len(pair.client._datagrams_pending) == kept
    assert pair.client._datagrams_pending[-1][-1] == number % 256


def test_a_log_shows_what_is_in_a_datagram(pair):
    http = HTTP3Layer(pair.client)
    for payload in (b"ping", b""):
        http.send_datagram(4, payload)
    pair.settle()
    (trace,) = pair.server.configuration.quic_logger.to_dict()["traces"]
    frames = [f for e in trace["events"] for f in e["data"].get("frames", ())]
    sent = [(b"\x01" + payload).hex() for payload in (b"ping", b"")]
    assert [f["raw"] for f in frames if f["frame_type"] == "datagram"] == [
        {"data": data} for data in sent
    ]


# ---- how many streams


def test_a_stream_is_available_until_128_are_open_and_again_when_one_is_over(pair):
    for number in range(128):
        assert pair.client.stream_available()
        pair.client.send_stream_data(4 * number, b"", end_stream=True)
    assert not pair.client.stream_available()
    pair.settle()
    assert not pair.client.stream_available()
    for number in range(64):  # aioquic tells of them in batches
        pair.server.send_stream_data(4 * number, b"", end_stream=True)
    pair.settle()
    assert pair.client.stream_available()


# ---- the HTTP/3 layer


@pytest.fixture
def layers(pair):
    """The HTTP/3 layers of both ends, and a function that returns what arrived at the server."""
    client, server = HTTP3Layer(pair.client), HTTP3Layer(pair.server)
    client.begin()
    server.begin()

    def arrive():
        pair.settle()
        events = []
        for layer, is_client in ((client, True), (server, False)):
            seen, pair.events[is_client] = pair.events[is_client], []
            arrived = [http for event in seen for http in layer.handle_event(event)]
            events = arrived or events
        return events

    arrive()
    return client, server, arrive


def test_both_ends_announce_datagrams_and_a_limit_for_headers(layers):
    for layer in layers[:2]:
        assert layer.received_settings[Setting.H3_DATAGRAM] == 1
        assert layer.received_settings[Setting.MAX_FIELD_SECTION_SIZE] == 64 * 1024


def test_a_wrong_content_length_does_not_close_the_connection(layers, pair):
    client, _, arrive = layers
    client.send_headers(0, [*REQUEST, (b"content-length", b"7")])
    client.send_data(0, b"four", end_stream=True)
    events = arrive()
    assert [type(event) for event in events] == [HeadersReceived, DataReceived]
    assert pair.server.why_closing() is None


def test_a_host_alone_is_an_authority(layers, pair):
    """RFC 9114 section 4.3.1; aioquic alone refuses it."""
    fields = [*(field for field in REQUEST if field[0] != b":authority"), (b"host", b"a.test")]
    with pytest.raises(aioquic_h3.MessageError):
        aioquic_h3.validate_request_headers(fields)
    client, _, arrive = layers
    client.send_headers(0, fields)
    (event,) = arrive()
    assert event.headers == [(b":authority", b"a.test"), *fields]
    trailers = [(b"host", b"a.test")]
    client.send_headers(0, trailers, end_stream=True)
    (event,) = arrive()
    assert event.headers == trailers
    assert pair.server.why_closing() is None


def test_finishing_sends_no_frame(layers, pair):
    client, _, arrive = layers
    client.send_headers(0, REQUEST)
    arrive()
    before = pair.client._streams[0].sender._buffer_stop
    client.finish(0)
    assert pair.client._streams[0].sender._buffer_stop == before
    assert [event.stream_ended for event in arrive()] == [True]


def test_a_stream_that_was_reset_is_forgotten_with_its_other_half(layers, pair):
    client, _, _ = layers
    for stream_id in (0, 4):
        client.send_headers(stream_id, REQUEST)
    assert client.open_streams() == 2
    client.forget(0)
    assert client.open_streams() == 2
    client._stream[0].receiving_ended = True
    client.forget(0)
    client.forget(4, both=True)
    client.forget(8)
    assert client.open_streams() == 0


def test_before_it_begins_a_layer_says_nothing(pair):
    layer = HTTP3Layer(pair.client)
    assert pair.step() == 0
    layer.begin()
    assert pair.step() == 1


def test_goaway_arrives_on_the_control_stream(layers, pair):
    """aioquic has neither a function nor an event for it."""
    _, server, arrive = layers
    server.send_goaway(8)
    pair.settle()
    arrived = [(event.stream_id, event.data) for event in pair.events[True]]
    assert arrived == [(server._local_control_stream_id, b"\x07\x01\x08")]
    assert arrive() == []
    assert pair.client.why_closing() is None


def test_goaway_is_read_in_whatever_pieces_it_comes(layers, pair):
    """aioquic drops what it says as it comes; the frames after it are still read."""
    client, server, arrive = layers
    for byte in b"\x07\x02\x40\x08" + b"\x07\x01\x04" + b"\x21\x01x":
        pair.server.send_stream_data(server._local_control_stream_id, bytes([byte]))
        arrive()
    assert client.goaway_id == 4
    assert pair.client.why_closing() is None
    pair.server.send_stream_data(server._local_control_stream_id, b"\x0d\x01\x04")
    arrive()
    assert pair.client.why_closing().code == ErrorCode.H3_FRAME_UNEXPECTED  # a real MAX_PUSH_ID


@pytest.mark.parametrize("size_bytes", [MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1])
def test_a_header_section_above_the_limit_is_refused_where_it_is_decoded(layers, size_bytes):
    """Its frame may be small: QPACK packs (RFC 9204)."""
    client, _, arrive = layers
    rest = size_bytes - sum(len(name) + len(value) + 32 for name, value in REQUEST)
    fields, field_bytes = [], 1000
    while rest > 2 * field_bytes:
        fields.append((b"x", b"a" * (field_bytes - 33)))
        rest -= field_bytes
    fields.append((b"x", b"a" * (rest - 33)))
    client.send_headers(0, REQUEST + fields)
    if size_bytes <= MAX_HEADER_BYTES:
        assert [type(event) for event in arrive()] == [HeadersReceived]
    else:
        with pytest.raises(HeaderTooLarge, match="its header section has more than 65536 bytes"):
            arrive()


@pytest.mark.parametrize("before", [[], REQUEST], ids=["header", "trailer"])
def test_a_header_section_above_the_limit_is_refused_before_it_has_come(layers, pair, before):
    client, _, arrive = layers
    if before:
        client.send_headers(0, before)
        arrive()
    start = Buffer(capacity=16)
    start.push_uint_var(aioquic_h3.FrameType.HEADERS)
    start.push_uint_var(MAX_HEADER_BYTES + 1)
    pair.client.send_stream_data(0, start.data)
    with pytest.raises(HeaderTooLarge) as caught:
        arrive()
    assert caught.value.is_trailer == bool(before)


@pytest.mark.parametrize("kind", ["_local_encoder_stream_id", "_local_decoder_stream_id"])
def test_a_qpack_stream_that_ends_closes_the_connection(layers, pair, kind):
    client, _, arrive = layers
    pair.client.send_stream_data(getattr(client, kind), b"", end_stream=True)
    arrive()
    assert pair.server.why_closing().code == aioquic_h3.ErrorCode.H3_CLOSED_CRITICAL_STREAM


def test_half_a_frame_counts_as_unread(layers, pair):
    client, server, arrive = layers
    client.send_headers(0, REQUEST)
    arrive()
    pair.client.send_stream_data(0, bytes([1, 50]) + bytes(40))  # HEADERS of 50 bytes, 40 of them
    arrive()
    assert server.buffered_bytes(0) == 40
    assert server.buffered_bytes(4) == 0
