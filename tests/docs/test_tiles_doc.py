"""docs/tiles.md holds what the result holds."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tiles  # noqa: E402

from segformer_deploy.engine.tiling import share_of  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.workflow.tiling import FRAMES, SHARES  # noqa: E402


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    found = json.loads((ROOT / "benchmarks/results/tiles.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "tiles.md").read_text(encoding="utf-8")


def cases(result: dict[str, Any]) -> dict[tuple[str, str, int, str], tuple[Any, Any]]:
    """(size, tile, overlap, merge) -> (the case, its whole frame)."""
    found, whole = {}, None
    for one in result["cases"]:
        if one["tiling"] is None:
            whole = one
        else:
            t = one["tiling"]
            found[one["size"], t["tile"], t["overlap"], t["merge"]] = one, whole
    return found


def test_the_table_is_the_measured_one(page: str, result: dict[str, Any]) -> None:
    measured = page.split("## Measured")[1].splitlines()
    rows = [line for line in measured if line.startswith("|")]
    assert rows == [*tiles.HEADING[0].split("\n"), tiles.HEADING[1], *tiles.table(result)]


def test_the_words_are_the_measured_ones(page: str, result: dict[str, Any]) -> None:
    words, found = " ".join(page.split()), cases(result)
    assert f"{result['images']} frames" in words
    assert f"Its training saw {result['trained_at']}" in words
    same = [statistics.median(one["same"]) for one, _ in found.values()]
    worst = min(min(one["same"]) for one, _ in found.values())
    assert f"between {min(same):.0f} and {max(same):.0f} %" in words
    assert f"as few as {worst:.0f} %" in words
    gains = {key: one["miou"] - whole["miou"] for key, (one, whole) in found.items()}
    large = max(gain for key, gain in gains.items() if key[0] == "720x960")
    assert f"gain up to {large:.1f} points" in words
    assert f"At 480x640 384x384 gains {gains['480x640', '384x384', 96, 'average']:.1f}" in words
    assert all(gain < 0 for key, gain in gains.items() if key[1:3] == ("256x256", 0))
    lead = [gains[key] - gains[(*key[:3], "centre")] for key in gains if key[3] == "average"]
    assert f"by {min(lead):.1f} to {max(lead):.1f} points" in words
    peaks = [max(one["peak_mib"]) for one in found["720x960", "256x256", 64, "average"]]
    assert f"falls from {peaks[1]:.1f} to {peaks[0]:.0f} MiB" in words


def test_what_a_quarter_of_overlap_buys(page: str, result: dict[str, Any]) -> None:
    words, found = " ".join(page.split()), cases(result)
    gains, costs = [], []
    for size in ("480x640", "720x960"):
        with_, without = (found[size, "256x256", px, "average"][0] for px in (64, 0))
        gains.append(with_["miou"] - without["miou"])
        ratio = [a / b for a, b in zip(with_["ms"], without["ms"], strict=True)]
        costs.append(statistics.median(ratio))
    assert f"costs {min(costs):.1f} to {max(costs):.1f} times the time" in words
    assert f"gains {min(gains):.1f} to {max(gains):.1f} points there by average" in words
    fast = [one for key, one in found.items() if key[0] == "720x960" and key[2] == 0]
    for one, whole in fast:
        assert statistics.median(a / b for a, b in zip(one["ms"], whole["ms"], strict=True)) < 1


def test_the_options_are_what_the_code_does(page: str) -> None:
    assert SHARES == (0, 1 / 8, 1 / 4, 3 / 8, 1 / 2)
    assert "overlaps 0, 1/8, 1/4, 3/8 and 1/2" in page
    assert share_of(FrameSize(1024, 1024), 1 / 4) == 256
    assert FRAMES == 8
    assert "eight of them" in page
