"""A live source whose grabbers do what they are told: frames, errors, ends, and silence."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame, Picture
from segformer_deploy.video.live import source as live_source
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed
from segformer_deploy.video.live.source import LiveSource

END = None
SIZE = FrameSize(4, 6)
LOST = MediaError("the cable is out", "a cable")
QUICK = CaptureOptions(open_s=10.0, stall_s=10.0)
Step = Any
"""A number (a frame that shows it), a Grabbed, END, an exception, or a function to be called."""


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: set(threading.enumerate()) <= before)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_source, "_FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(live_source, "_LONGEST_PAUSE_S", 0.008)


def image_of(number: int, size: FrameSize = SIZE) -> Picture:
    return np.full((size.height, size.width, 3), number % 256, np.uint8)


class Scripted:
    """A grabber that takes one step per `read`, and waits where none is left.

    Args:
        steps: what `read` does.
        deaf: `interrupt` does not call back a `read` that waits; `wake` does.
    """

    def __init__(self, *steps: Step, deaf: bool = False, size: FrameSize = SIZE) -> None:
        self.fps: Fraction | None = Fraction(30)
        self.corrupt = 0
        self.notes: list[str] = []
        self.size, self.deaf = size, deaf
        self.interrupted = threading.Event()
        self.waiting = threading.Event()
        self.reader: threading.Thread | None = None
        self.closed_by: list[threading.Thread] = []
        self.converted: list[int] = []
        self._steps: SimpleQueue[Step] = SimpleQueue()
        self._woken = object()
        self.feed(*steps)

    def feed(self, *steps: Step) -> None:
        for step in steps:
            self._steps.put(step)

    def wake(self) -> None:
        self._steps.put(self._woken)

    def read(self) -> Grabbed | None:
        self.reader = threading.current_thread()
        assert not self.closed_by
        if self._steps.empty():
            self.waiting.set()
        step = self._steps.get()
        if callable(step):
            step = step()
        if step is END or step is self._woken:
            return None
        if isinstance(step, BaseException):
            raise step
        return step if isinstance(step, Grabbed) else self.grabbed(step)

    def grabbed(self, number: int) -> Grabbed:
        def picture() -> Picture:
            self.converted.append(number)
            return image_of(number, self.size)

        return Grabbed(time.monotonic(), self.size, picture)

    def interrupt(self) -> None:
        self.interrupted.set()
        if not self.deaf:
            self.wake()

    def close(self) -> None:
        self.closed_by.append(threading.current_thread())


class Opener:
    """Gives one grabber after the other; an exception is raised; the last one stays."""

    def __init__(self, *each: Scripted | BaseException | Callable[[], Scripted]) -> None:
        self.each = list(each)
        self.opened = 0

    def __call__(self) -> Scripted:
        item = self.each[min(self.opened, len(self.each) - 1)]
        self.opened += 1
        if isinstance(item, BaseException):
            raise item
        return item if isinstance(item, Scripted) else item()


def number_of(frame: Frame) -> int:
    return int(frame.image[0, 0, 0])


def opened(*each: Any, options: CaptureOptions = QUICK) -> LiveSource:
    return LiveSource("cam", Opener(*each), options)


def next_frame(source: LiveSource) -> Frame:
    wait_for(lambda: source.ready)
    frame = source.take()
    assert frame is not None
    return frame


def check_balance(source: LiveSource) -> None:
    stats = source.meter.snapshot()
    assert stats.frames_in == stats.shown + stats.dropped + stats.pending
    assert min(stats.shown, stats.dropped, stats.pending) >= 0


# Opening.


def test_a_first_opening_that_fails_is_an_error_at_once() -> None:
    opener = Opener(MediaError("wrong password", "the right one"), Scripted(1))
    start = time.monotonic()
    with pytest.raises(MediaError, match="wrong password"):
        LiveSource("cam", opener, QUICK)
    assert time.monotonic() - start < 2
    assert opener.opened == 1


@pytest.mark.parametrize("reconnect", [True, False])
def test_a_first_frame_that_fails_is_an_error_at_once(reconnect: bool) -> None:
    grabber = Scripted(LOST)
    with pytest.raises(MediaError, match="the cable is out"):
        opened(grabber, options=CaptureOptions(reconnect=reconnect))
    assert len(grabber.closed_by) == 1


def test_an_end_before_the_first_frame_is_an_error() -> None:
    grabber = Scripted(END)
    with pytest.raises(MediaError, match="ended before its first frame"):
        opened(grabber)
    assert len(grabber.closed_by) == 1


def test_a_first_frame_that_never_comes() -> None:
    grabber = Scripted()
    start = time.monotonic()
    with pytest.raises(MediaError, match=r"cam gave no frame within 0\.1 s"):
        opened(grabber, options=CaptureOptions(open_s=0.1))
    assert 0.1 <= time.monotonic() - start < 2
    assert grabber.interrupted.is_set()
    wait_for(lambda: grabber.closed_by == [grabber.reader])


def test_an_opening_that_hangs_is_left_behind_and_closed_when_it_comes_back() -> None:
    free = threading.Event()
    grabber = Scripted(1)

    def open_late() -> Scripted:
        free.wait(10)
        return grabber

    start = time.monotonic()
    with pytest.raises(MediaError, match="gave no frame within"):
        opened(open_late, options=CaptureOptions(open_s=0.05))
    assert time.monotonic() - start < 3
    assert not grabber.closed_by
    free.set()
    wait_for(lambda: grabber.closed_by)
    assert grabber.reader is None  # nothing was read any more


def test_what_an_open_source_says() -> None:
    grabber = Scripted(1, size=FrameSize(8, 10))
    grabber.notes = ["a note"]
    grabber.corrupt = 3
    with opened(grabber) as source:
        assert (source.name, source.kind, source.live) == ("cam", "stream", True)
        assert (source.size, source.fps, source.frame_count) == (FrameSize(8, 10), 30, None)
        assert (source.notes, source.corrupt, source.finished) == (["a note"], 3, False)
        assert source.meter.snapshot().state == "running"
    assert source.meter.snapshot().state == "ended"


def test_another_error_than_ours_is_not_lost() -> None:
    with pytest.raises(ZeroDivisionError):
        opened(Scripted(ZeroDivisionError("odd")))


# Frames.


def test_the_newest_frame_is_given_and_the_others_are_counted() -> None:
    grabber = Scripted(0, 1, 2, 3)
    with opened(grabber) as source:
        wait_for(grabber.waiting.is_set)
        frame = next_frame(source)
        assert (number_of(frame), frame.index, frame.name) == (3, 3, "000003")
        assert source.take() is None
        assert not source.finished
        grabber.feed(4)
        assert next_frame(source).index == 4
        stats = source.meter.snapshot()
        assert (stats.frames_in, stats.dropped, stats.pending) == (5, 3, 2)
        assert grabber.converted == [3, 4]  # what nobody took was never converted
    stats = source.meter.snapshot()
    assert stats.frames_in == stats.shown + stats.dropped + stats.pending
    assert stats.pending == 0


def test_a_frame_that_waits_when_it_is_closed_is_dropped_once() -> None:
    grabber = Scripted(0, 1)
    source = opened(grabber)
    wait_for(lambda: source.meter.snapshot().frames_in == 2)
    source.close()
    source.close()
    stats = source.meter.snapshot()
    assert (stats.frames_in, stats.dropped, stats.pending) == (2, 2, 0)
    assert grabber.converted == []


def test_times_are_those_of_the_capture() -> None:
    grabber = Scripted()
    for captured in (50.0, 50.5, 52.000001):
        grabber.feed(Grabbed(captured, grabber.size, lambda: image_of(0)))
    with opened(grabber) as source:
        wait_for(lambda: source.meter.snapshot().frames_in == 3)
        frame = next_frame(source)
    assert frame.captured_s == 52.000001
    assert frame.time_s == pytest.approx(2.000001)
    assert frame.pts is not None
    assert frame.time_base is not None
    assert frame.pts * frame.time_base == Fraction(2_000_001, 1_000_000)


def test_a_size_that_changes_in_mid_stream() -> None:
    grabber = Scripted(0)
    with opened(grabber) as source:
        assert next_frame(source).size == FrameSize(4, 6)
        grabber.feed(
            Grabbed(time.monotonic(), FrameSize(2, 2), lambda: image_of(1, FrameSize(2, 2)))
        )
        assert next_frame(source).size == FrameSize(2, 2)
        assert source.meter.snapshot().size == "2x2"
        assert source.size == FrameSize(4, 6)


def test_a_conversion_that_fails_is_the_takers_error() -> None:
    def broken() -> Picture:
        raise MediaError("not a picture", "one")

    with opened(Scripted(Grabbed(0.0, FrameSize(4, 6), broken))) as source:
        with pytest.raises(MediaError, match="not a picture"):
            source.take()


def test_iterating_gives_each_frame_that_is_taken_in_time_and_then_ends() -> None:
    grabber = Scripted(0)
    seen = []
    with opened(grabber) as source:
        for frame in source:
            seen.append(frame.index)
            grabber.feed(len(seen) if len(seen) < 20 else END)
        assert source.finished
        assert source.over
    assert seen == list(range(20))
    assert source.meter.snapshot().dropped + source.meter.snapshot().pending == 20


def test_the_last_frame_before_the_end_is_given() -> None:
    with opened(Scripted(0, 1, END)) as source:
        wait_for(lambda: source._over)
        assert not source.over
        assert [frame.index for frame in source] == [1]
        assert source.over
        assert source.finished


def test_the_bell_rings_for_frames_and_for_the_end() -> None:
    grabber = Scripted(0)
    with opened(grabber) as source:
        next_frame(source)
        heard = threading.Event()
        source.ring_with(heard.set)
        assert not heard.is_set()
        grabber.feed(1)
        assert heard.wait(10)
        next_frame(source)
        heard.clear()
        grabber.feed(END)
        wait_for(lambda: source.over)
        assert heard.wait(10)


# Losing it.


def test_a_lost_source_is_opened_again_and_goes_on() -> None:
    first, second = Scripted(0, size=FrameSize(4, 6)), Scripted(1)
    first.notes, second.notes = ["one"], ["one", "two"]
    first.corrupt, second.corrupt = 2, 5
    opener = Opener(first, second)
    with LiveSource("cam", opener, QUICK) as source:
        before = next_frame(source)
        first.feed(LOST)
        after = next_frame(source)
        assert (before.index, after.index) == (0, 1)
        assert after.time_s is not None
        assert before.time_s == 0
        assert after.time_s > 0
        stats = source.meter.snapshot()
        assert (stats.reconnects, stats.stalls, stats.state, stats.error) == (1, 0, "running", "")
        assert source.corrupt == 7
        assert sorted(set(source.notes)) == ["one", "two"]
        assert first.closed_by == [first.reader]
    assert opener.opened == 2
    assert second.closed_by == [second.reader]


def test_while_it_is_lost_it_says_why() -> None:
    hold = threading.Event()

    def late() -> Scripted:
        hold.wait(10)
        return Scripted(1)

    first = Scripted(0, LOST)
    with opened(first, late) as source:
        wait_for(lambda: source.meter.snapshot().state == "reconnecting")
        assert source.meter.snapshot().error == "the cable is out"
        next_frame(source)
        assert not source.ready
        hold.set()
        assert next_frame(source).index == 1


def test_pauses_double_up_to_a_second_and_start_again_after_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_source, "_FIRST_PAUSE_S", 0.25)
    monkeypatch.setattr(live_source, "_LONGEST_PAUSE_S", 1.0)
    pauses: list[float] = []
    monkeypatch.setattr(LiveSource, "_pause", lambda self, s: bool(pauses.append(s)))
    last = Scripted(2)
    with opened(Scripted(0, LOST), LOST, LOST, LOST, LOST, Scripted(1, LOST), LOST, last) as source:
        wait_for(last.waiting.is_set)
        stats = source.meter.snapshot()
        assert stats.reconnects == 2  # two were opened again; five were tried in vain
        assert stats.frames_in == 3
        assert stats.state == "running"
    assert pauses == [0.25, 0.5, 1.0, 1.0, 1.0, 0.25, 0.5]


def test_it_is_tried_for_ever() -> None:
    opener = Opener(Scripted(0, LOST), LOST)
    with LiveSource("cam", opener, QUICK) as source:
        wait_for(lambda: opener.opened > 20)
        assert source.meter.snapshot().state == "reconnecting"
        assert next_frame(source).index == 0
        assert not source.ready


def test_without_reconnecting_the_error_comes_after_the_frames() -> None:
    grabber = Scripted(0)
    opener = Opener(grabber, Scripted(9))
    seen = []
    with LiveSource("cam", opener, CaptureOptions(reconnect=False)) as source:
        with pytest.raises(MediaError, match="the cable is out"):
            for frame in source:
                seen.append(frame.index)
                if len(seen) == 1:
                    grabber.feed(1, LOST)
                    wait_for(lambda: source._over)
        assert not source.finished
        assert source.meter.snapshot().error == "the cable is out"
        with pytest.raises(MediaError, match="the cable is out"):
            source.take()
    assert seen == [0, 1]
    assert opener.opened == 1
    stats = source.meter.snapshot()  # after closing, too
    assert (stats.state, stats.error) == ("ended", "the cable is out")


def test_a_frame_that_is_there_is_given_although_the_source_was_lost_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = LiveSource._first_size

    def late(self: LiveSource) -> FrameSize:
        wait_for(lambda: self._over)
        return look(self)

    monkeypatch.setattr(LiveSource, "_first_size", late)
    with opened(Scripted(0, LOST), options=CaptureOptions(reconnect=False)) as source:
        assert next_frame(source).index == 0
        with pytest.raises(MediaError, match="the cable is out"):
            source.take()


def test_a_stall_is_given_up_and_mended() -> None:
    first, second = Scripted(0), Scripted(1)
    with opened(first, second, options=CaptureOptions(stall_s=0.1)) as source:
        assert next_frame(source).index == 0
        frame = next_frame(source)
        assert (number_of(frame), frame.index) == (1, 1)
        assert first.interrupted.is_set()
        wait_for(lambda: first.closed_by)
        assert first.closed_by == [first.reader]
        stats = source.meter.snapshot()
        assert stats.stalls >= 1
        assert stats.reconnects >= 1


def test_a_stall_can_be_seen() -> None:
    hold = threading.Event()

    def late() -> Scripted:
        hold.wait(10)
        return Scripted(1)

    with opened(Scripted(0), late, options=CaptureOptions(stall_s=0.05, open_s=20)) as source:
        wait_for(lambda: source.meter.snapshot().stalls)
        time.sleep(0.02)
        stats = source.meter.snapshot()
        assert (stats.state, stats.stalls) == ("stalled", 1)
        assert "no frame for 0.05 s" in stats.error
        hold.set()


def test_a_late_frame_of_a_grabber_that_was_given_up_is_never_delivered() -> None:
    first, second = Scripted(0, deaf=True), Scripted(1)

    def again() -> Scripted:
        source._options = QUICK  # one stall is enough
        return second

    with opened(first, again, options=CaptureOptions(stall_s=0.1)) as source:
        next_frame(source)
        second_frame = next_frame(source)
        assert number_of(second_frame) == 1
        first.feed(200)  # it comes back at last
        wait_for(lambda: first.closed_by)
        assert first.closed_by == [first.reader]
        assert 200 not in first.converted
        second.feed(2)
        assert number_of(next_frame(source)) == 2
        assert source.meter.snapshot().frames_in == 3


def test_a_stall_without_reconnecting_is_an_error() -> None:
    options = CaptureOptions(stall_s=0.05, reconnect=False)
    with opened(Scripted(0), options=options) as source:
        with pytest.raises(MediaError, match=r"no frame for 0\.05 s"):
            for _ in source:
                pass


def test_an_end_is_no_loss() -> None:
    opener = Opener(Scripted(0, END), Scripted(9))
    with LiveSource("cam", opener, QUICK) as source:
        assert [frame.index for frame in source] == [0]
        assert source.meter.snapshot().state == "ended"
    assert opener.opened == 1


def test_an_end_after_reconnecting_ends_it() -> None:
    with opened(Scripted(0, LOST), Scripted(1, END)) as source:
        seen = [frame.index for frame in source]
        assert source.finished
    assert seen in ([0, 1], [1])


def test_an_error_of_closing_does_not_hang_it() -> None:
    grabber = Scripted(0)

    def failing() -> None:
        raise RuntimeError("closing failed")

    grabber.close = failing  # type: ignore[method-assign]
    with opened(grabber, Scripted(1)) as source:
        next_frame(source)
        grabber.feed(LOST)
        assert next_frame(source).index == 1


# Closing.


def closes_quickly(source: LiveSource) -> None:
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 1
    again = time.monotonic()
    source.close()
    assert time.monotonic() - again < 1
    check_balance(source)
    assert source.meter.snapshot().state == "ended"


def test_close_while_it_reads() -> None:
    grabber = Scripted(0)
    source = opened(grabber)
    assert grabber.waiting.wait(10)
    closes_quickly(source)
    assert grabber.closed_by == [grabber.reader]


def test_close_while_frames_rain_down() -> None:
    grabber = Scripted(0)
    numbers = iter(range(10**9))
    grabber.read = lambda: grabber.grabbed(next(numbers))  # type: ignore[method-assign]
    source = opened(grabber)
    next_frame(source)
    closes_quickly(source)
    assert len(grabber.closed_by) == 1
    came = source.meter.snapshot().frames_in
    assert source.take() is None
    assert source.meter.snapshot().frames_in == came


def test_close_while_it_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_source, "_FIRST_PAUSE_S", 30.0)
    source = opened(Scripted(0, LOST))
    wait_for(lambda: source.meter.snapshot().state == "reconnecting")
    closes_quickly(source)


def test_close_while_it_opens_again() -> None:
    opening, free = threading.Event(), threading.Event()
    second = Scripted(1)

    def slow() -> Scripted:
        opening.set()
        free.wait(10)
        return second

    source = opened(Scripted(0, LOST), slow)
    assert opening.wait(10)
    threading.Timer(0.1, free.set).start()
    closes_quickly(source)
    wait_for(lambda: second.closed_by)
    assert second.reader is None


def test_close_while_the_connection_is_being_replaced() -> None:
    class Asked(Scripted):
        """Has the watching thread wait, while it takes over the notes, for `interrupt`."""

        _notes: list[str] = []  # noqa: RUF012

        @property
        def notes(self) -> list[str]:  # type: ignore[override]
            if "watch" in threading.current_thread().name:
                taking_over.set()
                self.interrupted.wait(10)
            return self._notes

        @notes.setter
        def notes(self, notes: list[str]) -> None:
            self._notes = notes

    taking_over = threading.Event()
    second = Scripted(1)
    source = opened(Asked(0, LOST), second)
    assert taking_over.wait(10)
    closes_quickly(source)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "segdeploy capture"])
    assert second.closed_by or second.reader is None


def test_close_with_a_grabber_that_hangs_leaves_it_behind() -> None:
    grabber = Scripted(0, deaf=True)
    source = opened(grabber)
    assert grabber.waiting.wait(10)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 3
    again = time.monotonic()
    source.close()
    assert time.monotonic() - again < 0.3  # once is enough
    assert not grabber.closed_by
    grabber.feed(7)
    wait_for(lambda: grabber.closed_by)
    assert grabber.closed_by == [grabber.reader]
    assert source.meter.snapshot().frames_in == 1


def test_close_by_another_thread_ends_who_waits_for_a_frame() -> None:
    grabber = Scripted(0)
    source = opened(grabber)
    seen: list[int] = []

    def iterate() -> None:
        seen.extend(frame.index for frame in source)

    thread = threading.Thread(target=iterate, daemon=True)
    thread.start()
    wait_for(lambda: seen == [0])
    source.close()
    thread.join(2)
    ended = not thread.is_alive()
    source._over = True  # so that it ends in any case
    thread.join(10)
    assert ended
    assert seen == [0]


def test_a_closed_source_has_no_frames() -> None:
    source = opened(Scripted(0, 1))
    wait_for(lambda: source.meter.snapshot().frames_in == 2)
    source.close()
    wait_for(lambda: source.ready, 1)
    assert list(source) == []


def test_a_system_without_threads_left_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def none_left(self: threading.Thread) -> None:
        if "watch" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", none_left)
    grabber = Scripted(0)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        opened(grabber)
    wait_for(lambda: grabber.closed_by)


# Any story.


STORIES = st.lists(
    st.lists(st.sampled_from(["frame", "take"]), max_size=6).flatmap(
        lambda steps: st.sampled_from(["lost", "stall", "refused"]).map(lambda end: [*steps, end])
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("seed", range(25))
def test_close_at_any_moment_closes_all_that_was_opened(seed: int) -> None:
    """Connections come and go all the while; after closing, nothing is open and nothing comes."""
    chance = random.Random(seed)
    made: list[Scripted] = []

    def open_one() -> Scripted:
        if made and chance.random() < 0.3:
            raise LOST
        grabber = Scripted(*range(chance.randrange(1, 4)))
        if chance.random() < 0.8:
            grabber.feed(LOST)
        made.append(grabber)
        return grabber

    source = LiveSource("cam", open_one, CaptureOptions(stall_s=0.02))
    end = time.monotonic() + chance.random() * 0.05
    while time.monotonic() < end:
        if source.take() is not None:
            source.meter.frame_shown(1.0)
        time.sleep(0.0005)
    source.close()
    wait_for(lambda: all(grabber.closed_by for grabber in made))
    assert all(len(grabber.closed_by) == 1 for grabber in made)
    stats = source.meter.snapshot()
    assert (stats.state, stats.pending) == ("ended", 0)
    assert stats.frames_in == stats.shown + stats.dropped
    assert list(source) == []


@settings(max_examples=25)
@given(stories=STORIES, ends=st.booleans())
def test_whatever_happens_indices_times_and_counts_go_on(
    stories: list[list[str]], ends: bool
) -> None:
    """Each story is one connection's life; frames are taken by the test at its own pace."""
    grabbers = [Scripted() for _ in range(len(stories) + 1)]
    grabbers[0].feed(0)
    plan: list[Any] = [grabbers[0]]
    for story, grabber in zip(stories, grabbers[1:], strict=True):
        plan += [LOST] * (story[-1] == "refused") + [grabber]
    frames: list[Frame] = []
    given_frames = 1

    def give(grabber: Scripted) -> None:
        nonlocal given_frames
        grabber.feed(given_frames)
        given_frames += 1
        wait_for(lambda: source.meter.snapshot().frames_in == given_frames)

    def take() -> None:
        frame = source.take()
        if frame is not None:
            frames.append(frame)
            source.meter.frame_shown(1.0)
        check_balance(source)

    with LiveSource("cam", Opener(*plan), QUICK) as source:
        take()
        for story, grabber, following in zip(stories, grabbers, grabbers[1:], strict=False):
            for step in story[:-1]:
                if step == "take":
                    take()
                    continue
                give(grabber)
            grabber.feed(LOST)
            give(following)
        if ends:
            grabbers[-1].feed(END)
            wait_for(lambda: source._over)
        take()
        if ends:
            take()
            assert source.finished
    stats = source.meter.snapshot()
    assert stats.frames_in == given_frames
    assert stats.shown == len(frames)
    assert (stats.dropped, stats.pending) == (given_frames - len(frames), 0)
    assert stats.reconnects == len(stories)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert [number_of(frame) for frame in frames] == indices
    assert indices[-1] == given_frames - 1
    times = [frame.pts for frame in frames if frame.pts is not None]
    assert times == sorted(set(times))
    assert all(len(grabber.closed_by) == 1 for grabber in grabbers)
