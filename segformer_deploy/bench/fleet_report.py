"""The answer to "how many devices": likely, and between which ends; as JSON and as a chart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_deploy.bench.chart import empty_figure, write_figure
from segformer_deploy.bench.fleet import (
    Allowed,
    Answer,
    Fleet,
    OnTry,
    closed_form,
    devices_for,
)
from segformer_deploy.bench.fleet_length import SEED
from segformer_deploy.bench.fleet_times import Times

CHART = "fleet.png"


@dataclass(frozen=True)
class FleetReport:
    """How many devices, simulated: an estimate, however the frames' times were found.

    Attributes:
        likely: with the times as they were measured or estimated.
        low, high: with the ends of the times' error; None where there is no such end.
    """

    fleet: Fleet
    allowed: Allowed
    times: Times
    likely: Answer
    low: Answer | None
    high: Answer | None
    chart: Path | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        below = [one for one in self.likely.standings if one.devices < (self.likely.devices or 0)]
        if not below or not below[-1].stable or below[-1].settled:
            return self.times.notes
        return (
            *self.times.notes,
            f"{below[-1].devices} devices are too near saturation to be simulated until their "
            "queues settle: counted as over the budget",
        )

    def to_dict(self) -> dict[str, Any]:
        fleet, allowed, likely = self.fleet, self.allowed, self.likely
        return {
            "estimated": True,
            "cameras": fleet.cameras,
            "fps": fleet.fps,
            "policy": fleet.policy,
            "streams": fleet.streams,
            "batch": fleet.batch,
            "batch_ms": fleet.batch_ms,
            "jitter_ms": fleet.jitter_ms,
            "budget": {
                "latency_ms": allowed.latency_ms,
                "percentile": allowed.percentile,
                "drops_percent": allowed.drops_percent,
            },
            "service": self.times.to_dict(),
            "devices": {
                "low": self.low.devices if self.low else None,
                "likely": likely.devices,
                "high": self.high.devices if self.high else None,
            },
            "why_none": {
                "low": self.low.why_none if self.low else None,
                "likely": likely.why_none,
                "high": self.high.why_none if self.high else None,
            },
            "closed_form": (
                None if likely.devices is None else closed_form(fleet, self.times, likely.devices)
            ),
            "points": [standing.to_dict() for standing in likely.standings],
            "seed": SEED,
            "notes": list(self.notes),
            "chart": str(self.chart) if self.chart else None,
        }


def plan_fleet(
    fleet: Fleet, allowed: Allowed, times: Times, on_try: OnTry = lambda _: None
) -> FleetReport:
    """Find the number of devices for the likely time, and for both ends of its error."""
    done = [0]

    def tried(_: int) -> None:
        done[0] += 1
        on_try(done[0])

    def answer(ms: float | None) -> Answer | None:
        return None if ms is None else devices_for(fleet, (ms,), allowed, tried)

    return FleetReport(
        fleet,
        allowed,
        times,
        devices_for(fleet, times.ms, allowed, tried),
        answer(times.low),
        answer(times.high),
    )


def drawing(report: FleetReport, path: Path) -> bool:
    """Draw devices against age and drops as a PNG; False where matplotlib is not installed.

    Raises OutputError.
    """
    figure = empty_figure(8, 6)
    if figure is None:
        return False
    ages, drops = figure.subplots(2, 1, sharex=True)
    points = report.likely.standings
    devices = [point.devices for point in points]
    for name in ("p50", "p99"):
        ages.plot(devices, [point.age_ms[name] for point in points], "o-", label=f"age, {name}")
    drops.plot(devices, [point.drops for point in points], "o-", label="all cameras")
    drops.plot(devices, [point.worst_drops for point in points], "o:", label="worst camera")
    allowed = report.allowed
    if allowed.latency_ms is not None:
        ages.axhline(allowed.latency_ms, color="tab:red", linestyle="--", linewidth=1)
    drops.axhline(allowed.drops_percent, color="tab:red", linestyle="--", linewidth=1)
    for axes in (ages, drops):
        if report.likely.devices is not None:
            axes.axvline(report.likely.devices, color="0.6", linewidth=4, zorder=0, label="answer")
        axes.legend()
    ages.set(ylabel="age of the answer, ms", yscale="log")
    ages.set_title(
        f"estimated by simulation, {report.fleet.cameras} cameras; {report.times.source}"
    )
    ages.title.set_fontsize(8)
    drops.set(xlabel="devices", ylabel="frames dropped, %")
    write_figure(figure, path)
    return True
