"""What travels between the one who plans and those who work: tasks there, results back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.batch.plan import Plan
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.video_part import Part


@dataclass(frozen=True)
class PlanTask:
    """Find out where a video may be cut."""

    key: str
    path: Path
    chunk_seconds: float


@dataclass(frozen=True)
class ChunkTask:
    """Segment one chunk.

    Attributes:
        key: of the item.
        path: of the video.
        number, chunks: which of how many.
        part: its frames; None: the whole file.
        size: of the overlay.
        stamp: the file's, as it was planned.
        frames: how many are expected; 0 where nobody knows.
    """

    key: str
    path: Path
    number: int
    chunks: int
    part: Part | None
    size: FrameSize
    stamp: tuple[int, int]
    frames: int

    @classmethod
    def of(cls, key: str, path: Path, plan: Plan, number: int) -> ChunkTask:
        part, frames = plan.part(number), plan.frames_of(number)
        return cls(key, path, number, plan.chunks, part, plan.size, plan.stamp, frames)


@dataclass(frozen=True)
class ChunkResult:
    """What a worker says of a chunk that it has written.

    Attributes:
        frames: how many it segmented; 0 where the chunk was there already.
        uneven: why the video cannot be cut there, where it cannot: nothing was written.
    """

    frames: int = 0
    uneven: str = ""
