"""Frames that a test hands over itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from segformer_deploy.calibrate.frames import FrameSet, Picture
from segformer_deploy.spec import ResizeRule
from tests.model.tiny import random_frames


class GivenFrames(FrameSet):
    """RGB pictures, which enter the network as they are."""

    origin = "a test"

    def __init__(self, *images: npt.NDArray[np.uint8]) -> None:
        super().__init__(ResizeRule("none", None))
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def _pictures(self) -> Iterator[tuple[str, Picture, Picture | None]]:
        for index, image in enumerate(self.images):
            yield f"frame {index}", image[..., ::-1], None


def some_frames(count: int = 3, height: int = 64, width: int = 96) -> GivenFrames:
    return GivenFrames(*random_frames(count, height, width, seed=11))
