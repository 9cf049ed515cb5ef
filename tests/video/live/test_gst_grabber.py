"""GStreamer's process: a stand-in that does what it is told, and the real one where it is."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.live.connection import Connection
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.video.live.gst_grabber import (
    PROGRAM,
    GstGrabber,
    csi_pipeline,
    gst_grabber,
    own_pipeline,
)
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.source import open_source

SECRET = "Zq7Wx9"
SIZE = FrameSize(48, 64)
OPTIONS = CaptureOptions(size=SIZE)
real = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="GStreamer is not here")

STAND_IN = """#!{python} -IS
import json, os, pathlib, signal, sys, time

here = pathlib.Path({folder!r})
(here / "told.tmp").write_text(json.dumps({{"pid": os.getpid(), "words": sys.argv[1:]}}))
(here / "told.tmp").rename(here / "told")
plan = json.loads((here / "plan").read_text())
if plan.get("deaf"):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
else:
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
number = 0
while number != plan["frames"]:
    os.write(1, bytes([number % 200, 20, 30, 0]) * ({pixels}))
    number += 1
os.write(1, bytes(plan.get("rest", 0)))
os.write(2, plan.get("words", "").encode())
(here / "done").touch()
if plan.get("hang"):
    time.sleep(60)
os._exit(plan.get("code", 0))
"""


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.002)


class StandIn:
    """A program called as GStreamer's, first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / PROGRAM
        pixels = SIZE.height * SIZE.width
        program.write_text(
            STAND_IN.format(python=sys.executable, folder=str(folder), pixels=pixels)
        )
        program.chmod(0o755)

    def plan(self, frames: int, **more: Any) -> None:
        (self.folder / "plan").write_text(json.dumps({"frames": frames, **more}))

    def told(self) -> dict[str, Any]:
        wait_for((self.folder / "told").exists)
        return dict(json.loads((self.folder / "told").read_text()))

    def done(self) -> None:
        wait_for((self.folder / "done").exists)

    @property
    def there(self) -> bool:
        """Whether its process exists, be it as a zombie."""
        return Path(f"/proc/{self.told()['pid']}").exists()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return StandIn(tmp_path)


def opened(text: str = "anything", options: CaptureOptions = OPTIONS) -> GstGrabber:
    return gst_grabber("gst", 0, text, options)


# What the program is told.


def test_the_words_for_a_csi_camera(stand_in: StandIn) -> None:
    stand_in.plan(0)
    grabber = gst_grabber("csi", 1, "1", CaptureOptions(size=SIZE, fps=Fraction(30000, 1001)))
    stand_in.done()
    grabber.close()
    words = stand_in.told()["words"]
    assert words[0] == "-q"
    assert words[1:] == csi_pipeline(1, SIZE, Fraction(30000, 1001))
    assert words[1:3] == ["nvarguscamerasrc", "sensor-id=1"]
    # One word, brackets and all: no shell is there to trip over them.
    assert "video/x-raw(memory:NVMM),width=64,height=48,framerate=30000/1001,format=NV12" in words
    assert "video/x-raw,format=BGRx" in words
    assert words[-3:] == ["fdsink", "fd=1", "sync=false"]
    pieces = " ".join(words[1:]).split(" ! ")
    assert [piece.split()[0].split("(")[0].split(",")[0] for piece in pieces] == [
        "nvarguscamerasrc",
        "video/x-raw",
        "nvvidconv",
        "video/x-raw",
        "queue",
        "fdsink",
    ]


