"""The repository's own results on memory: the floor, lean graphs, the smallest limits."""

from __future__ import annotations

from typing import Any

from segformer_deploy.bench.report import rows as plots
from segformer_deploy.bench.report import xy
from segformer_deploy.bench.report.fields import items, mapping, number, positive, text, whole
from segformer_deploy.bench.report.known_parts import Built, Data, key
from segformer_deploy.bench.report.parts import Cell, Figure, Table, amount, count, fixed
from segformer_deploy.bench.report.rows import Row
from segformer_deploy.bench.report.scale import figure_text

_KINDS = (
    ("keep", "bound_c1_to_c4", "ours", "circle", "stage 1's output kept"),
    ("again", "bound_c1_again", "peer", "diamond", "stage 1's output made again"),
)
"""Key of an arena, key of its bound, colour, mark, name."""


def floor(data: Data) -> Built:
    """Bytes of one arena against mIoU, with 8-bit activations and the weights elsewhere."""
    points = [mapping(point) for point in items(data["points"])]
    marks: list[xy.Point] = []
    lines: list[xy.Line] = []
    for kind, bound, css, shape, name in _KINDS:
        for found, hollow in ((_curve(points, kind), False), (_curve(points, bound), True)):
            how = "live set, a bound" if hollow else "arena, measured"
            marks += [
                # Only the kept arenas have numbers: four of each size would cover the curves.
                xy.Point(
                    x,
                    y,
                    f"{size}, {name}, {how}",
                    css,
                    shape,
                    hollow,
                    number_of if kind == "keep" and not hollow else 0,
                    quiet=hollow,
                )
                for number_of, size, x, y in found
            ]
            at = tuple((x, y) for _, _, x, y in found)
            lines.append(xy.Line(at, f"curve {css}{' bound' if hollow else ''}"))
    prior = positive(data.get("prior_miou"))
    wide, narrow = xy.plot(
        marks, "Memory against mIoU", "bytes of memory", "mIoU, %",
        lines=[*(line for line in lines if line.points), *_level(prior, marks)],
        log=True, linear_y=True,
    )  # fmt: skip
    task = mapping(data["task"])
    caption = (
        "Filled: a frame ran in an arena of that many bytes. Hollow: the live set, a bound without "
        "workspace that nothing ran in. Numbers: rows of the table, stage 1's output kept."
    )
    if prior is not None:
        caption += " Broken line: each pixel's most frequent class, which needs no network."
    legend = tuple(key(css, shape, name) for _, _, css, shape, name in _KINDS)
    figure = Figure("Memory against mIoU", caption, wide, narrow, _floor_table(points), legend)
    leads = (
        f"{text(task.get('checkpoint'))}, {text(task.get('classes'))} classes, "
        f"{text(task.get('test_frames'))} test frames: 8-bit activations in one arena, "
        f"{figure_text((positive(task.get('weights_bytes')) or 0.0) / 1e6)} MB of weights outside "
        "of it, run in NumPy.",
    )
    return "The floor of memory", leads, (figure, _budget_table(data))


def _curve(points: list[Data], kind: str) -> list[tuple[int, str, float, float]]:
    """(number, size, bytes, mIoU) of each point that has both."""
    found = []
    for number_of, point in enumerate(points, 1):
        at = point.get(kind)
        x = positive(mapping(at).get("arena_bytes")) if isinstance(at, dict) else positive(at)
        y = positive(point.get("int8_miou"))
        if x is not None and y is not None:
            found.append((number_of, text(point.get("size")), x, y))
    return found


def _level(height: float | None, marks: list[xy.Point]) -> list[xy.Line]:
    if height is None or not marks:
        return []
    ends = (min(mark.x for mark in marks), max(mark.x for mark in marks))
    return [xy.Line(tuple((x, height) for x in ends), "level", "no network")]


def _floor_table(points: list[Data]) -> Table:
    rows = tuple(
        (
            Cell(f"{number_of}: {text(point.get('size'))}"),
            fixed(number(point.get("fp32_miou")), 2),
            fixed(number(point.get("int8_miou")), 2),
            count(whole(mapping(point.get("keep")).get("arena_bytes"))),
            count(whole(mapping(point.get("again")).get("arena_bytes"))),
            count(whole(point.get("bound_c1_to_c4"))),
            count(whole(point.get("bound_c1_again"))),
            Cell({True: "yes", False: "no"}.get(point.get("useful"), "-")),  # type: ignore[arg-type]
        )
        for number_of, point in enumerate(points, 1)
    )
    columns = (
        "input", "mIoU FP32 %", "mIoU 8 bits %", "arena bytes, kept", "arena bytes, made again",
        "live set, kept", "live set, made again", "useful",
    )  # fmt: skip
    return Table("Memory against mIoU", columns, rows)


