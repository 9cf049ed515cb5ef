"""The efficiencies of `roofline`, fitted to published latencies, and how far off that leaves us.

Some twenty rows of eight boards cannot bear many parameters: GPUs and CPUs have one set each, and
each parameter has a prior, so that what no row speaks of stays at a plain guess instead of running
away. The fit is the most probable set under log-normal errors: Gauss-Newton with damping on the
logarithms, from the priors, the same on every machine to the digits that are kept.

A board counts once, however many rows it has: what is wanted is the error on another device. That
error is measured by leaving out one design of cores at a time, with all boards that have it: two
boards of one design differ in clock, cores and memory, which the model is told, so that with the
one in the fit the other is no longer unseen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segformer_deploy.bench.devices import GROUPS, Group
from segformer_deploy.bench.published import Published
from segformer_deploy.bench.roofline import NAMES, Floats, Side, Task, side_of, time_of

PRIORS: dict[Side, dict[str, tuple[float, float]]] = {
    "gpu": {
        "compute": (0.25, 2.0),
        "bandwidth": (0.6, 1.5),
        "launch_us": (5.0, 2.0),
        "fp32_gain": (1.5, 1.5),
        "int8_gain": (1.25, 1.3),
    },
    "cpu": {
        "compute": (0.15, 2.0),
        "int8_gain": (1.5, 1.5),
        "onnxruntime_gain": (1.0, 1.5),
    },
}
"""Centre, and the factor within which two thirds of the belief lie.

A tenth to a half of a peak and about two thirds of the bandwidth is what tuned kernels of this
size reach; a launch takes a few microseconds; CUDA cores come nearer to their (lower) FP32 peak
than tensor cores to theirs; INT8 gains less than its peak promises; of ONNX Runtime against
TFLite we believe nothing."""
ROW_SPREAD = 1.4
"""The factor by which a published row and a good model may differ: other clocks, engines' age."""
FEWEST_BOARDS, FEWEST_ROWS = 3, 6
"""Below either, the error of a kind of device is unknown: no figure is stated for it."""
_DIGITS = 6
_STEP = 1e-5


@dataclass(frozen=True)
class Fit:
    """Fitted parameters by side, by name."""

    parameters: Mapping[Side, Mapping[str, float]]

    def estimate(self, row: Published) -> float:
        """Milliseconds for what `row` measured."""
        return time_of(_task(row), self.parameters[side_of(row.device)]).total


def fit(rows: Sequence[Published]) -> Fit:
    """The most probable parameters given `rows`; the priors' centres where there are none."""
    return Fit({side: _fit_side(side, _of(side, rows)) for side in NAMES})


def _of(side: Side, rows: Sequence[Published]) -> list[Published]:
    return [row for row in rows if side_of(row.device) == side]


def _task(row: Published) -> Task:
    return Task(
        row.variant, row.size, row.classes, row.precision, row.device, row.engine, "published"
    )


def _fit_side(side: Side, rows: Sequence[Published]) -> dict[str, float]:
    names = NAMES[side]
    centre = np.log([PRIORS[side][name][0] for name in names])
    spread = np.log([PRIORS[side][name][1] for name in names])
    boards = Counter(row.device.board for row in rows)
    weight = np.array([boards[row.device.board] ** -0.5 / math.log(ROW_SPREAD) for row in rows])
    measured = np.log([row.latency_ms for row in rows])
    tasks = [_task(row) for row in rows]

    def residuals(theta: Floats) -> Floats:
        values = dict(zip(names, np.exp(theta).tolist(), strict=True))
        found = np.log([time_of(task, values).total for task in tasks])
        parts = [weight * (found - measured), (theta - centre) / spread]
        joined: Floats = np.concatenate(parts)
        return joined

    best = _least_squares(residuals, centre)
    return {name: _rounded(math.exp(t)) for name, t in zip(names, best.tolist(), strict=True)}


