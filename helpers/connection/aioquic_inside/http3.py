"""aioquic's HTTP/3 with what RFC 9114 asks for and aioquic leaves out."""

import pylsqpack
from aioquic.buffer import UINT_VAR_MAX_SIZE, encode_uint_var
from aioquic.h3 import connection as h3
from aioquic.h3.connection import (
    FrameType,
    H3Connection,
    H3Stream,
    HeadersState,
    Setting,
    encode_frame,
)
from aioquic.h3.events import H3Event
from aioquic.quic.connection import QuicConnection

from helpers.errors import HeaderTooLarge
from helpers.stream import Fields, section_bytes

# RFC 9114 section 4.2.2: announced to the peer, and enforced here.
MAX_HEADER_BYTES = 64 * 1024


class HTTP3Layer(H3Connection):
    """aioquic's HTTP/3 layer, which says nothing before `begin`.

    It takes QUIC events and returns HTTP/3 ones (`handle_event`, which raises HeaderTooLarge for a
    header section above 64 KiB), and writes to `quic` what it is asked to send; the names that it
    inherits are aioquic's.
    `goaway_id` is what the peer's last GOAWAY named, None before the first.
    """

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.goaway_id: int | None = None
        self._is_goaway = False  # the frame that arrives now
        # With a dynamic table (RFC 9204 section 3.2) each byte of a header section may stand for 4
        # KiB: 60 KB cost a server 240 MB and 13 s. quic-go has none either.
        self._decoder = pylsqpack.Decoder(0, 0)

    def _init_connection(self) -> None:
        # aioquic opens its streams and sends its settings here, in the constructor.
        pass

    def begin(self) -> None:
        """Open the control and QPACK streams: the peer has agreed to speak HTTP/3."""
        super()._init_connection()

    def send_goaway(self, first_refused_id: int) -> None:
        """Tell a client that requests from this stream ID on are refused (RFC 9114, 5.2)."""
        frame = encode_frame(FrameType.GOAWAY, encode_uint_var(first_refused_id))
        assert self._local_control_stream_id is not None, "begin() comes first"
        self._quic.send_stream_data(self._local_control_stream_id, frame)

    def _check_control_frame_type(self, frame_type: int) -> None:
        # Called when type and length of a frame are known. aioquic drops what a GOAWAY says as it
        # comes; as a MAX_PUSH_ID, which consists of one number too, it is handed over whole.
        super()._check_control_frame_type(frame_type)
        self._is_goaway = frame_type == FrameType.GOAWAY
        if self._is_goaway:
            assert self._peer_control_stream_id is not None, "it is what arrives"
            stream = self._stream[self._peer_control_stream_id]
            if stream.frame_size is None or stream.frame_size > UINT_VAR_MAX_SIZE:
                raise h3.FrameError("GOAWAY is longer than the one number that it consists of")
            stream.frame_type = FrameType.MAX_PUSH_ID

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        if not self._is_goaway:
            super()._handle_control_frame(frame_type, frame_data)
            return
        try:
            named_id = h3.parse_max_push_id(frame_data)
        except h3.FrameError as error:
            raise h3.FrameError("Could not parse GOAWAY frame") from error
        # RFC 9114 section 5.2: a server names a request's stream, and no later one than before.
        if self._is_client and named_id % 4:
            raise h3.IdError(f"GOAWAY names {named_id}, which is no request's stream")
        if self.goaway_id is not None and named_id > self.goaway_id:
            raise h3.IdError(f"GOAWAY names {named_id} after {self.goaway_id}")
        self.goaway_id = named_id

    def _get_local_settings(self) -> dict[int, int]:
        # aioquic announces H3_DATAGRAM only together with WebTransport.
        return super()._get_local_settings() | {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: MAX_HEADER_BYTES,
            Setting.H3_DATAGRAM: 1,
        }

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        # Called when type and length of a frame are known, before the rest has come.
        super()._check_request_or_push_frame_type(frame_type, stream)
        assert stream.frame_size is not None, "it is known before this is asked"
        if frame_type == FrameType.HEADERS and stream.frame_size > MAX_HEADER_BYTES:
            raise self._too_large(stream.stream_id)

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Fields:
        # Before aioquic validates each byte of it, in Python: there may be 70 for each that came.
        fields = super()._decode_headers(stream_id, frame_data)
        if section_bytes(fields) > MAX_HEADER_BYTES:
            raise self._too_large(stream_id)
        if self._stream[stream_id].headers_recv_state is HeadersState.INITIAL:
            return _with_authority(fields)
        return fields

    def _too_large(self, stream_id: int) -> HeaderTooLarge:
        is_trailer = self._stream[stream_id].headers_recv_state is not HeadersState.INITIAL
        return HeaderTooLarge(stream_id, MAX_HEADER_BYTES, is_trailer)

    def _receive_stream_data_uni(self, stream: H3Stream, data: bytes, fin: bool) -> list[H3Event]:
        events = super()._receive_stream_data_uni(stream, data, fin)
        qpack = (h3.StreamType.QPACK_ENCODER, h3.StreamType.QPACK_DECODER)
        if fin and stream.stream_type in qpack:  # RFC 9204 section 4.2
            raise h3.ClosedCriticalStream("Closing a QPACK stream is not allowed")
        return events

    def _check_content_length(self, stream: H3Stream) -> None:
        # aioquic closes the whole connection on a mismatch, and on every HEAD and 304, whose
        # content-length describes a body that is not sent. RFC 9114 section 4.1.2 asks for an
        # error of the stream; the receiving half, which knows method and status, checks it there.
        pass

    def finish(self, stream_id: int) -> None:
        """Send FIN alone, without the empty DATA frame that `send_data(b"")` would add."""
        with self._get_or_create_stream(stream_id) as stream:
            stream.finish_sending()
        self._quic.send_stream_data(stream_id, b"", end_stream=True)

    def forget(self, stream_id: int, both: bool = False) -> None:
        """Drop the state of a stream that was reset; aioquic would keep it for ever."""
        stream = self._stream.get(stream_id)
        if stream is not None:
            stream.sending_ended = True
            stream.receiving_ended = stream.receiving_ended or both
            if stream.is_ended():
                del self._stream[stream_id]

    def awaits_header(self, stream_id: int) -> bool:
        """Return whether something has come on a stream, and no whole header yet."""
        stream = self._stream.get(stream_id)
        return stream is not None and stream.headers_recv_state is HeadersState.INITIAL

    def buffered_bytes(self, stream_id: int) -> int:
        """Return how much of an incomplete frame this layer holds for a stream."""
        stream = self._stream.get(stream_id)
        return len(stream.buffer) if stream is not None else 0

    def buffered_bytes_of_all(self) -> int:
        """Return the same of all streams together."""
        return sum(len(stream.buffer) for stream in self._stream.values())

    def open_streams(self) -> int:
        """Return how many request streams this layer still keeps state for."""
        return sum(stream_id % 4 == 0 for stream_id in self._stream)


def _with_authority(fields: Fields) -> Fields:
    """Return a request's fields with an `:authority` where it has a `host` alone.

    RFC 9114 section 4.3.1 asks for one of the two; aioquic (validate_request_headers) for the
    first. A wire log shows both.
    """
    known = dict(fields)
    if b":method" not in known or b":authority" in known or b"host" not in known:
        return fields
    return [(b":authority", known[b"host"]), *fields]
