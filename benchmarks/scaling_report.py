"""From samples to figures: each point's medians, the fits along the axes, warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peers_runners.compare import ratio_per_round
from peers_runners.parent import Samples
from scaling_checks import checks_of
from scaling_fit import Line, PowerLaw, power_law, straight_line
from scaling_plan import Plan, Point

from segformer_deploy.bench.latency import percentile

IDLE_LIMIT = 0.02
"""Of one core; above it a process disturbs the others while they have their turn."""
NOISY = 1.3
"""Third quartile over first, above which the machine was doing something else too."""
FEW_CORES = 0.8
"""Cores that the matrix product kept busy over its threads, below which it is no peak."""
WHAT = ("network", "frame")
STAGES = {"preprocess": "preprocess", "infer": "network", "class_map": "class_map"}
"""A segmenter's stages, and what they are called here."""

Results = Mapping[Point, dict[str, Any]]
Memories = Sequence[Mapping[str, Any]]


def figures(
    plan: Plan,
    macs: Mapping[Point, int],
    samples: Mapping[str, Samples],
    products: Mapping[int, Samples],
    product_macs: int,
    memory: Mapping[Point, Mapping[str, Memories]],
) -> dict[str, Any]:
    """All that follows from the samples (by point's name; the product's by threads)."""
    results = {
        point: point_result(
            *(point, macs[point], samples[point.name]),
            *(products[point.threads], product_macs, memory[point]),
        )
        for point in plan.points
    }
    points = list(results.values())
    product = [product_result(threads, one, product_macs) for threads, one in products.items()]
    fits = fits_of(plan, results)
    return {
        "product": product,
        "points": points,
        "axes": {axis: [point.name for point in on_it] for axis, on_it in plan.axes.items()},
        "fits": [fit.to_dict() for fit in fits],
        "speed_up": speed_ups(plan, results),
        "checks": [check.to_dict() for check in checks_of(plan, results, fits)],
        "warnings": warnings_of(points, product),
    }


def point_result(
    point: Point,
    macs: int,
    samples: Samples,
    product: Samples,
    product_macs: int,
    memory: Mapping[str, Memories],
) -> dict[str, Any]:
    """All figures of one point, the raw samples among them.

    `product` are the turns of the matrix product with as many threads, in the same rounds.
    """
    stages = {ours: [one[name] for one in samples.stages] for name, ours in STAGES.items()}
    network = stages["network"]
    # The product's time per MAC over the network's: above 1 the network would be the faster.
    share = ratio_per_round([ms / product_macs for ms in product.ms], [ms / macs for ms in network])
    return {
        "name": point.name,
        "size": [point.size.height, point.size.width],
        "pixels": point.pixels,
        "classes": point.classes,
        "batch": point.batch,
        "threads": point.threads,
        "macs": macs,
        "network_ms": quartiles(network),
        "frame_ms": quartiles(samples.ms),
        "stages_ms": {name: percentile(ms, 50) for name, ms in stages.items()},
        "ms_per_gmac": percentile(network, 50) / (macs / 1e9),
        "share_of_product": asdict(share),
        "memory_mib": {what: _memory(runs) for what, runs in memory.items()},
        "idle_share": samples.idle_share,
        "samples": {
            "frame_ms": samples.ms,
            **{f"{name}_ms": ms for name, ms in stages.items()},
            "memory": {what: list(runs) for what, runs in memory.items()},
        },
    }


def product_result(threads: int, samples: Samples, macs: int) -> dict[str, Any]:
    """The matrix product: its GMAC/s is the median's, and busy cores say how many threads ran."""
    ms = quartiles(samples.ms)
    busy = [one["cores_busy"] for one in samples.stages]
    return {
        "threads": threads,
        "macs": macs,
        "ms": ms,
        "gmac_per_s": macs / 1e6 / ms["median"],
        "cores_busy": percentile(busy, 50),
        "idle_share": samples.idle_share,
        "samples": {"ms": samples.ms, "cores_busy": busy},
    }


def quartiles(values: Sequence[float]) -> dict[str, float]:
    names = {"median": 50, "p25": 25, "p75": 75}
    return {name: percentile(values, q) for name, q in names.items()}


def _memory(runs: Memories) -> dict[str, float]:
    """Medians over fresh processes: what the engine holds, and what running it takes on top."""
    return {
        "engine": percentile([run["ready_mib"] - run["start_mib"] for run in runs], 50),
        "working": percentile([run["peak_mib"] - run["ready_mib"] for run in runs], 50),
        "peak": percentile([run["peak_mib"] for run in runs], 50),
    }


