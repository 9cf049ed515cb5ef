"""The plot: memory in bytes against mIoU, from the results' JSON.

Filled marks were measured, memory and mIoU both; hollow ones have a measured mIoU above a bound of
memory. Squares are whole processes on a PC that ran B0 at 512x512 in FP32 (`peers-b0-512.json`:
measured with 150 classes and random weights), drawn at the FP32 mIoU of this checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segformer_deploy.files import atomic_file

KEPT, AGAIN, GREY, DARK, PALE = "#1d5795", "#d9822b", "#6c7683", "#20262d", "#c3c8d0"
QUESTION = 100_000
PROCESS_SIZE = "512x512"


def write(data: dict[str, Any], results: Path, path: Path) -> None:
    """A PNG at `path`, whole or as it was; `results` is the folder of the other JSON files."""
    import matplotlib

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5}):
        figure = drawn(data, processes(results))
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png")


def processes(results: Path) -> list[tuple[str, float]]:
    """Name and peak bytes of FP32 processes measured by `benchmarks/peers.py`; none, no file."""
    file = results / "peers-b0-512.json"
    if not file.exists():
        return []
    names = {
        "segformer-deploy": "this package, FP32",
        "our export, ONNX Runtime": "ONNX Runtime, FP32",
        "transformers, PyTorch eager": "PyTorch, FP32",
    }
    found = json.loads(file.read_text("utf-8"))["results"]
    return [(names[one["name"]], 1e6 * one["peak_mb"]) for one in found if one["name"] in names]


def drawn(data: dict[str, Any], others: list[tuple[str, float]]) -> Any:
    """The figure, which no window and no global state of matplotlib knows of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), dpi=150)
    axes = figure.add_axes((0.07, 0.1, 0.9, 0.8))
    points = sorted(data["points"], key=lambda point: point["pixels"])
    _references(axes, data, points)
    _curve(axes, points, "keep", "bound_c1_to_c4", KEPT, "o", "stage 1's output kept")
    _curve(axes, points, "again", "bound_c1_again", AGAIN, "D", "stage 1's output made again")
    _processes(axes, points, others)
    axes.set(xscale="log", xlabel="bytes of memory", ylabel="mIoU, %")
    axes.set_xlim(7e3, 2.5e9)
    axes.set_ylim(0, 1.18 * max(point["fp32_miou"] for point in points))
    _sizes(axes, points)
    sizes = {1e4: "10 KB", 1e5: "100 KB", 1e6: "1 MB", 1e7: "10 MB", 1e8: "100 MB", 1e9: "1 GB"}
    axes.set_xticks(list(sizes), list(sizes.values()))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(PALE)
    axes.tick_params(which="both", color=PALE, labelcolor=GREY)
    axes.set_title(
        "SegFormer-B0 on CamVid: 8-bit activations in one arena, weights in flash",
        fontsize=11.5, color=DARK, loc="left",
    )  # fmt: skip
    axes.legend(frameon=False, loc="lower right", fontsize=8.5)
    return figure


def _references(axes: Any, data: dict[str, Any], points: list[dict[str, Any]]) -> None:
    half = points[-1]["fp32_miou"] / 2
    for height, text in (
        (half, "half of FP32 at " + points[-1]["size"]),
        (data["prior_miou"], "no network: each pixel's most frequent class"),
    ):
        axes.axhline(height, color=PALE, linewidth=1, zorder=0)
        axes.annotate(text, (2.3e9, height + 0.5), ha="right", fontsize=8, color=GREY)
    axes.axvline(QUESTION, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.annotate(
        "the paper's question:\n100,000 bytes", (QUESTION * 1.05, 1), fontsize=8, color=GREY
    )


def _curve(
    axes: Any,
    points: list[dict[str, Any]],
    kind: str,
    bound: str,
    colour: str,
    marker: str,
    label: str,
) -> None:
    y = [point["int8_miou"] for point in points]
    x = [point[kind]["arena_bytes"] for point in points]
    style = {"color": colour, "markersize": 5, "linewidth": 1}
    axes.plot(x, y, marker + "-", label=f"{label}: arena, measured", zorder=3, **style)
    axes.plot(
        [point[bound] for point in points], y, marker + ":", markerfacecolor="white",
        label=f"{label}: live set, a bound", zorder=2, **style,
    )  # fmt: skip


def _sizes(axes: Any, points: list[dict[str, Any]]) -> None:
    """Name the sizes of the kept curve, where a name touches no mark and no other name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    scale = axes.figure.dpi / 72
    taken = [
        box
        for line in axes.get_lines()
        if line.get_marker() not in (None, "None", "")
        for box in _marks(axes, line, scale)
    ]
    for point in reversed(points):
        spot = (point["keep"]["arena_bytes"], point["int8_miou"])
        for offset in ((7, -10), (9, -3), (5, -17), (9, 3)):
            text = axes.annotate(
                point["size"], spot, offset, textcoords="offset points", fontsize=7, color=KEPT,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3}, zorder=2.5,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _marks(axes: Any, line: Any, scale: float) -> list[Any]:
    """The boxes, in pixels, of a line's marks."""
    from matplotlib.transforms import Bbox

    half = (line.get_markersize() / 2 + 1) * scale
    found = axes.transData.transform(line.get_xydata())
    return [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in found]


def _processes(axes: Any, points: list[dict[str, Any]], others: list[tuple[str, float]]) -> None:
    found = [point for point in points if point["size"] == PROCESS_SIZE]
    if not found or not others:
        return
    height = found[0]["fp32_miou"]
    axes.plot(
        [size for _, size in others], [height] * len(others), "s", color=DARK, markersize=5,
        label=f"FP32 processes at {PROCESS_SIZE}, peak memory measured",
    )  # fmt: skip
    for name, size in others:
        axes.annotate(
            name, (size, height), (0, 7), textcoords="offset points", rotation=25, fontsize=7.5,
            color=GREY,
        )  # fmt: skip
