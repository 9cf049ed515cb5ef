"""A USB camera that is a few lines of Python, in a /dev that is a folder of the test's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.live import camera_grabber, source
from segformer_deploy.video.live.camera_grabber import CameraGrabber
from segformer_deploy.video.live.grabber import CaptureOptions
from segformer_deploy.video.source import open_source

MJPG = cv2.VideoWriter.fourcc(*"MJPG")


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.002)


class Camera:
    """What `cv2.VideoCapture` gives: opens, keeps settings as it likes, and gives pictures.

    Attributes:
        largest: it gives no larger pictures, whatever it is asked for.
    """

    made: list[Camera]
    opens = True
    largest = FrameSize(480, 640)
    rate = 30.0
    frames: int | None = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.asked: list[tuple[int, float]] = []
        self.width, self.height = 640, 480
        self.read_count = self.released = 0
        type(self).made.append(self)

    def isOpened(self) -> bool:  # noqa: N802
        return self.opens

    def set(self, what: int, value: float) -> bool:
        self.asked.append((what, value))
        if what == cv2.CAP_PROP_FRAME_WIDTH:
            self.width = min(int(value), self.largest.width)
        if what == cv2.CAP_PROP_FRAME_HEIGHT:
            self.height = min(int(value), self.largest.height)
        return True

    def get(self, what: int) -> float:
        return {
            cv2.CAP_PROP_FRAME_WIDTH: float(self.width),
            cv2.CAP_PROP_FRAME_HEIGHT: float(self.height),
            cv2.CAP_PROP_FPS: self.rate,
        }[what]

    def read(self) -> tuple[bool, Any]:
        if self.released:
            raise AssertionError("read after release")
        if self.frames is not None and self.read_count >= self.frames:
            return False, None
        self.read_count += 1
        time.sleep(0.002)
        return True, np.full((self.height, self.width, 3), self.read_count % 256, np.uint8)

    def release(self) -> None:
        self.released += 1


class Machine:
    """A folder of devices, and the cameras behind them."""

    def __init__(self, devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Own(Camera):
            made: list[Camera] = []  # noqa: RUF012

        self.devices, self.kind = devices, Own
        monkeypatch.setattr(camera_grabber, "_DEVICES", devices)
        monkeypatch.setattr(cv2, "VideoCapture", Own)

    def plug(self, *numbers: int) -> None:
        for number in numbers:
            (self.devices / f"video{number}").touch()

    def unplug(self, number: int) -> None:
        (self.devices / f"video{number}").unlink()

    @property
    def camera(self) -> Camera:
        return self.kind.made[-1]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_no_camera_at_all(machine: Machine) -> None:
    with pytest.raises(MediaError, match=r"there is no camera .*video0") as refused:
        CameraGrabber(0, CaptureOptions())
    assert "plug it in" in refused.value.next_step
    assert machine.kind.made == []


def test_another_camera_is_named(machine: Machine) -> None:
    machine.plug(1, 4)
    with pytest.raises(MediaError, match=r"there is no camera .*video0") as refused:
        CameraGrabber(0, CaptureOptions())
    assert f"{machine.devices}/video1, {machine.devices}/video4" in refused.value.expected


def test_no_permission(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.plug(0)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MediaError, match="may not be used by this user") as refused:
        CameraGrabber(0, CaptureOptions())
    assert "usermod -aG video" in refused.value.next_step
    assert machine.kind.made == []


def test_a_busy_camera(machine: Machine) -> None:
    machine.plug(0)
    machine.kind.opens = False
    with pytest.raises(MediaError, match="does not open as a camera") as refused:
        CameraGrabber(0, CaptureOptions())
    assert f"fuser -v {machine.devices}/video0" in refused.value.next_step
    assert machine.camera.released == 1


def test_frames(machine: Machine) -> None:
    machine.plug(2)
    before = time.monotonic()
    grabber = CameraGrabber(2, CaptureOptions())
    assert machine.camera.arguments == (2, cv2.CAP_V4L2)
    assert (grabber.fps, grabber.corrupt, grabber.notes) == (30, 0, [])
    first, second = grabber.read(), grabber.read()
    assert first is not None
    assert second is not None
    assert before < first.captured_s < second.captured_s <= time.monotonic()
    assert first.size == FrameSize(480, 640)
    assert first.picture()[0, 0].tolist() == [1, 1, 1]
    assert second.picture()[0, 0].tolist() == [2, 2, 2]
    grabber.interrupt()
    grabber.close()
    assert machine.camera.released == 1


def test_nothing_is_asked_for_but_no_delay(machine: Machine) -> None:
    machine.plug(0)
    CameraGrabber(0, CaptureOptions()).close()
    assert machine.camera.asked == [(cv2.CAP_PROP_BUFFERSIZE, 1)]


def test_size_and_rate_are_asked_for_in_the_order_that_drivers_want(machine: Machine) -> None:
    machine.plug(0)
    options = CaptureOptions(size=FrameSize(240, 320), fps=Fraction(15))
    CameraGrabber(0, options).close()
    asked = machine.camera.asked
    assert asked[0] == (cv2.CAP_PROP_BUFFERSIZE, 1)
    # The format decides on sizes, the size on rates.
    assert asked[1:] == [
        (cv2.CAP_PROP_FOURCC, MJPG),
        (cv2.CAP_PROP_FRAME_WIDTH, 320),
        (cv2.CAP_PROP_FRAME_HEIGHT, 240),
        (cv2.CAP_PROP_FPS, 15.0),
    ]


def test_a_rate_alone(machine: Machine) -> None:
    machine.plug(0)
    CameraGrabber(0, CaptureOptions(fps=Fraction(60))).close()
    assert [what for what, _ in machine.camera.asked] == [
        cv2.CAP_PROP_BUFFERSIZE,
        cv2.CAP_PROP_FOURCC,
        cv2.CAP_PROP_FPS,
    ]


def test_a_rate_of_0_is_not_asked_for(machine: Machine) -> None:
    machine.plug(0)
    CameraGrabber(0, CaptureOptions(fps=Fraction(0))).close()
    assert (cv2.CAP_PROP_FPS, 0.0) not in machine.camera.asked


def test_another_size_than_asked_for_is_noted(machine: Machine) -> None:
    machine.plug(0)
    machine.kind.largest = FrameSize(200, 300)
    grabber = CameraGrabber(0, CaptureOptions(size=FrameSize(1080, 1920)))
    assert grabber.notes == [f"{machine.devices}/video0 gives 200x300, not 1080x1920"]
    grabbed = grabber.read()
    assert grabbed is not None
    assert grabbed.size == FrameSize(200, 300)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none(rate: float, machine: Machine) -> None:
    machine.plug(0)
    machine.kind.rate = rate
    assert CameraGrabber(0, CaptureOptions()).fps is None


def test_a_rate_with_a_fraction(machine: Machine) -> None:
    machine.plug(0)
    machine.kind.rate = 29.97002997
    assert CameraGrabber(0, CaptureOptions()).fps == Fraction(30000, 1001)


def test_no_more_frames(machine: Machine) -> None:
    machine.plug(0)
    machine.kind.frames = 1
    grabber = CameraGrabber(0, CaptureOptions())
    assert grabber.read() is not None
    with pytest.raises(MediaError, match="video0 gives no more frames"):
        grabber.read()
    machine.unplug(0)
    with pytest.raises(MediaError, match="video0 was unplugged"):
        grabber.read()


def test_unplugged_and_plugged_in_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_FIRST_PAUSE_S", 0.01)
    machine.plug(0)
    with open_source("camera:0") as camera:
        assert camera.name == "camera:0"
        frames = iter(camera)
        before = next(frames)
        machine.unplug(0)
        machine.kind.frames = 0
        meter = camera.meter  # type: ignore[attr-defined]
        wait_for(lambda: meter.snapshot().error.startswith("there is no camera"))
        assert meter.snapshot().state == "reconnecting"
        machine.kind.frames = None
        machine.plug(0)
        wait_for(lambda: meter.snapshot().state == "running")
        assert next(frames).index > before.index
    assert all(made.released == 1 for made in machine.kind.made)
    assert len(machine.kind.made) == 2


def test_unplugged_without_reconnecting(machine: Machine) -> None:
    machine.plug(0)
    with open_source("0", CaptureOptions(reconnect=False)) as camera:
        frames = iter(camera)
        next(frames)
        machine.unplug(0)
        machine.kind.frames = 0
        with pytest.raises(MediaError, match="was unplugged"):
            for _ in frames:
                pass
    assert machine.camera.released == 1
