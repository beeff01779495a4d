"""What the wire log says, against what a real client and a real server did."""

import asyncio
import contextlib
import io
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
import trustme
from aioquic.quic.configuration import QuicConfiguration

from helpers.client import HTTP3Transport
from helpers.display import style
from helpers.display.table import Table
from helpers.errors import UsageError
from helpers.server import Server
from helpers.wire import WireLog
from helpers.wire.frames import Carried, Connection, Packet, http3_rows
from helpers.wire.handshake import Handshake
from helpers.wire.ladder import MAX_FRAMES, draw
from helpers.wire.qlog import Recorder

ROOT = Path(__file__).parent.parent
LINES = [f"line {number}\n" for number in range(1, 11)]
TEXT = "".join(LINES)
SETTINGS = {"QPACK_MAX_TABLE_CAPACITY", "QPACK_BLOCKED_STREAMS", "ENABLE_CONNECT_PROTOCOL"}


# Its own, which does not change from run to run.
DATE = "Sat, 01 Jan 2000 00:00:00 GMT"


async def no_flush(request, response):
    response.write_header(200, {"date": DATE})
    for line in LINES:
        await response.write(line)


async def flush(request, response):
    response.write_header(200, {"date": DATE})
    for line in LINES:
        await response.write(line)
        await response.flush()


async def take_over(request, response):
    response.write_header(200, {"date": DATE})
    async with await response.take_over() as stream:
        for line in LINES:
            await stream.write(line.encode())


def talk(credentials, handler, use=None, ends=("client", "server"), verify=True):
    """The wire log of a run: `use(client, url)` is what the client does, one GET by default."""
    wire = WireLog()
    watched = {end: wire if end in ends else None for end in ("client", "server")}
    server = Server(credentials.cert_file, credentials.key_file, wire=watched["server"])
    server.route("/")(handler)
    transport = HTTP3Transport(credentials.ca_file if verify else None, wire=watched["client"])
    with server, httpx2.Client(transport=transport) as client:
        (use or (lambda client, url: client.get(url)))(client, server.url("/"))
    return wire


def spoken(rows):
    """What frames say, without when they were said."""
    return [(row["sender"], row["frame"], row["length"], row["detail"]) for row in rows]


@pytest.fixture(scope="module")
def flushed(credentials):
    return talk(credentials, flush)


# ---- frames


def test_flush_makes_a_frame_of_each_write(flushed):
    sent = spoken(flushed.frames(stream_id=0, sender="server"))
    data = [("server", "DATA", len(line), repr(line.encode())) for line in LINES]
    assert sent[0][:2] == ("server", "HEADERS")
    assert sent[0][3] == f":status: 200, date: {DATE}"
    assert sent[1:-1] == data
    # The frames have a head of two bytes each before what they carry.
    size = sum(length + 2 for _, _, length, _ in sent[:-1])
    assert sent[-1] == ("server", "FIN", 0, f"after {size} bytes")


def test_without_flush_there_is_one_frame(credentials):
    sent = spoken(talk(credentials, no_flush).frames(stream_id=0, sender="server"))
    assert [frame for _, frame, _, _ in sent] == ["HEADERS", "DATA", "FIN"]
    assert sent[0][3] == f":status: 200, date: {DATE}, content-length: {len(TEXT)}"
    assert sent[1][2:] == (len(TEXT), f"{TEXT.encode()[:24]!r}...")


def test_taking_over_says_the_same_as_flushing(credentials, flushed):
    taken_over = talk(credentials, take_over)
    rows = taken_over.frames(stream_id=0, sender="server", times=False)
    assert rows == flushed.frames(stream_id=0, sender="server", times=False)
    assert len(rows) == len(LINES) + 2


def test_the_request_is_decoded(flushed):
    headers, fin = flushed.frames(stream_id=0, sender="client")
    assert headers["frame"] == "HEADERS"
    assert re.match(
        r":method: GET, :scheme: https, :authority: localhost:\d+, :path: /, ", headers["detail"]
    )
    assert fin["frame"] == "FIN"


def test_a_request_body_is_seen_too(credentials):
    async def read_all(request, response):
        await request.read()

    wire = talk(credentials, read_all, lambda client, url: client.post(url, content=b"x" * 5000))
    data = [row for row in wire.frames(stream_id=0, sender="client") if row["frame"] == "DATA"]
    assert sum(row["length"] for row in data) == 5000
    assert data[0]["detail"] == f"{b'x' * 24!r}..."


@pytest.mark.parametrize("sender", ["client", "server"])
def test_settings_are_named(flushed, sender):
    rows = [row for row in flushed.frames(sender=sender) if row["frame"] == "SETTINGS"]
    assert len(rows) == 1
    names = dict(pair.split("=") for pair in rows[0]["detail"].split(", "))
    assert set(names) >= SETTINGS
    assert names["ENABLE_CONNECT_PROTOCOL"] == "1"
    assert names["reserved 0x21"] == "1"
    assert rows[0]["stream_id"] == {"client": 2, "server": 3}[sender]


