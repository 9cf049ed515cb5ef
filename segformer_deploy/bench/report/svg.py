"""The few SVG elements that the figures need, as text.

Colours are classes, so that the page's style sheet decides them for light, dark and print. No
namespace and no reference stands in them: inside HTML5 neither is needed.
"""

from __future__ import annotations

from html import escape

CHARACTER = 7.4
"""A character's width in px at the figures' 12.5 px; of a wide font, so that nothing is cut."""


def shortened(label: str, width: float) -> str:
    """`label` with its middle left out where it is wider than `width` px."""
    most = max(int(width / CHARACTER), 4)
    if len(label) <= most:
        return label
    head = (most - 1) // 2
    return f"{label[:head]}…{label[len(label) - (most - 1 - head) :]}"


def words(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    extra = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{_css(css)}{extra}>{escape(content)}</text>'


def label(x: float, y: float, content: str, width: float, css: str = "", anchor: str = "") -> str:
    """Text that is shortened to `width`; the whole of it shows under the pointer."""
    short = shortened(content, width)
    drawn = words(x, y, short, css, anchor or "start")
    if short == content:
        return drawn
    return f"<g><title>{escape(content)}</title>{drawn}</g>"


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_css(css)}/>'


def rect(x: float, y: float, width: float, height: float, css: str, radius: float = 0) -> str:
    round_ = f' rx="{radius:g}"' if radius else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
        f'height="{height:.1f}"{round_}{_css(css)}/>'
    )


def path(points: list[tuple[float, float]], css: str) -> str:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}"{_css(css)}/>'


def mark(shape: str, x: float, y: float, size: float = 5.5) -> str:
    """A `circle`, `square`, `triangle` or `diamond` around a point: equal in area by eye."""
    if shape == "square":
        side = size * 0.88
        return rect(x - side, y - side, 2 * side, 2 * side, "mark")
    if shape == "triangle":
        corners = [(x, y - size * 1.2), (x + size * 1.15, y + size * 0.85)]
        return path([*corners, (x - size * 1.15, y + size * 0.85), corners[0]], "mark")
    if shape == "diamond":
        reach = size * 1.25
        corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
        return path([*corners, corners[0]], "mark")
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" class="mark"/>'


def group(css: str, *parts: str, title: str = "") -> str:
    """Several elements with one class, and a text under the pointer."""
    told = f"<title>{escape(title)}</title>" if title else ""
    return f"<g{_css(css)}>{told}{''.join(parts)}</g>"


def picture(width: float, height: float, name: str, body: str, css: str) -> str:
    """The whole: named for a screen reader, which finds the figures in the table beneath."""
    return (
        f'<svg class="{css}" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'aria-label="{escape(name)}">{body}</svg>'
    )


def _css(css: str) -> str:
    return f' class="{css}"' if css else ""
