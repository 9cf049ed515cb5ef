"""Plots with one row per case: a dot with its whisker, a bar, a bar in pieces.

Each is drawn for a wide page (names to the left) and a narrow one (names above), because a
picture that is only scaled down to a phone has letters that nobody can read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segformer_deploy.bench.report import svg
from segformer_deploy.bench.report.scale import Scale, figure_text, scale_from_values, tick_text

_TOP, _AXIS = 8.0, 46.0


@dataclass(frozen=True)
class Layout:
    css: str
    width: float
    names_above: bool
    row: float
    ticks: int


WIDE = Layout("wide", 900.0, False, 25.0, 8)
NARROW = Layout("narrow", 340.0, True, 42.0, 5)
LAYOUTS = (WIDE, NARROW)


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        name: which one.
        middle: the dot, or the bar's length; None where there is no figure (`text` says why).
        low, high: the whisker's ends.
        text: the figure in words, at the row's end.
        css, shape: colour class and mark.
        hollow: not measured.
        limit: where the bar's limit stands, and whether it was kept (None: not known).
        pieces: (css class, name, length) of a bar in pieces.
        apart: a thin line above it: another kind of case begins.
    """

    name: str
    middle: float | None
    text: str
    low: float | None = None
    high: float | None = None
    css: str = ""
    shape: str = "circle"
    hollow: bool = False
    limit: tuple[float, bool | None] | None = None
    pieces: tuple[tuple[str, str, float], ...] = ()
    apart: bool = False


Draw = Callable[[Row, Scale, float], str]


def whiskers(rows: Sequence[Row], name: str, axis: str) -> tuple[str, str]:
    """Dots with whiskers, wide and narrow; logarithmic where the values span more than 20x."""
    values = [v for row in rows for v in (row.low, row.middle, row.high) if v is not None]
    return _both(rows, name, axis, values, _whisker)


def bars(rows: Sequence[Row], name: str, axis: str) -> tuple[str, str]:
    """Bars from 0, with a mark at each limit that is not far outside."""
    values = [row.middle for row in rows if row.middle is not None]
    most = 3 * max(values, default=0.0)
    values += [row.limit[0] for row in rows if row.limit and (row.limit[0] <= most or not most)]
    return _both(rows, name, axis, values, _bar, log=False)


def stacks(rows: Sequence[Row], name: str, axis: str, *, shares: bool = False) -> tuple[str, str]:
    """Bars in pieces, from 0; with `shares` all of one length, in percent."""
    if shares:
        return _both(rows, name, axis, [100.0], _share_stack, log=False)
    values = [row.middle for row in rows if row.middle is not None]
    return _both(rows, name, axis, values, _stack, log=False)


def _both(
    rows: Sequence[Row],
    name: str,
    axis: str,
    values: Sequence[float],
    draw: Draw,
    *,
    log: bool | None = None,
) -> tuple[str, str]:
    drawn = [_plot(layout, rows, name, axis, values, draw, log) for layout in LAYOUTS]
    return drawn[0], drawn[1]


def _plot(
    layout: Layout,
    rows: Sequence[Row],
    name: str,
    axis: str,
    values: Sequence[float],
    draw: Draw,
    log: bool | None,
) -> str:
    left, right = _margins(layout, rows)
    scale = scale_from_values(values, left, layout.width - right, log=log, most=layout.ticks)
    height = _TOP + layout.row * len(rows)
    body = [_axis(layout, scale, axis, height)]
    everywhere = all(row.apart for row in rows[1:])
    for index, row in enumerate(rows):
        y = _TOP + layout.row * index
        if row.apart and not everywhere:
            body.append(svg.line(4, y, layout.width - 4, y, "apart"))
        body.append(_named(layout, row, y, left, right))
        middle = y + (30.0 if layout.names_above else layout.row / 2)
        shown = row.middle is not None or row.limit is not None
        if shown:
            body.append(svg.group(_css(row), draw(row, scale, middle), title=_told(row)))
    return svg.picture(layout.width, height + _AXIS, name, "".join(body), layout.css)