def test_rows_are_in_the_order_of_time_and_nothing_arrives_before_it_left(flushed):
    rows = flushed.frames()
    assert [row["time_ms"] for row in rows] == sorted(row["time_ms"] for row in rows)
    for row in rows:
        assert 0 < row["time_ms"] < row["received_ms"]
    request, response = (
        flushed.frames(stream_id=0, sender=sender)[0] for sender in ("client", "server")
    )
    assert request["received_ms"] < response["time_ms"]


@pytest.mark.parametrize("end", ["client", "server"])
def test_one_end_sees_the_same_frames_once(credentials, flushed, end):
    wire = talk(credentials, flush, ends=[end])
    one = wire.frames(stream_id=0, sender="server", times=False)
    assert one == flushed.frames(stream_id=0, sender="server", times=False)
    for row in wire.frames():
        assert row["received_ms"] == (None if row["sender"] == end else row["time_ms"])


def test_each_row_has_its_columns(flushed):
    columns = ["connection", "time_ms", "received_ms", "sender", "stream_id", "frame", "length"]
    assert {tuple(row) for row in flushed.frames()} == {(*columns, "detail")}
    untimed = flushed.frames(times=False)
    assert all("_ms" not in name for row in untimed for name in row)
    streams = [row["stream_id"] for row in untimed if row["stream_id"] is not None]
    assert streams == sorted(streams)


def test_a_handler_that_fails_resets_its_stream(credentials):
    async def fails(request, response):
        await response.write("begun")
        await response.flush()
        raise RuntimeError("on purpose")

    def get(client, url):
        with pytest.raises(httpx2.RemoteProtocolError):
            client.get(url)

    wire = talk(credentials, fails, get)
    rows = {row["frame"]: row for row in wire.frames(stream_id=0, sender="server")}
    assert rows["RESET_STREAM"]["detail"].startswith("H3_INTERNAL_ERROR (0x102), after ")
    assert "FIN" not in rows


def test_a_client_that_leaves_stops_the_server(credentials):
    async def endless(request, response):
        while True:
            await response.write("more")
            await response.flush()
            await asyncio.sleep(0.001)

    left = threading.Event()

    async def until_left(request, response):
        try:
            await endless(request, response)
        finally:
            left.set()

    def leave(client, url):
        with client.stream("GET", url) as response:
            next(response.iter_raw())
        assert left.wait(5)

    wire = talk(credentials, until_left, leave)
    stops = [row for row in wire.frames(stream_id=0) if row["frame"] == "STOP_SENDING"]
    assert [(row["sender"], row["detail"]) for row in stops] == [
        ("client", "H3_REQUEST_CANCELLED (0x10c)")
    ]


