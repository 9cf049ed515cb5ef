"""Which case to take: the front of latency, memory and accuracy, and the best within a budget.

A case is on the front where no other is at least as fast, as small and as accurate, and better
in one of the three. Accuracy is mIoU where every case has it; else networks are put in an order:
larger variant first, then larger size, then higher precision. That order is an assumption, not
a measurement: within one training recipe it holds for most data. Only b0 to b5 have it: of a
network of another shape nothing is known, so several engines with one of those among them need
labelled frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_deploy.bench.case import Case
from segformer_deploy.bench.chart import empty_figure, write_figure
from segformer_deploy.bench.matrix import MatrixReport
from segformer_deploy.errors import InputError
from segformer_deploy.spec import FrameSize

PRECISIONS = ("int8", "fp16", "fp32")
VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")
"""Smallest first."""
Rank = tuple[int, int, int]
"""Variant (its place; -1 for another one), pixels, precision: compared in this order."""


@dataclass(frozen=True)
class Point:
    """One measured case.

    Attributes:
        latency_ms: the percentile that the budget is held against.
        fastest_ms: the fastest run: a case whose fastest run is too slow is too slow.
        memory_mib: peak resident memory of the case's own process.
        miou: in percent; None where no labelled frames were given.
        rank: the order of networks.
    """

    name: str
    result: dict[str, Any]
    latency_ms: float
    fastest_ms: float
    memory_mib: float
    miou: float | None
    rank: Rank


@dataclass(frozen=True)
class Budget:
    """What a device has; None asks nothing."""

    memory_mib: float | None = None
    latency_ms: float | None = None
    min_miou: float | None = None

    def excess(self, point: Point) -> list[str]:
        """Why `point` is not within the budget, in words; empty where it is."""
        found = []
        if self.latency_ms is not None and point.latency_ms > self.latency_ms:
            found.append(f"{point.latency_ms:.1f} ms of {self.latency_ms:g}")
        if self.memory_mib is not None and point.memory_mib > self.memory_mib:
            found.append(f"{point.memory_mib:.0f} MiB of {self.memory_mib:g}")
        if self.min_miou is not None and (point.miou is None or point.miou < self.min_miou):
            shown = "no mIoU" if point.miou is None else f"mIoU {point.miou:.2f}"
            found.append(f"{shown} of {self.min_miou:g} %")
        return found

    def out_of_reach(self, point: Point) -> str | None:
        """Why a larger network than `point` cannot be within the budget; None where it may be."""
        if self.latency_ms is not None and point.fastest_ms > self.latency_ms:
            return f"even its fastest run takes {point.fastest_ms:.1f} ms"
        if self.memory_mib is not None and point.memory_mib > self.memory_mib:
            return f"it takes {point.memory_mib:.0f} MiB"
        return None

    def __str__(self) -> str:
        parts = (
            self.memory_mib is not None and f"{self.memory_mib:g} MiB",
            self.latency_ms is not None and f"{self.latency_ms:g} ms",
            self.min_miou is not None and f"mIoU of at least {self.min_miou:g} %",
        )
        return ", ".join(part for part in parts if part) or "no bounds"


def rank_of(variant: str | None, size: str, precision: str | None) -> Rank:
    """`size` is HxW; an unknown precision counts as the lowest."""
    return (
        VARIANTS.index(variant) if variant in VARIANTS else -1,
        FrameSize.parse(size).height * FrameSize.parse(size).width,
        PRECISIONS.index(precision) if precision in PRECISIONS else -1,
    )


def check_order(variants: Sequence[str | None]) -> None:
    """InputError where several engines have no order without labelled frames.

    Args:
        variants: of each engine; one engine alone compares with itself at other sizes.
    """
    odd = [variant for variant in variants if variant not in VARIANTS]
    if odd and len(variants) > 1:
        raise InputError(
            f"a network of the variant '{odd[0]}' among {len(variants)} engines, and no labelled "
            "frames: which is more accurate is not known",
            f"variants of {VARIANTS[0]} to {VARIANTS[-1]}, or accuracy measured on your frames",
            "add --images FOLDER --labels FOLDER",
        )


def point_from_result(result: dict[str, Any], percentile: str = "p50") -> Point | None:
    """None where the case failed. `percentile`: p50, p90 or p99."""
    if result["error"] is not None:
        return None
    case, accuracy = result["case"], result.get("accuracy")
    return Point(
        Case.from_dict(case).name,
        result,
        result["latency_ms"][percentile],
        result["latency_ms"]["min"],
        result["peak_rss_mib"],
        accuracy["miou"] if accuracy else None,
        rank_of(case["variant"], result["size"], case["precision"]),
    )


def by_miou(points: Sequence[Point]) -> bool:
    """Whether accuracy is measured: all of them have it, else they are put in order."""
    return bool(points) and all(point.miou is not None for point in points)


def _accuracy(point: Point, measured: bool) -> tuple[Any, ...]:
    return (point.miou,) if measured else point.rank


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other dominates, fastest first; of equals all stay."""
    measured = by_miou(points)
    kept = [one for one in points if not any(_dominates(two, one, measured) for two in points)]
    return sorted(kept, key=lambda point: point.latency_ms)


