"""How long a case in a process of its own may take: as long as it is heard of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from segformer_deploy.bench.case import RUNNING

DEFAULT_SILENCE = 900.0
"""Seconds that one run, one scored frame or the loading may take."""


class Clock:
    """Two bounds in seconds: of the whole, and until the child is heard again.

    Attributes:
        allowed: the silence that is allowed now.
    """

    def __init__(self, timeout: float | None, silence: float, warmup: int) -> None:
        self._timeout, self._silence, self._warmup = timeout, silence, warmup
        self._end: float | None = None
        self.allowed = silence
        self._next = 0.0

    def start(self) -> None:
        now = time.monotonic()
        self._end = None if self._timeout is None else now + self._timeout
        self._next = now + self._silence

    def heard(self, message: dict[str, Any]) -> None:
        """Starts anew at each line; the phase of running begins with the warm-up."""
        runs = 1 + self._warmup if message.get("phase") == RUNNING else 1
        self.allowed = self._silence * runs
        self._next = time.monotonic() + self.allowed

    def left(self) -> float:
        """Seconds; 0 or less where the time is over."""
        now = time.monotonic()
        return self._next - now if self._end is None else min(self._next, self._end) - now

    def why(self) -> str:
        if self._end is not None and self._end <= self._next:
            return f"the case took longer than {self._timeout:g} s"
        return f"nothing was heard of the case for {self.allowed:g} s"


@contextmanager
def ended_in_time(clock: Clock, end: Callable[[str], object]) -> Iterator[None]:
    """Start the clock; call `end` with why, from a thread, where its time is over in the block."""
    done = threading.Event()
    clock.start()

    def watch() -> None:
        while (left := clock.left()) > 0:
            if done.wait(min(left, threading.TIMEOUT_MAX)):
                return
        end(clock.why())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