def test_a_server_that_stops_says_so(credentials):
    wire = WireLog()

    async def until_told(request, response):
        await response.write("begun")
        await response.flush()
        while not any(row["frame"] == "GOAWAY" for row in wire.frames()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    with Server(credentials.cert_file, credentials.key_file, wire=wire) as server:
        server.route("/")(until_told)
        transport = HTTP3Transport(credentials.ca_file)
        with (
            httpx2.Client(transport=transport) as client,
            client.stream("GET", server.url("/")) as response,
        ):
            chunks = response.iter_raw()
            next(chunks)
            server.stop(grace_s=5)
            assert not list(chunks)
    rows = {row["frame"]: row for row in wire.frames(sender="server")}
    assert rows["GOAWAY"]["detail"] == "nothing new from id 4"
    assert rows["GOAWAY"]["stream_id"] == 3
    assert rows["CONNECTION_CLOSE"]["detail"].startswith("H3_NO_ERROR (0x100)")
    assert rows["CONNECTION_CLOSE"]["stream_id"] is None


def test_a_header_that_is_not_utf8_does_not_break_what_is_logged(credentials):
    def get(client, url):
        response = client.get(url, headers={b"x-name": b"caf\xe9"})
        assert response.text == TEXT

    rows = talk(credentials, no_flush, get).frames(stream_id=0, sender="client")
    assert "x-name: caf\\xe9" in rows[0]["detail"]


def test_frames_can_be_read_while_they_are_written(credentials):
    counts = []

    async def much(request, response):
        for _ in range(200):
            await response.write(b"x" * 2000)
            await response.flush()

    def get(client, url):
        reader = threading.Thread(target=client.get, args=(url,))
        reader.start()
        while reader.is_alive():
            counts.append(len(wire.frames()))
        reader.join()

    wire = WireLog()
    with Server(credentials.cert_file, credentials.key_file, wire=wire) as server:
        server.route("/")(much)
        with httpx2.Client(transport=HTTP3Transport(credentials.ca_file, wire=wire)) as client:
            get(client, server.url("/"))
    assert counts == sorted(counts)
    data = [row for row in wire.frames(stream_id=0) if row["frame"] == "DATA"]
    assert [row["length"] for row in data] == [2000] * 200


def test_events_have_their_own_times_where_the_time_of_day_stands_still(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)  # Windows', for 15.6 ms
    recorder = Recorder()
    client, server = (recorder.start_trace(is_client=c, odcid=b"1234") for c in (True, False))
    for end in (client, server, client, server):
        end.log_event(category="transport", event="packet_sent", data={})
    first, third, second, fourth = (
        event["time"] for trace in recorder.traces() for event in trace["events"]
    )
    assert 1e12 <= first < second < third < fourth < 1e12 + 60_000


def test_a_copy_of_a_trace_does_not_grow():
    trace = Recorder().start_trace(is_client=True, odcid=b"1234")
    frames = []
    trace.log_event(category="transport", event="packet_received", data={"frames": frames})
    copy = trace.to_dict()
    frames.append({"frame_type": "ping"})
    assert copy["events"][0]["data"]["frames"] == []
    assert trace.to_dict()["events"][0]["data"]["frames"] == frames


def test_connections_are_numbered(credentials):
    wire = WireLog()
    with Server(credentials.cert_file, credentials.key_file, wire=wire) as server:
        server.route("/")(no_flush)
        for _ in range(2):
            with httpx2.Client(transport=HTTP3Transport(credentials.ca_file, wire=wire)) as client:
                client.get(server.url("/"))
    rows = wire.frames(stream_id=0, sender="server", times=False)
    assert [row["connection"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert wire.frames(stream_id=0, sender="server", connection=1, times=False) == rows[3:]
    assert "connection" in str(rows)
    assert "connection" not in str(wire.frames(connection=1, sender="server", stream_id=0))
    assert wire.plot().text == wire.plot(connection=1).text


# ---- frames from packets as they may come


def packet(frames, time_ms=0.0, sender="server", sent=False, number=0):
    return Packet(time_ms, sender, sent, "1RTT", number, 1200, frames)


def stream(stream_id, offset, payload, fin=False):
    """A STREAM frame with its bytes."""
    frame = {"frame_type": "stream", "stream_id": stream_id, "offset": offset, "fin": fin}
    return Carried(frame | {"length": len(payload)}, payload)


def rows_of(stream_id, data, fin=False):
    return http3_rows(Connection([packet([stream(stream_id, 0, data, fin)])]))


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_put_together_from_pieces_in_any_order(seed):
    chance = random.Random(seed)
    payloads = [chance.randbytes(chance.randrange(60)) for _ in range(12)]
    data = b"".join(bytes([0, len(payload)]) + payload for payload in payloads)
    pieces = []
    for _ in range(3):  # all of it three times, cut elsewhere each time
        cuts = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(15))})
        pieces += [
            stream(0, start, data[start:end], end == len(data)) for start, end in pairwise(cuts)
        ]
    chance.shuffle(pieces)
    packets = [packet([piece], time_ms=float(when)) for when, piece in enumerate(pieces)]
    rows = http3_rows(Connection(packets))
    assert [row["length"] for row in rows] == [*map(len, payloads), 0]
    assert [row["frame"] for row in rows] == ["DATA"] * 12 + ["FIN"]
    for row, end in zip(rows, ends(payloads), strict=True):
        assert row["time_ms"] == row["received_ms"] == complete_at(packets, end)


def ends(payloads):
    """Where each frame ends on the stream, and where the stream ends."""
    end = 0
    for payload in payloads:
        end += 2 + len(payload)
        yield end
    yield end


def complete_at(packets, end):
    """When every byte before `end` had come, counted byte by byte."""
    missing = set(range(end))
    for arrival in packets:
        for frame in arrival.frames:
            missing -= set(range(frame["offset"], frame["offset"] + frame["length"]))
        if not missing:
            return arrival.time_ms
    raise AssertionError("it never was")


def test_what_is_sent_again_left_when_it_was_sent_first():
    data = b"\x00\x05hello"
    again = [packet([stream(0, 0, data)], ms, sent=True, number=int(ms)) for ms in (3.0, 50.0)]
    arrived = packet([stream(0, 0, data)], 51.0, number=50)
    (row,) = http3_rows(Connection([*again, arrived]))
    assert (row["time_ms"], row["received_ms"]) == (3.0, 51.0)


def test_a_frame_that_is_cut_off_says_how_much_was_seen():
    (row,) = rows_of(0, b"\x00\x40\x64hello")
    assert (row["length"], row["detail"]) == (100, "b'hello' (5 bytes seen)")
    assert (row["time_ms"], row["received_ms"]) == (0.0, None)


@pytest.mark.parametrize(
    ("stream_id", "data", "expected"),
    [
        (0, b"\x00", []),
        (0, b"\x00\x40", []),
        (2, b"", []),
        (2, b"\x02\x3f\xe1\x1f", []),
        (1, b"\x00\x05hello", []),
        (3, b"\x01\x07\x01\x02\x00\x00", [("HEADERS", 2, "not decoded")]),
        (2, b"\x00\x04\x03\x01\x40", [("SETTINGS", 3, "")]),
        (2, b"\x00\x04\x04\x06\x09\x33\x01", [
            ("SETTINGS", 4, "MAX_FIELD_SECTION_SIZE=9, H3_DATAGRAM=1"),
        ]),
        (2, b"\x00\x04\x02\x1a\x01", [("SETTINGS", 2, "unknown 0x1a=1")]),
        (2, b"\x00\x07\x00", [("GOAWAY", 0, "")]),
        (2, b"\x00\x21\x02hi", [("reserved 0x21", 2, "")]),
        (0, b"\x0f\x02hi", [("unknown 0xf", 2, "")]),
    ],
)  # fmt: skip
def test_odd_frames_are_named_and_broken_ones_break_nothing(stream_id, data, expected):
    rows = rows_of(stream_id, data)
    assert [(row["frame"], row["length"], row["detail"]) for row in rows] == expected


