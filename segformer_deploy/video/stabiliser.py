"""Class maps that hold still: evidence over time, moved along with the picture.

::

    picture ──> small green channel ──> optical flow ──> motion ─┐
                                            └──> a cut? ── yes ──> begin anew
    class map, picture, ── of this frame and the one before ─────┴──> vote ──> class map

It sees only pictures and class maps, so it works behind every engine. The vote, and why it
sharpens borders as well: runtime/kernels/stabilise.c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.runtime import stabilise
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Picture
from segformer_deploy.video.overlay import ClassMap

Grid = npt.NDArray[Any]
"""One element per cell of the small picture."""

_cv2 = cast(Any, cv2)
"""For what OpenCV's own stubs do not know."""
_GRID = 64
"""Cells along the side of a square picture: a flow of 0.4 ms."""
_SMALLEST_GRID = 16
"""OpenCV's flow refuses pictures smaller than 12 pixels a side."""


@dataclass(frozen=True)
class StabiliserSettings:
    """How a `Stabiliser` weighs the present and the past.

    Attributes:
        reach: 1..255 grey levels: pixels around whose colour differs by as much in one channel
            have no vote. Above the camera's noise, below the contrast of what is to be told
            apart.
        past: 0..15: weight of the class map shown before, in sixteenths of the new one's.
        trust: 0..16: added to `past` for each frame that has confirmed the pixel's class.
        most_evidence: 1..255: frames that can be gathered as evidence. Together these three
            set `delay`.
        cut_difference: 0..255 grey levels, and
        cut_share: 0..1: where more than this share of the picture differs by more than that
            from the picture before, moved along, there was a cut.

    Raises:
        SpecError: a value beyond its range.
    """

    reach: int = 24
    past: int = 15
    trust: int = 2
    most_evidence: int = 4
    cut_difference: int = 24
    cut_share: float = 0.3

    def __post_init__(self) -> None:
        ranges = {
            "reach": (1, 255),
            "past": (0, stabilise.PRESENT - 1),
            "trust": (0, 16),
            "most_evidence": (1, 255),
            "cut_difference": (0, 255),
            "cut_share": (0, 1),
        }
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), ranges[field.name]
            if not low <= value <= high:
                raise SpecError(f"{field.name}={value}", f"{low}..{high}")

    @property
    def delay(self) -> int:
        """Frames for which a class that is new to a large still area is held back, at most."""
        if self.past + self.trust * self.most_evidence < stabilise.PRESENT:
            return 0
        if not self.trust:
            return self.most_evidence
        enough = max(0, math.ceil((stabilise.PRESENT - self.past) / self.trust))
        return self.most_evidence - enough + 1


class Stabiliser:
    """Steadies the class maps of one video; one stream, one thread at a time.

    Args:
        settings: see there.
        threads: the most to use for the vote; None takes the cores of this process. (The
            optical flow runs on as many as OpenCV has been told.)

    Attributes:
        resets: how often it has begun anew: after cuts, motion beyond what the flow follows,
            and changes of the size or of the class maps' type. The first frame is none, nor is
            a call of `reset`.
    """

    def __init__(
        self, settings: StabiliserSettings | None = None, *, threads: int | None = 1
    ) -> None:
        self.settings = settings or StabiliserSettings()
        self.resets = 0
        one = self.settings
        self._voting = stabilise.Voting(one.reach, one.past, one.trust, one.most_evidence)
        self._threads = threads
        self._flow = _Flow()
        self._shown: stabilise.Frame | None = None
        self._spare: stabilise.Frame | None = None
        self._scratch: ClassMap | None = None

    def __call__(self, picture: Picture, class_map: ClassMap) -> ClassMap:
        """The class map to show for the picture.

        Args:
            picture: uint8 `[H, W, 3]` BGR.
            class_map: uint8 or int32 `[H, W]`; left as it is.

        Returns:
            A fresh array of the class map's type and shape, equal to it on the first frame and
            after a reset, and wherever a side has fewer than 16 pixels. It is read-only, since
            the next frame is compared with it; nobody touches it again.

        Raises:
            FrameError: arrays of other types or shapes.
        """
        _check(picture, class_map)
        size = FrameSize(*class_map.shape)
        if min(class_map.shape) < stabilise.SMALLEST_SIDE:
            self.reset()
            return _read_only(class_map.copy())
        if self._shown is not None and (
            self._shown.class_map.shape != class_map.shape
            or self._shown.class_map.dtype != class_map.dtype
        ):
            self.reset()
            self.resets += 1
        given = self._given(picture, class_map)
        followed = self._flow.follow(given.planes[1], size)
        before = self._shown
        if before is None or followed is None:
            self._shown = _begun(given)
        elif followed.lost_share(self.settings.cut_difference) > self.settings.cut_share:
            self.resets += 1
            self._shown = _begun(given)
        else:
            self._shown = self._voted(given, before, followed.motion(size))
        # Its planes and evidence are of the right size, and nobody needs them any more.
        self._spare = before
        return _read_only(self._shown.class_map)

    def reset(self) -> None:
        """Forget all frames: the next one is given back as it is."""
        self._shown = self._spare = self._scratch = None
        self._flow = _Flow()

    def _given(self, picture: Picture, class_map: ClassMap) -> stabilise.Frame:
        """The frame's arrays; evidence there is none yet, only room for it."""
        spare = self._spare
        if spare is None:
            planes = np.empty((3, *class_map.shape), np.uint8)
            evidence = np.empty(class_map.shape, np.uint8)
        else:
            planes, evidence = spare.planes, spare.evidence
        cv2.split(np.ascontiguousarray(picture), [planes[0], planes[1], planes[2]])
        return stabilise.Frame(planes, np.ascontiguousarray(class_map), evidence)

    def _voted(
        self, given: stabilise.Frame, before: stabilise.Frame, motion: npt.NDArray[np.int16]
    ) -> stabilise.Frame:
        if self._scratch is None:
            self._scratch = np.empty_like(given.class_map)
        out = stabilise.Frame(given.planes, np.empty_like(given.class_map), given.evidence)
        stabilise.stabilise(
            *(given, before, motion, self._flow.cell, self._voting, self._scratch, out),
            threads=self._threads,
        )
        return out


