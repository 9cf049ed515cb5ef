"""Sections of the repository's own results: their figures and tables are the files' numbers."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

import pytest

from segformer_deploy.bench.report.known import section_of_other
from segformer_deploy.bench.report.markdown import markdown_from_document
from segformer_deploy.bench.report.parts import Document, Figure, Section, Table
from segformer_deploy.bench.report.read import read_results
from segformer_deploy.bench.report.xy import Point, plot
from tests.bench.report.given_results import ROOT, write

RESULTS = ROOT / "benchmarks" / "results"


def data_of(name: str) -> dict[str, Any]:
    found = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def section(tmp_path: Any, name: str, data: dict[str, Any] | None = None) -> Section:
    folder = write(tmp_path, **{name: data_of(name) if data is None else data})
    (other,) = read_results(folder).others
    return section_of_other(other)


def figures(found: Section) -> list[Figure]:
    return [block for block in found.blocks if isinstance(block, Figure)]


def column(table: Table, index: int) -> list[float | None]:
    return [row[index].value for row in table.rows]


def marks(svg: str, css: str) -> list[tuple[float, float]]:
    """Centres of the circles of one colour, in the order drawn, big ones (with a number) only."""
    found = re.findall(
        rf'<g class="{css}"><title>[^<]*</title><circle cx="([\d.]+)" cy="([\d.]+)" r="6.5"', svg
    )
    return [(float(x), float(y)) for x, y in found]


def test_the_floor(tmp_path: Any) -> None:
    data = data_of("floor")
    (figure,) = figures(found := section(tmp_path, "floor"))
    assert column(figure.table, 2) == [p["int8_miou"] for p in data["points"]]
    assert column(figure.table, 3) == [p["keep"]["arena_bytes"] for p in data["points"]]
    assert column(figure.table, 4) == [p["again"]["arena_bytes"] for p in data["points"]]
    for drawn in (figure.wide, figure.narrow):
        at = marks(drawn, "ours")
        assert len(at) == len(data["points"])
        # Logarithmic to the right, linear up: both affine in log(bytes) and in mIoU.
        xs = [math.log(p["keep"]["arena_bytes"]) for p in data["points"]]
        ys = [p["int8_miou"] for p in data["points"]]
        for number, values in ((0, xs), (1, ys)):
            pixels = [point[number] for point in at]
            slope = (pixels[-1] - pixels[0]) / (values[-1] - values[0])
            for pixel, value in zip(pixels, values, strict=True):
                assert pixel == pytest.approx(pixels[0] + slope * (value - values[0]), abs=0.2)
        assert drawn.count(" hollow") == 2 * len(data["points"])
    budgets = found.blocks[1]
    assert isinstance(budgets, Table)
    assert column(budgets, 2) == [one["arena_bytes"] for one in data["budgets"]]


def test_resolution(tmp_path: Any) -> None:
    data = data_of("resolution")
    (figure,) = figures(section(tmp_path, "resolution"))
    assert column(figure.table, 2) == [one["miou"] for one in data["sizes"]]
    kept = [one for one in data["sizes"] if one["aspect"] == "kept"]
    at = marks(figure.wide, "ours")
    pixels = [math.prod(map(int, one["size"].split("x"))) for one in kept]
    order = sorted(range(len(kept)), key=lambda n: pixels[n])
    assert sorted(range(len(at)), key=lambda n: at[n][0]) == order
    best = max(range(len(kept)), key=lambda n: kept[n]["miou"])
    assert min(range(len(at)), key=lambda n: at[n][1]) == best  # the highest stands on top


def test_rivals(tmp_path: Any) -> None:
    data = data_of("rivals")
    found = section(tmp_path, "rivals")
    latency, memory = figures(found)
    assert column(latency.table, 2) == [one["ms"]["median"] for one in data["results"]]
    assert column(memory.table, 1) == [one["peak_mb"] for one in data["results"]]
    names = [row[0].text for row in latency.table.rows]
    assert len(set(names)) == len(names)
    lengths = [float(w) for w in re.findall(r'width="([\d.]+)" height="14.0"', memory.wide)]
    for length, one in zip(lengths, data["results"], strict=True):
        assert length / lengths[0] == pytest.approx(
            one["peak_mb"] / data["results"][0]["peak_mb"], rel=0.01
        )
    paper = found.blocks[2]
    assert isinstance(paper, Table)
    by_name = {row[0].text: row for row in paper.rows}
    # Table 2 of the paper: 50.5 frames/s of B0, 64.4 of FCN, and their GMAC and mIoU.
    assert by_name["FCN"][6].value == pytest.approx(50.5 / 64.4)
    assert (by_name["FCN"][2].value, by_name["FCN"][7].value) == (39.6, 19.7)
    assert by_name["FCN"][5].value == pytest.approx(3.2579 / 1.7406, rel=0.25)
    assert any("SETR" in lead and "estimated" in lead for lead in found.leads)


def test_lean_memory(tmp_path: Any) -> None:
    data = data_of("lean-memory")
    (figure,) = figures(section(tmp_path, "lean-memory"))
    forms = [form for size in data["sizes"] for form in size["forms"]]
    assert column(figure.table, 1) == [form["peak_mib"] for form in forms]
    assert column(figure.table, 5) == [form["time_over_plain"] for form in forms]
    assert figure.table.rows[1][6].text == "0 of 1048576"


def test_receptive_field(tmp_path: Any) -> None:
    data = data_of("receptive-field")
    found = section(tmp_path, "receptive-field")
    fields, tiles = found.blocks
    assert isinstance(fields, Table)
    assert isinstance(tiles, Table)
    assert (
        column(fields, 1)[0]
        == data["precisions"]["fp32"]["fields"]["logits <- image"]["half_side_px"][0]
    )
    samples = data["precisions"]["fp32"]["tiles"]["context"]["32"]
    row = next(row for row in tiles.rows if row[0].text == "fp32: 32 px of context")
    assert row[1].value == pytest.approx(100 * sum(samples) / len(samples))
    assert row[2].value == pytest.approx(100 * min(samples))


def limits() -> dict[str, Any]:
    """What benchmarks/smallest_limit.py writes, as far as it is shown."""

    def form(name: str, least: int | None, ms: float) -> dict[str, Any]:
        runs = {"no_limit": {"ms_median": ms}, "at_limit": {"ms_median": 4 * ms}}
        return {"name": name, "peak_mib": 200.0, "smallest_limit": {"mib": least}, "runs": runs}

    forms = [form("plain ONNX Runtime", 150, 50.0), form("native", 40, 45.0), form("x", None, 1.0)]
    return {
        "format": 1, "when": "", "machine": {}, "frames": 4, "timeout_seconds": 100,
        "task": {"variant": "b0", "classes": 150, "weights": "random"},
        "sizes": [{"size": "512x512", "masks": [], "forms": forms}],
    }  # fmt: skip


def test_smallest_limits(tmp_path: Any) -> None:
    (figure,) = figures(found := section(tmp_path, "smallest-limit", limits()))
    assert found.title == "The smallest memory limit"
    assert column(figure.table, 1) == [150, 40, None]
    assert column(figure.table, 3) == [50, 45, 1]
    assert column(figure.table, 4) == [200, 180, 4]
    assert "none survived" in figure.wide


def test_fit_check(tmp_path: Any) -> None:
    row = {
        "memory": "96M", "latency": "100ms", "picked": "b0-a", "confirmed": "b0-a", "agree": True,
        "measured": 3, "skipped": 9, "nearest": "b0-c", "nearest_share": -0.12, "points": [],
    }  # fmt: skip
    other = {**row, "picked": None, "agree": False}
    data = {"format": 1, "machine": {}, "grid": ["--sizes", "64x64"], "budgets": [row, other]}
    found = section(tmp_path, "fit-check", data)
    (table,) = found.blocks
    assert isinstance(table, Table)
    assert [cell.text for cell in table.rows[0]] == [
        "96M, 100ms", "b0-a", "b0-a", "yes", "3", "9", "-12",
    ]  # fmt: skip
    assert [table.rows[1][1].text, table.rows[1][3].text] == ["nothing fits", "NO"]
    assert "1 of 2" in found.leads[0]


NAMES = ("floor", "lean-memory", "receptive-field", "resolution", "rivals", "tiles")


@pytest.mark.parametrize("name", NAMES)
def test_markdown_has_the_same_tables(tmp_path: Any, name: str) -> None:
    found = section(tmp_path, name)
    text = markdown_from_document(Document("t", "", (), (found,)))
    tables = [block.table if isinstance(block, Figure) else block for block in found.blocks]
    for table in tables:
        assert isinstance(table, Table)
        assert any(cell.text in text for cell in table.rows[-1] if cell.value is not None)
        assert f"| {table.columns[0]}".split(" <")[0] in text


@pytest.mark.parametrize("name", NAMES)
def test_odd_values_break_no_page(tmp_path: Any, name: str) -> None:
    """Each value in turn is something else: a section comes out, whatever it says."""
    whole = data_of(name)
    for key in whole:
        for odd in (None, [], {}, "text", -1, 1e308, 10**400, [1], [{}], {"a": 1}):
            data = copy.copy(whole)
            data[key] = odd
            folder = write(tmp_path, odd=data)
            results = read_results(folder)
            for other in results.others:
                assert section_of_other(other).title
            assert results.others or results.unread


def test_a_number_keeps_off_other_marks_where_there_is_room() -> None:
    lone = [
        Point(1.0, 10.0, "a", "ours", "circle", number=1),
        Point(9.0, 20.0, "b", "ours", "circle"),
    ]
    # The usual spot, above the mark, is where a small mark lies.
    wide = plot(lone, "n", "x", "y", linear_y=True, log=False)[0]
    spot = re.search(r'x="([\d.]+)" y="([\d.]+)" class="number"', wide)
    assert spot is not None
    circle = re.search(r'cx="([\d.]+)" cy="([\d.]+)" r="6.5"', wide)
    assert circle is not None
    assert float(spot[1]) == float(circle[1])
    above = Point(1.0, 10.0 + 20.0 / 350 * 13, "c", "peer", "circle")
    moved = plot([*lone, above], "n", "x", "y", linear_y=True, log=False)[0]
    other = re.search(r'x="([\d.]+)" y="([\d.]+)" class="number"', moved)
    assert other is not None
    assert (other[1], other[2]) != (spot[1], spot[2])


def test_tiles_are_the_numbers_of_their_page(tmp_path: Any) -> None:
    """The page's table is printed by the benchmark itself; ours is made another way."""
    lines = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs/tiles.md").read_text("utf-8").splitlines()
        if re.match(r"\| \*{0,2}\d+x\d+\*{0,2} \|", line)
    ]
    (table,) = section(tmp_path, "tiles").blocks
    assert isinstance(table, Table)
    assert len(lines) == len(table.rows) == len(data_of("tiles")["cases"])
    for line, row in zip(lines, table.rows, strict=True):
        size, windows, overlap, merge, miou, gained, same, worst, peak, ratio = line
        tiled = f"{windows}, overlap {overlap} px, {merge}" if overlap else windows
        assert row[0].text == f"{size}, {tiled}"
        texts = [row[index].text for index in (1, 2, 3, 4, 6)]
        assert texts == [text or "-" for text in (miou, gained, same, worst, ratio)]
        assert row[5].value == pytest.approx(float(peak), abs=0.051)


def test_tiles_without_some_figures_still_make_a_section(tmp_path: Any) -> None:
    data = data_of("tiles")
    data["cases"][0]["miou"] = None
    data["cases"][1] |= {"ms": [1.0], "same": [], "peak_mib": []}
    (table,) = section(tmp_path, "tiles", data).blocks
    assert isinstance(table, Table)
    assert [cell.text for cell in table.rows[1]][2:] == ["-"] * 5
