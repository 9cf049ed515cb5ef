"""docs/memory.md holds what its three results hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import lean_memory  # noqa: E402
import smallest_limit  # noqa: E402

TABLES = {
    "smallest-limit": smallest_limit.table,
    "lean-memory": lean_memory.table,
    "lean-memory-variants": lean_memory.table,
}


def result(name: str) -> dict[str, Any]:
    found = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")


def test_the_tables_are_the_measured_ones(page: str) -> None:
    _, _, measured = page.partition("## The smallest limit")
    rows = [line for line in measured.splitlines() if line.startswith("|")]
    expected = [line for name, table in TABLES.items() for line in table(result(name)).splitlines()]
    assert rows == expected


def test_the_words_are_the_measured_ones(page: str) -> None:
    words, small = " ".join(page.split()), result("smallest-limit")
    assert f"runs of {small['frames']} frames end within {small['timeout_seconds']:g} s" in words
    steps = result("lean-memory")
    rounds = len(steps["sizes"][0]["forms"][0]["runs"])
    assert f"The largest VmHWM of {rounds} runs each" in words
    assert all(one["same_masks"]["different"] == 0 for one in steps["sizes"])
    assert all(form["load_averages"] for one in steps["sizes"] for form in one["forms"])


def test_each_result_is_linked(page: str) -> None:
    for name in TABLES:
        assert f"](../benchmarks/results/{name}.json)" in page


def test_lean_is_smaller_than_plain_in_each_variant() -> None:
    for one in result("lean-memory-variants")["sizes"]:
        peaks = {form["name"]: form["peak_mib"] for form in one["forms"]}
        assert peaks[lean_memory.ALL] < peaks[lean_memory.PLAIN]
        assert peaks[lean_memory.NATIVE] < peaks[lean_memory.PLAIN]
