"""The log that QUIC itself keeps, with the bytes.

aioquic writes qlog (draft-ietf-quic-qlog-main-schema): one event for each packet that is sent or
received, naming the frames in it, and one for each HTTP/3 frame of a request stream. qlog tells how
long a frame is, not what is in it. But aioquic hands each frame to its logger, bytes and all, to
have it described: so the logger here keeps the bytes beside the description.
"""

import time
from threading import Lock
from typing import Any

from aioquic.h3.events import Headers
from aioquic.quic.logger import QuicLogger, QuicLoggerTrace
from aioquic.quic.packet import QuicStreamFrame

from helpers.clock import now_s
from helpers.wire.frames import Carried, Connection, Frame, Packet


class Recorder(QuicLogger):
    """What was recorded of each connection: written on the connections' loops, read on any thread.

    A connection has one trace for each end that is observed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started: list[Trace] = []
        # The same for both ends of a connection, whose times are compared.
        self._epoch_s = time.time() - now_s()

    def start_trace(self, is_client: bool, odcid: bytes) -> "Trace":
        """Return the trace of a new connection; aioquic calls this on the connection's loop."""
        trace = Trace(self._epoch_s, is_client=is_client, odcid=odcid)
        self._started.append(trace)
        return trace

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        """Keep the trace: it is read when the connection has ended."""

    def traces(self) -> list[dict[str, Any]]:
        """Return a copy of all traces in which something was recorded, oldest first, as qlog."""
        copies = [trace.to_dict() for trace in list(self._started)]
        return [trace for trace in copies if trace["events"]]

    def connections(self) -> list[Connection]:
        """Return a copy of what was recorded of each connection, oldest first."""
        by_id: dict[str, list[dict[str, Any]]] = {}
        for trace in self.traces():
            # The connection id that the client makes up for its first packet names the connection
            # at both ends.
            by_id.setdefault(trace["common_fields"]["ODCID"], []).append(trace)
        return [_connection(traces) for traces in by_id.values()]


class Trace(QuicLoggerTrace):
    """What one end of one connection sees; aioquic calls it on that connection's loop.

    `epoch_s` is what the fine clock is behind time.time.
    """

    def __init__(self, epoch_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._epoch_s = epoch_s
        self._timed: list[dict[str, Any]] = []
        self._lock = Lock()

    def encode_stream_frame(self, frame: QuicStreamFrame, stream_id: int) -> Frame:
        """Return the description of a STREAM frame, and its bytes with it."""
        return Carried(super().encode_stream_frame(frame, stream_id), frame.data)

    def encode_crypto_frame(self, frame: QuicStreamFrame) -> Frame:
        """Return the description of a CRYPTO frame, and its bytes with it."""
        return Carried(super().encode_crypto_frame(frame), frame.data)

    def encode_http3_headers_frame(self, length: int, headers: Headers, stream_id: int) -> Frame:
        """Return the description of a HEADERS frame with its fields in clear."""
        return super().encode_http3_headers_frame(length, _readable(headers), stream_id)

    def encode_http3_push_promise_frame(
        self, length: int, headers: Headers, push_id: int, stream_id: int
    ) -> Frame:
        """Return the description of a PUSH_PROMISE frame with its fields in clear."""
        fields = _readable(headers)
        return super().encode_http3_push_promise_frame(length, fields, push_id, stream_id)

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """Add an event with the time of now.

        aioquic asks time.time, for which a whole handshake may be one moment.
        """
        with self._lock:
            time_ms = self.encode_time(self._epoch_s + now_s())
            self._timed.append({"data": data, "name": f"{category}:{event}", "time": time_ms})

    def to_dict(self) -> dict[str, Any]:
        """Return a copy to which nothing is added any more.

        aioquic logs a packet that it received first, and adds its frames while it reads them.
        """
        with self._lock:
            trace = {**super().to_dict(), "events": list(self._timed)}
        for index, event in enumerate(trace["events"]):
            if "frames" in event["data"]:
                data = {**event["data"], "frames": list(event["data"]["frames"])}
                trace["events"][index] = {**event, "data": data}
        return trace


def _readable(headers: Headers) -> Headers:
    """Return headers that aioquic's logger can decode: it takes all of them for UTF-8.

    A value may hold any byte from 0x80 (RFC 9110 section 5.5). Without this, the first one that is
    not UTF-8 raises in the middle of the connection that is being logged.
    """
    return [(_in_utf8(name), _in_utf8(value)) for name, value in headers]


def _in_utf8(part: bytes) -> bytes:
    return part.decode(errors="backslashreplace").encode()


def _connection(traces: list[dict[str, Any]]) -> Connection:
    """Put together what one end or both recorded of a connection; its first event is at 0 ms."""
    connection = Connection()
    start_ms = min(event["time"] for trace in traces for event in trace["events"])
    for trace in traces:
        here = trace["vantage_point"]["type"]
        there = "server" if here == "client" else "client"
        connection.observers.add(here)
        for event in trace["events"]:
            data = event["data"]
            match event["name"]:
                case "transport:packet_sent":
                    packet = _packet(event["time"] - start_ms, here, True, data)
                    connection.packets.append(packet)
                case "transport:packet_received":
                    packet = _packet(event["time"] - start_ms, there, False, data)
                    connection.packets.append(packet)
                case "transport:parameters_set":
                    announced = dict(data)
                    owner = here if announced.pop("owner") == "local" else there
                    connection.parameters.setdefault(owner, announced)
                case "http:frame_created" if data["frame"]["frame_type"] == "headers":
                    connection.headers[here, here, data["stream_id"]].append(_fields(data))
                case "http:frame_parsed" if data["frame"]["frame_type"] == "headers":
                    connection.headers[here, there, data["stream_id"]].append(_fields(data))
    return connection


def _packet(time_ms: float, sender: str, sent: bool, data: dict[str, Any]) -> Packet:
    header = data["header"]
    # Version Negotiation and Retry packets have no number (RFC 9000 section 17.2).
    number = header.get("packet_number")
    size_bytes = data["raw"]["length"]
    return Packet(time_ms, sender, sent, header["packet_type"], number, size_bytes, data["frames"])


def _fields(data: dict[str, Any]) -> str:
    return ", ".join(f"{field['name']}: {field['value']}" for field in data["frame"]["headers"])
