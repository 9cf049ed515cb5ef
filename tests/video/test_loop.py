"""The loop, with a segmenter that is a few lines of NumPy."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segformer_deploy.errors import FrameError, MediaError, OutputError
from segformer_deploy.spec import default_palette
from segformer_deploy.video import loop
from segformer_deploy.video.interrupts import uninterrupted
from segformer_deploy.video.loop import Progress, RunReport
from segformer_deploy.video.overlay import Overlay
from segformer_deploy.video.sink import MaskSink, open_sink
from segformer_deploy.video.source import open_source
from tests.video.makers import index_of, make_video, picture, read_pictures, read_times

NAMES = ("dark", "left", "never")

Run = Callable[..., RunReport]


@pytest.fixture(params=[True, False], ids=["overlap", "in turn"])
def run(request: pytest.FixtureRequest) -> Run:
    return functools.partial(loop.run, overlap=request.param)


def halves(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    class_map = np.zeros(image.shape[:2], np.uint8)
    class_map[:, : image.shape[1] // 4] = 1
    return class_map


def overlay() -> Overlay:
    return Overlay(default_palette(3), NAMES, legend=False)


def test_a_video_with_overlay_and_masks(run: Run, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 10, sound="aac")
    source = open_source(path)
    seen: list[Progress] = []
    report = run(
        source,
        halves,
        sink=open_sink(tmp_path / "out.mp4", source),
        masks=MaskSink(tmp_path / "masks", 3),
        overlay=overlay(),
        opacity=1.0,
        on_frame=seen.append,
    )
    assert (report.frames, report.interrupted, report.corrupt) == (10, False, 0)
    assert report.sizes == {"64x96": 10}
    assert report.class_shares == {"dark": 0.75, "left": 0.25}
    assert set(report.stages_ms) == {"decode", "segment", "draw", "write"}
    assert all(value > 0 for value in report.stages_ms.values())
    assert report.fps == pytest.approx(10 / report.seconds)
    assert [(p.frames, p.frame_count, p.name) for p in seen[:2]] == [
        (1, 10, "000000"),
        (2, 10, "000001"),
    ]
    assert json.loads(json.dumps(report.to_dict()))["frames"] == 10
    red, green, blue = default_palette(3)[1]
    with open_source(tmp_path / "out.mp4") as result:
        for frame in result:
            assert np.abs(frame.image[32, 8].astype(int) - (blue, green, red)).max() < 8
    assert read_times(tmp_path / "out.mp4") == read_times(path)
    masks = sorted((tmp_path / "masks").iterdir())
    assert len(masks) == 10
    np.testing.assert_array_equal(np.asarray(Image.open(masks[7])), halves(picture(7)))


def test_without_overlay_the_picture_itself_is_written(run: Run, tmp_path: Path) -> None:
    Image.fromarray(picture(4)).save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    report = run(source, halves, sink=open_sink(tmp_path / "out.png", source), class_names=NAMES)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), picture(4))
    assert report.class_shares == {"dark": 0.75, "left": 0.25}


def test_sizes_and_shares_are_averaged_over_frames(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index, width in enumerate((96, 96, 64)):
        Image.fromarray(picture(index, 64, width)).save(folder / f"{index}.png")

    def by_width(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.full(image.shape[:2], 300 if image.shape[1] == 64 else 5, np.int32)

    report = run(open_source(folder), by_width)
    assert report.sizes == {"64x96": 2, "64x64": 1}
    assert report.class_shares == pytest.approx({"class 5": 2 / 3, "class 300": 1 / 3})


@pytest.mark.parametrize("most", [1, 5, 100])
def test_max_frames(run: Run, tmp_path: Path, most: int) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 8))
    sink = open_sink(tmp_path / "out.mp4", source)
    report = run(source, halves, sink=sink, max_frames=most)
    assert report.frames == min(most, 8) == len(read_pictures(tmp_path / "out.mp4"))


def test_ctrl_c_while_segmenting(run: Run, tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 12, sound="aac"))
    calls = []

    def until_the_sixth(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return halves(image)

    sink = open_sink(tmp_path / "out.mp4", source)
    masks = MaskSink(tmp_path / "masks", 3)
    report = run(source, until_the_sixth, sink=sink, masks=masks)
    assert report.interrupted
    assert report.frames == 5
    assert [index_of(image) for image in read_pictures(tmp_path / "out.mp4")] == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "masks").iterdir())) == 5
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("delay_ms", [3, 11, 29, 47])
def test_ctrl_c_at_any_moment_leaves_as_many_frames_as_reported(
    run: Run, tmp_path: Path, delay_ms: int
) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 60))
    sink = open_sink(tmp_path / "out.mp4", source)
    first = threading.Event()

    def press() -> None:
        first.wait()
        time.sleep(delay_ms / 1000)
        os.kill(os.getpid(), signal.SIGINT)

    def slow(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        first.set()
        time.sleep(0.004)
        return halves(image)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        report = run(source, slow, sink=sink)
        thread.join()
    except KeyboardInterrupt:
        pytest.fail("it came through")
    assert report.interrupted
    if report.frames:
        shown = [index_of(image) for image in read_pictures(tmp_path / "out.mp4")]
        assert shown == list(range(report.frames))
    else:
        assert not (tmp_path / "out.mp4").exists()


def test_a_ctrl_c_that_python_dropped_ends_the_run_all_the_same(run: Run, tmp_path: Path) -> None:
    class Dropped:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)  # what it raises here, Python only reports
            time.sleep(0.01)

    source = open_source(make_video(tmp_path / "a.mp4", 8))
    calls = []

    def segment(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls.append(1)
        if len(calls) == 3:
            Dropped()
        return halves(image)

    reported = []
    hook, sys.unraisablehook = sys.unraisablehook, reported.append
    try:
        report = run(source, segment)
    finally:
        sys.unraisablehook = hook
    assert len(reported) == 1
    assert report.interrupted
    assert report.frames == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_the_file_is_being_finished(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 8))
    sink = open_sink(tmp_path / "out.mp4", source)
    real = sink.close

    def close() -> None:
        def mux(packets: list[Any], mux: Callable[[list[Any]], None] = sink._mux) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            mux(packets)

        monkeypatch.setattr(sink, "_mux", mux)
        real()

    monkeypatch.setattr(sink, "close", close)
    report = run(source, halves, sink=sink)
    assert report.interrupted
    assert report.frames == 8 == len(read_pictures(tmp_path / "out.mp4"))


def test_an_error_of_the_segmenter_closes_everything(run: Run, tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 8))
    sink = open_sink(tmp_path / "out.mp4", source)

    def broken(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run(source, broken, sink=sink)
    assert sink.closed
    assert source._container is None  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_of_the_sink_propagates(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(picture(0)).save(folder / "0.png")
    source = open_source(folder)
    sink = open_sink(tmp_path / "out", source)
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError):
        run(source, halves, sink=sink)


def test_an_error_of_the_source_propagates_and_removes_the_output(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(picture(0)).save(folder / "0.png")
    (folder / "1.png").write_bytes(b"\x89PNG")
    source = open_source(folder)
    with pytest.raises(MediaError, match=r"1\.png"):
        run(source, halves, sink=open_sink(tmp_path / "out.mp4", source))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_class_map_of_another_size_is_an_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="class map"):
        run(open_source(make_video(tmp_path / "a.mp4", 2)), lambda image: halves(image)[::2])


def test_notes_of_source_and_sink_are_in_the_report(run: Run, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 4, sound="pcm_s16le")
    source = open_source(path)
    source.notes.append("from the source")
    report = run(source, halves, sink=open_sink(tmp_path / "out.mp4", source))
    assert report.notes[0] == "from the source"
    assert "AAC" in report.notes[1]


def test_interrupts_wait_and_a_foreign_handler_is_left_alone() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            with uninterrupted():
                done.append("inner")
            done.append("outer")
        done.append("behind")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    pressed = []
    signal.signal(signal.SIGINT, lambda *args: pressed.append(1))
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            assert pressed == [1]
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_nothing_is_printed(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 3, sound="aac"))
    capfd.readouterr()
    run(source, halves, sink=open_sink(tmp_path / "out.mp4", source), overlay=overlay())
    assert capfd.readouterr() == ("", "")
