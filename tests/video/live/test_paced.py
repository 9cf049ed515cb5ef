"""Files by their own clock, and the generated streets as a camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import StreetVideo
from segformer_deploy.video.frame import Frame, Source
from segformer_deploy.video.live import paced
from segformer_deploy.video.live.grabber import CaptureOptions, Grabber
from segformer_deploy.video.live.paced import FileGrabber, StreetsGrabber
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.source import open_source
from tests.video.makers import index_of, make_video, picture, read_times

SMALL = FrameSize(64, 96)
VARIABLE = [0, 1, 2, 10, 11, 30, 31, 32]
"""Times of pictures in 25ths of a second."""


def pictures_of(grabber: Grabber, most: int = 1000) -> Iterator[np.ndarray[Any, Any]]:
    for _ in range(most):
        grabbed = grabber.read()
        if grabbed is None:
            return
        yield grabbed.picture()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.002)


@pytest.fixture
def dues(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each frame was due; nobody waits for it."""
    dues: list[float] = []
    monkeypatch.setattr(paced._Clock, "wait_until", lambda self, due: dues.append(due))
    return dues


def grabber_of(path: Path, **options: Any) -> FileGrabber:
    return FileGrabber(partial(open_source, path), CaptureOptions(**options))


# Files.


def test_a_file_keeps_its_own_times(tmp_path: Path, dues: list[float]) -> None:
    path = make_video(tmp_path / "a.mp4", 8, pts=VARIABLE)
    grabber = grabber_of(path)
    assert [index_of(image) for image in pictures_of(grabber)] == list(range(8))
    assert dues == pytest.approx([float(t) for t in read_times(path)])
    assert grabber.corrupt == 0
    grabber.close()


def test_at_another_rate(tmp_path: Path, dues: list[float]) -> None:
    path = make_video(tmp_path / "a.mp4", 8, pts=VARIABLE)
    grabber = grabber_of(path, fps=Fraction(10))
    assert grabber.fps == 10
    assert len(list(pictures_of(grabber))) == 8
    assert dues == pytest.approx([n / 10 for n in range(8)])
    grabber.close()


def test_rounds_follow_each_other(tmp_path: Path, dues: list[float]) -> None:
    path = make_video(tmp_path / "a.mp4", 5)
    grabber = grabber_of(path, loop=True)
    seen = [index_of(image) for image in pictures_of(grabber, 13)]
    grabber.close()
    assert seen == [n % 5 for n in range(13)]
    assert dues == pytest.approx([n / 25 for n in range(13)])


def test_rounds_of_a_file_that_does_not_begin_at_0(tmp_path: Path, dues: list[float]) -> None:
    path = make_video(tmp_path / "a.ts", 4, pts=range(50, 54))
    assert read_times(path)[0] > 1
    grabber = grabber_of(path, loop=True)
    assert len(list(pictures_of(grabber, 10))) == 10
    grabber.close()
    assert np.diff(dues) == pytest.approx([1 / 25] * 9)


def test_pictures_follow_each_other_at_25_a_second(tmp_path: Path, dues: list[float]) -> None:
    for number in range(3):
        Image.fromarray(picture(number)[..., ::-1]).save(tmp_path / f"{number}.png")
    grabber = grabber_of(tmp_path)
    assert [index_of(image) for image in pictures_of(grabber)] == [0, 1, 2]
    assert dues == pytest.approx([0, 0.04, 0.08])
    grabber.close()


def test_one_picture_again_and_again(tmp_path: Path, dues: list[float]) -> None:
    Image.fromarray(picture(5)[..., ::-1]).save(tmp_path / "a.png")
    grabber = grabber_of(tmp_path / "a.png", loop=True, fps=Fraction(2))
    assert [index_of(image) for image in pictures_of(grabber, 4)] == [5] * 4
    assert dues == pytest.approx([0, 0.5, 1, 1.5])
    grabber.close()


def test_it_takes_as_long_as_the_film(tmp_path: Path) -> None:
    grabber = grabber_of(make_video(tmp_path / "a.mp4", 4, pts=[0, 5, 6, 10]))
    came = []
    for _ in range(4):
        grabbed = grabber.read()
        assert grabbed is not None
        came.append(grabbed.captured_s)
    grabber.close()
    # Never early; late where the machine is busy.
    assert came[3] - came[0] >= 0.39
    assert came[1] - came[0] >= 0.19


def test_what_comes_late_moves_what_follows() -> None:
    clock = paced._Clock()
    clock.wait_until(0.0)
    time.sleep(0.25)
    clock.wait_until(0.05)  # 0.2 s late
    start = time.monotonic()
    clock.wait_until(0.1)
    assert time.monotonic() - start >= 0.045


def test_interrupt_calls_back_who_waits(tmp_path: Path) -> None:
    grabber = grabber_of(make_video(tmp_path / "a.mp4", 3, pts=[0, 1500, 1501]))
    assert grabber.read() is not None
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(grabber.read()), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert answers == []
    grabber.interrupt()
    thread.join(5)
    assert answers == [None]
    grabber.close()


