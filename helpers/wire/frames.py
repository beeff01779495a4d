"""From QUIC packets back to what they carried: the frames of HTTP/3.

QUIC cuts a stream into STREAM frames wherever a packet is full, sends lost ones again, and lets
them arrive in any order (RFC 9000 section 2.2). HTTP/3 frames know nothing of that: each is a type,
a length and a payload, one after the other on its stream (RFC 9114 section 7.1). So this module
first puts the bytes of a stream back in order, noting when each left and when it arrived, and then
reads frames from them. Nothing here does I/O, and nothing needs a loop.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from aioquic.buffer import Buffer, BufferReadError
from aioquic.h3.connection import FrameType, Setting, StreamType

from helpers.display import Row
from helpers.errors import describe_code

PREVIEW_BYTES = 24
"""How many bytes of a DATA frame, or of a datagram, a row shows."""

Times = tuple[float | None, float | None]
"""When something was sent and when it was received, in ms; None where nobody saw it."""
Place = tuple[int | None, int]
"""Where a frame stands: the packet's number, and how many are before it there."""
Frame = dict[str, Any]
"""A QUIC frame as qlog describes it."""


class Carried(Frame):
    """The description of a frame with the bytes it carried; in JSON it is the description."""

    def __init__(self, description: Frame, payload: bytes) -> None:
        super().__init__(description)
        self.payload = bytes(payload)


@dataclass
class Packet:
    """One QUIC packet as one end saw it: it sent the packet, or received it."""

    time_ms: float
    sender: str
    sent: bool
    kind: str
    number: int | None
    size_bytes: int
    frames: list[Frame]


@dataclass
class Connection:
    """Everything recorded of one connection, by one end or by both (`observers`).

    `headers` holds the decoded header sections by (observer, sender, stream id) in stream order.
    QPACK refers to a table that lives as long as the connection (RFC 9204 section 2), so they are
    taken from the end that encoded or decoded them, not decoded a second time. `parameters` holds
    the transport parameters (RFC 9000 section 18.2) that each end announced.
    """

    packets: list[Packet] = field(default_factory=list)
    headers: dict[tuple[str, str, int], list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )
    observers: set[str] = field(default_factory=set)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)


class Direction:
    """One direction of a byte stream as one end saw it: the bytes in order, and when each came.

    The end of the stream counts as one more byte, so that it has a time of its own.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.final_size: int | None = None
        self._early: dict[int, bytes] = {}
        self._lengths = [0]
        self._times_ms = [0.0]

    @property
    def length(self) -> int:
        """Return how many bytes are there in order, the end of the stream being one more."""
        return self._lengths[-1]

    def add(self, time_ms: float, offset: int, payload: bytes, fin: bool = False) -> None:
        """Take one STREAM or CRYPTO frame; bytes that were there before change nothing."""
        if fin:
            self.final_size = offset + len(payload)
        self._early[offset] = max(payload, self._early.get(offset, b""), key=len)
        for start in sorted(self._early):
            if start > len(self.data):
                break
            self.data += self._early.pop(start)[len(self.data) - start :]
        self._lengths.append(len(self.data) + (len(self.data) == self.final_size))
        self._times_ms.append(time_ms)

    def time_of(self, length: int) -> float | None:
        """Return when the first `length` bytes were there, or None while they are not."""
        index = bisect_left(self._lengths, length)
        return self._times_ms[index] if index < len(self._times_ms) else None


class ByteStream:
    """One direction of a byte stream from both ends, of which one may not have been observed."""

    def __init__(self) -> None:
        self.sent = Direction()
        self.received = Direction()

    @property
    def longer(self) -> Direction:
        """Return the end that knows more: the sender's, wherever that was observed."""
        return max(self.sent, self.received, key=lambda end: end.length)

    def times_ms(self, start: int, end: int) -> Times:
        """Return when byte `start` left its sender, and when everything before `end` had come.

        Where only the receiver was observed and the end is still missing, the first of the two is
        when byte `start` came.
        """
        sent_ms, received_ms = self.sent.time_of(start + 1), self.received.time_of(end)
        if sent_ms is None and received_ms is None:
            sent_ms = self.received.time_of(start + 1)
        return sent_ms, received_ms


