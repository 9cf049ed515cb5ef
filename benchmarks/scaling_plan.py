"""What is measured: the points, the axes that they lie on, and which of them are held together."""

from __future__ import annotations

from dataclasses import dataclass

from segformer_deploy.spec import FrameSize


@dataclass(frozen=True)
class Point:
    """One configuration of the network, which gets processes of its own."""

    size: FrameSize
    classes: int
    batch: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.size}-c{self.classes}-b{self.batch}-t{self.threads}"

    @property
    def pixels(self) -> int:
        """Of all frames of the batch."""
        return self.size.pixels * self.batch


@dataclass(frozen=True)
class Plan:
    """The four axes. A point that lies on two of them is measured once.

    Attributes:
        base: size on the axes of classes and threads.
        small: size on the axis of batches.
        threads: of all points but those of the axis of threads, which runs from 1 to it.
        usual_classes: of all points but those of the axis of classes.
        compared: the two of `sizes` whose time per multiply-accumulate is compared.
    """

    sizes: tuple[FrameSize, ...]
    classes: tuple[int, ...]
    batches: tuple[int, ...]
    threads: int
    base: FrameSize
    small: FrameSize
    usual_classes: int
    compared: tuple[FrameSize, FrameSize]

    @property
    def axes(self) -> dict[str, list[Point]]:
        usual, threads = self.usual_classes, self.threads
        return {
            "pixels": [Point(size, usual, 1, threads) for size in self.sizes],
            "classes": [Point(self.base, count, 1, threads) for count in self.classes],
            "batch": [Point(self.small, usual, count, threads) for count in self.batches],
            "threads": [Point(self.base, usual, 1, count) for count in doubled(threads)],
        }

    @property
    def points(self) -> list[Point]:
        """Each point once, in the order of the axes."""
        return list(dict.fromkeys(point for axis in self.axes.values() for point in axis))

    @property
    def pair(self) -> tuple[Point, Point]:
        first, second = (Point(size, self.usual_classes, 1, self.threads) for size in self.compared)
        return first, second


def full_plan(threads: int) -> Plan:
    """256x256 to 1024x2048, 2 to 256 classes, batches of 1 to 8, 1 to `threads` threads."""
    sizes = _sizes(
        *("256x256", "384x384", "512x512", "512x1024", "768x768", "1024x1024", "1024x2048")
    )
    return Plan(
        sizes=sizes,
        classes=(2, 19, 64, 150, 256),
        batches=(1, 2, 4, 8),
        threads=threads,
        base=FrameSize(512, 512),
        small=FrameSize(256, 256),
        usual_classes=150,
        compared=(FrameSize(256, 256), FrameSize(512, 1024)),
    )


def quick_plan(threads: int) -> Plan:
    """A few small points, in seconds: whether it all works, not what it costs."""
    sizes = _sizes("128x128", "192x192", "192x384")
    return Plan(
        sizes=sizes,
        classes=(2, 19),
        batches=(1, 2),
        threads=min(threads, 2),
        base=sizes[0],
        small=sizes[0],
        usual_classes=19,
        compared=(sizes[0], sizes[-1]),
    )


def doubled(threads: int) -> list[int]:
    """1, 2, 4 … and `threads` itself: each count up to 64 would be an hour."""
    return sorted({threads, *(1 << power for power in range(threads.bit_length()))})


def _sizes(*texts: str) -> tuple[FrameSize, ...]:
    return tuple(FrameSize.parse(text) for text in texts)
