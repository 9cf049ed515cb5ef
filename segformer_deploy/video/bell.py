"""How threads tell the calling one that it has something to do."""

from __future__ import annotations

import threading
from contextlib import suppress

_LONGEST_S = 0.5


class Bell:
    """Rung by any thread; heard by the one that waits.

    ::

        bell.clear()      first, so that what happens while looking is not missed
        look around
        bell.wait()       only where nothing was found
    """

    def __init__(self) -> None:
        # A lock as a flag: free means rung. threading.Event is Python code around a lock, which
        # a Ctrl-C in the midst of it leaves taken for ever; a lock's own methods are not split.
        self._flag = threading.Lock()
        self._flag.acquire()

    def ring(self) -> None:
        with suppress(RuntimeError):  # rung already
            self._flag.release()

    def clear(self) -> None:
        self._flag.acquire(blocking=False)

    def wait(self) -> None:
        """Until it is rung, or half a second: nothing hangs for ever on one ring that failed."""
        self._flag.acquire(timeout=_LONGEST_S)