def byte_streams(packets: list[Packet], frame_type: str) -> dict[tuple[str, Any], ByteStream]:
    """Return what STREAM or CRYPTO frames carried, by sender and by stream id or packet type."""
    found: dict[tuple[str, Any], ByteStream] = defaultdict(ByteStream)
    for packet in packets:
        for frame in packet.frames:
            if frame["frame_type"] == frame_type:
                assert isinstance(frame, Carried)  # as all are that carry such bytes
                stream = found[packet.sender, frame.get("stream_id", packet.kind)]
                end = stream.sent if packet.sent else stream.received
                end.add(packet.time_ms, frame["offset"], frame.payload, frame.get("fin", False))
    return found


def row(times: Times, sender: str, **columns: object) -> Row:
    """Return a row that begins with its two times; `time_ms` is the first that is known."""
    sent_ms, received_ms = (None if ms is None else round(ms, 3) for ms in times)
    time_ms = received_ms if sent_ms is None else sent_ms
    return {"time_ms": time_ms, "received_ms": received_ms, "sender": sender, **columns}


def http3_rows(connection: Connection) -> list[Row]:
    """Return one row per frame in the order of time, whichever end saw it and however often.

    `time_ms` is when the first byte of the frame left, or when the frame had arrived where only
    the receiver was observed. `received_ms` is when its last byte had arrived, or None.
    """
    rows = []
    for (sender, stream_id), stream in byte_streams(connection.packets, "stream").items():
        seen = [connection.headers[end, sender, stream_id] for end in ("client", "server")]
        known = max(seen, key=len)
        headers = iter(known)
        for start, frame in _read_frames(stream_id, bytes(stream.longer.data)):
            times = stream.times_ms(start, frame.end)
            rows.append(row(times, sender, stream_id=stream_id, **frame.columns(headers)))
        size = stream.longer.final_size
        if size is not None and stream.longer.length > size:
            times = stream.times_ms(size, size + 1)
            fin = {"frame": "FIN", "length": 0, "detail": f"after {size} bytes"}
            rows.append(row(times, sender, stream_id=stream_id, **fin))
    rows += _signals(connection.packets)
    return sorted(rows, key=lambda row: row["time_ms"])


def parameter_rows(connection: Connection) -> list[Row]:
    """Return one row per transport parameter, the client's before the server's."""
    return [
        {"sender": sender, "parameter": name, "value": value}
        for sender, announced in sorted(connection.parameters.items())
        for name, value in announced.items()
    ]


def _signals(packets: list[Packet]) -> list[Row]:
    """Return a row for each QUIC frame that ends something early, and for each datagram.

    A packet that is lost is never sent again, what it carried is (RFC 9000 section 13.3): so the
    first of equal frames counts, but for datagrams, which are not repeated (RFC 9221 section 5).
    Those are told apart by their packet and their place in it.
    """
    found: dict[tuple[str, str, int | None, Place | None], dict[str, Any]] = {}
    for packet in packets:
        for place, frame in enumerate(packet.frames):
            kind, stream_id, only = frame["frame_type"], frame.get("stream_id"), None
            if kind == "datagram":
                (stream_id, _), only = _http_datagram(frame), (packet.number, place)
            if kind in ("reset_stream", "stop_sending", "connection_close", "datagram"):
                seen = found.setdefault((packet.sender, kind, stream_id, only), {})
                seen.setdefault("sent_ms" if packet.sent else "received_ms", packet.time_ms)
                seen.setdefault("frame", frame)
    return [
        row(
            (seen.get("sent_ms"), seen.get("received_ms")),
            sender,
            stream_id=stream_id,
            frame=kind.upper(),
            length=seen["frame"].get("length", 0),
            detail=describe_signal(seen["frame"]),
        )
        for (sender, kind, stream_id, _), seen in found.items()
    ]


def _http_datagram(frame: Frame) -> tuple[int | None, bytes]:
    """Return the stream of a DATAGRAM frame and the payload; None where it is no HTTP datagram.

    It begins with the number of the stream, divided by four (RFC 9297 section 2.1).
    """
    buffer = Buffer(data=bytes.fromhex(frame.get("raw", {}).get("data", "")))
    try:
        stream_id = 4 * buffer.pull_uint_var()
    except BufferReadError:
        return None, b""
    return stream_id, buffer.pull_bytes(buffer.capacity - buffer.tell())