def _least_squares(residuals: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Levenberg-Marquardt with central differences; at most 100 steps."""
    theta: Floats = start.copy()
    damping = 1e-3
    error = residuals(theta)
    eye = np.eye(len(theta))
    for _ in range(100):
        slopes = [residuals(theta + _STEP * e) - residuals(theta - _STEP * e) for e in eye]
        jacobian = np.array(slopes).T / (2 * _STEP)
        step = np.linalg.solve(jacobian.T @ jacobian + damping * eye, -jacobian.T @ error)
        tried = residuals(theta + step)
        if tried @ tried < error @ error:
            theta, error, damping = theta + step, tried, damping / 3
        else:
            damping *= 4
        if np.abs(step).max() < 1e-9:
            break
    return theta


def _rounded(value: float) -> float:
    """To the digits that every machine agrees on."""
    return float(f"{value:.{_DIGITS}g}")


@dataclass(frozen=True)
class LeftOut:
    """One row, estimated by a fit that did not see it.

    Attributes:
        without: the design of cores, or the publication, that was left out.
        estimate_ms: by that fit.
        error: max(estimate / published, published / estimate).
    """

    row: int
    without: str
    board: str
    group: Group
    published_ms: float
    estimate_ms: float
    error: float

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__}


def leave_out(rows: Sequence[Published], key: Callable[[Published], str]) -> tuple[LeftOut, ...]:
    """Each row estimated by a fit to the rows whose `key` is another, in the rows' order."""
    fits = {
        name: fit([row for row in rows if key(row) != name])
        for name in dict.fromkeys(map(key, rows))
    }
    found = []
    for row in rows:
        estimate = fits[key(row)].estimate(row)
        error = max(estimate / row.latency_ms, row.latency_ms / estimate)
        found.append(
            LeftOut(
                row=row.row,
                without=key(row),
                board=row.device.board,
                group=row.device.group,
                published_ms=row.latency_ms,
                estimate_ms=_rounded(estimate),
                error=_rounded(error),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Spread:
    """Errors of one kind of device, each row estimated without what it was left out with.

    Attributes:
        rows, boards: how many there are.
        left_out: how many designs of cores (or publications) were left out in turn.
        median, p90: of the ratio; None where there are too few to state either.
        worst: the largest, however few; None without a row.
    """

    rows: int
    boards: int
    left_out: int
    median: float | None
    p90: float | None
    worst: float | None

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__}


def spread_of(left_out: Sequence[LeftOut]) -> Spread:
    """The error of these rows; unknown below `FEWEST_BOARDS` boards or `FEWEST_ROWS` rows."""
    errors = [one.error for one in left_out]
    boards, parts = (len({getattr(o, name) for o in left_out}) for name in ("board", "without"))
    if not errors:
        return Spread(0, 0, 0, None, None, None)
    if boards < FEWEST_BOARDS or len(errors) < FEWEST_ROWS:
        return Spread(len(errors), boards, parts, None, None, max(errors))
    median, p90 = (_rounded(float(np.quantile(errors, q))) for q in (0.5, 0.9))
    return Spread(len(errors), boards, parts, median, p90, max(errors))


def spreads_by_group(left_out: Sequence[LeftOut]) -> dict[Group, Spread]:
    """The error per kind of device, in the order of `GROUPS`."""
    return {g: spread_of([one for one in left_out if one.group == g]) for g in GROUPS}


def fit_to_dict(rows: Sequence[Published]) -> dict[str, Any]:
    """All that `data/fit.json` holds: parameters, rows left out, errors."""
    cores = leave_out(rows, lambda row: row.device.core)
    sources = leave_out(rows, lambda row: row.publication)
    everything = spread_of(cores)
    return {
        "rows": [row.row for row in rows],
        "parameters": {side: dict(values) for side, values in fit(rows).parameters.items()},
        "priors": {
            side: {name: list(pair) for name, pair in PRIORS[side].items()} for side in PRIORS
        },
        "left_out_cores": [one.to_dict() for one in cores],
        "left_out_publications": [one.to_dict() for one in sources],
        "errors": {
            "all": everything.to_dict(),
            "by_publication": spread_of(sources).to_dict(),
            **{group: one.to_dict() for group, one in spreads_by_group(cores).items()},
        },
    }
