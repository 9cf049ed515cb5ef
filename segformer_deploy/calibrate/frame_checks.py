"""Calibration frames -> warnings: what would spoil the ranges that are measured on them.

INT8 ranges are only as good as the frames they come from, and the usual mistakes (channels
swapped, values scaled twice, one picture over and over, noise in place of pictures) raise no
error anywhere: they show as a few points of mIoU. `FrameChecker` sees every frame once and keeps
a few kilobytes, however many there are. Swapped channels it can tell only next to evaluation
frames; `channel_order` asks the network itself. `frame_look` says where the thresholds are from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from segformer_deploy.calibrate.frame_look import FEW_LEVELS, Floats, FrameLook, look_at
from segformer_deploy.runtime.preprocess import Frame

Kind = Literal["few", "constant", "repeated", "noise", "scaled", "swapped", "unlike"]

ENOUGH = 32
"""Below this many frames, the largest value of many a tensor still grows with each frame."""

# A fault of a few frames leaves percentiles and entropy ranges where they are.
_SHARE_TOLD = 0.25
# A normalised frame that wrapped in the cast (-1 becomes 255) and was resized afterwards has all
# levels, but sits at both ends. Means over the frames of a set, as (both ends together, the lesser
# end): CamVid 0.94 and 0.32, streets 0.93 and 0.08; honest nights at most 0.45 and 0.10.
_ENDS = 0.75
_LESSER_END = 0.03

# Largest difference of two frames' 16x16 block brightness. A copy as JPEG of quality 50 or
# with noise of sigma 6 differs by 3.0 at most (median 1.5); neighbours in a drive at 30 frames/s by
# 8.7 at least, at 4.9 (median) in fog. Only a majority of such frames is told, so that
# a car that waits at a light (3.6 on CamVid) is none.
_SAME = 3.0
_MOST = 0.5
_KEPT = 64

# Frames that make a spread, and how many times the sum of both deviations is far.
_LEAST_SPREAD = 8
_DEVIATIONS = 2.0


@dataclass(frozen=True)
class FrameWarning:
    """One thing that is wrong with the frames.

    Attributes:
        message: found, expected, next step, in a sentence or two.
        frames: names of the frames meant, where single ones are ("constant": all of them).
    """

    kind: Kind
    message: str
    frames: tuple[str, ...] = ()


class _Spread:
    """Mean and variance of brightness, contrast, R-G and B-G over frames (Welford's sums)."""

    names = ("brightness", "contrast", "red - green", "blue - green")
    # In levels. CamVid's validation and test frames are 23 of brightness apart, 1.6 times the sum
    # of their deviations; day and fog 66 of brightness and 51 of contrast, the latter 5.3 times.
    floor = np.array([25.0, 15.0, 12.0, 12.0])

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(4)
        self._squares = np.zeros(4)

    def add(self, look: FrameLook) -> None:
        red, green, blue = look.blocks.mean((0, 1), dtype=np.float64)
        luma = look.luma
        values = np.array([luma.mean(), luma.std(), red - green, blue - green])
        self.count += 1
        step = values - self.mean
        self.mean += step / self.count
        self._squares += step * (values - self.mean)

    @property
    def deviation(self) -> npt.NDArray[np.float64]:
        return np.asarray(np.sqrt(self._squares / max(self.count, 1)))

    def apart(self, other: _Spread, mean: npt.NDArray[np.float64]) -> list[int]:
        """Which of the four lie far from those of `other`, were `mean` the own mean."""
        if min(self.count, other.count) < _LEAST_SPREAD:
            return []
        enough = np.maximum(self.floor, _DEVIATIONS * (self.deviation + other.deviation))
        return [int(n) for n in np.flatnonzero(np.abs(mean - other.mean) > enough)]


class FrameChecker:
    """Looks at frames as they pass and says in the end what is wrong with them.

    Keeps block means of 64 frames and the names of constant frames, nothing else that grows.
    """

    def __init__(self) -> None:
        self.count = 0
        self._constant: list[str] = []
        self._noise = 0
        self._few_levels = 0
        self._black = 0
        self._ends = np.zeros(2)
        self._pictures = 0
        self._copies = 0
        self._kept: list[Floats] = []
        self._spread = _Spread()

    def add(self, frame: Frame, name: str) -> None:
        """Look at one frame: uint8 `[h, w, 3]`, RGB, as it enters the network; not kept.

        About 2 ms at 512x512.
        """
        look = look_at(frame)
        self.count += 1
        self._ends += look.ends
        self._noise += look.noise
        self._few_levels += look.few_levels and not look.constant
        self._black += look.few_levels and look.constant
        if look.constant:
            self._constant.append(name)
        if not (look.constant or look.noise or look.few_levels):
            self._pictures += 1
            self._copies += self._was_seen(look.luma)
            self._spread.add(look)

    def warnings(self, evaluation: FrameChecker | None = None) -> list[FrameWarning]:
        """What is wrong with the frames so far.

        Args:
            evaluation: has seen the frames that the result will be judged on; adds "unlike",
                and "swapped" where only the colours are and swapping red and blue mends it.
        """
        found = [self._few(), self._constants(), self._scaled(), self._noisy(), self._repeated()]
        if evaluation is not None:
            found.append(self._unlike(evaluation))
        return [warning for warning in found if warning is not None]

    def _was_seen(self, luma: Floats) -> bool:
        """Is there a near-copy among the 64 pictures seen last? If not, keep this one."""
        if self._kept:
            largest = np.abs(np.stack(self._kept) - luma).max((1, 2))
            nearest = int(largest.argmin())
            if largest[nearest] < _SAME:
                # The least recently matched is dropped first: a copy may come late.
                self._kept.append(self._kept.pop(nearest))
                return True
        self._kept.append(luma)
        del self._kept[:-_KEPT]
        return False

    def _few(self) -> FrameWarning | None:
        if self.count >= ENOUGH:
            return None
        return FrameWarning(
            "few",
            f"{_frames(self.count)} to calibrate on; at least {ENOUGH} are wanted: "
            "add frames of other places, times and weathers",
        )

    def _constants(self) -> FrameWarning | None:
        if not self._constant:
            return None
        names = ", ".join(self._constant)
        return FrameWarning(
            "constant",
            f"{_frames(len(self._constant))} of {self.count} of one colour only: {names}; "
            "pictures are expected: leave these out",
            tuple(self._constant),
        )

    def _scaled(self) -> FrameWarning | None:
        step = (
            "give pixel values of 0 to 255: the graph normalises, so frames must be neither "
            "divided by 255 nor normalised before"
        )
        spoilt = self._few_levels + self._black
        # Black frames alone are a lens cap or a fade, unless most are.
        if self._few_levels > _SHARE_TOLD * self.count or spoilt > _MOST * self.count:
            return FrameWarning(
                "scaled",
                f"{_frames(spoilt)} of {self.count} with no more than "
                f"{FEW_LEVELS} levels of 256; {step}",
            )
        both, lesser = self._ends / max(self.count, 1)
        if both > _ENDS and lesser > _LESSER_END:
            return FrameWarning(
                "scaled",
                f"{100 * both:.0f} % of all pixel values lie at 0 or 255, as in frames that were "
                f"normalised and then cast to uint8; {step}",
            )
        return None

    def _noisy(self) -> FrameWarning | None:
        if self._noise <= _SHARE_TOLD * self.count:
            return None
        return FrameWarning(
            "noise",
            f"{_frames(self._noise)} of {self.count} like random noise; ranges of noise are not "
            "those of pictures: give frames of the camera",
        )

    def _repeated(self) -> FrameWarning | None:
        if self._copies <= _MOST * self._pictures:
            return None
        distinct = self._pictures - self._copies
        return FrameWarning(
            "repeated",
            f"{_frames(self._copies)} of {self._pictures} nearly equal to another one, so only "
            f"{distinct} count; at least {ENOUGH} different ones are wanted: "
            "take frames further apart, or of other scenes",
        )

    def _unlike(self, evaluation: FrameChecker) -> FrameWarning | None:
        own, theirs = self._spread, evaluation._spread
        apart = own.apart(theirs, own.mean)
        if not apart:
            return None
        # Red minus green and blue minus green change places with the channels.
        if min(apart) >= 2 and not own.apart(theirs, own.mean[[0, 1, 3, 2]]):
            return FrameWarning(
                "swapped",
                "the frames have the colours of the evaluation frames with red and blue "
                "swapped; RGB is expected: check the channel order of what reads them",
            )
        differences = ", ".join(
            f"{own.names[n]} {own.mean[n]:.0f} against {theirs.mean[n]:.0f}" for n in apart
        )
        return FrameWarning(
            "unlike",
            f"the frames are far from those of the evaluation (of 255 levels: {differences}); "
            "calibrate on frames of the camera, place and light of the later use",
        )


def _frames(count: int) -> str:
    return f"{count} frame{'' if count == 1 else 's'}"
