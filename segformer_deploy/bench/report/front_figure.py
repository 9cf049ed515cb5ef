"""The figure of the front: latency against memory."""

from __future__ import annotations

from collections.abc import Sequence

from segformer_deploy.bench.report.compare import names_of_cases
from segformer_deploy.bench.report.figures import SHAPES, badge_of, css_of, joined, legend
from segformer_deploy.bench.report.front import (
    by_miou,
    comparable,
    front_of_cases,
    without_sources,
)
from segformer_deploy.bench.report.model import Case
from segformer_deploy.bench.report.parts import Cell, Figure, Table, amount, count, fixed
from segformer_deploy.bench.report.scale import figure_text
from segformer_deploy.bench.report.xy import Point, plot


def front_figure(cases: Sequence[Case]) -> Figure | None:
    """Latency against memory; the numbered cases are those that no other beats."""
    placed = [case for case in cases if case.p50 is not None and case.peak_mib is not None]
    able = without_sources(placed)
    if len(able) < 2:
        return None
    names, common = names_of_cases(able)
    front = front_of_cases(able)
    numbers = {id(case): index for index, case in enumerate(sorted(front, key=_latency), 1)}
    points = [
        Point(
            case.p50 or 0.0,
            case.peak_mib or 0.0,
            f"{name}: {figure_text(case.p50 or 0)} ms, {figure_text(case.peak_mib or 0)} MiB",
            css_of(case.precision),
            SHAPES.get(case.precision, "diamond"),
            case.estimated,
            numbers.get(id(case), 0),
        )
        for name, case in zip(names, able, strict=True)
    ]
    wide, narrow = plot(
        points, "Latency against memory", "milliseconds per frame, p50", "peak memory, MiB"
    )
    order = sorted(
        zip(names, able, strict=True), key=lambda pair: (numbers.get(id(pair[1]), 999), pair[0])
    )
    table = Table(
        "The front, then the others",
        ("number", "case", "p50 ms", "peak MiB", "mIoU %"),
        tuple(
            (
                count(numbers.get(id(case))),
                Cell(name, None, badge_of(case)),
                amount(case.p50),
                amount(case.peak_mib),
                fixed(case.miou, 2),
            )
            for name, case in order
        ),
    )
    title = "The front: latency, memory, accuracy"
    caption = _front_caption(able) + _left_out(len(placed) - len(able))
    return Figure(title, joined(caption, common), wide, narrow, table, legend(able))


def _front_caption(able: Sequence[Case]) -> str:
    text = (
        "Numbered: no other case is at least as good in latency, memory and accuracy. Nearer to "
        "the lower left is better. "
    )
    if by_miou(comparable(able)):
        return f"{text}Accuracy is the mIoU."
    return (
        f"{text}Without an mIoU of every case, accuracy is taken to follow the variant, then size, "
        "then precision: an assumption, not a measurement."
    )


def _left_out(count: int) -> str:
    """Of cases that are on a source's frames beside others that are not."""
    if not count:
        return ""
    return (
        f" Left out: {count} on a source's frames, whose process also holds the libraries that "
        "decode and draw."
    )


def _latency(case: Case) -> float:
    return case.p50 or 0.0
