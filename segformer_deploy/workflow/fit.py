"""Memory and latency of a device -> the network to take: measured here, cheap ones first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segformer_deploy.bench.case import Case
from segformer_deploy.bench.matrix import (
    MatrixReport,
    Measure,
    OnAgain,
    OnCase,
    check_names,
    matrix_cases,
    run_matrix,
)
from segformer_deploy.bench.pareto import (
    Budget,
    FitReport,
    Point,
    check_order,
    drawing,
    pick,
    point_from_result,
)
from segformer_deploy.bench.stored import Shelf
from segformer_deploy.engine.backend import AUTO, CPU_BACKENDS, NATIVE
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.bench_engines import EngineSource

CHART = "front.png"


def fit(
    sources: Sequence[EngineSource],
    sizes: Sequence[str],
    backends: Sequence[str],
    threads: Sequence[int | None],
    like: Case,
    budget: Budget,
    folder: Path,
    measure: Measure,
    *,
    percentile: str = "p50",
    on_case: OnCase = lambda _case, _result, _kept: None,
    on_skip: Callable[[str, str], object] = lambda _name, _why: None,
    on_again: OnAgain = lambda _case, _why: None,
) -> FitReport:
    """Measure what may be within the budget, cheap cases first, and pick.

    A case is skipped where a network that is smaller in variant and size, with the same
    precision, backend and threads, was measured to be over the budget already.

    Args:
        like: what all cases share, labelled frames among it.
        folder: gets one JSON per case, and the chart.
        on_skip: called with each skipped case's name and why.
        on_again: as in `run_matrix`.

    Raises InputError where two cases would have one name, and where which network is more
    accurate is neither known nor to be measured.
    """
    if like.images is None:
        check_order([source.variant for source in sources])
    plans = _plans(sources, sizes, backends, threads, like)
    check_names([plan for _, plan in plans])
    report = FitReport(budget, MatrixReport(folder))
    shelf = Shelf(folder)
    by_name: dict[str, EngineSource] = {}
    seen: list[tuple[EngineSource, Point]] = []
    for source, plan in plans:
        why = _cannot_win(plan, [one for other, one in seen if source.grows_like(other)], budget)
        if why is not None:
            report.skipped[plan.name] = why
            on_skip(plan.name, why)
            continue
        cases = matrix_cases([source.engine], [plan.size], [plan.backend], [plan.threads], like)
        run_matrix(
            *(cases, folder, measure),
            on_case=on_case,
            on_again=on_again,
            report=report.matrix,
            shelf=shelf,
        )
        point = point_from_result(report.matrix.results[-1], percentile)
        if point is not None:
            report.points.append(point)
            seen.append((source, point))
        by_name[plan.name] = source
    report.winner = pick(report.points, budget)
    if report.winner is not None:
        report.commands = _filled(by_name[report.winner.name], report.winner)
    chart = folder / CHART
    if report.points and drawing(report.points, budget, report.winner, chart):
        report.chart = chart
    return report


def _plans(
    sources: Sequence[EngineSource],
    sizes: Sequence[str],
    backends: Sequence[str],
    threads: Sequence[int | None],
    like: Case,
) -> list[tuple[EngineSource, Case]]:
    """Every case with its source, cheap ones first; no engine is made for that."""
    plans = [
        (
            source,
            replace(
                like,
                engine=str(source.path or ""),
                label=source.label,
                variant=source.variant,
                precision=source.precision,
                size=size,
                backend=backend,
                threads=count,
            ),
        )
        for source in sources
        for size in sizes
        for backend in backends
        for count in threads
    ]
    return sorted(plans, key=lambda one: (one[1].variant, _pixels(one[1].size or "")))


def _pixels(size: str) -> int:
    height, width = _sides(size)
    return height * width


def _sides(size: str) -> tuple[int, int]:
    parsed = FrameSize.parse(size)
    return parsed.height, parsed.width


def _cannot_win(plan: Case, points: Sequence[Point], budget: Budget) -> str | None:
    """Why: latency and memory grow with variant and size, all else being equal.

    Args:
        points: of engines that differ from the plan's in variant and precision at most.
    """
    for point in points:
        case = Case.from_dict(point.result["case"])
        alike = (case.precision, case.backend, case.threads) == (
            *(plan.precision, plan.backend, plan.threads),
        )
        if not alike or case.size is None or plan.size is None:
            continue
        (h, w), (height, width) = _sides(case.size), _sides(plan.size)
        if (case.variant or "") <= (plan.variant or "") and h <= height and w <= width:
            why = budget.out_of_reach(point)
            if why is not None:
                return f"{point.name} is smaller, and {why}"
    return None


def _filled(source: EngineSource, winner: Point) -> tuple[str, ...]:
    backend = winner.result["case"]["backend"]
    if backend == AUTO:
        ran = str(winner.result["backend"])
        backend = next((one for one in CPU_BACKENDS if ran.lower().startswith(one)), NATIVE)
    return tuple(
        text.format(size=winner.result["size"], backend=backend) for text in source.commands
    )
