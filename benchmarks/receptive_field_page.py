"""The receptive field's tables and figure in docs/resolution.md, from the JSON."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

CELL = 8
"""Pixels of the frame per cell of the figure, each way."""
COLOURS = 64

FIELD_HEADING = (
    "| of what, by what | FP32: 50 / 90 / 99 % | INT8: 50 / 90 / 99 % "
    "| FP32: within ±32 / ±64 / ±128 px |",
    "|---|---|---|---|",
)
TILE_HEADING = (
    "| context around 256x256, px | FP32 % | worst frame | INT8 % | worst frame |",
    "|---|---|---|---|---|",
)
MARGIN_HEADING = (
    "| dropped along each side of a 256x256 tile, px | overlap of two tiles, px "
    "| FP32 % | worst frame | INT8 % | worst frame |",
    "|---|---|---|---|---|---|",
)


def field_table(data: dict[str, Any]) -> list[str]:
    """Half-sides in pixels, of the stages' and the logits' middle."""
    kinds = [data["precisions"][name]["fields"] for name in ("fp32", "int8")]
    rows = []
    for name, one in kinds[0].items():
        what, source = (part.replace(".norm", "").replace("stage", "stage ")
                        for part in name.split(" <- "))  # fmt: skip
        sides = [
            " / ".join(f"±{side:.0f}" for side in kind[name]["half_side_px"]) for kind in kinds
        ]
        shares = one.get("held")
        within = [f"{100 * shares[side]:.0f}" for side in ("32", "64", "128")] if shares else []
        text = f"{' / '.join(within)} %" if within else ""
        rows.append(f"| {what}, by the {source} | {sides[0]} | {sides[1]} | {text} |")
    return rows


def agreement_table(data: dict[str, Any], kind: str) -> list[str]:
    """Mean and worst agreement per ``context`` or ``margin``, in percent."""
    found = [data["precisions"][name]["tiles"][kind] for name in ("fp32", "int8")]
    rows = []
    for pixels in found[0]:
        cells = [pixels, str(2 * int(pixels))] if kind == "margin" else [pixels]
        for samples in (one[pixels] for one in found):
            cells += [f"{100 * float(np.mean(samples)):.2f}", f"{100 * min(samples):.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def lines(data: dict[str, Any]) -> list[str]:
    """What the page must hold."""
    return [
        *FIELD_HEADING,
        *field_table(data),
        *TILE_HEADING,
        *agreement_table(data, "context"),
        *MARGIN_HEADING,
        *agreement_table(data, "margin"),
    ]


def draw(fields: dict[str, dict[str, Any]], data: dict[str, Any], path: Path) -> None:
    """One row per precision, one column per stage and the logits; logarithmic colours.

    Args:
        fields: precision -> "of what <- by what" -> shares [size, size].
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle
    from PIL import Image

    names = ["stage1.norm", "stage2.norm", "stage3.norm", "stage4.norm", "logits"]
    half = data["task"]["size"] // 2
    figure, axes = pyplot.subplots(len(fields), 5, figsize=(8.2, 3.75), dpi=100)
    for row, (precision, found) in zip(axes, fields.items(), strict=True):
        for axis, name in zip(row, names, strict=True):
            mass = found[f"{name} <- image"]
            cells = mass.shape[0] // CELL
            coarse = mass.reshape(cells, CELL, cells, CELL).mean(axis=(1, 3))
            axis.imshow(
                np.log10(np.maximum(coarse / coarse.max(), 1e-4)), cmap="magma", vmin=-4, vmax=0,
                extent=(-half, half, half, -half), interpolation="nearest",
            )  # fmt: skip
            row_of = data["precisions"][precision]["fields"][f"{name} <- image"]
            side = row_of["half_side_px"][1]
            square = Rectangle((-side, -side), 2 * side, 2 * side, fill=False, color="#7fd3ff")
            axis.add_patch(square)
            title = name.split(".")[0].replace("stage", "stage ")
            axis.set_title(f"{title}, 90 %: ±{side:.0f} px", fontsize=8)
            axis.set_xticks([]), axis.set_yticks([])
        row[0].set_ylabel(precision.upper(), fontsize=9)
    figure.tight_layout(pad=0.4)
    picture = BytesIO()
    figure.savefig(picture)
    pyplot.close(figure)
    # A palette: a third of the bytes, and nothing that an eye would miss.
    Image.open(picture).convert("RGB").quantize(COLOURS).save(path, optimize=True)
