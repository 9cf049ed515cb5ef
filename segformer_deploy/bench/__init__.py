"""Measurements on the edge side: how fast, how much memory, how right.

`latency` and `memory` measure the run, `accuracy` and `boundary` score class maps against
label pictures, `compare` sets one engine's class maps against another's. Each function takes
any callable ``segment(frame) -> class_map`` and returns a frozen dataclass with `to_dict()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segformer_deploy.spec import ModelSpec

Frame = npt.NDArray[np.uint8]
ClassMap = npt.NDArray[Any]
ReadImage = Callable[[Path], Frame]
OnImage = Callable[[int], object]
"""Called after each image with the number of images done."""


class Segment(Protocol):
    """What accuracy and comparison need: a frame in, its class map out.

    The frame is uint8 `[H, W, 3]` BGR, the class map `[H, W]` of class indices.
    """

    def __call__(self, frame: Frame, /) -> ClassMap: ...


class TimedSegment(Protocol):
    """A `Segment` that also tells how long the stages of its last call took, in ms."""

    @property
    def last_stages_ms(self) -> Mapping[str, float]: ...

    def __call__(self, frame: Frame, /) -> ClassMap: ...


class SegmentWithSpec(Protocol):
    """A `Segment` that knows its classes."""

    @property
    def spec(self) -> ModelSpec: ...

    def __call__(self, frame: Frame, /) -> ClassMap: ...


def read_frame(path: Path) -> Frame:
    """The still picture at `path` as uint8 `[H, W, 3]` BGR; MediaError where it does not read."""
    from segformer_deploy.video.images import read_image

    return read_image(path)


__all__ = [
    "ClassMap",
    "Frame",
    "OnImage",
    "ReadImage",
    "Segment",
    "SegmentWithSpec",
    "TimedSegment",
    "read_frame",
]
