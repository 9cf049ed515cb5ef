"""The chart of `benchmarks/scaling.py`: time and memory along the four axes, from its JSON.

Network and frame have the same colours in every panel; greys are what they are held against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling_fit import Line, PowerLaw
from scaling_report import value_of

from segformer_deploy.files import atomic_file

COLOURS = {"network": "#1d5795", "frame": "#d9822b"}
MARKERS = {"network": "o", "frame": "s"}
GREY, DARK, PALE = "#6c7683", "#20262d", "#c3c8d0"
CLOSEST_LABELS = 0.12
"""Of the axis's width; nearer than this two sizes written below it would touch."""


def write(data: dict[str, Any], path: Path) -> None:
    """A PNG at `path`, whole or as it was."""
    import matplotlib

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5}):
        figure = drawn(data)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png")


def drawn(data: dict[str, Any]) -> Any:
    """The figure, which no window and no global state of matplotlib knows of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.6), dpi=150)
    grid = figure.add_gridspec(
        2, 2, hspace=0.28, wspace=0.34, left=0.07, right=0.93, top=0.905, bottom=0.065
    )
    # Two axes with few points share the last cell.
    last = grid[1, 1].subgridspec(1, 2, wspace=0.42)
    _time(figure.add_subplot(grid[0, 0]), data)
    _memory(figure.add_subplot(grid[0, 1]), data)
    _classes(figure.add_subplot(grid[1, 0]), data)
    _batch(figure.add_subplot(last[0, 0]), data)
    _threads(figure.add_subplot(last[0, 1]), data)
    figure.text(0.02, 0.975, _title(data), fontsize=12, va="top", color=DARK)
    return figure


def _title(data: dict[str, Any]) -> str:
    task, machine = data["task"], data["machine"]
    return (
        f"SegFormer-{task['variant'].upper()}, {task['classes']} classes, "
        f"{task['threads']} threads of {machine['cpu']}, {data['engine']}"
    )


def _time(axes: Any, data: dict[str, Any]) -> None:
    points = _points(data, "pixels")
    for what in COLOURS:
        label = f"{what}: as pixels^{_fit(data, 'pixels', f'{what}_ms')['text']}"
        _draw(axes, data, "pixels", f"{what}_ms", label)
    axes.set(xscale="log", yscale="log", ylabel="ms")
    _title_of(axes, "Time against pixels, and time per multiply-accumulate")
    # Room below the points for the second scale's line, and above them for the legend.
    times = [point["frame_ms"]["median"] for point in points]
    axes.set_ylim(min(times) / 6, max(times) * 5)
    _name_sizes(axes, points)
    other = axes.twinx()
    per_mac = [point["ms_per_gmac"] for point in points]
    (line,) = other.plot(
        [p["pixels"] for p in points], per_mac, "D:", color=GREY, markersize=3.5, linewidth=1.2
    )
    product = next(p for p in data["product"] if p["threads"] == points[0]["threads"])
    best = 1e3 / product["gmac_per_s"]
    peak = other.axhline(best, color=PALE, linewidth=1.2)
    other.set_ylim(0, 4.5 * max(*per_mac, best))
    other.set_ylabel("ms per GMAC", color=GREY)
    _bare(other, "right")
    handles, labels = axes.get_legend_handles_labels()
    _legend(
        axes,
        [*handles, line, peak],
        [*labels, "network per GMAC (right)", "matrix product per GMAC (right)"],
    )


def _memory(axes: Any, data: dict[str, Any]) -> None:
    points = _points(data, "pixels")
    for what in COLOURS:
        label = f"{what}: as pixels^{_fit(data, 'pixels', f'{what}_memory')['text']}"
        _draw(axes, data, "pixels", f"{what}_memory", label)
    pixels = [point["pixels"] for point in points]
    found = [value_of(point, f"{what}_memory") for point in points for what in COLOURS]
    # As pixels, through the largest point: what grows slower lies above it on the left.
    top = value_of(points[pixels.index(max(pixels))], "frame_memory")
    guide = [top * count / max(pixels) for count in pixels]
    axes.plot(pixels, guide, "--", color=GREY, linewidth=1.1, label="as pixels^1", zorder=1)
    axes.set(xscale="log", yscale="log", ylabel="MiB beside the loaded engine")
    axes.set_ylim(min(*found, *guide) / 1.6, max(found) * 4)
    _name_sizes(axes, points)
    _title_of(axes, "Memory while running against pixels")
    _legend(axes)


def _classes(axes: Any, data: dict[str, Any]) -> None:
    _from_zero(axes, data, "classes", "{what}: {fit} per class")
    axes.set(xlabel="classes", ylabel="ms")
    _title_of(axes, f"Time against classes, {data['task']['size_of_classes_and_threads']}")


def _batch(axes: Any, data: dict[str, Any]) -> None:
    _from_zero(axes, data, "batch", "{what}: b^{fit}")
    axes.set(xlabel="frames in a batch, b", ylabel="ms a batch")
    _title_of(axes, f"Batch, {data['task']['size_of_batches']}")


def _from_zero(axes: Any, data: dict[str, Any], axis: str, label: str) -> None:
    """Times along `axis` on linear scales, with room above them for the legend."""
    for what in COLOURS:
        quantity = f"{what}_ms"
        text = label.format(what=what, fit=_fit(data, axis, quantity)["text"])
        _draw(axes, data, axis, quantity, text)
    points = _points(data, axis)
    axes.set_ylim(0, 1.45 * max(point["frame_ms"]["p75"] for point in points))
    axes.set_xticks([point[axis] for point in points])
    _legend(axes)


def _threads(axes: Any, data: dict[str, Any]) -> None:
    """No law here: beside the points what they would be if every thread did its full share."""
    points = _points(data, "threads")
    counts = [point["threads"] for point in points]
    for what in COLOURS:
        _draw(axes, data, "threads", f"{what}_ms", what)
    single = points[0]["frame_ms"]["median"]
    full_share = [single / count for count in counts]
    axes.plot(counts, full_share, "--", color=GREY, linewidth=1.1, label="one / threads", zorder=1)
    axes.set_ylim(0, 1.6 * max(point["frame_ms"]["p75"] for point in points))
    axes.set_xscale("log", base=2)  # the counts double
    axes.set_xlim(min(counts) / 1.3, max(counts) * 1.3)
    axes.minorticks_off()
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set(xlabel="threads")
    _title_of(axes, f"Threads, {data['task']['size_of_classes_and_threads']}")
    _legend(axes)


def _draw(axes: Any, data: dict[str, Any], axis: str, quantity: str, label: str) -> None:
    """Medians, their quartiles where there are any, and the fitted law where there is one."""
    what = quantity.partition("_")[0]
    points = _points(data, axis)
    x = [point[axis] for point in points]
    y = [value_of(point, quantity) for point in points]
    style = {"color": COLOURS[what], "markersize": 4.5, "markeredgewidth": 0}
    axes.errorbar(
        x, y, yerr=_quartiles(points, quantity, y), fmt=MARKERS[what], label=label,
        elinewidth=1, capsize=2, zorder=3, **style,
    )  # fmt: skip
    law = _law(data, axis, quantity)
    if law is not None:
        steps = [min(x) * (max(x) / min(x)) ** (step / 60) for step in range(61)]
        line = [law.at(step) for step in steps]
        axes.plot(steps, line, color=COLOURS[what], linewidth=1, alpha=0.6, zorder=2)
    _bare(axes, "left", "bottom")


def _quartiles(
    points: Sequence[dict[str, Any]], quantity: str, medians: Sequence[float]
) -> list[list[float]] | None:
    if not quantity.endswith("_ms"):
        return None
    below = [m - p[quantity]["p25"] for m, p in zip(medians, points, strict=True)]
    above = [p[quantity]["p75"] - m for m, p in zip(medians, points, strict=True)]
    return [below, above]


def _points(data: dict[str, Any], axis: str) -> list[dict[str, Any]]:
    named = {point["name"]: point for point in data["points"]}
    return [named[name] for name in data["axes"][axis]]


def _fit(data: dict[str, Any], axis: str, y: str) -> dict[str, Any]:
    """The law of `y` along the axis's own quantity."""
    return next(f for f in data["fits"] if (f["axis"], f["x"], f["y"]) == (axis, axis, y))


