"""The repository's own results over time: live sources, the stabiliser, and others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segformer_deploy.bench.latency import percentile
from segformer_deploy.bench.report import rows as plots
from segformer_deploy.bench.report.fields import items, mapping, number, numbers, text
from segformer_deploy.bench.report.parts import Block, Cell, Figure, Table, amount, fixed
from segformer_deploy.bench.report.rows import Row
from segformer_deploy.bench.report.scale import figure_text

Data = Mapping[str, Any]
Built = tuple[str, tuple[str, ...], tuple[Block, ...]]
_MOST_LEAVES = 40


def live(data: Data) -> Built:
    """Capture-to-display latency of a live source."""
    ages = [age for age in numbers(data.get("raw_age_ms")) if age > 0]
    stated = mapping(data["age_ms"])
    rows = [(Cell(f"age of the newest frame, {name}, ms"), amount(number(stated[name])))
            for name in stated]  # fmt: skip
    state = mapping(data.get("live"))
    rows += [
        (Cell(label), amount(number(state.get(key))))
        for key, label in (
            ("frames_in", "frames that arrived"),
            ("shown", "frames shown"),
            ("dropped", "frames dropped for newer ones"),
            ("reconnects", "reconnects"),
        )
    ]
    recoveries = numbers(data.get("recoveries_s"))
    if recoveries:
        rows.append((Cell("longest recovery after a cut, s"), amount(max(recoveries))))
    table = Table("Live source", ("what", "figure"), tuple(rows))
    leads = (
        f"A camera of {text(data.get('camera_fps'))} frames per second, an engine of "
        f"{text(data.get('engine_fps'))}, {text(data.get('minutes'))} minutes: how old a frame is "
        "when it is shown.",
    )
    if not ages:
        return "Live latency", leads, (table,)
    low, middle, high = (percentile(ages, q) for q in (10, 50, 90))
    row = Row("age when shown", middle, f"{figure_text(middle)} ms", low, high, "ours")
    wide, narrow = plots.whiskers([row], "Age of frames when shown", "milliseconds")
    caption = f"{len(ages)} frames. Dot: median; whisker: p10 to p90."
    return "Live latency", leads, (Figure("Capture to display", caption, wide, narrow, table),)


def stabiliser(data: Data) -> Built:
    """Flicker and mIoU before and after; shares are shown as percent."""
    rows = []
    for name, found in mapping(data["runs"]).items():
        run = mapping(found)
        before, after = mapping(run.get("before")), mapping(run.get("after"))
        rows.append(
            (
                Cell(str(name)),
                *(
                    fixed(_percent(side.get(key)), 2)
                    for key in ("flicker", "miou")
                    for side in (before, after)
                ),
                amount(number(run.get("median_ms"))),
                amount(number(run.get("p99_ms"))),
            )
        )
    columns = (
        "run", "flicker % before", "after", "mIoU % before", "after", "p50 ms", "p99 ms",
    )  # fmt: skip
    leads = (f"{text(data.get('frames'))} frames per run at {text(data.get('size'))}.",)
    return "The stabiliser", leads, (Table("Flicker and accuracy", columns, tuple(rows)),)


def what(data: Data) -> Built:
    """Any other result that says what it is: its single figures, without its samples."""
    leaves = list(_leaves(data, ""))
    rows = tuple((Cell(name), shown) for name, shown in leaves[:_MOST_LEAVES])
    leads = []
    if len(leaves) > _MOST_LEAVES:
        leads.append(f"{len(leaves) - _MOST_LEAVES} further figures stand in the file.")
    title = text(data["what"]).replace("_", " ").strip() or "result"
    blocks = (Table("Figures", ("what", "figure"), rows),) if rows else ()
    return title[:1].upper() + title[1:], tuple(leads), blocks


def _leaves(data: Data, prefix: str) -> Iterator[tuple[str, Cell]]:
    for key, value in data.items():
        if not prefix and key in ("what", "machine", "versions"):
            continue
        name = f"{prefix}{key}".replace("_", " ")
        found = number(value)
        if found is not None:
            yield name, amount(found)
        elif isinstance(value, str) and value and len(value) < 200:
            yield name, Cell(value)
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}, ")
        elif isinstance(items(value), list) and numbers(value):
            middle = percentile(numbers(value), 50)
            yield f"{name}, median of {len(numbers(value))}", amount(middle)


def _percent(value: Any) -> float | None:
    found = number(value)
    return None if found is None else 100 * found
