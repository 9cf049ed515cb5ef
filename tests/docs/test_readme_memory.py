"""The README's table of memory holds what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def result(name: str) -> dict[str, Any]:
    found = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def rows() -> list[list[str]]:
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## How little")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_smallest_limits() -> None:
    measured = next(one for one in result("smallest-limit")["sizes"] if one["size"] == "512x512")
    limits = [form["smallest_limit"]["mib"] for form in measured["forms"]]
    assert [form["name"].split()[0] for form in measured["forms"]] == ["plain", "lean", "native"]
    assert [row[0] for row in rows()[:3]] == [f"{limit} MiB" for limit in limits]


def test_the_arena() -> None:
    floor = result("floor")
    points = {point["size"]: point for point in floor["points"]}
    large, least = points["512x512"], points["96x96"]
    table = rows()
    assert table[3][0] == f"{large['keep']['arena_bytes'] / 1e6:.1f} MB"
    assert table[3][2] == f"mIoU {large['int8_miou']:.1f} %, FP32 {large['fp32_miou']:.1f} %"
    within = {one["keep_c1"]: one for one in floor["budgets"] if one["budget"] == 100_000}
    assert re.findall(r"\d+x\d+", table[4][1]) == [within[True]["size"], within[False]["size"]]
    assert table[4][2] == f"{within[True]['int8_miou']:.1f} %; {within[False]['int8_miou']:.1f} %"
    once, again = (least[kind]["finest_arena_bytes"] / 1e3 for kind in ("keep", "again"))
    assert table[5][0] == f"{once:.0f} KB ({again:.0f} KB)"
    assert table[5][2] == f"{least['int8_miou']:.1f} %"
