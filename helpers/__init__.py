"""A real HTTP/3 server and client on aioquic, small enough to be read.

The way through, from what a handler sees down to the wire; each module is one idea:

1. exchange      a request and its response: write, flush, take_over
2. stream        one request stream, taken over: write, read, close; halves: how each half ends
3. handlers      how a handler can end, and what the client sees then
4. server        routes, start and stop, in the background of a notebook
5. client        transports for httpx2; messages: its requests and responses on a stream;
                 fields: headers as they travel; blocking: the same for a thread that may wait;
                 dial: connecting, or why not
6. connection    HTTP/3 events in, streams out; driver: datagrams and timers; listener: one port,
                 many connections; strangers: what is said before there is one; udp: a socket that
                 survives a burst
7. flow_control  slow readers slow down fast writers: all that touches aioquic's inside
8. certificates  a CA and a certificate of your own; pem: reading such files
9. timeline      what arrived when; wire: the frames of a run (qlog: recorded, frames: read,
                 handshake: its packets, ladder and table: shown); checks, checks_certificates and
                 checks_takeover: the exercises (oracle: an answer is run, trial: what was seen,
                 verdict: what to say)

background (a loop on a thread), beats and clock (two ways to tell time), errors and style (colours)
serve all of them. preflight looks whether this machine can run them (preflight_environment: Python
and packages, preflight_kernel: JupyterLab).

Import from the module, `from helpers.server import Server`, so that the line says which file to
open.
"""
