"""Requests of several clients, segmented in as few calls as their sizes allow."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from segformer_deploy.engine.session import Array
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import FrameError, RunError, SegdeployError
from segformer_deploy.runtime.batch import Frame, size_of
from segformer_deploy.runtime.preprocess import checked_size
from segformer_deploy.serve.names import PIXEL_FORMAT
from segformer_deploy.spec import FrameSize

PIXEL_FORMATS = ("bgr", "rgb")
_Key = tuple[FrameSize, str]


class ManyFrames(Protocol):
    """As much of a `Segmenter` as is needed here."""

    pixel_format: str
    tiling: object

    def network_size(self, frame: FrameSize) -> FrameSize: ...
    def __call__(self, frames: list[Frame]) -> list[Array]: ...


@dataclass(frozen=True, eq=False)
class Asked:
    """One request.

    Attributes:
        frames: uint8 `[H, W, 3]`, all of one size: the class maps go back as one array.
        pixel_format: ``bgr`` or ``rgb``.
    """

    frames: Sequence[Frame]
    pixel_format: str = "bgr"

    def __post_init__(self) -> None:
        if self.pixel_format not in PIXEL_FORMATS:
            raise FrameError(
                f"pixel format {self.pixel_format!r}",
                "'bgr' or 'rgb'",
                f"set the request's parameter '{PIXEL_FORMAT}', or leave it out for bgr",
            )
        sizes = sorted({str(size_of(frame)) for frame in self.frames})
        if len(sizes) != 1:
            raise FrameError(
                f"pictures of several sizes in one request: {', '.join(sizes)}",
                "one size: the class maps come back as one array of one size",
                "send a request per size",
            )


@dataclass
class _Group:
    """Requests that go into one call: their places in the list, and their frames."""

    places: list[tuple[int, int]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)


def segment_together(
    segment: ManyFrames,
    requests: Sequence[Asked | SegdeployError],
    allowed: SizeRange | None = None,
    on_surprise: Callable[[str], None] = print,
) -> list[Array | SegdeployError]:
    """The class maps `[B, H, W]` of each request, or why there are none; nothing is raised.

    Frames that enter the network at one size go into one call, whatever client they are of. A
    request that is wrong fails alone; what goes wrong inside a call fails those in it.

    Args:
        requests: those that did not read are handed through.
        allowed: the network sizes that the engine takes, where `segment` does not know them.
        on_surprise: takes the trace of an error that we did not foresee.
    """
    answers: list[Array | SegdeployError] = []
    groups: dict[_Key, _Group] = {}
    for index, asked in enumerate(requests):
        if isinstance(asked, SegdeployError):
            answers.append(asked)
            continue
        try:
            group = groups.setdefault(_key(segment, asked, allowed), _Group())
        except SegdeployError as error:
            answers.append(error)
            continue
        answers.append(RunError("no answer was made"))  # replaced below
        group.places.append((index, len(asked.frames)))
        group.frames.extend(asked.frames)
    for (_, pixel_format), group in groups.items():
        maps = _called(segment, group.frames, pixel_format, on_surprise)
        _hand_out(maps, group, answers)
    return answers


def _key(segment: ManyFrames, asked: Asked, allowed: SizeRange | None) -> _Key:
    size = checked_size(size_of(asked.frames[0]))
    network = segment.network_size(size)
    if allowed is not None:
        allowed.check(network, 1)
    # Windows are cut from the frame itself: frames of one size there.
    return (network if segment.tiling is None else size), asked.pixel_format


def _called(
    segment: ManyFrames, frames: list[Frame], pixel_format: str, on_surprise: Callable[[str], None]
) -> list[Array] | SegdeployError:
    segment.pixel_format = pixel_format
    try:
        return segment(frames)
    except SegdeployError as error:
        return error
    except Exception as error:  # whatever it is, the other requests are to be answered
        on_surprise(traceback.format_exc())
        return RunError(
            f"the frames could not be segmented ({type(error).__name__}: {error})",
            "class maps",
            "see the server's log for where it happened",
        )


def _hand_out(
    maps: list[Array] | SegdeployError, group: _Group, answers: list[Array | SegdeployError]
) -> None:
    first = 0
    for index, count in group.places:
        if isinstance(maps, SegdeployError):
            answers[index] = maps
        else:
            own = maps[first : first + count]
            answers[index] = own[0][None] if count == 1 else np.stack(own)
        first += count
