"""One machine's section: its facts, its figures, what wins under each budget, all its cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

from segformer_deploy.bench.report.compare import names_of_cases, speed_over_fp32
from segformer_deploy.bench.report.figures import (
    badge_of,
    latency_figure,
    memory_figure,
    stage_figure,
    time_columns,
)
from segformer_deploy.bench.report.front import winners_of_cases
from segformer_deploy.bench.report.front_figure import front_figure
from segformer_deploy.bench.report.machine import LOAD
from segformer_deploy.bench.report.model import Case, Group, Other
from segformer_deploy.bench.report.parts import (
    Block,
    Cell,
    Section,
    Table,
    amount,
    count,
    fixed,
)
from segformer_deploy.bench.report.roofline import Roofline, roofline_of_group
from segformer_deploy.bench.report.roofline_figure import roofline_figure
from segformer_deploy.bench.report.scale import figure_text


def section_of_group(group: Group, others: Sequence[Other], index: int) -> Section:
    """The section of one machine; `index` makes its anchor."""
    estimated, alone = group.estimated, group.one_machine
    roofline = roofline_of_group(group, others) if alone else Roofline()
    found = (
        latency_figure(group.cases),
        memory_figure(group.cases),
        stage_figure(group.timed),
        front_figure(group.cases) if alone else None,
        _winners_table(group),
        roofline_figure(roofline),
        _all_cases(group),
        _failures(group),
        _warnings(group),
    )
    blocks: list[Block] = [block for block in found if block is not None]
    name = group.machine.name
    if not estimated:
        cores = dict(group.machine.facts).get("cores for the process")
        name += f", {cores} cores" if cores else ""
        name += f", {group.machine.power_mode}" if group.machine.power_mode else ""
    return Section(
        f"machine-{index + 1}",
        ("Estimated: " + name if alone else "Estimated devices") if estimated else name,
        (roofline.absent,) if roofline.absent else (),
        tuple(_callouts(group, estimated)),
        _facts(group),
        () if estimated else _tiles(group),
        tuple(blocks),
    )


def _facts(group: Group) -> tuple[tuple[str, str], ...]:
    versions: dict[str, list[str]] = {}
    for case in group.cases:
        for library, version in case.machine.versions.items():
            if version not in versions.setdefault(library, []):
                versions[library].append(version)
    backends = dict.fromkeys(case.backend for case in group.cases if case.backend)
    found = list(group.machine.facts) if group.one_machine else []
    loads = _loads(group)
    if loads and max(loads) > min(loads):
        # Of all cases, not of the first: a busy machine must not hide behind a quiet start.
        text = f"{min(loads):.3g} to {max(loads):.3g}"
        found = [(name, text if name == LOAD else value) for name, value in found]
    if versions:
        texts = [f"{name} {' and '.join(all_)}" for name, all_ in versions.items()]
        found.append(("versions", ", ".join(texts)))
    if backends:
        found.append(("engines", ", ".join(backends)))
    basis = dict.fromkeys(case.basis for case in group.cases if case.basis)
    if basis:
        found.append(("error of estimates", "; ".join(basis)))
    return tuple(found)


def _loads(group: Group) -> list[float]:
    """The load average before each case that states one."""
    found = (case.machine.load for case in group.cases)
    return [load for load in found if load is not None]


def _tiles(group: Group) -> tuple[tuple[str, str, str], ...]:
    """What a reader looks for first, over the measured cases of this machine."""
    real = [case for case in group.timed if not case.estimated]
    if not real:
        return ()
    names, _ = names_of_cases(real)
    name_of = {id(case): name for case, name in zip(real, names, strict=True)}
    fastest = min(real, key=lambda case: case.p50 or 0.0)
    fps = f"{figure_text(1000 / (fastest.p50 or 1))} frames per second"
    found = [("fastest", f"{figure_text(fastest.p50 or 0)} ms", f"{name_of[id(fastest)]}; {fps}")]
    weighed = [case for case in real if case.peak_mib is not None]
    if weighed:
        least = min(weighed, key=lambda case: case.peak_mib or 0.0)
        found.append(
            ("least memory", f"{figure_text(least.peak_mib or 0)} MiB", name_of[id(least)])
        )
    scored = [case for case in real if case.miou is not None]
    if scored:
        best = max(scored, key=lambda case: case.miou or 0.0)
        assert best.accuracy is not None
        told = f"{name_of[id(best)]}; {best.accuracy.images} images"
        found.append(("highest mIoU", f"{best.accuracy.miou:.2f} %", told))
    ratios = [(ratio, case) for case in real if (ratio := speed_over_fp32(case, group.cases))]
    if ratios:
        ratio, case = max(ratios, key=lambda pair: pair[0])
        found.append(("most gained over FP32", f"{ratio:.2f}x", name_of[id(case)]))
    return tuple(found)


def _callouts(group: Group, estimated: bool) -> list[str]:
    found = []
    if group.cases and all(case.random for case in group.cases):
        found.append("All cases here ran with random weights.")
    if estimated:
        found.append("Estimated, not measured: nothing in this section ran on these devices.")
    if not group.machine.said and not estimated:
        found.append("These files do not say which machine they come from.")
    runs = dict.fromkeys(case.run for case in group.cases if not case.estimated)
    if len(runs) > 1:
        found.append(
            f"{len(runs)} runs ({', '.join(runs)}): measured at different times; ratios stay "
            "within one run."
        )
    versions = {tuple(sorted(case.machine.versions.items())) for case in group.cases}
    if len(versions) > 1 and not estimated:
        found.append("Library versions differ between these cases.")
    busiest = max(_loads(group), default=0.0)
    cores = dict(group.machine.facts).get("cores for the process")
    if cores and busiest > int(cores):
        found.append(
            f"The machine was busy before some runs: a load up to {busiest:.3g} on {cores} cores."
        )
    warned = sum(bool(case.warnings) for case in group.cases)
    if warned:
        found.append(
            f"{warned} of {len(group.cases)} cases carry a warning; the table of warnings below "
            "says which. Their figures are marked with a star."
        )
    return found


def _warnings(group: Group) -> Table | None:
    names, _ = names_of_cases(group.cases)
    rows = tuple(
        (Cell(name), Cell(warning))
        for name, case in zip(names, group.cases, strict=True)
        for warning in case.warnings
    )
    return (
        Table("Warnings", ("case", "what makes its figures less than fair"), rows) if rows else None
    )


def _winners_table(group: Group) -> Table | None:
    found = winners_of_cases(group.cases)
    if found is None:
        return None
    names, _ = names_of_cases(group.cases)
    name_of = {id(case): name for case, name in zip(group.cases, names, strict=True)}
    rows = tuple(
        (
            Cell("any memory" if math.isinf(mib) else f"up to {mib:.0f} MiB"),
            *(
                Cell("none fits" if case is None else name_of[id(case)], None, _badge(case))
                for case in winners
            ),
        )
        for mib, winners in zip(found.memory_mib, found.cases, strict=True)
    )
    columns = tuple(
        "any latency" if math.isinf(ms) else f"up to {ms:.3g} ms ({1000 / ms:.3g} per second)"
        for ms in found.latency_ms
    )
    how = "highest mIoU" if found.scored else "largest variant, then size, then widest precision"
    return Table(f"The winner of each budget: {how}", ("", *columns), rows)


def _badge(case: Case | None) -> str:
    return "" if case is None else badge_of(case)


def _all_cases(group: Group) -> Table:
    names, _ = names_of_cases(group.cases)
    joules = any(case.joules is not None for case in group.cases)
    columns = [
        "case", *time_columns(group.cases)[1:], "p99 ms", "per second", "peak MiB", "x FP32",
        "mIoU %", "runs",
    ]  # fmt: skip
    rows = []
    for name, case in zip(names, group.cases, strict=True):
        row = [
            Cell(name, None, badge_of(case)),
            amount(case.p50),
            amount(case.p90),
            amount(case.p99),
            amount(1000 / case.p50 if case.p50 else None),
            amount(case.peak_mib),
            fixed(speed_over_fp32(case, group.cases), 2),
            fixed(case.miou, 2),
            count(case.samples or None),
        ]
        rows.append(tuple([*row, amount(case.joules)] if joules else row))
    return Table("All cases", tuple([*columns, "J per frame"] if joules else columns), tuple(rows))


def _failures(group: Group) -> Table | None:
    failed: list[Case] = [case for case in group.cases if case.error]
    if not failed:
        return None
    names, _ = names_of_cases(group.cases)
    name_of = {id(case): name for case, name in zip(group.cases, names, strict=True)}
    rows = tuple((Cell(name_of[id(case)]), Cell(case.error)) for case in failed)
    return Table("Cases that failed", ("case", "why, and what next"), rows)
