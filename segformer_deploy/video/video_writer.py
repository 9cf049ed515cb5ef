"""Writing an H.264 video that plays in a browser, with the source's times and sound."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import cv2

from segformer_deploy import files
from segformer_deploy.errors import OutputError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.container_length import missing_bytes
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.interrupts import uninterrupted
from segformer_deploy.video.sink_base import Sink
from segformer_deploy.video.sound import Sound
from segformer_deploy.video.yuv import fitted, yuv_from_bgr

VIDEO_ENDINGS = (".mp4", ".mkv", ".mov")
_X264 = {"crf": "20", "preset": "veryfast"}
_LIVE_KEY_FRAMES = 60
"""At most so many frames of a live recording go with the power."""
_FASTEST_CLOCK = 1_000_000_000
_RATE_OF_STILLS = Fraction(25)
_BT709, _LIMITED = 1, 1  # ITU-T H.273
_FRAMES_HAVE_DURATIONS = 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION
_KNOWS_DURATIONS = hasattr(av.VideoFrame, "duration")  # PyAV 12 does not


class VideoSink(Sink):
    """An H.264 file (yuv420p, BT.709, limited range) of the pictures that are written to it.

    Times are kept exactly, in the source's own time base (Matroska itself counts whole
    milliseconds); only a start that is not 0 is moved to 0, sound and pictures alike. Sides
    become even by repeating the last row or column. Sound: see `sound`. A picture of another
    size than the first is fitted into the first's.

    The file appears when `close` has finished it: written aside, then renamed. Inside
    ``with``, Ctrl-C finishes it too, so that the frames so far can be played; any other error
    removes it.

    What a live source gives may go on for days: such a file is written in fragments, which play
    without an index at the end, so that closing it takes no time, however long it is.

    Args:
        path: with one of `VIDEO_ENDINGS`.
        source: where the frames come from.
        size: of the film, where it is not the first picture's.
    """

    def __init__(self, path: Path, source: Source, *, size: FrameSize | None = None) -> None:
        super().__init__(path)
        self._source = source
        self._container: Any = None
        self._stream: Any = None
        self._sound: Sound | None = None
        self._size = size
        self._last_pts: int | None = None
        self._last_duration = 1
        self._untimed = self._moved = self._fitted = 0
        if "libx264" not in av.codecs_available:
            raise OutputError(
                "this build of PyAV cannot write H.264", "one with libx264", "pip install av"
            )
        self._file = files.atomic_file(path, keep_on_interrupt=True)
        self._temporary = self._file.__enter__()
        with self._failing():
            self._temporary.touch()  # no permission: better said now than after a frame

    def write(self, frame: Frame, picture: Picture) -> None:
        self._check_open()
        with uninterrupted(), self._failing():
            if self._container is None:
                self._begin(frame, picture)
            yuv = self._yuv(picture)
            yuv.pts = self._next_pts(frame)
            yuv.time_base = self._base
            if _KNOWS_DURATIONS:
                yuv.duration = self._last_duration
            self._mux(self._stream.encode(yuv))

    def close(self) -> None:
        if self.closed:
            return
        with uninterrupted(), self._failing():
            if self._container is None:
                self._discard()
                return
            self._mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.advance(None if self._source.finished else self._end())
                self._sound.finish()
            self._container.close()
            if missing_bytes(self._temporary):
                # FFmpeg does not tell of a disk that is full at its very last write.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._release()
            self._file.__exit__(None, None, None)
            self.closed = True
            self._tell()

    def abort(self) -> None:
        if not self.closed:
            self._discard()

    def _begin(self, frame: Frame, picture: Picture) -> None:
        size = self._size or FrameSize(int(picture.shape[0]), int(picture.shape[1]))
        base = frame.time_base or 1 / (self._source.fps or _RATE_OF_STILLS)
        self._open(size, Fraction(base))
        self._find_origin(frame.pts)

    def _open(self, size: FrameSize, base: Fraction) -> None:
        """The container and an encoder for pictures of `size`, whose clock ticks in `base` s."""
        self._size, self._base = size, base
        rate = self._source.fps or _RATE_OF_STILLS
        self._container = self._new_container()
        self._step = max(1, round(1 / (rate * base)))
        stream: Any = self._container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size.width + size.width % 2, size.height + size.height % 2
        stream.pix_fmt = "yuv420p"
        stream.options = dict(_X264)
        if self._source.live:
            # B-frames would have such a file begin two frames late: it has no edit list.
            stream.options.update(g=str(_LIVE_KEY_FRAMES), bf="0")
        context = stream.codec_context
        context.time_base = base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        if _KNOWS_DURATIONS:
            context.flags |= _FRAMES_HAVE_DURATIONS
        self._stream = stream

    def _new_container(self) -> Any:
        ending = self.path.suffix.lower()
        options = {} if ending == ".mkv" else _mp4_options(self._base, self._source.live)
        return av.open(f"file:{self._temporary}", "w", options=options)

    def _find_origin(self, first: int | None) -> None:
        """Open the sound, and set what becomes time 0; `first` is the first picture's time."""
        starts = [] if first is None else [first * self._base]
        if self._source.kind == "video":
            ending = self.path.suffix.lower()
            self._sound = Sound(self._source.path, self._container, ending)
            if self._sound.start is not None:
                starts.append(self._sound.start)
        # Whole ticks, so that the pictures' times stay exact.
        self._origin = max(0, int(min(starts, default=Fraction(0)) / self._base))
        if self._sound is not None:
            self._sound.origin = self._origin * self._base

    def _next_pts(self, frame: Frame) -> int:
        last = self._last_pts
        if frame.pts is None or frame.time_base is None:
            pts = 0 if last is None else last + self._last_duration
            self._untimed += self._source.kind in ("video", "stream")
        else:
            pts = round(frame.pts * frame.time_base / self._base) - self._origin
        if last is not None and pts <= last:
            pts = last + 1
            self._moved += 1
        self._last_pts = pts
        self._last_duration = frame.duration or self._step
        return pts

    def _end(self) -> Fraction:
        return ((self._last_pts or 0) + self._last_duration) * self._base

    def _yuv(self, picture: Picture) -> Any:
        assert self._size is not None
        if picture.shape[:2] != (self._size.height, self._size.width):
            picture = fitted(picture, self._size)
            self._fitted += 1
        down, right = self._size.height % 2, self._size.width % 2
        if down or right:
            picture = cast(
                Picture, cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REPLICATE)
            )
        return av.VideoFrame.from_ndarray(yuv_from_bgr(picture), format="yuv420p")

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if self._sound is not None:
                self._sound.advance(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _tell(self) -> None:
        if self._fitted:
            self.notes.append(
                f"{self._fitted} frames of another size were fitted into {self._size}"
            )
        if self._untimed:
            self.notes.append(f"{self._untimed} frames had no time: they follow at the mean rate")
        if self._moved:
            self.notes.append(f"{self._moved} frames ran backwards in time: moved behind the last")
        if self._source.kind in ("image", "images"):
            self.notes.append(f"stills follow each other at {_RATE_OF_STILLS} frames/s")
        if self._sound is not None:
            self.notes.extend(self._sound.notes)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Give up the file on any error; say a writing error as OutputError.

        Of a live source what was recorded until then is kept: nobody can record it again.
        """
        try:
            yield
        except av.error.FFmpegError as error:
            self._discard(keep=True)
            system = OSError(error.errno or 0, error.strerror or str(error))
            raise files.output_error(self.path, system) from error
        except OSError as error:
            self._discard(keep=True)
            raise files.output_error(self.path, error) from error
        except Exception:
            self._discard(keep=True)
            raise

    def _discard(self, *, keep: bool = False) -> None:
        if self.closed:
            return
        self.closed = True
        keep = keep and self._source.live and self._container is not None
        if self._container is not None:
            # It may be what failed; closing it again tells us nothing new.
            with suppress(av.error.FFmpegError, OSError):
                self._container.close()
        self._release()
        if keep:
            with suppress(OutputError):
                self._file.__exit__(None, None, None)
        else:
            self._file.__exit__(_DiscardError, _DiscardError(), None)

    def _release(self) -> None:
        if self._sound is not None:
            self._sound.close()


def _mp4_options(base: Fraction, live: bool) -> dict[str, str]:
    """The index first, or none, so that a browser can start at once; a clock that hits every tick.

    A late start is written in units of the film's clock, which would be whole milliseconds.
    48 kHz in it keeps the usual sound exact too.
    """
    flags = "+frag_keyframe+empty_moov+default_base_moof" if live else "+faststart"
    options = {"movflags": flags}
    clock = math.lcm(base.denominator, 48000)
    if clock > _FASTEST_CLOCK:
        clock = base.denominator
    if clock <= _FASTEST_CLOCK:
        options["movie_timescale"] = str(clock)
    return options


class _DiscardError(Exception):
    """Tells `files.atomic_file` to keep nothing."""