@dataclass(frozen=True, eq=False)
class _Followed:
    """What became of one picture in the next.

    Attributes:
        flow: float32 `[h, w, 2]`: where each cell's content lay before, (x, y) in cells from
            where it lies now.
        apart: uint8 `[h, w]`: grey levels between the picture and the one before, moved along.
    """

    flow: Grid
    apart: Grid

    def lost_share(self, difference: int) -> float:
        """The share of the picture that the one before does not explain."""
        lost = cv2.threshold(self.apart, difference, 255, cv2.THRESH_BINARY)[1]
        return float(cv2.countNonZero(lost) / self.apart.size)

    def motion(self, size: FrameSize) -> npt.NDArray[np.int16]:
        """The flow in whole pixels of the picture."""
        height, width = self.apart.shape
        scale = np.array([size.width / width, size.height / height, 0.0, 0.0])
        # Rounded to the nearest. What the type cannot hold lies far outside the picture, and
        # whatever it becomes is no harm: each source is checked.
        return cast("npt.NDArray[np.int16]", cv2.multiply(self.flow, scale, dtype=cv2.CV_16S))


class _Flow:
    """Optical flow between small pictures; keeps the one before.

    Attributes:
        cell: pixels of the picture, in both directions, that share a motion.
    """

    def __init__(self) -> None:
        self.cell = 0
        # Per instance: OpenCV's object keeps its buffers, so two threads may not share it.
        self._dis = _cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        # As it comes it stops at a quarter of the picture that it is given, which is too coarse
        # for poles and people.
        self._dis.setFinestScale(0)
        # Half the work, and hardly another answer.
        self._dis.setPatchStride(5)
        self._dis.setGradientDescentIterations(6)
        self._small: Grid | None = None
        self._here: Grid = np.empty((0, 0, 2), np.float32)

    def follow(self, green: Grid, size: FrameSize) -> _Followed | None:
        """The next picture against the one before; None for the first.

        Args:
            green: the channel that looks most like the grey picture, uint8 `[H, W]`.
        """
        before = self._small
        if before is None:
            self._begin(size)
        height, width = self._here.shape[:2]
        self._small = small = cv2.resize(green, (width, height), interpolation=cv2.INTER_AREA)
        if before is None:
            return None
        flow = self._dis.calc(small, before, None)
        # Beyond the border the nearest pixel stands in: a turning camera is no cut.
        guess = _cv2.remap(
            *(before, cv2.add(flow, self._here), None, cv2.INTER_LINEAR),
            borderMode=cv2.BORDER_REPLICATE,
        )
        return _Followed(flow, cv2.absdiff(small, guess))

    def _begin(self, size: FrameSize) -> None:
        largest = min(size.height, size.width) // _SMALLEST_GRID
        self.cell = max(1, min(round(math.sqrt(size.pixels) / _GRID), largest))
        height, width = -(-size.height // self.cell), -(-size.width // self.cell)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        self._here = np.ascontiguousarray(np.stack([x, y], axis=-1))


def _check(picture: npt.NDArray[Any], class_map: npt.NDArray[Any]) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise FrameError(
            f"a picture of {picture.dtype} {list(picture.shape)}", "uint8 [height, width, 3], BGR"
        )
    if class_map.dtype not in (np.uint8, np.int32) or class_map.shape != picture.shape[:2]:
        raise FrameError(
            f"a class map of {class_map.dtype} {list(class_map.shape)} "
            f"for a picture of {list(picture.shape[:2])}",
            "uint8 or int32, one class per pixel of the picture",
        )


def _begun(given: stabilise.Frame) -> stabilise.Frame:
    """A frame that stands for itself: one piece of evidence everywhere."""
    given.evidence.fill(1)
    return stabilise.Frame(given.planes, given.class_map.copy(), given.evidence)


def _read_only(class_map: ClassMap) -> ClassMap:
    class_map.flags.writeable = False
    return class_map
