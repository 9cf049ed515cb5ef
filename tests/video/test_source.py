"""Reading videos, compared with what PyAV or arithmetic says about the same file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video import frame as frame_module
from segformer_deploy.video import video_file
from segformer_deploy.video.container_length import missing_bytes
from segformer_deploy.video.source import open_source
from tests.video.makers import index_of, make_video, picture, read_times

ODD_TIMES = [0, 1, 5, 6, 7, 100, 101, 250, 251, 1000, 1003, 1009]


def frames_of(path: Path) -> list[Any]:
    with open_source(path) as source:
        return list(source)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "avi"])
def test_every_frame_in_order(tmp_path: Path, ending: str) -> None:
    path = make_video(tmp_path / f"a.{ending}")
    with open_source(path) as source:
        assert (source.kind, source.size, source.fps) == ("video", FrameSize(64, 96), 25)
        assert source.frame_count == (None if ending == "mkv" else 12)
        frames = list(source)
        assert source.finished
        assert (source.corrupt, source.notes) == (0, [])
    assert [frame.index for frame in frames] == list(range(12))
    assert [index_of(frame.image) for frame in frames] == list(range(12))
    assert [frame.name for frame in frames[:2]] == ["000000", "000001"]


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", time_base=Fraction(1, 1000), pts=ODD_TIMES)
    frames = frames_of(path)
    assert [frame.pts * frame.time_base for frame in frames] == [
        Fraction(t, 1000) for t in ODD_TIMES
    ]
    assert [frame.time_s for frame in frames] == [float(t) for t in read_times(path)]


def test_a_second_pass_gives_the_same(tmp_path: Path) -> None:
    with open_source(make_video(tmp_path / "a.mp4", 5)) as source:
        first = [frame.image for frame in source]
        second = [frame.image for frame in source]
    assert len(second) == 5
    np.testing.assert_array_equal(first, second)


def test_a_frame_stays_as_it_is_while_the_next_are_read(tmp_path: Path) -> None:
    with open_source(make_video(tmp_path / "a.mp4")) as source:
        frames = iter(source)
        first = next(frames)
        copy = first.image.copy()
        list(frames)
    np.testing.assert_array_equal(first.image, copy)


def expected_rgb(y: float, u: float, v: float, matrix: str, full: bool) -> np.ndarray:
    """ITU-R BT.709, BT.601, BT.2020: from 8-bit code values to R'G'B' of 0..255, in float64."""
    red, blue = {"709": (0.2126, 0.0722), "601": (0.299, 0.114), "2020": (0.2627, 0.0593)}[matrix]
    if full:
        luma, cb, cr = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.array([b, g, r]) * 255, 0, 255)


YUV = (100.0, 90.0, 180.0)


def flat_video(path: Path, height: int, pix_fmt: str, space: int, full: bool) -> Path:
    """Lossless FFV1 of one colour given in YUV, with its matrix and range as tags."""
    deep = "10le" in pix_fmt
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, 64, pix_fmt
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame(64, height, pix_fmt)
        frame.colorspace, frame.color_range = space, 2 if full else 1
        for plane, value in zip(frame.planes, YUV, strict=True):
            kind, code = (np.uint16, value * 4) if deep else (np.uint8, value)
            plane.update(np.full(plane.buffer_size // kind().itemsize, code, kind).tobytes())
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p10le"])
@pytest.mark.parametrize(("space", "matrix"), [(1, "709"), (5, "601"), (6, "601"), (9, "2020")])
def test_colours_follow_the_tags(
    tmp_path: Path, space: int, matrix: str, pix_fmt: str, full: bool
) -> None:
    path = flat_video(tmp_path / "a.mkv", 64, pix_fmt, space, full)
    colour = frames_of(path)[0].image[32, 32]
    assert np.abs(colour - expected_rgb(*YUV, matrix, full)).max() <= 3


@pytest.mark.parametrize(("height", "matrix"), [(576, "601"), (720, "709")])
def test_untagged_colours_follow_the_height(tmp_path: Path, height: int, matrix: str) -> None:
    path = flat_video(tmp_path / "a.mkv", height, "yuv420p", 2, False)
    colour = frames_of(path)[0].image[32, 32]
    assert np.abs(colour - expected_rgb(*YUV, matrix, False)).max() <= 3


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "yuvj420p", "yuv420p"])
def test_pixel_formats_become_bgr(tmp_path: Path, pix_fmt: str) -> None:
    frames = frames_of(make_video(tmp_path / "a.mkv", 6, pix_fmt=pix_fmt))
    for index, frame in enumerate(frames):
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - picture(index)).mean() < 4
        assert tuple(np.argmax(frame.image[[4, -4], 4], axis=1)) == (2, 1)  # red, then green


