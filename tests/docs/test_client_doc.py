"""The client page's figures are the measured ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "serve.json").read_text())


def page() -> str:
    return " ".join((ROOT / "docs" / "client.md").read_text("utf-8").split())


@pytest.mark.parametrize("row", DATA["results"], ids=lambda row: f"{row['way']}-{row['clients']}")
def test_each_row_is_the_measured_one(row: dict[str, Any]) -> None:
    low, high = row["fps_ratio_span"]
    ratio = (
        f"{row['fps_ratio']:.2f} ({low:.2f} to {high:.2f})" if row["way"] != "this process" else "1"
    )
    cells = (row["way"], str(row["clients"]), ratio, f"{row['p50_ms']:.0f}", f"{row['p99_ms']:.0f}")
    assert "| " + " | ".join(cells) + " |" in page()


def test_the_span_of_the_medians() -> None:
    medians = [row["fps_ratio"] for row in DATA["results"] if row["way"] != "this process"]
    assert f"medians lie from {min(medians):.2f} to {max(medians):.2f}" in page()


def test_every_answer_was_the_local_one() -> None:
    same = dict(DATA["identical"])
    frames = same.pop("frames")
    assert frames >= 12
    assert set(same.values()) == {frames}
    assert len(same) == 10
    assert not any(row["wrong"] for row in DATA["results"])
    assert f"all {frames} frames" in page()
