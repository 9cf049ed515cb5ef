"""Cameras that share devices: what is simulated is what is known, where something is known."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.bench.queueing import (
    ALONE,
    POLICIES,
    Batch,
    Floats,
    Frames,
    Policy,
    Served,
    camera_frames,
    serve,
)
from segformer_deploy.bench.queueing_theory import (
    least_drops,
    mean_wait,
    periodic_wait_percentile,
)
from segformer_deploy.errors import InputError

ONE = np.array([1.0])


def poisson(rate: float, count: int, service_s: Floats, seed: int) -> Frames:
    """Frames that come at random: each from a camera of its own."""
    rng = np.random.default_rng(seed)
    return Frames(np.zeros(count, np.int64), np.cumsum(rng.exponential(1 / rate, count)), service_s)


def waits(served: Served) -> Floats:
    found: Floats = served.start_s - served.frames.arrival_s
    return found


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_mmc(servers: int, load: float) -> None:
    count, rng = 400_000, np.random.default_rng(1)
    rate = load * servers
    served = serve(poisson(rate, count, rng.exponential(1.0, count), 2), 1, servers, "queue")
    expected = mean_wait(rate, 1.0, service_scv=1.0, servers=servers)
    assert waits(served).mean() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_md1(load: float) -> None:
    served = serve(poisson(load, 400_000, np.ones(400_000), 3), 1, 1, "queue")
    pollaczek_khinchine = load / (2 * (1 - load))
    assert mean_wait(load, 1.0) == pytest.approx(pollaczek_khinchine)
    assert waits(served).mean() == pytest.approx(pollaczek_khinchine, rel=0.05)


def test_several_servers_by_another_way() -> None:
    """One server by all frames at once, and by the loop of several."""
    rng = np.random.default_rng(4)
    frames = poisson(0.9, 5000, rng.exponential(1.0, 5000), 5)
    one = serve(frames, 1, 1, "queue").start_s
    free, expected = 0.0, []
    for came, takes in zip(frames.arrival_s, frames.service_s, strict=True):
        expected.append(max(free, came))
        free = expected[-1] + takes
    np.testing.assert_allclose(one, expected, rtol=1e-12)


def test_dd1_one_camera() -> None:
    """A camera with a device to itself: nothing waits, nothing is dropped."""
    frames = camera_frames(1, 2.0, 100, ONE, np.random.default_rng(0))
    for policy in POLICIES:
        served = serve(frames, 1, 1, policy)
        assert not served.dropped.any()
        np.testing.assert_allclose(served.age_s, 1.0)


@pytest.mark.parametrize("load", [1.25, 2.0, 3.7])
@pytest.mark.parametrize("cameras", [1, 5])
def test_dd1_overloaded(load: float, cameras: int) -> None:
    """The newest frame, always busy: what does not fit is dropped, evenly among cameras."""
    period = cameras / load
    frames = camera_frames(cameras, period, 4000 * period, ONE, np.random.default_rng(0))
    served = serve(frames, 1, 1, "newest")
    assert served.dropped.mean() == pytest.approx(least_drops(load, 1), abs=0.003)
    each = np.bincount(frames.camera[~served.dropped])
    assert each.max() - each.min() <= max(2, 0.02 * each.max())
    # At its turn a camera's newest frame is a period old at most; the last of all have no newer.
    before_the_last = frames.arrival_s < frames.arrival_s[-1] - cameras - 2 * period
    assert np.nanmax(served.age_s[before_the_last]) <= period + 1 + 1e-6


def test_dd1_overloaded_queue_grows() -> None:
    frames = camera_frames(2, 1.0, 1000, ONE, np.random.default_rng(0))
    age = serve(frames, 1, 1, "queue").age_s
    assert age[-1] == pytest.approx(1000, rel=0.01)  # 2000 s of work came in 1000 s


def test_periodic_cameras_against_the_exact_formula() -> None:
    """N*D/D/1, over many draws of the phases."""
    rng, found = np.random.default_rng(0), []
    for _ in range(3000):
        frames = camera_frames(8, 1.0, 4, np.array([0.11]), rng)
        found.append(waits(serve(frames, 1, 1, "queue"))[frames.arrival_s > 2])
    wait = np.concatenate(found)
    for percent in (50, 90, 99):
        expected = periodic_wait_percentile(8, 1.0, 0.11, percent)
        assert np.percentile(wait, percent) == pytest.approx(expected, abs=0.008)
    # Poisson arrivals of the same rate wait longer.
    assert wait.mean() < mean_wait(8.0, 0.11)


def test_below_full_load_no_newest_frame_is_replaced() -> None:
    """A frame waits for one of each other camera at most, which together take below a period."""
    for seed in range(20):
        frames = camera_frames(9, 1.0, 50, np.array([0.11]), np.random.default_rng(seed))
        served = serve(frames, 1, 1, "newest")
        assert not served.dropped.any()
        assert served.age_s.max() <= 10 * 0.11 + 1e-9


@pytest.mark.parametrize("policy", POLICIES)
def test_littles_law(policy: Policy) -> None:
    """Frames that are there, looked at now and then: their rate times how long they stay."""
    rng = np.random.default_rng(6)
    frames = camera_frames(12, 1.0, 3000, rng.exponential(0.05, 1000), rng, jitter_s=0.3)
    served = serve(frames, 1, 1, policy)
    came, end = frames.arrival_s[~served.dropped], np.sort(served.end_s[~served.dropped])
    moments = np.linspace(300, 2700, 20_011)
    there = np.searchsorted(came, moments, "right") - np.searchsorted(end, moments, "right")
    inside = (came >= 300) & (came < 2700)
    rate = inside.sum() / 2400
    stay = served.age_s[~served.dropped][inside].mean()
    assert there.mean() == pytest.approx(rate * stay, rel=0.03)


def by_turns(frames: Frames, streams: int, batch: Batch) -> Floats:
    """The newest frames' starts, slow and plain, as `video.turns` has it: an order of cameras."""
    order, place = sorted(set(frames.camera.tolist())), dict[int, int]()
    free, starts = [0.0] * streams, np.full(len(frames), np.nan)
    coming = list(range(len(frames)))
    while coming or place:
        free.sort()
        now = free[0] if place else max(free[0], frames.arrival_s[coming[0]])
        while coming and frames.arrival_s[coming[0]] <= now:
            number = coming.pop(0)
            place[int(frames.camera[number])] = number
        turn = [camera for camera in order if camera in place][: batch.most]
        free[0] = now + frames.service_s[place[turn[0]]] + (len(turn) - 1) * batch.more_s
        for camera in turn:
            order.remove(camera)
            order.append(camera)
            starts[place.pop(camera)] = now
    return starts


