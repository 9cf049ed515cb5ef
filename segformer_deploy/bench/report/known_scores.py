"""The repository's own results on accuracy: mIoU over sizes, how far a pixel looks."""

from __future__ import annotations

from segformer_deploy.bench.report import xy
from segformer_deploy.bench.report.fields import items, mapping, number, numbers, positive, text
from segformer_deploy.bench.report.known_parts import Built, Data, key, mean_and_worst, percent
from segformer_deploy.bench.report.parts import Cell, Figure, Table, fixed

_ASPECTS = {"kept": ("ours", "circle"), "stretched": ("peer", "square")}


def resolution(data: Data) -> Built:
    """mIoU over the size at which frames enter the network."""
    sizes = [mapping(entry) for entry in items(data["sizes"])]
    points = []
    for index, entry in enumerate(sizes, 1):
        pixels, miou = pixels_of(text(entry.get("size"))), positive(entry.get("miou"))
        if pixels is None or miou is None:
            continue
        aspect = text(entry.get("aspect"))
        css, shape = _ASPECTS.get(aspect, ("plain", "diamond"))
        points.append(
            xy.Point(pixels, miou, f"{text(entry.get('size'))}, {aspect}", css, shape, False, index)
        )
    kept = tuple(sorted((point.x, point.y) for point in points if point.css == "ours"))
    lines = [xy.Line(kept, "curve ours")] if kept else []
    wide, narrow = xy.plot(
        points, "mIoU over pixels", "pixels of the network's input", "mIoU, %",
        lines=lines, log=True, linear_y=True,
    )  # fmt: skip
    table = Table(
        "mIoU over sizes",
        ("size", "aspect ratio", "mIoU %", "pixel accuracy %"),
        tuple(
            (
                Cell(f"{index}: {text(entry.get('size'))}"),
                Cell(text(entry.get("aspect"))),
                fixed(number(entry.get("miou")), 2),
                fixed(number(entry.get("pixel_accuracy")), 2),
            )
            for index, entry in enumerate(sizes, 1)
        ),
    )
    legend = tuple(key(*style, f"aspect ratio {name}") for name, style in _ASPECTS.items())
    caption = f"Numbers: rows of the table. Trained at {text(data.get('trained_at'))}."
    figure = Figure("mIoU over pixels", caption, wide, narrow, table, legend)
    leads = (
        f"{text(mapping(data.get('model')).get('checkpoint'))} on {text(data.get('images'))} "
        "images; class maps are made and scored at the frames' own size.",
    )
    return "Accuracy over resolution", leads, (figure,)


def pixels_of(size: str) -> float | None:
    """Height times width of a text HxW."""
    height, _, width = size.partition("x")
    return float(int(height) * int(width)) if height.isdigit() and width.isdigit() else None


def receptive_field(data: Data) -> Built:
    """How far around a pixel the network looks, and what tiles lose by it."""
    precisions = {str(name): mapping(one) for name, one in mapping(data["precisions"]).items()}
    shares = [f"{100 * share:.0f} %" for share in numbers(mapping(data["task"])["shares"])]
    fields, tiles = [], []
    for precision, found in precisions.items():
        for name, one in mapping(found["fields"]).items():
            sides = numbers(mapping(one).get("half_side_px"))
            held = mapping(mapping(one).get("held"))
            fields.append(
                (
                    Cell(f"{precision}: {str(name).replace('.norm', '')}"),
                    *(fixed(side, 0) for side in sides[: len(shares)]),
                    *(Cell("-") for _ in shares[len(sides) :]),
                    fixed(percent(held.get("64")), 1),
                )
            )
        for kind in ("context", "margin"):
            for pixels, samples in mapping(mapping(found["tiles"]).get(kind)).items():
                mean, worst = mean_and_worst(numbers(samples))
                name = f"{precision}: {pixels} px of {kind}"
                tiles.append((Cell(name), fixed(mean, 2), fixed(worst, 2)))
    task = mapping(data["task"])
    leads = (
        "Half sides are of the square around a pixel that holds that share of the gradient's mean "
        f"over {text(task.get('frames'))} frames of {text(task.get('size'))} pixels square.",
    )
    columns = ("of what <- by what", *(f"{share}, px" for share in shares), "within 64 px %")
    agreement = ("tiles", "agreement with the whole frame %", "worst frame %")
    side = text(task.get("tile"))
    return (
        "Receptive field",
        leads,
        (
            Table("Half sides of the receptive field", columns, tuple(fields)),
            Table(f"Tiles of {side}x{side} pixels", agreement, tuple(tiles)),
        ),
    )
