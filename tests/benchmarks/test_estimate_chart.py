"""The chart of estimates: its points are those of the table that they are fitted to."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import estimate_chart  # noqa: E402

pytest.importorskip("matplotlib")
DATA = ROOT / "segformer_deploy" / "bench" / "data"


def left_out() -> list[dict[str, Any]]:
    found = json.loads((DATA / "fit.json").read_text("utf-8"))["left_out_cores"]
    assert isinstance(found, list)
    return found


def points() -> list[Any]:
    """The lines of the figure that hold one point."""
    axes = estimate_chart.drawn().axes[0]
    return [line for line in axes.get_lines() if len(line.get_xdata()) == 1]


def test_each_row_of_the_table_is_a_point() -> None:
    rows = {row["row"]: row for row in csv.DictReader((DATA / "published.csv").open())}
    expected = sorted(
        (float(rows[str(one["row"])]["latency_ms"]), one["estimate_ms"]) for one in left_out()
    )
    drawn = sorted((float(p.get_xdata()[0]), float(p.get_ydata()[0])) for p in points())
    assert len(drawn) == len(expected)
    for found, wanted in zip(drawn, expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_colour_and_mark_tell_device_and_precision() -> None:
    rows = {int(row["row"]): row for row in csv.DictReader((DATA / "published.csv").open())}
    by_place = {(one["published_ms"], one["estimate_ms"]): one for one in left_out()}
    for point in points():
        one = by_place[(point.get_xdata()[0], point.get_ydata()[0])]
        assert point.get_color() == estimate_chart.COLOURS[one["group"]]
        precision = rows[one["row"]]["precision"]
        assert point.get_marker() == estimate_chart.MARKERS[precision]


def test_all_points_lie_inside_and_far_ones_are_named() -> None:
    low, high = estimate_chart.LIMITS
    for point in points():
        assert low < point.get_xdata()[0] < high
        assert low < point.get_ydata()[0] < high
    far = [
        one
        for one in left_out()
        if max(one["estimate_ms"] / one["published_ms"], one["published_ms"] / one["estimate_ms"])
        >= estimate_chart.GOAL
    ]
    texts = [text.get_text() for text in estimate_chart.drawn().axes[0].texts]
    assert len(texts) == len(far) > 0
    for one in far:
        assert any(one["board"] in text and f"{one['error']:.1f}x" in text for text in texts)


def test_the_points_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "estimate.md").read_text("utf-8")
    found = re.findall(
        r"^\| (\d+) \| \S+ \| [^|]+ \| \w+ \| ([\d.]+) \| ([\d.]+) \|", page, re.MULTILINE
    )
    said = {int(row): (float(published), float(guess)) for row, published, guess in found}
    assert set(said) == {one["row"] for one in left_out()}
    for one in left_out():
        assert said[one["row"]] == pytest.approx(
            (one["published_ms"], one["estimate_ms"]), rel=0.006
        )


def test_it_runs_and_writes_a_picture(tmp_path: Path) -> None:
    target = tmp_path / "estimate.png"
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "estimate_chart.py"), str(target)],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
    )
    assert target.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.glob("*.png")] == ["estimate.png"]
