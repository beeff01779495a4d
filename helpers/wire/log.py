"""What was on the wire: the frames of a run as rows, as a picture, and as files for other tools.

A WireLog is attached to the client, to the server or to both. It keeps all that each of them sends
and receives, bodies too, until it is dropped: it is meant for a run in a notebook, not for a server
that stays up.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.logger import QLOG_VERSION

from helpers.display import Picture, Row, Table
from helpers.errors import UsageError
from helpers.wire.frames import Connection, Frame, http3_rows, parameter_rows
from helpers.wire.handshake import Handshake
from helpers.wire.ladder import draw
from helpers.wire.qlog import Recorder

NO_CONNECTION = "No connection was made yet: send a request first."


class WireLog:
    """Records the frames of every connection that it is attached to.

    The loops of client and server write while the notebook's thread reads: each method here works
    on a copy of what was recorded so far, and writing and copying take the same lock.
    """

    def __init__(self) -> None:
        self._recorder = Recorder()
        self._secrets = io.StringIO()
        self._attached = False

    def observe(self, configuration: QuicConfiguration) -> None:
        """Record all connections that are made with this configuration from now on."""
        configuration.quic_logger = self._recorder
        configuration.secrets_log_file = self._secrets
        self._attached = True

    def frames(
        self,
        stream_id: int | None = None,
        sender: str | None = None,
        connection: int | None = None,
        times: bool = True,
    ) -> Table:
        """Return one row per frame: those of HTTP/3, and what ends a stream or a connection.

        `stream_id`, `sender` ("client" or "server") and `connection` each leave out the others.

        Each row has `connection` (0 is the first), `time_ms` and `received_ms` since that
        connection's first event, `sender`, `stream_id` (None where a frame belongs to no stream),
        `frame`, `length` (the payload in bytes) and `detail`. A frame is one row, however often it
        was sent and whichever end saw it. Where both ends are observed, `time_ms` is when it left
        and `received_ms` when it was complete at the other end; where one is, `time_ms` is what
        that end knows. QPACK's streams carry instructions, not frames, and have no rows.

        `times=False` leaves both times out and sorts by stream. The same run then gives the same
        rows, because only the order between streams is a matter of chance.

        Raises UsageError where this log is attached to nothing, and where there is no such stream,
        sender or connection.
        """
        recorded = self._recorded(connection)
        everything = rows = _rows(recorded, http3_rows)
        if stream_id is not None:
            _check_stream(recorded, stream_id)
            rows = [row for row in rows if row["stream_id"] == stream_id]
        if sender is not None:
            _check_sender(sender)
            rows = [row for row in rows if row["sender"] == sender]
        if not times:
            rows.sort(key=lambda row: (row["connection"], row["stream_id"] or 0))
        return _table(rows, times, "" if rows else _why_no_frames(recorded, everything, stream_id))

    def handshake(self, connection: int | None = None, times: bool = True) -> Table:
        """Return one row per packet of the handshake, with the messages of TLS that it carries.

        Each row has `connection`, `time_ms`, `received_ms`, `sender`, `packet` (type and number),
        `length` (of the packet, in bytes) and `detail`. The note names the packets that carry the
        server's certificate. Raises UsageError where this log is attached to nothing.
        """
        recorded = self._recorded(connection)
        rows = _rows(recorded, lambda found: Handshake(found.packets).rows())
        notes = [Handshake(found.packets).where_the_certificate_is() for found in recorded.values()]
        return _table(rows, times, "\n".join(notes) or NO_CONNECTION)

    def round_trips(self, connection: int | None = None, times: bool = True) -> Table:
        """Return one row per round trip of the handshake, as far as it went.

        Each row has `connection`, `round_trip` (from 1), `time_ms` (how long it took), and what
        `client` and `server` say. The handshake is complete for the client with the round trip
        that brings the server's Finished, and confirmed with HANDSHAKE_DONE (RFC 9001 section 4.1).
        Raises UsageError where this log is attached to nothing, or to one end only.
        """
        recorded = self._recorded(connection)
        if any(len(found.observers) < 2 for found in recorded.values()):
            raise UsageError(
                "Round trips show only where both ends are observed. "
                "Pass the same WireLog to HTTP3Transport(wire=...) and to Server(wire=...)."
            )
        rows = _rows(recorded, lambda found: Handshake(found.packets).round_trips())
        return _table(rows, times, "" if rows else NO_CONNECTION)

    def parameters(self, connection: int | None = None) -> Table:
        """Return one row per transport parameter that an end announced (RFC 9000 section 18.2).

        Each row has `connection`, `sender`, `parameter` and `value`; they travel in the handshake,
        and say what this end takes. Raises UsageError where this log is attached to nothing.
        """
        recorded = self._recorded(connection)
        rows = _rows(recorded, parameter_rows)
        return _table(rows, True, "" if rows else NO_CONNECTION)

    def plot(self, stream_id: int | None = None, connection: int | None = None) -> Picture:
        """Return the ladder: client and server as two lines, each frame an arrow between them.

        Draws the connection that is asked for or else the newest, and one of its streams or all.
        Raises UsageError where there is no frame to draw.
        """
        if connection is None:
            connection = max(self._recorded(None), default=None)
        rows = self.frames(stream_id, connection=connection)
        if not rows:
            raise UsageError(f"There is nothing to draw. {rows.note}")
        return draw(rows)

    def plot_handshake(self, connection: int | None = None) -> Picture:
        """Return the ladder of a connection's beginning: TLS's messages, then the first request.

        Draws the connection that is asked for or else the newest. Raises UsageError where there is
        nothing to draw.
        """
        recorded = self._recorded(connection)
        if not recorded:
            raise UsageError(f"There is nothing to draw. {NO_CONNECTION}")
        newest = recorded[max(recorded)]
        request = [row for row in http3_rows(newest) if row["frame"] == "HEADERS"][:2]
        rows = [*Handshake(newest.packets).messages(), *request]
        return draw(sorted(rows, key=lambda row: row["time_ms"]), "messages")

    def save(self, path: str | Path) -> Path:
        """Write what was recorded so far as a .qlog file, which qvis opens, and return its path.

        The file holds header sections and datagrams in clear, with any secret in them.
        Raises UsageError where nothing was recorded.
        """
        traces = self._attached_recorder().traces()
        if not traces:
            raise UsageError(f"There is nothing to save. {NO_CONNECTION}")
        log = {"qlog_version": QLOG_VERSION, "qlog_format": "JSON", "traces": traces}
        path = Path(path)
        path.write_text(json.dumps(log, allow_nan=False), encoding="utf-8")
        return path

    def save_keys(self, path: str | Path) -> Path:
        """Write the TLS secrets as a key log, with which Wireshark decrypts; return its path.

        Whoever has this file can read the recorded connections, and no others.
        Raises UsageError where nothing was recorded.
        """
        self._attached_recorder()
        # Both ends of a connection write the same secrets.
        lines = dict.fromkeys(self._secrets.getvalue().splitlines(keepends=True))
        if not lines:
            raise UsageError(f"There are no keys to save. {NO_CONNECTION}")
        path = Path(path)
        path.write_text("".join(lines), encoding="ascii")
        return path

    def _attached_recorder(self) -> Recorder:
        if not self._attached:
            raise UsageError(
                "This WireLog is attached to nothing. Pass it to HTTP3Transport(wire=...) or to "
                "Server(wire=...), before the first request."
            )
        return self._recorder

    def _recorded(self, number: int | None) -> dict[int, Connection]:
        """Return the connections by number, or the one that is asked for."""
        recorded = dict(enumerate(self._attached_recorder().connections()))
        if number is None:
            return recorded
        if number not in recorded:
            raise UsageError(f"There is no connection {number}; recorded: {list(recorded)}.")
        return {number: recorded[number]}


def _rows(recorded: dict[int, Connection], rows_of: Callable[[Connection], list[Row]]) -> list[Row]:
    return [{"connection": n, **row} for n, found in recorded.items() for row in rows_of(found)]


def _check_sender(sender: str) -> None:
    if sender not in ("client", "server"):
        raise UsageError(f"There is no sender {sender!r}: it is 'client' or 'server'.")


def _check_stream(recorded: dict[int, Connection], stream_id: int) -> None:
    seen = {frame["stream_id"] for frame in _all_frames(recorded) if "stream_id" in frame}
    if seen and stream_id not in seen:
        raise UsageError(f"There is no stream {stream_id}; recorded: {sorted(seen)}.")


def _why_no_frames(
    recorded: dict[int, Connection], everything: list[Row], stream_id: int | None
) -> str:
    """Return the reason why nothing is left of `everything` that could be shown."""
    if not recorded:
        return NO_CONNECTION
    with_frames = {row["stream_id"] for row in everything} - {None}
    if not with_frames:
        packets = [packet for found in recorded.values() for packet in found.packets]
        sent = sum(packet.sent for packet in packets)
        return (
            f"The handshake did not get as far as HTTP/3: "
            f"{sent} packets were sent and {len(packets) - sent} received."
        )
    if stream_id not in {None, *with_frames}:
        return f"Stream {stream_id} carries no frames of HTTP/3, but QPACK's instructions."
    return "No such frame was recorded."


def _all_frames(recorded: dict[int, Connection]) -> list[Frame]:
    packets = (packet for found in recorded.values() for packet in found.packets)
    return [frame for packet in packets for frame in packet.frames]


def _table(rows: list[Row], times: bool, note: str) -> Table:
    """Return rows as a table, with the columns hidden in which there is nothing to tell apart."""
    if not times:
        rows = [
            {name: value for name, value in row.items() if not name.endswith("_ms")} for row in rows
        ]
    hidden = {"connection"} if len({row["connection"] for row in rows}) < 2 else set()
    if all(row.get("received_ms") in (None, row.get("time_ms")) for row in rows):
        hidden.add("received_ms")
    return Table(rows, note, hidden)
