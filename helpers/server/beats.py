"""A clock that goes as slowly as the machine does.

Whether a handler blocks the loop cannot be told from seconds: on a busy machine everything takes
long, and nobody is to blame. So a thread that does nothing else sleeps for a moment again and again
and counts. Where it gets its turn and the loop does not, something blocks the loop: what the loop's
thread does just then tells who. The helpers and aioquic never wait on the loop; a thread that is
found in their code wants its turn, of the processor or of Python's global lock, and others have it.

What keeps Python's global lock meanwhile, a long `sum(...)` in C say, keeps the beats from their
turn as well; but that is the blocked thread's own processor time, which time.thread_time tells.
"""

import os
import sys
import threading
from pathlib import Path

import aioquic

import helpers

EVERY_S = 0.02
# So many beats after it was last asked for, the thread sleeps until it is asked for again.
IDLE_BEATS = 50
STOP_TIMEOUT_S = 1.0

# The code that runs on a loop and never blocks it.
NEVER_BLOCKS = tuple(
    str(Path(file).parent) + os.sep for file in (helpers.__file__, aioquic.__file__)
)


class Beats:
    """Counts beats of 20 ms, or of more where the machine is busy, on a daemon thread.

    `count` is of all beats, and `elsewhere` of those at which the thread that called `go_on` last
    ran other code than that of the helpers and of aioquic. Both may be read on any thread; they
    stand still while nobody has called `go_on` for a second.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.elsewhere = 0
        self._last_asked = 0
        self._asking_thread = 0
        self._asked = threading.Event()
        self._ended = threading.Event()  # of the thread that runs, each its own
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; twice is harmless."""
        if self._thread is None:
            self._ended = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._ended,), name=self.name, daemon=True
            )
            self._thread.start()

    def go_on(self) -> None:
        """Let it count for a second more; cheap enough for each step of a handler."""
        self._last_asked = self.count
        self._asking_thread = threading.get_ident()
        if not self._asked.is_set():
            self._asked.set()

    def end(self) -> None:
        """Let the thread end, without waiting for that; twice is harmless."""
        self._ended.set()
        self._asked.set()

    def stop(self) -> None:
        """End the thread and wait for that, a second at most; twice is harmless."""
        thread, self._thread = self._thread, None
        self.end()
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT_S)

    def _run(self, ended: threading.Event) -> None:
        while self._asked.wait() and not ended.wait(EVERY_S):
            self.count += 1
            frame = sys._current_frames().get(self._asking_thread)
            if frame is not None and not frame.f_code.co_filename.startswith(NEVER_BLOCKS):
                self.elsewhere += 1
            del frame  # it would keep a handler's request alive
            if self.count - self._last_asked > IDLE_BEATS:
                self._asked.clear()
                # Asked for or ended just before that, it would rest beside a handler, or for ever.
                if ended.is_set() or self.count - self._last_asked <= IDLE_BEATS:
                    self._asked.set()
