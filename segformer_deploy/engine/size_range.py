"""The network sizes that an engine takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.spec import FrameSize


@dataclass(frozen=True)
class SizeRange:
    """Network sizes an engine takes: smallest, the one it is tuned for, largest; and the batch."""

    min: FrameSize
    opt: FrameSize
    max: FrameSize
    batch: int = 1

    def __post_init__(self) -> None:
        heights = self.min.height, self.opt.height, self.max.height
        widths = self.min.width, self.opt.width, self.max.width
        if sorted(heights) != list(heights) or sorted(widths) != list(widths):
            raise SpecError(
                f"sizes min {self.min}, opt {self.opt}, max {self.max}",
                "min <= opt <= max, in height and in width",
            )
        if self.batch < 1:
            raise SpecError(f"batch {self.batch}", "1 or more")

    @property
    def fixed(self) -> bool:
        """One size and nothing else."""
        return self.min == self.opt == self.max

    def to_dict(self) -> dict[str, Any]:
        return {
            "min": str(self.min),
            "opt": str(self.opt),
            "max": str(self.max),
            "batch": self.batch,
        }

    def __str__(self) -> str:
        sizes = str(self.opt) if self.fixed else f"{self.min} to {self.max}, tuned for {self.opt}"
        return f"{sizes}, batch up to {self.batch}" if self.batch > 1 else sizes

    def holds(self, size: FrameSize, batch: int) -> bool:
        """Whether `size` lies inside, and `batch` too."""
        return batch <= self.batch and (
            self.min.height <= size.height <= self.max.height
            and self.min.width <= size.width <= self.max.width
        )

    def check(self, size: FrameSize, batch: int) -> None:
        """FrameError where `size` or `batch` lies outside."""
        if not self.holds(size, 1):
            raise FrameError(
                f"network size {size}",
                f"{self.min} to {self.max}, which this engine was built for",
                f"segdeploy build-engine --min {_smaller(self.min, size)} "
                f"--max {_larger(self.max, size)}",
            )
        if batch > self.batch:
            raise FrameError(
                f"a batch of {batch} frames",
                f"at most {self.batch}, which this engine was built for",
                f"segdeploy build-engine --batch {batch}",
            )


def size_range_from_dict(data: Any) -> SizeRange:
    """Read what `SizeRange.to_dict` wrote."""
    smallest, usual, largest = (FrameSize.parse(data[key]) for key in ("min", "opt", "max"))
    batch = data["batch"]
    if type(batch) is not int:
        raise TypeError(f"a batch of {batch!r}")
    return SizeRange(smallest, usual, largest, batch)


def _smaller(a: FrameSize, b: FrameSize) -> FrameSize:
    return FrameSize(min(a.height, b.height), min(a.width, b.width))


def _larger(a: FrameSize, b: FrameSize) -> FrameSize:
    return FrameSize(max(a.height, b.height), max(a.width, b.width))
