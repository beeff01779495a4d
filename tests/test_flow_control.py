"""The private parts of aioquic that flow_control.py relies on: these fail when they change.

Both ends are bare QuicConnections in one thread; a list carries their datagrams, a number is the
time. So each step is exact.
"""

import importlib.metadata
import inspect
import ssl

import pytest
from aioquic.buffer import Buffer
from aioquic.h3.connection import H3Connection, H3Stream, Setting
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.logger import QuicLogger, QuicLoggerTrace
from aioquic.quic.packet import pull_quic_transport_parameters, push_quic_transport_parameters
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.stream import QuicStreamReceiver
from cryptography import x509

from helpers.connection.aioquic_inside import flow_control
from helpers.connection.aioquic_inside.flow_control import (
    AIOQUIC_VERSION,
    LOOPBACK_DATAGRAM_BYTES,
    STREAM_WINDOW_BYTES,
    FlowControl,
    HTTP3Layer,
)
from helpers.connection.udp import MAX_DATAGRAM_BYTES

LOOPBACK = ("127.0.0.1", 4433)
ELSEWHERE = ("192.0.2.1", 4433)
REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/"),
]
STEP_S = 0.001


class Pair:
    """A client and a server whose datagrams are carried by hand, after their handshake."""

    def __init__(
        self,
        credentials,
        address=LOOPBACK,
        window_bytes=STREAM_WINDOW_BYTES,
        verify_mode=ssl.CERT_NONE,
        **announced,
    ):
        self.now = 0.0
        self.lose = False  # what the server sends
        self.sizes = {True: [], False: []}
        self._address = address
        common = {"alpn_protocols": ["h3"], "max_stream_data": window_bytes}
        client = QuicConfiguration(
            is_client=True, verify_mode=verify_mode, max_datagram_frame_size=65536, **common
        )
        server = QuicConfiguration(
            is_client=False, max_datagram_frame_size=65536, quic_logger=QuicLogger(), **common
        )
        server.load_cert_chain(credentials.cert_file, credentials.key_file)
        self.client = QuicConnection(configuration=client)
        _announce(self.client, announced)
        self.client.connect(address, now=self.now)
        self.server = QuicConnection(
            configuration=server,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.unread = {}
        self.flow = FlowControl(self.server, lambda stream_id: self.unread.get(stream_id, 0))
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
        pair = Pair(credentials, **parameters)
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


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (QuicConnection._write_stream_limits, "self builder space stream"),
        (QuicConnection._on_max_stream_data_delivery, "self delivery stream"),
        (QuicPacketBuilder.start_frame, "self frame_type capacity handler handler_args"),
        (QuicLoggerTrace.encode_max_stream_data_frame, "self maximum stream_id"),
        (QuicStreamReceiver.starting_offset, "self"),
        (H3Connection._get_local_settings, "self"),
        (H3Connection._check_content_length, "self stream"),
        (H3Connection._get_or_create_stream, "self stream_id"),
        (H3Connection._check_request_or_push_frame_type, "self frame_type stream"),
        (H3Connection._decode_headers, "self stream_id frame_data"),
        (H3Connection._receive_stream_data_uni, "self stream data stream_ended"),
        (H3Stream.finish_sending, "self"),
        (H3Stream.is_ended, "self"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_private_functions_have_the_parameters_that_are_relied_on(function, parameters):
    assert " ".join(inspect.signature(function).parameters) == parameters


def test_private_attributes_have_the_types_that_are_relied_on(pair):
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    quic, stream = pair.server, pair.server._streams[0]
    numbers = [
        stream.max_stream_data_local,
        stream.max_stream_data_local_sent,
        stream.sender._buffer_start,
        stream.sender._buffer_stop,
        quic._max_datagram_size,
        quic._loss._pacer._max_datagram_size,
        quic._loss._cc._max_datagram_size,
        quic._loss._cc.congestion_window,
        quic._remote_max_datagram_frame_size,
        quic._remote_max_streams_bidi,
        stream.receiver.starting_offset(),
    ]
    assert [type(number) for number in numbers] == [int] * len(numbers)
    pieces = [s.receiver._ranges for s in (stream, *quic._crypto_streams.values())]
    assert [len(ranges) for ranges in pieces] == [0, 0, 0, 0]
    assert all(isinstance(space.sent_packets, dict) for space in quic._spaces.values())
    assert stream.sender._buffer_fin is None
    assert stream.sender._reset_error_code is None
    assert stream.sender.is_finished is stream.receiver.is_finished is False
    assert quic._close_event is None
    assert isinstance(quic._peer_cid.cid, bytes)
    assert pair.client.tls._peer_certificate is not None
    assert pair.client.tls.received_extensions
    http = H3Connection(quic)
    assert http._quic is quic
    with http._get_or_create_stream(0) as kept:
        assert http._stream == {0: kept}
    assert kept.buffer == b""
    assert kept.sending_ended is kept.receiving_ended is False


# ---- receive windows


def test_aioquic_alone_opens_the_window_for_a_reader_that_sleeps(connected):
    """Without this the hook is not needed any more."""
    pair = connected(window_bytes=64 * 1024)
    del pair.server._write_stream_limits
    pair.client.send_stream_data(0, bytes(4_000_000))
    pair.settle()
    assert pair.unread[0] == 4_000_000
    assert pair.server._streams[0].max_stream_data_local >= 4_000_000


def test_the_window_stays_while_nobody_reads_and_follows_who_does(pair):
    pair.client.send_stream_data(0, bytes(4_000_000))
    pair.client.send_stream_data(4, b"a sibling")
    pair.settle()
    assert pair.unread == {0: STREAM_WINDOW_BYTES, 4: 9}
    assert not pair.flow.grant_due(0)

    pair.unread[0] -= STREAM_WINDOW_BYTES // 2 - 1
    pair.settle()
    assert pair.server._streams[0].max_stream_data_local == STREAM_WINDOW_BYTES
    pair.unread[0] -= 1
    assert pair.flow.grant_due(0)
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
    assert not pair.flow.grant_due(8)


# ---- bytes in flight


def test_bytes_are_unacknowledged_until_the_peer_has_said_otherwise(pair):
    flow = FlowControl(pair.client, lambda stream_id: 0)
    assert flow.unacknowledged_bytes(0) == 0
    pair.client.send_stream_data(0, bytes(10_000))
    assert flow.unacknowledged_bytes(0) == 10_000
    pair.client.datagrams_to_send(now=pair.now)  # all of them are lost
    assert flow.unacknowledged_bytes(0) == 10_000
    pair.settle()
    assert pair.unread[0] == 10_000
    assert flow.unacknowledged_bytes(0) == 0


def test_a_fin_is_on_its_way_too_and_a_reset_stream_is_not(pair):
    flow = FlowControl(pair.client, lambda stream_id: 0)
    HTTP3Layer(pair.client)  # its own streams do not count
    assert not flow.has_unacknowledged_data()
    pair.client.send_stream_data(0, b"x")
    assert flow.has_unacknowledged_data()
    pair.settle()
    assert not flow.has_unacknowledged_data()
    pair.client.send_stream_data(0, b"", end_stream=True)
    assert flow.has_unacknowledged_data()
    pair.settle()
    assert not flow.has_unacknowledged_data()
    pair.client.send_stream_data(4, b"x")
    pair.client.reset_stream(4, 0)
    assert not flow.has_unacknowledged_data()


def test_a_stream_counts_as_stopped_from_the_moment_of_stop_sending(pair):
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    assert not pair.flow.is_stopped(0)
    pair.client.stop_stream(0, 0x10C)
    pair.step()
    assert pair.flow.is_stopped(0)
    assert pair.flow.is_stopped(4)  # one that is not there


def test_an_acknowledgement_can_leave_now(pair):
    pair.client.send_stream_data(0, b"x")
    for data, address in pair.client.datagrams_to_send(now=pair.now):
        pair.server.receive_datagram(data, address, now=pair.now)
    assert pair.server.datagrams_to_send(now=pair.now) == []
    flow_control.acknowledge_now(pair.server)
    assert len(pair.server.datagrams_to_send(now=pair.now)) == 1


def test_without_a_handshake_there_is_nothing_to_acknowledge():
    flow_control.acknowledge_now(QuicConnection(configuration=QuicConfiguration()))


def test_the_reason_of_the_end_is_known_before_aioquic_tells(pair):
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    pair.events[False].clear()
    assert flow_control.close_event(pair.server) is None
    pair.client.close(error_code=0x100, reason_phrase="good bye")
    pair.step()
    closing = flow_control.close_event(pair.server)
    assert (closing.error_code, closing.reason_phrase) == (0x100, "good bye")
    assert not any(isinstance(e, quic_events.ConnectionTerminated) for e in pair.events[False])


def test_the_certificate_of_a_handshake_that_failed_is_known(credentials):
    nothing_yet = QuicConnection(configuration=QuicConfiguration())
    assert flow_control.peer_certificate(nothing_yet) is None
    pair = Pair(credentials, verify_mode=ssl.CERT_REQUIRED)
    pair.settle()
    assert "unable to get local issuer" in flow_control.close_event(pair.client).reason_phrase
    served = x509.load_pem_x509_certificate(credentials.cert_file.read_bytes())
    assert flow_control.peer_certificate(pair.client) == served


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
    flow_control.raise_datagram_size(pair.server, sent_at_most)
    pair.client.send_stream_data(0, b"x")
    pair.settle()
    pair.sizes[False].clear()
    pair.server.send_stream_data(0, bytes(200_000))
    pair.settle()
    assert max(pair.sizes[False]) == size_bytes
    assert pair.client._streams[0].receiver.starting_offset() == 200_000


def test_before_the_handshake_datagrams_stay_small(credentials):
    pair = Pair(credentials)
    flow_control.raise_datagram_size(pair.server, MAX_DATAGRAM_BYTES)  # it has no peer yet
    flow_control.raise_datagram_size(pair.client, MAX_DATAGRAM_BYTES)
    assert pair.server._max_datagram_size == pair.client._max_datagram_size == 1200


def test_the_first_window_has_room_for_two_datagrams(pair):
    flow_control.raise_datagram_size(pair.server, MAX_DATAGRAM_BYTES)
    assert pair.server._loss._cc.congestion_window >= 2 * LOOPBACK_DATAGRAM_BYTES
    window = pair.server._loss._cc.congestion_window = 10**6
    flow_control.raise_datagram_size(pair.server, MAX_DATAGRAM_BYTES)
    assert pair.server._loss._cc.congestion_window == window


def test_the_stream_frame_has_room_for_the_length_of_the_largest_datagram():
    assert LOOPBACK_DATAGRAM_BYTES < 1 << 14


@pytest.mark.parametrize("stream_id", [0, 4 * 63, 4 * 64, 4 * 20_000])
@pytest.mark.parametrize("raised", [False, True])
def test_the_longest_http_datagram_leaves_and_one_byte_more_never_does(pair, stream_id, raised):
    if raised:
        flow_control.raise_datagram_size(pair.client, MAX_DATAGRAM_BYTES)
    http = HTTP3Layer(pair.client)
    pair.settle()
    longest = flow_control.max_datagram_payload_bytes(pair.client, stream_id)
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
    assert flow_control.max_datagram_payload_bytes(pair.server, 0) == payload_bytes


# ---- how many streams


def test_a_stream_is_available_until_128_are_open_and_again_when_one_is_over(pair):
    for number in range(128):
        assert flow_control.stream_available(pair.client)
        pair.client.send_stream_data(4 * number, b"", end_stream=True)
    assert not flow_control.stream_available(pair.client)
    pair.settle()
    assert not flow_control.stream_available(pair.client)
    for number in range(64):  # aioquic tells of them in batches
        pair.server.send_stream_data(4 * number, b"", end_stream=True)
    pair.settle()
    assert flow_control.stream_available(pair.client)


# ---- the HTTP/3 layer


@pytest.fixture
def layers(pair):
    """The HTTP/3 layers of both ends, and a function that returns what arrived at the server."""
    client, server = HTTP3Layer(pair.client), HTTP3Layer(pair.server)

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
    assert flow_control.close_event(pair.server) is None


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


def test_half_a_frame_counts_as_unread(layers, pair):
    client, server, arrive = layers
    client.send_headers(0, REQUEST)
    arrive()
    pair.client.send_stream_data(0, bytes([1, 50]) + bytes(40))  # HEADERS of 50 bytes, 40 of them
    arrive()
    assert server.buffered_bytes(0) == 40
    assert server.buffered_bytes(4) == 0
