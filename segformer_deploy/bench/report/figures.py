"""The figures of one machine's cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segformer_deploy.bench.report import rows as plots
from segformer_deploy.bench.report import svg
from segformer_deploy.bench.report.compare import names_of_cases
from segformer_deploy.bench.report.model import PRECISIONS, Case
from segformer_deploy.bench.report.parts import Cell, Figure, Table, amount, count, fixed
from segformer_deploy.bench.report.rows import Row
from segformer_deploy.bench.report.scale import figure_text

SHAPES = {"fp32": "circle", "fp16": "square", "int8": "triangle"}
_STAGES = {
    "capture": "stage-d", "copy_in": "stage-e", "preprocess": "stage-a", "infer": "stage-b",
    "segment": "stage-b", "class_map": "stage-c", "copy_out": "stage-e", "draw": "stage-f",
}  # fmt: skip
_SHARES_FROM = 8.0
"""Totals further apart than this make bars too short to be read: shares are drawn then."""
_TIME = "milliseconds per frame"


def css_of(precision: str) -> str:
    return precision if precision in PRECISIONS else "plain"


def badge_of(case: Case) -> str:
    if case.estimated:
        return "estimated"
    return "random weights" if case.random else ""


def latency_figure(cases: Sequence[Case]) -> Figure | None:
    """A dot at the median, a whisker from p10 to p90, per case; failed cases say why."""
    if not any(case.p50 is not None for case in cases):
        return None
    names, common = names_of_cases(cases)
    drawn = [
        Row(
            name,
            case.p50,
            _missing(case) if case.p50 is None else f"{figure_text(case.p50)} ms{_aside(case)}",
            low=case.p10 if case.p10 is not None else case.p50,
            high=case.p90 if case.p90 is not None else case.p50,
            css=css_of(case.precision),
            shape=SHAPES.get(case.precision, "diamond"),
            hollow=case.estimated,
            apart=_apart(cases, index),
        )
        for index, (name, case) in enumerate(zip(names, cases, strict=True))
    ]
    wide, narrow = plots.whiskers(drawn, "Latency per case", _TIME)
    table = Table(
        "Latency per case",
        ("case", *time_columns(cases), "p99 ms", "first ms", "runs"),
        tuple(
            (
                Cell(name, None, badge_of(case)),
                amount(case.p10),
                amount(case.p50),
                amount(case.p90),
                amount(case.p99),
                amount(case.first_ms),
                count(case.samples or None),
            )
            for name, case in zip(names, cases, strict=True)
        ),
    )
    caption = (
        "Time from a frame in memory to its class map. Dot: median; whisker: the 10th to the 90th "
        "percentile of the runs. Less is better."
    )
    if all(case.estimated for case in cases):
        caption = (
            "Estimated time of the network alone for one frame; whisker: the estimate's own range, "
            "where its error is known. Less is better."
        )
    elif any(case.estimated for case in cases):
        caption += " Hollow: estimated, with the estimate's own range."
    return Figure("Latency", joined(caption, common), wide, narrow, table, legend(cases))


def time_columns(cases: Sequence[Case]) -> tuple[str, str, str]:
    """The names of p10, p50 and p90: an estimate has no percentiles, but a range."""
    if all(case.estimated for case in cases):
        return "low ms", "estimated ms", "high ms"
    return "p10 ms", "p50 ms", "p90 ms"


def memory_figure(cases: Sequence[Case]) -> Figure | None:
    """Bars of peak memory; a mark stands at each limit, crossed where it was broken."""
    shown = [case for case in cases if case.peak_mib is not None or case.limit is not None]
    if not any(case.peak_mib is not None for case in shown):
        return None
    names, common = names_of_cases(shown)
    drawn = [
        replace(_memory_row(name, case), apart=_apart(shown, index))
        for index, (name, case) in enumerate(zip(names, shown, strict=True))
    ]
    wide, narrow = plots.bars(drawn, "Peak memory per case", "peak memory, MiB")
    table = Table(
        "Peak memory per case",
        ("case", "peak MiB", "limit"),
        tuple(
            (
                Cell(name, None, badge_of(case)),
                amount(case.peak_mib),
                Cell(case.limit.text if case.limit else "none"),
            )
            for name, case in zip(names, shown, strict=True)
        ),
    )
    caption = (
        "Peak resident memory of the whole process: interpreter, libraries, weights, activations "
        "and buffers. Less is better."
    )
    if any(case.video for case in shown):
        caption += " On a source's frames it also holds the libraries that decode and draw."
    if any(case.limit for case in shown):
        caption += " Upright mark: the limit the case ran under; crossed where it was broken."
    if all(case.estimated for case in shown):
        caption = "Estimated memory: on a GPU its own, on a CPU the process's. Less is better."
    return Figure("Memory", joined(caption, common), wide, narrow, table, legend(shown, bar=True))


def _memory_row(name: str, case: Case) -> Row:
    text = "did not finish" if case.error else "not stated"
    if case.peak_mib is not None:
        text = f"{figure_text(case.peak_mib)} MiB{_aside(case)}"
    limit = (case.limit.mib, case.limit.survived) if case.limit else None
    return Row(
        name,
        case.peak_mib,
        text,
        css=css_of(case.precision),
        hollow=case.estimated,
        limit=limit if case.peak_mib is not None else None,
    )


def stage_figure(cases: Sequence[Case]) -> Figure | None:
    """The stages' medians end to end."""
    shown = [case for case in cases if case.stages]
    if not shown:
        return None
    names, common = names_of_cases(shown)
    stages = list(dict.fromkeys([*_STAGES, *(name for case in shown for name in case.stages)]))
    stages = [name for name in stages if any(name in case.stages for case in shown)]
    css = {name: _STAGES.get(name, "stage-e") for name in stages}
    drawn = [
        Row(
            name,
            total := sum(case.stages.values()),
            f"{figure_text(total)} ms",
            pieces=tuple((css[key], key, case.stages[key]) for key in stages if key in case.stages),
            apart=_apart(shown, index),
        )
        for index, (name, case) in enumerate(zip(names, shown, strict=True))
    ]
    totals = [row.middle for row in drawn if row.middle]
    shares = max(totals) > _SHARES_FROM * min(totals)
    axis = "share of the stages, %" if shares else "milliseconds per frame"
    wide, narrow = plots.stacks(drawn, "Latency by stage", axis, shares=shares)
    table = Table(
        "Latency by stage, medians",
        ("case", *(f"{stage} ms" for stage in stages), "share of infer %"),
        tuple(
            (
                Cell(name, None, badge_of(case)),
                *(amount(case.stages.get(stage)) for stage in stages),
                fixed(_share(case), 1),
            )
            for name, case in zip(names, shown, strict=True)
        ),
    )
    caption = "Medians of each stage in ms; they need not add up to the median of the whole."
    if shares:
        caption += " The totals lie far apart, so each bar is drawn to the same length."
    keys = tuple(
        (_key(svg.group(css[stage], svg.rect(2, 2, 18, 12, "piece"))), stage) for stage in stages
    )
    return Figure("Latency by stage", joined(caption, common), wide, narrow, table, keys)


