"""How many devices: the smallest number that keeps what is allowed, and from what times."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.bench.devices import all_devices, device_named
from segformer_deploy.bench.estimate import estimate
from segformer_deploy.bench.fleet import (
    Allowed,
    Fleet,
    Trial,
    check_batch,
    closed_form,
    devices_for,
)
from segformer_deploy.bench.fleet_report import drawing, plan_fleet
from segformer_deploy.bench.fleet_times import (
    Times,
    roofline_ms,
    times_from_estimate,
    times_from_file,
)
from segformer_deploy.bench.published import published_rows
from segformer_deploy.bench.queueing import POLICIES
from segformer_deploy.bench.roofline import Task, time_of
from segformer_deploy.errors import InputError
from segformer_deploy.spec import FrameSize

FAST = Allowed(150.0)


def test_constant_times_fill_devices_to_the_last_camera() -> None:
    """10 ms a frame, 10 frames/s: ten cameras have just room on a device, eleven have not."""
    for cameras, devices in ((10, 1), (11, 2), (20, 2), (21, 3)):
        answer = devices_for(Fleet(cameras, 10), (10.0 - 1e-6,), Allowed(None, drops_percent=0.5))
        assert answer.devices == devices


def test_the_answer_is_the_smallest_that_was_simulated_to_be_enough() -> None:
    fleet, ms = Fleet(40, 10, jitter_ms=30), (12.0, 12.0, 12.0, 60.0)
    answer = devices_for(fleet, ms, Allowed(170.0, drops_percent=2))
    assert answer.devices is not None
    assert answer.tried[answer.devices].within
    assert not answer.tried[answer.devices - 1].within
    # Beside the answer its neighbours were looked at, for the chart.
    assert answer.devices + 3 in answer.tried
    standings = answer.standings
    assert [one.devices for one in standings] == sorted(answer.tried)
    below = [one.within for one in standings if one.devices < answer.devices]
    assert not any(below)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 25),
    st.floats(2, 20),
    st.floats(2, 40),
    st.sampled_from(POLICIES),
    st.integers(1, 3),
)
def test_bisection_finds_what_counting_up_finds(
    cameras: int, fps: float, ms: float, policy: Any, streams: int
) -> None:
    fleet = Fleet(cameras, fps, policy, streams)
    answer = devices_for(fleet, (ms,), FAST)
    trial = Trial(fleet, (ms,), FAST)
    first = next((n for n in range(1, cameras + 1) if trial.standing(n).within), None)
    if first is None:
        assert answer.devices is None
        assert answer.why_none
    else:
        assert answer.devices is not None
        # The phases of fewer cameras may by chance do with one device less.
        assert first <= answer.devices <= first + 1
        assert first >= trial.least()


def test_an_overloaded_queue_is_refused_however_short_it_was_watched() -> None:
    fleet = Fleet(10, 10, "queue")
    trial = Trial(fleet, (10.5,), Allowed(1e9))
    assert not trial.standing(1).within
    assert not trial.standing(1).stable
    assert devices_for(fleet, (10.5,), Allowed(1e9)).devices == 2
    # Nine of ten devices have one camera, but two are too many for the last.
    assert not Trial(Fleet(11, 10, "queue"), (51.0,), Allowed(1e9)).standing(10).stable
    assert devices_for(fleet, (100.0,), Allowed(1e9)).devices is None  # load 1: grows for ever


def test_no_number_is_enough() -> None:
    slow = devices_for(Fleet(5, 1), (300.0,), Allowed(200.0))
    assert slow.devices is None
    assert "300 ms" in str(slow.why_none)
    often = devices_for(Fleet(5, 10), (150.0,), Allowed(None))
    assert often.devices is None
    assert "no time for all frames" in str(often.why_none)
    late = devices_for(Fleet(3, 10, jitter_ms=5), (50.0, 50.0, 50.0, 199.0), Allowed(200.0))
    assert late.devices is None
    assert "a device for each camera" in str(late.why_none)


def test_drops_are_of_the_camera_that_fares_worst() -> None:
    """Eleven cameras on ten devices' time: all is well but for the two that share one too many."""
    found = Trial(Fleet(11, 10), (55.0,), Allowed(None, drops_percent=5)).standing(10)
    assert found.drops < 5 < found.worst_drops
    assert not found.within


def test_streams_are_devices_that_share_their_cameras() -> None:
    one = devices_for(Fleet(24, 10, "queue"), (20.0,), FAST).devices
    two = devices_for(Fleet(24, 10, "queue", streams=2), (20.0,), FAST).devices
    assert one is not None
    assert two is not None
    assert two <= math.ceil(one / 2)


def test_batches_that_gain_time_need_fewer_devices() -> None:
    """20 ms a frame, or eight in 40 ms: 50 or 200 frames/s a device, for 500."""
    plain = devices_for(Fleet(50, 10), (20.0,), FAST).devices
    found = devices_for(Fleet(50, 10, batch=8, batch_ms=40.0), (20.0,), FAST).devices
    assert plain == 10
    assert found is not None
    assert 3 <= found <= 5  # 2.5 devices' work in full batches
    # A batch that takes as long as its frames one by one gains nothing.
    assert devices_for(Fleet(50, 10, batch=8, batch_ms=160.0), (20.0,), FAST).devices == plain