@pytest.mark.parametrize("load", [1.5, 4.0])
def test_full_batches_when_overloaded(load: float) -> None:
    """Four frames in 2 s instead of one in 1.1: 2 frames a second, in either policy."""
    batch = Batch(4, 0.3)
    period = 8 / (2 * load)
    frames = camera_frames(8, period, 1000 * period, np.array([1.1]), np.random.default_rng(0))
    newest = serve(frames, 1, 1, "newest", batch)
    assert newest.dropped.mean() == pytest.approx(1 - 1 / load, abs=0.005)
    queue = serve(frames, 1, 1, "queue", batch)
    assert queue.end_s[-1] == pytest.approx(len(frames) / 2, rel=0.01)


def test_nobody_waits_for_a_batch_to_fill() -> None:
    frames = camera_frames(1, 2.0, 100, ONE, np.random.default_rng(0))
    for policy in POLICIES:
        np.testing.assert_allclose(serve(frames, 1, 1, policy, Batch(8, 0.5)).age_s, 1.0)


@st.composite
def traffic(draw: st.DrawFn) -> tuple[Frames, int, int, Policy]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cameras, period = draw(st.integers(1, 12)), draw(st.floats(0.05, 2.0))
    samples = rng.gamma(draw(st.sampled_from([0.5, 4.0])), draw(st.floats(0.01, 0.5)), 20)
    jitter = draw(st.sampled_from([0.0, 0.5, 3.0])) * period
    frames = camera_frames(cameras, period, 40 * period, samples + 1e-3, rng, jitter)
    return frames, draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.sampled_from(POLICIES))


@settings(max_examples=60, deadline=None)
@given(traffic(), st.sampled_from([ALONE, Batch(2, 0.01), Batch(5, 0.0)]))
def test_turns_are_those_of_a_run(case: tuple[Frames, int, int, Policy], batch: Batch) -> None:
    frames, devices, streams, _ = case
    served = serve(frames, devices, streams, "newest", batch)
    for device in range(devices):
        mine = frames.camera % devices == device
        one = Frames(frames.camera[mine], frames.arrival_s[mine], frames.service_s[mine])
        np.testing.assert_allclose(served.start_s[mine], by_turns(one, streams, batch))


