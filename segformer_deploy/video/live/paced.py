"""What is not a camera, played as if it were: a file by its own clock, streets without end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import StreetVideo
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed

_STILLS_FPS = Fraction(25)
_STREETS_SIZE, _STREETS_FPS = FrameSize(512, 768), Fraction(15)
_STREETS_SEED = 10_000_007
"""A drive that no training of the shipped model has seen."""
_STREETS_OPTIONS = "seed, frames"
_NUMBER = re.compile(r"[0-9]{1,18}")


class _Clock:
    """Waits until a frame is due; a frame that comes late moves all that follow."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._start: float | None = None

    def wait_until(self, due_s: float) -> None:
        """Sleep until `due_s` seconds after the first call; at once where that has passed."""
        now = time.monotonic()
        if self._start is None:
            self._start = now - due_s
        late = now - (self._start + due_s)
        if late > 0:
            self._start += late
        else:
            self._stop.wait(-late)

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


class FileGrabber:
    """A file, a folder or a picture as a live source: a frame is there when it is due.

    Args:
        open_file: opens it, again for each round where `loop` is set.
    """

    def __init__(self, open_file: Callable[[], Source], options: CaptureOptions) -> None:
        self._source = open_file()
        self._loop = options.loop
        wanted = options.fps or None
        self.fps = wanted or self._source.fps
        self.notes = self._source.notes
        self._clock = _Clock()
        self._frames = self._timed(wanted)

    @property
    def corrupt(self) -> int:
        return self._source.corrupt

    def read(self) -> Grabbed | None:
        frame, due = next(self._frames, (None, 0.0))
        if frame is None:
            return None
        self._clock.wait_until(due)
        image = frame.image
        return None if self._clock.stopped else Grabbed(time.monotonic(), frame.size, lambda: image)

    def interrupt(self) -> None:
        self._clock.stop()

    def close(self) -> None:
        self._source.close()

    def _timed(self, fps: Fraction | None) -> Iterator[tuple[Frame, float]]:
        step = float(1 / (fps or self._source.fps or _STILLS_FPS))
        start = 0.0
        while True:
            due, first = start, None
            for frame in self._source:
                if fps is None and frame.time_s is not None:
                    first = frame.time_s if first is None else first
                    due = start + frame.time_s - first
                yield frame, due
                due += step
            if not self._loop:
                return
            start = due


class StreetsGrabber:
    """The generated streets as an endless camera.

    Args:
        text: what follows ``test:``: nothing, or ``seed=3,frames=100``: that drive, so long.
    """

    def __init__(self, text: str, options: CaptureOptions) -> None:
        wanted = _street_options(text)
        self.fps: Fraction | None = options.fps if options.fps is not None else _STREETS_FPS
        self.corrupt = 0
        self.notes: list[str] = []
        self._size = options.size or _STREETS_SIZE
        rate = float(self.fps) or float(_STREETS_FPS)
        self._step = 1 / float(self.fps) if self.fps else 0.0
        if not self.fps:
            self.fps = None
        self._drive = iter(StreetVideo(wanted.get("seed", _STREETS_SEED), self._size, rate))
        self._left = wanted.get("frames")
        self._count = 0
        self._clock = _Clock()

    def read(self) -> Grabbed | None:
        if self._count == self._left or self._clock.stopped:
            return None
        picture: Picture = next(self._drive)[0]
        if self._step:
            self._clock.wait_until(self._count * self._step)
        self._count += 1
        return (
            None if self._clock.stopped else Grabbed(time.monotonic(), self._size, lambda: picture)
        )

    def interrupt(self) -> None:
        self._clock.stop()

    def close(self) -> None:
        """Nothing is open."""


def _street_options(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in _STREETS_OPTIONS.split(", ") or not _NUMBER.fullmatch(value):
            raise MediaError(
                f"test:{text} says {part}",
                f"{_STREETS_OPTIONS}, each with a whole number",
                "test:seed=3,frames=100",
            )
        found[name] = int(value)
    return found