def test_the_words_of_a_users_pipeline(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.plan(0)
    text = (
        f"filesrc location='a \"b\".mp4' ! decodebin "
        f'! "video/x-raw(memory:NVMM), width=4" ! $HOME `touch {tmp_path}/shell` ; # x'
    )
    grabber = opened(text)
    stand_in.done()
    grabber.close()
    words = stand_in.told()["words"]
    assert words[1:] == own_pipeline(text, SIZE)
    assert words[1:7] == [
        "filesrc",
        'location=a "b".mp4',
        "!",
        "decodebin",
        "!",
        "video/x-raw(memory:NVMM), width=4",
    ]
    assert "$HOME" in words
    assert "#" in words
    assert "video/x-raw,format=BGRx,width=64,height=48" in words
    assert not (tmp_path / "shell").exists()


def test_quotes_that_do_not_close() -> None:
    with pytest.raises(MediaError, match="quotation"):
        own_pipeline("videotestsrc pattern='ball", SIZE)


def test_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MediaError, match="csi:0 needs the program gst-launch") as refused:
        gst_grabber("csi", 0, "0", OPTIONS)
    assert "apt install" in refused.value.next_step


def test_a_giant_leaves_no_process(stand_in: StandIn) -> None:
    stand_in.plan(-1)
    with pytest.raises(MediaError, match="million"):
        opened(options=CaptureOptions(size=FrameSize(20_000, 20_000)))
    if (stand_in.folder / "told").exists():
        wait_for(lambda: not stand_in.there)


# What it gives.


def test_frames_and_the_end(stand_in: StandIn) -> None:
    stand_in.plan(3)
    grabber = opened()
    assert grabber.fps == 30
    for number in range(3):
        grabbed = grabber.read()
        assert grabbed is not None
        picture = grabbed.picture()
        assert picture.shape == (48, 64, 3)
        assert picture[0, 0].tolist() == [number, 20, 30]
    assert grabber.read() is None
    grabber.close()
    assert not stand_in.there


@pytest.mark.parametrize("frames", [0, 2])
def test_an_error_is_told_in_its_words(frames: int, stand_in: StandIn) -> None:
    words = "Setting pipeline to PAUSED\nERROR: from element x: no such camera\nmore\n"
    stand_in.plan(frames, words=words, code=1)
    grabber = opened("nvfoo")
    for _ in range(frames):
        assert grabber.read() is not None
    with pytest.raises(MediaError) as failed:
        grabber.read()
    assert "gst:nvfoo: GStreamer ended with code 1" in failed.value.found
    assert "ERROR: from element x: no such camera" in failed.value.found
    assert f"{PROGRAM} nvfoo" in failed.value.next_step
    grabber.close()
    assert not stand_in.there


def test_an_error_within_a_frame_is_told_in_its_words(stand_in: StandIn) -> None:
    stand_in.plan(1, rest=100, words="ERROR: the camera is gone\n", code=1)
    grabber = opened()
    assert grabber.read() is not None
    with pytest.raises(MediaError, match="the camera is gone"):
        grabber.read()
    grabber.close()
    assert not stand_in.there


def test_a_frame_that_is_not_whole_and_no_error(stand_in: StandIn) -> None:
    stand_in.plan(0, rest=100)
    grabber = opened()
    with pytest.raises(MediaError, match="ended within a frame"):
        grabber.read()
    grabber.close()


def test_an_error_without_words(stand_in: StandIn) -> None:
    stand_in.plan(0, code=3)
    grabber = opened()
    with pytest.raises(MediaError, match="code 3: it said nothing"):
        grabber.read()
    grabber.close()


def test_very_many_words_do_not_stop_it(stand_in: StandIn) -> None:
    stand_in.plan(2, words="WARNING: " + "again\n" * 200_000)
    grabber = opened()
    assert grabber.read() is not None
    assert grabber.read() is not None
    stand_in.done()
    assert grabber.read() is None
    grabber.close()


def test_silence_is_an_error(stand_in: StandIn) -> None:
    stand_in.plan(0, hang=True)
    grabber = opened(options=CaptureOptions(size=SIZE, open_s=0.3, stall_s=0.2))
    with pytest.raises(MediaError, match="nothing came"):
        grabber.read()
    grabber.close()
    assert not stand_in.there


