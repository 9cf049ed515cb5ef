"""Flicker: the share of pixels that change class where nothing else changes.

For two frames of a video, one after the other::

    score = pixels that hold still and change class / pixels that hold still

A pixel holds still where its label stays the same (`flicker_against_labels`), or, where there
are no labels, where the picture does (`flicker_against_picture`). 0 is a class map that never
flickers, 1 one that always does; None says that no pixel held still, which is not 0.

Neither score follows motion: of a moving border, the pixels that it passes do not count, but
those beside it, where the class map is a little off, do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import FrameError
from segformer_deploy.video.frame import Picture
from segformer_deploy.video.overlay import ClassMap

Levels = npt.NDArray[Any]

BLUR = 5
"""Pixels: side of the box over which pictures are averaged before they are compared."""
THRESHOLD = 6
"""Grey levels. Averaged over a box of 25 pixels, a camera's noise seldom reaches it."""
UNLABELLED = 255


def flicker_against_labels(
    before: ClassMap,
    after: ClassMap,
    label_before: ClassMap,
    label_after: ClassMap,
    *,
    ignore: int | None = UNLABELLED,
) -> float | None:
    """The share of the pixels with an unchanged label whose class changes.

    Args:
        before, after: class maps of two frames in a row, integers `[H, W]`.
        label_before, label_after: the truth for them, integers `[H, W]`.
        ignore: pixels that have this label do not count; None: all do.

    Returns:
        0 to 1; None where no label stays the same.

    Raises:
        FrameError: the four differ in shape.
    """
    _check([before, after, label_before, label_after])
    still = label_before == label_after
    if ignore is not None:
        still &= label_after != ignore
    return _share(*still_and_changed(before, after, still))


def flicker_against_picture(
    before: ClassMap,
    after: ClassMap,
    picture_before: Picture,
    picture_after: Picture,
    threshold: int = THRESHOLD,
) -> float | None:
    """The share of the pixels with an unchanged picture whose class changes.

    The picture is unchanged at a pixel where both pictures, averaged over `BLUR` x `BLUR`
    pixels around it (reflected at the border, rounded to whole levels), differ by at most
    `threshold` in each channel.

    Args:
        before, after: class maps of two frames in a row, integers `[H, W]`.
        picture_before, picture_after: uint8 `[H, W, 3]`.
        threshold: grey levels, 0..255.

    Returns:
        0 to 1; None where the picture changes everywhere.

    Raises:
        FrameError: sizes differ.
    """
    _check([before, after], [picture_before, picture_after])
    smooth = [cv2.blur(one, (BLUR, BLUR)) for one in (picture_before, picture_after)]
    still = _still(smooth[0], smooth[1], threshold)
    return _share(*still_and_changed(before, after, still))


class FlickerMeter:
    """The flicker of a running video against its own picture, over the last frames.

    It looks at one pixel in `step` x `step`, and compares the averages of those boxes instead
    of `BLUR`: 0.3 ms for a frame of 512x512. One video, one thread at a time.

    Args:
        frames: pairs of frames that `score` looks back on, at least 1.
        threshold: as for `flicker_against_picture`.
        step: pixels, at least 1.

    Raises:
        ValueError: a value below those.
    """

    def __init__(self, frames: int = 30, threshold: int = THRESHOLD, step: int = 4) -> None:
        if frames < 1 or step < 1 or threshold < 0:
            raise ValueError(f"frames={frames}, threshold={threshold}, step={step}: 1, 0, 1 up")
        self._threshold, self._step = threshold, step
        self._counts: deque[tuple[int, int]] = deque(maxlen=frames)
        self._changed = self._still = 0
        self._before: tuple[Levels, ClassMap] | None = None

    def __call__(self, picture: Picture, class_map: ClassMap) -> float | None:
        """Take the next frame; the score as it is now.

        A frame of another size begins a pair anew, without forgetting the score. Neither array
        is kept or changed.

        Args:
            picture: uint8 `[H, W, 3]`.
            class_map: integers `[H, W]`.

        Raises:
            FrameError: sizes differ.
        """
        _check([class_map], [picture])
        height, width = (-(-side // self._step) for side in class_map.shape)
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        # The middle of each box; the last box of a row or column may be cut off.
        first = self._step // 2
        rows = np.minimum(np.arange(height) * self._step + first, class_map.shape[0] - 1)
        columns = np.minimum(np.arange(width) * self._step + first, class_map.shape[1] - 1)
        classes = class_map[rows[:, None], columns]
        before, self._before = self._before, (small, classes)
        if before is not None and before[1].shape == classes.shape:
            still = _still(before[0], small, self._threshold)
            counts = still_and_changed(before[1], classes, still)
            self._counts.append(counts)
            self._still, self._changed = self._still + counts[0], self._changed + counts[1]
        return self.score

    @property
    def score(self) -> float | None:
        """0 to 1, over all pixels of the last frames together; None where none held still."""
        return _share(
            sum(still for still, _ in self._counts), sum(changed for _, changed in self._counts)
        )

    @property
    def overall(self) -> float | None:
        """The score over all frames since the beginning or the last `reset`."""
        return _share(self._still, self._changed)

    def reset(self) -> None:
        """Forget everything, as after a cut."""
        self._before = None
        self._counts.clear()
        self._changed = self._still = 0


def _still(before: Levels, after: Levels, threshold: int) -> npt.NDArray[np.bool_]:
    apart = cv2.absdiff(before, after)
    blue, green, red = apart[..., 0], apart[..., 1], apart[..., 2]
    return np.asarray(np.maximum(np.maximum(blue, green), red) <= threshold)


def still_and_changed(
    before: ClassMap, after: ClassMap, still: npt.NDArray[np.bool_]
) -> tuple[int, int]:
    """How many pixels hold still, and how many of them change class; all arrays `[H, W]`."""
    return int(np.count_nonzero(still)), int(np.count_nonzero((before != after) & still))


def _share(still: int, changed: int) -> float | None:
    return changed / still if still else None


def _check(maps: Sequence[ClassMap], pictures: Sequence[Picture] = ()) -> None:
    size = maps[0].shape
    right = len(size) == 2 and all(one.shape == size for one in maps)
    if not right or any(one.shape != (*size, 3) for one in pictures):
        raise FrameError(
            f"arrays of {[list(one.shape) for one in (*maps, *pictures)]} for one video",
            "class maps and labels [height, width], pictures [height, width, 3]",
        )
