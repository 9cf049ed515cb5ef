"""Counts and times while the frames of a run go by, and the report that they become."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.spec import FrameSize, default_class_names
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.live.spread import Spread
from segformer_deploy.video.live.stats import StreamStats
from segformer_deploy.video.overlay import ClassMap, class_shares

STAGES = ("decode", "segment", "stabilise", "draw", "write")


@dataclass(frozen=True)
class Progress:
    """Where a run is, after each frame.

    Attributes:
        frames: written so far, this one included.
        frame_count: how many there will be, or None where that is not known.
        fps: frames per second from the start until this frame was written.
        name: of the frame.
        stages_ms: milliseconds that this frame took in each stage.
        stream: which of the run's sources it is from, counted from 0.
    """

    frames: int
    frame_count: int | None
    fps: float
    name: str
    stages_ms: dict[str, float]
    stream: int = 0


@dataclass(frozen=True)
class RunReport:
    """What a run did with one source.

    Attributes:
        frames: number of frames that were finished.
        seconds, fps: wall-clock time of the run, and frames over it.
        stages_ms: the median milliseconds, within 1 %, that a frame spends in each stage: decode
            (and whatever else the source does), segment, stabilise, draw, write. Where stages
            overlap, they work on different frames at the same time, and the sum is more than
            `1000 / fps`.
        sizes: frame size ("HxW") -> number of frames of that size, in order of appearance.
        interrupted: Ctrl-C ended it; what was written is complete up to there.
        class_shares: class name -> mean share of the pixels, largest first; absent ones left out.
        corrupt: damaged or missing packets and frames of the source.
        notes: what the reader ought to know, of the source and of the sinks.
        live: drops, latency, stalls …, where the source was live.
        flicker: share of the pixels that changed class though the picture there did not, 0 to 1,
            over the whole run; None where it was not measured, or nothing held still.
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
    live: StreamStats | None = None
    flicker: float | None = None

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
            "live": None if self.live is None else self.live.to_dict(),
            "flicker": None if self.flicker is None else round(self.flicker, 6),
        }


class Tally:
    """What one source's frames took and held; used by one thread at a time.

    Its memory does not grow with the number of frames.
    """

    def __init__(
        self, class_names: Sequence[str] | None, frame_count: int | None, max_frames: int | None
    ) -> None:
        counts = [count for count in (frame_count, max_frames) if count is not None]
        self._expected = min(counts, default=None)
        self._names = class_names
        self._start = time.perf_counter()
        self._frames = 0
        self._stages = {name: Spread() for name in STAGES}
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
            self._stages[name].add(value)
        if len(shares) > len(self._shares):
            self._shares = np.pad(self._shares, (0, len(shares) - len(self._shares)))
        self._shares[: len(shares)] += shares

    def progress(self, frame: Frame, stages: dict[str, float], stream: int) -> Progress:
        fps = self._frames / max(1e-9, time.perf_counter() - self._start)
        return Progress(self._frames, self._expected, fps, frame.name, stages, stream)

    def report(
        self,
        interrupted: bool,
        corrupt: int,
        notes: list[str],
        live: StreamStats | None,
        flicker: float | None,
    ) -> RunReport:
        seconds = time.perf_counter() - self._start
        names = self._names or default_class_names(len(self._shares))
        shares = self._shares / max(1, self._frames)
        order = np.argsort(-shares, kind="stable")
        medians = {name: times.percentile(50) for name, times in self._stages.items()}
        return RunReport(
            frames=self._frames,
            seconds=seconds,
            fps=self._frames / max(1e-9, seconds),
            stages_ms={name: value for name, value in medians.items() if value is not None},
            sizes={str(size): count for size, count in self._sizes.items()},
            interrupted=interrupted,
            class_shares={names[i]: float(shares[i]) for i in order if shares[i] > 0},
            corrupt=corrupt,
            notes=notes,
            live=live,
            flicker=flicker,
        )
