"""Several sources on one engine: nobody waits for long, and who ends is finished at once."""

from __future__ import annotations

import random
import signal
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.errors import FrameError, MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video import loop
from segformer_deploy.video.bell import Bell
from segformer_deploy.video.frame import Frame, Picture
from segformer_deploy.video.live.grabber import Grabbed
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.loop import Stream, run_streams
from segformer_deploy.video.pipeline import Line
from segformer_deploy.video.sink import Sink, open_sink
from segformer_deploy.video.threads import Reader
from segformer_deploy.video.turns import Turns
from tests.video.live.test_live_source import END, QUICK, Opener, Scripted
from tests.video.makers import read_pictures
from tests.video.test_pipeline import Pictures

HANGS = "hangs for ever where the test fails"
FAST, SLOW, FILE = FrameSize(4, 6), FrameSize(8, 6), FrameSize(64, 96)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: all(t in before or t.name == HANGS for t in threading.enumerate()))


# Turns alone, with lines that are a list.


class Numbers:
    """A line that is ready when it is told so, and ends behind its last frame."""

    source: Any = None

    def __init__(self, count: int, ready: bool = True) -> None:
        self.left = deque(range(count))
        self.ready = ready
        self.error: Exception | None = None
        self.asked = 0

    def next(self) -> Any:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return (self.left.popleft(), 0.0) if self.left else None


def turns_of(lines: Sequence[Any], ended: list[int] | None = None) -> Turns:
    return Turns(lines, Bell(), (ended if ended is not None else []).append)


def test_lines_that_are_all_ready_take_turns() -> None:
    ended: list[int] = []
    turns = turns_of([Numbers(3), Numbers(1), Numbers(2)], ended)
    seen = []
    while (turn := turns.next()) is not None:
        seen.append((turn[0], turn[1][0]))
    assert seen == [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2)]
    assert ended == [1, 2, 0]
    assert turns.next() is None
    assert len(ended) == 3


def test_no_lines() -> None:
    assert turns_of([]).next() is None


def test_who_has_waited_longest_is_next() -> None:
    lines = [Numbers(9), Numbers(9), Numbers(9, ready=False)]
    turns = turns_of(lines)
    assert [turns.next()[0] for _ in range(4)] == [0, 1, 0, 1]  # type: ignore[index]
    lines[2].ready = True
    assert [turns.next()[0] for _ in range(4)] == [2, 0, 1, 2]  # type: ignore[index]


def test_a_line_that_is_not_ready_is_not_asked() -> None:
    lines = [Numbers(1, ready=False), Numbers(3)]
    turns = turns_of(lines)
    for _ in range(3):
        assert turns.next()[0] == 1  # type: ignore[index]
    assert lines[0].asked == 0


def test_the_last_line_is_asked_although_it_is_not_ready() -> None:
    """It waits by itself, and there is no other that waits for it."""
    turns = turns_of([Numbers(0), Numbers(2, ready=False)])
    assert turns.next()[0] == 1  # type: ignore[index]


def test_it_waits_for_the_bell() -> None:
    bell = Bell()
    lines = [Numbers(1, ready=False), Numbers(1, ready=False)]
    turns = Turns(lines, bell, lambda number: None)  # type: ignore[arg-type]

    def later() -> None:
        time.sleep(0.05)
        lines[1].ready = True
        bell.ring()

    threading.Thread(target=later).start()
    assert turns.next()[0] == 1  # type: ignore[index]


def test_an_error_of_a_line_is_raised() -> None:
    lines = [Numbers(1), Numbers(1)]
    lines[1].error = MediaError("lost", "found")
    turns = turns_of(lines)
    assert turns.next()[0] == 0  # type: ignore[index]
    with pytest.raises(MediaError, match="lost"):
        turns.next()


@given(
    ready=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=60)
)
def test_nobody_waits_for_more_than_one_frame_of_each_other(
    ready: list[tuple[bool, bool, bool]],
) -> None:
    lines = [Numbers(1000) for _ in range(3)]
    turns = turns_of(lines)
    since: list[list[int] | None] = [None, None, None]
    for states in ready:
        if not any(states):
            continue
        for number, state in enumerate(states):
            lines[number].ready = state
            waits = since[number]
            since[number] = (waits if waits is not None else []) if state else None
        turn = turns.next()
        assert turn is not None
        assert states[turn[0]]
        since[turn[0]] = None
        for waits in since:
            if waits is not None:
                waits.append(turn[0])
                assert len(waits) == len(set(waits))


# Turns in a run.


class Noting(Sink):
    """Notes the index of each frame; `hook` is called first."""

    def __init__(self, hook: Callable[[Frame], None] = lambda frame: None) -> None:
        super().__init__(Path("nowhere"))
        self.hook = hook
        self.seen: list[int] = []

    def write(self, frame: Frame, picture: Picture) -> None:
        assert not self.closed
        self.hook(frame)
        self.seen.append(frame.index)


