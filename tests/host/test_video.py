"""Cameras, codecs and GStreamer, with tools that answer, refuse or hang."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from segformer_deploy.host.video import video_facts
from tests.host import trees

INSPECT = 'test "$1" = --exists || exit 9; test "$2" = nvarguscamerasrc'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("segformer_deploy.host.facts._SYSTEM_PROGRAMS", ())
    return folder


def test_cameras_in_order_with_their_names(tmp_path: Path, programs: Path) -> None:
    cameras = video_facts(trees.orin_nano(tmp_path / "root")).cameras
    assert [(camera.path, camera.name) for camera in cameras] == [
        ("/dev/video0", "vi-output, imx219 9-0010"),
        ("/dev/video1", None),
        ("/dev/video2", None),
        ("/dev/video10", "HD Pro Webcam C920"),
    ]
    assert all(camera.readable for camera in cameras)
    assert video_facts(tmp_path).cameras == ()


def test_a_camera_that_is_not_for_this_user(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.orin_nano(tmp_path / "root")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "video1")
    readable = {camera.path: camera.readable for camera in video_facts(root).cameras}
    assert [path for path, may in readable.items() if not may] == ["/dev/video1"]


def test_gstreamer_of_a_jetson(tmp_path: Path, programs: Path) -> None:
    version = "gst-launch-1.0 version 1.20.3\\nGStreamer 1.20.3\\n"
    trees.program(programs, "gst-launch-1.0", f'printf "{version}"')
    trees.program(programs, "gst-inspect-1.0", INSPECT)
    streamer = video_facts(tmp_path).gstreamer
    assert (streamer.version, streamer.nvarguscamerasrc, streamer.nvv4l2decoder) == (
        "1.20.3",
        True,
        False,
    )
    assert streamer.unknown == {}


def test_gstreamer_in_trouble(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segformer_deploy.host.video._SECONDS", 0.2)
    trees.program(programs, "gst-launch-1.0", "exec /bin/sleep 20")
    trees.program(programs, "gst-inspect-1.0", "kill -SEGV $$")
    streamer = video_facts(tmp_path).gstreamer
    assert (streamer.version, streamer.nvarguscamerasrc) == (None, None)
    assert streamer.unknown["version"] == "gst-launch-1.0 did not answer within 0.2 s"
    assert "exit code -11" in streamer.unknown["nvarguscamerasrc"]


def test_no_gstreamer(tmp_path: Path, programs: Path) -> None:
    streamer = video_facts(tmp_path).gstreamer
    assert streamer.unknown["version"] == "the program gst-launch-1.0 is not installed"


def test_pyav_as_it_is_here(tmp_path: Path, programs: Path) -> None:
    codecs = video_facts(tmp_path).codecs
    assert codecs.version is not None
    assert codecs.decode_h264
    assert codecs.rtsp
    assert codecs.unknown == {}


def test_a_pyav_without_a_codec(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def codec(name: str, mode: str) -> object:
        if (name, mode) == ("libx264", "w"):
            raise ValueError(name)
        return object()

    av, av_codec, av_format = (ModuleType(name) for name in ("av", "av.codec", "av.format"))
    vars(av).update(__version__="12.3", codec=av_codec, format=av_format, __path__=[])
    vars(av_codec).update(Codec=codec)
    vars(av_format).update(formats_available={"mp4"})
    for module in (av, av_codec, av_format):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    codecs = video_facts(tmp_path).codecs
    assert (codecs.version, codecs.decode_h264, codecs.encode_h264, codecs.rtsp) == (
        "12.3",
        True,
        False,
        False,
    )


def test_a_pyav_that_does_not_load(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    codecs = video_facts(tmp_path).codecs
    assert (codecs.version, codecs.decode_h264, codecs.rtsp) == (None, None, None)
    assert "PyAV does not load (ModuleNotFoundError" in codecs.unknown["decode_h264"]
