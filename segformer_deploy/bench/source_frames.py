"""The frames of a real source, one at a time, each with the time that its capture took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from segformer_deploy.errors import InputError
from segformer_deploy.spec import FrameSize

if TYPE_CHECKING:
    from segformer_deploy.video.frame import Frame as SourceFrame
    from segformer_deploy.video.frame import Source


class Clock(Protocol):
    def __call__(self) -> int:
        """Nanoseconds since some moment."""


def check_source(text: str, frame: FrameSize | None) -> None:
    """InputError where `text` names a source that cannot be measured like this.

    Raises MediaError where it names none at all.
    """
    from segformer_deploy.video.address import parse_address

    kind = parse_address(text).kind
    if kind == "stdin":
        raise InputError(
            "--source - (raw frames on stdin)",
            "a source that can be opened by its name",
            "write the frames to a file, or name the camera or stream that they come from",
        )
    if frame is not None and kind not in ("camera", "csi", "streets"):
        raise InputError(
            f"--frame {frame} for a source that has its own size",
            "--frame with a camera or test:, or no --frame",
            "--size sets the size at which frames enter the network",
        )


def open_for_bench(text: str, frame: FrameSize | None = None) -> Source:
    """The source as `segdeploy run --no-live` opens it: each frame is read when it is asked for.

    The generated streets come as fast as they are drawn instead of at their own rate.

    Args:
        frame: asked of a camera or the streets.

    Raises InputError and MediaError.
    """
    from segformer_deploy.video.address import parse_address
    from segformer_deploy.video.source import CaptureOptions, open_source

    check_source(text, frame)
    fps = Fraction(0) if parse_address(text).kind == "streets" else None
    return open_source(text, CaptureOptions(size=frame, fps=fps, live=False))


class Frames:
    """The frames of a source, one at a time, from the start again where it can be.

    A video's or stream's first frame is passed over, in each round: it is decoded while the
    source is opened, which a run does once, so its capture would tell nothing.
    """

    def __init__(self, source: Source, clock: Clock = time.perf_counter_ns) -> None:
        self._source, self._clock = source, clock
        self._frames: Iterator[SourceFrame] | None = None
        self.rounds = 0
        self.given = 0

    def next(self) -> tuple[SourceFrame, int] | None:
        """The frame and the ns that its capture took; None at the end of what is read once.

        Raises InputError where a round gives no frame that could be timed.
        """
        found = None if self._frames is None else self._timed(self._frames)
        if found is None and (self._frames is None or self._source.kind != "stream"):
            self._frames = iter(self._source)
            self.rounds += 1
            if self._source.kind in ("video", "stream"):
                next(self._frames, None)
            found = self._timed(self._frames)
            if found is None:
                raise InputError(
                    f"{self._source.name} has one frame only, which is read on opening",
                    "a source of two frames or more",
                    "a longer one, or the frame as a picture file",
                )
        self.given += found is not None
        return found

    def _timed(self, frames: Iterator[SourceFrame]) -> tuple[SourceFrame, int] | None:
        start = self._clock()
        frame = next(frames, None)
        took = self._clock() - start
        return None if frame is None else (frame, took)
