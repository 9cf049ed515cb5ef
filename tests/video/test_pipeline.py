"""Overlapped or in turn: the same results, the same errors, and no thread that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize, default_palette
from segformer_deploy.video import pipeline, threads
from segformer_deploy.video.frame import Frame, Source
from segformer_deploy.video.loop import Progress, run
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.pipeline import AHEAD, BEHIND
from segformer_deploy.video.sink import MaskSink, Sink, open_sink
from segformer_deploy.video.source import open_source
from tests.video.makers import index_of, make_video, picture, read_pictures, read_sound, read_times

Hook = Callable[[str, int], None]
HEIGHT, WIDTH = 64, 96
BOTH = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "in turn"])


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Pictures(Source):
    """`count` pictures, or no end of them; calls `hook("source", index)` before each."""

    kind = "images"
    path = Path("nowhere")

    def __init__(self, count: int | None, hook: Hook = lambda stage, index: None) -> None:
        self.count = self.frame_count = count
        self.size = FrameSize(HEIGHT, WIDTH)
        self.fps: Fraction | None = None
        self.corrupt = 0
        self.finished = False
        self.notes: list[str] = []
        self.hook = hook
        self.read = self.closed = self.alive = self.most_alive = 0
        self.inside = False
        self.lock = threading.RLock()

    def __iter__(self) -> Iterator[Frame]:
        while self.count is None or self.read < self.count:
            assert not self.closed
            self.inside = True
            try:
                self.hook("source", self.read)
            finally:
                self.inside = False
            self.read += 1
            yield self._frame(self.read - 1)  # in no variable: that would keep it alive
        self.hook("end", self.read)
        self.finished = True

    def _frame(self, index: int) -> Frame:
        image = picture(index % 64, HEIGHT, WIDTH)
        with self.lock:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(image, self._gone)
        return Frame(image=image, index=index, time_s=None, name=f"{index:06d}")

    def _gone(self) -> None:
        with self.lock:
            self.alive -= 1

    def close(self) -> None:
        assert not self.inside, "closed while it is being read"
        self.closed += 1


def class_map_of(index: int) -> np.ndarray[Any, Any]:
    return np.full((HEIGHT, WIDTH), index % 3, np.uint8)


class Stages:
    """Everything that a run is made of; each stage calls `hook(stage, index)` first."""

    def __init__(self, folder: Path, count: int | None, hook: Hook, output: str = "out") -> None:
        self.hook = hook
        self.source = Pictures(count, hook)
        self.output, self.masks = folder / output, folder / "masks"
        self.sink = open_sink(self.output, self.source)
        self.mask_sink = MaskSink(self.masks, 3)
        self.told: list[str] = []
        self.given: list[tuple[str, int, bytes]] = []
        self.segmented = 0
        self.closed_early = False
        self._spy(self.sink, "write")
        self._spy(self.mask_sink, "masks")

    def _spy(self, sink: Sink | MaskSink, stage: str) -> None:
        write = sink.write

        def hooked(frame: Frame, picture: np.ndarray[Any, Any]) -> None:
            self.hook(stage, frame.index)
            self.closed_early |= getattr(sink, "closed", False)
            self.given.append((stage, frame.index, picture.tobytes()))
            write(frame, picture)

        sink.write = hooked  # type: ignore[method-assign]

    def segment(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        index, self.segmented = self.segmented, self.segmented + 1
        self.hook("segment", index)
        return class_map_of(index)

    def on_frame(self, progress: Progress) -> None:
        self.told.append(progress.name)
        self.hook("on_frame", progress.frames - 1)

    def run(self, overlap: bool, most: int | None = None) -> Any:
        stages = self

        class Drawn(Overlay):
            drawn = 0

            def draw(self, *args: Any, **named: Any) -> Any:
                index, self.drawn = self.drawn, self.drawn + 1
                stages.hook("draw", index)
                return super().draw(*args, **named)

        return run(
            self.source,
            self.segment,
            sink=self.sink,
            masks=self.mask_sink,
            overlay=Drawn(default_palette(3), ("a", "b", "c"), legend=False),
            opacity=0.0,
            on_frame=self.on_frame,
            max_frames=most,
            overlap=overlap,
        )

    def check_files(self, count: int, masks: int | None = None) -> None:
        """`count` frames were written whole, in order, and nothing else is there."""
        masks = count if masks is None else masks
        if self.output.suffix:
            shown = [index_of(image) for image in read_pictures(self.output)] if count else []
            assert shown == list(range(count))
            assert count or not self.output.exists()
        else:
            assert names(self.output) == [f"{index:06d}.png" for index in range(count)]
            for index in range(count):
                written = np.asarray(Image.open(self.output / f"{index:06d}.png"))[..., ::-1]
                np.testing.assert_array_equal(written, picture(index % 64, HEIGHT, WIDTH))
        assert names(self.masks) == [f"{index:06d}.png" for index in range(masks)]
        for index in range(masks):
            mask = np.asarray(Image.open(self.masks / f"{index:06d}.png"))
            np.testing.assert_array_equal(mask, class_map_of(index))
        assert not list(self.output.parent.glob(".*"))

    def check_failed(self, stage: str, index: int) -> None:
        """What an error at frame `index` leaves: whole pictures, and no video."""
        pictures = index + (stage in ("masks", "on_frame"))
        masks = index + (stage == "on_frame")
        later = BEHIND if stage == "on_frame" else 0
        found = names(self.masks)
        assert found == [f"{number:06d}.png" for number in range(len(found))]
        assert masks <= len(found) <= masks + later
        assert not list(self.output.parent.glob(".*"))
        if self.output.suffix:
            assert not self.output.exists()
        else:
            assert pictures <= len(names(self.output)) <= pictures + later


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Script:
    """Which stage of which frame is slow, and which one fails."""

    def __init__(self, slow: dict[tuple[str, int], int], failing: tuple[str, int] | None) -> None:
        self.slow, self.failing = slow, failing

    def __call__(self, stage: str, index: int) -> None:
        time.sleep(self.slow.get((stage, index), 0) / 1000)
        if (stage, index) == self.failing:
            raise MediaError(f"{stage} {index} failed", "that it works")


STAGES = ("source", "segment", "draw", "write", "masks", "on_frame")
PLACES = st.tuples(st.sampled_from(STAGES), st.integers(0, 7))


@settings(max_examples=60)
@given(
    count=st.integers(0, 7),
    most=st.none() | st.integers(2, 8),
    slow=st.dictionaries(PLACES, st.integers(1, 12), max_size=6),
    failing=st.none() | PLACES,
    output=st.sampled_from(["out", "out.mp4"]),
)
@example(count=7, most=None, slow={}, failing=("masks", 3), output="out.mp4")
@example(count=7, most=4, slow={("write", 0): 30}, failing=("source", 4), output="out")
@example(count=7, most=None, slow={("write", 2): 30}, failing=("segment", 4), output="out")
@example(count=5, most=None, slow={}, failing=("on_frame", 2), output="out")
def test_overlapped_and_in_turn_are_the_same(
    count: int,
    most: int | None,
    slow: dict[tuple[str, int], int],
    failing: tuple[str, int] | None,
    output: str,
) -> None:
    frames = count if most is None else min(count, most)
    if failing is not None and failing[1] >= frames:
        failing = None
    results = []
    for overlap in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            stages = Stages(Path(folder), count, Script(slow, failing), output)
            if failing is None:
                report = stages.run(overlap, most)
                assert report.frames == frames == stages.source.read
                assert report.sizes == ({"64x96": frames} if frames else {})
                shares = np.bincount(np.arange(frames) % 3, minlength=3) / max(1, frames)
                expected = {n: s for n, s in zip("abc", shares, strict=True) if s}
                assert report.class_shares == pytest.approx(expected)
                assert not report.interrupted
                assert stages.told == [f"{index:06d}" for index in range(frames)]
                stages.check_files(frames)
                said = (report.notes, list(report.class_shares), stages.source.finished)
            else:
                with pytest.raises(MediaError, match=f"^{failing[0]} {failing[1]} failed"):
                    stages.run(overlap, most)
                told = failing[1] + (failing[0] == "on_frame")
                assert stages.told == [f"{index:06d}" for index in range(told)]
                stages.check_failed(*failing)
                said = ([], [], stages.source.finished and not overlap)
            assert stages.source.closed == 1
            assert stages.source.read <= frames
            assert stages.sink.closed
            results.append((said, stages.given, contents(Path(folder))))
    if failing is None or failing[0] != "on_frame":
        assert results[0] == results[1]


def contents(folder: Path) -> dict[str, Any]:
    """The bytes of each picture. libx264 gives other bytes for the same pictures now and then."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): read_times(path)
        if path.suffix == ".mp4"
        else path.read_bytes()
        for path in files
    }


