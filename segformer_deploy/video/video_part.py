"""A part of a video file: the very frames that reading the whole file gives there.

::

    packets:   K . . . . K . . . . K . . . . K          K: key frame
    decoded:             ├──────────────────┤           from the key frame BEFORE the part
    given:                         ├────────┤           start <= time < end

A picture that is refreshed bit by bit (x264's ``intra-refresh``) has key frames from which it is
only whole some frames later: one key frame more than needed makes it come out as in sequence. In an
open group of pictures frames that are shown before its key frame are stored behind it, and refer to
it: a part is therefore read on until a frame comes that is shown at its end or later.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av.error

from segformer_deploy.errors import MediaError
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.video_file import VideoFile


class UnevenPartError(MediaError):
    """A part does not hold the frames that its packets promised: only the whole file is exact."""


@dataclass(frozen=True)
class Part:
    """Which frames of a video; times are in ticks of its stream's time base.

    Attributes:
        first: number of the first frame, counted from the file's first.
        count: how many.
        start: time of the first; None: from the beginning.
        end: frames from that time on are not in it; None: to the end of the file.
        key: (pts, dts) of the key frame to decode from; None: from the beginning.
    """

    first: int
    count: int
    start: int | None = None
    end: int | None = None
    key: tuple[int, int | None] | None = None


class VideoPart(VideoFile):
    """The frames of `part`, with the numbers, names and times that they have in the whole file.

    Raises:
        UnevenPartError: it finds damage, or another number of frames than was promised.
        MediaError: as `VideoFile`.
    """

    def __init__(self, path: Path, part: Part) -> None:
        self._part = part
        super().__init__(path)
        self.frame_count = part.count

    def _decode(self) -> Iterator[Frame]:
        index, last = self._part.first, None
        for frame in self._frames_inside():
            if last is not None and frame.pts <= last:
                raise self._uneven("its frames do not come in the order of their times")
            last = frame.pts
            if frame.is_corrupt:
                self._damaged()
            yield self._frame(frame, index)
            index += 1
        if self.corrupt:
            raise self._uneven("it is damaged")
        if index - self._part.first != self._part.count:
            raise self._uneven(f"{index - self._part.first} frames come out of it")
        self.finished = True

    def _frames_inside(self) -> Iterator[Any]:
        start, end = self._part.start, self._part.end
        for packet in self._packets():
            before = start is not None and packet.pts is not None and packet.pts < start
            for frame in self._frames_of(packet):
                if frame.pts is None:
                    raise self._uneven("a frame has no time")
                if end is not None and frame.pts >= end:
                    return
                if start is None or frame.pts >= start:
                    before = False
                    yield frame
            if before:
                # What refers to frames before the key frame cannot come out well; nor need it.
                self.corrupt = 0
                self.notes.clear()

    def _packets(self) -> Iterator[Any]:
        key = self._part.key
        if key is None:
            yield from super()._packets()
            return
        packets = self._sought(*key)
        if packets is None:
            # Not every container leads to a key frame; reading without decoding does.
            self.close()
            self._open()
            packets = self._from_key(key[0])
        if packets is None:
            raise self._uneven("its key frame is not found again")
        yield from packets

    def _sought(self, pts: int, dts: int | None) -> Iterator[Any] | None:
        try:
            # Containers look for decoding times.
            self._container.seek(pts if dts is None else dts, stream=self._stream)
        except av.error.FFmpegError:
            return None
        return self._from_key(pts)

    def _from_key(self, pts: int) -> Iterator[Any] | None:
        """The packets from the key frame of that time on; None where we are behind it."""
        packets = super()._packets()
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None and packet.pts >= pts:
                return itertools.chain([packet], packets) if packet.pts == pts else None
        return None

    def _uneven(self, what: str) -> UnevenPartError:
        part = self._part
        last = part.first + part.count - 1
        return UnevenPartError(
            f"{self.path} cannot be cut at frames {part.first} to {last}: {what}",
            f"{part.count} whole frames",
            "read the file as one piece",
        )
