"""Least-squares fits with the standard error of their slope: straight lines and power laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segformer_deploy.errors import InputError


@dataclass(frozen=True)
class Line:
    """``y = intercept + slope x``.

    Attributes:
        slope_error: standard error of the slope; None from two points, which leave no residual.
        points: how many were fitted.
    """

    intercept: float
    slope: float
    slope_error: float | None
    points: int

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


@dataclass(frozen=True)
class PowerLaw:
    """``y = factor x^exponent``, fitted in logarithms, where a relative error weighs the same
    at every x."""

    factor: float
    exponent: float
    exponent_error: float | None
    points: int

    def at(self, x: float) -> float:
        return float(self.factor * x**self.exponent)


def straight_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Ordinary least squares; InputError where fewer than two different x leave no slope."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape or not a.size or not np.isfinite([a, b]).all():
        raise _unusable(x, y, "as many y as x, all finite")
    centred = a - a.mean()
    spread = float(centred @ centred)
    if len(np.unique(a)) < 2 or spread == 0:
        raise _unusable(x, y, "two different x or more")
    slope = float(centred @ b) / spread
    intercept = float(b.mean() - slope * a.mean())
    error = None
    if a.size > 2:
        residual = b - intercept - slope * a
        error = float(np.sqrt(residual @ residual / (a.size - 2) / spread))
    return Line(intercept, slope, error, int(a.size))


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """A straight line in logarithms; InputError where a value is not above 0."""
    if min([*x, *y], default=0) <= 0:
        raise _unusable(x, y, "values above 0, which have a logarithm")
    line = straight_line(np.log(x).tolist(), np.log(y).tolist())
    return PowerLaw(float(np.exp(line.intercept)), line.slope, line.slope_error, line.points)


def _unusable(x: Sequence[float], y: Sequence[float], expected: str) -> InputError:
    return InputError(
        f"nothing to fit: x {list(x)}, y {list(y)}", expected, "look at the samples of those points"
    )