@BOTH
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("output", ["out", "out.mp4"])
def test_ctrl_c_in_each_stage_of_an_endless_source(
    stage: str, output: str, overlap: bool, tmp_path: Path
) -> None:
    def press(where: str, index: int) -> None:
        if (where, index) == (stage, 5):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)

    stages = Stages(tmp_path, None, press, output)
    report = stages.run(overlap)
    assert report.interrupted
    # In turn the sixth frame is the last to be touched; overlapped, three more may be under way.
    before = 5 if stage in ("source", "segment") else 6
    assert before - 2 * overlap - (stage == "source") * overlap <= report.frames <= before + 3
    stages.check_files(report.frames)
    # One call at most gives way to Ctrl-C.
    left_out = {f"{index:06d}" for index in range(report.frames)} - set(stages.told)
    assert len(left_out) <= 1
    assert stages.told == sorted(set(stages.told))
    assert (stages.source.closed, stages.sink.closed) == (1, True)


def test_a_second_ctrl_c_waits_until_the_frames_are_written(tmp_path: Path) -> None:
    def press(where: str, index: int) -> None:
        if (where, index) == ("segment", 3):
            os.kill(os.getpid(), signal.SIGINT)
        if where == "write":
            time.sleep(0.02)
            if index == 2:
                os.kill(os.getpid(), signal.SIGINT)

    stages = Stages(tmp_path, None, press, "out.mp4")
    report = stages.run(True)
    assert (report.interrupted, report.frames) == (True, 3)
    assert len(stages.told) == 3
    stages.check_files(3)


