"""Latency: what is counted, how it is summed up, what is said about a poor measurement."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench import latency
from segformer_deploy.bench.latency import LatencyReport, measure_latency
from segformer_deploy.errors import InputError, RunError
from tests.bench.fake_segmenters import FakeSegmenter

FRAME = np.zeros((4, 4, 3), np.uint8)
TIMES = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=40)


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock in ns that moves only when the test moves it."""
    now = [0]
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter_ns=lambda: now[0]))
    return now


@given(TIMES)
def test_percentiles_are_those_of_numpy(samples: list[float]) -> None:
    report = LatencyReport(tuple(samples)).to_dict()
    expected = np.percentile(samples, [50, 90, 99])
    got = [report["latency_ms"][name] for name in ("p50", "p90", "p99")]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert report["latency_ms"]["mean"] == pytest.approx(sum(samples) / len(samples))
    assert report["latency_ms"]["min"] == min(samples)
    assert report["fps"] * report["latency_ms"]["p50"] == pytest.approx(1000)


def test_percentile_by_hand() -> None:
    # Positions 0.5 * 3, 0.9 * 3 and 0.99 * 3 between the sorted samples.
    report = LatencyReport((40.0, 10.0, 30.0, 20.0))
    assert (report.p50, report.p90, report.p99) == pytest.approx((25.0, 37.0, 39.7))


def test_warm_up_runs_are_called_but_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = stopped_clock(monkeypatch)
    durations = iter([900, 800, 5, 6, 7])

    def answer(frame: np.ndarray) -> np.ndarray:
        now[0] += next(durations) * 1_000_000
        return frame[..., 0]

    seen: list[tuple[int, float]] = []
    segment = FakeSegmenter(answer)
    report = measure_latency(
        segment, FRAME, warmup=2, runs=3, on_run=lambda n, ms: seen.append((n, ms))
    )
    assert segment.calls == 5
    assert report.samples_ms == (5.0, 6.0, 7.0)
    assert (report.warmup, report.first_ms) == (2, 900.0)
    assert seen == [(1, 5.0), (2, 6.0), (3, 7.0)]


def test_the_clock_measures_the_call() -> None:
    def answer(frame: np.ndarray) -> np.ndarray:
        time.sleep(0.004)
        return frame[..., 0]

    report = measure_latency(FakeSegmenter(answer), FRAME, warmup=0, runs=5)
    assert report.min >= 4.0
    assert report.p50 < 200.0
    assert report.first_ms is None


def test_stages_are_medians_of_what_the_segmenter_told() -> None:
    segment = FakeSegmenter(lambda frame: frame[..., 0])
    told = iter([1.0, 5.0, 2.0])

    def answer(frame: np.ndarray) -> np.ndarray:
        value = next(told)
        segment.last_stages_ms = {"preprocess": value, "infer": 10 * value, "class_map": 0.5}
        return frame[..., 0]

    segment.answer = answer
    report = measure_latency(segment, FRAME, warmup=0, runs=3).to_dict()
    assert report["stages_ms"] == {"preprocess": 2.0, "infer": 20.0, "class_map": 0.5}
    assert report["stages_p90_ms"]["preprocess"] == pytest.approx(4.4)
    assert report["stage_samples_ms"]["infer"] == [10.0, 50.0, 20.0]


@pytest.mark.parametrize(
    ("runs", "seconds", "expected"),
    [
        (None, None, 30),  # 3 s of 100 ms: longer than 20 runs
        (7, None, 7),
        (None, 1.0, 10),
        (None, 0.01, 1),
        (25, 1.0, 25),
        (2, 1.0, 10),
    ],
)
def test_when_it_stops(
    monkeypatch: pytest.MonkeyPatch, runs: int | None, seconds: float | None, expected: int
) -> None:
    now = stopped_clock(monkeypatch)

    def answer(frame: np.ndarray) -> np.ndarray:
        now[0] += 100_000_000
        return frame[..., 0]

    report = measure_latency(FakeSegmenter(answer), FRAME, warmup=0, runs=runs, seconds=seconds)
    assert report.runs == expected


def test_default_makes_20_runs_of_a_slow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    now = stopped_clock(monkeypatch)

    def answer(frame: np.ndarray) -> np.ndarray:
        now[0] += 2_000_000_000
        return frame[..., 0]

    segment = FakeSegmenter(answer)
    assert measure_latency(segment, FRAME).runs == 20
    assert segment.calls == 23


def test_noise_is_said() -> None:
    quiet = LatencyReport((10.0,) * 8 + (14.9, 14.9))
    noisy = LatencyReport((10.0,) * 8 + (15.2, 15.2))
    assert quiet.warnings == ()
    assert len(noisy.warnings) == 1
    assert "1.52 times" in noisy.warnings[0]


def test_slowing_down_is_said() -> None:
    falling = LatencyReport((10.0,) * 10 + (12.5,) * 10)
    assert len(falling.warnings) == 1
    assert "1.25 times" in falling.warnings[0]
    assert LatencyReport((12.5,) * 10 + (10.0,) * 10).warnings == ()
    assert LatencyReport((10.0,) * 9 + (12.5,) * 9).warnings == ()  # too few to tell


def test_p99_of_few_runs_is_flagged() -> None:
    few, many = LatencyReport((1.0,) * 99), LatencyReport((1.0,) * 100)
    assert few.to_dict()["p99_is_rough"] is True
    assert "99 runs" in few.notes[0]
    assert many.to_dict()["p99_is_rough"] is False
    assert many.notes == ()


def test_report_is_json() -> None:
    segment = FakeSegmenter(lambda frame: frame[..., 0], stages={"infer": np.float64(1.5)})
    report = measure_latency(segment, FRAME, warmup=1, runs=4).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert (report["runs"], report["warmup"], len(report["samples_ms"])) == (4, 1, 4)


@pytest.mark.parametrize(
    "counts", [{"runs": 0}, {"warmup": -1}, {"seconds": 0.0}, {"seconds": float("nan")}]
)
def test_counts_that_measure_nothing(counts: dict[str, float]) -> None:
    segment = FakeSegmenter(lambda frame: frame[..., 0])
    with pytest.raises(InputError):
        measure_latency(segment, FRAME, **counts)
    assert segment.calls == 0


def test_a_failing_run_is_not_hidden() -> None:
    def answer(frame: np.ndarray) -> np.ndarray:
        raise RunError("the engine failed")

    with pytest.raises(RunError):
        measure_latency(FakeSegmenter(answer), FRAME, warmup=0, runs=1)
