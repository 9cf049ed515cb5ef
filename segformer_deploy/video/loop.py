"""From a source to its sinks, frame by frame."""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import FrameError
from segformer_deploy.spec import FrameSize, default_class_names
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.interrupts import uninterrupted, watched
from segformer_deploy.video.overlay import ClassMap, Overlay, class_shares
from segformer_deploy.video.sink import MaskSink, Sink

STAGES = ("decode", "segment", "draw", "write")


@dataclass(frozen=True)
class Progress:
    """Where a run is, after each frame.

    Attributes:
        frames: done so far.
        frame_count: how many there will be, or None where that is not known.
        fps: frames per second since the start.
        name: of the frame just done.
        stages_ms: milliseconds that this frame took in each stage.
    """

    frames: int
    frame_count: int | None
    fps: float
    name: str
    stages_ms: dict[str, float]


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        frames: number of frames that were finished.
        seconds, fps: wall-clock time of the run, and frames over it.
        stages_ms: the median milliseconds per frame of each stage: decode (and whatever else
            the source does), segment, draw, write.
        sizes: frame size ("HxW") -> number of frames of that size, in order of appearance.
        interrupted: Ctrl-C ended it; what was written is complete up to there.
        class_shares: class name -> mean share of the pixels, largest first; absent ones left out.
        corrupt: damaged or missing packets and frames of the source.
        notes: what the reader ought to know, of the source and of the sink.
    """

    frames: int
    seconds: float
    fps: float
    stages_ms: dict[str, float]
    sizes: dict[str, int]
    interrupted: bool
    class_shares: dict[str, float]
    corrupt: int = 0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 3),
            "stages_ms": {name: round(value, 3) for name, value in self.stages_ms.items()},
            "sizes": dict(self.sizes),
            "interrupted": self.interrupted,
            "class_shares": {name: round(v, 6) for name, v in self.class_shares.items()},
            "corrupt": self.corrupt,
            "notes": list(self.notes),
        }


def run(
    source: Source,
    segment: Callable[[Picture], ClassMap],
    *,
    sink: Sink | None = None,
    masks: MaskSink | None = None,
    overlay: Overlay | None = None,
    opacity: float = 0.5,
    on_frame: Callable[[Progress], None] | None = None,
    max_frames: int | None = None,
    class_names: Sequence[str] | None = None,
) -> RunReport:
    """Segment every frame of `source`; write overlays to `sink` and class maps to `masks`.

    Source and sinks are closed at the end, however it ends. Ctrl-C ends the run early, in
    good order: the sinks hold the frames so far, and the report says `interrupted`.

    Args:
        source: open, not yet iterated.
        segment: uint8 `[H, W, 3]` BGR -> class map `[H, W]` of the same height and width.
        sink: takes the overlay, or the bare picture where there is no `overlay`.
        masks: takes the class map.
        overlay, opacity: how the class map is drawn.
        on_frame: called after each frame.
        max_frames: stop after so many.
        class_names: for the report; the overlay's where they are left out.

    Raises:
        SegdeployError: whatever source, segmenter or sinks raise; unfinished files are removed.
    """
    if class_names is None and overlay is not None:
        class_names = overlay.class_names
    steps = _Steps(sink, masks, overlay, opacity)
    tally = _Tally(class_names, source.frame_count, max_frames)
    with ExitStack() as closing:
        pressed = closing.enter_context(watched())
        for part in (source, masks, sink):
            if part is not None:
                closing.enter_context(part)
        try:
            for frame, decode_ms in _timed(source, max_frames):
                start = time.perf_counter()
                class_map = _checked(segment(frame.image), frame)
                stages = {"decode": decode_ms, "segment": (time.perf_counter() - start) * 1e3}
                # A frame is either written and counted, or neither.
                with uninterrupted():
                    shares = tally.shares(class_map)
                    stages.update(steps.run(frame, class_map, shares))
                    tally.frame_done(frame, stages, shares)
                if on_frame is not None:
                    on_frame(tally.progress(frame, stages))
                if pressed():
                    break
            interrupted = pressed()
        except KeyboardInterrupt:
            interrupted = True
        try:
            if sink is not None:
                sink.close()  # here, so that its time counts and its notes are complete
        except KeyboardInterrupt:
            interrupted = True  # it came while the file was being finished, and waited
    notes = list(source.notes) + (list(sink.notes) if sink is not None else [])
    return tally.report(interrupted, source.corrupt, notes)


def _checked(class_map: ClassMap, frame: Frame) -> ClassMap:
    if class_map.shape != frame.image.shape[:2]:
        raise FrameError(
            f"a class map of {class_map.shape} for a frame of {frame.size}",
            "one class per pixel of the frame",
        )
    return class_map


class _Steps:
    """What happens to a frame once its class map is there."""

    def __init__(
        self,
        sink: Sink | None,
        masks: MaskSink | None,
        overlay: Overlay | None,
        opacity: float,
    ) -> None:
        self._sink = sink
        self._masks = masks
        self._overlay = overlay if sink is not None else None
        self._opacity = opacity

    def run(
        self, frame: Frame, class_map: ClassMap, shares: npt.NDArray[np.float64]
    ) -> dict[str, float]:
        """Draw and write; gives the milliseconds of each."""
        start = time.perf_counter()
        picture = frame.image
        if self._overlay is not None:
            named = shares if len(shares) == len(self._overlay.class_names) else None
            picture = self._overlay.draw(
                frame.image, class_map, opacity=self._opacity, shares=named
            )
        drawn = time.perf_counter()
        if self._sink is not None:
            self._sink.write(frame, picture)
        if self._masks is not None:
            self._masks.write(frame, class_map)
        written = time.perf_counter()
        return {"draw": (drawn - start) * 1e3, "write": (written - drawn) * 1e3}


class _Tally:
    """Counts and times while the frames go by."""

    def __init__(
        self, class_names: Sequence[str] | None, frame_count: int | None, max_frames: int | None
    ) -> None:
        counts = [count for count in (frame_count, max_frames) if count is not None]
        self._expected = min(counts, default=None)
        self._names = class_names
        self._start = time.perf_counter()
        self._frames = 0
        # Eight bytes a value: an hour of video at 30 frames/s takes 3.5 MB.
        self._stages = {name: array("d") for name in STAGES}
        self._sizes: dict[FrameSize, int] = {}
        self._shares = np.zeros(0, np.float64)

    def shares(self, class_map: ClassMap) -> npt.NDArray[np.float64]:
        """The share of each class in one frame: by name, else as many as the map can hold."""
        if self._names is not None:
            return class_shares(class_map, len(self._names))
        if class_map.dtype == np.uint8:
            return class_shares(class_map, 256)
        return class_shares(class_map, int(class_map.max(initial=0)) + 1)

    def frame_done(
        self, frame: Frame, stages: dict[str, float], shares: npt.NDArray[np.float64]
    ) -> None:
        self._frames += 1
        self._sizes[frame.size] = self._sizes.get(frame.size, 0) + 1
        for name, value in stages.items():
            self._stages[name].append(value)
        if len(shares) > len(self._shares):
            self._shares = np.pad(self._shares, (0, len(shares) - len(self._shares)))
        self._shares[: len(shares)] += shares

    def progress(self, frame: Frame, stages: dict[str, float]) -> Progress:
        fps = self._frames / max(1e-9, time.perf_counter() - self._start)
        return Progress(self._frames, self._expected, fps, frame.name, stages)

    def report(self, interrupted: bool, corrupt: int, notes: list[str]) -> RunReport:
        seconds = time.perf_counter() - self._start
        names = self._names or default_class_names(len(self._shares))
        shares = self._shares / max(1, self._frames)
        order = np.argsort(-shares, kind="stable")
        return RunReport(
            frames=self._frames,
            seconds=seconds,
            fps=self._frames / max(1e-9, seconds),
            stages_ms={k: statistics.median(v) for k, v in self._stages.items() if v},
            sizes={str(size): count for size, count in self._sizes.items()},
            interrupted=interrupted,
            class_shares={names[i]: float(shares[i]) for i in order if shares[i] > 0},
            corrupt=corrupt,
            notes=notes,
        )


def _timed(source: Source, most: int | None) -> Iterator[tuple[Frame, float]]:
    """The frames of `source`, each with the milliseconds that it took to get it."""
    frames = iter(source)
    done = 0
    while most is None or done < most:
        start = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            return
        yield frame, (time.perf_counter() - start) * 1e3
        done += 1
