"""HTTP/3 with others on the other side: curl, Chromium, niquests, hypercorn, aioquic, ngtcp2."""