def test_odd_sizes(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 3, size=(65, 97), codec="ffv1", pix_fmt="yuv444p")
    assert [frame.size for frame in frames_of(path)] == [FrameSize(65, 97)] * 3


@pytest.mark.parametrize(
    ("shape", "size"),
    [(Fraction(4, 3), (64, 128)), (Fraction(1, 2), (128, 96)), (Fraction(1, 9), (64, 96))],
)
def test_pixels_become_square(tmp_path: Path, shape: Fraction, size: tuple[int, int]) -> None:
    path = make_video(tmp_path / "a.mp4", 3, pixel_shape=shape)
    with open_source(path) as source:
        assert source.size == FrameSize(*size)
        assert [index_of(frame.image) for frame in source] == [0, 1, 2]


ONE = 1 << 16
MATRICES = {  # a, b, c, d of the track header: shown x = ax + cy, shown y = bx + dy
    "as it is": ((ONE, 0, 0, ONE), lambda p: p),
    "90 clockwise": ((0, ONE, -ONE, 0), lambda p: np.rot90(p, -1)),
    "180": ((-ONE, 0, 0, -ONE), lambda p: np.rot90(p, 2)),
    "90 counter-clockwise": ((0, -ONE, ONE, 0), lambda p: np.rot90(p, 1)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda p: p[:, ::-1]),
    "upside down": ((ONE, 0, 0, -ONE), lambda p: p[::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda p: p.transpose(1, 0, 2)),
    "transposed the other way": ((0, -ONE, -ONE, 0), lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
}


def set_matrix(path: Path, values: tuple[int, int, int, int]) -> None:
    """Write the display matrix into the track header of an MP4, byte by byte."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: times, id, duration, layer, volume
    a, b, c, d = values
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    assert (
        data[start : start + 36] == np.array([ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], ">i4").tobytes()
    )
    data[start : start + 36] = matrix
    path.write_bytes(data)


@pytest.mark.parametrize("name", MATRICES)
def test_the_display_matrix_is_applied(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / "a.mp4", 2)
    upright = [frame.image for frame in frames_of(path)]
    values, turn = MATRICES[name]
    set_matrix(path, values)
    with open_source(path) as source:
        frames = list(source)
        assert source.size == FrameSize(*turn(upright[0]).shape[:2])
        assert source.notes == []
    np.testing.assert_array_equal(frames[1].image, turn(upright[1]))
    assert frames[1].image.flags["C_CONTIGUOUS"]


def test_ninety_degrees_as_pyav_writes_them(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.set_display_rotation(90)
        frame = av.VideoFrame.from_ndarray(picture(5), format="bgr24")
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    shown = frames_of(tmp_path / "a.mp4")[0].image
    # The convention of FFmpeg's display matrix: positive angles are counter-clockwise.
    assert shown.shape == (96, 64, 3)
    assert np.abs(shown.astype(int) - np.rot90(picture(5), 1)).mean() < 4


def test_an_odd_angle_is_left_and_said(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 2)
    set_matrix(path, (46341, 46341, -46341, 46341))
    with open_source(path) as source:
        assert source.size == FrameSize(64, 96)
        assert "rotation" in source.notes[0]


def test_a_size_that_changes_in_mid_stream(tmp_path: Path) -> None:
    data = b""
    for size in ((64, 96), (96, 64), (128, 160)):
        part = make_video(tmp_path / "part.ts", 4, size=size)
        data += part.read_bytes()
    (tmp_path / "a.ts").write_bytes(data)
    sizes = [str(frame.size) for frame in frames_of(tmp_path / "a.ts")]
    assert sizes == ["64x96"] * 4 + ["96x64"] * 4 + ["128x160"] * 4


def test_a_giant_in_mid_stream_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_file, "LARGEST_PICTURE", 100 * 100)
    data = b""
    for size in ((64, 96), (128, 160)):
        data += make_video(tmp_path / "part.ts", 4, size=size).read_bytes()
    (tmp_path / "a.ts").write_bytes(data)
    with open_source(tmp_path / "a.ts") as source:
        # Pictures that the decoder still held to sort them may be lost with the refusal.
        assert {str(frame.size) for frame in source} == {"64x96"}
        assert source.corrupt > 0


def test_a_giant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "LARGEST_PICTURE", 64 * 96 - 1)
    path = make_video(tmp_path / "a.mp4", 2)
    with pytest.raises(MediaError, match="64x96 pixels"):
        open_source(path)


def noisy(path: Path) -> bytes:
    """A video of noise with a key frame every eight, large enough to be hurt in the middle."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.options = {"g": "8"}
        for index in range(40):
            noise = rng.integers(0, 256, (96, 128, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="bgr24")
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path.read_bytes()


def test_damage_in_the_middle_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = bytearray(noisy(path))
    third = len(data) // 3
    data[third : third + 4000] = b"\xab" * 4000
    path.write_bytes(data)
    with open_source(path) as source:
        frames = list(source)
        assert source.corrupt >= 1
        assert "damaged" in " ".join(source.notes)
    assert 24 <= len(frames) <= 40
    assert frames[-1].pts * frames[-1].time_base == Fraction(39, 25)  # to the very end


def test_a_cut_off_video_counts_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = noisy(path)
    path.write_bytes(data[: len(data) // 2])
    with open_source(path) as source:
        frames = list(source)
        assert len(frames) + source.corrupt >= 40
        assert "cut off" in source.notes[-1]
    assert 10 <= len(frames) < 30


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm", "avi"])
def test_missing_bytes(tmp_path: Path, ending: str) -> None:
    codec = "libvpx" if ending == "webm" else "libx264"
    path = make_video(tmp_path / f"a.{ending}", codec=codec)
    data = path.read_bytes()
    assert missing_bytes(path) == 0
    path.write_bytes(data + b"\0" * 20)  # a tail is not a loss
    assert missing_bytes(path) == 0
    path.write_bytes(data[:-100])
    assert missing_bytes(path) > 0


def test_an_mp4_without_its_index_says_that_its_end_may_be_missing(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 100])
    with pytest.raises(MediaError, match="end"):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.mp4", b"hello, this is no video\n" * 50, "cannot be read as a video"),
        ("text.txt", b"hello, this is no video\n" * 50, "cannot be read as a video"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n", "cannot be read as a video"),
        ("empty.mp4", b"", "is empty"),
        ("empty.png", b"", "is empty"),
        ("zeros.mkv", bytes(5000), "cannot be read as a video"),
    ],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=message) as caught:
        open_source(tmp_path / name)
    assert name in caught.value.found
    assert caught.value.expected


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.mp4: No such file"):
        open_source(tmp_path / "none.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((2, 4800), np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate = 48000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(MediaError, match="it has no video stream"):
        open_source(tmp_path / "a.mp4")


def test_a_video_without_a_frame_that_decodes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = bytearray(noisy(path))
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    with pytest.raises(MediaError, match="no frame that decodes"):
        open_source(path)


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "http:a.mp4", 2)
    monkeypatch.chdir(tmp_path)
    assert len(frames_of(Path("http:a.mp4"))) == 2


def test_a_folder_of_images(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), picture(number, 64, 90 + number))
    with open_source(tmp_path) as source:
        assert (source.kind, source.frame_count, source.fps) == ("images", 3, None)
        assert source.size == FrameSize(64, 92)
        frames = list(source)
        assert source.finished
    assert [frame.name for frame in frames] == ["frame2.png", "frame9.png", "frame10.png"]
    assert [frame.size.width for frame in frames] == [92, 99, 100]
    assert [frame.time_s for frame in frames] == [None] * 3
    np.testing.assert_array_equal(frames[2].image, picture(10, 64, 100))


def test_a_single_image(tmp_path: Path) -> None:
    Image.fromarray(picture(3)[:, :, ::-1]).save(tmp_path / "a.png")
    with open_source(str(tmp_path / "a.png")) as source:
        assert (source.kind, source.frame_count) == ("image", 1)
        np.testing.assert_array_equal(next(iter(source)).image, picture(3))


def test_a_damaged_image_stops_the_folder_and_is_named(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.jpg")
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 2])
    with open_source(tmp_path) as source:
        frames = iter(source)
        next(frames)
        with pytest.raises(MediaError, match=r"1\.jpg"):
            next(frames)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no images"):
        open_source(tmp_path)


def test_closing_twice(tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "a.mp4", 2))
    source.close()
    source.close()
    assert len(list(source)) == 2  # and iterating opens it again
    source.close()
