"""The server: `server` starts and stops it, `listener` has the port, `router` runs the handlers.

`retry` answers those that are not known to be clients yet, `beats` tells who blocks the loop.

Without it: a client leaves, and its handler writes on (notebook 07).
"""

from helpers.server.router import Handler
from helpers.server.server import Server

__all__ = ["Handler", "Server"]