def test_an_error_of_the_writer_is_not_lost_to_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Losing(SimpleQueue[Any]):
        def get(self, *args: Any, **named: Any) -> Any:
            message = super().get(*args, **named)
            if isinstance(message, threads.End) and isinstance(message.thread, threads.Writer):
                raise KeyboardInterrupt  # after the message is out of the queue
            return message

    monkeypatch.setattr(pipeline, "SimpleQueue", Losing)
    stages = Stages(tmp_path, None, Script({}, ("draw", 3)), "out.mp4")
    with pytest.raises(MediaError, match="draw 3 failed"):
        stages.run(True)
    stages.check_failed("draw", 3)


def test_an_error_of_the_writer_comes_before_an_interrupting_on_frame(tmp_path: Path) -> None:
    def script(stage: str, index: int) -> None:
        if (stage, index) == ("write", 2):
            wait_for(lambda: stages.segmented == 5)
        if (stage, index) == ("segment", 4):
            wait_for(lambda: not any("writer" in t.name for t in threading.enumerate()))
            raise KeyboardInterrupt
        if (stage, index) == ("on_frame", 2):
            raise KeyboardInterrupt
        if (stage, index) == ("draw", 3):
            raise MediaError("draw 3 failed", "that it works")

    stages = Stages(tmp_path, None, script, "out.mp4")
    with pytest.raises(MediaError, match="draw 3 failed"):
        stages.run(True)
    stages.check_failed("draw", 3)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("slow", ["write", "segment"])
