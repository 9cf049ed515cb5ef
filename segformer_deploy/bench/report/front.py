"""Which cases are worth having: the Pareto front, and the winner of each budget.

A case leaves the front when another of the same machine is at least as good in latency, memory
and accuracy, and better in one. Cases on a source's frames stay out where there are others: their
process also holds the libraries that decode and draw, and so more memory.

Accuracy is the mIoU where every case has one from the same images; else networks are put in an
order: larger variant, then larger size, then wider precision. That order is an assumption, not a
measurement; `segdeploy fit` makes the same one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segformer_deploy.bench.report.fields import pixels_of
from segformer_deploy.bench.report.model import PRECISIONS, Case

MEMORY_BUDGETS_MIB = (64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0, 2048.0, 4096.0)
LATENCY_BUDGETS_MS = (5.0, 1000 / 120, 1000 / 60, 1000 / 30, 1000 / 15, 100.0, 200.0, 500.0, 1e3)
_MOST_BUDGETS = 4


@dataclass(frozen=True)
class Winners:
    """The best case for each pair of budgets; infinity stands for "any".

    `cases[row][column]` is for `memory_mib[row]` and `latency_ms[column]`, None where nothing
    fits. `scored`: by mIoU, else by the order of networks.
    """

    memory_mib: tuple[float, ...]
    latency_ms: tuple[float, ...]
    cases: tuple[tuple[Case | None, ...], ...]
    scored: bool


def comparable(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The measured ones that have latency and memory, and kept the limit they ran under."""
    return tuple(
        case
        for case in cases
        if case.p50 is not None
        and case.peak_mib is not None
        and not case.error
        and not case.estimated
        and not (case.limit and case.limit.survived is False)
    )


def without_sources(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Those on one frame in memory; all, where each is on a source's frames."""
    return tuple(case for case in cases if not case.video) or tuple(cases)


def by_miou(cases: Sequence[Case]) -> bool:
    """Whether accuracy is measured: every case has an mIoU, all from the same images."""
    tasks = {case.accuracy.task if case.accuracy is not None else None for case in cases}
    return len(tasks) == 1 and all(case.miou is not None for case in cases)


def merit(case: Case, scored: bool) -> tuple[Any, ...]:
    """What accuracy is compared by: more is better."""
    if scored:
        return (case.miou or 0.0,)
    known = case.precision in PRECISIONS
    return (case.variant, pixels_of(case.size), -PRECISIONS.index(case.precision) if known else -9)


def front_of_cases(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases that no other beats, in the order given; of equals all stay."""
    able = comparable(without_sources(cases))
    scored = by_miou(able)
    return tuple(case for case in able if not any(beats(other, case, scored) for other in able))


def beats(one: Case, other: Case, scored: bool) -> bool:
    """Whether `one` is as good as `other` in all three, and better in one."""
    if one.machine.key != other.machine.key or _frames(one) != _frames(other):
        return False
    mine, theirs = _costs(one), _costs(other)
    good, wanted = merit(one, scored), merit(other, scored)
    as_good = mine[0] <= theirs[0] and mine[1] <= theirs[1] and good >= wanted
    return as_good and (mine != theirs or good > wanted)


def winners_of_cases(cases: Sequence[Case]) -> Winners | None:
    """The most accurate that fits, of equals the faster, then the smaller.

    None where fewer than two cases can be compared, or where they segment different frames.
    """
    able = comparable(without_sources(cases))
    if len(able) < 2 or len({_frames(case) for case in able}) > 1:
        return None
    scored = by_miou(able)
    memory = _useful(MEMORY_BUDGETS_MIB, [_costs(case)[1] for case in able])
    latency = _useful(LATENCY_BUDGETS_MS, [_costs(case)[0] for case in able])
    grid = tuple(tuple(_best(able, mib, ms, scored) for ms in latency) for mib in memory)
    return Winners(memory, latency, grid, scored)


def _best(able: Sequence[Case], mib: float, ms: float, scored: bool) -> Case | None:
    fitting = [case for case in able if _costs(case)[0] <= ms and _costs(case)[1] <= mib]
    return max(
        fitting,
        key=lambda case: (merit(case, scored), -_costs(case)[0], -_costs(case)[1]),
        default=None,
    )


def _frames(case: Case) -> tuple[Any, ...]:
    return case.frame, case.video, case.drawn


def _costs(case: Case) -> tuple[float, float]:
    return case.p50 or 0.0, case.peak_mib or 0.0


def _useful(budgets: Sequence[float], values: Sequence[float]) -> tuple[float, ...]:
    """Budgets that some cases keep and some do not, thinned out evenly, and "any"."""
    found = [budget for budget in budgets if min(values) <= budget < max(values)]
    if len(found) > _MOST_BUDGETS:
        step = (len(found) - 1) / (_MOST_BUDGETS - 1)
        found = [found[round(index * step)] for index in range(_MOST_BUDGETS)]
    return (*found, math.inf)
