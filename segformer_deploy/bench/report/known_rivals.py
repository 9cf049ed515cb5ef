"""The repository's own results on the networks that the paper compares SegFormer with."""

from __future__ import annotations

from segformer_deploy.bench.report import rows as plots
from segformer_deploy.bench.report.fields import items, mapping, number, positive, text
from segformer_deploy.bench.report.known_parts import Built, Data, key
from segformer_deploy.bench.report.parts import Cell, Figure, Table, amount, fixed
from segformer_deploy.bench.report.rows import Row
from segformer_deploy.bench.report.scale import figure_text

_IN_GRAPH = "-graph"
_LEGEND = (key("ours", "circle", "SegFormer-B0"), key("peer", "square", "another network"))
_BARS = (key("ours", "square", "SegFormer-B0"), key("peer", "square", "another network"))


def rivals(data: Data) -> Built:
    """Latency and memory of the paper's real-time group, beside the paper's own figures."""
    results = [mapping(entry) for entry in items(data["results"])]
    task = mapping(data["task"])
    leads = (
        f"The real-time group of the paper's Table 2 on this machine: {text(task.get('size'))} "
        f"pixels square, {text(task.get('classes'))} classes, {text(task.get('threads'))} threads, "
        f"{text(task.get('rounds'))} rounds in turns. What the paper says is of its own GPU.",
    )
    blocks = (_latency(results), _memory(results), _paper(data, results))
    return "The paper's rivals", (*leads, *_setr(mapping(data.get("setr")))), blocks


def _setr(data: Data) -> tuple[str, ...]:
    """The large model that the paper names too: estimated, and measured where it was."""
    estimated, measured = mapping(data.get("estimated")), mapping(data.get("measured"))
    weights = positive(estimated.get("parameters_mb"))
    activations, peak = positive(estimated.get("activations_mb")), positive(measured.get("peak_mb"))
    if weights is None or activations is None:
        return ()
    said = "not measured" if peak is None else f"measured peak {figure_text(peak)} MB"
    return (
        f"SETR, in no real-time group: {figure_text(weights)} MB of weights and "
        f"{figure_text(activations)} MB of activations (estimated by formula), {said}.",
    )


def _name(entry: Data) -> str:
    where = ", argmax in the graph" if text(entry.get("key")).endswith(_IN_GRAPH) else ""
    return text(entry.get("name")) + where


def _style(entry: Data) -> tuple[str, str]:
    ours = text(entry.get("key")).startswith("b0")
    return ("ours", "circle") if ours else ("peer", "square")


def _latency(results: list[Data]) -> Figure:
    drawn, rows = [], []
    for entry in results:
        times, ratio = mapping(entry.get("ms")), mapping(entry.get("ratio_to_ours"))
        low, middle, high = (positive(times.get(name)) for name in ("p10", "median", "p90"))
        css, shape = _style(entry)
        shown = "not timed" if middle is None else f"{figure_text(middle)} ms"
        drawn.append(Row(_name(entry), middle, shown, low, high, css, shape))
        rows.append(
            (
                Cell(_name(entry)),
                amount(low),
                amount(middle),
                amount(high),
                fixed(number(ratio.get("median")), 2),
                amount(number(mapping(entry.get("stages_ms")).get("infer"))),
            )
        )
    wide, narrow = plots.whiskers(drawn, "Latency of the rivals", "milliseconds per frame")
    columns = ("network", "p10 ms", "p50 ms", "p90 ms", "times the deploy form", "network alone ms")
    table = Table("Latency of the rivals", columns, tuple(rows))
    return Figure(
        "Latency", "Dot: median; whisker: p10 to p90. Less is better.", wide, narrow, table, _LEGEND
    )


def _memory(results: list[Data]) -> Figure:
    drawn = []
    for entry in results:
        peak = positive(entry.get("peak_mb"))
        shown = "not measured" if peak is None else f"{figure_text(peak)} MB"
        drawn.append(Row(_name(entry), peak, shown, css=_style(entry)[0]))
    wide, narrow = plots.bars(drawn, "Memory of the rivals", "peak memory, MB (10^6 bytes)")
    rows = tuple((Cell(_name(entry)), amount(number(entry.get("peak_mb")))) for entry in results)
    table = Table("Memory of the rivals", ("network", "peak MB"), rows)
    return Figure("Memory", "Peak of the process. Less is better.", wide, narrow, table, _BARS)


def _paper(data: Data, results: list[Data]) -> Table:
    """Ratios to B0's usual export, here and in the paper: the two machines have no other unit."""
    counts = {str(name): mapping(one) for name, one in mapping(data["counts"]).items()}
    measured = {text(entry.get("key")): entry for entry in results}
    here = _ratio(measured.get("b0"))
    there = _fps(counts.get("b0"))
    rows = []
    for name, one in counts.items():
        said, mine = mapping(one.get("published")), _ratio(measured.get(name))
        fps = _fps(one)
        title = text(mapping(measured.get(name)).get("name")) or name.upper()
        rows.append(
            (
                Cell(title),
                amount(_scaled(one.get("macs"), 1e-9)),
                amount(number(said.get("gmac"))),
                amount(_scaled(one.get("parameters"), 1e-6)),
                amount(number(said.get("parameters_m"))),
                fixed(mine / here if mine and here else None, 2),
                fixed(there / fps if there and fps else None, 2),
                fixed(number(said.get("miou_ade20k")), 1),
                fixed(number(said.get("miou_cityscapes")), 1),
            )
        )
    columns = (
        "network", "GMAC", "paper's", "10^6 weights", "paper's", "time / B0's", "paper's",
        "ADE20K mIoU", "Cityscapes mIoU",
    )  # fmt: skip
    return Table("Beside the paper, whose mIoU these are", columns, tuple(rows))


def _ratio(entry: Data | None) -> float | None:
    return positive(mapping(mapping(entry).get("ratio_to_ours")).get("median"))


def _fps(entry: Data | None) -> float | None:
    return positive(mapping(mapping(entry).get("published")).get("fps_ade20k"))


def _scaled(value: object, factor: float) -> float | None:
    found = number(value)
    return None if found is None else found * factor