def test_an_error_ends_an_endless_run(stage: str, slow: str, tmp_path: Path) -> None:
    delays = {(slow, index): 10 for index in range(9)}
    stages = Stages(tmp_path, None, Script(delays, (stage, 3)), "out.mp4")
    with pytest.raises(MediaError, match=f"^{stage} 3 failed"):
        stages.run(True)
    stages.check_failed(stage, 3)
    assert (stages.source.closed, stages.sink.closed) == (1, True)
    assert not stages.closed_early
    assert stages.source.read <= 4 + AHEAD + 1 + BEHIND


@pytest.mark.parametrize("last", [4, 5])
def test_a_source_that_was_only_read_ahead_is_not_finished(last: int, tmp_path: Path) -> None:
    at_end = threading.Event()

    def press(stage: str, index: int) -> None:
        if stage == "end":
            at_end.set()
            time.sleep(0.05)
        if (stage, index) == ("segment", 4):
            at_end.wait(10)
            if last == 4:
                raise KeyboardInterrupt
            wait_for(lambda: stages.source.finished)
        if (stage, index) == ("segment", 5):
            raise KeyboardInterrupt

    stages = Stages(tmp_path, 6, press)
    assert stages.run(True).frames == last
    assert not stages.source.finished


@BOTH
def test_sound_ends_with_the_pictures_although_the_file_was_read_to_its_end(
    overlap: bool, tmp_path: Path
) -> None:
    # The last of twelve pictures comes at 2 s, and so does the end of the sound.
    path = make_video(tmp_path / "a.mp4", 12, pts=[*range(11), 50], sound="aac")
    source = open_source(path)
    calls = []

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls.append(1)
        if len(calls) == 11:
            if overlap:
                wait_for(lambda: source.finished)
            raise KeyboardInterrupt
        return np.zeros(image.shape[:2], np.uint8)

    report = run(source, segment, sink=open_sink(tmp_path / "out.mp4", source), overlap=overlap)
    assert (report.interrupted, report.frames) == (True, 10)
    sound, start = read_sound(tmp_path / "out.mp4")
    assert 0.3 < float(start) + len(sound) / 48000 < 0.6


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < end, "it does not come"
        time.sleep(0.001)


def test_two_frames_are_read_ahead_and_no_more(tmp_path: Path) -> None:
    def look(stage: str, index: int) -> None:
        if stage == "segment":
            expected = min(9, index + 1 + AHEAD)
            wait_for(lambda: stages.source.read == expected)
            time.sleep(0.005)
            assert stages.source.read == expected

    stages = Stages(tmp_path, 9, look)
    assert stages.run(True).frames == 9


def test_two_frames_are_behind_and_no_more(tmp_path: Path) -> None:
    def look(stage: str, index: int) -> None:
        if (stage, index) == ("write", 0):
            wait_for(lambda: stages.segmented == BEHIND + 1)
            time.sleep(0.02)
            assert stages.segmented == BEHIND + 1

    stages = Stages(tmp_path, 9, look)
    assert stages.run(True).frames == 9


@pytest.mark.parametrize("slowest", ["source", "segment", "write", "none"])
def test_a_constant_number_of_frames_is_alive(slowest: str, tmp_path: Path) -> None:
    def slow(stage: str, index: int) -> None:
        if stage == slowest:
            time.sleep(0.002)

    stages = Stages(tmp_path, 60, slow)
    assert stages.run(True).frames == 60
    assert stages.source.alive == 0
    assert 2 <= stages.source.most_alive <= AHEAD + 1 + BEHIND
    if slowest == "write":
        assert stages.source.most_alive == AHEAD + 1 + BEHIND
    alone = Stages(tmp_path / "in turn", 60, slow)
    alone.run(False)
    assert alone.source.most_alive <= 2


def test_stages_take_place_at_the_same_time_and_count_their_own(tmp_path: Path) -> None:
    def slow(stage: str, index: int) -> None:
        if stage in ("source", "segment", "draw", "write"):
            time.sleep(0.02)

    report = Stages(tmp_path, 12, slow).run(True)
    assert all(20 <= report.stages_ms[stage] < 35 for stage in report.stages_ms)
    # The writer's two take 40 ms a frame, all four 80 ms.
    assert 12 * 0.04 < report.seconds < 12 * 0.07


