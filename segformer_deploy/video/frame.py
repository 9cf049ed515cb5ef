"""The border between what is read and what is written: `Frame`, and `Source` that gives them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize

Picture = npt.NDArray[np.uint8]
SourceKind = Literal["video", "images", "image", "stream"]

LARGEST_PICTURE = 100_000_000
"""Pixels. A header of a few bytes can claim any size; above this nothing is decoded."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source, as a viewer is meant to see it.

    Attributes:
        image: uint8 `[H, W, 3]`, BGR, upright, with square pixels. It belongs to the frame:
            the source does not touch it again.
        index: 0, 1, 2 … in display order.
        time_s: the time that the file gives it, in seconds; None for stills.
        name: of the still's file, or the index with leading zeros: how results are named.
        pts, time_base: the same time exactly, `pts * time_base` seconds; None for stills and
            where the file gives none.
        duration: how long it is shown, in units of `time_base`; None where unknown.
        captured_s: when it reached this process, `time.monotonic()` seconds; None where nobody
            waits for it (files).
    """

    image: Picture
    index: int
    time_s: float | None
    name: str
    pts: int | None = None
    time_base: Fraction | None = None
    duration: int | None = None
    captured_s: float | None = None

    @property
    def size(self) -> FrameSize:
        return FrameSize(int(self.image.shape[0]), int(self.image.shape[1]))


class Source(ABC):
    """Frames from a file or folder: a context manager, iterable, one iteration at a time.

    Each iteration starts at the first frame.

    Attributes:
        kind: ``video``, ``images`` (a folder), ``image``, or ``stream``: nothing that could be
            read a second time.
        path: what was opened.
        live: it does not wait: frames that nobody takes in time are dropped.
        size: of the first frame, as it comes out.
        frame_count: as the file declares it, or None where it does not.
        fps: the mean rate that the file declares, or None (stills, or not stated).
        corrupt: packets and frames found damaged or missing so far.
        finished: the iteration reached the end of the source.
        notes: what the reader ought to know, one sentence each; grows while iterating.
    """

    kind: SourceKind
    live: bool = False
    path: Path
    size: FrameSize
    frame_count: int | None
    fps: Fraction | None
    corrupt: int
    finished: bool
    notes: list[str]

    @property
    def name(self) -> str:
        """How it is called where people read it; without passwords."""
        return str(self.path)

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    @abstractmethod
    def close(self) -> None:
        """Give back the open file; safe to call twice."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_picture_size(what: str, height: int, width: int) -> FrameSize:
    """The size, or MediaError where it has no pixels or more than `LARGEST_PICTURE`."""
    if height < 1 or width < 1:
        raise MediaError(f"{what} has no pixels ({height}x{width})", "at least one pixel")
    if height * width > LARGEST_PICTURE:
        raise MediaError(
            f"{what} has {height}x{width} pixels, {height * width / 1e6:.0f} million",
            f"at most {LARGEST_PICTURE / 1e6:.0f} million",
            "cut it into tiles, or make it smaller, and try again",
        )
    return FrameSize(height, width)
