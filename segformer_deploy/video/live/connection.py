"""One thread that holds one connection: it opens it, reads it, and closes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from segformer_deploy.video.live.grabber import Grabbed, Grabber

Open = Callable[[], Grabber]


class Connection:
    """Reads a grabber until it ends, fails, or is given up.

    A driver that hangs cannot be called back. Then the connection is given up: its thread is
    left to itself, what it may still read is thrown away, and it closes what it opened when it
    comes back.

    Args:
        open: opens the grabber, on the connection's own thread.
        deliver: takes each frame, on that thread, unless the connection was given up.
        changed: called when it was opened and when it ended.

    Attributes:
        grabber: once it is open.
        last_s: when the last frame came, or when the connection began.
        frames: how many came.
        error: what ended it; None at the end of the source.
        over: it has ended.
        stalled: it was given up because nothing came.
    """

    def __init__(
        self, open: Open, deliver: Callable[[Grabbed], None], changed: Callable[[], None]
    ) -> None:
        self._open, self._deliver, self._changed = open, deliver, changed
        self._lock = threading.Lock()
        self._given_up = False
        self.grabber: Grabber | None = None
        self.last_s = time.monotonic()
        self.frames = 0
        self.error: BaseException | None = None
        self.over = self.stalled = False
        self._thread = threading.Thread(target=self._work, name="segdeploy capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def give_up(self) -> None:
        """No frame is delivered after this. Does not wait."""
        with self._lock:
            self._given_up = True
            grabber = self.grabber
        if grabber is not None:
            grabber.interrupt()

    def wait(self, seconds: float) -> bool:
        """Until its thread has ended; whether it has."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            grabber = self._open()
            try:
                with self._lock:
                    self.grabber = grabber
                self._changed()
                while self._read_one(grabber):
                    pass
            finally:
                grabber.close()
        except BaseException as error:
            self.error = error
        self.over = True
        self._changed()

    def _read_one(self, grabber: Grabber) -> bool:
        if self._given_up:
            return False
        grabbed = grabber.read()
        if grabbed is None:
            return False
        with self._lock:
            if self._given_up:
                return False
            self.last_s = time.monotonic()
            self.frames += 1
            self._deliver(grabbed)
        return True
