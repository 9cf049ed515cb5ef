"""Where a video may be cut: a plan made from its packets alone, nothing is decoded for it.

A chunk begins at a key frame and holds all frames that are shown from there until the next chunk
begins, however they are stored. That a chunk gives the frames of its packets is checked as it is
decoded (`video_part`). Where a file cannot be cut so that the frames stay the same, to the bit, it
is one chunk, and the plan says why.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from segformer_deploy.errors import MediaError, SpecError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.container_length import missing_bytes
from segformer_deploy.video.source import open_source
from segformer_deploy.video.video_file import VideoFile
from segformer_deploy.video.video_part import Part


@dataclass(frozen=True)
class Plan:
    """How one video is cut.

    Attributes:
        parts: the chunks in order; empty: the whole file as one, read from end to end.
        frames: how many there are, where it is whole as far as the file says, or 0.
        size: of the first frame, to which the overlay's other frames are fitted.
        stamp: the file's length in bytes and time of change: another stamp, another film.
        note: why it is not cut, where it might have been.
    """

    parts: tuple[Part, ...]
    frames: int
    size: FrameSize
    stamp: tuple[int, int]
    note: str = ""

    @property
    def chunks(self) -> int:
        return max(1, len(self.parts))

    def part(self, number: int) -> Part | None:
        """Of chunk `number`; None: the whole file."""
        return self.parts[number] if self.parts else None

    def frames_of(self, number: int) -> int:
        return self.parts[number].count if self.parts else self.frames

    def whole(self, why: str) -> Plan:
        """The same video as one chunk."""
        return replace(self, parts=(), note=why)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "size": str(self.size)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Read `to_dict`'s result; SpecError where it is not one."""
        try:
            parts = tuple(_part(part) for part in data["parts"])
            length, changed = data["stamp"]
            size = FrameSize.parse(data["size"])
            numbers = (_whole(data["frames"]), _whole(length), _whole(changed))
            return cls(parts, numbers[0], size, numbers[1:], str(data["note"]))
        except (KeyError, TypeError, ValueError, SpecError) as error:
            raise SpecError(
                f"a plan that does not read: {error!r}",
                "a file that a batch wrote",
                "the same command plans the video again",
            ) from error


def _part(data: dict[str, Any]) -> Part:
    key = data["key"]
    part = Part(**{**data, "key": None if key is None else tuple(key)})
    for number in (part.first, part.count, part.start or 0, part.end or 0):
        _whole(number)
    return part


def _whole(number: Any) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{number!r} is no whole number")
    return number


def stamp_of(path: Path) -> tuple[int, int]:
    """Length in bytes and time of change in nanoseconds; MediaError where there is no file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise MediaError(f"cannot open {path}: {error.strerror}", "a video") from error
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class _Packet:
    pts: int
    dts: int | None
    key: bool


def plan_video(path: Path, chunk_seconds: float) -> Plan:
    """Cut the video at `path` into chunks of at least `chunk_seconds`, as its key frames allow.

    Raises:
        MediaError: it cannot be read, is empty, holds no frame, or is no video.
    """
    stamp = stamp_of(path)
    with open_source(path) as video:
        if not isinstance(video, VideoFile):
            raise MediaError(
                f"{path} is a picture, or a folder of them",
                "a video",
                f"segdeploy run --source {path}",
            )
        size, declared = video.size, video.frame_count or 0
        if missing_bytes(path):
            return Plan((), declared, size, stamp, "not cut into chunks: the file is cut off")
        packets, base, why = _packets(video)
        count = len(packets) or declared
        if why:
            return Plan((), count, size, stamp, f"not cut into chunks: {why}")
        parts = cut(packets, base, chunk_seconds)
        return Plan(parts if len(parts) > 1 else (), count, size, stamp)


def _packets(video: VideoFile) -> tuple[list[_Packet], Fraction, str]:
    """The packets that become frames, the time base, and why the file cannot be cut, or ""."""
    found: list[_Packet] = []
    base, why, total = Fraction(1), "", 0
    for packet in video.packets():
        if not packet.size or packet.is_discard:  # discard: for the decoder alone
            continue
        total += 1
        base = Fraction(packet.time_base)
        if packet.is_corrupt:
            why = "it is damaged"
        elif packet.pts is None:
            why = why or "its frames have no times"
        else:
            found.append(_Packet(packet.pts, packet.dts, packet.is_keyframe))
    if video.corrupt:
        why = "it is damaged"
    if why:
        return [], base, why
    keys = [packet.pts for packet in found if packet.key]
    if len({packet.pts for packet in found}) != total or keys != sorted(keys):
        return found, base, "its times are not those of a film from its beginning to its end"
    if not found or not found[0].key:
        return found, base, "it does not begin with a key frame"
    return found, base, ""


def cut(packets: Sequence[_Packet], base: Fraction, chunk_seconds: float) -> tuple[Part, ...]:
    """Chunks that begin at key frames and last at least so long, each read from one key before."""
    keys = [packet for packet in packets if packet.key]
    borders = [0]
    for number, key in enumerate(keys):
        if (key.pts - keys[borders[-1]].pts) * base >= chunk_seconds:
            borders.append(number)
    times = sorted(packet.pts for packet in packets)
    # The first chunk has what is shown before the first key frame, too.
    firsts = [0, *(bisect.bisect_left(times, keys[number].pts) for number in borders[1:])]
    parts = []
    for place, number in enumerate(borders):
        last = place + 1 == len(borders)
        until = len(times) if last else firsts[place + 1]
        before = keys[number - 1] if number > 1 else None
        parts.append(
            Part(
                first=firsts[place],
                count=until - firsts[place],
                start=keys[number].pts if place else None,
                end=None if last else keys[borders[place + 1]].pts,
                key=None if before is None else (before.pts, before.dts),
            )
        )
    return tuple(parts)
