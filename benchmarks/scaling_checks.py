"""What the figures of a run are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from peers_runners.compare import ratio_per_round
from scaling_plan import Plan, Point

from segformer_deploy.bench.latency import percentile

if TYPE_CHECKING:
    from scaling_report import Fit

TIME_PER_MAC_LIMIT = 1.25
"""Time per multiply-accumulate may grow by a quarter between the two sizes compared."""
MEMORY_EXPONENT_LIMIT = 1.0
PEAK_LIMIT = 1.6
"""Times what the multiply-accumulates of the network would take in a matrix product."""
CLASS_MAP_LIMITS = {19: 0.03, 150: 0.08}
"""Share of the frame, per number of classes, at the size of the axis of classes."""

Results = Mapping[Point, dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """A limit, and what was found."""

    what: str
    limit: float
    found: float
    detail: str

    @property
    def met(self) -> bool:
        return self.found <= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met, "text": str(self)}

    def __str__(self) -> str:
        word = "met" if self.met else "missed"
        return f"{self.what}: {self.found:.3f}, at most {self.limit}: {word} ({self.detail})"


def checks_of(plan: Plan, results: Results, fits: Sequence[Fit]) -> list[Check]:
    """All of them, for the points that the plan has."""
    return [
        _time_per_mac(plan, results),
        _memory(fits),
        _peak(plan, results),
        *_class_maps(plan, results),
    ]


def _time_per_mac(plan: Plan, results: Results) -> Check:
    small, large = (results[point] for point in plan.pair)
    growth = ratio_per_round(
        [ms / large["macs"] for ms in large["samples"]["network_ms"]],
        [ms / small["macs"] for ms in small["samples"]["network_ms"]],
    )
    first, second = plan.compared
    return Check(
        f"time per MAC, {second} over {first}",
        TIME_PER_MAC_LIMIT,
        growth.median,
        f"median of the rounds; p10 to p90 {growth.p10:.3f} to {growth.p90:.3f}",
    )


def _memory(fits: Sequence[Fit]) -> Check:
    memory = [fit for fit in fits if fit.axis == "pixels" and fit.y.endswith("memory")]
    return Check(
        "exponent of memory against pixels",
        MEMORY_EXPONENT_LIMIT,
        # The worse of the two: a network that fits does not help where the frame does not.
        max(fit.rate for fit in memory),
        ", ".join(f"{fit.y.partition('_')[0]} {fit}" for fit in memory),
    )


def _peak(plan: Plan, results: Results) -> Check:
    """Of the point that the axes of pixels and classes share."""
    point = Point(plan.base, plan.usual_classes, 1, plan.threads)
    share = results[point]["share_of_product"]
    return Check(
        f"network at {plan.base}, {point.classes} classes, over a matrix product of its MACs",
        PEAK_LIMIT,
        1 / share["median"],
        f"median of the rounds; p10 to p90 {1 / share['p90']:.3f} to {1 / share['p10']:.3f}",
    )


def _class_maps(plan: Plan, results: Results) -> list[Check]:
    found = []
    for point in plan.axes["classes"]:
        if point.classes in CLASS_MAP_LIMITS:
            samples = results[point]["samples"]
            shares = [
                part / whole
                for part, whole in zip(samples["class_map_ms"], samples["frame_ms"], strict=True)
            ]
            p10, median, p90 = (percentile(shares, q) for q in (10, 50, 90))
            found.append(
                Check(
                    f"share of the class map in the frame, {point.size}, {point.classes} classes",
                    CLASS_MAP_LIMITS[point.classes],
                    median,
                    f"median of the rounds; p10 to p90 {p10:.3f} to {p90:.3f}",
                )
            )
    return found
