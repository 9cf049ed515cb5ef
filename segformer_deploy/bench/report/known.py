"""The repository's own benchmarks -> one small section each: comparisons with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from segformer_deploy.bench.latency import percentile
from segformer_deploy.bench.report import rows as plots
from segformer_deploy.bench.report.fields import (
    first,
    items,
    mapping,
    number,
    numbers,
    positive,
    size_text,
    text,
    texts,
    whole,
)
from segformer_deploy.bench.report.known_builds import builds, kernels
from segformer_deploy.bench.report.known_fit import fit_check
from segformer_deploy.bench.report.known_live import live, stabiliser, what
from segformer_deploy.bench.report.known_memory import floor, lean_memory, smallest_limit
from segformer_deploy.bench.report.known_parts import Built, Data, key, percent
from segformer_deploy.bench.report.known_rivals import rivals
from segformer_deploy.bench.report.known_scores import receptive_field, resolution
from segformer_deploy.bench.report.known_tiles import tiles
from segformer_deploy.bench.report.machine import machine_from_dict
from segformer_deploy.bench.report.model import Other
from segformer_deploy.bench.report.parts import Cell, Figure, Section, Table, amount, fixed
from segformer_deploy.bench.report.rows import Row
from segformer_deploy.bench.report.scale import figure_text

_KEYS = (key("ours", "circle", "ours"), key("peer", "square", "another engine or project"))


def section_of_other(other: Other, index: int = 0) -> Section:
    """The section of one file; content that its kind does not hold is said there."""
    build = _BUILDERS.get(other.kind, what)
    anchor = f"other-{index + 1}"
    try:
        title, leads, blocks = build(other.data)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        title, leads, blocks = other.source, ("Its content is not what this kind holds.",), ()
    leads = (*leads, f"From {other.source}; its figures are of its own machine and run.")
    machine = machine_from_dict(other.data.get("machine"))
    facts = machine.facts or ((("machine", machine.name),) if machine.said else ())
    versions = [
        f"{name} {value}"
        for name, value in {**machine.versions, **mapping(other.data.get("versions"))}.items()
    ]
    if versions:
        facts = (*facts, ("versions", ", ".join(versions)))
    callouts = list(texts(other.data.get("warnings")))
    if mapping(other.data.get("task")).get("weights") == "random":
        callouts.append("Random weights: speed and memory are real, masks mean nothing.")
    return Section(anchor, title, tuple(leads), tuple(callouts), facts, blocks=tuple(blocks))


def _peers(data: Data) -> Built:
    task = mapping(data["task"])
    entries = [mapping(entry) for entry in items(data["results"])]
    drawn = [_row(entry) for entry in entries]
    wide, narrow = plots.whiskers(drawn, "Against other projects", "milliseconds per frame")
    table = Table(
        "Against other projects",
        ("project", "p50 ms", "times ours", "p10", "p90", "peak MB", "identical %"),
        tuple(
            (
                Cell(text(entry.get("name"))),
                amount(number(mapping(entry.get("ms")).get("median"))),
                *(
                    fixed(number(mapping(entry.get("ratio_to_ours")).get(key)), 2)
                    for key in ("median", "p10", "p90")
                ),
                amount(number(entry.get("peak_mb"))),
                fixed(percent(mapping(entry.get("agreement")).get("identical")), 4),
            )
            for entry in entries
        ),
    )
    figure = Figure("Latency", "Dot: median; whisker: p10 to p90.", wide, narrow, table, _KEYS)
    leads = (
        f"SegFormer-{text(task['variant']).upper()}, {_classes(task)} classes, network "
        f"{size_text(task.get('network'))}, frame {size_text(task.get('frame'))}, "
        f"{text(task.get('threads'))} threads. Run in turns; ratios are medians of the rounds.",
    )
    return f"Other projects, {_classes(task)} classes", leads, (figure,)


def _row(entry: Data) -> Row:
    low, middle, high = _spread(entry)
    return Row(
        text(first(entry, "name", "engine")),
        middle,
        "not timed" if middle is None else f"{figure_text(middle)} ms",
        low,
        high,
        "ours" if _is_ours(entry) else "peer",
        "circle" if _is_ours(entry) else "square",
    )


def _is_ours(entry: Data) -> bool:
    return entry.get("ours") is True or text(entry.get("name")).startswith("ours")


def _spread(entry: Data) -> tuple[float | None, float | None, float | None]:
    """p10, median, p90: from raw samples where there are some."""
    samples = [value for value in numbers(entry.get("samples_ms")) if value > 0]
    samples = samples or [v for v in numbers(mapping(entry.get("samples")).get("ms")) if v > 0]
    if samples:
        return percentile(samples, 10), percentile(samples, 50), percentile(samples, 90)
    stated = mapping(entry.get("ms"))
    return positive(stated.get("p10")), positive(stated.get("median")), positive(stated.get("p90"))


def _int8_peers(data: Data) -> Built:
    task = mapping(data["task"])
    entries = [mapping(entry) for entry in items(data["results"])]
    rows = []
    for entry in entries:
        score = mapping(entry.get("score"))
        rows.append(
            (
                Cell(text(entry.get("name"))),
                amount(_mib(entry.get("bytes"))),
                fixed(number(score.get("miou")), 2),
                fixed(number(score.get("agreement")), 2),
                amount(_spread(mapping(entry.get("time")))[1]),
                fixed(percent(mapping(entry.get("int8")).get("share")), 1),
            )
        )
    table = Table(
        "INT8 by other projects, and ours",
        ("made by", "file MiB", "mIoU %", "agreement with FP32 %", "p50 ms", "INT8 MACs %"),
        tuple(rows),
    )
    drawn = [_row({**mapping(entry.get("time")), "name": entry.get("name")}) for entry in entries]
    wide, narrow = plots.whiskers(drawn, "INT8 by others", "milliseconds per run of the network")
    figure = Figure("Latency", "Dot: median; whisker: p10 to p90.", wide, narrow, table, _KEYS)
    leads = (
        f"SegFormer-{text(task.get('variant')).upper()}, {_classes(task)} classes, scored on "
        f"{text(task.get('evaluation_frames'))} frames at {size_text(task.get('network'))}; "
        f"timed at {size_text(task.get('timed_at'))}.",
    )
    return "INT8 against other projects", leads, (figure,)


def _int8_speed(data: Data) -> Built:
    drawn, rows = [], []
    for name, found in mapping(data["backends"]).items():
        pair = mapping(found)
        ratio = mapping(pair.get("ratio"))
        for precision in ("fp32", "int8"):
            entry = mapping(pair.get(precision))
            low, middle, high = _spread(entry)
            label = f"{name} {precision}"
            shape = "circle" if precision == "fp32" else "triangle"
            shown = "not timed" if middle is None else f"{figure_text(middle)} ms"
            drawn.append(Row(label, middle, shown, low, high, precision, shape))
            rows.append(
                (
                    Cell(label),
                    amount(low),
                    amount(middle),
                    amount(high),
                    fixed(number(ratio.get("median")) if precision == "int8" else None, 2),
                )
            )
    wide, narrow = plots.whiskers(drawn, "INT8 against FP32", "milliseconds per run of the network")
    columns = ("backend", "p10 ms", "p50 ms", "p90 ms", "times as fast as FP32")
    table = Table("INT8 against FP32, in turns", columns, tuple(rows))
    figure = Figure("Latency", "Dot: median; whisker: p10 to p90.", wide, narrow, table)
    leads = (f"Network size {text(data.get('size'))}, {text(data.get('threads'))} threads.",)
    return "INT8 against FP32", leads, (figure,)


def _scaling(data: Data) -> Built:
    task = mapping(data["task"])
    points = [mapping(point) for point in items(data["points"])]
    rows = tuple(
        (
            Cell(size_text(point.get("size"))),
            *(amount(number(point.get(key))) for key in ("classes", "batch", "threads")),
            amount(_median(point.get("network_ms"))),
            amount(_median(point.get("frame_ms"))),
            amount(number(mapping(mapping(point.get("memory_mib")).get("frame")).get("peak"))),
            amount(number(point.get("ms_per_gmac"))),
        )
        for point in points
    )
    columns = (
        "size", "classes", "batch", "threads", "network ms", "frame ms", "peak MiB", "ms per GMAC",
    )  # fmt: skip
    checks = tuple(
        (
            Cell(text(check.get("what"))),
            amount(number(check.get("found"))),
            amount(number(check.get("limit"))),
            Cell("met" if check.get("met") is True else "NOT met"),
        )
        for check in map(mapping, items(data["checks"]))
    )
    leads = (
        f"SegFormer-{text(task.get('variant')).upper()} on {text(data.get('engine'))}: how time "
        "and memory grow with size, classes, batch and threads (medians).",
    )
    blocks = (
        Table("Measured points", columns, rows),
        Table("Checks", ("what", "found", "at most", "verdict"), checks),
    )
    return "How it grows", leads, blocks


def _classes(task: Data) -> str:
    classes = task.get("classes")
    return str(len(classes)) if isinstance(classes, list) else str(whole(classes) or "?")


def _median(value: Any) -> float | None:
    return number(mapping(value).get("median"))


def _mib(value: Any) -> float | None:
    found = number(value)
    return None if found is None else found / (1 << 20)


_BUILDERS: dict[str, Callable[[Data], Built]] = {
    "peers": _peers,
    "int8-peers": _int8_peers,
    "int8-speed": _int8_speed,
    "scaling": _scaling,
    "rtx-builds": builds,
    "kernels": kernels,
    "live-latency": live,
    "stabiliser": stabiliser,
    "what": what,
    "floor": floor,
    "lean-memory": lean_memory,
    "smallest-limit": smallest_limit,
    "resolution": resolution,
    "receptive-field": receptive_field,
    "rivals": rivals,
    "fit-check": fit_check,
    "tiles": tiles,
}


def sections_of_others(others: Sequence[Other]) -> tuple[Section, ...]:
    """One section per file; two files of one title keep their file's name in it."""
    found = [section_of_other(other, index) for index, other in enumerate(others)]
    titles = [section.title for section in found]
    return tuple(
        section
        if titles.count(section.title) == 1
        else replace(section, title=f"{section.title} ({PurePosixPath(other.source).stem})")
        for section, other in zip(found, others, strict=True)
    )