def test_an_empty_stream_has_its_end():
    (row,) = rows_of(0, b"", fin=True)
    assert (row["frame"], row["detail"]) == ("FIN", "after 0 bytes")


def test_signals_are_counted_once_and_datagrams_each_time():
    reset = {"frame_type": "reset_stream", "stream_id": 4, "error_code": 0x10C, "final_size": 7}
    datagram = {"frame_type": "datagram", "length": 30}
    packets = [
        packet([reset, datagram], 1.0, sent=True, number=1),
        packet([reset, datagram], 2.0, sent=True, number=2),
        packet([reset, datagram], 3.0, number=2),
    ]
    rows = http3_rows(Connection(packets))
    assert [(row["frame"], row["time_ms"], row["received_ms"]) for row in rows] == [
        ("RESET_STREAM", 1.0, 3.0),
        ("DATAGRAM", 1.0, None),
        ("DATAGRAM", 2.0, 3.0),
    ]
    assert rows[0]["detail"] == "H3_REQUEST_CANCELLED (0x10c), after 7 bytes"


@pytest.mark.parametrize(
    ("raw", "stream_id", "detail"),
    [
        ({}, None, "b''"),
        ({"raw": {"data": ""}}, None, "b''"),
        ({"raw": {"data": "00"}}, 0, "b''"),
        ({"raw": {"data": "0170696e67"}}, 4, "b'ping'"),
        ({"raw": {"data": "00" + "61" * 30}}, 0, f"b'{'a' * 24}'..."),
        ({"raw": {"data": "40"}}, None, "b''"),  # the number of a stream, cut off
    ],
)
def test_a_datagram_tells_its_stream_and_what_it_holds(raw, stream_id, detail):
    datagram = {"frame_type": "datagram", "length": 30} | raw
    (row,) = http3_rows(Connection([packet([datagram], 1.0, sent=True, number=1)]))
    assert (row["stream_id"], row["length"], row["detail"]) == (stream_id, 30, detail)


def test_datagrams_of_one_packet_are_several():
    datagram = {"frame_type": "datagram", "length": 2, "raw": {"data": "0061"}}
    packets = [
        packet([{"frame_type": "ack"}, datagram, datagram], 1.0, sent=True, number=1),
        packet([{"frame_type": "ack"}, datagram, datagram], 2.0, number=1),
    ]
    rows = http3_rows(Connection(packets))
    assert [(row["frame"], row["time_ms"], row["received_ms"]) for row in rows] == [
        ("DATAGRAM", 1.0, 2.0)
    ] * 2


def test_datagrams_stand_between_the_frames_of_their_stream(credentials):
    wire = WireLog()
    server = Server(credentials.cert_file, credentials.key_file, wire=wire)

    @server.route("/echo")
    async def echo(request, response):
        async with await response.take_over() as stream:
            async for datagram in stream.datagrams():
                await stream.send_datagram(datagram)

    transport = HTTP3Transport(ca_file=credentials.ca_file, wire=wire)
    with server, contextlib.closing(transport):
        with transport.open_stream("GET", server.url("/echo")) as stream:
            stream.send_datagram(b"ping")
            assert stream.receive_datagram() == b"ping"
            stream.close()
            assert list(stream.datagrams()) == []
    rows = wire.frames(0)
    told = [(row["sender"], row["frame"], row["detail"]) for row in rows]
    assert ("client", "DATAGRAM", "b'ping'") in told
    assert told.index(("client", "DATAGRAM", "b'ping'")) < told.index(
        ("server", "DATAGRAM", "b'ping'")
    )
    assert all(row["received_ms"] is not None for row in rows if row["frame"] == "DATAGRAM")
    assert "DATAGRAM" in wire.plot(0).alt


def test_both_ends_say_in_the_handshake_that_they_take_datagrams(flushed):
    rows = flushed.parameters()
    assert [row["sender"] for row in rows if row["parameter"] == "max_datagram_frame_size"] == [
        "client",
        "server",
    ]
    assert {row["value"] for row in rows if row["parameter"] == "initial_max_streams_bidi"} == {128}
    assert rows[0].keys() == {"connection", "sender", "parameter", "value"}


def test_parameters_of_a_log_without_a_connection_are_none(credentials):
    wire = WireLog()
    with pytest.raises(UsageError, match="attached to nothing"):
        wire.parameters()
    Server(credentials.cert_file, credentials.key_file, wire=wire)
    assert wire.parameters() == []
    assert wire.parameters().note == "No connection was made yet: send a request first."


# ---- handshake