@dataclass(frozen=True)
class Fit:
    """A quantity along an axis.

    Attributes:
        axis, x, y: which points; what is read from each of them (see `value_of`).
        unit: of y.
    """

    axis: str
    x: str
    y: str
    unit: str
    law: Line | PowerLaw

    @property
    def is_power(self) -> bool:
        return isinstance(self.law, PowerLaw)

    @property
    def rate(self) -> float:
        """The exponent of a power law, the slope of a line."""
        return self.law.exponent if isinstance(self.law, PowerLaw) else self.law.slope

    @property
    def rate_error(self) -> float | None:
        law = self.law
        return law.exponent_error if isinstance(law, PowerLaw) else law.slope_error

    def to_dict(self) -> dict[str, Any]:
        where = {"axis": self.axis, "x": self.x, "y": self.y, "unit": self.unit}
        kind = "power" if self.is_power else "line"
        return {**where, "kind": kind, **asdict(self.law), "text": str(self)}

    def __str__(self) -> str:
        digits = 2 if self.is_power else 3
        spread = "" if self.rate_error is None else f" ± {self.rate_error:.{digits}f}"
        number = f"{self.rate:.{digits}f}{spread}"
        return number if self.is_power else f"{number} {self.unit}"


def value_of(result: Mapping[str, Any], name: str) -> float:
    """``pixels``, ``network_ms``, ``frame_memory`` … of a point."""
    what, _, kind = name.partition("_")
    if kind == "ms":
        return float(result[name]["median"])
    if kind == "memory":
        return float(result["memory_mib"][what]["working"])
    return float(result[name])


def fits_of(plan: Plan, results: Results) -> list[Fit]:
    """Every law that the axes allow; an axis of one point allows none."""
    wanted: list[tuple[str, str, str, str, Callable[..., Line | PowerLaw]]] = [
        *(("pixels", "pixels", f"{what}_ms", "ms", power_law) for what in WHAT),
        *(("pixels", "macs", f"{what}_ms", "ms", power_law) for what in WHAT),
        *(("pixels", "pixels", f"{what}_memory", "MiB", power_law) for what in WHAT),
        *(("classes", "classes", f"{what}_ms", "ms", straight_line) for what in WHAT),
        *(("batch", "batch", f"{what}_ms", "ms", power_law) for what in WHAT),
    ]
    fits = []
    for axis, x, y, unit, fit in wanted:
        points = [results[point] for point in plan.axes[axis]]
        if len(points) > 1:
            law = fit([value_of(p, x) for p in points], [value_of(p, y) for p in points])
            fits.append(Fit(axis, x, y, unit, law))
    return fits


def speed_ups(plan: Plan, results: Results) -> list[dict[str, Any]]:
    """How many times as fast as with one thread, round by round."""
    axis = [results[point] for point in plan.axes["threads"]]
    single = axis[0]["samples"]

    def against_single(one: Mapping[str, Any], name: str) -> dict[str, float]:
        return asdict(ratio_per_round(single[name], one["samples"][name]))

    return [
        {"threads": one["threads"], **{what: against_single(one, f"{what}_ms") for what in WHAT}}
        for one in axis
    ]


def warnings_of(results: Sequence[dict[str, Any]], products: Sequence[dict[str, Any]]) -> list[str]:
    """What would make a reader doubt the figures."""
    named = [(one["name"], one) for one in results]
    named += [(f"the matrix product of {one['threads']} threads", one) for one in products]
    found = [
        f"{name} used {100 * one['idle_share']:.1f} % of a core while others had their turn: "
        "measure again with a longer --pause"
        for name, one in named
        if one["idle_share"] > IDLE_LIMIT
    ]
    for one in results:
        wide = one["network_ms"]["p75"] / one["network_ms"]["p25"]
        if wide > NOISY:
            found.append(
                f"{one['name']}: the third quartile is {wide:.2f} times the first: "
                "stop other work and measure again"
            )
        runs = [run for what in WHAT for run in one["samples"]["memory"][what]]
        if not all(run["peak_was_reset"] for run in runs):
            found.append(f"{one['name']}: the peak of memory includes loading the engine")
    for one in products:
        if one["cores_busy"] < FEW_CORES * one["threads"]:
            found.append(
                f"the matrix product of {one['threads']} threads kept {one['cores_busy']:.2f} "
                "cores busy: it is no measure of the machine's best"
            )
    return found
