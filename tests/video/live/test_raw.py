"""Raw frames in a pipe: each format, odd sizes, little pieces, and pipes that break."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.live.grabber import PIXEL_FORMATS, CaptureOptions
from segformer_deploy.video.live.raw import RawFrames, StdinGrabber

SIZE = FrameSize(6, 10)
SUBSAMPLED = ("yuv420p", "nv12", "yuyv422")


class Pipe:
    """Both ends of a pipe; what is written comes from a thread of its own."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._open = {self.read_end, self.write_end}
        self._threads: list[threading.Thread] = []

    def write(self, data: bytes, piece: int = 1 << 16, pause_s: float = 0.0) -> None:
        def work() -> None:
            for start in range(0, len(data), piece):
                os.write(self.write_end, data[start : start + piece])
                time.sleep(pause_s)

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def finish(self) -> None:
        """No more will be written."""
        for thread in self._threads:
            thread.join(10)
        self.close(self.write_end)

    def close(self, *ends: int) -> None:
        for end in ends or tuple(self._open):
            if end in self._open:
                self._open.remove(end)
                os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def frames_of(
    pipe: Pipe, pixel_format: str = "bgr24", size: FrameSize = SIZE, stall_s: float = 10.0
) -> RawFrames:
    return RawFrames(pipe.read_end, size, pixel_format, "the pipe", stall_s)


def smooth_picture(size: FrameSize) -> np.ndarray[Any, Any]:
    """uint8 RGB without edges, so that formats with less colour keep it."""
    rows, columns = np.mgrid[0 : size.height, 0 : size.width]
    planes = [
        60 + 120 * columns / max(1, size.width),
        200 - 150 * rows / max(1, size.height),
        90 + 60 * (rows + columns) / (size.height + size.width),
    ]
    return np.stack(planes, axis=2).astype(np.uint8)


