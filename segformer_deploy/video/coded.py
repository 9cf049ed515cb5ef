"""An H.264 film encoded in parts, and joined without encoding it again.

::

    frames of a part ──> PartSink ──> coded pictures one after another + CodedPart (their times)
    parts in order ───> JoinedVideo.join ──> one file, with the sound of the source

Parts are encoded with `VideoSink`'s own settings, and what is written at the end is `VideoSink`'s
file: same times, same sound. Of one part it is the same file to the byte. Of several the encoder
began anew at each border, so that its decisions there differ: a key frame, other quantisers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from segformer_deploy.errors import SpecError, VerificationError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.video_writer import VideoSink

_DEEPEST = 16
"""H.264 holds back at most so many pictures (ITU-T H.264, max_num_reorder_frames)."""


class CodedPicture(NamedTuple):
    """One coded picture in decoding order; times in ticks of the film's time base."""

    pts: int
    dts: int
    duration: int
    key: bool
    length: int


@dataclass(frozen=True)
class CodedPart:
    """What is known of a part beside its bytes.

    Attributes:
        base: the time base.
        size: of the film.
        header: the encoder's parameter sets; those of all parts must be the same.
        pictures: in decoding order.
        untimed, moved, fitted: frames as `VideoSink` counts them.
    """

    base: Fraction
    size: FrameSize
    header: bytes
    pictures: tuple[CodedPicture, ...]
    untimed: int = 0
    moved: int = 0
    fitted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "base": str(self.base),
            "size": str(self.size),
            "header": self.header.hex(),
            "counts": [self.untimed, self.moved, self.fitted],
            "pictures": [list(picture) for picture in self.pictures],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CodedPart:
        """Read `to_dict`'s result; SpecError where it is not one."""
        try:
            pictures = tuple(CodedPicture(*picture) for picture in data["pictures"])
            size, header = FrameSize.parse(data["size"]), bytes.fromhex(data["header"])
            return cls(Fraction(data["base"]), size, header, pictures, *data["counts"])
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"a coded part that does not read: {error!r}") from error


class PartSink(VideoSink):
    """Encodes as `VideoSink` does, and keeps the coded pictures as they are.

    Attributes:
        coded: what was written; complete after `close`.
    """

    coded: CodedPart

    def __init__(self, path: Path, source: Source, size: FrameSize) -> None:
        super().__init__(path, source, size=size)
        self._pictures: list[CodedPicture] = []
        self._file_of_pictures: Any = None

    def _new_container(self) -> Any:
        # It only makes the encoder, with the flags that an MP4 file asks for, and never begins.
        self._file_of_pictures = self._temporary.open("wb")
        return av.open(os.devnull, "w", format="mp4")

    def _find_origin(self, first: int | None) -> None:
        self._origin = 0  # times stay the source's until the parts are joined

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            data = bytes(packet)
            self._file_of_pictures.write(data)
            self._pictures.append(
                CodedPicture(
                    packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, len(data)
                )
            )

    def _release(self) -> None:
        super()._release()
        file, self._file_of_pictures = self._file_of_pictures, None
        if file is not None:
            file.close()

    def _tell(self) -> None:
        assert self._size is not None
        header = bytes(self._stream.codec_context.extradata or b"")
        counts = (self._untimed, self._moved, self._fitted)
        self.coded = CodedPart(self._base, self._size, header, tuple(self._pictures), *counts)


class JoinedVideo(VideoSink):
    """Writes the file of parts that were encoded apart; the source gives rate and sound."""

    def write(self, frame: Frame, picture: Picture) -> None:
        raise NotImplementedError("its pictures are encoded already")

    def join(self, parts: Sequence[tuple[Path, CodedPart]]) -> None:
        """Write all parts, in order.

        Raises:
            VerificationError: they were encoded with different settings or encoders.
            OutputError: the file cannot be written.
        """
        coded = [part for _, part in parts]
        with self._failing():
            first = coded[0]
            self._open(first.size, first.base)
            self._stream.codec_context.open()
            _check_alike(coded, bytes(self._stream.codec_context.extradata or b""))
            times = sorted(picture.pts for part in coded for picture in part.pictures)
            self._find_origin(times[0])
            stamps = _decoding_times(coded, times)
            for path, part in parts:
                for data, picture in _pictures(path, part):
                    self._mux([self._packet(data, picture, next(stamps))])
            self._count(coded, times[-1])

    def _packet(self, data: bytes, picture: CodedPicture, dts: int) -> Any:
        packet: Any = av.Packet(data)
        packet.stream = self._stream
        packet.time_base = self._base
        packet.pts, packet.dts = picture.pts - self._origin, dts - self._origin
        packet.duration, packet.is_keyframe = picture.duration, picture.key
        return packet

    def _count(self, coded: Sequence[CodedPart], last: int) -> None:
        self._last_pts = last - self._origin
        self._last_duration = max(coded[-1].pictures, key=lambda one: one.pts).duration
        self._untimed = sum(part.untimed for part in coded)
        self._moved = sum(part.moved for part in coded)
        self._fitted = sum(part.fitted for part in coded)


def _check_alike(parts: Sequence[CodedPart], header: bytes) -> None:
    for part in parts:
        if (part.base, part.size) != (parts[0].base, parts[0].size) or part.header != header:
            raise VerificationError(
                "the parts of the overlay were encoded with different settings or encoders",
                "the same version of PyAV wherever a part of it is made",
                "install the same versions on all machines, and call it again with --restart",
            )


def _pictures(path: Path, part: CodedPart) -> Iterator[tuple[bytes, CodedPicture]]:
    with path.open("rb") as file:
        for picture in part.pictures:
            data = file.read(picture.length)
            if len(data) != picture.length:
                raise VerificationError(
                    f"{path} is cut off", "all coded pictures", "call it again with --restart"
                )
            yield data, picture


def _decoding_times(parts: Sequence[CodedPart], times: Sequence[int]) -> Iterator[int]:
    """When each picture is to be decoded, so that it never is after it is shown.

    With a delay of d pictures an encoder gives the i-th picture the (i - d)-th time in order of
    display. Over the whole film that rises strictly, and no picture's own time lies before it:
    within a part as its encoder saw to it, and behind a border all the more, since the times
    that come in there are those of the part before. Only the first d have no such time: they
    keep the encoder's.
    """
    delays = [_delay(part) for part in parts]
    delay, own = max(delays), parts[0].pictures
    for number in range(len(times)):
        if number >= delay:
            yield times[number - delay]
        elif delays[0] == delay and number < len(own):
            yield own[number].dts
        else:
            yield times[0] - delay + number


def _delay(part: CodedPart) -> int:
    """By how many pictures the encoder delayed decoding times."""
    times = sorted(picture.pts for picture in part.pictures)
    stamps = [picture.dts for picture in part.pictures]
    for delay in range(_DEEPEST + 1):
        if stamps[delay:] == times[: max(0, len(times) - delay)]:
            return delay
    raise VerificationError(
        "the encoder's decoding times follow no rule that is known",
        "times of display, some pictures later",
        "choose --masks instead of --overlay, and tell us of the video",
    )
