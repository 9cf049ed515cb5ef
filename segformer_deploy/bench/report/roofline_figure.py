"""The roofline, drawn."""

from __future__ import annotations

from collections.abc import Sequence

from segformer_deploy.bench.report.compare import names_of_cases
from segformer_deploy.bench.report.figures import SHAPES, badge_of, css_of, legend
from segformer_deploy.bench.report.parts import Cell, Figure, Table, amount, fixed
from segformer_deploy.bench.report.roofline import Peaks, Roofline, Work
from segformer_deploy.bench.report.scale import figure_text
from segformer_deploy.bench.report.xy import Line, Point, plot


def roofline_figure(found: Roofline) -> Figure | None:
    """Reached against intensity, under the roof where one is known."""
    if not found.works:
        return None
    works = found.works
    names, _ = names_of_cases([work.case for work in works])
    points = [
        Point(
            work.intensity,
            work.gmac_s,
            f"{name}: {figure_text(work.gmac_s)} GMAC/s at {figure_text(work.intensity)} MAC/byte",
            css_of(work.case.precision),
            SHAPES.get(work.case.precision, "diamond"),
            work.case.estimated,
            index,
        )
        for index, (name, work) in enumerate(zip(names, works, strict=True), 1)
    ]
    wide, narrow = plot(
        points,
        "Roofline",
        "MAC per byte moved",
        "GMAC/s",
        lines=_roofs(found.peaks, works),
        log=True,
    )
    return Figure(
        "Roofline",
        _caption(found),
        wide,
        narrow,
        _table(names, works, found.peaks),
        legend([work.case for work in works]),
    )


def _roofs(peaks: Peaks, works: Sequence[Work]) -> list[Line]:
    low = min(work.intensity for work in works) / 3
    high = max(work.intensity for work in works) * 3
    css = "roof" if peaks.measured else "roof stated"
    lines = []
    for precision, peak in peaks.gmac_s.items():
        name = f"{precision} peak {figure_text(peak)}"
        if peaks.gb_s is None:
            lines.append(Line(((low, peak), (high, peak)), css, name))
            continue
        ridge = peak / peaks.gb_s
        end = max(high, 2 * ridge)
        lines.append(Line(((low, low * peaks.gb_s), (ridge, peak), (end, peak)), css, name))
    return lines


def _caption(found: Roofline) -> str:
    text = (
        "What the network reached (its own stage where that is known) against its multiply-"
        "accumulates per byte moved, if each layer reads its inputs and weights once and writes "
        "its output once."
    )
    peaks = found.peaks
    if not peaks.gmac_s:
        text += " No roof is drawn: this machine's peaks are not known."
    else:
        text += f" Roof: {peaks.source}" + ("." if peaks.measured else ", not measured here.")
        if peaks.gb_s is None:
            text += " Its memory bandwidth is not known, so the roof has no slope."
    if found.left_out:
        text += f" Left out: cases where {'; '.join(found.left_out)}."
    return text


def attainable(work: Work, peaks: Peaks) -> float | None:
    """10^9 MACs a second at most, in the case's own precision; None where no peak is known."""
    peak = peaks.gmac_s.get(work.case.precision)
    if peak is None:
        return None
    return peak if peaks.gb_s is None else min(peak, work.intensity * peaks.gb_s)


def _table(names: Sequence[str], works: Sequence[Work], peaks: Peaks) -> Table:
    rows = []
    for index, (name, work) in enumerate(zip(names, works, strict=True), 1):
        most = attainable(work, peaks)
        rows.append(
            (
                Cell(str(index), float(index)),
                Cell(name, None, badge_of(work.case)),
                amount(work.macs / 1e9),
                amount(work.bytes / 1e6),
                amount(work.intensity),
                amount(work.gmac_s),
                amount(most),
                fixed(None if most is None else 100 * work.gmac_s / most, 1),
            )
        )
    columns = (
        "number", "case", "GMAC", "MB moved", "MAC/byte", "GMAC/s reached", "at most", "share %",
    )  # fmt: skip
    return Table("Roofline", columns, tuple(rows))
