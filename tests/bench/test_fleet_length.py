"""How long a queue is watched: held to long runs of the simulation from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.bench import fleet_length
from segformer_deploy.bench.fleet import Allowed, Fleet, Trial, devices_for
from segformer_deploy.bench.fleet_length import frames_of, length_for, relaxation_s
from segformer_deploy.bench.fleet_report import plan_fleet
from segformer_deploy.bench.fleet_times import Times
from segformer_deploy.bench.queueing import camera_frames, serve

RARE = (10.0,) * 195 + (300.0,) * 5
"""Of mean 17.25 ms: eleven cameras of 5 frames/s keep a device busy for 94.9 %."""


def long_p99(
    fleet: Fleet, ms: tuple[float, ...], devices: int, seconds: float, draws: int = 50
) -> float:
    """Of long runs, each of other phases and without its first tenth."""
    rng, ages = np.random.default_rng(99), []
    for _ in range(draws):
        frames = camera_frames(fleet.cameras, 1 / fleet.fps, seconds, np.array(ms) / 1000, rng)
        served = serve(frames, devices, fleet.streams, "queue")
        ages.append(served.age_s[frames.arrival_s > seconds / 10])
    return 1000 * float(np.percentile(np.concatenate(ages), 99))


def test_a_queue_near_saturation_is_watched_until_it_settles() -> None:
    """Within 10 s that begin idle its p99 seems to be 1.8 s; in the long run it is above 4 s."""
    fleet, allowed = Fleet(11, 5, "queue"), Allowed(2000.0)
    expected = long_p99(fleet, RARE, 1, 4000)
    assert expected > 4000
    found = Trial(fleet, RARE, allowed).standing(1)
    assert found.settled
    assert found.age_ms["p99"] == pytest.approx(expected, rel=0.2)
    assert not found.within
    assert devices_for(fleet, RARE, allowed).devices == 2


@pytest.mark.parametrize(
    ("fleet", "ms", "devices"),
    [
        (Fleet(8, 10, "queue"), (5.0, 15.0), 1),
        (Fleet(19, 5, "queue", streams=2), (10.0, 30.0), 1),
        (Fleet(47, 2, "queue"), (1.0,) * 9 + (80.0,), 1),
        (Fleet(90, 10, "queue"), (5.0, 15.0), 10),
    ],
)
def test_ages_are_those_of_a_long_run(fleet: Fleet, ms: tuple[float, ...], devices: int) -> None:
    found = Trial(fleet, ms, Allowed(None)).standing(devices)
    assert found.settled
    assert found.age_ms["p99"] == pytest.approx(long_p99(fleet, ms, devices, 200), rel=0.15)


def test_what_would_take_too_long_counts_as_over_the_budget() -> None:
    """A load of 99.99 %: no simulation of some seconds says how old answers become."""
    ms, fleet = (9.9991 - 9, 9.9989 + 9), Fleet(10, 10, "queue")
    allowed = Allowed(5000.0)
    found = Trial(fleet, ms, allowed).standing(1)
    assert found.stable
    assert not found.settled
    assert found.age_ms["p99"] < 5000
    assert not found.within
    report = plan_fleet(fleet, allowed, Times(ms, True, "x"))
    assert report.likely.devices == 2
    assert any("1 devices are too near saturation" in note for note in report.notes)
    assert [one["settled"] for one in report.to_dict()["points"]][:2] == [False, True]
    # Where no age is asked for, it need not settle.
    assert devices_for(fleet, ms, Allowed(None)).devices == 1
    alone = devices_for(Fleet(1, 100, "queue"), ms, allowed)
    assert alone.devices is None
    assert "do not settle" in str(alone.why_none)


def test_an_excerpt_stands_for_many_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 devices in a queue some are watched, and say what all of them do."""
    ms, fleet = (5.0, 5.0, 5.0, 29.0), Fleet(430, 10, "queue")
    service = np.array(ms) / 1000
    monkeypatch.setattr(fleet_length, "MOST_FRAMES", 60_000)
    length = length_for(fleet, service, 60)
    assert length.settles
    assert length.devices < 60
    # 10 of 60 devices have eight cameras, the others seven.
    assert length.cameras == 7 * length.devices + math.ceil(length.devices / 6)
    found = Trial(fleet, ms, Allowed(None)).standing(60).age_ms["p99"]
    assert found == pytest.approx(long_p99(fleet, ms, 60, 200, draws=4), rel=0.15)
    # The newest frame's cameras are all watched: the worst of them counts.
    assert length_for(Fleet(430, 10), service, 60).cameras == 430


def test_a_rare_slow_frame_comes_often_enough() -> None:
    fleet, service = Fleet(1, 1, "queue"), np.array([*(0.001,) * 999, 0.002])
    length = length_for(fleet, service, 1)
    slow = sum(
        int((frames.service_s > 0.0015).sum()) for frames in frames_of(fleet, length, service)
    )
    assert slow >= 20  # 30 of the counted ones, on average


@given(st.integers(1, 200), st.floats(0.05, 0.97), st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_lengths(cameras: int, load: float, spread: float) -> None:
    mean = load / cameras / 10
    service = mean * np.array([1 - spread, 1 + spread])
    fleet = Fleet(cameras, 10, "queue")
    length = length_for(fleet, service, 1)
    assert length.seconds >= 5  # fifty frames
    if length.settles:
        assert length.seconds * (1 + 1e-9) >= 25 * relaxation_s(fleet, service, 1)
        assert length.seconds * length.cameras * 10 <= fleet_length.MOST_FRAMES * (1 + 1e-9)
    # A queue of constant times repeats itself after one period.
    assert relaxation_s(fleet, np.array([mean]), 1) == 0


def test_a_queue_that_grows_never_settles() -> None:
    fleet, service = Fleet(11, 10, "queue"), np.array([0.01, 0.01])
    assert relaxation_s(fleet, service, 1) == math.inf
    assert not length_for(fleet, service, 1).settles
