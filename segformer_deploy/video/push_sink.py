"""Pushing pictures to a server on the network while they are made: RTSP, RTMP, SRT, UDP."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import av
import cv2

from segformer_deploy.errors import OutputError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.address import redacted
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.push_links import CLOCK, ContainerLink, Link, LinkError, LinkSettings
from segformer_deploy.video.push_rtsp import RtspLink
from segformer_deploy.video.push_worker import WorkerLink
from segformer_deploy.video.sink_base import Sink
from segformer_deploy.video.yuv import fitted, yuv_from_bgr

PUSH_SCHEMES = ("rtsp", "rtmp", "srt", "udp")
_WAITING = 2
_START_S = 6.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 2.0
_FINISH_S, _GIVE_UP_S = 0.6, 0.3
_USUAL_RATE = Fraction(25)
_LEAST_STEP = CLOCK // 1000  # RTMP counts whole milliseconds


class PushSink(Sink):
    """Sends H.264 to a server (``rtsp://``, ``rtmp://``, ``srt://``) or to a port (``udp://``).

    `write` only leaves the picture with a thread that encodes and sends it; it never waits for
    the network. Two pictures may lie there: a third takes the place of the oldest, for a viewer
    of a live stream wants the newest. A receiver that goes away stops nothing: the thread
    connects again, after 0.25 s at first and 2 s at most, and `notes` tell of it.

    Times are the frames' own, from 0 at the first; a frame that has none, or one that is not
    later than the last, is moved behind it. A picture of another size than the source's first
    is fitted into that; odd sides become even by repeating the last row or column.

    Args:
        url: where to. A user and password in it are used, and never shown.
        source: whose size and rate the stream has.

    Attributes:
        address: the URL without secrets.
        sent, dropped: pictures that were sent, and that were not.
        connected: the receiver is there, as far as we know.
        reconnects: how often it was lost and found again.

    Raises:
        OutputError: the receiver is not there, or refuses; this build of PyAV cannot do it.
    """

    def __init__(self, url: str, source: Source) -> None:
        self.address = redacted(url)
        super().__init__(Path(self.address))
        self._fitted = self._moved = 0
        self._settings = _settings(url, self.address, source)
        self._size = source.size
        self._last: int | None = None
        self._origin = Fraction(0)
        self.sent = self.dropped = self.reconnects = self._losses = 0
        self.connected = False
        self._away_s = 0.0
        self._waiting: deque[tuple[Frame, Picture]] = deque()
        self._change = threading.Condition()
        self._stopping = threading.Event()
        self._first = threading.Event()
        self._refusal = ""
        self._failure: Exception | None = None
        self._prepared_s = 0.0
        self._link: Link = _link(self._settings)
        self._thread = threading.Thread(target=self._work, name="segdeploy push", daemon=True)
        self._thread.start()
        self._wait_for_the_receiver()

    def write(self, frame: Frame, picture: Picture) -> None:
        """Leave a picture to be sent; it must not be changed afterwards. Never waits."""
        self._check_open()
        with self._change:
            if len(self._waiting) == _WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((frame, picture))
            self._change.notify()

    def prepare_to_close(self) -> None:
        self._prepared_s = time.monotonic()
        with self._change:
            self._stopping.set()
            self._change.notify()

    def close(self) -> None:
        """Send what still lies there, if that takes no longer than a moment; say goodbye."""
        waited = time.monotonic() - self._prepared_s if self._prepared_s else 0.0
        self._end(max(0.01, _FINISH_S - waited))

    def abort(self) -> None:
        self._end(0.0)

    def _end(self, patience_s: float) -> None:
        if self.closed:
            return
        self.closed = True
        with self._change:
            self._stopping.set()
            if not patience_s:
                self._waiting.clear()
            self._change.notify()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            # It waits for the network. Where it looks up a name it cannot be called back; then
            # it is left behind: it is a daemon.
            self._link.abort()
            self._thread.join(_GIVE_UP_S)
        with self._change:
            self.dropped += len(self._waiting)
            self._waiting.clear()
        self._tell()

    def _check_open(self) -> None:
        if self.closed:
            raise OutputError(f"the stream to {self.address} is closed already", "an open sink")
        if self._failure is not None:
            raise OutputError(
                f"cannot send to {self.address}: {self._failure}", "uint8 [H, W, 3] pictures"
            ) from self._failure

    def _wait_for_the_receiver(self) -> None:
        try:
            answered = self._first.wait(_START_S)
        except BaseException:  # Ctrl-C
            self.abort()
            raise
        if self.connected:
            return
        self.abort()
        reason = self._refusal if answered else "it does not answer in time"
        raise OutputError(
            f"cannot send to {self.address}: {reason}",
            "a server that takes this stream",
            "start the server first, and check the address, the user and the password",
        )

    # What follows runs on the sending thread.

    def _work(self) -> None:
        try:
            self._link.open()
            self.connected = True
        except Exception as error:
            self._refusal = str(error)
        self._first.set()
        try:
            while self.connected and (job := self._next()) is not None:
                self._send(*job)
        except Exception as error:  # not the network: a picture that is none, or the encoder
            self._failure = error
        with suppress(Exception):
            self._link.close()

    def _send(self, frame: Frame, picture: Picture) -> None:
        converted = self._converted(frame, picture)
        try:
            self._link.send(converted)
            self.sent += 1
        except LinkError:
            with self._change:
                self.dropped += 1
            self._connect_again()

    def _next(self) -> tuple[Frame, Picture] | None:
        with self._change:
            while not self._waiting:
                if self._stopping.is_set():
                    return None
                self._change.wait()
            return self._waiting.popleft()

    def _connect_again(self) -> None:
        self.connected = False
        self._losses += 1
        start, pause = time.monotonic(), _FIRST_PAUSE_S
        while not self.connected:
            self._link.abort()
            with suppress(Exception):
                self._link.close()
            if self._stopping.wait(pause):
                break
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            self._link = _link(self._settings)
            try:
                self._link.open()
                self.connected = True
                self.reconnects += 1
            except LinkError:
                continue
        self._away_s += time.monotonic() - start

    def _converted(self, frame: Frame, picture: Picture) -> Any:
        if picture.shape[:2] != (self._size.height, self._size.width):
            picture = fitted(picture, self._size)
            self._fitted += 1
        down, right = self._size.height % 2, self._size.width % 2
        if down or right:
            picture = cast(
                Picture, cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REPLICATE)
            )
        yuv = av.VideoFrame.from_ndarray(yuv_from_bgr(picture), format="yuv420p")
        yuv.pts = self._next_time(frame)
        yuv.time_base = Fraction(1, CLOCK)
        return yuv

    def _next_time(self, frame: Frame) -> int:
        """Ticks of 90 kHz since the first picture, always later than the last."""
        step = round(CLOCK / self._settings.rate)
        if frame.pts is None or frame.time_base is None:
            now = 0 if self._last is None else self._last + step
        else:
            time_s = frame.pts * frame.time_base
            if self._last is None:
                self._origin = time_s
            now = round((time_s - self._origin) * CLOCK)
        if self._last is not None and now < self._last + _LEAST_STEP:
            now = self._last + _LEAST_STEP
            self._moved += 1
        self._last = now
        return now

    def _tell(self) -> None:
        if self._losses:
            end = "" if self.connected or not self._losses else "; it was still away at the end"
            self.notes.append(
                f"{self.address} went away {self._losses} times, for {self._away_s:.1f} s in all"
                + end
            )
        if self.dropped:
            self.notes.append(
                f"{self.dropped} of {self.dropped + self.sent} pictures were not sent to "
                f"{self.address}: it was away, or encoding and network were too slow"
            )
        if self._fitted:
            self.notes.append(
                f"{self._fitted} frames of another size were fitted into {self._size}"
            )
        if self._moved:
            self.notes.append(f"{self._moved} frames ran backwards in time: moved behind the last")


def _settings(url: str, address: str, source: Source) -> LinkSettings:
    """Check the address and the encoder, and measure the stream."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and (parts.port or parts.scheme != "udp")
    except ValueError:  # a port that is no number
        whole = False
    if not whole or parts.scheme not in PUSH_SCHEMES:
        raise OutputError(
            f"{address} is not an address that pictures can be sent to",
            f"one of {', '.join(scheme + '://' for scheme in PUSH_SCHEMES)}, then host:port/name",
            "--output rtsp://127.0.0.1:8554/street",
        )
    if "libx264" not in av.codecs_available:
        raise OutputError(
            "this build of PyAV cannot write H.264", "one with libx264", "pip install av"
        )
    height, width = source.size.height, source.size.width
    rate = source.fps if source.fps and 1 <= source.fps <= 240 else _USUAL_RATE
    return LinkSettings(url, FrameSize(height + height % 2, width + width % 2), rate)


def _link(settings: LinkSettings) -> Link:
    scheme = urlsplit(settings.url).scheme
    kinds: dict[str, type[Link]] = {"rtsp": RtspLink, "udp": ContainerLink}
    return kinds.get(scheme, WorkerLink)(settings)
