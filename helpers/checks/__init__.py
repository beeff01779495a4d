"""Whether an answer to an exercise is right, and why not: a file for each notebook.

`run` tries an answer with a real server and client, `trial` and `verdict` are what it says.

Without it: an answer is right when it runs, and wrong without a word why.
"""

from helpers.checks.buffered_stream import check_largest_write, check_pairs, check_progress_feed
from helpers.checks.by_hand import check_attentive, check_patient, check_telling
from helpers.checks.certificates import check_accepts, check_bundle, check_second_name
from helpers.checks.client_stream import check_chat, check_upload
from helpers.checks.datagrams import check_notices, check_ping
from helpers.checks.real_network import (
    check_line_length,
    check_player,
    check_resumed,
    unknown_line,
)
from helpers.checks.takeover_stream import check_broken_off, check_handed_over, check_slow_reader

__all__ = [
    "check_accepts",
    "check_attentive",
    "check_broken_off",
    "check_bundle",
    "check_chat",
    "check_handed_over",
    "check_largest_write",
    "check_line_length",
    "check_notices",
    "check_pairs",
    "check_patient",
    "check_ping",
    "check_player",
    "check_progress_feed",
    "check_resumed",
    "check_second_name",
    "check_slow_reader",
    "check_telling",
    "check_upload",
    "unknown_line",
]
