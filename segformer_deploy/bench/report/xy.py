"""Plots of one figure against another: the front, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segformer_deploy.bench.report import svg
from segformer_deploy.bench.report.scale import Scale, scale_from_values, tick_text


@dataclass(frozen=True)
class Point:
    """A mark. `number` ties it to its row in the table; 0 for one that is not numbered.

    `quiet`: one without a number is drawn smaller and fainter.
    """

    x: float
    y: float
    name: str
    css: str
    shape: str
    hollow: bool = False
    number: int = 0
    quiet: bool = True


@dataclass(frozen=True)
class Line:
    """A line through points in the plot's units, with a name at its end."""

    points: tuple[tuple[float, float], ...]
    css: str
    name: str = ""


_SIZES = (("wide", 900.0, 430.0, 8), ("narrow", 340.0, 330.0, 5))


def plot(
    points: Sequence[Point],
    name: str,
    x_axis: str,
    y_axis: str,
    *,
    lines: Sequence[Line] = (),
    log: bool | None = None,
    linear_y: bool = False,
) -> tuple[str, str]:
    """Marks and lines, drawn for a wide and a narrow page; axes as `scale_from_values` says.

    `linear_y`: up from 0 whatever `log` says, as percentages are.
    """
    logs = (log, False if linear_y else log)
    drawn = [
        _plot(points, lines, name, (x_axis, y_axis), logs, css, width, height, ticks)
        for css, width, height, ticks in _SIZES
    ]
    return drawn[0], drawn[1]


def _plot(
    points: Sequence[Point],
    lines: Sequence[Line],
    name: str,
    axes: tuple[str, str],
    logs: tuple[bool | None, bool | None],
    css: str,
    width: float,
    height: float,
    ticks: int,
) -> str:
    xs = [point.x for point in points] + [x for line in lines for x, _ in line.points]
    ys = [point.y for point in points] + [y for line in lines for _, y in line.points]
    bottom = height - 48
    x_scale = scale_from_values(xs, 50, width - 18, log=logs[0], most=ticks)
    y_scale = scale_from_values(ys, bottom, 32, log=logs[1], most=6)
    body = [_grid(x_scale, y_scale, axes, ticks)]
    for line in lines:
        corners = [(x_scale.at(x), y_scale.at(y)) for x, y in line.points]
        body.append(svg.path(corners, line.css))
        if line.name:
            x, y = corners[-1]
            body.append(svg.words(x - 2, y - 7, line.name, "tick", "end"))
    taken = [(x_scale.at(p.x), y_scale.at(p.y) + 4) for p in points if p.number]
    small = [(x_scale.at(p.x), y_scale.at(p.y) + 4) for p in points if not p.number]
    for point in sorted(points, key=lambda entry: entry.number > 0):
        body.append(_mark(point, x_scale, y_scale, taken, small))
    return svg.picture(width, height, name, "".join(body), css)


def _grid(x_scale: Scale, y_scale: Scale, axes: tuple[str, str], ticks: int) -> str:
    left, right, bottom, top = x_scale.start, x_scale.end, y_scale.start, y_scale.end
    parts = []
    for tick in x_scale.ticks(ticks):
        x = x_scale.at(tick)
        parts.append(svg.line(x, top, x, bottom, "grid"))
        parts.append(svg.words(x, bottom + 17, tick_text(tick), "tick", "middle"))
    for tick in y_scale.ticks(6):
        y = y_scale.at(tick)
        parts.append(svg.line(left, y, right, y, "grid"))
        parts.append(svg.words(left - 7, y + 4, tick_text(tick), "tick", "end"))
    parts += [
        svg.line(left, bottom, right, bottom, "base"),
        svg.line(left, top, left, bottom, "base"),
    ]
    x_name, y_name = (
        f"{axis}, logarithmic" if scale.log else axis
        for axis, scale in zip(axes, (x_scale, y_scale), strict=True)
    )
    parts.append(svg.words((left + right) / 2, bottom + 38, x_name, "axis", "middle"))
    # Above the axis, lying: a reader need not turn the head.
    parts.append(svg.words(4, 15, y_name, "axis"))
    return "".join(parts)


def _mark(
    point: Point,
    x_scale: Scale,
    y_scale: Scale,
    taken: list[tuple[float, float]],
    small: list[tuple[float, float]],
) -> str:
    """The mark and its number, which keeps off what is `taken` and, where it can, `small` marks."""
    x, y = x_scale.at(point.x), y_scale.at(point.y)
    css = point.css + (" hollow" if point.hollow else "")
    if not point.number:
        css += " behind" if point.quiet else ""
        return svg.group(css, svg.mark(point.shape, x, y, 4.5), title=point.name)
    places = [(0, -11), (14, 4), (-14, 4), (0, 20), (13, -9), (-13, -9), (13, 17), (-13, 17)]
    inside = [
        (x + dx, y + dy)
        for dx, dy in places
        if x_scale.start + 6 < x + dx < x_scale.end - 2 and y_scale.end < y + dy < y_scale.start
    ]
    free = [spot for spot in inside if all(_apart(spot, other) for other in taken)]
    # A stable sort: of the spots that touch no small mark the first, else the first of all.
    free.sort(key=lambda spot: not all(_apart(spot, other) for other in small))
    number = ""  # where there is no room the pointer and the table tell
    if free:
        taken.append(free[0])
        number = svg.words(*free[0], str(point.number), "number", "middle")
    return svg.group(css, svg.mark(point.shape, x, y, 6.5), number, title=point.name)


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) > 13 or abs(one[1] - other[1]) > 12
