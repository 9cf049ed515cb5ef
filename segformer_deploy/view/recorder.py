"""Recordings on the device: started and ended from the page, one recorder per stream."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segformer_deploy.errors import OutputError
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.shown import Shown
from segformer_deploy.video.sink_base import Sink
from segformer_deploy.video.video_writer import VideoSink
from segformer_deploy.view.recording import (
    LEAST_FREE,
    RecordedSource,
    Recording,
    disk_is_full,
)

_KEPT = 20
"""Recordings of this run that the page lists."""


def file_stem(source: str) -> str:
    """A file's name from a source's: letters, digits and dashes, at most 40."""
    return re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-")[:40].strip("-") or "source"


def file_stems(sources: Sequence[str]) -> list[str]:
    """`file_stem` of each, numbered where two would be the same."""
    stems: list[str] = []
    for number, source in enumerate(sources, 1):
        stem = file_stem(source)
        while stem in stems:
            stem = f"{stem}-{number}"
        stems.append(stem)
    return stems


class Recorder:
    """Starts and ends the recordings of one stream; any thread may ask.

    Args:
        stem: what the names of its files begin with; no other stream's may be the same.
        folder: where they go; made when the first one begins. None: there is no recording.
        overlay: makes the one that draws for a recording alone.
    """

    def __init__(
        self, stem: str, folder: Path | None, overlay: Callable[[], Overlay], opacity: float
    ) -> None:
        self._stem = stem
        self._folder = folder
        self._overlay = overlay
        self._opacity = opacity
        self._lock = threading.Lock()
        self._all: list[Recording] = []
        self._earlier_dropped = 0
        self._current: Recording | None = None
        self._refusal = ""
        self._closed = False

    def offer(self, shown: Shown) -> None:
        current = self._current
        if current is not None:
            current.offer(shown)

    def start(self) -> None:
        """Begin a file, unless one is being written already.

        Raises:
            OutputError: it cannot be written.
        """
        with self._lock:
            if self._closed or (self._current is not None and self._current.active):
                return
            self._refusal = ""
            try:
                sink = self._sink()
            except OutputError as error:
                self._refusal = f"Recording cannot start: {error.found}."
                raise
            self._current = Recording(sink, self._overlay(), self._opacity)
            self._all.append(self._current)
            for old in self._all[:-_KEPT]:  # a list that is sent to every viewer stays short
                self._earlier_dropped += old.dropped
            del self._all[:-_KEPT]

    def stop(self) -> None:
        with self._lock:
            if self._current is not None:
                self._current.stop()

    def close(self, until_s: float) -> None:
        """Finish all files, waiting for them until that `time.monotonic()`; safe to call twice."""
        with self._lock:
            self._closed = True
        for one in self._all:
            one.stop()
        for one in self._all:
            one.join(max(0.0, until_s - time.monotonic()))

    @property
    def recording(self) -> bool:
        return self._current is not None and self._current.active

    @property
    def dropped(self) -> int:
        with self._lock:
            return self._earlier_dropped + sum(one.dropped for one in self._all)

    def status(self) -> dict[str, Any]:
        """What the page shows of it, ready for JSON."""
        with self._lock:
            current, everything = self._current, list(self._all)
            refusal = self._refusal
        status: dict[str, Any] = {
            "possible": self._folder is not None,
            "on": current is not None and current.active,
            "error": refusal or (current.error if current else ""),
        }
        if current is not None:
            status |= {
                "name": current.name,
                "frames": current.frames,
                "dropped": current.dropped,
                "seconds": round(time.monotonic() - current.started_s, 1),
                "finishing": not current.active and not current.finished,
            }
        status["files"] = [
            {"name": one.name, "frames": one.frames, "dropped": one.dropped}
            for one in reversed(everything)
            if one.kept
        ]
        return status

    def _sink(self) -> Sink:
        sink = VideoSink(self._free_path(), RecordedSource(self._stem))
        if disk_is_full(sink.path.parent):
            sink.abort()
            raise OutputError(
                f"the disk of {sink.path.parent} is nearly full",
                f"{LEAST_FREE >> 20} MB that a recording leaves free",
                "free some space",
            )
        return sink

    def _free_path(self) -> Path:
        if self._folder is None:
            raise OutputError("recording is switched off", "a folder for recordings")
        stem = f"{self._stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        taken = {one.name for one in self._all}
        for number in range(1, 1000):
            name = f"{stem}.mp4" if number == 1 else f"{stem}-{number}.mp4"
            if name not in taken and not (self._folder / name).exists():
                return self._folder / name
        raise OutputError(f"{self._folder} holds too many files of one second", "a free name")
