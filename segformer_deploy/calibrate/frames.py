"""The frames that calibrate: a folder, a video, or generated streets, as the network sees them.

They go through `runtime.preprocess.prepare`, the function that the runtime itself calls, with
the resize rule of the model: a calibration cannot see other numbers than an inference will.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import InputError, MediaError
from segformer_deploy.runtime.preprocess import prepare
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.streets import street_frame
from segformer_deploy.video.images import list_images, read_image
from segformer_deploy.video.source import open_source

Picture = npt.NDArray[np.uint8]

STREET_SIZE = FrameSize(360, 480)
STREET_SEED = 70_000
"""Streets from here on calibrate, from `GATE_SEED` on they judge; no model trained on either."""
GATE_SEED = 80_000


@dataclass(frozen=True)
class NetworkFrame:
    """One frame as it enters the network: uint8 `[h, w, 3]`, RGB, and the picture it came from.

    `picture` is uint8 `[H, W, 3]`, BGR; `label` its class indices `[H, W]` where they are known.
    """

    name: str
    image: Picture
    picture: Picture
    label: Picture | None = None

    @property
    def sha256(self) -> str:
        shape = "x".join(map(str, self.image.shape)).encode()
        return hashlib.sha256(shape + b":" + self.image.tobytes()).hexdigest()


class FrameSet(ABC):
    """Frames that can be gone through any number of times, one in memory at a time.

    Their labels are class indices without void, known where frames are generated.

    Attributes:
        origin: where they come from, for people.
    """

    origin: str

    def __init__(self, rule: ResizeRule) -> None:
        self.rule = rule

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _pictures(self) -> Iterator[tuple[str, Picture, Picture | None]]:
        """(name, picture, label or None) of each frame."""

    def __iter__(self) -> Iterator[NetworkFrame]:
        for name, picture, label in self._pictures():
            yield NetworkFrame(name, prepare(picture, self.rule), picture, label)


class ImageFrames(FrameSet):
    """Still pictures."""

    def __init__(self, files: list[Path], rule: ResizeRule, origin: str) -> None:
        super().__init__(rule)
        self.files = files
        self.origin = origin

    def __len__(self) -> int:
        return len(self.files)

    def _pictures(self) -> Iterator[tuple[str, Picture, Picture | None]]:
        for path in self.files:
            yield path.name, read_image(path), None


class VideoFrames(FrameSet):
    """Chosen frames of a video file, by index."""

    def __init__(self, path: Path, indices: list[int], rule: ResizeRule) -> None:
        super().__init__(rule)
        self.path = path
        self.indices = indices
        self.origin = str(path)

    def __len__(self) -> int:
        return len(self.indices)

    def _pictures(self) -> Iterator[tuple[str, Picture, Picture | None]]:
        wanted = set(self.indices)
        last = max(wanted, default=-1)
        with open_source(self.path) as source:
            for frame in source:
                if frame.index in wanted:
                    yield f"{self.path.name}:{frame.name}", frame.image, None
                if frame.index >= last:
                    return


class StreetFrames(FrameSet):
    """Generated streets with their labels, each of another seed."""

    def __init__(self, count: int, rule: ResizeRule, first_seed: int = STREET_SEED) -> None:
        super().__init__(rule)
        self.count = count
        self.first_seed = first_seed
        self.origin = f"generated streets, seeds {first_seed} to {first_seed + count - 1}"

    def __len__(self) -> int:
        return self.count

    def _pictures(self) -> Iterator[tuple[str, Picture, Picture | None]]:
        for seed in range(self.first_seed, self.first_seed + self.count):
            picture, label = street_frame(seed, STREET_SIZE)
            yield f"street-{seed}", picture, label


def frames_from_source(path: Path, rule: ResizeRule, samples: int) -> FrameSet:
    """At most `samples` frames of a folder or video, spread evenly; `rest_of_source` has others.

    Raises MediaError where nothing there reads, InputError where `samples` is below 1.
    """
    return _chosen(path, rule, _even(_count(path), samples))


def leaving_some(path: Path, samples: int) -> int:
    """`samples`, or fewer, so that a quarter of the frames at `path` is left to judge on."""
    count = _count(path)
    return max(1, min(samples, count - (count + 3) // 4))


def rest_of_source(path: Path, rule: ResizeRule, samples: int, wanted: int) -> FrameSet | None:
    """At most `wanted` frames that `frames_from_source` leaves; None where it leaves none."""
    count = _count(path)
    used = set(_even(count, samples))
    left = [index for index in range(count) if index not in used]
    if not left:
        return None
    return _chosen(path, rule, [left[index] for index in _even(len(left), wanted)])


def _chosen(path: Path, rule: ResizeRule, indices: list[int]) -> FrameSet:
    if path.is_dir():
        files = list_images(path)
        return ImageFrames([files[index] for index in indices], rule, str(path))
    return VideoFrames(path, indices, rule)


def _count(path: Path) -> int:
    if path.is_dir():
        return len(list_images(path))
    # Who calibrates, who judges and who is looked at all ask, and each answer decodes the video.
    stamp = path.stat() if path.exists() else None
    return _decoded_count(path, stamp and (stamp.st_mtime_ns, stamp.st_size))


@lru_cache(maxsize=16)
def _decoded_count(path: Path, _stamp: tuple[int, int] | None) -> int:
    with open_source(path) as source:
        if source.kind == "image":
            raise MediaError(
                f"{path} is one picture", "a folder of pictures or a video", "name its folder"
            )
        # What a file declares may be wrong, and an index beyond the end would be lost silently.
        return sum(1 for _ in source)


def _even(count: int, samples: int) -> list[int]:
    """At most `samples` of the indices below `count`, evenly spread."""
    if samples < 1:
        raise InputError(f"{samples} samples", "1 or more", "leave --samples out")
    if count <= samples:
        return list(range(count))
    return sorted({int(index) for index in np.linspace(0, count - 1, samples).round()})