def test_a_file_is_closed() -> None:
    class Watched(Source):
        kind = "images"
        size = SMALL
        frame_count = 1
        fps = None
        corrupt = 7
        finished = False
        notes = ["a note"]  # noqa: RUF012
        closed = 0

        def __iter__(self) -> Iterator[Frame]:
            yield Frame(picture(3), 0, None, "a")

        def close(self) -> None:
            self.closed += 1

    source = Watched()
    grabber = FileGrabber(lambda: source, CaptureOptions())
    assert (grabber.corrupt, grabber.notes, grabber.fps) == (7, ["a note"], None)
    assert len(list(pictures_of(grabber))) == 1
    assert source.closed == 0
    grabber.close()
    assert source.closed == 1


def test_a_live_file_drops_and_ends(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 10)
    with open_source(path, CaptureOptions(live=True)) as source:
        assert isinstance(source, LiveSource)
        assert (source.name, source.size) == (str(path), SMALL)
        time.sleep(0.1)
        seen = [(frame.index, index_of(frame.image)) for frame in source]
        assert source.finished
    assert all(index == shown for index, shown in seen)
    assert seen[-1] == (9, 9)
    assert source.meter.snapshot().frames_in == 10


def test_a_live_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot open"):
        open_source(tmp_path / "a.mp4", CaptureOptions(live=True))


def test_a_live_folder_with_a_damaged_picture_does_not_begin_again(
    tmp_path: Path, dues: list[float]
) -> None:
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    with open_source(tmp_path, CaptureOptions(live=True)) as source:
        with pytest.raises(MediaError, match=r"3\.png"):
            for frame in source:
                assert frame.index < 3


def test_a_rate_of_0_is_the_files_own(tmp_path: Path, dues: list[float]) -> None:
    path = make_video(tmp_path / "a.mp4", 8, pts=VARIABLE)
    grabber = grabber_of(path, fps=Fraction(0))
    assert len(list(pictures_of(grabber))) == 8
    assert dues == pytest.approx([float(t) for t in read_times(path)])
    grabber.close()


# Streets.


def test_the_streets_are_those_of_their_seed(dues: list[float]) -> None:
    options = CaptureOptions(size=SMALL, fps=Fraction(10))
    grabber = StreetsGrabber("seed=3,frames=4", options)
    expected = iter(StreetVideo(3, SMALL, 10.0))
    seen = list(pictures_of(grabber))
    assert len(seen) == 4
    for image in seen:
        np.testing.assert_array_equal(image, next(expected)[0])
    assert dues == pytest.approx([0, 0.1, 0.2, 0.3])
    grabber.close()


def test_streets_without_options(dues: list[float]) -> None:
    grabber = StreetsGrabber("", CaptureOptions(size=SMALL))
    assert (grabber.fps, grabber.corrupt, grabber.notes) == (15, 0, [])
    first, second = pictures_of(grabber, 2)
    assert not np.array_equal(first, second)
    assert dues == pytest.approx([0, 1 / 15])
    again = StreetsGrabber("", CaptureOptions(size=SMALL))
    np.testing.assert_array_equal(first, next(pictures_of(again)))
    other = StreetsGrabber("seed=1", CaptureOptions(size=SMALL))
    assert not np.array_equal(first, next(pictures_of(other)))


def test_the_size_of_the_streets() -> None:
    grabbed = StreetsGrabber("frames=1", CaptureOptions()).read()
    assert grabbed is not None
    assert grabbed.size == FrameSize(512, 768)
    assert grabbed.picture().shape == (512, 768, 3)


def test_as_fast_as_they_are_taken(dues: list[float]) -> None:
    grabber = StreetsGrabber("frames=3", CaptureOptions(size=SMALL, fps=Fraction(0)))
    assert grabber.fps is None
    assert len(list(pictures_of(grabber))) == 3
    assert dues == []


def test_no_streets() -> None:
    assert StreetsGrabber("frames=0", CaptureOptions(size=SMALL)).read() is None
    with pytest.raises(MediaError, match="ended before its first frame"):
        open_source("test:frames=0", CaptureOptions(size=SMALL))


@pytest.mark.parametrize(
    "text", ["speed=3", "seed", "seed=", "seed=-1", "seed=x", "frames=1.5", "seed=3;frames=4", "a"]
)
def test_options_that_there_are_not(text: str) -> None:
    with pytest.raises(MediaError, match=f"test:{text} says ") as refused:
        StreetsGrabber(text, CaptureOptions(size=SMALL))
    assert "seed, frames" in refused.value.expected


def test_an_option_that_no_integer_holds() -> None:
    with pytest.raises(MediaError):
        StreetsGrabber("seed=" + "9" * 5000, CaptureOptions(size=SMALL))


def test_interrupt_calls_back_who_waits_for_streets() -> None:
    grabber = StreetsGrabber("", CaptureOptions(size=SMALL, fps=Fraction(1, 60)))
    assert grabber.read() is not None
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(grabber.read()), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert answers == []
    grabber.interrupt()
    thread.join(5)
    assert answers == [None]
    assert grabber.read() is None


def test_live_streets() -> None:
    with open_source("test:seed=2,frames=5", CaptureOptions(size=SMALL, fps=Fraction(200))) as cam:
        assert (cam.live, cam.name, cam.fps) == (True, "test:seed=2,frames=5", 200)
        seen = [frame.index for frame in cam]
    assert seen[-1] == 4
    assert seen == sorted(set(seen))
