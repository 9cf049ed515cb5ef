"""From a source to its sinks, frame by frame."""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import FrameError
from segformer_deploy.spec import FrameSize, default_class_names
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.interrupts import uninterrupted, watched
from segformer_deploy.video.overlay import ClassMap, Overlay, class_shares
from segformer_deploy.video.pipeline import InTurn, Line, Overlapped
from segformer_deploy.video.sink import MaskSink, Sink
from segformer_deploy.video.threads import Tell

STAGES = ("decode", "segment", "draw", "write")


@dataclass(frozen=True)
class Progress:
    """Where a run is, after each frame.

    Attributes:
        frames: written so far, this one included.
        frame_count: how many there will be, or None where that is not known.
        fps: frames per second from the start until this frame was written.
        name: of the frame.
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
        stages_ms: the median milliseconds that a frame spends in each stage: decode (and
            whatever else the source does), segment, draw, write. Where stages overlap, they
            work on different frames at the same time, and the sum is more than `1000 / fps`.
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
    overlap: bool = True,
) -> RunReport:
    """Segment every frame of `source`; write overlays to `sink` and class maps to `masks`.

    Source and sinks are closed at the end, however it ends. Ctrl-C ends the run early, in
    good order: the sinks hold the frames so far, and the report says `interrupted`.

    With `overlap` the source is read by one thread and the sinks, `masks` and `overlay` are
    used by another, until `run` returns; `segment` and `on_frame` are called on the calling
    thread. The results are the same bytes as without, and so are the errors. A source that
    does not give its next frame within a second of the run's end is closed when it does.

    Args:
        source: open, not yet iterated.
        segment: uint8 `[H, W, 3]` BGR -> class map `[H, W]` of the same height and width,
            which may be the same array each time.
        sink: takes the overlay, or the bare picture where there is no `overlay`.
        masks: takes the class map.
        overlay, opacity: how the class map is drawn.
        on_frame: called once a frame is written, in order. With `overlap` a little later:
            up to two more frames may be written by then.
        max_frames: stop after so many; no more than these are read.
        class_names: for the report; the overlay's where they are left out.
        overlap: read up to two frames ahead and write up to two behind, while one is being
            segmented.

    Raises:
        SegdeployError: whatever source, segmenter or sinks raise; unfinished files are removed.
    """
    if class_names is None and overlay is not None:
        class_names = overlay.class_names
    steps = _Steps(sink, masks, overlay, opacity)
    tally = _Tally(class_names, source.frame_count, max_frames)

    def finish(frame: Frame, class_map: ClassMap, stages: dict[str, float]) -> Tell:
        # A frame is either written and counted, or neither.
        with uninterrupted():
            shares = tally.shares(class_map)
            stages.update(steps.run(frame, class_map, shares))
            tally.frame_done(frame, stages, shares)
        progress = tally.progress(frame, stages)
        return (lambda: None) if on_frame is None else partial(on_frame, progress)

    # With one frame there is nothing to overlap it with.
    several = source.kind != "image" and source.frame_count != 1 and max_frames != 1
    kind = Overlapped if overlap and several else InTurn
    line: Line = kind(source, max_frames, finish)
    with ExitStack() as closing:
        pressed = closing.enter_context(watched())
        # The line last: its threads are to end before what they use is closed.
        for part in (line.source, masks, sink, line):
            if part is not None:
                closing.enter_context(part)
        try:
            line.start()
            while (timed := line.next()) is not None:
                frame, decode_ms = timed
                class_map, segment_ms = _segmented(segment, frame, line)
                line.put(frame, class_map, {"decode": decode_ms, "segment": segment_ms})
                if pressed():
                    break
            interrupted = pressed()
        except KeyboardInterrupt:
            interrupted = True
        try:
            with uninterrupted():
                line.settle()
                if sink is not None:
                    sink.close()  # here, so that its time counts and its notes are complete
        except KeyboardInterrupt:
            interrupted = True  # it came while the file was being finished, and waited
    notes = list(source.notes) + (list(sink.notes) if sink is not None else [])
    return tally.report(interrupted, source.corrupt, notes)


def _segmented(
    segment: Callable[[Picture], ClassMap], frame: Frame, line: Line
) -> tuple[ClassMap, float]:
    """The class map of a frame, and the milliseconds that it took."""
    start = time.perf_counter()
    try:
        class_map = segment(frame.image)
        if class_map.shape != frame.image.shape[:2]:
            raise FrameError(
                f"a class map of {class_map.shape} for a frame of {frame.size}",
                "one class per pixel of the frame",
            )
    except Exception:
        line.settle()  # the frames before it are written, and their errors come first
        raise
    return class_map, (time.perf_counter() - start) * 1e3


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
    """Counts and times while the frames go by; used by one thread at a time."""

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