def test_errors_do_not_tell_a_password(stand_in: StandIn) -> None:
    stand_in.plan(0, words=f"ERROR: rtsp://me:{SECRET}@host/path is not there\n", code=1)
    with pytest.raises(MediaError) as failed:
        open_source(f"gst:rtspsrc location=rtsp://me:{SECRET}@host/path", OPTIONS)
    assert "is not there" in str(failed.value)
    assert SECRET not in str(failed.value)


def test_nor_do_errors_of_quoting(stand_in: StandIn) -> None:
    stand_in.plan(0)
    with pytest.raises(MediaError) as failed:
        open_source(f"gst:rtspsrc location='rtsp://me:{SECRET}@host/path", OPTIONS)
    assert SECRET not in str(failed.value)


# Closing.


@pytest.mark.parametrize(
    "plan",
    [
        {"frames": 0, "hang": True},
        {"frames": 0, "hang": True, "deaf": True},
        {"frames": -1},
        {"frames": -1, "deaf": True},
        {"frames": 0},
        {"frames": 0, "code": 1},
    ],
    ids=["silent", "silent and deaf", "busy", "busy and deaf", "ended", "failed"],
)
def test_close_within_a_second_and_no_zombie(plan: dict[str, Any], stand_in: StandIn) -> None:
    stand_in.plan(**plan)
    grabber = opened()
    stand_in.told()
    if plan["frames"] == 0:
        stand_in.done()
    else:
        assert grabber.read() is not None
    start = time.monotonic()
    grabber.close()
    assert time.monotonic() - start < 1
    assert not stand_in.there


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("frames", [1, -1], ids=["silent", "busy"])
def test_a_live_source_of_it_closes_within_a_second(
    frames: int, deaf: bool, stand_in: StandIn
) -> None:
    stand_in.plan(frames, hang=True, deaf=deaf)
    source = open_source("gst:anything", OPTIONS)
    assert isinstance(source, LiveSource)
    if frames == 1:
        stand_in.done()
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 1
    assert not [t for t in threading.enumerate() if t.name.startswith("segdeploy ")]
    assert not stand_in.there


def test_interrupt_calls_back_who_waits(stand_in: StandIn) -> None:
    stand_in.plan(0, hang=True)
    grabber = opened()
    stand_in.done()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(grabber.read()), daemon=True)
    thread.start()
    time.sleep(0.05)
    start = time.monotonic()
    grabber.interrupt()
    thread.join(5)
    assert time.monotonic() - start < 0.5
    assert answers == [None]
    grabber.close()


def test_a_connection_that_was_given_up_ends_its_process(stand_in: StandIn) -> None:
    stand_in.plan(0, hang=True)
    connection = Connection(opened, lambda grabbed: None, lambda: None)
    connection.start()
    stand_in.done()
    wait_for(lambda: connection.grabber)
    connection.give_up()
    assert connection.wait(5)
    assert connection.over
    assert not stand_in.there


# The real one.


@real
def test_real_frames() -> None:
    grabber = opened("videotestsrc num-buffers=5 pattern=blue")
    frames = []
    while (grabbed := grabber.read()) is not None:
        frames.append(grabbed.picture())
    grabber.close()
    # The queue gives the newest: some may be gone, the last is there.
    assert 1 <= len(frames) <= 5
    for frame in frames:
        assert frame.shape == (48, 64, 3)
        assert frame[24, 32].tolist() == [255, 0, 0]


@real
def test_a_real_error() -> None:
    grabber = opened("nosuchelement")
    with pytest.raises(MediaError, match='no element "nosuchelement"'):
        grabber.read()
    grabber.close()


@real
def test_a_real_endless_one_closes_within_a_second() -> None:
    with open_source('gst:videotestsrc is-live=true ! "video/x-raw, format=I420"', OPTIONS) as cam:
        frames = iter(cam)
        first, second = next(frames), next(frames)
        assert second.index > first.index
        start = time.monotonic()
    assert time.monotonic() - start < 1
