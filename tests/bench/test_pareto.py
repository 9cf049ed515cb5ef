"""The front and the pick against a walk over all pairs; the chart."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.case import Case, failed
from segformer_deploy.bench.matrix import MatrixReport
from segformer_deploy.bench.pareto import (
    Budget,
    FitReport,
    Point,
    check_order,
    drawing,
    front,
    pick,
    point_from_result,
    rank_of,
)
from segformer_deploy.errors import InputError


def point(
    name: str, ms: float, mib: float, miou: float | None = None, rank: Any = (0, 4096, 2)
) -> Point:
    return Point(name, {}, ms, ms, mib, miou, rank)


POINTS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12
).map(lambda rows: [point(str(n), *map(float, row)) for n, row in enumerate(rows)])


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[Point]) -> None:
    names = {one.name for one in front(points)}
    for one in points:
        beaten = any(
            (two.latency_ms, two.memory_mib, -(two.miou or 0))
            != (one.latency_ms, one.memory_mib, -(one.miou or 0))
            and two.latency_ms <= one.latency_ms
            and two.memory_mib <= one.memory_mib
            and (two.miou or 0) >= (one.miou or 0)
            for two in points
        )
        assert (one.name not in names) is beaten


@given(POINTS, st.integers(1, 6), st.integers(1, 6))
def test_the_pick_is_the_most_accurate_within(points: list[Point], ms: int, mib: int) -> None:
    budget = Budget(memory_mib=mib, latency_ms=ms)
    chosen = pick(points, budget)
    within = [one for one in points if one.latency_ms <= ms and one.memory_mib <= mib]
    if chosen is None:
        assert not within
        return
    assert chosen in within
    assert chosen.miou == max(one.miou or 0 for one in within)
    alike = [one for one in within if one.miou == chosen.miou]
    assert chosen.latency_ms == min(one.latency_ms for one in alike)
    assert chosen in front(points)


def test_without_miou_the_order_counts() -> None:
    ranks = [
        rank_of("b0", "512x512", "int8"),
        rank_of("b0", "512x512", "fp32"),
        rank_of("b0", "512x1024", "int8"),
        rank_of("b1", "256x256", "int8"),
    ]
    assert ranks == sorted(ranks)
    points = [point(str(n), 1.0 + n, 1.0 + n, None, rank) for n, rank in enumerate(ranks)]
    assert len(front(points)) == 4
    chosen = pick(points, Budget(latency_ms=3.5))
    assert chosen is not None
    assert chosen.name == "2"


def test_one_without_miou_makes_all_go_by_order() -> None:
    low, high = rank_of("b0", "64x64", "fp32"), rank_of("b1", "64x64", "fp32")
    points = [point("a", 1, 1, 90.0, low), point("b", 1, 1, None, high)]
    chosen = pick(points, Budget())
    assert chosen is not None
    assert chosen.name == "b"


def test_only_b0_to_b5_have_an_order() -> None:
    assert rank_of("custom", "512x512", "fp32") < rank_of("b0", "64x64", "int8")
    check_order(["b0", "b5"])
    check_order(["custom"])  # at several sizes it compares with itself
    for variants in (["b5", "custom"], ["custom", "custom"], ["b0", None]):
        with pytest.raises(InputError, match="no labelled frames") as caught:
            check_order(variants)
        assert "--images FOLDER --labels FOLDER" in caught.value.next_step


def test_a_budget_in_words() -> None:
    budget = Budget(128, 50, 40)
    assert str(budget) == "128 MiB, 50 ms, mIoU of at least 40 %"
    assert str(Budget()) == "no bounds"
    assert budget.excess(point("a", 50, 128, 40.0)) == []
    assert budget.excess(point("a", 50.1, 129, 39.9)) == [
        "50.1 ms of 50",
        "129 MiB of 128",
        "mIoU 39.90 of 40 %",
    ]
    assert budget.excess(point("a", 1, 1)) == ["no mIoU of 40 %"]


def test_out_of_reach_goes_by_the_fastest_run() -> None:
    slow = Point("a", {}, 80, 40, 10, None, (0, 1, 1))
    assert Budget(latency_ms=50).out_of_reach(slow) is None  # a noisy median may be luck
    assert "fastest run takes 40.0 ms" in (Budget(latency_ms=30).out_of_reach(slow) or "")
    assert "takes 10 MiB" in (Budget(memory_mib=9).out_of_reach(slow) or "")


def result(**more: Any) -> dict[str, Any]:
    case = Case("a.onnx", variant="b0", precision="int8", size="64x96", backend="native")
    figures = {"latency_ms": {"p50": 2.0, "p90": 3.0, "p99": 4.0, "min": 1.0}, "size": "64x96"}
    return {**failed(case, {}), "error": None, "peak_rss_mib": 50.0, **figures, **more}


def test_a_point_of_a_result() -> None:
    found = point_from_result(result(accuracy={"miou": 41.5}), "p90")
    assert found is not None
    assert (found.name, found.latency_ms, found.fastest_ms) == ("b0-64x96-int8-native", 3.0, 1.0)
    assert (found.miou, found.rank) == (41.5, (0, 64 * 96, 0))
    assert point_from_result(result(error={"found": "broken"})) is None


def test_a_reports_json() -> None:
    one = point_from_result(result())
    assert one is not None
    matrix = MatrixReport(Path("out"), [result(), result(error={"found": "broken"})])
    data = FitReport(Budget(memory_mib=10), matrix, [one], {"x": "too large"}).to_dict()
    assert data["accuracy"] == "order"
    assert data["points"][0]["front"] is True
    assert data["points"][0]["excess"] == ["50 MiB of 10"]
    assert data["failed"] == {"b0-64x96-int8-native": "broken"}
    assert data["winner"] is None


def test_the_chart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [point("a", 1, 9), point("b", 3, 3), point("c", 4, 9)]
    assert drawing(points, Budget(5, 5), points[1], tmp_path / "front.png")
    picture = cv2.imread(str(tmp_path / "front.png"))
    assert picture is not None
    assert picture.shape[:2] == (600, 960)


def test_no_chart_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert not drawing([point("a", 1, 1)], Budget(), None, tmp_path / "front.png")
    assert not list(tmp_path.iterdir())
