"""What a caller hands a segmenter: one frame or a list, and the one size at which all enter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import FrameError
from segformer_deploy.spec import FrameSize, ResizeRule

Frame = npt.NDArray[np.uint8]
Confidence = npt.NDArray[np.float32]


def frames_of(given: object, *, on_device: bool) -> tuple[list[Frame], bool]:
    """(the frames, whether a single one was given); FrameError where it is neither.

    Args:
        on_device: the frame lies in device memory, and is one.
    """
    if on_device:
        return [cast("Frame", given)], True
    if not isinstance(given, (np.ndarray, list, tuple)):
        raise FrameError(
            f"a frame of type {type(given).__name__}",
            "a NumPy array, uint8 [height, width, 3], or a list of them",
            "check that the frame was read: cv2.imread gives None for a missing file",
        )
    if isinstance(given, np.ndarray) and given.ndim != 4:
        return [given], True
    return list(cast("Sequence[Frame]", given)), False


def size_of(frame: Frame) -> FrameSize:
    """Of a frame in host memory; FrameError where it has none."""
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or 0 in frame.shape:
        shape = getattr(frame, "shape", None)
        raise FrameError(
            f"a frame of type {type(frame).__name__}" + (f" and shape {shape}" if shape else ""),
            "a NumPy array, uint8 [height, width, 3]",
        )
    return FrameSize(frame.shape[0], frame.shape[1])


def one_network_size(
    frames: Sequence[FrameSize], rule: ResizeRule, allowed: SizeRange | None
) -> FrameSize:
    """At which frames of these sizes enter the network as one batch.

    Args:
        allowed: the sizes that the engine takes; None where it takes any.

    Raises FrameError where they do not enter at one size, or may not at theirs.
    """
    sizes = {rule.network_size(frame) for frame in frames}
    if len(sizes) > 1:
        raise FrameError(
            "a list of frames that enter the network at different sizes: "
            + ", ".join(sorted(map(str, sizes))),
            "one network size per list",
            "call once per size, or give Segmenter a size",
        )
    (size,) = sizes
    if allowed is not None:
        allowed.check(size, len(frames))
    return size