def _margins(layout: Layout, rows: Sequence[Row]) -> tuple[float, float]:
    if layout.names_above:
        return 8.0, 14.0
    names = max((len(row.name) for row in rows), default=0) * svg.CHARACTER
    figures = [len(row.text) for row in rows if row.middle is not None]
    # Figures are bold, and so wider.
    bold = max(figures, default=0) * svg.CHARACTER * 1.15
    return min(names, 330.0) + 16.0, min(bold, 250.0) + 18.0


def _axis(layout: Layout, scale: Scale, axis: str, height: float) -> str:
    parts = []
    for tick in scale.ticks(layout.ticks):
        x = scale.at(tick)
        parts.append(svg.line(x, _TOP, x, height, "grid"))
        parts.append(svg.words(x, height + 17, tick_text(tick), "tick", "middle"))
    how = f"{axis}, logarithmic" if scale.log else axis
    parts.append(svg.line(scale.start, height, scale.end, height, "base"))
    parts.append(svg.words((scale.start + scale.end) / 2, height + 38, how, "axis", "middle"))
    return "".join(parts)


def _named(layout: Layout, row: Row, y: float, left: float, right: float) -> str:
    css = "value" if row.middle is not None else "missing"
    if layout.names_above:
        room = layout.width - 20 - len(row.text) * svg.CHARACTER
        if row.middle is None:  # the reason takes the mark's place
            name = svg.label(8, y + 14, row.name, layout.width - 16, "name")
            return name + svg.label(8, y + 32, row.text, layout.width - 16, css)
        name = svg.label(8, y + 14, row.name, max(room, 110), "name")
        return name + svg.words(layout.width - 6, y + 14, row.text, css, "end")
    middle = y + layout.row / 2 + 4.5
    name = svg.label(left - 10, middle, row.name, left - 14, "name", "end")
    if row.middle is None:
        return name + svg.label(left + 6, middle, row.text, layout.width - left - 12, css)
    return name + svg.words(layout.width - right + 12, middle, row.text, css)


def _whisker(row: Row, scale: Scale, y: float) -> str:
    assert row.middle is not None
    x = scale.at(row.middle)
    low = scale.at(row.low if row.low is not None else row.middle)
    high = scale.at(row.high if row.high is not None else row.middle)
    parts = [svg.line(low, y, high, y, "whisker")]
    if row.low != row.high:
        # Taller than the mark, so that a narrow whisker shows beside it.
        parts += [svg.line(end, y - 8, end, y + 8, "whisker") for end in (low, high)]
    return "".join([*parts, svg.mark(row.shape, x, y, 4.5)])


def _bar(row: Row, scale: Scale, y: float) -> str:
    parts = []
    if row.middle is not None:
        length = scale.at(row.middle) - scale.start
        parts.append(svg.rect(scale.start, y - 7, length, 14, "bar", 2))
    if row.limit is not None and row.limit[0] <= scale.high:
        x = scale.at(row.limit[0])
        strokes = [(x, y - 10, x, y + 10)]
        if row.limit[1] is False:
            strokes += [(x - 5, y - 5, x + 5, y + 5), (x - 5, y + 5, x + 5, y - 5)]
        # A halo first: a mark may lie on its bar.
        parts += [svg.line(*stroke, css) for css in ("halo", "limit") for stroke in strokes]
    return "".join(parts)


def _share_stack(row: Row, scale: Scale, y: float) -> str:
    return _stack(row, scale, y, 100 / (row.middle or 1.0))


def _stack(row: Row, scale: Scale, y: float, factor: float = 1.0) -> str:
    parts, x = [], scale.start
    for css, name, length in row.pieces:
        width = scale.at(length * factor) - scale.start
        told = f"{name}: {figure_text(length)} ms"
        inside = ""
        if width > len(figure_text(length)) * svg.CHARACTER + 8:
            inside = svg.words(x + width / 2, y + 4.2, figure_text(length), "inside", "middle")
        piece = svg.rect(x, y - 8.5, max(width - 1, 0.5), 17, "piece")
        parts.append(svg.group(css, piece, inside, title=told))
        x += width
    return "".join(parts)


def _css(row: Row) -> str:
    return f"{row.css} hollow".strip() if row.hollow else row.css


def _told(row: Row) -> str:
    return f"{row.name}: {row.text}"
