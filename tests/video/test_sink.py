"""Writing results, read back with PyAV, Pillow and NumPy."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segformer_deploy.errors import MediaError, OutputError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.sink import MaskSink, open_sink
from segformer_deploy.video.source import open_source
from segformer_deploy.video.yuv import fitted, yuv_from_bgr
from tests.video.makers import index_of, make_video, picture, read_pictures, read_times

ODD_TIMES = [0, 1, 5, 6, 7, 100, 101, 250, 251, 1000, 1003, 1009]


def copy(source_path: Path, output: Path) -> list[str]:
    with open_source(source_path) as source, open_sink(output, source) as sink:
        for frame in source:
            sink.write(frame, frame.image)
    return sink.notes


def folder_of(path: Path, *pictures: np.ndarray) -> Path:
    path.mkdir()
    for index, image in enumerate(pictures):
        Image.fromarray(image[:, :, ::-1]).save(path / f"f{index}.png")
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_a_video_comes_back_frame_by_frame(tmp_path: Path, ending: str) -> None:
    source = make_video(tmp_path / "a.mp4")
    out = tmp_path / f"out.{ending}"
    assert copy(source, out) == []
    assert [index_of(image) for image in read_pictures(out)] == list(range(12))
    assert read_times(out) == read_times(source)
    with av.open(str(out)) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.color_range == 1
        assert stream.average_rate == 25
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"a.mp4", out.name})


def test_the_index_comes_first_so_that_a_browser_can_start_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    copy(make_video(tmp_path / "a.mp4"), out)
    data, boxes, position = out.read_bytes(), [], 0
    while position < len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        boxes.append(name)
        position += size
    assert boxes.index(b"moov") < boxes.index(b"mdat")


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(
    "time_base", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1001, 30000)]
)
def test_variable_times_are_kept_exactly(tmp_path: Path, ending: str, time_base: Fraction) -> None:
    source = make_video(tmp_path / "a.mov", time_base=time_base, pts=ODD_TIMES)
    copy(source, tmp_path / f"out.{ending}")
    expected = [pts * time_base for pts in ODD_TIMES]
    assert read_times(source) == expected
    found = read_times(tmp_path / f"out.{ending}")
    if ending != "mkv":
        assert found == expected
        return
    # Matroska counts whole milliseconds, whatever it is given.
    assert [round(time * 1000) for time in found] == [
        int(time * 1000 + Fraction(1, 2)) for time in expected
    ]


@settings(max_examples=8, deadline=None)
@given(steps=st.lists(st.integers(1, 4000), min_size=2, max_size=12))
def test_any_rising_times_are_kept(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("times")
    times = np.cumsum([0, *steps]).tolist()
    source = make_video(folder / "a.mp4", len(times), time_base=Fraction(1, 1000), pts=times)
    copy(source, folder / "out.mp4")
    assert read_times(folder / "out.mp4") == [Fraction(t, 1000) for t in times]


def test_a_late_start_is_kept_to_the_tick(tmp_path: Path) -> None:
    """MP4 notes a late start on the film's clock, which by default only counts milliseconds."""
    pts = [1237 + 3601 * index for index in range(12)]
    source = make_video(
        tmp_path / "a.mov", time_base=Fraction(1, 90000), pts=pts, sound="aac",
        mux_options={"movie_timescale": "720000"},
    )  # fmt: skip
    assert read_times(source) == [Fraction(t, 90000) for t in pts]
    copy(source, tmp_path / "out.mp4")
    assert read_times(tmp_path / "out.mp4") == [Fraction(t, 90000) for t in pts]


