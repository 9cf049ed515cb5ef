"""The chart of `docs/estimate.md`: estimated against published, each design of cores left out.

    python benchmarks/estimate_chart.py [docs/estimate.png]

Each point is a published row, estimated by a fit that saw no row of a device with the same cores.
Needs matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from segformer_deploy.bench.devices import GROUP_NAMES, GROUPS
from segformer_deploy.bench.estimate import stored_fit
from segformer_deploy.bench.published import Published, published_rows
from segformer_deploy.files import atomic_file

COLOURS = {"jetson": "#1d5795", "gpu-card": "#6f3d86", "cpu-arm": "#d9822b", "cpu-x86": "#3b7d4f"}
MARKERS = {"fp32": "o", "fp16": "s", "int8": "^"}
GREY, DARK, PALE = "#6c7683", "#20262d", "#c3c8d0"
LIMITS = (4, 9000)
GOAL = 1.8
"""The shaded band; a point outside has its device's name."""


def write(path: Path) -> None:
    """A PNG at `path`, whole or as it was."""
    import matplotlib

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5}):
        figure = drawn()
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png")


def drawn() -> Any:
    """The figure, which no window and no global state of matplotlib knows of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 7), dpi=150)
    axes = figure.add_axes((0.1, 0.08, 0.87, 0.83))
    _guides(axes)
    rows = {row.row: row for row in published_rows()}
    for one in stored_fit()["left_out_cores"]:
        _point(axes, rows[one["row"]], one)
    _legend(axes)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=LIMITS,
        ylim=LIMITS,
        xlabel="published, ms",
        ylabel="estimated without devices of the same cores, ms",
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    error = stored_fit()["errors"]["all"]
    figure.text(
        0.02,
        0.975,
        f"Estimated against published latency: {error['rows']} rows, {error['boards']} devices, "
        f"median error {error['median']:.2f}x",
        fontsize=12,
        va="top",
        color=DARK,
    )
    return figure


def _guides(axes: Any) -> None:
    ends = list(LIMITS)
    axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.fill_between(
        ends, [e / GOAL for e in ends], [e * GOAL for e in ends], color=PALE, alpha=0.35, lw=0
    )


def _point(axes: Any, row: Published, one: dict[str, Any]) -> None:
    x, y = one["published_ms"], one["estimate_ms"]
    axes.plot(
        x,
        y,
        MARKERS[row.precision],
        color=COLOURS[one["group"]],
        markersize=6.5,
        markeredgewidth=0,
        alpha=0.85,
    )
    if one["error"] >= GOAL:
        above = y > x
        axes.annotate(
            f"{row.device.slug}, {row.variant} {row.precision}, {one['error']:.1f}x",
            (x, y),
            xytext=(-6 if above else 6, 7 if above else -11),
            textcoords="offset points",
            ha="right" if above else "left",
            fontsize=7.5,
            color=GREY,
        )


def _legend(axes: Any) -> None:
    errors = stored_fit()["errors"]
    for group in GROUPS:
        error = errors[group]
        if error["rows"]:
            known = error["median"] is not None
            text = f"median {error['median']:.2f}x" if known else "error unknown"
            label = f"{GROUP_NAMES[group]} ({error['boards']}), {text}"
            axes.plot([], [], "D", color=COLOURS[group], markersize=6, label=label)
    for precision, marker in MARKERS.items():
        axes.plot([], [], marker, color=GREY, markersize=6, label=precision)
    axes.fill_between([], [], [], color=PALE, alpha=0.35, label=f"within {GOAL}x")
    axes.legend(frameon=False, loc="upper left", fontsize=8.5)


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/estimate.png"))
