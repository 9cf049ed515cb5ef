"""Which nodes FP16 cannot hold: a report on every value of a graph, on frames that were run.

A node stays in FP32 where something it writes, or a weight it reads, would overflow FP16 or lose
so much to underflow that the rounding is no longer FP16's own. Everything else is cast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from segformer_deploy.calibrate.frames import FrameSet
from segformer_deploy.calibrate.histograms import sample_of
from segformer_deploy.calibrate.observe import Observer
from segformer_deploy.errors import MediaError
from segformer_deploy.graph.metadata import values_of_type
from segformer_deploy.spec import FrameSize

LARGEST = float(np.finfo(np.float16).max)
HEADROOM = 4.0
"""Frames that were not run may reach further than those that were."""
WORST_ROUNDING = 2.0**-10
"""Of a value's root mean square. Values in FP16's normal range lose about 2^-12.3 of it."""
DEFAULT_FRAMES = 8


@dataclass(frozen=True)
class ValueRange:
    """What was seen of one value, and what FP16 would do to it.

    Attributes:
        largest: magnitude.
        smallest: magnitude above 0; 0 where there is none.
        flushed: share of the values other than 0 that FP16 makes 0.
        rounding: root mean square of what rounding to FP16 changes, over that of the value.
    """

    largest: float
    smallest: float
    flushed: float
    rounding: float

    def objection(self) -> str | None:
        """Why it must stay in FP32; None where FP16 holds it."""
        if self.largest * HEADROOM > LARGEST:
            return f"reaches {self.largest:.3g}, within {HEADROOM:g} times of FP16's largest"
        if self.rounding > WORST_ROUNDING:
            return (
                f"loses {self.rounding:.1e} of its strength to underflow "
                f"({100 * self.flushed:.1f} % of the values become 0)"
            )
        return None


@dataclass(frozen=True)
class RangeReport:
    """`ValueRange` of every float value and weight of a graph, on `frames` frames."""

    frames: int
    origin: str
    values: Mapping[str, ValueRange]
    weights: Mapping[str, ValueRange]

    def to_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "origin": self.origin,
            "values": {name: asdict(seen) for name, seen in self.values.items()},
            "weights": {name: asdict(seen) for name, seen in self.weights.items()},
        }


class _Seen:
    """Sums over what was seen of one value."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.smallest = np.inf
        self.count = self.flushed = 0
        self.power = self.lost = 0.0

    def add(self, value: npt.NDArray[np.float32]) -> None:
        self.largest = max(self.largest, float(value.max()), -float(value.min()))
        # Overflow is sought everywhere, underflow in a sample: it befalls whole values.
        flat = np.abs(sample_of(value))
        with np.errstate(over="ignore"):
            half = flat.astype(np.float16).astype(np.float32)
        nonzero = flat > 0
        self.count += int(np.count_nonzero(nonzero))
        self.flushed += int(np.count_nonzero(nonzero & (half == 0)))
        smallest = float(flat.min(initial=np.inf, where=nonzero))
        self.smallest = min(self.smallest, smallest)
        difference = np.where(np.isfinite(half), half - flat, 0)
        # In FP64: the squares of what FP16 makes 0 may vanish in FP32 too.
        self.power += float(np.sum(np.square(flat, dtype=np.float64)))
        self.lost += float(np.sum(np.square(difference, dtype=np.float64)))

    def range(self) -> ValueRange:
        return ValueRange(
            self.largest,
            float(self.smallest) if np.isfinite(self.smallest) else 0.0,
            self.flushed / self.count if self.count else 0.0,
            float(np.sqrt(self.lost / self.power)) if self.power else 0.0,
        )


def range_report(
    model: onnx.ModelProto,
    frames: FrameSet,
    limit: int = DEFAULT_FRAMES,
    on_frame: Callable[[int], None] | None = None,
) -> RangeReport:
    """Run the FP32 graph `model` on the first `limit` frames and look at every float value.

    Raises MediaError without frames, VerificationError at NaN.
    """
    seen: dict[str, _Seen] = {}
    observe: Observer | None = None
    done = 0
    for frame in frames:
        if done == limit:
            break
        size = FrameSize(*frame.image.shape[:2])
        observe = observe or Observer(model, values_of_type(model, TensorProto.FLOAT), size)
        for name, value in observe(frame.image):
            seen.setdefault(name, _Seen()).add(value)
        done += 1
        if on_frame is not None:
            on_frame(done)
    if not done:
        raise MediaError("there are no frames to look at", "at least one frame")
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            weights[tensor.name] = _Seen()
            weights[tensor.name].add(numpy_helper.to_array(tensor))
    return RangeReport(
        done,
        frames.origin,
        {name: values.range() for name, values in seen.items()},
        {name: values.range() for name, values in weights.items()},
    )


def islands_from_report(model: onnx.ModelProto, report: RangeReport) -> dict[str, str]:
    """Node -> why it stays in FP32."""
    found = {}
    for node in model.graph.node:
        for name in (*node.output, *node.input):
            # Also what it reads: at the island's border that would be cast to FP16.
            seen = report.values.get(name) or report.weights.get(name)
            reason = seen.objection() if seen else None
            if reason:
                found[node.name] = f"{name} {reason}"
                break
    return found
