"""The repository's own result on tiles: what they cost in masks, and save in memory."""

from __future__ import annotations

from collections.abc import Sequence

from segformer_deploy.bench.latency import percentile
from segformer_deploy.bench.report.fields import items, mapping, number, numbers, text
from segformer_deploy.bench.report.known_parts import Built, Data
from segformer_deploy.bench.report.parts import Cell, Table, amount, fixed

_COLUMNS = (
    "network sees", "mIoU %", "points gained", "same pixels %, median",
    "same pixels %, worst frame", "peak MiB", "times the whole's time",
)  # fmt: skip


def tiles(data: Data) -> Built:
    """One row per tiling, under the whole frame at the same size."""
    cases = [mapping(entry) for entry in items(data["cases"])]
    wholes = {text(one.get("size")): one for one in cases if one.get("tiling") is None}
    rows = tuple(_row(one, mapping(wholes.get(text(one.get("size"))))) for one in cases)
    leads = (
        f"{text(mapping(data.get('model')).get('checkpoint'))} on {text(data.get('images'))} "
        f"frames, {text(data.get('engine'))}, {text(data.get('threads'))} threads; trained at "
        f"{text(data.get('trained_at'))}. Class maps are made and scored at the frames' own size.",
        "Points gained and same pixels are against the whole frame at the same size. Ratios of "
        "times are medians of each frame's.",
    )
    return "Tiles beside the whole frame", leads, (Table("Tiles", _COLUMNS, rows),)


def _row(one: Data, whole: Data) -> tuple[Cell, ...]:
    miou, of_whole = number(one.get("miou")), number(whole.get("miou"))
    cells = (Cell(_name(one)), fixed(miou, 2))
    peak = amount(_peak(one))
    if one is whole:
        return (*cells, Cell("-"), Cell("-"), Cell("-"), peak, Cell("-"))
    same = numbers(one.get("same"))
    gained = None if miou is None or of_whole is None else miou - of_whole
    return (
        *cells,
        Cell("-") if gained is None else Cell(f"{gained:+.2f}", gained),
        fixed(percentile(same, 50) if same else None, 1),
        fixed(min(same, default=None), 1),
        peak,
        fixed(_ratio(numbers(one.get("ms")), numbers(whole.get("ms"))), 2),
    )


def _name(one: Data) -> str:
    size, tiling = text(one.get("size")), mapping(one.get("tiling"))
    if not tiling:
        return f"{size}, whole"
    return (
        f"{size}, {text(one.get('windows'))} of {text(tiling.get('tile'))}, overlap "
        f"{text(tiling.get('overlap'))} px, {text(tiling.get('merge'))}"
    )


def _peak(one: Data) -> float | None:
    return max((mib for mib in numbers(one.get("peak_mib")) if mib > 0), default=None)


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The median of the frames' ratios; None where the frames do not pair up."""
    if len(mine) != len(theirs) or not mine or min(theirs) <= 0:
        return None
    return percentile([a / b for a, b in zip(mine, theirs, strict=True)], 50)
