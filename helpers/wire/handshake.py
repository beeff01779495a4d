"""How a connection begins: which packets carry which messages of TLS, in how many round trips.

QUIC has no handshake of its own: the messages of TLS 1.3 travel in its CRYPTO frames, in packets of
the type that belongs to the keys of that moment: Initial, Handshake, then 1-RTT (RFC 9001 section
4.1.3). A message that does not fit into one packet goes on in the next. Nothing here does I/O.
"""

from collections.abc import Iterator
from operator import itemgetter

from aioquic.tls import HandshakeType

from helpers.display import Row
from helpers.wire.frames import Frame, Packet, byte_streams, describe_signal, row

PACKET_NAMES = {
    "initial": "Initial",
    "handshake": "Handshake",
    "0RTT": "0-RTT",
    "1RTT": "1-RTT",
    "retry": "Retry",
    "version_negotiation": "Version Negotiation",
}
"""Packet types as RFC 9000 section 17 writes them; qlog has its own spelling."""


class Passage:
    """One packet on its way: what it is, when it was sent, and when it arrived."""

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.sent_ms: float | None = None
        self.received_ms: float | None = None

    @property
    def name(self) -> str:
        """Return type and number, such as `Handshake 1`; an end may use one count for all types."""
        name = PACKET_NAMES[self.packet.kind]
        return name if self.packet.number is None else f"{name} {self.packet.number}"

    @property
    def at_server_ms(self) -> float | None:
        """Return when the server sent or received it, or None where it did not."""
        return self.received_ms if self.packet.sender == "client" else self.sent_ms


