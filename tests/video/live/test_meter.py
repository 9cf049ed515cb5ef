"""The counts of a stream, seen from many threads at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.video.live import meter as meters
from segformer_deploy.video.live.meter import Meter
from segformer_deploy.video.live.stats import StreamStats


class Clock:
    """`time.monotonic` that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meters.time, "monotonic", clock)
    return clock


def balanced(stats: StreamStats) -> bool:
    return (
        stats.frames_in == stats.shown + stats.dropped + stats.pending
        and min(stats.shown, stats.dropped, stats.pending) >= 0
    )


def test_a_new_one() -> None:
    stats = Meter("camera:0").snapshot()
    assert (stats.name, stats.state, stats.size, stats.error) == ("camera:0", "starting", "", "")
    assert (stats.frames_in, stats.shown, stats.dropped, stats.pending) == (0, 0, 0, 0)
    assert (stats.latency_ms, stats.p50_ms, stats.p99_ms, stats.flicker) == (None,) * 4
    assert (stats.fps_in, stats.fps_shown) == (0, 0)


def test_frames_are_counted_where_they_are() -> None:
    meter = Meter("a")
    for _ in range(5):
        meter.frame_in("2x3", corrupt=4)
    meter.frame_dropped()
    meter.frame_dropped(2)
    meter.frame_shown(20.0)
    stats = meter.snapshot()
    assert (stats.frames_in, stats.shown, stats.dropped, stats.pending) == (5, 1, 3, 1)
    assert (stats.size, stats.corrupt, stats.state) == ("2x3", 4, "running")
    meter.close()
    stats = meter.snapshot()
    assert (stats.frames_in, stats.shown, stats.dropped, stats.pending) == (5, 1, 4, 0)
    assert stats.state == "ended"
    meter.close()
    assert meter.snapshot().dropped == 4


def test_latency() -> None:
    meter = Meter("a")
    for ms in (10.0, 20.0, 30.0, None, 40.0):
        meter.frame_in("1x1")
        meter.frame_shown(ms)
    stats = meter.snapshot()
    assert stats.latency_ms == 40.0
    assert stats.p50_ms == pytest.approx(20, rel=0.01)
    assert stats.p99_ms == pytest.approx(40, rel=0.01)
    assert stats.shown == 5


def test_states() -> None:
    meter = Meter("a")

    def state() -> tuple[str, str]:
        stats = meter.snapshot()
        return stats.state, stats.error

    assert state() == ("starting", "")
    meter.frame_in("1x1")
    assert state() == ("running", "")
    meter.stalled("no frame for 5 s")
    assert state() == ("stalled", "no frame for 5 s")
    meter.frame_in("1x1")
    assert state() == ("running", "")
    meter.lost("unplugged")
    assert state() == ("reconnecting", "unplugged")
    meter.reconnected()
    assert state() == ("reconnecting", "unplugged")  # until a frame has come
    meter.frame_in("1x1")
    assert state() == ("running", "")
    meter.ended("gone")
    assert state() == ("ended", "gone")
    stats = meter.snapshot()
    assert (stats.stalls, stats.reconnects) == (1, 1)


def test_rates(clock: Clock) -> None:
    meter = Meter("a")
    for n in range(20):  # ten a second for two seconds, every other one shown
        clock.now += 0.1
        meter.frame_in("1x1")
        if n % 2:
            meter.frame_shown(1.0)
    stats = meter.snapshot()
    assert stats.fps_in == pytest.approx(10)
    assert stats.fps_shown == pytest.approx(5)
    assert stats.seconds == pytest.approx(2)
    for _ in range(80):
        clock.now += 0.1
        meter.frame_in("1x1")
    stats = meter.snapshot()
    assert stats.fps_in == pytest.approx(10, rel=0.03)
    assert stats.fps_shown == 0
    clock.now += 2.5
    assert meter.snapshot().fps_in == pytest.approx(5, rel=0.05)
    clock.now += 10
    assert meter.snapshot().fps_in == 0


def test_a_rate_at_the_very_start_is_finite(clock: Clock) -> None:
    meter = Meter("a")
    meter.frame_in("1x1")
    assert 0 < meter.snapshot().fps_in <= 1000


def test_the_memory_of_a_rate_is_bounded(clock: Clock) -> None:
    meter = Meter("a")
    for _ in range(5000):
        clock.now += 0.02
        meter.frame_in("1x1")
        meter.frame_shown(None)
    assert len(meter._rate_in._times) <= 251
    assert len(meter._rate_shown._times) <= 251


EVENTS: dict[str, Callable[[Meter], None]] = {
    "in": lambda meter: meter.frame_in("1x1"),
    "drop": lambda meter: meter.frame_dropped(),
    "show": lambda meter: meter.frame_shown(1.0),
    "stall": lambda meter: meter.stalled("x"),
    "lose": lambda meter: meter.lost("x"),
    "open": lambda meter: meter.reconnected(),
    "close": lambda meter: meter.close(),
}


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=60))
def test_any_story_is_balanced(story: list[str]) -> None:
    meter = Meter("a")
    for event in story:
        if event in ("drop", "show") and not meter.snapshot().pending:
            continue
        EVENTS[event](meter)
        assert balanced(meter.snapshot())
        if event == "close":
            assert meter.snapshot().pending == 0


def test_the_counts_are_balanced_at_each_moment_of_many_threads() -> None:
    meter = Meter("a")
    each, sources = 400, 4
    under_way = threading.Semaphore(0)
    errors: list[StreamStats] = []
    over = threading.Event()

    def source() -> None:
        for _ in range(each):
            meter.frame_in("1x1")
            under_way.release()

    def taker(show: bool) -> None:
        for _ in range(each):
            under_way.acquire()
            if show:
                meter.frame_shown(3.0)
            else:
                meter.frame_dropped()

    def look() -> None:
        while not over.is_set():
            stats = meter.snapshot()
            if not balanced(stats):
                errors.append(stats)
            time.sleep(0)

    workers = [threading.Thread(target=source) for _ in range(sources)]
    workers += [threading.Thread(target=taker, args=(n % 2 == 0,)) for n in range(sources)]
    lookers = [threading.Thread(target=look) for _ in range(2)]
    for thread in (*workers, *lookers):
        thread.start()
    for thread in workers:
        thread.join(30)
    over.set()
    for thread in lookers:
        thread.join(30)
    stats = meter.snapshot()
    assert errors == []
    assert (stats.frames_in, stats.shown, stats.dropped, stats.pending) == (1600, 800, 800, 0)


def test_flicker_and_json() -> None:
    meter = Meter("a")
    meter.flickered(0.1234567)
    stats = meter.snapshot()
    assert stats.flicker == 0.1234567
    told = json.loads(json.dumps(stats.to_dict()))
    assert told["flicker"] == 0.123
    assert told["latency_ms"] is None
    assert told["state"] == "starting"
    meter.flickered(None)
    assert meter.snapshot().flicker is None