def test_the_handshake_takes_one_round_trip_and_one_to_confirm_it(flushed):
    first, second = flushed.round_trips()
    assert (first["client"], second["client"]) == ("ClientHello", "Finished")
    assert first["server"].split(", ") == [
        "ServerHello",
        "EncryptedExtensions",
        "Certificate",
        "CertificateVerify",
        "Finished",
    ]
    assert second["server"] == "HANDSHAKE_DONE"
    (done,) = [row for row in flushed.handshake() if "HANDSHAKE_DONE" in row["detail"]]
    assert 0 < first["time_ms"] + second["time_ms"] < done["received_ms"]


def test_the_packets_of_the_handshake_are_named_once(flushed):
    rows = flushed.handshake()
    by_name = {(row["sender"], row["packet"]): row["detail"] for row in rows}
    assert len(by_name) == len(rows)
    assert by_name["client", "Initial 0"] == "CRYPTO ClientHello"
    assert by_name["server", "Initial 0"] == "ACK; CRYPTO ServerHello"
    assert rows.note.startswith("The server's certificate is in its packet Handshake 1")
    assert "Certificate, CertificateVerify" in by_name["server", "Handshake 1"]
    for row in rows:
        # What is sent again for want of an answer may find the keys gone at the other end.
        assert row["received_ms"] is None or 0 < row["time_ms"] < row["received_ms"]


def test_the_beginning_of_a_connection_is_a_ladder_of_messages(flushed):
    assert repr(flushed.plot_handshake()) == (
        "<Ladder: 10 messages; the client sends ClientHello, Finished, HEADERS; the server sends "
        "ServerHello, EncryptedExtensions, Certificate, CertificateVerify, Finished, "
        "HANDSHAKE_DONE, HEADERS>"
    )


def test_without_a_connection_there_is_no_ladder():
    wire = WireLog()
    wire.observe(QuicConfiguration(is_client=True))
    with pytest.raises(UsageError, match=r"nothing to draw\. No connection"):
        wire.plot_handshake()


def crypto(offset, payload):
    """A CRYPTO frame with its bytes."""
    frame = {"frame_type": "crypto", "offset": offset, "length": len(payload)}
    return Carried(frame, payload)


def hello(size=40):
    """A message of TLS that calls itself ClientHello."""
    return b"\x01" + (size - 4).to_bytes(3, "big") + bytes(size - 4)


def test_what_the_server_only_repeats_is_no_round_trip():
    passages = [
        ("client", "initial", 0, 1.0, 2.0, [crypto(0, hello())]),
        ("server", "initial", 0, 3.0, None, [crypto(0, hello(30))]),
        ("client", "initial", 1, 4.0, 5.0, [crypto(0, hello())]),
        ("server", "initial", 1, 6.0, 7.0, [crypto(0, hello(30))]),
        ("client", "handshake", 2, 8.0, 9.0, [{"frame_type": "ack"}]),
        ("server", "handshake", 2, 10.0, 11.5, [crypto(0, hello(30)), {"frame_type": "padding"}]),
        ("server", "1RTT", 3, 10.5, 11.0, [{"frame_type": "handshake_done"}]),
        ("server", "1RTT", 4, 12.0, 12.5, [{"frame_type": "ping"}]),
    ]
    packets = []
    for sender, kind, number, sent_ms, received_ms, frames in passages:
        packets.append(Packet(sent_ms, sender, True, kind, number, 1200, frames))
        if received_ms is not None:
            packets.append(Packet(received_ms, sender, False, kind, number, 1200, frames))
    handshake = Handshake(packets)
    asked = [(trip["client"], trip["server"], trip["time_ms"]) for trip in handshake.round_trips()]
    assert asked == [
        ("ClientHello", "ClientHello", None),
        ("ACK", "ClientHello, HANDSHAKE_DONE", 3.5),
    ]
    assert [row["packet"] for row in handshake.rows()] == [
        *("Initial 0", "Initial 0", "Initial 1", "Initial 1"),
        *("Handshake 2", "Handshake 2", "1-RTT 3"),
    ]


def test_a_message_that_is_sent_again_after_it_came_is_not_another():
    """As where its client has left, and acknowledges nothing any more."""
    done = {"frame_type": "handshake_done"}
    first = [Packet(time_ms, "server", time_ms < 2, "1RTT", 3, 50, [done]) for time_ms in (1, 51)]
    lost = Packet(300.0, "server", True, "1RTT", 6, 50, [done])
    for packets in ([*first, lost], [first[0], lost]):
        (message,) = Handshake(packets).messages()
        expected = (1, 51) if len(packets) == 3 else (300.0, None)
        assert (message["time_ms"], message["received_ms"]) == expected


def test_packets_without_a_number_have_their_type():
    retry = Packet(1.0, "server", False, "retry", None, 100, [])
    (row,) = Handshake([retry]).rows()
    assert row["packet"] == "Retry"


@pytest.fixture
def large_credentials(tmp_path):
    """A certificate that does not fit into what a server may send before it hears more."""

    class Credentials:
        ca_file = tmp_path / "ca.pem"
        cert_file = tmp_path / "cert.pem"
        key_file = tmp_path / "key.pem"

    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", *(f"name-{n}.of-many.example.test" for n in range(200)))
    ca.cert_pem.write_to_path(Credentials.ca_file)
    leaf.cert_chain_pems[0].write_to_path(Credentials.cert_file)
    leaf.private_key_pem.write_to_path(Credentials.key_file)
    return Credentials


