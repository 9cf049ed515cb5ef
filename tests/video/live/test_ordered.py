"""Every frame, in order, of what could be live; and files without an end."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame, Source
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.video.live.ordered import Looped, OrderedSource
from segformer_deploy.video.loop import run
from segformer_deploy.video.source import open_source
from tests.video.live.test_live_source import END, LOST, Scripted, number_of
from tests.video.makers import index_of, make_video, picture, read_times

SMALL = FrameSize(64, 96)


def nothing(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.zeros(image.shape[:2], np.uint8)


# In order.


def test_every_frame_in_order() -> None:
    grabber = Scripted(*range(5), END)
    grabber.notes = ["a note"]
    grabber.corrupt = 2
    with OrderedSource("pipe", lambda: grabber) as source:
        assert (source.kind, source.live, source.name) == ("stream", False, "pipe")
        assert (source.size, source.fps, source.frame_count) == (FrameSize(4, 6), 30, None)
        assert (source.notes, source.corrupt, source.finished) == (["a note"], 2, False)
        frames = list(source)
        assert source.finished
    assert [number_of(frame) for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.name for frame in frames][:2] == ["000000", "000001"]
    assert [frame.time_s for frame in frames] == pytest.approx([n / 30 for n in range(5)])
    for frame in frames:
        assert frame.pts is not None
        assert frame.time_base is not None
        assert frame.pts * frame.time_base == Fraction(frame.index, 30)
        assert frame.captured_s is None
    assert len(grabber.closed_by) == 1


def test_a_rate_that_nobody_knows_is_25() -> None:
    grabber = Scripted(0, 1, END)
    grabber.fps = None
    with OrderedSource("pipe", lambda: grabber) as source:
        assert source.fps is None
        assert [frame.time_s for frame in source] == [0, 0.04]


def test_frames_are_read_when_they_are_asked_for() -> None:
    grabber = Scripted(0, 1, 2, END)
    with OrderedSource("pipe", lambda: grabber) as source:
        frames = iter(source)
        assert grabber.converted == []
        next(frames)
        assert grabber.converted == [0]
        next(frames)
        assert grabber.converted == [0, 1]


def test_closing_twice_closes_once() -> None:
    grabber = Scripted(0, END)
    source = OrderedSource("pipe", lambda: grabber)
    source.close()
    source.close()
    assert len(grabber.closed_by) == 1


def test_no_frame_at_all() -> None:
    grabber = Scripted(END)
    with pytest.raises(MediaError, match="pipe ended before its first frame"):
        OrderedSource("pipe", lambda: grabber)
    assert len(grabber.closed_by) == 1


def test_a_first_frame_that_fails() -> None:
    grabber = Scripted(LOST)
    with pytest.raises(MediaError, match="the cable is out"):
        OrderedSource("pipe", lambda: grabber)
    assert len(grabber.closed_by) == 1


def test_an_opening_that_fails() -> None:
    def refused() -> Scripted:
        raise LOST

    with pytest.raises(MediaError, match="the cable is out"):
        OrderedSource("pipe", refused)


def test_an_error_comes_after_the_frames_before_it() -> None:
    grabber = Scripted(0, 1, LOST)
    seen = []
    with OrderedSource("pipe", lambda: grabber) as source:
        with pytest.raises(MediaError, match="the cable is out"):
            for frame in source:
                seen.append(number_of(frame))
        assert not source.finished
    assert seen == [0, 1]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_run_gets_every_frame(overlap: bool) -> None:
    source = OrderedSource("pipe", lambda: Scripted(*range(20), END))
    assert run(source, nothing, overlap=overlap).frames == 20


def test_streets_in_order() -> None:
    options = CaptureOptions(size=SMALL, live=False, fps=Fraction(500))
    with open_source("test:frames=6", options) as source:
        assert isinstance(source, OrderedSource)
        assert [frame.index for frame in source] == list(range(6))


# Without an end.


def taken(source: Source, count: int) -> list[Frame]:
    return list(islice(iter(source), count))


def exact_times(frames: list[Frame]) -> list[Fraction]:
    return [Fraction(frame.pts or 0) * (frame.time_base or 1) for frame in frames]


def test_a_video_again_and_again(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 5)
    with open_source(path, CaptureOptions(loop=True)) as source:
        assert isinstance(source, Looped)
        assert (source.kind, source.live, source.frame_count) == ("stream", False, None)
        assert (source.size, source.fps, source.path) == (SMALL, 25, path)
        frames = taken(source, 13)
        assert not source.finished
    assert [index_of(frame.image) for frame in frames] == [n % 5 for n in range(13)]
    assert [frame.index for frame in frames] == list(range(13))
    assert [frame.name for frame in frames] == [f"{n:06d}" for n in range(13)]
    assert exact_times(frames) == [Fraction(n, 25) for n in range(13)]


def test_variable_times_go_on(tmp_path: Path) -> None:
    ticks = [0, 1, 7, 8]
    path = make_video(tmp_path / "a.mp4", 4, pts=ticks)
    with open_source(path, CaptureOptions(loop=True)) as source:
        assert source.fps is not None
        step = 1 / source.fps
        times = exact_times(taken(source, 12))
    own = read_times(path)
    assert times[:4] == own
    length = times[4] - times[0]
    assert abs(length - (own[-1] + step)) < Fraction(1, 500_000)
    for number, time in enumerate(times):
        expected = number // 4 * length + own[number % 4]
        assert abs(time - expected) < Fraction(1, 100_000)
    assert times == sorted(set(times))


def test_a_film_that_does_not_begin_at_0(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", 4, pts=range(50, 54))
    assert read_times(path)[0] > 1
    with open_source(path, CaptureOptions(loop=True)) as source:
        times = exact_times(taken(source, 10))
    assert [float(t) for t in np.diff([float(t) for t in times])] == pytest.approx([0.04] * 9)


def test_pictures_without_times(tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(picture(number)[..., ::-1]).save(tmp_path / f"{number}.png")
    with open_source(tmp_path, CaptureOptions(loop=True)) as source:
        frames = taken(source, 5)
    assert [index_of(frame.image) for frame in frames] == [0, 1, 0, 1, 0]
    assert exact_times(frames) == [Fraction(n, 25) for n in range(5)]


def test_what_is_said_of_the_file_is_said_of_its_rounds() -> None:
    class Noted(Source):
        kind = "video"
        path = Path("a.mp4")
        size = SMALL
        frame_count = 1
        fps = Fraction(10)
        corrupt = 3
        finished = False
        closed = 0

        def __init__(self) -> None:
            self.notes: list[str] = []

        def __iter__(self) -> Iterator[Frame]:
            self.notes.append("a note")
            yield Frame(picture(1), 0, 0.0, "000000", 0, Fraction(1, 10))

        def close(self) -> None:
            self.closed += 1

    inner = Noted()
    with Looped(inner) as source:
        assert [frame.time_s for frame in taken(source, 3)] == pytest.approx([0, 0.1, 0.2])
        assert source.corrupt == 3
        assert "a note" in source.notes
    assert inner.closed == 1


def test_a_run_of_a_film_without_an_end(tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 3), CaptureOptions(loop=True))
    assert run(source, nothing, max_frames=10).frames == 10