def raining(size: FrameSize, deaf: bool = False) -> Scripted:
    """Always has another frame."""
    grabber = Scripted(size=size)
    count = iter(range(10**9))
    image = np.zeros((size.height, size.width, 3), np.uint8)

    def read() -> Grabbed | None:
        next(count)
        time.sleep(0.0005)
        return None if grabber.interrupted.is_set() else Grabbed(time.monotonic(), size, image.copy)

    grabber.read = read  # type: ignore[method-assign]
    return grabber


def live(grabber: Scripted, name: str = "cam") -> LiveSource:
    return LiveSource(name, Opener(grabber), QUICK)


def zeros(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.zeros(image.shape[:2], np.uint8)


def size_of(image: np.ndarray[Any, Any]) -> FrameSize:
    return FrameSize(*image.shape[:2])


def test_a_fast_a_slow_and_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a frame gets it segmented within one frame of each other source."""
    spied: list[Line] = []

    class Spied(Turns):
        def __init__(self, lines: Sequence[Line], *others: Any) -> None:
            spied.extend(lines)
            super().__init__(lines, *others)

    monkeypatch.setattr(loop, "Turns", Spied)
    slow = Scripted(0, size=SLOW)
    order: list[FrameSize] = []
    fed_at = []

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        order.append(size_of(image))
        if len(order) % 7 == 0:
            fed_at.append(len(order))
            slow.feed(len(order))
            wait_for(lambda: spied[1].ready)
        # The fast one and the file always have another frame.
        wait_for(lambda: spied[0].ready and spied[2].ready)
        return zeros(image)

    streams = [
        Stream(live(raining(FAST)), [Noting()]),
        Stream(live(slow), [Noting()]),
        Stream(Pictures(None), [Noting()]),
    ]

    def enough(progress: Any) -> None:
        if len(order) >= 60:
            raise KeyboardInterrupt

    reports = run_streams(streams, segment, on_frame=enough)
    assert all(report.interrupted for report in reports)
    for place in fed_at:
        assert SLOW in order[place : place + 3]
    for place in range(len(order) - 3):
        assert {FAST, FILE} <= set(order[place : place + 3])
    assert order.count(SLOW) == len(fed_at) + 1 or order.count(SLOW) == len(fed_at)


def test_a_file_with_a_slow_sink_does_not_hold_up_a_camera() -> None:
    """While the file's sink is busy, the camera's frames go on."""
    free = threading.Event()
    camera_sink = Noting()
    file_sink = Noting(lambda frame: bool(free.wait(10)) or None)
    source = live(raining(FAST))

    def told(progress: Any) -> None:
        if progress.stream == 0 and progress.frames >= 30:
            free.set()

    streams = [Stream(source, [camera_sink]), Stream(Pictures(6), [file_sink])]

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if free.is_set() and len(file_sink.seen) == 6:
            raise KeyboardInterrupt
        return zeros(image)

    start = time.monotonic()
    reports = run_streams(streams, segment, on_frame=told)
    assert time.monotonic() - start < 9
    assert free.is_set()
    assert (reports[1].frames, file_sink.seen) == (6, list(range(6)))
    assert reports[0].frames >= 30


def test_who_ends_closes_its_sinks_at_once(tmp_path: Path) -> None:
    ends = Pictures(3)
    sink = open_sink(tmp_path / "out.mp4", ends)
    after: list[bool] = []
    other = live(raining(FAST))

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if sink.closed:
            after.append((tmp_path / "out.mp4").exists())
            if len(after) == 5:
                raise KeyboardInterrupt
        return zeros(image)

    reports = run_streams([Stream(ends, [sink]), Stream(other, [Noting()])], segment)
    assert after == [True] * 5
    assert (reports[0].frames, len(read_pictures(tmp_path / "out.mp4"))) == (3, 3)
    assert reports[1].interrupted


def test_a_live_source_that_ends_is_closed_while_others_go_on() -> None:
    grabber = Scripted(0, END)
    sink = Noting()
    calls = []

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if sink.closed and grabber.closed_by:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
        return zeros(image)

    streams = [Stream(live(grabber), [sink]), Stream(live(raining(SLOW)), [Noting()])]
    reports = run_streams(streams, segment)
    assert reports[0].frames == 1
    assert sink.seen == [0]


def test_at_most_so_many_frames_of_each() -> None:
    grabbers = [raining(FAST), raining(SLOW)]
    sinks = [Noting() for _ in range(3)]
    sources = [*map(live, grabbers), Pictures(50)]
    streams = [Stream(source, [sink]) for source, sink in zip(sources, sinks, strict=True)]
    reports = run_streams(streams, zeros, max_frames=7)
    assert [report.frames for report in reports] == [7, 7, 7]
    assert [len(sink.seen) for sink in sinks] == [7, 7, 7]
    assert sinks[2].seen == list(range(7))
    assert not any(report.interrupted for report in reports)
    for report in reports[:2]:
        stats = report.live
        assert stats is not None
        assert (stats.shown, stats.pending, stats.state) == (7, 0, "ended")
        assert stats.frames_in == stats.shown + stats.dropped
    assert reports[2].live is None
    assert all(len(grabber.closed_by) == 1 for grabber in grabbers)


def test_who_has_had_its_frames_does_not_go_on_capturing() -> None:
    grabber, slow = raining(FAST), Scripted(0, size=SLOW)
    seen: list[int] = []

    def go_on() -> None:
        wait_for(lambda: grabber.closed_by)  # while the slow one still has frames to give
        slow.feed(1)

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if size_of(image) == SLOW:
            seen.append(1)
            if len(seen) > 1:
                slow.feed(1)
        return zeros(image)

    threading.Thread(target=go_on).start()
    streams = [Stream(live(grabber), [Noting()]), Stream(live(slow), [Noting()])]
    reports = run_streams(streams, segment, max_frames=5)
    assert [report.frames for report in reports] == [5, 5]


def test_an_error_of_one_ends_all_and_closes_all() -> None:
    grabbers = [raining(FAST), raining(SLOW)]
    sinks = [Noting(), Noting()]

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.zeros((1, 1), np.uint8) if size_of(image) == SLOW else zeros(image)

    streams = [Stream(live(g), [sink]) for g, sink in zip(grabbers, sinks, strict=True)]
    with pytest.raises(FrameError, match="a class map of"):
        run_streams(streams, segment)
    assert all(len(grabber.closed_by) == 1 for grabber in grabbers)
    assert all(sink.closed for sink in sinks)


def test_an_error_of_the_last_lines_writer_is_not_overlooked() -> None:
    """A fast first line is always ready; the others are looked at all the same."""

    def fail(frame: Frame) -> None:
        raise MediaError("the disk is full", "room")

    streams = [Stream(live(raining(FAST)), [Noting()]), Stream(live(raining(SLOW)), [Noting(fail)])]
    with pytest.raises(MediaError, match="the disk is full"):
        run_streams(streams, zeros)


def test_each_report_is_of_its_own_stream() -> None:
    told: list[tuple[int, int]] = []
    streams = [Stream(Pictures(4), [Noting()]), Stream(Pictures(2), [Noting()])]
    reports = run_streams(streams, zeros, on_frame=lambda p: told.append((p.stream, p.frames)))
    assert [report.frames for report in reports] == [4, 2]
    assert [frames for stream, frames in told if stream == 0] == [1, 2, 3, 4]
    assert [frames for stream, frames in told if stream == 1] == [1, 2]


# Signals between two lines of Python.


def interrupted(work: Callable[[], object]) -> None:
    """Do `work` again and again until a KeyboardInterrupt falls into it."""

    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, random.uniform(50e-6, 300e-6))
            end = time.monotonic() + 10
            while time.monotonic() < end:
                for _ in range(1000):
                    work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def comes_back(work: Callable[[], object]) -> bool:
    thread = threading.Thread(target=work, name=HANGS, daemon=True)
    thread.start()
    thread.join(2)
    return not thread.is_alive()


@pytest.mark.parametrize("call", ["clear", "ring", "wait"])
def test_a_signal_cannot_break_the_bell(call: str) -> None:
    """A lock that stays taken would have every other thread hang for ever."""
    for _ in range(25):
        bell = Bell()

        def work(bell: Bell = bell) -> None:
            if call == "wait":
                bell.ring()
            getattr(bell, call)()

        interrupted(work)
        assert comes_back(bell.clear)
        assert comes_back(bell.ring)
        assert comes_back(bell.wait)  # at once: it was rung


def test_a_signal_cannot_break_a_readers_semaphore() -> None:
    for _ in range(25):
        reader = Reader(Pictures(1), None, 2, lambda message: None)
        interrupted(reader.make_room)
        assert comes_back(reader.stop)


def test_a_bell_that_nobody_hears_takes_no_memory() -> None:
    bell = Bell()
    tracemalloc.start()
    try:
        for _ in range(20_000):
            bell.ring()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 4096
    start = time.monotonic()
    bell.wait()  # it was rung
    assert time.monotonic() - start < 0.3
    bell.clear()
    start = time.monotonic()
    bell.wait()
    assert 0.3 < time.monotonic() - start < 5  # nobody has rung since
