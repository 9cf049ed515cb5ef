"""One recording: a file of the drawn overlay, at full resolution, written on its own thread."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from queue import SimpleQueue

from segformer_deploy.errors import SegdeployError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame, Source
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.shown import Shown
from segformer_deploy.video.sink_base import Sink

ROOM = 4
"""Frames that may wait for the recorder, each whole: 6 MB at 1080p. More are left out."""
LEAST_FREE = 64 << 20
"""Bytes of the disk that a recording leaves free, so that it can be finished, and the board run."""
_MICROSECOND = Fraction(1, 1_000_000)
_LOOK_AT_DISK_S = 1.0


class RecordedSource(Source):
    """What a sink wants to know of a stream: that it is one. It gives no frames itself."""

    live = True

    def __init__(self, name: str) -> None:
        self.kind = "stream"
        self.path = Path(name)
        self.size = FrameSize(1, 1)  # not known before the first frame; sinks take that one's
        self.frame_count = self.fps = None
        self.corrupt = 0
        self.finished = False
        self.notes = []

    def __iter__(self) -> Iterator[Frame]:
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


class Recording:
    """One file being written, on a thread of its own.

    Attributes:
        name: the file's, in the recordings folder.
        frames, dropped: frames written, and left out because the encoder did not keep up.
        error: one sentence if it ended by itself; empty otherwise.
        finished: the thread has ended; `kept` tells whether there is a file.
    """

    def __init__(self, sink: Sink, overlay: Overlay, opacity: float) -> None:
        self.name = sink.path.name
        self.frames = self.dropped = 0
        self.error = ""
        self.started_s = time.monotonic()
        self.finished = self.kept = False
        self._sink = sink
        self._overlay = overlay
        self._opacity = opacity
        self._ending = False
        self._looked_s = 0.0
        self._queue: SimpleQueue[Shown | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="segdeploy recorder", daemon=True)
        self._thread.start()

    @property
    def active(self) -> bool:
        return not (self._ending or self.finished)

    def offer(self, shown: Shown) -> None:
        if not self.active:
            return
        if self._queue.qsize() >= ROOM:
            self.dropped += 1
        else:
            self._queue.put(shown)

    def stop(self) -> None:
        """Write what waits and finish the file; does not wait for it."""
        if not self._ending:
            self._ending = True
            self._queue.put(None)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            with self._sink:
                while (shown := self._queue.get()) is not None:
                    self._write(shown)
                    if self._disk_is_full():
                        self._ending = True
                        self.error = (
                            "The disk is nearly full: the recording was ended and kept. "
                            "Free some space to record again."
                        )
                        break
        except SegdeployError as error:
            self.error = self._stopped(error.found)
        except Exception as error:
            self.error = self._stopped(str(error) or type(error).__name__)
        finally:
            self.kept = self._sink.path.exists()
            self.finished = True

    def _stopped(self, why: str) -> str:
        # What a live sink could not go on with it keeps, if the disk let it write anything.
        path = self._sink.path
        if path.exists() and not _plays(path):
            path.unlink(missing_ok=True)
        rest = "what was recorded is kept" if path.exists() else "it was lost"
        return f"The recording stopped, {rest}: {why}."

    def _write(self, shown: Shown) -> None:
        drawn = self._overlay.draw(
            shown.frame.image, shown.class_map, opacity=self._opacity, shares=shown.shares
        )
        self._sink.write(timed(shown), drawn)
        self.frames += 1

    def _disk_is_full(self) -> bool:
        now = time.monotonic()
        if now - self._looked_s < _LOOK_AT_DISK_S:
            return False
        self._looked_s = now
        return disk_is_full(self._sink.path.parent)


def disk_is_full(folder: Path) -> bool:
    """Whether the disk of that folder has less than `LEAST_FREE` left."""
    return shutil.disk_usage(folder).free < LEAST_FREE


def _plays(path: Path) -> bool:
    """Whether the file has a picture in it."""
    import av

    try:
        with av.open(str(path)) as container:
            return next(container.decode(video=0), None) is not None
    except (av.error.FFmpegError, IndexError):
        return False


def timed(shown: Shown) -> Frame:
    """The frame, with the time of its capture where the source gave it none."""
    frame = shown.frame
    if frame.pts is not None and frame.time_base is not None:
        return frame
    moment = shown.shown_s if frame.captured_s is None else frame.captured_s
    return replace(frame, pts=round(moment / _MICROSECOND), time_base=_MICROSECOND)