def test_the_last_frame_is_shown_as_long_as_in_the_source(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        frame = av.VideoFrame.from_ndarray(picture(0), format="bgr24")
        if not hasattr(frame, "duration"):
            pytest.skip("this PyAV does not know how long a frame is shown")
        stream.codec_context.flags |= 1 << 8  # "frames carry their duration"
        frame.pts, frame.time_base, frame.duration = 0, Fraction(1, 25), 100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    copy(tmp_path / "a.mp4", tmp_path / "out.mp4")
    for name in ("a.mp4", "out.mp4"):
        with av.open(str(tmp_path / name)) as file:
            assert file.duration == 4_000_000, name


def test_a_start_that_is_not_zero_moves_to_zero(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.ts", pts=range(250, 262))
    times = read_times(source)
    assert times[0] >= 10
    copy(source, tmp_path / "out.mp4")
    assert read_times(tmp_path / "out.mp4") == [time - times[0] for time in times]


@pytest.mark.parametrize("size", [(65, 97), (64, 97), (65, 96), (1, 1)])
def test_odd_sides_are_padded_with_the_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    flat = np.full((*size, 3), 90, np.uint8)
    flat[-1:] = flat[:, -1:] = rng.integers(60, 200)
    folder = folder_of(tmp_path / "in", flat)
    copy(folder, tmp_path / "out.mp4")
    image = read_pictures(tmp_path / "out.mp4")[0].astype(int)
    height, width = size[0] + size[0] % 2, size[1] + size[1] % 2
    assert image.shape == (height, width, 3)
    expected = np.pad(flat, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
    assert np.abs(image - expected).mean() < 6


def test_colours_are_bt709_to_within_a_level() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (20, 30, 3), np.uint8)
    image = blocks.repeat(4, axis=0).repeat(4, axis=1)
    blue, green, red = (image[:, :, i].astype(np.float64) / 255 for i in range(3))
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    planes = [
        16 + 219 * luma,
        128 + 224 * (blue - luma) / 1.8556,
        128 + 224 * (red - luma) / 1.5748,
    ]
    packed = yuv_from_bgr(image)
    assert np.abs(packed[:80] - planes[0]).max() <= 1
    chroma = packed[80:].reshape(2, 40, 60)
    for index in (0, 1):
        assert np.abs(chroma[index] - planes[1 + index][::2, ::2]).max() <= 1


def test_colours_survive_a_player(tmp_path: Path) -> None:
    colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255), (0, 0, 0), (30, 60, 200)]
    folder = folder_of(tmp_path / "in", *[np.full((64, 64, 3), c, np.uint8) for c in colours])
    copy(folder, tmp_path / "out.mp4")
    with open_source(tmp_path / "out.mp4") as source:
        for frame, colour in zip(source, colours, strict=True):
            assert np.abs(frame.image[32, 32].astype(int) - colour).max() <= 5


def test_frames_of_another_size_are_fitted_and_said(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "in", picture(0, 64, 96), picture(5, 96, 64), picture(10, 128, 192)
    )
    notes = copy(folder, tmp_path / "out.mp4")
    images = read_pictures(tmp_path / "out.mp4")
    assert [image.shape for image in images] == [(64, 96, 3)] * 3
    assert any("2 frames of another size" in note for note in notes)
    assert images[1][:, :20].max() < 16  # black at both sides of the upright one
    assert images[1][:, -20:].max() < 16
    assert index_of(images[2]) == 10


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_fitted_keeps_the_shape_and_fills_one_direction(h: int, w: int, H: int, W: int) -> None:
    result = fitted(np.full((h, w, 3), 255, np.uint8), FrameSize(H, W))
    assert result.shape == (H, W, 3)
    rows = np.nonzero(result.any(axis=(1, 2)))[0]
    columns = np.nonzero(result.any(axis=(0, 2)))[0]
    assert len(rows) == H or len(columns) == W
    scale = min(H / h, W / w)
    assert abs(len(rows) - max(1, h * scale)) <= 1
    assert abs(len(columns) - max(1, w * scale)) <= 1


class Backwards:
    """A source whose times stand still, run backwards and are missing."""

    kind, live, fps, finished = "video", False, Fraction(25), True
    times = (0, 5, 5, 3, None, 20)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self):
        for index, pts in enumerate(self.times):
            yield Frame(picture(index), index, None, str(index), pts, Fraction(1, 100), None)


def test_times_that_do_not_rise_are_made_to_and_said(tmp_path: Path) -> None:
    source = Backwards(make_video(tmp_path / "a.mp4", 2))
    with open_sink(tmp_path / "out.mp4", source) as sink:
        for frame in source:
            sink.write(frame, frame.image)
    times = [time * 100 for time in read_times(tmp_path / "out.mp4")]
    assert times == [0, 5, 6, 7, 11, 20]
    assert any("2 frames ran backwards" in note for note in sink.notes)
    assert any("1 frames had no time" in note for note in sink.notes)