def test_a_large_certificate_costs_a_round_trip(large_credentials):
    """RFC 9000 section 8.1: three times what came from the client, until its address is sure."""
    wire = talk(large_credentials, no_flush)
    # Where the machine is busy, the client asks again before the answer comes.
    trips = [trip for trip in wire.round_trips(times=False) if "PING" not in trip["client"]]
    assert [trip["client"] for trip in trips] == ["ClientHello", "ACK", "Finished"]
    assert trips[1]["server"].startswith("Certificate, ")
    parts = re.findall(r"Certificate \[(\d+) of (\d+) bytes\]", str(wire.handshake()))
    ((whole,),) = [{int(whole) for _, whole in parts}]
    assert max(int(part) for part, _ in parts) < 1200
    # A packet that is acknowledged late is sent again, so the parts may be more than the whole.
    assert sum(int(part) for part, _ in parts) >= whole > 3 * 1200


def test_a_handshake_that_fails_shows_why(credentials):
    def get(client, url):
        with pytest.raises(httpx2.ConnectError):
            client.get(url)

    wire = talk(credentials, no_flush, get, verify=False)
    close = wire.frames(sender="client")[-1]
    assert close["frame"] == "CONNECTION_CLOSE"
    assert close["detail"] == "TLS alert 42 (0x12a): unable to get local issuer certificate"
    # A slow handshake makes the client try another address as well.
    assert len(wire.round_trips(connection=0)) == 1
    assert "CONNECTION_CLOSE TLS alert 42" in wire.handshake()[-1]["detail"]
    assert "CONNECTION_CLOSE" in wire.plot().text


def test_nobody_answers(credentials):
    wire = WireLog()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        transport = HTTP3Transport(credentials.ca_file, connect_timeout_s=0.1, wire=wire)
        with httpx2.Client(transport=transport) as client, pytest.raises(httpx2.ConnectTimeout):
            client.get(f"https://127.0.0.1:{port}/")
    (close,) = wire.frames()
    assert (close["frame"], close["received_ms"]) == ("CONNECTION_CLOSE", None)
    assert re.fullmatch(
        r"The handshake did not get as far as HTTP/3: [1-9]\d* packets were sent and 0 received\.",
        str(wire.frames(sender="server")),
    )
    assert wire.handshake().note == "The server's certificate did not come."
    assert wire.handshake()[0]["detail"] == "CRYPTO ClientHello"


# ---- mistakes


@pytest.mark.parametrize("what", ["frames", "handshake", "round_trips", "plot"])
def test_a_log_that_is_attached_to_nothing_says_so(what):
    with pytest.raises(UsageError, match=r"attached to nothing. Pass it to HTTP3Transport\(wire="):
        getattr(WireLog(), what)()


