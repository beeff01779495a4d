"""The helpers side by side with their peers: `python -m tests.bench`; see README.md here.

Reading order: scenarios (what every server answers), servers and clients (each peer, written the
obvious way), workloads (what a client process does), processes, rows (what is compared with what),
report.
"""