GREY = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601, as all formulas here."""


def encoded(rgb: np.ndarray[Any, Any], pixel_format: str) -> bytes:
    """The bytes of a frame in a format that has whole pixels."""
    if pixel_format == "gray":
        return np.rint(rgb @ GREY).astype(np.uint8).tobytes()
    three = rgb if pixel_format.startswith("rgb") else rgb[..., ::-1]
    if pixel_format in ("rgb24", "bgr24"):
        return three.tobytes()
    return np.dstack([three, np.full(rgb.shape[:2], 77, np.uint8)]).tobytes()


def read_one(data: bytes, pixel_format: str, size: FrameSize) -> np.ndarray[Any, Any]:
    pipe = Pipe()
    try:
        frames = frames_of(pipe, pixel_format, size)
        pipe.write(data)
        grabbed = frames.read()
        assert grabbed is not None
        assert grabbed.size == size
        picture = grabbed.picture()
        pipe.finish()
        assert frames.read() is None
        return picture
    finally:
        pipe.close()


SIZES = pytest.mark.parametrize(
    "size", [FrameSize(48, 64), FrameSize(2, 2), FrameSize(10, 6)], ids=str
)


@pytest.mark.parametrize("pixel_format", [name for name in PIXEL_FORMATS if name not in SUBSAMPLED])
@SIZES
def test_each_format_with_whole_pixels(pixel_format: str, size: FrameSize) -> None:
    rgb = smooth_picture(size)
    picture = read_one(encoded(rgb, pixel_format), pixel_format, size)
    assert (picture.shape, picture.dtype) == (_shape(size), np.uint8)
    expected = rgb[..., ::-1]
    if pixel_format == "gray":
        expected = np.rint(rgb @ GREY)[..., None].repeat(3, axis=2)
    assert np.abs(picture - expected.astype(int)).max() <= (pixel_format == "gray")


@pytest.mark.parametrize("pixel_format", SUBSAMPLED)
@SIZES
def test_each_format_with_less_colour_by_its_formula(pixel_format: str, size: FrameSize) -> None:
    random = np.random.default_rng(3)
    y = random.integers(16, 236, (size.height, size.width), np.uint8)
    down = 1 if pixel_format == "yuyv422" else 2
    u, v = random.integers(16, 241, (2, size.height // down, size.width // 2), np.uint8)
    if pixel_format == "yuyv422":
        data = np.stack([y[:, ::2], u, y[:, 1::2], v], axis=2).tobytes()
    elif pixel_format == "nv12":
        data = y.tobytes() + np.stack([u, v], axis=2).tobytes()
    else:
        data = y.tobytes() + u.tobytes() + v.tobytes()
    luma = (y.astype(float) - 16) * 255 / 219
    blue, red = (
        (c.astype(float).repeat(down, axis=0).repeat(2, axis=1) - 128) * 255 / 224 for c in (u, v)
    )
    green = luma - (0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
    expected = np.stack([luma + 1.772 * blue, green, luma + 1.402 * red], axis=2).clip(0, 255)
    picture = read_one(data, pixel_format, size)
    assert (picture.shape, picture.dtype) == (_shape(size), np.uint8)
    assert np.abs(picture - expected).max() <= 2


@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_each_format_as_ffmpeg_converts_it(pixel_format: str) -> None:
    size = FrameSize(48, 64)
    rgb = smooth_picture(size)
    original = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    frame = original.reformat(format=pixel_format, src_colorspace="ITU601", dst_colorspace="ITU601")
    data = b"".join(packed(frame))
    picture = read_one(data, pixel_format, size)
    expected = frame.to_ndarray(format="bgr24").astype(int)
    # FFmpeg's own fast conversion is off by some levels where it has to mix.
    difference = np.abs(picture.astype(int) - expected)
    assert difference.max() <= (6 if pixel_format in SUBSAMPLED else 1)
    assert difference.mean() < 2


def packed(frame: Any) -> Iterator[bytes]:
    """The planes of a frame without the padding of their rows."""
    bits = {"bgr24": 24, "rgb24": 24, "bgr0": 32, "rgb0": 32, "yuyv422": 16, "nv12": 8}
    for number, plane in enumerate(frame.planes):
        width = plane.width * bits.get(frame.format.name, 8) // 8
        if frame.format.name == "nv12" and number:
            width = plane.width * 2
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        yield rows[: plane.height, :width].tobytes()


@pytest.mark.parametrize("pixel_format", ["bgr24", "rgb24", "bgr0", "rgb0", "gray"])
@pytest.mark.parametrize("size", [FrameSize(1, 1), FrameSize(5, 7), FrameSize(1, 9)], ids=str)
def test_odd_sizes_where_the_format_has_them(pixel_format: str, size: FrameSize) -> None:
    rgb = np.arange(size.height * size.width * 3, dtype=np.uint8).reshape(*_shape(size))
    picture = read_one(encoded(rgb, pixel_format), pixel_format, size)
    if pixel_format != "gray":
        np.testing.assert_array_equal(picture, rgb[..., ::-1])
    assert picture.shape == _shape(size)


def _shape(size: FrameSize) -> tuple[int, int, int]:
    return size.height, size.width, 3


def test_yuyv_may_have_an_odd_height() -> None:
    size = FrameSize(3, 4)
    picture = read_one(bytes([126, 128]) * 12, "yuyv422", size)
    assert picture.shape == _shape(size)
    assert np.abs(picture.astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [
        ("yuv420p", FrameSize(5, 6)),
        ("yuv420p", FrameSize(6, 5)),
        ("nv12", FrameSize(5, 6)),
        ("nv12", FrameSize(6, 5)),
        ("yuyv422", FrameSize(6, 5)),
    ],
    ids=str,
)
def test_odd_sizes_where_the_format_has_none(
    pixel_format: str, size: FrameSize, pipe: Pipe
) -> None:
    with pytest.raises(MediaError, match=f"{pixel_format} frames of {size}"):
        frames_of(pipe, pixel_format, size)


@pytest.mark.parametrize("size", [FrameSize(20_000, 20_000), FrameSize(2, 100_000_000)], ids=str)
def test_a_giant_is_refused(size: FrameSize, pipe: Pipe) -> None:
    with pytest.raises(MediaError, match="million"):
        frames_of(pipe, "gray", size)


def test_an_unknown_format(pipe: Pipe) -> None:
    with pytest.raises(MediaError, match="yuv444p") as refused:
        frames_of(pipe, "yuv444p")
    assert "nv12" in str(refused.value)


# How it comes.


@settings(max_examples=20)
@given(count=st.integers(1, 5), piece=st.integers(1, 400), rest=st.integers(0, 179))
def test_frames_in_pieces_of_any_length(count: int, piece: int, rest: int) -> None:
    """180 bytes are a frame; what is left over is no frame, and said."""
    data = bytes(n % 251 for n in range(count * 180 + rest))
    pipe = Pipe()
    try:
        frames = frames_of(pipe)
        pipe.write(data, piece)
        for number in range(count):
            grabbed = frames.read()
            assert grabbed is not None
            assert grabbed.picture().tobytes() == data[number * 180 : (number + 1) * 180]
        pipe.finish()
        if rest:
            with pytest.raises(MediaError, match=rf"ended within a frame \({rest} of 180 bytes\)"):
                frames.read()
        else:
            assert frames.read() is None
    finally:
        pipe.close()


def test_a_frame_in_little_pieces_with_pauses_is_no_stall(pipe: Pipe) -> None:
    frames = frames_of(pipe, stall_s=5.0)
    pipe.write(bytes(range(180)), piece=30, pause_s=0.05)
    grabbed = frames.read()
    assert grabbed is not None
    assert grabbed.picture().tobytes() == bytes(range(180))


def test_a_frame_keeps_its_pixels_when_the_next_is_read(pipe: Pipe) -> None:
    frames = frames_of(pipe)
    pipe.write(bytes(180) + bytes([9]) * 180)
    first, second = frames.read(), frames.read()
    assert first is not None
    assert second is not None
    assert first.captured_s <= second.captured_s <= time.monotonic()
    assert (first.picture().max(), second.picture().min()) == (0, 9)


def test_a_pipe_that_was_closed_at_once(pipe: Pipe) -> None:
    pipe.finish()
    assert frames_of(pipe).read() is None


def test_nothing_comes(pipe: Pipe) -> None:
    start = time.monotonic()
    with pytest.raises(MediaError, match=r"the pipe: nothing came for 0\.3 s"):
        frames_of(pipe, stall_s=0.3).read()
    assert 0.25 < time.monotonic() - start < 3


def test_nothing_more_comes_in_mid_frame(pipe: Pipe) -> None:
    pipe.write(bytes(7))
    with pytest.raises(MediaError, match="nothing came for"):
        frames_of(pipe, stall_s=0.3).read()


@pytest.mark.parametrize("before", [0, 7], ids=["between frames", "within a frame"])
def test_stop_calls_back_who_waits(before: int, pipe: Pipe) -> None:
    frames = frames_of(pipe)
    pipe.write(bytes(before))
    given_back: list[Any] = []
    thread = threading.Thread(target=lambda: given_back.append(frames.read()), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert given_back == []
    start = time.monotonic()
    frames.stop()
    thread.join(5)
    assert given_back == [None]
    assert time.monotonic() - start < 1
    assert frames.read() is None


def test_drain_takes_what_is_there_and_no_longer_than_it_may(pipe: Pipe) -> None:
    frames = frames_of(pipe)
    pipe.write(bytes(300_000))  # more than a pipe holds
    start = time.monotonic()
    frames.drain(0.2)
    assert 0.19 < time.monotonic() - start < 2
    pipe.finish()
    start = time.monotonic()
    frames.drain(10)
    assert time.monotonic() - start < 5


def test_a_descriptor_above_1023(pipe: Pipe) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= 1100:
        pytest.skip("so many files cannot be open here")
    high = fcntl.fcntl(pipe.read_end, fcntl.F_DUPFD, 1050)
    try:
        frames = RawFrames(high, SIZE, "bgr24", "the pipe", 5.0)
        pipe.write(bytes(180))
        assert frames.read() is not None
    finally:
        os.close(high)


# Standard input.


def test_stdin_needs_a_size() -> None:
    with pytest.raises(MediaError, match="unknown size") as refused:
        StdinGrabber(CaptureOptions())
    assert "--input-size" in str(refused.value)


def test_stdin_in_order_waits_for_ever_and_live_does_not(pipe: Pipe) -> None:
    options = CaptureOptions(size=SIZE, live=True, stall_s=0.2)
    with pytest.raises(MediaError, match="stdin: nothing came"):
        StdinGrabber(options, pipe.read_end).read()
    grabber = StdinGrabber(CaptureOptions(size=SIZE, stall_s=0.1), pipe.read_end)
    given_back: list[Any] = []
    thread = threading.Thread(target=lambda: given_back.append(grabber.read()), daemon=True)
    thread.start()
    thread.join(0.6)
    assert thread.is_alive()
    grabber.interrupt()
    thread.join(5)
    assert given_back == [None]


def test_what_stdin_says(pipe: Pipe) -> None:
    options = CaptureOptions(size=SIZE, fps=Fraction(30), pixel_format="gray")
    grabber = StdinGrabber(options, pipe.read_end)
    assert (grabber.fps, grabber.corrupt, grabber.notes) == (30, 0, [])
    pipe.write(bytes(60))
    grabbed = grabber.read()
    assert grabbed is not None
    assert grabbed.picture().shape == (6, 10, 3)
    grabber.close()
    os.fstat(pipe.read_end)  # still open


def test_stdin_of_a_real_process(tmp_path: Path) -> None:
    program = """
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.source import CaptureOptions, open_source

