"""Video files through PyAV: every frame that can be decoded, and a word on those that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from segformer_deploy.errors import MediaError
from segformer_deploy.video.container_length import missing_bytes
from segformer_deploy.video.frame import (
    LARGEST_PICTURE,
    Frame,
    Source,
    SourceKind,
    check_picture_size,
)
from segformer_deploy.video.picture import picture_from_video_frame, turn_of

_GIVE_UP_AFTER = 32
"""Read errors in a row with no packet in between: the rest of the file is lost."""
_NOT_VIDEO = {"tty", "image2", "ass", "srt", "webvtt", "lrc", "concat", "hls", "sdp"}
"""Formats that FFmpeg would open although they are text, playlists or stills."""


class VideoFile(Source):
    """The first video stream of a file.

    Opening decodes the first frame, so a file that cannot be decoded at all fails at once.
    Time stamps stay as the file has them, rotation tags are applied, frames come at their own
    size where it changes in mid-stream. Damaged packets are left out and counted in
    `corrupt`; frames that the decoder patched up are counted too, and kept.

    Raises:
        MediaError: on opening or iterating.
    """

    kind: SourceKind = "video"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.corrupt = 0
        self.finished = False
        self.notes: list[str] = []
        self._container: Any = None
        first = self._start()
        self._first: Frame | None = first
        self.size = first.size
        self.frame_count = self._stream.frames or None
        self.fps: Fraction | None = self._stream.average_rate or None

    def __iter__(self) -> Iterator[Frame]:
        first = self._first
        if first is None or self._container is None:
            first = self._start()
        self._first = None
        return self._rest(first)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def packets(self) -> Iterator[Any]:
        """The stream's packets from its first on, not decoded; frames begin anew after it."""
        self.close()
        self.corrupt = 0
        self._open()
        yield from self._packets()

    def _rest(self, first: Frame) -> Iterator[Frame]:
        yield first
        yield from self._frames

    def _start(self) -> Frame:
        """Open the file and decode its first frame."""
        self.close()
        self.corrupt, self.finished = 0, False
        self.notes.clear()
        self._open()
        self._frames = self._decode()
        try:
            first = next(self._frames, None)
        except BaseException:
            self.close()
            raise
        if first is None:
            self.close()
            raise MediaError(
                f"{self.path} holds a video stream but no frame that decodes",
                "a video with at least one frame",
                "play it in a video player to see whether it is complete",
            )
        return first

    def _open(self) -> None:
        self._container = open_media(self.path)
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        form = self._container.format
        if not streams or form.name.split(",")[0] in _NOT_VIDEO:
            self.close()
            reason = (
                f"FFmpeg takes it for {form.long_name}" if streams else "it has no video stream"
            )
            raise _no_video(self.path, reason)
        self._stream = streams[0]
        context = self._stream.codec_context
        if context is None:
            self.close()
            raise _no_video(self.path, "there is no decoder for its codec")
        # A stream may change its size in mid-file; the decoder itself must refuse a giant.
        context.options = {"max_pixels": str(LARGEST_PICTURE)}
        context.thread_type = "AUTO"
        if context.height or context.width:
            try:
                check_picture_size(str(self.path), context.height, context.width)
            except MediaError:
                self.close()
                raise
        shape = self._stream.sample_aspect_ratio
        self._pixel_shape = Fraction(shape) if shape else None

    def _decode(self) -> Iterator[Frame]:
        count = 0
        for packet in self._packets():
            for frame in self._frames_of(packet):
                if frame.is_corrupt:
                    self._damaged()
                yield self._frame(frame, count)
                count += 1
        self._count_missing(count)
        self.finished = True

    def _packets(self) -> Iterator[Any]:
        """Packets to the end of the file, over read errors where the file goes on behind them."""
        errors = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size > 0:
                        errors = 0
                    yield packet
                return
            except av.error.FFmpegError as error:
                errors += 1
                self._damaged()
                if errors > _GIVE_UP_AFTER:
                    self.notes.append(f"{self.path}: reading stopped early: {error.strerror}")
                    return

    def _frames_of(self, packet: Any) -> list[Any]:
        if packet.is_corrupt:
            self._damaged()
        try:
            return list(packet.decode())
        except av.error.FFmpegError:
            if not packet.is_corrupt:
                self._damaged()
            return []

    def _damaged(self) -> None:
        if not self.corrupt:
            self.notes.append(f"{self.path} is damaged: some frames are left out or patched")
        self.corrupt += 1

    def _frame(self, frame: Any, index: int) -> Frame:
        if index == 0 and turn_of(frame) is None:
            self.notes.append(
                f"{self.path} asks for a rotation that is no multiple of 90 degrees: not turned"
            )
        pts = frame.pts if frame.pts is not None else frame.dts
        base = Fraction(frame.time_base or self._stream.time_base)
        return Frame(
            image=picture_from_video_frame(frame, self._pixel_shape),
            index=index,
            time_s=None if pts is None else float(pts * base),
            name=f"{index:06d}",
            pts=pts,
            time_base=base,
            # PyAV 12 does not tell a frame's duration.
            duration=getattr(frame, "duration", None) or None,
        )

    def _count_missing(self, decoded: int) -> None:
        lost = missing_bytes(self.path)
        if not lost:
            return
        frames = max(0, self._stream.frames - decoded)
        self.corrupt += frames or 1
        count = f"{frames} frames" if frames else "some frames"
        self.notes.append(f"{self.path} is cut off: {count} ({lost / 1e6:.1f} MB) are missing")


# A title in an unknown encoding is no reason to refuse a film. From version 19 on PyAV never
# does, and no longer takes the option.
_METADATA: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def open_media(path: Path) -> Any:
    """An open PyAV container of a local file; MediaError where it is no media file."""
    try:
        # With the protocol said, a colon in a file name is no protocol; and what a file
        # refers to (playlists) is not fetched from elsewhere.
        return av.open(
            f"file:{path}",
            "r",
            container_options={"protocol_whitelist": "file"},
            **_METADATA,
        )
    except (OSError, av.error.FFmpegError) as error:
        reason = error.strerror or type(error).__name__
        hint = "its end, where the index lies, may be missing" if missing_bytes(path) else reason
        raise _no_video(path, hint) from error


def _no_video(path: Path, reason: str) -> MediaError:
    return MediaError(
        f"{path} cannot be read as a video: {reason}",
        "a video file (mp4, mov, mkv, webm, avi …), an image, or a folder of images",
        "play it in a video player to see whether it is complete",
    )


def _is_cover(stream: Any) -> bool:
    """Whether the stream is the cover picture of a piece of music."""
    disposition = getattr(stream, "disposition", None)  # from PyAV 13 on
    return disposition is not None and bool(disposition & type(disposition).attached_pic)
