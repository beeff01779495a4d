"""The client: `transports` are what httpx2 is given, `dial` opens a connection for them.

`messages` translates between httpx2 and a stream, `blocking` is for threads without a loop.

Without it: nobody listens, and a minute of silence ends in an error without a text (notebook 07).
"""

from helpers.client.transports import AsyncHTTP3Transport, HTTP3Transport

__all__ = ["AsyncHTTP3Transport", "HTTP3Transport"]
