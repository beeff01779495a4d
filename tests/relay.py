"""A UDP relay that does what no line does: it holds back one direction, or leads elsewhere."""

import asyncio
import contextlib

from helpers.background import Background

LOOPBACK = "127.0.0.1"


class Relay:
    """Passes datagrams on between one client and the server on `target`, a port of loopback.

    `port` is where the client sends, `holds_back` whether what comes from the server is lost. This
    and `target` may be set anew at any time.
    """

    def __init__(self, target):
        self.target = target
        self.holds_back = False
        self._client = None
        self._background = Background("relay")

    def __enter__(self):
        self._background.start()
        self.port = self._background.run(self._open)
        return self

    def __exit__(self, *_):
        self._background.run(self._close)
        self._background.stop()

    async def _open(self):
        loop = asyncio.get_running_loop()
        near, far = _Side(self._from_client), _Side(self._from_server)
        self._near, _ = await loop.create_datagram_endpoint(lambda: near, (LOOPBACK, 0))
        self._far, _ = await loop.create_datagram_endpoint(lambda: far, (LOOPBACK, 0))
        return self._near.get_extra_info("sockname")[1]

    async def _close(self):
        self._near.close()
        self._far.close()

    def _from_client(self, data, address):
        self._client = address
        self._send(self._far, data, (LOOPBACK, self.target))

    def _from_server(self, data, address):
        if not self.holds_back and address[1] == self.target:
            self._send(self._near, data, self._client)

    def _send(self, side, data, address):
        if not side.is_closing():
            with contextlib.suppress(OSError):
                side.sendto(data, address)


class _Side(asyncio.DatagramProtocol):
    def __init__(self, on_datagram):
        self._on_datagram = on_datagram

    def datagram_received(self, data, address):
        self._on_datagram(data, address)
