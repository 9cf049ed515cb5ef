"""One source of a run with all that is done with its frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.live.meter import Meter
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.overlay import ClassMap, Overlay
from segformer_deploy.video.shown import Shown, Watcher
from segformer_deploy.video.sink import MaskSink, Sink


class ShareLog(AbstractContextManager[Any], Protocol):
    """Takes the classes' shares of each frame."""

    def write(
        self,
        frame: Frame,
        class_map: ClassMap,
        shares: npt.NDArray[np.float64],
        latency_ms: float | None,
    ) -> None: ...

    def close(self) -> None: ...


Smooth = Callable[[Picture, ClassMap], ClassMap]
"""Picture and class map -> a steadier class map, which is valid until the next call."""


class Score(Protocol):
    """Takes picture and class map, one after another: how much the class maps flicker."""

    @property
    def overall(self) -> float | None:
        """The score of all so far."""

    def __call__(self, picture: Picture, class_map: ClassMap, /) -> float | None:
        """The score of the last ones."""


@dataclass
class Stream:
    """A source, and where its results go. Everything in it serves this source alone.

    Attributes:
        source: open, not yet iterated.
        sinks: take the overlay, or the bare picture where there is no `overlay`.
        masks: takes the class map.
        log: takes the classes' shares.
        overlay: how the class map is drawn.
        smooth: makes class maps steadier; None leaves them as they are.
        score: how much they flicker; None measures nothing.
        meter: counts; the source's own where it is live.
    """

    source: Source
    sinks: Sequence[Sink] = ()
    masks: MaskSink | None = None
    log: ShareLog | None = None
    overlay: Overlay | None = None
    smooth: Smooth | None = None
    score: Score | None = None
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        own = self.source.meter if isinstance(self.source, LiveSource) else None
        self.meter = own or Meter(self.source.name)

    def closing(self) -> list[AbstractContextManager[Any]]:
        """All that takes results, to be entered.

        What a camera gave until an error is a recording like any other: it is kept.
        """
        sinks: list[Any] = [*self.sinks]
        if self.source.live:
            sinks = [_Kept(sink) for sink in sinks]
        return [part for part in (self.masks, self.log, *sinks) if part is not None]

    def finish(self) -> None:
        """Close what takes pictures, so that its notes are complete."""
        for sink in self.sinks:
            sink.prepare_to_close()
        for sink in self.sinks:
            sink.close()
        self.meter.close()

    def notes(self) -> list[str]:
        return [*self.source.notes, *(note for sink in self.sinks for note in sink.notes)]


class _Kept:
    """A sink that is finished whatever ends the run."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __enter__(self) -> Sink:
        return self._sink.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sink.close()


class Steps:
    """What happens to a frame once its class map is there."""

    def __init__(
        self, stream: Stream, number: int, opacity: float, watchers: Sequence[Watcher]
    ) -> None:
        self._stream, self._number = stream, number
        self._opacity = opacity
        self._overlay = stream.overlay if stream.sinks else None
        self._watchers = watchers

    def smooth(self, frame: Frame, class_map: ClassMap) -> tuple[ClassMap, dict[str, float]]:
        """The class map that is shown; and the milliseconds that it took to make it."""
        stream = self._stream
        start = time.perf_counter()
        if stream.smooth is not None:
            class_map = stream.smooth(frame.image, class_map)
        done = time.perf_counter()
        if stream.score is not None:
            stream.meter.flickered(stream.score(frame.image, class_map))
        return class_map, {} if stream.smooth is None else {"stabilise": (done - start) * 1e3}

    def run(
        self, frame: Frame, class_map: ClassMap, shares: npt.NDArray[np.float64]
    ) -> dict[str, float]:
        """Draw, write and show; gives the milliseconds of drawing and writing."""
        stream = self._stream
        start = time.perf_counter()
        picture = frame.image
        if self._overlay is not None:
            named = shares if len(shares) == len(self._overlay.class_names) else None
            picture = self._overlay.draw(
                frame.image, class_map, opacity=self._opacity, shares=named
            )
        drawn = time.perf_counter()
        for sink in stream.sinks:
            sink.write(frame, picture)
        if stream.masks is not None:
            stream.masks.write(frame, class_map)
        now = time.monotonic()
        latency = None if frame.captured_s is None else (now - frame.captured_s) * 1e3
        if stream.log is not None:
            stream.log.write(frame, class_map, shares, latency)
        written = time.perf_counter()
        stream.meter.frame_shown(latency)
        self._show(frame, class_map, shares, now, latency)
        return {"draw": (drawn - start) * 1e3, "write": (written - drawn) * 1e3}

    def _show(
        self,
        frame: Frame,
        class_map: ClassMap,
        shares: npt.NDArray[np.float64],
        now: float,
        latency: float | None,
    ) -> None:
        if not self._watchers:
            return
        # Whoever made the class map may make the next one in the same place.
        shown = Shown(self._number, frame, class_map.copy(), shares, now, latency)
        for watcher in self._watchers:
            watcher.offer(shown)