def _share(case: Case) -> float | None:
    infer = case.stages.get("infer")
    return None if infer is None else 100 * infer / sum(case.stages.values())


def legend(cases: Sequence[Case], *, bar: bool = False) -> tuple[tuple[str, str], ...]:
    """A mark per precision, hollow where all is estimated."""
    found = []
    for precision in dict.fromkeys(sorted((case.precision for case in cases), key=_rank)):
        drawn = (
            svg.rect(2, 3, 18, 10, "bar", 2)
            if bar
            else svg.mark(SHAPES.get(precision, "diamond"), 11, 8)
        )
        css = css_of(precision) + (" hollow" if all(case.estimated for case in cases) else "")
        found.append((_key(svg.group(css, drawn)), precision or "not stated"))
    return tuple(found)


def _apart(cases: Sequence[Case], index: int) -> bool:
    """Whether a new variant, size or device begins here."""
    if index == 0:
        return False
    one, two = cases[index - 1], cases[index]
    return (one.variant, one.size, one.machine.key) != (two.variant, two.size, two.machine.key)


def _rank(precision: str) -> int:
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def _key(drawn: str) -> str:
    return f'<svg viewBox="0 0 22 16" aria-hidden="true">{drawn}</svg>'


def _aside(case: Case) -> str:
    return " est." if case.estimated else " *" if case.warnings else ""


def _missing(case: Case) -> str:
    return case.error.partition(";")[0] if case.error else "no latency in the file"


def joined(caption: str, common: str) -> str:
    """The caption, and what all of its cases share."""
    return f"{caption} All: {common}." if common else caption
