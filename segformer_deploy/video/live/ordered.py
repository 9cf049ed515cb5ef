"""What could be live, read in order instead: every frame, none dropped."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from segformer_deploy.errors import MediaError
from segformer_deploy.video.frame import Frame, Source, SourceKind
from segformer_deploy.video.live.connection import Open
from segformer_deploy.video.live.grabber import Grabbed, Grabber

_STEP = Fraction(1, 25)


class OrderedSource(Source):
    """Every frame of a pipe, a stream or the streets, when it is asked for. Iterated once.

    Frames follow each other at the rate that is known, or at 25 frames/s.

    Raises:
        MediaError: on opening (the first frame is read then) or iterating.
    """

    kind: SourceKind = "stream"

    def __init__(self, name: str, open: Open) -> None:
        self.path = Path(name)
        self._name = name
        self.frame_count: int | None = None
        self.finished = False
        self._grabber: Grabber = open()
        self._closed = False
        try:
            first = self._grabber.read()
        except BaseException:
            self.close()
            raise
        if first is None:
            self.close()
            raise MediaError(f"{name} ended before its first frame", "at least one frame")
        self._first = first
        self.size = first.size
        self.fps: Fraction | None = self._grabber.fps or None

    def __iter__(self) -> Iterator[Frame]:
        step = 1 / self.fps if self.fps else _STEP
        grabbed: Grabbed | None = self._first
        index = 0
        while grabbed is not None:
            yield Frame(
                image=grabbed.picture(),
                index=index,
                time_s=float(index * step),
                name=f"{index:06d}",
                pts=index,
                time_base=step,
            )
            grabbed, index = self._grabber.read(), index + 1
        self.finished = True

    @property
    def name(self) -> str:
        return self._name

    @property
    def corrupt(self) -> int:  # type: ignore[override]
        return self._grabber.corrupt

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        return self._grabber.notes

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._grabber.interrupt()
            self._grabber.close()


class Looped(Source):
    """A file again and again: times and numbers go on where the last round ended."""

    kind: SourceKind = "stream"

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.size, self.fps = source.path, source.size, source.fps
        self.frame_count: int | None = None
        self.finished = False
        self.notes = source.notes

    @property
    def corrupt(self) -> int:  # type: ignore[override]
        return self._source.corrupt

    def __iter__(self) -> Iterator[Frame]:
        step = 1 / self.fps if self.fps else _STEP
        index, start = 0, Fraction(0)
        while True:
            end, first = start, None  # the first's own time: a file need not begin at 0
            for frame in self._source:
                time = end
                if frame.pts is not None and frame.time_base is not None:
                    own = frame.pts * frame.time_base
                    first = own if first is None else first
                    time = start + own - first
                yield Frame(
                    image=frame.image,
                    index=index,
                    time_s=float(time),
                    name=f"{index:06d}",
                    pts=round(time * 1_000_000),
                    time_base=Fraction(1, 1_000_000),
                )
                index, end = index + 1, max(end, time + step)
            start = end

    def close(self) -> None:
        self._source.close()
