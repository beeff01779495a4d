"""A client's and a server's connection in memory, with a clock of their own.

No socket, no thread, no sleep: datagrams lie in a list until they arrive, and time passes when the
test says so. What waits inside (a writer for its reader, say) waits on the running loop, which
`Pair.run` and `Pair.soon` give its turns. So each step is exact, and an hour takes no longer than a
second.
"""

import asyncio
import functools
import heapq
import itertools
import math
import ssl

import httpx2

from helpers.client import AsyncHTTP3Transport
from helpers.connection import ConnectionState, HTTP3Connection, new_configuration
from helpers.server.router import Route, Router

ADDRESS = ("127.0.0.1", 4433)
GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/"),
]
POST = [(b":method", b"POST"), *GET[1:]]
# A loop's tasks wake each other in a few turns.
TURNS = 8
# What has not happened by then, on the clock of the pair, never will.
PATIENCE_S = 60.0


class Pair:
    """`client` and `server`, HTTP3Connections, and what lies between them.

    `delay_s` is the time a datagram takes; `drops(is_from_client, data)` tells which are lost. Both
    may be set anew, and so may `client_address`, as behind a NAT that forgot it: what the server
    sends to the old one is lost. `now` is the time in seconds, `carried` what was sent so far, as
    (from_client, size). `requests` holds (stream, fields) as they arrive at the server, `abandoned`
    the streams whose client left, unless `on_request` and `on_abandoned` take them (see
    HTTP3Connection). The client trusts anybody, unless `verify_mode` is another; `total` is the
    server's (see Total).
    """

    def __init__(
        self,
        credentials,
        delay_s=0.0,
        drops=None,
        on_request=None,
        on_abandoned=None,
        verify_mode=ssl.CERT_NONE,
        total=None,
    ):
        self.now = 0.0
        self.delay_s = delay_s
        self.drops = drops or (lambda is_from_client, data: False)
        self.client_address = ADDRESS
        self.requests = []
        self.abandoned = []
        self.carried = []
        self._on_its_way = []
        self._order = itertools.count()
        # Who may have something to say: as a Driver, this asks nobody who did not ask for it.
        self._due = {"client"}

        def accept(stream, fields, address):
            self.requests.append((stream, fields))

        ours = new_configuration(is_client=True)
        ours.verify_mode = verify_mode
        ours.server_name = "localhost"
        theirs = new_configuration(is_client=False)
        theirs.load_cert_chain(credentials.cert_file, credentials.key_file)
        self.client = HTTP3Connection(ours, functools.partial(self._note, "client"))
        self.server = HTTP3Connection(
            theirs,
            functools.partial(self._note, "server"),
            on_request=on_request or accept,
            on_abandoned=on_abandoned or self.abandoned.append,
            original_id=self.client.quic.original_destination_connection_id,
            total=total,
        )
        self.client.connect(ADDRESS, self.now)

    def _note(self, who, now):
        self._due.add(who)

    # ---- datagrams and time

    def _send(self):
        """Put on the way what both have to say now; returns how much that was."""
        count = 0
        due, self._due = self._due, set()
        for who in sorted(due):
            is_client = who == "client"
            for data, address in getattr(self, who).datagrams_to_send(self.now):
                count += 1
                self.carried.append((is_client, len(data)))
                arrives = is_client or address == self.client_address
                if arrives and not self.drops(is_client, data):
                    arrival = (self.now + self.delay_s, next(self._order), is_client, data)
                    heapq.heappush(self._on_its_way, arrival)
        return count

    def _arrive(self):
        count = 0
        while self._on_its_way and self._on_its_way[0][0] <= self.now:
            _, _, is_from_client, data = heapq.heappop(self._on_its_way)
            receiver = "server" if is_from_client else "client"
            address = self.client_address if is_from_client else ADDRESS
            getattr(self, receiver).receive(data, address, self.now)
            self._due.add(receiver)
            count += 1
        return count

    def exchange(self):
        """Carry datagrams until nothing more moves at this moment."""
        while self._send() + self._arrive():
            pass

    def next_event_at(self):
        """When something happens next: an arrival or a timer; None where nothing will."""
        times = [self._on_its_way[0][0]] if self._on_its_way else []
        for connection in (self.client, self.server):
            timeout = connection.next_timeout()
            if timeout is not None:
                times.append(timeout)
        return min(times, default=None)

    def _go_to(self, at):
        """Let it be `at`, and happen what happens then."""
        # No two things at the very same time: aioquic, whose sums round, would ask for this moment
        # again and again.
        self.now = max(math.nextafter(self.now, math.inf), at)
        for who in ("client", "server"):
            timeout = getattr(self, who).next_timeout()
            if timeout is not None and timeout <= self.now:
                getattr(self, who).handle_timeout(self.now)
                self._due.add(who)
        self.exchange()

    def pass_time(self, seconds):
        """Let so much time pass, with all that happens meanwhile, in order."""
        until = self.now + seconds
        self.exchange()
        while (at := self.next_event_at()) is not None and at <= until:
            self._go_to(at)
        self.now = until

    # ---- and the tasks that wait for what happens

    async def _give_turns(self):
        for _ in range(TURNS):
            await asyncio.sleep(0)
            self.exchange()

    async def run(self, seconds=0.0):
        """Let so much time pass; after each event, tasks have their turns."""
        until = self.now + seconds
        await self._give_turns()
        while (at := self.next_event_at()) is not None and at <= until:
            self._go_to(at)
            await self._give_turns()
        self.now = until

    async def soon(self, awaitable):
        """Return what an awaitable returns; time passes until then, event by event."""
        task = asyncio.ensure_future(awaitable)
        until = self.now + PATIENCE_S
        await self._give_turns()
        while not task.done():
            at = self.next_event_at()
            if at is None or at > until:
                task.cancel()
                raise AssertionError(f"nothing that happens in {PATIENCE_S:g} s lets it end")
            self._go_to(at)
            await self._give_turns()
        try:
            return task.result()
        finally:
            del task  # its error would hold this frame, which held it

    # ---- what the two do

    def connect(self):
        """Let the handshake happen; returns this pair."""
        self.pass_time(4 * self.delay_s + 0.1)
        for connection in (self.client, self.server):
            assert connection.state is ConnectionState.OPEN, connection.lost
        return self

    def request(self, fields=GET, end_stream=True):
        """Open a stream on the client; returns it."""
        return self.client.open_stream(fields, end_stream, self.now)

    def streams(self, fields=POST, end_stream=False):
        """Both ends of a new stream, once the request has arrived: the client's, the server's."""
        ours = self.request(fields, end_stream)
        self.pass_time(self.delay_s)
        theirs, _ = self.requests[-1]
        assert theirs.stream_id == ours.stream_id
        return ours, theirs


class Site(Pair):
    """A pair whose server runs handlers: `route` adds one, `http` is an httpx2 client for them.

    `transport` is the client's; `url(path)` what it asks for. Make it in a test that is async.
    """

    def __init__(self, credentials, delay_s=0.0):
        self.router = Router()
        super().__init__(
            credentials,
            delay_s,
            on_request=self.router.accept,
            on_abandoned=self.router.abandon,
        )
        self.transport = AsyncHTTP3Transport()
        self.transport._connection = self._connection
        self.http = httpx2.AsyncClient(transport=self.transport, timeout=None)

    def route(self, path):
        def register(handler):
            self.router.add(Route(path, handler))
            return handler

        return register

    @property
    def errors(self):
        return self.router.errors

    def url(self, path):
        return f"https://localhost{path}"

    async def _connection(self, request, asks_first):
        return _Opened(self), True


class _Opened:
    """What a transport needs of a Driver whose connection is open."""

    def __init__(self, pair):
        self._pair = pair
        self.connection = pair.client

    def is_silent(self):
        return False  # its time is not the loop's, by which it would be asked

    async def open_stream(self, fields, end_stream=False):
        assert self._pair.client.can_open_stream()
        return self._pair.request(fields, end_stream)