@settings(max_examples=60, deadline=None)
@given(traffic(), st.integers(2, 5))
def test_a_batch_is_of_one_start_and_one_end(
    case: tuple[Frames, int, int, Policy], most: int
) -> None:
    frames, _, _, policy = case
    served = serve(frames, 1, 1, policy, Batch(most, 0.02))
    shown = ~served.dropped
    starts, sizes = np.unique(served.start_s[shown], return_counts=True)
    assert sizes.max() <= most
    for start, size in zip(starts, sizes, strict=True):
        together = served.start_s == start
        assert len(set(served.end_s[together].tolist())) == 1
        took = served.end_s[together][0] - start
        alone = frames.service_s[together]
        assert alone.min() - 1e-9 <= took - (size - 1) * 0.02 <= alone.max() + 1e-9
    # One stream: no batch begins before the last has ended.
    assert (starts[1:] >= np.unique(served.end_s[shown])[:-1] - 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(traffic(), st.floats(0, 1))
def test_each_frame_is_shown_dropped_or_pending(
    case: tuple[Frames, int, int, Policy], when: float
) -> None:
    frames, devices, streams, policy = case
    served = serve(frames, devices, streams, policy)
    last = frames.arrival_s[-1]
    came, shown, dropped, pending = served.counts_at(when * last)
    assert came == shown + dropped + pending
    assert came == (frames.arrival_s <= when * last).sum()
    # In the end nothing is pending, and a camera's newest frame is never the one dropped.
    done = served.counts_at(math.inf)
    assert done[3] == 0
    for camera in np.unique(frames.camera):
        assert not served.dropped[frames.camera == camera][-1]
    if policy == "queue":
        assert not served.dropped.any()


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_no_device_does_more_than_its_streams_at_a_time(
    case: tuple[Frames, int, int, Policy],
) -> None:
    frames, devices, streams, policy = case
    served = serve(frames, devices, streams, policy)
    assert not (served.start_s < frames.arrival_s).any()
    for device in range(devices):
        mine = (frames.camera % devices == device) & ~served.dropped
        begins, ends = np.sort(served.start_s[mine]), np.sort(served.end_s[mine])
        # When the n-th begins, all but `streams` - 1 of those before it have ended.
        assert (begins[streams:] >= ends[: max(0, len(ends) - streams)] - 1e-9).all()
    for camera in np.unique(frames.camera):
        starts = served.start_s[frames.camera == camera]
        assert (np.diff(starts[~np.isnan(starts)]) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(traffic())
def test_more_devices_are_not_worse(case: tuple[Frames, int, int, Policy]) -> None:
    frames, devices, streams, policy = case
    few, many = (serve(frames, n, streams, policy) for n in (devices, 2 * devices))
    # Twice as many: every device's cameras are split among two.
    assert many.dropped.mean() <= few.dropped.mean() + 0.02
    if policy == "queue":
        assert (many.end_s <= few.end_s + 1e-9).all()


def test_the_same_seed_gives_the_same_frames() -> None:
    a, b = (camera_frames(3, 0.1, 5, ONE, np.random.default_rng(7), 0.02) for _ in range(2))
    np.testing.assert_array_equal(a.arrival_s, b.arrival_s)
    assert (np.diff(a.arrival_s) >= 0).all()
    for camera in range(3):
        gaps = np.diff(a.arrival_s[a.camera == camera])
        assert (gaps >= 0.08 - 1e-9).all()
        assert (gaps <= 0.12 + 1e-9).all()


def test_two_hundred_cameras_for_a_minute_take_below_a_second() -> None:
    frames = camera_frames(200, 0.1, 60, np.array([0.02]), np.random.default_rng(0))
    for policy in POLICIES:
        # Of three: others may be at work on this machine.
        took = []
        for _ in range(3):
            start = time.process_time()
            serve(frames, 45, 1, policy)
            took.append(time.process_time() - start)
        assert len(frames) == 120_000
        assert min(took) < 1.0


def test_no_device_is_an_error() -> None:
    frames = camera_frames(1, 1.0, 2, ONE, np.random.default_rng(0))
    with pytest.raises(InputError):
        serve(frames, 0, 1, "newest")
