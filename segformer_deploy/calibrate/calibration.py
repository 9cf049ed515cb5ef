"""Graph + frames -> Ranges, in two passes over the frames.

The first takes the largest magnitudes, per channel where ranges can be made even; the second
counts magnitudes, equalised where that pays, in histograms whose limits are known by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnx

from segformer_deploy.calibrate.frame_checks import FrameChecker
from segformer_deploy.calibrate.frames import FrameSet
from segformer_deploy.calibrate.histograms import ChannelMaxima, Histogram
from segformer_deploy.calibrate.observe import Observer
from segformer_deploy.calibrate.ranges import Ranges
from segformer_deploy.calibrate.thresholds import (
    DEFAULT_PERCENTILE,
    Method,
    threshold_from_histogram,
)
from segformer_deploy.errors import InputError, MediaError
from segformer_deploy.files import sha256_of_file
from segformer_deploy.graph.equalise import ChannelStatistics, even_scales, knobs_of
from segformer_deploy.graph.insert_qdq import quantised_values
from segformer_deploy.graph.metadata import fp32_spec
from segformer_deploy.spec import FrameSize

DEFAULT_METHOD: Method = "percentile"
DEFAULT_SAMPLES = 200


@dataclass(frozen=True)
class CalibrationOptions:
    """How ranges are found.

    Attributes:
        method: ``minmax`` holds all that was seen, ``percentile`` all but a few outliers,
            ``entropy`` what loses least information.
        percentile: of all values, in percent; for the method of that name.
        equalise: make the channels' ranges even first; exact, see `graph.equalise`.
    """

    method: Method = DEFAULT_METHOD
    percentile: float = DEFAULT_PERCENTILE
    equalise: bool = True

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"method '{self.method}'", "one of " + ", ".join(get_args(Method)))
        if not 50 <= self.percentile <= 100:
            raise InputError(f"percentile {self.percentile}", "50 to 100 percent")


def calibrate(
    onnx_file: Path,
    frames: FrameSet,
    options: CalibrationOptions | None = None,
    *,
    on_frame: Callable[[int], None] | None = None,
    checker: FrameChecker | None = None,
) -> Ranges:
    """The ranges of the FP32 graph in `onnx_file` on `frames`.

    Args:
        on_frame: called with the frames done, which goes to twice their number (once for minmax).
        checker: sees each frame once; its warnings are the caller's to ask for.

    Raises:
        OnnxFileError: not an exported FP32 graph with logits.
        MediaError: a frame that does not read, or none.
        VerificationError: NaN inside the graph.
    """
    options = options or CalibrationOptions()
    model = onnx.load(onnx_file)
    fp32_spec(model)
    names = quantised_values(model)
    progress = _Progress(on_frame)
    maxima, hashes, size = _first_pass(model, names, frames, options, progress, checker)
    scales = even_scales(model, _statistics(maxima)) if options.equalise else {}
    limits = {
        name: float((maxima.channels[name] / scales[name]).max())
        if name in scales
        else maxima.largest[name]
        for name in names
    }
    histograms = {name: Histogram(limit) for name, limit in limits.items()}
    if options.method != "minmax":
        observe = Observer(model, names, size)
        for frame in frames:
            for name, value in observe(frame.image):
                # What the equalised graph's norm would give.
                histograms[name].add(value / scales[name] if name in scales else value)
            progress.step()
    return Ranges(
        graph_sha256=sha256_of_file(onnx_file),
        method=options.method,
        percentile=options.percentile,
        network=str(size),
        origin=frames.origin,
        frames=hashes,
        equalisation={name: tuple(float(s) for s in scale) for name, scale in scales.items()},
        ranges={
            name: threshold_from_histogram(histogram, options.method, options.percentile)
            for name, histogram in histograms.items()
        },
        largest=limits,
        equalise=options.equalise,
    )


class _Progress:
    def __init__(self, on_frame: Callable[[int], None] | None) -> None:
        self._on_frame = on_frame
        self._done = 0

    def step(self) -> None:
        self._done += 1
        if self._on_frame is not None:
            self._on_frame(self._done)


def _statistics(maxima: ChannelMaxima) -> dict[str, ChannelStatistics]:
    return {
        name: ChannelStatistics(largest, maxima.powers[name] / maxima.counts[name])
        for name, largest in maxima.channels.items()
    }


def _first_pass(
    model: onnx.ModelProto,
    names: tuple[str, ...],
    frames: FrameSet,
    options: CalibrationOptions,
    progress: _Progress,
    checker: FrameChecker | None,
) -> tuple[ChannelMaxima, tuple[str, ...], FrameSize]:
    """Maxima, the frames' hashes, and the size of the first."""
    norms = frozenset(knob.norm for knob in knobs_of(model)) if options.equalise else frozenset()
    maxima = ChannelMaxima(norms)
    observe: Observer | None = None
    hashes = []
    for frame in frames:
        size = FrameSize(*frame.image.shape[:2])
        if observe is None:
            first = size
            observe = Observer(model, names, size)
        for name, value in observe(frame.image):
            maxima.add(name, value)
        hashes.append(frame.sha256)
        if checker is not None:
            checker.add(frame.image, frame.name)
        progress.step()
    if observe is None:
        raise MediaError("there are no frames to calibrate on", "at least one, better 32 and more")
    return maxima, tuple(hashes), first
