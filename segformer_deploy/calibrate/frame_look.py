"""One frame -> what is worth keeping of it: block means, and which faults it shows by itself.

The thresholds are from CamVid (367 training, 101 validation and 62 test frames, by day and dusk)
and 100 generated streets, each as it is, darkened by a gamma of 2.5 and as in fog (contrast
x0.2), against the same frames with the fault; next to each stand the closest values of both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.runtime.preprocess import Frame

Floats = npt.NDArray[np.float32]

_GRID = 16
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# Levels that make up 99.9 % of a frame: at most 6 once it is scaled to 0..1 or normalised and
# cast, at least 30 in an honest one (13 at a contrast of x0.08).
FEW_LEVELS = 8
_END_LEVELS = 3

# Share of a frame's variance that is left in the means of its 16x16 blocks. White noise leaves one
# part in the pixels of a block, as JPEG up to 1.9 (0.002 at 512x512, 0.10 at 64x64), enlarged from
# 224 pixels to 512 0.012; pictures 0.18 at the least (streets in fog with sensor noise; 0.43 at
# 64x64).
_NOISE_FINE = 0.02
_NOISE_PIXELS = 2.5
# Noise that was enlarged (64 pixels to 512) leaves 0.04 of 8x8 blocks, pictures 0.12; a picture of
# gravel may leave less, but its channels go together (0.8) where those of noise do not (0.06).
_NOISE_COARSE = 0.06
_NOISE_CORRELATION = 0.3


@dataclass(frozen=True)
class FrameLook:
    """What is kept of one frame.

    Attributes:
        blocks: float32 `[16, 16, 3]`, mean colours of its blocks.
        constant: one colour only, give or take a level.
        few_levels: eight levels make it up; true of constant frames only where they are black.
        ends: shares of its values within 3 levels of 0 and of 255: both together, the lesser.
        noise: like random noise.
    """

    blocks: Floats
    constant: bool
    few_levels: bool
    ends: tuple[float, float]
    noise: bool

    @property
    def luma(self) -> Floats:
        """Brightness of the blocks, float32 `[16, 16]`."""
        return np.asarray(self.blocks @ _LUMA, np.float32)


def look_at(frame: Frame) -> FrameLook:
    """Look at a frame, uint8 `[h, w, 3]` RGB, of any size."""
    height, width = frame.shape[:2]
    flat = np.ascontiguousarray(frame).reshape(height, width * 3)
    levels = cv2.calcHist([flat], [0], None, [256], [0, 256]).ravel() / flat.size
    low, high = float(levels[:_END_LEVELS].sum()), float(levels[-_END_LEVELS:].sum())
    occupied = np.flatnonzero(levels)
    deviation = cv2.meanStdDev(flat.reshape(height, width, 3))[1].ravel()
    # A picture scaled to 0..1 is no constant one, though it spreads less than a level.
    constant = bool(deviation.max() < 1 and (deviation.max() == 0 or occupied[-1] > _END_LEVELS))
    few = bool(np.sort(levels)[-FEW_LEVELS:].sum() >= 0.999)
    shrunk = cv2.resize(frame.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    blocks = np.asarray(shrunk, np.float32)
    return FrameLook(
        blocks,
        constant,
        # One black frame is constant; many are what a division by 255 leaves.
        few and (not constant or occupied[-1] <= _END_LEVELS),
        (low + high, min(low, high)),
        not (constant or few) and _is_noise(frame, blocks, float((deviation**2).sum())),
    )


def _is_noise(frame: Frame, blocks: Floats, variance: float) -> bool:
    pixels_per_block = frame.shape[0] * frame.shape[1] / _GRID**2
    fine = max(_NOISE_FINE, _NOISE_PIXELS / pixels_per_block)
    if blocks.var((0, 1)).sum() < fine * variance:
        return True
    coarse = blocks.reshape(_GRID // 2, 2, _GRID // 2, 2, 3).mean((1, 3))
    if coarse.var((0, 1)).sum() > _NOISE_COARSE * variance:
        return False
    # Every fourth pixel of every fourth row is enough for a correlation.
    pixels = frame[::4, ::4].reshape(-1, 3).astype(np.float32)
    pixels -= pixels.mean(0)
    covariance = pixels.T @ pixels / len(pixels)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-6))
    correlation = (covariance / np.outer(deviation, deviation))[np.triu_indices(3, 1)]
    return bool(correlation.mean() < _NOISE_CORRELATION)