def _preview(payload: bytes) -> str:
    return f"{payload[:PREVIEW_BYTES]!r}{'...' if len(payload) > PREVIEW_BYTES else ''}"


def describe_signal(frame: Frame) -> str:
    """Return why a stream or a connection ends, with the error's name, or what a datagram holds."""
    if frame["frame_type"] == "datagram":
        return _preview(_http_datagram(frame)[1])
    if "error_code" not in frame:
        return ""
    text = describe_code(frame["error_code"], transport=frame.get("error_space") == "transport")
    if "final_size" in frame:
        return f"{text}, after {frame['final_size']} bytes"
    return f"{text}: {frame['reason']}" if frame.get("reason") else text


@dataclass
class _Frame:
    """An HTTP/3 frame with its payload as far as it is known; `end` is its end on the stream."""

    type: int
    length: int
    end: int
    payload: bytes

    def columns(self, headers: Iterator[str]) -> Row:
        """Return what a row says of this frame, which takes the next of `headers` if it is one."""
        name = _name(FrameType, self.type)
        return {"frame": name, "length": self.length, "detail": self._detail(headers)}

    def _detail(self, headers: Iterator[str]) -> str:
        if self.type == FrameType.HEADERS:
            return next(headers, "not decoded")
        if self.type == FrameType.DATA:
            cut = f" ({len(self.payload)} bytes seen)" if len(self.payload) < self.length else ""
            return _preview(self.payload) + cut
        numbers = list(_numbers(self.payload))
        if self.type == FrameType.SETTINGS:
            pairs = zip(numbers[::2], numbers[1::2], strict=False)
            return ", ".join(f"{_name(Setting, name)}={value}" for name, value in pairs)
        meaning = _FIRST_NUMBER.get(self.type)
        return f"{meaning} {numbers[0]}" if meaning and numbers else ""


_FIRST_NUMBER: dict[int, str] = {
    FrameType.GOAWAY: "nothing new from id",
    FrameType.MAX_PUSH_ID: "pushes up to id",
    FrameType.CANCEL_PUSH: "push id",
    FrameType.PUSH_PROMISE: "push id",
}


def _read_frames(stream_id: int, data: bytes) -> Iterator[tuple[int, _Frame]]:
    """Read the frames of a stream and where they start; a last one that is cut off comes too."""
    buffer = Buffer(data=data)
    try:
        if not _holds_frames(stream_id, buffer):
            return
        while True:
            start = buffer.tell()
            frame_type, length = buffer.pull_uint_var(), buffer.pull_uint_var()
            end = buffer.tell() + length
            yield start, _Frame(frame_type, length, end, data[buffer.tell() : end])
            if end > len(data):
                return
            buffer.seek(end)
    except BufferReadError:
        return  # Nothing is wrong: the head of the next frame has not been sent yet.


def _holds_frames(stream_id: int, buffer: Buffer) -> bool:
    """Read what stands before the frames, and tell whether any follow (RFC 9114 section 6).

    Requests are client-initiated bidirectional streams. A unidirectional stream says what it is;
    those of QPACK hold instructions, not frames (RFC 9204 section 4.2).
    """
    if stream_id % 4 < 2:
        return stream_id % 4 == 0
    stream_type = buffer.pull_uint_var()
    if stream_type == StreamType.PUSH:
        buffer.pull_uint_var()
    return stream_type in (StreamType.CONTROL, StreamType.PUSH)


def _numbers(payload: bytes) -> Iterator[int]:
    buffer = Buffer(data=payload)
    try:
        while not buffer.eof():
            yield buffer.pull_uint_var()
    except BufferReadError:
        return  # The frame is cut off inside a number.


def _name(names: type[IntEnum], number: int) -> str:
    """Return the name of a frame type or setting.

    Every 31st number from 0x21 is reserved, to be sent at will and ignored (RFC 9114 sections
    7.2.4.1 and 7.2.8).
    """
    if number >= 0x21 and (number - 0x21) % 31 == 0:
        return f"reserved {number:#x}"
    try:
        return names(number).name
    except ValueError:
        return f"unknown {number:#x}"
