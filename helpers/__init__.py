"""A real HTTP/3 server and client on aioquic, small enough to be read.

The way through, from what a handler sees down to the wire; each folder is one idea, and so is each
module in it:

1. exchange      a request and its response: write, flush, take_over
2. stream        one request stream, taken over: write, read, close; halves: how each half ends;
                 fields: headers as they travel
3. server        routes, start and stop, in the background of a notebook; router: how a handler can
                 end, and what the client sees then; beats: who blocks the loop; listener: one port,
                 many connections; retry: what is said before there is one
4. client        transports for httpx2; messages: its requests and responses on a stream;
                 blocking: the same for a thread that may wait; dial: connecting, or why not
5. connection    http3: datagrams and time in, streams out; driver: the loop around it; udp: a
                 socket that survives a burst; total: what all of a server's connections hold;
                 configuration: what both ends share; in aioquic_inside all that relies on it: quic
                 (slow readers slow down fast writers), tls, keys, http3, texts
6. certificates  credentials: a CA and a certificate of your own; pem: reading such files;
                 extensions: for whom and what for a certificate is
7. timeline      what arrived when
8. wire          log: the frames of a run; qlog: recorded, frames: read, handshake: its packets,
                 ladder: shown
9. link          a line with distance and loss, to put between the two; line: what happens on it,
                 relay: its sockets; tcp: the same for TCP, as a model; between: started and stopped
10. checks       the exercises: certificates, buffered_stream, takeover_stream, real_network,
                 client_stream, datagrams, by_hand; run: an answer is run, one_end: one that is
                 an end of a connection; trial: what was seen, witness: what it kept to itself,
                 verdict: what to say
11. desk         a stream beside the sliders of its line

background (a loop on a thread), clock (time as QUIC needs it), errors and display (style: colours,
table: rows, sketch: boxes and arrows, track: a moving thing, guess and turn: each a form) serve all
of them; http2 is another server, to compare with. preflight looks whether this machine can run them
(environment: Python and packages, kernel: JupyterLab). browser opens a page over HTTP/3.

Import from the folder, `from helpers.server import Server`: its `__init__` is the door, and what is
behind it may move.
"""