@pytest.mark.parametrize("ms", [19.0, 161.0])
def test_a_batch_that_cannot_be(ms: float) -> None:
    times = Times((20.0,), True, "x")
    with pytest.raises(InputError, match="a batch of 8"):
        check_batch(Fleet(5, 10, batch=8, batch_ms=ms), times)
    check_batch(Fleet(5, 10, batch=8, batch_ms=100.0), times)
    check_batch(Fleet(5, 10), times)
    assert Fleet(5, 10, batch=8, batch_ms=100.0).with_overhead(2.0).batch_ms == 116.0


def test_an_estimates_error_carries_through() -> None:
    found = estimate(device_named("orin-nano-8gb"), "b0", FrameSize(512, 512), 150)
    assert found.range_ms is not None
    times = times_from_estimate(found)
    assert (times.low, times.mean, times.high) == (
        *(found.range_ms[0], found.time.total, found.range_ms[1]),
    )
    report = plan_fleet(Fleet(60, 10), FAST, times)
    data = report.to_dict()
    assert data["estimated"] is True
    for end, ms in (("low", times.low), ("high", times.high)):
        assert ms is not None
        assert data["devices"][end] == devices_for(Fleet(60, 10), (ms,), FAST).devices
    assert data["devices"]["low"] < data["devices"]["likely"] < data["devices"]["high"]
    assert data["service"]["low_is"] == "error"


@pytest.mark.parametrize("name", ["l4", "h100", "n100"])
def test_an_unknown_error_leaves_a_bound_below_and_none_above(name: str) -> None:
    times = times_from_estimate(estimate(device_named(name), "b0", FrameSize(512, 512), 150))
    assert times.low_is == "roofline"
    assert times.high is None
    assert times.low is not None
    assert times.low < times.mean
    data = plan_fleet(Fleet(60, 1), Allowed(None), times).to_dict()
    assert data["devices"]["high"] is None
    assert data["devices"]["low"] <= data["devices"]["likely"]
    assert any("--measured" in note for note in data["notes"])


def test_the_roofline_is_below_whatever_was_published() -> None:
    rows = published_rows()
    assert len(rows) > 10
    for row in rows:
        task = Task(
            row.variant, row.size, row.classes, row.precision, row.device, row.engine, "published"
        )
        found = estimate(row.device, row.variant, row.size, row.classes, row.precision, "published")
        assert found.task.precision == task.precision
        assert roofline_ms(found) < row.latency_ms


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_roofline_is_below_any_efficiency(precision: Any) -> None:
    for device in all_devices():
        found = estimate(device, "b1", FrameSize(512, 512), 19, precision)
        best = {"compute": 1.0, "bandwidth": 1.0, "launch_us": 0.0}
        gains = {"fp32_gain": 1.0, "int8_gain": 1.0, "onnxruntime_gain": 1.0}
        assert roofline_ms(found) <= time_of(found.task, {**best, **gains}).total * (1 + 1e-9)


def result(**changes: Any) -> dict[str, Any]:
    return {
        "engine": "e",
        "size": "64x64",
        "backend": "native",
        "samples_ms": [5.0, 7.0],
        "error": None,
        "warnings": ["the machine is noisy"],
        **changes,
    }


def test_times_of_a_result(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    path.write_text(json.dumps(result()))
    times = times_from_file(path)
    assert times.measured
    assert times.ms == (5.0, 7.0)
    assert times.scv == pytest.approx(1 / 36)
    assert any("noisy" in note for note in times.notes)
    assert any("2 measured frames" in note for note in times.notes)
    assert times.with_overhead(3.0).ms == (8.0, 10.0)
    data = plan_fleet(Fleet(4, 10), FAST, times).to_dict()
    assert data["estimated"] is True
    assert data["service"]["measured"] is True
    assert data["devices"] == {"low": None, "likely": 1, "high": None}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "does not read"),
        ("[]", "no object"),
        (json.dumps({"results": []}), "whole matrix"),
        (json.dumps({"estimated": True}), "is an estimate"),
        (json.dumps(result(error={"found": "x"})), "failed"),
        (json.dumps(result(samples_ms=[])), "no samples_ms"),
        (json.dumps(result(samples_ms=[1.0, -2.0])), "no samples_ms"),
        (json.dumps(result(samples_ms=[True])), "no samples_ms"),
        (json.dumps(result(samples_ms=[1.0, None])), "no samples_ms"),
        ('{"samples_ms": [NaN]}', "no samples_ms"),
    ],
)
def test_what_is_no_result(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match=found):
        times_from_file(path)
    with pytest.raises(InputError, match="does not read"):
        times_from_file(tmp_path / "absent.json")


def test_the_closed_form_is_beside_the_simulation() -> None:
    """A queue's 99th percentile of constant times, one device: formula and simulation agree."""
    fleet, times = Fleet(8, 10, "queue"), Times((11.0,), False, "x")
    formula = closed_form(fleet, times, 1)
    assert formula["cameras_of_fullest"] == 8
    assert formula["busy_percent_of_fullest"] == pytest.approx(88)
    simulated = Trial(fleet, times.ms, FAST).standing(1)
    assert simulated.age_ms["p99"] == pytest.approx(formula["wait_p99_ms"] + 11, rel=0.25)
    assert closed_form(Fleet(8, 10, streams=2), times, 1)["wait_p99_ms"] is None
    assert closed_form(Fleet(10, 10), times, 1)["wait_mean_ms"] is None


def test_the_chart(tmp_path: Path) -> None:
    report = plan_fleet(Fleet(12, 10), FAST, Times((20.0,), False, "estimate of x"))
    assert drawing(report, tmp_path / "fleet.png")
    assert (tmp_path / "fleet.png").read_bytes().startswith(b"\x89PNG")