class Handshake:
    """The packets of one connection's handshake, each once, whichever end saw it."""

    def __init__(self, packets: list[Packet]) -> None:
        self._crypto = byte_streams(packets, "crypto")
        found: dict[tuple[str, str, int | None], Passage] = {}
        for packet in packets:
            if packet.kind == "1RTT" and not self._carries_handshake(packet):
                continue
            passage = found.setdefault((packet.sender, packet.kind, packet.number), Passage(packet))
            if packet.sent:
                passage.sent_ms = packet.time_ms
            else:
                passage.received_ms = packet.time_ms
        self._passages = list(found.values())

    def rows(self) -> list[Row]:
        """Return one row per packet in the order of time."""
        rows = [
            row(
                (passage.sent_ms, passage.received_ms),
                passage.packet.sender,
                packet=passage.name,
                length=passage.packet.size_bytes,
                detail="; ".join(self._describe(passage.packet)),
            )
            for passage in self._passages
        ]
        return sorted(rows, key=lambda row: row["time_ms"])

    def messages(self) -> list[Row]:
        """Return one row per message of TLS, each as the packet that brings its last part.

        What is sent again though it has arrived, since nobody said so, is no message of its own.
        """
        found: dict[tuple[str, str, str], Row] = {}
        arrived: set[tuple[str, str, int | None]] = set()
        for passage in self._passages:
            packet = passage.packet
            steps = {(packet.sender, *step) for step in self._steps(packet)}
            if steps - arrived:
                times = passage.sent_ms, passage.received_ms
                arrived |= steps if passage.received_ms is not None else set()
                for name in self._says(packet):
                    message = row(times, packet.sender, stream_id=None, frame=name, detail="")
                    found[packet.sender, packet.kind, name] = message | {"length": 0}
        return sorted(found.values(), key=lambda row: row["time_ms"])

    def where_the_certificate_is(self) -> str:
        """Return a sentence that names the packets which carry the server's certificate."""
        names = [
            passage.name
            for passage in self._passages
            if passage.packet.sender == "server" and "Certificate" in self._says(passage.packet)
        ]
        if not names:
            return "The server's certificate did not come."
        return f"The server's certificate is in its packet {' and '.join(names)}."

    def round_trips(self) -> list[Row]:
        """Return one row per round trip; both ends have to be observed.

        A round trip begins when the client sends what the server waits for, and ends when the last
        packet of the server's answer has arrived. Whatever the server sends without having heard
        from the client in between is the same answer; what it only repeats is none.
        """
        trips: list[tuple[Passage, list[Passage]]] = []
        asked: Passage | None = None
        said: set[tuple[str, int | None]] = set()
        at_server = [
            (at_ms, passage)
            for passage in self._passages
            if (at_ms := passage.at_server_ms) is not None
        ]
        for _, passage in sorted(at_server, key=itemgetter(0)):
            if passage.packet.sender == "client":
                asked = passage
                continue
            new = self._steps(passage.packet) - said
            said |= new
            if new and asked is not None:
                trips.append((asked, []))
                asked = None
            if new and trips:
                trips[-1][1].append(passage)
        return [self._trip(number, *trip) for number, trip in enumerate(trips, start=1)]

    def _trip(self, number: int, asked: Passage, answer: list[Passage]) -> Row:
        arrivals = [passage.received_ms for passage in answer if passage.received_ms is not None]
        time_ms = None
        if asked.sent_ms is not None and len(arrivals) == len(answer):
            time_ms = round(max(arrivals) - asked.sent_ms, 3)
        said = [name for passage in answer for name in self._says(passage.packet)]
        return {
            "round_trip": number,
            "time_ms": time_ms,
            "client": ", ".join(self._says(asked.packet)),
            "server": ", ".join(dict.fromkeys(said)),
        }

    @staticmethod
    def _carries_handshake(packet: Packet) -> bool:
        return any(frame["frame_type"] in ("crypto", "handshake_done") for frame in packet.frames)

    @staticmethod
    def _steps(packet: Packet) -> set[tuple[str, int | None]]:
        """Return what moves the handshake on, the same for the same bytes sent again."""
        return {
            (packet.kind, frame.get("offset"))
            for frame in packet.frames
            if frame["frame_type"] in ("crypto", "handshake_done")
        }

    def _says(self, packet: Packet) -> list[str]:
        """Return the messages of TLS in a packet, or its frames where it carries none."""
        messages: dict[str, None] = {}
        frames: dict[str, None] = {}
        for frame in packet.frames:
            name = frame["frame_type"].upper()
            frames[name] = None
            if name == "CRYPTO":
                messages |= {message: None for message, _ in self._messages(packet, frame)}
            elif name == "HANDSHAKE_DONE":
                messages[name] = None
        return list(messages or frames)

    def _describe(self, packet: Packet) -> list[str]:
        """Return a text for each kind of frame in a packet, but for padding."""
        texts: dict[str, None] = {}
        for frame in packet.frames:
            name = frame["frame_type"].upper()
            if name == "CRYPTO":
                parts = ", ".join(
                    f"{message}{part}" for message, part in self._messages(packet, frame)
                )
                name = f"CRYPTO {parts}"
            elif name == "CONNECTION_CLOSE":
                name = f"CONNECTION_CLOSE {describe_signal(frame)}"
            if name != "PADDING":
                texts[name] = None
        return list(texts)

    def _messages(self, packet: Packet, frame: Frame) -> Iterator[tuple[str, str]]:
        """Yield each message that a CRYPTO frame carries, and which part where it is not whole."""
        data = self._crypto[packet.sender, packet.kind].longer.data
        first, last = frame["offset"], frame["offset"] + frame["length"]
        start = 0
        while start + 4 <= len(data):
            # RFC 8446 section 4: one byte says which message, three say how long it is.
            end = start + 4 + int.from_bytes(data[start + 1 : start + 4], "big")
            here = min(end, last) - max(start, first)
            if here > 0:
                whole = here == end - start
                yield _name(data[start]), "" if whole else f" [{here} of {end - start} bytes]"
            start = end


def _name(message_type: int) -> str:
    try:
        return HandshakeType(message_type).name.title().replace("_", "")
    except ValueError:
        return f"message {message_type}"