def _law(data: dict[str, Any], axis: str, y: str) -> Line | PowerLaw | None:
    if axis == "threads":
        return None
    fit = _fit(data, axis, y)
    if fit["kind"] == "power":
        return PowerLaw(fit["factor"], fit["exponent"], fit["exponent_error"], fit["points"])
    return Line(fit["intercept"], fit["slope"], fit["slope_error"], fit["points"])


def _name_sizes(axes: Any, points: Sequence[dict[str, Any]]) -> None:
    """Sizes below a logarithmic axis of pixels, those left out that would touch another."""
    from matplotlib.ticker import NullLocator

    ordered = sorted(points, key=lambda point: point["pixels"])
    width = math.log(ordered[-1]["pixels"] / ordered[0]["pixels"])
    kept: list[dict[str, Any]] = []
    for point in ordered:
        gap = math.log(point["pixels"] / kept[-1]["pixels"]) if kept else math.inf
        if gap > CLOSEST_LABELS * width:
            kept.append(point)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(
        [point["pixels"] for point in kept],
        ["x".join(map(str, point["size"])) for point in kept],
        fontsize=7.5,
    )


def _title_of(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=10.5, color=DARK, loc="left")


def _legend(axes: Any, *what: Any) -> None:
    axes.legend(
        *what, frameon=False, loc="upper left", fontsize=8.5, handlelength=1.6, handletextpad=0.4
    )


def _bare(axes: Any, *kept: str) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in kept)
        spine.set_color(PALE)
    axes.tick_params(which="both", color=PALE, labelcolor=GREY)
