"""A live run: the newest frame, few of them under way, and recordings that are kept."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.errors import MediaError, OutputError, SegdeployError
from segformer_deploy.spec import FrameSize, default_palette
from segformer_deploy.video.frame import Picture
from segformer_deploy.video.interrupts import terminable, watched
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.live_line import LIVE_BEHIND
from segformer_deploy.video.loop import Progress, RunReport, Stream, run_streams
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.shown import Shown
from segformer_deploy.video.sink import MaskSink, open_sink
from segformer_deploy.video.stream import Stream as StreamOf
from tests.video.live.test_live_source import END, LOST, QUICK, Opener, Scripted
from tests.video.makers import index_of, picture, read_pictures, read_times
from tests.video.test_turns import Noting, raining, wait_for

SIZE = FrameSize(64, 96)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: set(threading.enumerate()) <= before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def zeros(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.zeros(image.shape[:2], np.uint8)


class Shows(Scripted):
    """Frames that show their number as `picture` does; counts how many are alive."""

    def __init__(self, *steps: Any) -> None:
        self.alive = self.most_alive = 0
        self.lock = threading.RLock()
        super().__init__(*steps, size=SIZE)

    def grabbed(self, number: int) -> Grabbed:
        def convert() -> Picture:
            image = picture(number % 64, SIZE.height, SIZE.width)
            with self.lock:
                self.alive += 1
                self.most_alive = max(self.most_alive, self.alive)
            weakref.finalize(image, self._gone)
            return image

        return Grabbed(time.monotonic(), SIZE, convert)

    def _gone(self) -> None:
        with self.lock:
            self.alive -= 1


class Live:
    """A run of one live source whose next frame is fed by who segments."""

    def __init__(self, *first: Any, options: CaptureOptions = QUICK) -> None:
        self.grabber = Shows(*(first or (0,)))
        self.source = LiveSource("cam", Opener(self.grabber), options)
        self.segmented: list[int] = []

    @property
    def came(self) -> int:
        return self.source.meter.snapshot().frames_in

    def feed(self, *numbers: int) -> None:
        expected = self.came + len(numbers)
        self.grabber.feed(*numbers)
        wait_for(lambda: self.came == expected)

    def run(self, *sinks: Any, hook: Callable[[int], None], **more: Any) -> RunReport:
        """Segment until `hook`, which is told the number of each frame, presses Ctrl-C."""

        def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            self.segmented.append(index_of(image))
            hook(self.segmented[-1])
            return zeros(image)

        stream = Stream(self.source, sinks)
        for name in ("masks", "overlay", "smooth", "score"):
            if name in more:
                setattr(stream, name, more.pop(name))
        return run_streams([stream], segment, **more)[0]


# Which frame.


def test_the_newest_frame_is_taken_each_time() -> None:
    live = Live()

    def slowly(number: int) -> None:
        if len(live.segmented) == 6:
            raise KeyboardInterrupt
        # Nine frames come while this one is segmented.
        live.feed(*(number + n for n in range(1, 10)))

    sink = Noting()
    report = live.run(sink, hook=slowly)
    assert live.segmented == [0, 9, 18, 27, 36, 45]
    assert sink.seen == [0, 9, 18, 27, 36]
    assert (report.frames, report.interrupted) == (5, True)
    stats = report.live
    assert stats is not None
    assert (stats.frames_in, stats.shown, stats.dropped, stats.pending) == (46, 5, 41, 0)
    assert stats.state == "ended"


def test_a_frame_is_not_taken_before_there_is_room_for_its_result() -> None:
    """While the sink is busy, frames are not taken; then the newest of that moment is."""
    live = Live()
    busy, free = threading.Event(), threading.Event()

    def write(frame: Any) -> None:
        busy.set()
        assert free.wait(10)

    def drive() -> None:
        assert busy.wait(10)
        live.feed(1)
        wait_for(lambda: len(live.segmented) == LIVE_BEHIND)
        for number in range(2, 40):
            live.feed(number)
        time.sleep(0.03)
        assert len(live.segmented) == LIVE_BEHIND
        free.set()

    def segment(number: int) -> None:
        if len(live.segmented) == LIVE_BEHIND + 1:
            raise KeyboardInterrupt

    driver = threading.Thread(target=drive)
    driver.start()
    sink = Noting(write)
    report = live.run(sink, hook=segment)
    driver.join()
    assert live.segmented == [0, 1, 39]
    assert sink.seen == [0, 1]
    assert report.frames == 2


def test_the_age_of_a_frame_when_it_is_taken_is_bounded() -> None:
    """However slow the rest is: a frame is at most as old as the source's own pace."""
    grabber = raining(SIZE)
    source = LiveSource("cam", Opener(grabber), QUICK)
    ages: list[float] = []
    take = source.take

    def timed() -> Any:
        frame = take()
        if frame is not None:
            ages.append(time.monotonic() - frame.captured_s)
        return frame

    source.take = timed  # type: ignore[method-assign]

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        time.sleep(0.01)
        return zeros(image)

    slow = Noting(lambda frame: time.sleep(0.03))
    run_streams([Stream(source, [slow])], segment, max_frames=15)
    # In the middle of them: a busy machine may hold up any one.
    assert sorted(ages)[len(ages) // 2] < 0.03


def test_few_frames_are_alive() -> None:
    live = Live()
    number = iter(range(1, 10**6))
    over = threading.Event()

    def rain() -> None:
        while not over.is_set():
            live.grabber.feed(next(number))
            time.sleep(0.001)

    def segment(_: int) -> None:
        time.sleep(0.002)

    driver = threading.Thread(target=rain)
    driver.start()
    slow = Noting(lambda frame: time.sleep(0.006))
    report = live.run(slow, hook=segment, max_frames=25)
    over.set()
    driver.join()
    assert report.frames == 25
    assert live.grabber.most_alive <= LIVE_BEHIND + 1
    wait_for(lambda: live.grabber.alive == 0)


def test_only_what_is_taken_is_converted_and_every_index_fits() -> None:
    live = Live()
    seen: list[tuple[int, int]] = []

    def segment(number: int) -> None:
        if number < 60:
            live.feed(*range(number + 1, number + 5))
        else:
            live.grabber.feed(END)

    sink = Noting(lambda frame: seen.append((frame.index, index_of(frame.image))))
    report = live.run(sink, hook=segment)
    assert not report.interrupted
    assert [index for index, _ in seen] == [shown for _, shown in seen]
    assert report.frames == len(seen) == len(live.segmented)
    assert live.source.finished


def test_reports_tell_the_latency() -> None:
    live = Live()

    def segment(number: int) -> None:
        time.sleep(0.02)
        live.feed(number + 1)

    told: list[Progress] = []
    report = live.run(Noting(), hook=segment, max_frames=5, on_frame=told.append)
    assert [progress.frames for progress in told] == [1, 2, 3, 4, 5]
    assert told[0].frame_count == 5
    stats = report.live
    assert stats is not None
    assert stats.p50_ms is not None
    assert stats.p50_ms > 19
    assert stats.p99_ms is not None
    assert stats.p99_ms >= stats.p50_ms
    assert report.stages_ms["segment"] > 19


# Errors.


def test_an_error_of_the_writer_ends_the_run_and_keeps_recordings(tmp_path: Path) -> None:
    live = Live()

    def fail(frame: Any) -> None:
        if frame.index == 4:
            raise OutputError("the server hung up", "one that listens")

    def segment(number: int) -> None:
        live.feed(number + 1)
        if number > 4:
            time.sleep(0.01)
        assert number < 1000

    video = open_sink(tmp_path / "out.mp4", live.source)
    last = Noting(fail)
    with pytest.raises(OutputError, match="the server hung up"):
        live.run(video, last, hook=segment)
    assert last.closed
    shown = [index_of(image) for image in read_pictures(tmp_path / "out.mp4")]
    assert shown == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(live.grabber.closed_by) == 1


def test_an_error_of_the_writer_does_not_wait_for_another_frame() -> None:
    live = Live()

    def fail(frame: Any) -> None:
        raise OutputError("no disk", "a disk")

    start = time.monotonic()
    with pytest.raises(OutputError, match="no disk"):
        live.run(Noting(fail), hook=lambda number: None)
    assert time.monotonic() - start < 2
    assert len(live.grabber.closed_by) == 1


def test_an_error_of_the_segmenter_keeps_recordings(tmp_path: Path) -> None:
    live = Live()

    def segment(number: int) -> None:
        if number == 3:
            raise SegdeployError("the engine failed")
        live.feed(number + 1)

    with pytest.raises(SegdeployError, match="the engine failed"):
        live.run(open_sink(tmp_path / "out.mkv", live.source), hook=segment)
    assert [index_of(image) for image in read_pictures(tmp_path / "out.mkv")] == [0, 1, 2]


def test_a_source_that_is_lost_for_good_keeps_recordings(tmp_path: Path) -> None:
    live = Live(options=CaptureOptions(reconnect=False))

    def segment(number: int) -> None:
        if number == 3:
            live.grabber.feed(LOST)
        else:
            live.feed(number + 1)

    with pytest.raises(MediaError, match="the cable is out"):
        live.run(open_sink(tmp_path / "out.mp4", live.source), hook=segment)
    assert [index_of(image) for image in read_pictures(tmp_path / "out.mp4")] == [0, 1, 2, 3]


def test_a_full_disk_keeps_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live()
    sink: Any = open_sink(tmp_path / "out.mp4", live.source)
    mux, muxed = sink._mux, []

    def full(packets: list[Any]) -> None:
        if len(muxed) >= 70:
            raise OSError(errno.ENOSPC, "No space left on device")
        mux(packets)
        muxed.extend(packets)

    monkeypatch.setattr(sink, "_mux", full)

    def segment(number: int) -> None:
        live.feed((number + 1) % 64)
        assert len(live.segmented) < 1000

    with pytest.raises(OutputError, match="No space left"):
        live.run(sink, hook=segment)
    shown = [index_of(image) for image in read_pictures(tmp_path / "out.mp4")]
    assert len(shown) >= 60
    assert shown == [n % 64 for n in range(len(shown))]


def test_a_source_that_comes_back_goes_on_in_the_same_file(tmp_path: Path) -> None:
    first, second = Shows(0), Shows(1)
    source = LiveSource("cam", Opener(first, second), QUICK)
    seen: list[int] = []

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(index_of(image))
        if seen == [0]:
            first.feed(LOST)
        else:
            second.feed(END)
        return zeros(image)

    sink = open_sink(tmp_path / "out.mp4", source)
    report = run_streams([Stream(source, [sink])], segment)[0]
    assert [index_of(image) for image in read_pictures(tmp_path / "out.mp4")] == [0, 1]
    times = read_times(tmp_path / "out.mp4")
    assert times[0] == 0
    assert times[1] > 0
    assert report.live is not None
    assert report.live.reconnects == 1


# Who looks on.


class Looker:
    """Keeps all that it is offered, and what was in it then."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self.bytes: list[tuple[bytes, bytes, bytes]] = []
        self.threads: set[int] = set()

    def offer(self, shown: Shown) -> None:
        self.threads.add(threading.get_ident())
        self.shown.append(shown)
        self.bytes.append(self._bytes(shown))

    def _bytes(self, shown: Shown) -> tuple[bytes, bytes, bytes]:
        return shown.frame.image.tobytes(), shown.class_map.tobytes(), shown.shares.tobytes()

    def check(self) -> None:
        assert [self._bytes(shown) for shown in self.shown] == self.bytes


@pytest.mark.parametrize("smooth", [False, True])
def test_watchers_see_each_frame_once_in_order_and_unchanged(smooth: bool, tmp_path: Path) -> None:
    live = Live()
    lookers = [Looker(), Looker()]
    same = np.zeros((SIZE.height, SIZE.width), np.uint8)
    smoothed = np.zeros_like(same)

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        number = index_of(image)
        if number < 12:
            live.feed(number + 1)
        else:
            live.grabber.feed(END)
        same[:] = number % 3
        return same

    def smoothing(image: Any, class_map: Any) -> Any:
        smoothed[:] = (class_map + 1) % 3
        return smoothed

    stream = StreamOf(
        live.source,
        [Noting(), open_sink(tmp_path / "out.mp4", live.source)],
        masks=MaskSink(tmp_path / "masks", 3),
        overlay=Overlay(default_palette(3), ("a", "b", "c")),
        smooth=smoothing if smooth else None,
    )
    report = run_streams([stream], segment, watchers=lookers)[0]
    assert report.frames == 13
    for looker in lookers:
        looker.check()
        assert [shown.frame.index for shown in looker.shown] == list(range(13))
        for shown in looker.shown:
            number = index_of(shown.frame.image)
            expected = (number + smooth) % 3
            assert number == shown.frame.index
            assert (shown.class_map == expected).all()
            assert shown.shares.tolist() == [float(n == expected) for n in range(3)]
            assert shown.stream == 0
            assert shown.frame.captured_s is not None
            age = (shown.shown_s - shown.frame.captured_s) * 1e3
            assert shown.latency_ms == pytest.approx(age)
        assert len(looker.threads) == 1


def test_watchers_of_two_streams() -> None:
    lives = [Live(), Live()]
    looker = Looker()
    calls = [0, 0]

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        for place, live in enumerate(lives):
            if live.came <= 10:
                live.feed(live.came)
            elif not calls[place]:
                calls[place] = 1
                live.grabber.feed(END)
        return zeros(image)

    reports = run_streams([Stream(live.source) for live in lives], segment, watchers=[looker])
    for number, report in enumerate(reports):
        indices = [s.frame.index for s in looker.shown if s.stream == number]
        assert indices == sorted(set(indices))
        assert len(indices) == report.frames
        assert indices[-1] == 10
    looker.check()


def test_an_error_of_a_watcher_ends_the_run() -> None:
    class Failing:
        def offer(self, shown: Shown) -> None:
            raise RuntimeError("the page is gone")

    live = Live()
    with pytest.raises(RuntimeError, match="the page is gone"):
        live.run(hook=lambda number: live.feed(number + 1), watchers=[Failing()])


def test_stabilising_is_timed_and_flicker_is_told() -> None:
    live = Live()

    def segment(number: int) -> None:
        if number < 5:
            live.feed(number + 1)
        else:
            live.grabber.feed(END)

    class Scores:
        overall = 0.25

        def __init__(self) -> None:
            self._next = iter([None, 0.1, 0.2, 0.3, 0.4, 0.5])

        def __call__(self, image: Any, class_map: Any) -> float | None:
            return next(self._next)

    report = live.run(
        Noting(),
        hook=segment,
        smooth=lambda image, class_map: class_map,
        score=Scores(),
    )
    assert report.frames == 6
    assert "stabilise" in report.stages_ms
    assert report.live is not None
    assert (report.live.flicker, report.flicker) == (0.5, 0.25)


# Signals.

PROGRAM = """
import signal, sys, time
from pathlib import Path

import numpy as np
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.interrupts import terminable
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.video.loop import Stream, run_streams
from segformer_deploy.video.sink import open_sink
from segformer_deploy.video.source import open_source

output, where = Path(sys.argv[1]), sys.argv[2]


def told(progress):
    if progress.frames == 3 and progress.stream == 0:
        print("go", flush=True)


def opened():
    if where in ("silent", "hung"):
        from segformer_deploy.video.live.source import LiveSource
        from tests.video.live.test_live_source import QUICK, Opener, Scripted

        grabber = Scripted(0, deaf=where == "hung")
        source = LiveSource("cam", Opener(grabber), QUICK)
        take = source.take

        def next_one():
            frame = take()
            if frame is not None and frame.index < 2:
                grabber.feed(frame.index + 1)
            return frame

        source.take = next_one
        return source
    return open_source("test:", CaptureOptions(size=FrameSize(64, 96)))


def segment(image):
    if where == "segmenter":
        time.sleep(0.02)
    return np.zeros(image.shape[:2], np.uint8)


with terminable() as terminated:
    sources = [opened() for _ in range(2 if where == "two" else 1)]
    outputs = [output.with_stem(f"out{n}") for n in range(len(sources))]
    streams = [Stream(s, [open_sink(o, s)]) for s, o in zip(sources, outputs)]
    reports = run_streams(streams, segment, on_frame=told)
    over = time.monotonic()
    print(over, terminated(), *(r.interrupted for r in reports), *(r.frames for r in reports))
"""


def play(
    tmp_path: Path, where: str, *signals: signal.Signals, background: bool = False, ending: str
) -> tuple[float, list[str], list[int]]:
    """Run it, send the signals once frames are written; seconds, words, frames in the files."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / f"x{ending}"), where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=ignore if background else None,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        for number in signals:
            sent = time.monotonic()
            os.kill(process.pid, number)
            time.sleep(0.05 if len(signals) > 1 else 0)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    over, *words = out.split()
    files = sorted(tmp_path.iterdir())
    assert all(path.suffix == ending for path in files)
    return float(over) - sent, words, [len(read_pictures(path)) for path in files]


LONGEST_S, PATIENCE_S = 1.0, 0.7
"""How long the end may take; how long it waits for a driver that hangs, once."""


@pytest.mark.parametrize("where", ["streets", "segmenter", "silent", "two"])
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_ctrl_c_ends_a_live_run_in_under_a_second(where: str, ending: str, tmp_path: Path) -> None:
    seconds, words, frames = play(tmp_path, where, signal.SIGINT, ending=ending)
    assert seconds < LONGEST_S
    count = len(frames)
    assert words == ["False", *["True"] * count, *map(str, frames)]
    assert frames[0] >= 3


@pytest.mark.parametrize("where", ["streets", "silent"])
@pytest.mark.parametrize("background", [False, True])
def test_sigterm_ends_a_live_run_in_under_a_second(
    where: str, background: bool, tmp_path: Path
) -> None:
    """Of a job in the background too, which ignores Ctrl-C."""
    seconds, words, frames = play(
        tmp_path, where, signal.SIGTERM, background=background, ending=".mp4"
    )
    assert seconds < LONGEST_S
    assert words == ["True", "True", str(frames[0])]
    assert frames[0] >= 3


def test_ctrl_c_with_a_camera_whose_driver_hangs(tmp_path: Path) -> None:
    seconds, words, frames = play(tmp_path, "hung", signal.SIGINT, ending=".mp4")
    assert PATIENCE_S <= seconds < 1.3
    assert words == ["False", "True", str(frames[0])]


def test_a_job_in_the_background_does_not_hear_ctrl_c(tmp_path: Path) -> None:
    _, words, frames = play(
        tmp_path, "streets", signal.SIGINT, signal.SIGTERM, background=True, ending=".mp4"
    )
    assert words == ["True", "True", str(frames[0])]


@pytest.mark.parametrize("delay_ms", [1, 4, 9, 17, 26, 40])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_leaves_as_many_frames_as_reported(
    number: signal.Signals, delay_ms: int, tmp_path: Path
) -> None:
    grabber = raining(SIZE)
    source = LiveSource("cam", Opener(grabber), QUICK)
    sink = open_sink(tmp_path / "out.mp4", source)
    first = threading.Event()
    looker = Looker()

    def press() -> None:
        assert first.wait(10)
        time.sleep(delay_ms / 1000)
        os.kill(os.getpid(), number)

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        first.set()
        time.sleep(0.002)
        return zeros(image)

    presser = threading.Thread(target=press)
    presser.start()
    with terminable() as terminated:
        report = run_streams([Stream(source, [sink])], segment, watchers=[looker])[0]
        assert terminated() == (number == signal.SIGTERM)
    presser.join()
    assert report.interrupted
    assert report.live is not None
    assert report.frames == report.live.shown == len(looker.shown)
    assert report.live.pending == 0
    assert len(grabber.closed_by) == 1
    if report.frames:
        assert len(read_pictures(tmp_path / "out.mp4")) == report.frames
    else:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_the_file_whole(second: signal.Signals, tmp_path: Path) -> None:
    """It may come while the file is being finished, or afterwards: then it ends the program."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "x.mp4"), "streets"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, second)
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["out0.mp4"]
    assert len(read_pictures(tmp_path / "out0.mp4")) >= 3


def test_a_signal_handler_of_the_programs_own_is_left_alone() -> None:
    def own(*_: Any) -> None:
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with terminable() as terminated, watched() as pressed:
            assert signal.getsignal(signal.SIGTERM) is own
            os.kill(os.getpid(), signal.SIGTERM)
            assert not terminated()
            assert not pressed()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
