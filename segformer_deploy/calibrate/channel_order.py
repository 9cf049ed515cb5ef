"""Does the network know the frames' channel order? Calibration frames -> a warning or None.

Statistics of pixels cannot tell a red car from a blue one; a network that was trained on such
pictures is surer of its answer in the channel order that it was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.calibrate.frame_checks import FrameWarning
from segformer_deploy.runtime.preprocess import Frame

Floats = npt.NDArray[np.float32]
Run = Callable[[Frame], Floats]

MOST_ASKED = 16
"""Frames that the network is asked about; more only cost time."""

# From 200 draws of 16 frames each of CamVid's three parts and of generated streets, each with a
# B0 trained on their kind. Against swapped frames, the right order has an entropy less by 20 % at
# the least (19 % by night, 4.5 % in fog, which then stays unnoticed); honest frames lose as much
# when they are swapped, so none comes near.
_LESS_ENTROPY = 0.06
# Student's t of the paired differences: 4.5 at the least.
_LEAST_T = 3.5
_FEWEST_ASKED = 8
# Entropy as a share of that of a guess: the mean of a trained network lies at 0.06 to 0.38, that
# of random weights, whose liking for a colour means nothing, at 0.7 to 0.94 (with two classes
# from 0.42 up, so nobody should ask them).
_GUESSING = 0.5
# At this size all of the above was measured.
_ASKED_SIDE = 320


def channel_order_warning(run: Run, frames: Sequence[Frame]) -> FrameWarning | None:
    """Does the network know better what it sees once red and blue are swapped?

    Statistics of pixels cannot tell a red car from a blue one; a network that was trained on
    such pictures is surer of its answer in the order that it was trained with. The swapped
    order must win against the given one, frame by frame, and against the other four, so that a
    network that is at a loss about these frames rarely says anything (1 of 8 drives through
    generated streets, shown to a network that knows CamVid only).

    Args:
        run: the FP32 network, uint8 `[b, h, w, 3]` RGB -> logits float32 `[b, classes, h/4, w/4]`.
            Called with one frame (shrunk to 320 pixels) at a time, twice for each; six times
            where there is a suspicion. Not one of random weights.
        frames: uint8 `[h, w, 3]` RGB, as they enter the network; 16, evenly spaced, are taken.

    Returns:
        a warning of kind "swapped", or None: also with fewer than 8 frames.
    """
    if len(frames) < _FEWEST_ASKED:
        return None
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), MOST_ASKED)).round().astype(int)
    asked = [_shrunk(frames[n]) for n in chosen]

    def unsure(order: tuple[int, int, int]) -> npt.NDArray[np.float64]:
        return np.array([_unsureness(run, frame[..., order]) for frame in asked])

    given, swapped = unsure((0, 1, 2)), unsure((2, 1, 0))
    gain = given - swapped
    error = float(gain.std(ddof=1)) / math.sqrt(len(gain))
    if (
        swapped.mean() > _GUESSING
        or gain.mean() < _LESS_ENTROPY * given.mean()
        or gain.mean() < _LEAST_T * error
    ):
        return None
    others: list[tuple[int, int, int]] = [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)]
    if any(unsure(order).mean() < swapped.mean() for order in others):
        return None
    return FrameWarning(
        "swapped",
        f"the network is surer with red and blue swapped (on {int((gain > 0).sum())} of "
        f"{len(gain)} frames); RGB is expected: check the channel order of what reads the frames",
    )


def _shrunk(frame: Frame) -> Frame:
    """At most 320 pixels long, but no side under 64, the least that the network takes."""
    height, width = frame.shape[:2]
    factor = min(1.0, max(_ASKED_SIDE / max(height, width), 64 / min(height, width)))
    size = (round(width * factor), round(height * factor))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _unsureness(run: Run, frame: Frame) -> float:
    """Mean entropy of the answer, 0 (sure) to 1 (a guess)."""
    logits = np.asarray(run(np.ascontiguousarray(frame[None])), np.float32)
    shifted = logits - logits.max(1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(1)
    entropy = np.log(total) - (weights * shifted).sum(1) / total
    return float(entropy.mean() / math.log(max(logits.shape[1], 2)))