def test_segment_and_on_frame_stay_on_the_calling_thread(tmp_path: Path) -> None:
    where: dict[str, set[threading.Thread]] = {}

    def note(stage: str, index: int) -> None:
        where.setdefault(stage, set()).add(threading.current_thread())
        if stage == "on_frame":
            assert (tmp_path / "out" / f"{index:06d}.png").exists()
            assert (tmp_path / "masks" / f"{index:06d}.png").exists()

    Stages(tmp_path, 5, note).run(True)
    here = {threading.current_thread()}
    assert where["segment"] == where["on_frame"] == here
    assert where["draw"] == where["write"] == where["masks"]
    assert len({*here, *where["source"], *where["draw"]}) == 3


@pytest.mark.parametrize(("kind", "count", "most"), [("image", 1, None), ("images", 9, 1)])
def test_one_frame_needs_no_thread(
    kind: Any, count: int, most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread"))
    source = Pictures(count)
    source.kind = kind
    report = run(source, lambda image: class_map_of(0), max_frames=most)
    assert (report.frames, source.read, source.closed) == (1, 1, 1)


@BOTH
def test_a_segmenter_may_write_over_its_last_class_map(overlap: bool, tmp_path: Path) -> None:
    stages = Stages(tmp_path, 8, Script({("write", 0): 30}, None))
    same = np.zeros((HEIGHT, WIDTH), np.uint8)

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        same[:] = class_map_of(stages.segmented)
        stages.segmented += 1
        return same

    stages.segment = segment  # type: ignore[method-assign]
    stages.run(overlap)
    stages.check_files(8)


def test_an_error_of_the_writer_does_not_wait_for_the_source(tmp_path: Path) -> None:
    free = threading.Event()

    def script(stage: str, index: int) -> None:
        if (stage, index) == ("source", 2):
            free.wait(10)
        if (stage, index) == ("draw", 0):
            wait_for(lambda: stages.source.inside and stages.segmented == 2)
            threading.Timer(0.2, free.set).start()
            raise MediaError("draw 0 failed", "that it works")

    stages = Stages(tmp_path, None, script)
    with pytest.raises(MediaError, match="draw 0 failed"):
        stages.run(True)
    assert stages.source.closed == 1  # waited for, because it took less than a second
    assert stages.source.read <= 3


def test_a_source_that_hangs_is_closed_by_its_own_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = []
    join = threading.Thread.join

    def joined(self: threading.Thread, timeout: float | None = None) -> None:
        if timeout is not None:
            patience.append(timeout)
        join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", joined)
    monkeypatch.setattr(threads, "PATIENCE_S", 0.05)
    free = threading.Event()

    def script(stage: str, index: int) -> None:
        if (stage, index) == ("source", 3):
            wait_for(lambda: len(stages.told) == 3)
            os.kill(os.getpid(), signal.SIGINT)
            free.wait(10)

    stages = Stages(tmp_path, None, script, "out.mp4")
    report = stages.run(True)
    assert sum(patience) == 0.05
    assert (report.interrupted, report.frames) == (True, 3)
    stages.check_files(3)
    assert stages.source.closed == 0
    (reader,) = [thread for thread in threading.enumerate() if "reader" in thread.name]
    free.set()
    reader.join(10)
    assert stages.source.closed == 1
    assert stages.source.read == 4  # and no further


def test_a_source_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    program = f"""
        import os, signal, threading, time
        from tests.video.test_pipeline import Stages
        from pathlib import Path

        def script(stage, index):
            if (stage, index) == ("source", 3):
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait()

        print(Stages(Path({str(tmp_path)!r}), None, script).run(True).frames)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) <= 3


def test_a_system_without_threads_left_closes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stages = Stages(tmp_path, 3, Script({}, None), "out.mp4")
    monkeypatch.setattr(threading.Thread, "start", none_left)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        stages.run(True)
    assert (stages.source.closed, stages.sink.closed) == (1, True)
    assert names(tmp_path) == ["masks"]
