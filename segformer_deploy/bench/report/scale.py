"""Axes: values -> pixels, and ticks on round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_FROM = 20.0
"""The range (largest over smallest) above which an axis becomes logarithmic."""

_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Values `low`..`high` -> pixels `start`..`end` (which may run down, for a vertical axis)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of `value`; values outside land on the nearest end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """At most `most` round values from `low` to `high`, rising."""
        found = _log_ticks(self.low, self.high, most) if self.log else []
        # A logarithmic axis within one decade may have too few round powers: 1-2-5 by steps.
        return found if len(found) > 1 else linear_ticks(self.low, self.high, most)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within `low`..`high`."""
    step = nice_step((high - low) / max(most - 1, 1))
    begin, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(begin, end + 1)][:most]


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `rough` (above 0)."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((step * power for step in _STEPS if step * power >= rough * (1 - 1e-9)), 10 * power)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [
            tick
            for power in range(first, last + 1)
            for factor in factors
            if low * (1 - 1e-9) <= (tick := factor * 10.0**power) <= high * (1 + 1e-9)
        ]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def scale_from_values(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool | None = None,
    most: int = 6,
) -> Scale:
    """An axis that holds all `values` (above 0) and ends on a round number.

    Logarithmic where the largest is more than 20 times the smallest, unless `log` says; a linear
    one starts at 0, so that lengths and distances may be compared.
    """
    above = [value for value in values if value > 0]
    if not above:
        return Scale(0.0, 1.0, start, end)
    low, high = min(above), max(above)
    if log is None:
        log = high / low > LOG_FROM
    if log:
        low, high = _round_down(low / 1.08), _round_up(high * 1.08)
        return Scale(low, high, start, end, log=True)
    step = nice_step(high / max(most - 1, 1))
    return Scale(0.0, math.ceil(high / step - 1e-9) * step, start, end)


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max((step * power for step in _STEPS if step * power <= value), default=power)


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in _STEPS if step * power >= value), 10 * power)


def tick_text(value: float) -> str:
    """`0.5`, `20`, `1000`, `20k`: short, without a trailing zero."""
    if value >= 1e9:
        return f"{value / 1e9:g}G"
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    if value >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.6g}"


def figure_text(value: float) -> str:
    """A measured value with three figures that count: `0.832`, `49.5`, `1075`."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}"