def _dominates(one: Point, other: Point, measured: bool) -> bool:
    mine, theirs = _accuracy(one, measured), _accuracy(other, measured)
    as_good = (
        one.latency_ms <= other.latency_ms and one.memory_mib <= other.memory_mib and mine >= theirs
    )
    better = one.latency_ms < other.latency_ms or one.memory_mib < other.memory_mib or mine > theirs
    return as_good and better


def pick(points: Sequence[Point], budget: Budget) -> Point | None:
    """The most accurate within the budget, of equals the faster, then the smaller; or None."""
    measured = by_miou(points)
    within = [point for point in points if not budget.excess(point)]
    return max(
        within,
        key=lambda point: (_accuracy(point, measured), -point.latency_ms, -point.memory_mib),
        default=None,
    )


@dataclass
class FitReport:
    """What was measured, what was not and why, and which network to take.

    Attributes:
        skipped: case -> why it cannot be within the budget.
        winner: None where nothing is within the budget.
        commands: what builds the winner.
    """

    budget: Budget
    matrix: MatrixReport
    points: list[Point] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    winner: Point | None = None
    commands: tuple[str, ...] = ()
    chart: Path | None = None

    @property
    def accuracy(self) -> str:
        """What accuracy means here: ``miou`` or ``order``."""
        return "miou" if by_miou(self.points) else "order"

    def to_dict(self) -> dict[str, Any]:
        best = {point.name for point in front(self.points)}
        return {
            "budget": vars(self.budget),
            "accuracy": self.accuracy,
            "winner": self.winner.name if self.winner else None,
            "commands": list(self.commands),
            "chart": str(self.chart) if self.chart else None,
            "points": [
                {
                    "name": point.name,
                    "latency_ms": point.latency_ms,
                    "memory_mib": point.memory_mib,
                    "miou": point.miou,
                    "front": point.name in best,
                    "within": not self.budget.excess(point),
                    "excess": self.budget.excess(point),
                }
                for point in self.points
            ],
            "skipped": self.skipped,
            "failed": {
                Case.from_dict(result["case"]).name: result["error"]["found"]
                for result in self.matrix.results
                if result["error"] is not None
            },
            "measured": self.matrix.measured,
            "kept": self.matrix.kept,
            "measured_again": self.matrix.again,
            "folder": str(self.matrix.folder),
        }


def drawing(points: Sequence[Point], budget: Budget, winner: Point | None, path: Path) -> bool:
    """Draw latency against memory as a PNG; False where matplotlib is not installed.

    Raises OutputError.
    """
    figure = empty_figure(8, 5)
    if figure is None:
        return False
    axes = figure.subplots()
    best = front(points)
    beside = [point for point in points if point not in best]
    axes.scatter(*_places(beside), color="0.7", label="dominated")
    axes.scatter(*_places(best), color="tab:blue", label="front")
    if winner is not None:
        axes.scatter(*_places([winner]), marker="*", s=260, color="tab:orange", label="chosen")
    for point in points:
        shown = point.name if point.miou is None else f"{point.name}: {point.miou:.1f} %"
        axes.annotate(
            shown,
            (point.latency_ms, point.memory_mib),
            fontsize=6,
            xytext=(3, 3),
            textcoords="offset points",
        )
    if budget.latency_ms is not None:
        axes.axvline(budget.latency_ms, color="tab:red", linestyle="--", linewidth=1)
    if budget.memory_mib is not None:
        axes.axhline(budget.memory_mib, color="tab:red", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="latency, ms", ylabel="peak memory of the process, MiB")
    axes.legend()
    write_figure(figure, path)
    return True


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.latency_ms for point in points], [point.memory_mib for point in points]