def test_ctrl_c_leaves_a_playable_file_of_the_frames_so_far(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    source = open_source(make_video(tmp_path / "a.mp4", 12))
    with pytest.raises(KeyboardInterrupt), open_sink(out, source) as sink:
        for frame in source:
            sink.write(frame, frame.image)
            if frame.index == 6:
                raise KeyboardInterrupt
    assert [index_of(image) for image in read_pictures(out)] == list(range(7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "out.mp4"]


def test_ctrl_c_in_the_middle_of_a_write_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segformer_deploy.video import video_writer

    real = video_writer.VideoSink._mux

    def press_in_between(self: object, packets: list) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, packets)

    out = tmp_path / "out.mp4"
    source = open_source(make_video(tmp_path / "a.mp4", 12))
    with pytest.raises(KeyboardInterrupt), open_sink(out, source) as sink:
        for frame in source:
            if frame.index == 6:
                monkeypatch.setattr(video_writer.VideoSink, "_mux", press_in_between)
            sink.write(frame, frame.image)
    # The seventh frame was on its way and is there whole; the handler is back in place.
    assert [index_of(image) for image in read_pictures(out)] == list(range(7))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("written", [0, 3])
def test_another_error_removes_the_file(tmp_path: Path, name: str, written: int) -> None:
    source = open_source(make_video(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match="broken"), open_sink(tmp_path / name, source) as sink:
        for frame in source:
            if frame.index == written:
                raise ValueError("broken")
            sink.write(frame, frame.image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_older_file_survives_an_error(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("older")
    source = open_source(make_video(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match="broken"), open_sink(tmp_path / "out.mp4", source) as sink:
        sink.write(next(iter(source)), picture(0))
        raise ValueError("broken")
    assert (tmp_path / "out.mp4").read_text() == "older"


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "a.mp4"))
    sink = open_sink(tmp_path / "out.mp4", source)
    sink.close()
    sink.close()
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    with pytest.raises(OutputError, match="closed"):
        sink.write(next(iter(source)), picture(0))


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    import numpy as np
    sys.path.insert(0, {root!r})
    from segformer_deploy.errors import OutputError
    from segformer_deploy.video.sink import open_sink
    from segformer_deploy.video.source import open_source

    source, out, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with an error code
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    rng = np.random.default_rng(0)
    try:
        with open_source(source) as frames, open_sink(out, frames) as sink:
            for frame in frames:
                sink.write(frame, rng.integers(0, 256, frame.image.shape, np.uint8))
    except OutputError as error:
        print(error.found)
        sys.exit(7)
"""


def write_under_a_limit(source: Path, out: Path, limit: int) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(FULL_DISK).format(root=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", script, str(source), str(out), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", sound="aac")
    out = tmp_path / "out.mp4"
    done = write_under_a_limit(source, out, 1 << 30)
    assert (done.returncode, done.stderr) == (0, "")
    size = out.stat().st_size
    out.unlink()
    # In the header, among the frames, and in the index that is written last.
    for limit in (1000, size // 2, size - 1):
        done = write_under_a_limit(source, out, limit)
        assert done.returncode == 7, (limit, done)
        assert f"cannot write {out}: {os.strerror(errno.EFBIG)}" in done.stdout
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_among_pngs(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", 3)
    done = write_under_a_limit(source, tmp_path / "out", 1000)
    assert done.returncode == 7, done
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "folder"])
def test_no_place_to_write(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with (
        pytest.raises(OutputError, match="cannot write"),
        open_source(tmp_path / "a.png") as source,
    ):
        with open_sink(tmp_path / "file" / name, source) as sink:
            sink.write(next(iter(source)), picture(0))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    source = open_source(make_video(tmp_path / "a.mp4", 2))
    with pytest.raises(OutputError, match="Permission denied"):
        open_sink(tmp_path / "locked" / "out.mp4", source)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    copy(make_video(tmp_path / "a.mp4", 3), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    assert index_of(np.asarray(Image.open(tmp_path / "out" / "000002.png"))) == 2


def test_names_that_would_meet_stay_apart(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(["a.png", "a.bmp", "A.tif"]):
        Image.fromarray(picture(number)).save(folder / name)
    copy(folder, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3
    shown = {index_of(np.asarray(Image.open(p))) for p in (tmp_path / "out").iterdir()}
    assert shown == {0, 1, 2}


@pytest.mark.parametrize("name", ["out.png", "out.jpg"])
def test_one_picture(tmp_path: Path, name: str) -> None:
    Image.fromarray(picture(4)).save(tmp_path / "a.png")
    copy(tmp_path / "a.png", tmp_path / "new" / name)
    assert index_of(np.asarray(Image.open(tmp_path / "new" / name))) == 4


@pytest.mark.parametrize("name", ["out.png", "out.gif", "out.webm"])
def test_what_a_video_cannot_become(tmp_path: Path, name: str) -> None:
    with open_source(make_video(tmp_path / "a.mp4", 2)) as source:
        with pytest.raises(MediaError) as caught:
            open_sink(tmp_path / name, source)
    assert name in caught.value.found
    assert "--output" in caught.value.next_step


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 2)
    with open_source(path) as source, pytest.raises(MediaError, match="source itself"):
        open_sink(tmp_path / "." / "a.mp4", source)
    folder = folder_of(tmp_path / "in", picture(0))
    with open_source(folder) as source:
        with pytest.raises(MediaError, match="source itself"):
            open_sink(folder, source)
        with pytest.raises(MediaError, match="source itself"):
            MaskSink(folder, 2, source)


@pytest.mark.parametrize(("classes", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_masks_hold_the_indices(tmp_path: Path, classes: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    given_type = np.uint8 if classes <= 256 else np.int32
    class_map = rng.integers(0, classes, (30, 40)).astype(given_type)
    class_map[0, 0] = classes - 1
    with MaskSink(tmp_path / "masks", classes) as masks:
        masks.write(Frame(picture(0), 0, None, "street.7.jpg"), class_map)
    stored = np.asarray(Image.open(tmp_path / "masks" / "street.7.png"))
    np.testing.assert_array_equal(stored, class_map)
    assert Image.open(tmp_path / "masks" / "street.7.png").mode == (
        "L" if dtype is np.uint8 else "I;16"
    )


def test_masks_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="folder"):
        MaskSink(tmp_path / "masks.png", 2)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        MaskSink(tmp_path / "file", 2)