with open_source("-", CaptureOptions(size=FrameSize(6, 10), pixel_format="rgb24")) as source:
    for frame in source:
        print(frame.index, frame.time_s, *frame.image[0, 0])
    print(source.name, source.finished, source.size)
"""
    frames = b"".join(bytes([n, 0, 200]) * 60 for n in range(3))
    done = subprocess.run(
        [sys.executable, "-c", program], input=frames, capture_output=True, timeout=60, check=False
    )
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        "0 0.0 200 0 0",
        "1 0.04 200 0 1",
        "2 0.08 200 0 2",
        "stdin True 6x10",
    ]


def test_stdin_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "frames.raw"
    path.write_bytes(bytes(180) + bytes([5]) * 180)
    with path.open("rb") as file:
        grabber = StdinGrabber(CaptureOptions(size=SIZE), file.fileno())
        values = []
        while (grabbed := grabber.read()) is not None:
            values.append(int(grabbed.picture()[0, 0, 0]))
    assert values == [0, 5]


LIVE_PROGRAM = """
import sys
from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.source import CaptureOptions, open_source

options = CaptureOptions(size=FrameSize(6, 10), live=True, stall_s=float(sys.argv[1]))
try:
    with open_source("-", options) as source:
        for frame in source:
            print(frame.image.min(), frame.image.max(), flush=True)
