"""GStreamer in a process of its own: a Jetson's CSI cameras, and any pipeline one can type.

pip's OpenCV has no GStreamer. A process apart needs no bindings, and is spared what else we
load: the Jetson's camera service fails in a process that has loaded CUDA libraries before it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from fractions import Fraction

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.address import redacted
from segformer_deploy.video.frame import check_picture_size
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed
from segformer_deploy.video.live.raw import RawFrames

PROGRAM = "gst-launch-1.0"
_SIZE, _FPS = FrameSize(720, 1280), Fraction(30)
_GOODBYE_S = 0.5


def csi_pipeline(number: int, size: FrameSize, fps: Fraction) -> list[str]:
    """The arguments that make the Jetson's camera `number` write BGRx frames to stdout."""
    caps = f"width={size.width},height={size.height},framerate={fps.numerator}/{fps.denominator}"
    return [
        *("nvarguscamerasrc", f"sensor-id={number}"),
        *("!", f"video/x-raw(memory:NVMM),{caps},format=NV12"),
        *("!", "nvvidconv", "!", "video/x-raw,format=BGRx"),
        *_TO_STDOUT,
    ]


def own_pipeline(text: str, size: FrameSize) -> list[str]:
    """The arguments for a pipeline as a user types it, up to raw video of any format."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise MediaError(f"gst:{redacted(text)}: {error}", "quotes in pairs") from error
    return [
        *words,
        *("!", "videoconvert", "!", "videoscale"),
        # BGRx: rows of whole words, so that no row is padded.
        *("!", f"video/x-raw,format=BGRx,width={size.width},height={size.height}"),
        *_TO_STDOUT,
    ]


# Nothing older than one frame waits on that side of the pipe.
_TO_STDOUT = [
    *(
        "!",
        "queue",
        "max-size-buffers=1",
        "max-size-bytes=0",
        "max-size-time=0",
        "leaky=downstream",
    ),
    *("!", "fdsink", "fd=1", "sync=false"),
]


class GstGrabber:
    """Frames of a GStreamer process.

    Raises:
        MediaError: no GStreamer here, or the process ended with an error: in its own words.
    """

    def __init__(
        self, name: str, arguments: list[str], options: CaptureOptions, advice: str
    ) -> None:
        self._name, self._advice = name, advice
        self.fps: Fraction | None = options.fps or _FPS
        self.corrupt = 0
        self.notes: list[str] = []
        program = shutil.which(PROGRAM)
        if program is None:
            raise MediaError(
                f"{name} needs the program {PROGRAM}, which is not here",
                "GStreamer's command line tools",
                "apt install gstreamer1.0-tools gstreamer1.0-plugins-good",
            )
        size = options.size or _SIZE
        check_picture_size(name, size.height, size.width)
        # Whatever it says goes to a file: a pipe that nobody reads would stop it.
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [program, "-q", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._words,
            # Ctrl-C is ours to pass on: its pipeline has to be taken down in order.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        # The first frame of a camera takes longer than the next.
        patience = max(options.open_s, options.stall_s)
        self._frames = RawFrames(handle, size, "bgr0", name, patience)

    def read(self) -> Grabbed | None:
        cut: MediaError | None = None
        grabbed = None
        try:
            grabbed = self._frames.read()
        except MediaError as error:
            cut = error  # a pipe holds less than a frame: what ended the process says more
        if grabbed is not None or self._frames.stopped:
            return grabbed
        if code := self._left():
            raise MediaError(
                f"{self._name}: GStreamer ended with code {code}: {self._last_words()}",
                "a pipeline that runs",
                self._advice,
            )
        if cut is not None:
            raise cut
        return None

    def interrupt(self) -> None:
        self._frames.stop()

    def close(self) -> None:
        # As by Ctrl-C: the camera service wants to be told that its camera is free.
        if self._process.poll() is None:
            self._signal(signal.SIGINT)
        # A process that waits to hand over a frame does not hear: take what it has.
        self._frames.drain(_GOODBYE_S)
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._words.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _left(self) -> int:
        try:
            return self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            return 0

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if "ERROR" in line or "WARNING" in line]
        return redacted((errors or lines or ["it said nothing"])[0].strip())


def gst_grabber(kind: str, number: int, text: str, options: CaptureOptions) -> GstGrabber:
    """The grabber of ``csi:NUMBER`` or ``gst:TEXT``."""
    size = options.size or _SIZE
    if kind == "csi":
        arguments = csi_pipeline(number, size, options.fps or _FPS)
        advice = "a CSI camera is a Jetson's; systemctl restart nvargus-daemon wakes its service"
        return GstGrabber(f"csi:{number}", arguments, options, advice)
    advice = f"try it alone: {PROGRAM} {redacted(text)} ! fakesink"
    return GstGrabber(f"gst:{redacted(text)}", own_pipeline(text, size), options, advice)
