"""Network streams through PyAV: RTSP, HTTP, RTMP, SRT, MPEG-TS."""

from __future__ import annotations

import time
from collections.abc import Generator
from fractions import Fraction
from functools import partial
from typing import Any, cast

import av
import av.error

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.address import redacted, without_secrets
from segformer_deploy.video.frame import LARGEST_PICTURE
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed
from segformer_deploy.video.picture import picture_from_video_frame

_RTSP = {
    # Over UDP a lost packet is a broken picture; TCP asks for it again.
    "rtsp_transport": "tcp",
    "allowed_media_types": "video",
    # The description has told codec and size: finding out more only costs the first second.
    # (For "analyzeduration" 0 would mean five seconds.)
    "analyzeduration": "1",
    "fpsprobesize": "0",
    "probesize": "32",
}
# Not `nobuffer`: it throws the first key frame away, and the next may be seconds off. What was
# buffered is read at once, and only the newest of it is ever converted.
_OTHERS = {"analyzeduration": "1000000"}
_NO_DELAY = {"max_delay": "0", "reorder_queue_size": "0"}
# What a playlist or a description may lead on to: never a file of ours.
_PROTOCOLS = "rtsp,rtsps,rtp,rtmp,rtmps,http,https,httpproxy,tcp,udp,srt,tls,crypto,data"
_GIVE_UP_AFTER = 250
"""Packets in a row of which nothing could be decoded, before the first picture."""


class StreamGrabber:
    """The first video stream of a URL.

    Decoding is done without a frame of delay, and turned into a picture only where somebody
    takes the frame.

    Raises:
        MediaError: on opening or reading; without the password.
    """

    def __init__(self, url: str, options: CaptureOptions) -> None:
        self._url = url
        self._stall_s = options.stall_s
        self.corrupt = 0
        self.notes: list[str] = []
        self._container = self._opened(options)
        try:
            self._stream = self._video()
            self._configure()
        except BaseException:
            self._container.close()
            raise
        self.fps: Fraction | None = self._stream.average_rate or self._stream.guessed_rate or None
        # A recording that is served by a web server ends; a camera never does.
        self._has_end = bool(self._container.duration) and url.lower().startswith("http")
        self._frames = self._decoded()

    def read(self) -> Grabbed | None:
        try:
            frame = next(self._frames, None)
        except av.error.FFmpegError as error:
            raise _lost(self._url, error, f"nothing came for {self._stall_s:g} s") from error
        if frame is None:
            if self._has_end:
                return None
            raise MediaError(
                f"{redacted(self._url)} ended", "a stream that goes on", "is the camera on?"
            )
        return Grabbed(
            time.monotonic(),
            FrameSize(frame.height, frame.width),
            partial(picture_from_video_frame, frame, self._pixel_shape),
        )

    def interrupt(self) -> None:
        """FFmpeg comes back by itself, when its time is up."""

    def close(self) -> None:
        self._frames.close()
        self._container.close()

    def _opened(self, options: CaptureOptions) -> Any:
        rtsp = self._url.lower().startswith("rtsp")
        chosen = {"protocol_whitelist": _PROTOCOLS, **_NO_DELAY, **(_RTSP if rtsp else _OTHERS)}
        start = time.monotonic()
        try:
            return av.open(
                self._url,
                "r",
                options={**chosen, **options.ffmpeg},
                # A little longer than who watches: they are to tell a stall from a loss.
                timeout=(options.open_s, options.stall_s + 1),
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            # Told to come back, FFmpeg's RTSP takes half an answer for a wrong one.
            late = time.monotonic() - start >= 0.95 * options.open_s
            kind = TimeoutError() if late else error
            raise _lost(self._url, kind, f"no answer within {options.open_s:g} s") from error

    def _video(self) -> Any:
        streams = self._container.streams.video
        if not streams:
            kinds = sorted({stream.type for stream in self._container.streams})
            raise MediaError(
                f"{redacted(self._url)} has no video"
                + (f", only {', '.join(kinds)}" * bool(kinds)),
                "a stream with pictures",
                "check the path behind the host's name",
            )
        return streams[0]

    def _configure(self) -> None:
        context = self._stream.codec_context
        if context is None:
            raise MediaError(
                f"{redacted(self._url)}: this build of PyAV has no decoder for its codec",
                "H.264, H.265, MJPEG, VP9 or AV1",
                "choose another codec in the camera's settings",
            )
        context.options = {"max_pixels": str(LARGEST_PICTURE)}
        # Threads by frame would keep back as many frames as there are threads.
        context.thread_type = "SLICE"
        context.flags |= 1 << 19  # AV_CODEC_FLAG_LOW_DELAY
        shape = self._stream.sample_aspect_ratio
        self._pixel_shape = Fraction(shape) if shape else None

    def _decoded(self) -> Generator[Any, None, None]:
        seen, in_vain = False, 0
        for packet in self._container.demux(self._stream):
            damaged = bool(packet.is_corrupt)
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                frames, damaged = [], True
            for frame in frames:
                damaged |= bool(frame.is_corrupt)
                yield frame
            seen = seen or bool(frames)
            # Who joins in the middle has to wait for a whole picture: that is no damage.
            self.corrupt += seen and damaged
            in_vain = 0 if seen else in_vain + 1
            if in_vain > _GIVE_UP_AFTER:
                raise MediaError(
                    f"{redacted(self._url)}: nothing of {in_vain} packets "
                    f"({self._stream.codec_context.name}) could be decoded",
                    "a stream with whole pictures from time to time",
                    "shorten the camera's key frame interval, or choose another codec",
                )


def _lost(url: str, error: Exception, late: str) -> MediaError:
    """What went wrong, in words; without the password."""
    name = redacted(url)
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return MediaError(
            f"{name}: the server refused the user or the password",
            "rtsp://user:password@host/path",
            "write an @ or a / in a password as %40 or %2F",
        )
    if isinstance(error, av.error.ExitError | TimeoutError):
        return MediaError(f"{name}: {late}", "a frame", "is the camera on, the network up?")
    if isinstance(error, av.error.HTTPNotFoundError):
        return MediaError(f"{name}: no such stream there (404)", "the camera's own path")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return MediaError(
        f"{name}: {without_secrets(cast(str, reason), url)}",
        "a stream that answers",
        "is its address right, the camera on, the network up?",
    )