@pytest.mark.parametrize("what", ["save", "save_keys"])
def test_a_log_that_is_attached_to_nothing_writes_no_file(what, tmp_path):
    with pytest.raises(UsageError, match="attached to nothing"):
        getattr(WireLog(), what)(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_before_the_first_request_the_log_is_empty_and_says_why(tmp_path):
    wire = WireLog()
    wire.observe(QuicConfiguration())
    for rows in (wire.frames(), wire.frames(stream_id=0), wire.handshake(), wire.round_trips()):
        assert rows == []
        assert str(rows) == "No connection was made yet: send a request first."
    for write in (wire.save, wire.save_keys):
        with pytest.raises(UsageError, match="No connection was made yet"):
            write(tmp_path / "file")
    with pytest.raises(UsageError, match=r"nothing to draw\. No connection was made yet"):
        wire.plot()
    assert not list(tmp_path.iterdir())


def test_what_does_not_exist_is_named_beside_what_does(credentials, flushed):
    with pytest.raises(UsageError, match=r"There is no stream 400; recorded: \[0, 2, 3, 6, 7"):
        flushed.frames(stream_id=400)
    with pytest.raises(UsageError, match=r"There is no connection 1; recorded: \[0\]"):
        flushed.frames(connection=1)
    with pytest.raises(UsageError, match="There is no sender 'proxy': it is 'client' or 'server'"):
        flushed.frames(sender="proxy")
    assert "QPACK's instructions" in str(flushed.frames(stream_id=6))
    assert str(flushed.frames(stream_id=3, sender="client")) == "No such frame was recorded."
    with pytest.raises(UsageError, match=r"nothing to draw\. Stream 6 carries no frames"):
        flushed.plot(stream_id=6)
    one_end = talk(credentials, no_flush, ends=["client"])
    with pytest.raises(UsageError, match="only where both ends are observed"):
        one_end.round_trips()


# ---- tables


def test_the_text_of_a_table_is_aligned():
    table = Table([{"a_ms": 1.5, "b": "x", "c": "long"}, {"a_ms": 10.25, "b": None, "c": "y"}])
    assert str(table) == repr(table) == "  a_ms  b  c\n 1.500  x  long\n10.250  -  y"
    assert str(Table(note="Nothing yet.")) == "Nothing yet."
    assert str(Table([{"a": 1}], note="So much.")) == "a\n1\nSo much."


def test_a_table_in_a_notebook_holds_whole_texts_and_no_foreign_markup():
    text = "<script>alert(1)</script>" * 10
    html = Table([{"detail": text}], note="<b>")._repr_html_()
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") == 10
    assert "&lt;b&gt;" in html
    assert len(str(Table([{"detail": text}])).splitlines()[1]) < 80
    assert Table()._repr_html_() == ""


def test_the_same_run_gives_the_same_text(credentials, flushed):
    again = talk(credentials, flush)
    texts = {str(wire.frames(sender="server", times=False)) for wire in (flushed, again)}
    assert len({re.sub("CONNECTION_CLOSE.*", "", text) for text in texts}) == 1


# ---- files


def test_the_qlog_has_what_its_schema_and_qvis_ask_for(flushed, tmp_path):
    """draft-ietf-quic-qlog-main-schema, version 0.3; and what qvis stumbles over besides."""
    path = flushed.save(tmp_path / "run.qlog")
    text = path.read_text(encoding="utf-8")
    assert '"qlog_version": "0.3", "qlog_format": "JSON"' in text[:256]
    log = json.loads(text, parse_constant=pytest.fail)
    assert [trace["vantage_point"]["type"] for trace in log["traces"]] == ["client", "server"]
    assert len({trace["common_fields"]["ODCID"] for trace in log["traces"]}) == 1
    for trace in log["traces"]:
        times = [event["time"] for event in trace["events"]]
        assert times
        assert times == sorted(times)
        for event in trace["events"]:
            assert isinstance(event["time"], float)
            assert re.fullmatch(r"[a-z]+:[a-z_]+", event["name"])
            assert isinstance(event["data"], dict)
            if event["name"] in ("transport:packet_sent", "transport:packet_received"):
                assert event["data"]["header"]["packet_type"] in ("initial", "handshake", "1RTT")
                assert event["data"]["raw"]["length"] > 0
                assert all("frame_type" in frame for frame in event["data"]["frames"])


def test_the_key_log_has_each_secret_once(flushed, tmp_path):
    lines = flushed.save_keys(tmp_path / "run.keys").read_text().splitlines()
    form = re.compile(r"([A-Z0-9_]+) ([0-9a-f]{64}) [0-9a-f]{64,96}")
    found = [form.fullmatch(line).groups() for line in lines]
    assert sorted(label for label, _ in found) == [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_TRAFFIC_SECRET_0",
    ]
    assert len({client_random for _, client_random in found}) == 1


LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
END_MARK = b"end"


@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark (Debian's package tshark)")
def test_wireshark_reads_the_same_frames_from_the_network(credentials, tmp_path):
    wire = WireLog()
    with Server(credentials.cert_file, credentials.key_file, wire=wire) as server:
        server.route("/")(flush)
        with Capture(server.port, tmp_path / "capture.pcapng") as capture:
            with httpx2.Client(transport=HTTP3Transport(credentials.ca_file)) as client:
                client.get(server.url("/"))
    found = capture.http3_frames(wire.save_keys(tmp_path / "run.keys"))
    data = [payload for kind, _, payload in found if kind == 0]
    assert [bytes.fromhex(payload).decode() for payload in data] == LINES
    names = {0: "DATA", 1: "HEADERS", 4: "SETTINGS", 13: "MAX_PUSH_ID"}
    ours = [
        (row["frame"], row["length"]) for row in wire.frames() if row["frame"] in names.values()
    ]
    assert sorted((names[kind], length) for kind, length, _ in found) == sorted(ours)


class Capture:
    """All that goes through a UDP port of the loopback interface within the with block."""

    def __init__(self, port, path):
        self.port = port
        self.path = path

    def __enter__(self):
        fields = ["-T", "fields", "-e", "udp.length"]
        command = ["tshark", "-i", LOOPBACK, "-f", f"udp port {self.port}", "-w", self.path]
        self.process = subprocess.Popen(
            [*command, "-P", "-l", *fields],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if "Capture started" in line:
                return self
        self._end()
        pytest.skip(f"tshark may not capture here: {''.join(said).strip()}")

    def __exit__(self, *exception):
        """Wait for a datagram sent last: then all before it is in the file."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(END_MARK, ("127.0.0.1", self.port))
        mark = str(8 + len(END_MARK))
        try:
            assert any(line.strip() == mark for line in self.process.stdout)
        finally:
            self._end()

    def _end(self):
        self.process.terminate()
        self.process.communicate(timeout=10)

    def http3_frames(self, keys):
        """The frames as (type, length, payload in hex), as Wireshark decrypts and reads them."""
        names = ("http3.frame_type", "http3.frame_length", "http3.frame_payload")
        fields = [argument for name in names for argument in ("-e", name)]
        # A port picked at random may be another protocol's: without -d, that one is read.
        command = ["tshark", "-r", self.path, "-d", f"udp.port=={self.port},quic"]
        command += ["-o", f"tls.keylog_file:{keys}", "-Y", names[0]]
        done = subprocess.run(
            [*command, "-T", "fields", *fields], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        found = []
        for line in done.stdout.splitlines():
            types, lengths, payloads = (column.split(",") for column in line.split("\t"))
            found += zip(map(int, types), map(int, lengths), payloads, strict=True)
        return found


# ---- the picture


def frame(time_ms, sender="server", received_ms=None, name="DATA", stream_id=0, detail="b''"):
    times = {"time_ms": time_ms, "received_ms": received_ms}
    row = {"connection": 0, **times, "sender": sender, "stream_id": stream_id}
    return {**row, "frame": name, "length": 100_000_000, "detail": detail}


def overlapping(picture):
    """The pairs of texts in a picture that touch, and the texts that leave it."""
    with style.applied():
        picture.figure.canvas.draw()
        texts = picture.figure.axes[0].texts
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    whole = picture.figure.bbox
    outside = [text for text, box in boxes if not whole.count_contains(box.corners()) == 4]
    touching = [
        (one, other)
        for number, (one, first) in enumerate(boxes)
        for other, second in boxes[number + 1 :]
        if first.overlaps(second)
    ]
    return touching + outside


LONG_NAMES = [
    ("HEADERS", ":method: GET, :path: /" + "W" * 300),
    ("DATA", repr("W" * 24)),
    ("RESET_STREAM", "H3_REQUEST_CANCELLED (0x10c), after 100000000 bytes"),
    ("CONNECTION_CLOSE", "QPACK_DECOMPRESSION_FAILED (0x200): no reason"),
]


@pytest.mark.parametrize(
    "rows",
    [
        [frame(1.0)],
        [frame(0.001 * n, received_ms=0.001 * n + 0.05) for n in range(10)],
        [frame(7.0, received_ms=7.2) for _ in range(10)],
        [frame(100.0 * n, received_ms=100.0 * n + 0.2) for n in range(10)],
        [frame(0.0), frame(0.0, "client"), frame(3_600_000.0), frame(3_600_000.0, "client")],
        [
            frame(99_999.0 + 0.1 * n, side, name=name, detail=detail, stream_id=4 * n)
            for side in ("client", "server")
            for n, (name, detail) in enumerate(LONG_NAMES)
        ],
        [
            frame(0.01 * n, ("client", "server")[n % 2], 0.01 * n + 0.1)
            for n in range(MAX_FRAMES * 3)
        ],
    ],
)
def test_no_label_of_the_ladder_touches_another(rows):
    assert not overlapping(draw(rows))


def arrows(picture):
    """Where each arrow begins and where it ends, in pixels."""
    annotations = [text for text in picture.figure.axes[0].texts if hasattr(text, "xyann")]
    return [(arrow.xyann, arrow.xy) for arrow in annotations]


def test_arrows_go_from_the_sender_down_to_the_receiver():
    picture = draw(
        [frame(1.0, "client", 2.0), frame(3.0, "server", 4.0), frame(5.0, "server", 6.0)]
    )
    (left, right), (answer, back), (last, _) = arrows(picture)
    assert left[0] == back[0] < right[0] == answer[0]
    assert left[1] < right[1] < answer[1] < back[1] < last[1]


def test_a_longer_wait_is_a_longer_way_down():
    (one, _), (two, _), (three, _) = arrows(draw([frame(0.0), frame(100.0), frame(1000.0)]))
    assert (three[1] - two[1]) > 5 * (two[1] - one[1]) / 2
    assert two[1] > one[1]


def test_an_arrow_is_level_where_one_end_was_observed_and_ends_where_a_frame_was_lost():
    ((start, end),) = arrows(draw([frame(1.0)]))
    assert start[1] == end[1]
    lost, arrived = arrows(draw([frame(1.0), frame(2.0, received_ms=3.0)]))
    assert lost[1][0] > arrived[1][0]


def test_many_frames_are_cut_and_the_picture_says_so():
    picture = draw([frame(float(n)) for n in range(1000)])
    assert len(arrows(picture)) == MAX_FRAMES
    texts = [text.get_text() for text in picture.figure.axes[0].texts]
    assert f"the first {MAX_FRAMES} of 1000 frames" in texts


def test_the_ladder_says_in_words_what_it_shows(flushed):
    picture = flushed.plot(stream_id=0)
    assert picture.text == (
        "<Ladder: 14 frames; the client sends HEADERS, FIN; "
        "the server sends HEADERS, 10 times DATA, FIN>"
    )
    labels = [text.get_text() for text in picture.figure.axes[0].texts]
    assert "HEADERS: GET /" in labels
    assert "DATA, 7 bytes: b'line 1\\n'" in labels
    assert not overlapping(picture)


def test_dollars_make_no_formula():
    draw([frame(1.0, detail=r"b'$\frac$'")]).save(io.BytesIO(), format="png")


def test_streams_are_told_apart_where_there_are_several():
    picture = draw([frame(1.0), frame(2.0, stream_id=4), frame(3.0, stream_id=3)])
    labels = [text.get_text().split(":")[0] for text in picture.figure.axes[0].texts]
    assert "stream 0" in labels
    assert "stream 4" in labels
    assert "stream 3" not in labels


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, helpers.wire; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0
