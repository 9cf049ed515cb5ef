"""A folder's tiling: measured against whole frames, with the smallest overlap that will do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.session import Engine
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.tiling import MeasuredTiling, Merge, Tiling, share_of
from segformer_deploy.errors import BuildError, InputError, SpecError
from segformer_deploy.runtime.preprocess import prepare
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.runtime.tiles import Grid
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.workflow.choice import Progress, silent

if TYPE_CHECKING:
    from segformer_deploy.calibrate.frames import FrameSet

FRAMES = 8
SHARES = (0.0, 1 / 8, 1 / 4, 3 / 8, 1 / 2)
"""Overlaps to try, as shares of a tile's shorter side; each costs more windows than the last."""


@dataclass(frozen=True)
class TileRequest:
    """What was asked of tiles.

    Attributes:
        tile: of a window.
        overlap: in pixels; None: the smallest that reaches `agreement`, or the usual one.
        merge: how overlapping windows become one.
        agreement: the least percent of a whole frame's classes, on every frame that is compared.
        images: a folder or a video of frames to compare on; None takes generated streets.
    """

    tile: FrameSize
    overlap: int | None = None
    merge: Merge = "average"
    agreement: float | None = None
    images: Path | None = None

    def __post_init__(self) -> None:
        if self.agreement is not None and not 0 <= self.agreement <= 100:
            raise InputError(f"an agreement of {self.agreement} %", "0 to 100 percent")
        self.candidates()

    def candidates(self) -> tuple[Tiling, ...]:
        """From the cheapest on."""
        if self.overlap is not None or self.agreement is None:
            return (Tiling.of(self.tile, self.overlap, self.merge),)
        return tuple(Tiling(self.tile, share_of(self.tile, one), self.merge) for one in SHARES)

    def usual_window(self, picture: FrameSize) -> FrameSize:
        """The size of most windows over a picture."""
        return Grid.over(picture, self.candidates()[0]).sizes[0]

    def check(self, picture: FrameSize, allowed: SizeRange | None) -> None:
        """FrameError where a window over the picture is outside of what the engine is to take."""
        if allowed is not None:
            for one in self.candidates():
                for size in Grid.over(picture, one).sizes:
                    allowed.check(size, 1)

    def window_of(self, picture: FrameSize) -> FrameSize:
        """The one size of all windows over a picture; SpecError where there are more."""
        sizes = {size for one in self.candidates() for size in Grid.over(picture, one).sizes}
        if len(sizes) > 1:
            raise SpecError(
                f"windows of {', '.join(map(str, sorted(sizes)))} over {picture}",
                "one size, for a graph that takes no other",
                "an --opt of multiples of 4",
            )
        return sizes.pop()


def frames_for(request: TileRequest, spec: ModelSpec, gate: Path | None) -> FrameSet:
    """The frames to compare on: those named, else those that judge a precision, else streets."""
    from segformer_deploy.calibrate.frames import GATE_SEED, StreetFrames, frames_from_source

    source = request.images or gate
    if source is not None:
        return frames_from_source(source, spec.resize, FRAMES)
    return StreetFrames(FRAMES, spec.resize, GATE_SEED)


def measured_tiling(
    engine: Engine,
    spec: ModelSpec,
    request: TileRequest,
    frames: FrameSet,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> MeasuredTiling:
    """The tiling with the smallest overlap that `request` allows, measured with `engine`.

    Args:
        engine: takes whole pictures and windows, with logits.

    Raises:
        BuildError: no overlap reaches the agreement that was asked for; names the best.
    """
    tried: list[MeasuredTiling] = []
    for tiling in request.candidates():
        found = _compared(engine, spec, tiling, frames, progress)
        say(str(found))
        if request.agreement is None or found.worst >= request.agreement:
            return found
        tried.append(found)
    best = max(tried, key=lambda one: one.worst)
    raise BuildError(
        f"{best.tiling} agree with the whole frame on {best.worst:.2f} % of the pixels of the "
        f"worst of {best.frames} frames ({best.origin}): the best of {len(tried)} overlaps",
        f"at least {request.agreement:g} %",
        f"a larger --tile, --tile-agreement {int(10 * best.worst) / 10:g}, or the whole frame",
    )


def _compared(
    engine: Engine, spec: ModelSpec, tiling: Tiling, frames: FrameSet, progress: Progress
) -> MeasuredTiling:
    """Whole and by tiles in turn, so that what slows the machine slows both."""
    shares: list[float] = []
    ratios: list[float] = []
    with (
        Segmenter(engine, spec=spec, tiling=None) as whole,
        Segmenter(engine, spec=spec, tiling=tiling) as tiled,
        progress(f"comparing {tiling}", len(frames)) as advance,
    ):
        for number, frame in enumerate(frames):
            if not number:  # buffers and tables are made at the first
                whole(frame.picture), tiled(frame.picture)
            expected, whole_s = _timed(whole, frame.picture)
            found, tiled_s = _timed(tiled, frame.picture)
            shares.append(100 * float(np.mean(found == expected)))
            ratios.append(tiled_s / whole_s)
            advance(number + 1)
    return MeasuredTiling(
        tiling,
        float(np.median(shares)),
        min(shares),
        float(np.median(ratios)),
        len(shares),
        frames.origin,
    )


def _timed(
    segment: Segmenter, picture: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], float]:
    started = time.perf_counter()
    class_map = segment(picture)
    return class_map, time.perf_counter() - started


def network_inputs(
    frame: npt.NDArray[np.uint8], spec: ModelSpec, tiling: Tiling | None
) -> list[npt.NDArray[np.uint8]]:
    """What the network sees of a frame, uint8 RGB `[h, w, 3]`: the whole, or every window."""
    picture = prepare(frame, spec.resize)
    if tiling is None:
        return [picture]
    grid = Grid.over(FrameSize(*picture.shape[:2]), tiling)
    return [picture[row.pixels, column.pixels] for row in grid.rows for column in grid.columns]