def _budget_table(data: Data) -> Table:
    rows = tuple(
        (
            Cell(text(one.get("size"))),
            count(whole(one.get("budget"))),
            count(whole(one.get("arena_bytes"))),
            Cell("kept" if one.get("keep_c1") is True else "made again"),
            fixed(number(one.get("int8_miou")), 2),
        )
        for one in map(mapping, items(data["budgets"]))
    )
    columns = ("input", "budget, bytes", "taken, bytes", "stage 1's output", "mIoU 8 bits %")
    return Table("The largest frame that ran in a given arena", columns, rows)


def lean_memory(data: Data) -> Built:
    """Peak memory of one engine, rewrite by rewrite, with what each costs in time."""
    drawn: list[Row] = []
    rows = []
    for size in map(mapping, items(data["sizes"])):
        masks = mapping(size.get("same_masks"))
        same = f"{whole(masks.get('different'))} of {whole(masks.get('pixels'))}"
        for index, form in enumerate(map(mapping, items(size["forms"]))):
            peak = positive(form.get("peak_mib"))
            name = f"{text(size.get('size'))}, {text(form.get('name'))}"
            shown = "not measured" if peak is None else f"{figure_text(peak)} MiB"
            ours = text(form.get("backend")) == "native"
            css = "ours" if ours else "peer"
            drawn.append(Row(name, peak, shown, css=css, apart=index == 0 and bool(drawn)))
            rows.append(
                (
                    Cell(name),
                    amount(peak),
                    amount(number(form.get("loaded_mib"))),
                    amount(number(form.get("live_set_mib"))),
                    amount(number(form.get("ms_median"))),
                    fixed(number(form.get("time_over_plain")), 2),
                    Cell("reference" if index == 0 else same),
                )
            )
    wide, narrow = plots.bars(drawn, "Peak memory, step by step", "peak memory, MiB")
    columns = (
        "size, form", "peak MiB", "after loading MiB", "live set MiB", "p50 ms",
        "times the plain one's time", "pixels that differ at this size",
    )  # fmt: skip
    table = Table("Peak memory, step by step", columns, tuple(rows))
    legend = (key("peer", "square", "ONNX Runtime"), key("ours", "square", "our engine"))
    figure = Figure("Peak memory", "Less is better.", wide, narrow, table, legend)
    task = mapping(data.get("task"))
    leads = (
        f"SegFormer-{text(task.get('variant')).upper()}, {text(task.get('classes'))} classes: "
        "graphs rewritten to need less memory. Time ratios are medians of rounds.",
    )
    return "Lean memory", leads, (figure,)


def smallest_limit(data: Data) -> Built:
    """The smallest limit of the kernel's that each form lives under."""
    drawn: list[Row] = []
    rows = []
    for size in map(mapping, items(data["sizes"])):
        for index, form in enumerate(map(mapping, items(size["forms"]))):
            name = f"{text(size.get('size'))}, {text(form.get('name'))}"
            least = positive(mapping(form.get("smallest_limit")).get("mib"))
            runs = mapping(form.get("runs"))
            css = "ours" if text(form.get("name")) == "native" else "peer"
            shown = "none survived" if least is None else f"{figure_text(least)} MiB"
            drawn.append(Row(name, least, shown, css=css, apart=index == 0 and bool(drawn)))
            rows.append((Cell(name), amount(least), *_limit_cells(form, runs)))
    wide, narrow = plots.bars(drawn, "Smallest memory limit", "memory limit, MiB")
    columns = (
        "size, form", "smallest MiB", "peak without a limit MiB", "ms without a limit",
        "ms at the smallest", "ms 25 % above",
    )  # fmt: skip
    table = Table("Smallest memory limit that survives", columns, tuple(rows))
    caption = "A hard limit on the process, no swap, nothing in the page cache. Less is better."
    figure = Figure("Smallest memory limit", caption, wide, narrow, table)
    task = mapping(data.get("task"))
    leads = (
        f"SegFormer-{text(task.get('variant')).upper()}, {text(task.get('classes'))} classes, "
        f"{text(data.get('frames'))} frames per run.",
    )
    return "The smallest memory limit", leads, (figure,)


def _limit_cells(form: Data, runs: Data) -> tuple[Any, ...]:
    times = [mapping(runs.get(name)).get("ms_median") for name in
             ("no_limit", "at_limit", "25_percent_above")]  # fmt: skip
    return (amount(number(form.get("peak_mib"))), *(amount(number(ms)) for ms in times))
