"""docs/rivals.md holds what benchmarks/results/rivals.json holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from rivals import tables  # noqa: E402


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    found = json.loads((ROOT / "benchmarks/results/rivals.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "rivals.md").read_text(encoding="utf-8")


def test_the_tables_are_the_measured_ones(data: dict[str, Any], page: str) -> None:
    on_page = page.splitlines()
    for line in tables.all_lines(data):
        assert line in on_page
    rows = [line for line in on_page if line.startswith("|")]
    assert sorted(rows) == sorted(tables.all_lines(data))


def test_the_words_are_the_measured_ones(data: dict[str, Any], page: str) -> None:
    words = " ".join(page.split())
    assert tables.setr_words(data) in words
    assert f"{data['task']['rounds']} rounds" in words
    assert f"{data['floor_mb']:.0f} MB" in words


def test_the_page_is_up_to_date(data: dict[str, Any], page: str) -> None:
    assert tables.refreshed(page, data) == page
    other = json.loads(json.dumps(data))
    other["results"][0]["ms"]["median"] = 12345
    assert "| FCN | 12345 |" in tables.refreshed(page, other)


def test_medians_and_ratios_follow_from_the_samples(data: dict[str, Any]) -> None:
    samples = {one["key"]: one["samples"]["ms"] for one in data["results"]}
    for one in data["results"]:
        own = samples[one["key"]]
        assert len(own) == data["task"]["rounds"]
        assert one["ms"]["median"] == pytest.approx(median(own))
        ratios = [a / b for a, b in zip(own, samples["b0-deploy"], strict=True)]
        assert one["ratio_to_ours"]["median"] == pytest.approx(median(ratios))


def test_both_ways_gave_the_same_regions(data: dict[str, Any]) -> None:
    shares = {one["key"]: one["border_share"] for one in data["results"]}
    for key, share in shares.items():
        if key.endswith("-graph"):
            assert share == pytest.approx(shares[key.removesuffix("-graph")], abs=1e-3)


def test_nobody_worked_out_of_turn(data: dict[str, Any]) -> None:
    assert max(one["idle_share"] for one in data["results"]) < 0.02
