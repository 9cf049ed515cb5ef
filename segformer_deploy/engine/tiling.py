"""How a frame is cut into overlapping windows, and what an engine folder has measured of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from segformer_deploy.errors import SpecError
from segformer_deploy.spec import SMALLEST_NETWORK_SIDE, FrameSize

Merge = Literal["average", "centre"]

GRID = 4
"""Pixels per logit: windows that begin at multiples of it lie on the frame's own logit grid."""


@dataclass(frozen=True)
class Tiling:
    """Windows of one size over the picture that the network would see whole.

    Attributes:
        tile: of a window; along a side where the picture is smaller the picture's own.
        overlap: pixels that two neighbours share; the last two of a row or column may share more.
        merge: ``average``: the mean of all windows' logits there, as the paper's test protocol;
            ``centre``: those of the window in which they lie furthest from a border.
    """

    tile: FrameSize
    overlap: int
    merge: Merge = "average"

    @classmethod
    def of(cls, tile: FrameSize, overlap: int | None = None, merge: Merge = "average") -> Tiling:
        """Without an overlap: a quarter of the tile's shorter side, as the paper's 256 of 1024.

        More context is what brings a window's answer closer to the frame's, and a quarter is where
        it begins to cost much (docs/tiles.md).
        """
        return cls(tile, share_of(tile, 1 / 4) if overlap is None else overlap, merge)

    def __post_init__(self) -> None:
        height, width = self.tile.height, self.tile.width
        if height % GRID or width % GRID or min(height, width) < SMALLEST_NETWORK_SIDE:
            raise SpecError(
                f"tiles of {self.tile}",
                f"multiples of {GRID} from {SMALLEST_NETWORK_SIDE} up, so that windows lie on the "
                "frame's own logits",
                "--tile 256x256",
            )
        if type(self.overlap) is not int or self.overlap % GRID or self.overlap < 0:
            raise SpecError(f"an overlap of {self.overlap}", f"a multiple of {GRID} from 0 up")
        if self.overlap >= min(height, width):
            raise SpecError(
                f"an overlap of {self.overlap} pixels in tiles of {self.tile}",
                "less than a tile's shorter side",
                f"--tile-overlap {share_of(self.tile, 1 / 4)}",
            )
        if self.merge not in get_args(Merge):
            raise SpecError(f"merge '{self.merge}'", "one of " + ", ".join(get_args(Merge)))

    def __str__(self) -> str:
        return f"tiles of {self.tile}, overlap {self.overlap} px, merged by {self.merge}"

    def to_dict(self) -> dict[str, Any]:
        return {"tile": str(self.tile), "overlap": self.overlap, "merge": self.merge}


def share_of(tile: FrameSize, share: float) -> int:
    """An overlap of that share of a tile's shorter side, on the grid."""
    return int(share * min(tile.height, tile.width)) // GRID * GRID


@dataclass(frozen=True)
class MeasuredTiling:
    """A folder's tiling, and its class maps beside those of the same frames seen whole.

    Attributes:
        agreement, worst: percent of a frame's pixels of the same class, the median over the
            frames and the worst frame.
        time_ratio: median time of a frame by tiles over that of a whole one, where it was built.
        frames, origin: how many were compared, and where they come from.
    """

    tiling: Tiling
    agreement: float
    worst: float
    time_ratio: float
    frames: int
    origin: str

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.tiling.to_dict(),
            "agreement": self.agreement,
            "worst": self.worst,
            "time_ratio": self.time_ratio,
            "frames": self.frames,
            "origin": self.origin,
        }

    def __str__(self) -> str:
        return (
            f"{self.tiling}: {self.agreement:.2f} % of the pixels as of the whole frame (median of "
            f"{self.frames} frames, the worst {self.worst:.2f} %; {self.origin}), "
            f"{self.time_ratio:.2f} times its time"
        )


def measured_tiling_from_dict(data: Any) -> MeasuredTiling:
    """Read what `MeasuredTiling.to_dict` wrote; ValueError, TypeError or SpecError otherwise."""
    agreement, worst, ratio = (float(data[key]) for key in ("agreement", "worst", "time_ratio"))
    frames = data["frames"]
    if not (0 <= worst <= agreement <= 100 and ratio > 0 and type(frames) is int and frames > 0):
        raise ValueError(f"a measured tiling of {data}")
    tiling = Tiling(FrameSize.parse(data["tile"]), data["overlap"], data["merge"])
    return MeasuredTiling(tiling, agreement, worst, ratio, frames, str(data["origin"]))
