"""Counting what becomes of a stream's frames; used by several threads."""

from __future__ import annotations

import threading
import time
from collections import deque

from segformer_deploy.video.live.spread import Spread
from segformer_deploy.video.live.stats import StreamState, StreamStats

_WINDOW_S = 5.0
"""Over how long the rates are taken."""


class _Rate:
    """Events per second over the last seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def add(self, now: float) -> None:
        self._times.append(now)
        self._forget(now)

    def at(self, now: float, since: float) -> float:
        self._forget(now)
        return len(self._times) / max(1e-3, min(_WINDOW_S, now - since))

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - _WINDOW_S:
            self._times.popleft()


class Meter:
    """The counts of one stream: ``frames_in = shown + dropped + pending`` at every moment.

    Args:
        name: the source as it is shown.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._state: StreamState = "starting"
        self._size = self._error = ""
        self._in = self._shown = self._dropped = 0
        self._corrupt = self._stalls = self._reconnects = 0
        self._rate_in, self._rate_shown = _Rate(), _Rate()
        self._latency = Spread()
        self._last: float | None = None
        self._flicker: float | None = None

    def frame_in(self, size: str, corrupt: int = 0) -> None:
        """The source gave a frame of `size`, and so many damaged packets and frames so far."""
        with self._lock:
            self._in += 1
            self._size, self._corrupt = size, corrupt
            self._state, self._error = "running", ""
            self._rate_in.add(time.monotonic())

    def frame_dropped(self, count: int = 1) -> None:
        """Frames that nobody will segment."""
        with self._lock:
            self._dropped += count

    def frame_shown(self, latency_ms: float | None) -> None:
        """A frame's result is out; `latency_ms` is None where nobody waited for it."""
        with self._lock:
            self._shown += 1
            self._rate_shown.add(time.monotonic())
            if latency_ms is not None:
                self._last = latency_ms
                self._latency.add(latency_ms)

    def flickered(self, share: float | None) -> None:
        """The flicker score of the last frames."""
        with self._lock:
            self._flicker = share

    def stalled(self, error: str) -> None:
        """It is connected, but nothing comes."""
        with self._lock:
            self._stalls += 1
            self._state, self._error = "stalled", error

    def lost(self, error: str) -> None:
        """The connection is gone; another is tried."""
        with self._lock:
            self._state, self._error = "reconnecting", error

    def reconnected(self) -> None:
        """It was opened again."""
        with self._lock:
            self._reconnects += 1

    def ended(self, error: str = "") -> None:
        """No more frames will come."""
        with self._lock:
            self._state, self._error = "ended", error

    def close(self) -> None:
        """What is still under way will not be shown. What it ended with stays."""
        with self._lock:
            self._dropped = self._in - self._shown
            self._state = "ended"

    def snapshot(self) -> StreamStats:
        """All counts, taken at one moment."""
        now = time.monotonic()
        with self._lock:
            return StreamStats(
                name=self.name,
                state=self._state,
                size=self._size,
                frames_in=self._in,
                shown=self._shown,
                dropped=self._dropped,
                pending=self._in - self._shown - self._dropped,
                corrupt=self._corrupt,
                stalls=self._stalls,
                reconnects=self._reconnects,
                fps_in=self._rate_in.at(now, self._start),
                fps_shown=self._rate_shown.at(now, self._start),
                latency_ms=self._last,
                p50_ms=self._latency.percentile(50),
                p99_ms=self._latency.percentile(99),
                flicker=self._flicker,
                error=self._error,
                seconds=now - self._start,
            )