except MediaError as error:
    print(error.found, flush=True)
"""


def live_process(stall_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", LIVE_PROGRAM, str(stall_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_live_stdin_that_stalls_in_mid_frame_is_never_shifted() -> None:
    """Nobody can begin again within a frame: it goes on in step, or ends with an error."""
    process = live_process(0.3)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(bytes([1]) * 180 + bytes([2]) * 100)
    process.stdin.flush()
    assert process.stdout.readline() == b"1 1\n"
    time.sleep(0.8)
    try:
        for number in range(3, 6):
            process.stdin.write(bytes([number - 1]) * 80 + bytes([number]) * 100)
            process.stdin.flush()
            time.sleep(0.05)
    except BrokenPipeError:
        process.stdin = None
    out, err = process.communicate(timeout=20)
    assert err == b""
    for line in out.decode().splitlines():
        low, _, high = line.partition(" ")
        assert low == high or line.startswith("stdin")


def test_live_stdin_that_ends_in_mid_frame_is_an_error() -> None:
    out, err = live_process(5.0).communicate(bytes([1]) * 180 + bytes(100), timeout=20)
    assert err == b""
    lines = out.decode().splitlines()
    assert lines[-1] == "stdin ended within a frame (100 of 180 bytes)"
    assert lines[:-1] in ([], ["1 1"])
