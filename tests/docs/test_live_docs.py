"""The figures of the live pages are the measured ones."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def result(name: str) -> dict[str, Any]:
    data = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert isinstance(data, dict)
    return data


def page(name: str) -> str:
    """Its text on one line."""
    return " ".join((ROOT / "docs" / f"{name}.md").read_text().split())


def latency_rows() -> list[str]:
    data = result("live-latency")
    age, live, back = data["age_ms"], data["live"], data["recoveries_s"]
    before = [one for one in data["samples"] if one["seconds"] < data["minutes"] * 60 + 1]
    return [
        f"| age of the picture at the output | p50 {age['last_minute_p50']:.0f} ms, p99 "
        f"{age['last_minute_p99']:.0f} ms, max {age['last_minute_max']:.0f} ms |",
        f"| of which from arrival to output | p50 {live['p50_ms']:.0f} ms, p99 "
        f"{live['p99_ms']:.0f} ms |",
        f"| frames | {live['frames_in']} in = {live['shown']} shown + {live['dropped']} dropped |",
        f"| back after the server was killed and started, {len(back)} times | "
        f"{min(back):.1f} to {max(back):.1f} s |",
        f"| resident memory, from minute one to minute five | {before[5]['rss_mb']:.0f} to "
        f"{before[-1]['rss_mb']:.0f} MB |",
    ]


def soak_words() -> list[str]:
    data = result("live-soak")
    first, last = data["after_a_minute"], data["at_the_end"]
    return [
        f"an hour of stream ({data['frames_in']} frames at 15 frames/s, lost "
        f"{data['reconnects']} times)",
        f"{first['rss_mb']:.0f} MB resident after its first minute and {last['rss_mb']:.0f} MB at "
        "its end",
        f"{last['descriptors']} descriptors at both ends",
    ]


def view_words() -> list[str]:
    ratios = result("live-view")["ratios"]
    one, ten = (statistics.median(values) for values in ratios.values())
    return [
        f"with one viewer {one:.3f} times the frames per second of nobody looking, with ten, of "
        f"whom one reads nothing, {ten:.3f} times"
    ]


@pytest.mark.parametrize("words", [latency_rows, soak_words, view_words])
def test_the_live_pages_figures(words: Callable[[], list[str]]) -> None:
    text = page("live")
    for each in words():
        assert each in text, each


def test_the_soak_left_nothing_behind() -> None:
    data = result("live-soak")
    first, last = data["after_a_minute"], data["at_the_end"]
    assert last["threads"] <= first["threads"]
    assert last["descriptors"] <= first["descriptors"]
    assert data["closed"]["threads"] == data["before"]["threads"]


def test_the_stabilisers_table() -> None:
    data, text = result("stabiliser"), page("stabiliser")
    for name, run in data["runs"].items():
        before, after = run["before"], run["after"]
        less = 100 * (1 - after["flicker"] / before["flicker"])
        row = (
            f"| {name} | {100 * before['flicker']:.2f} | {100 * after['flicker']:.2f} | "
            f"{less:.0f} % | {100 * before['miou']:.1f} | {100 * after['miou']:.1f} |"
        )
        assert row in text
