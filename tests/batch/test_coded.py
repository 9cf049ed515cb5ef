"""Joining what was encoded apart: times that a player takes, and nothing lost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.batch.plan import plan_video
from segformer_deploy.errors import SpecError, VerificationError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.coded import (
    CodedPart,
    CodedPicture,
    JoinedVideo,
    PartSink,
    _decoding_times,
)
from segformer_deploy.video.video_file import VideoFile
from segformer_deploy.video.video_part import VideoPart
from tests.batch.films import film, irregular_times, noisy_picture


def encoded(path: Path, folder: Path, seconds: float = 0.5) -> list[tuple[Path, CodedPart]]:
    """The film's own pictures, encoded in parts."""
    plan = plan_video(path, seconds)
    found = []
    for number, part in enumerate(plan.parts):
        place = folder / f"{number}.h264"
        with VideoPart(path, part) as video:
            sink = PartSink(place, video, plan.size)
            with sink:
                for frame in video:
                    sink.write(frame, frame.image)
        found.append((place, sink.coded))
    return found


def joined(path: Path, parts: list[tuple[Path, CodedPart]], output: Path) -> Path:
    with VideoFile(path) as video:
        video.finished = True
        film = JoinedVideo(output, video)
        with film:
            film.join(parts)
    return output


def test_a_part_is_what_its_bytes_and_times_say(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", pts=irregular_times())
    parts = encoded(path, tmp_path)
    assert len(parts) > 2
    for place, part in parts:
        assert CodedPart.from_dict(part.to_dict()) == part
        assert place.stat().st_size == sum(picture.length for picture in part.pictures)
        assert part.pictures[0].key
    with VideoFile(path) as video:
        times = [frame.pts for frame in video]
    assert sorted(p.pts for _, part in parts for p in part.pictures) == times


def test_the_packets_are_copied(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    parts = encoded(path, tmp_path)
    output = joined(path, parts, tmp_path / "joined.mp4")
    with av.open(str(output)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    assert [packet.is_keyframe for packet in packets] == [
        picture.key for _, part in parts for picture in part.pictures
    ]
    stamps = [packet.dts for packet in packets]
    assert stamps == sorted(set(stamps))
    assert all(packet.dts <= packet.pts for packet in packets)


def test_pictures_of_another_size_are_fitted_and_counted(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 6)
    with VideoFile(path) as video:
        sink = PartSink(tmp_path / "part.h264", video, FrameSize(80, 80))
        with sink:
            for frame in video:
                sink.write(frame, noisy_picture(frame.index, 64, 96))
    assert sink.coded.fitted == 6
    assert str(sink.coded.size) == "80x80"
    output = joined(path, [(tmp_path / "part.h264", sink.coded)], tmp_path / "joined.mp4")
    with VideoFile(output) as video:
        assert str(video.size) == "80x80"


@pytest.mark.parametrize(
    "change",
    [{"base": Fraction(1, 90000)}, {"size": FrameSize(64, 64)}, {"header": b"another x264"}],
)
def test_parts_of_different_encoders_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    parts = encoded(path, tmp_path)
    parts[1] = (parts[1][0], replace(parts[1][1], **change))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="different settings"):
        joined(path, parts, tmp_path / "joined.mp4")
    assert not (tmp_path / "joined.mp4").exists()


def test_a_part_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    parts = encoded(path, tmp_path)
    parts[1][0].write_bytes(parts[1][0].read_bytes()[:-1])
    with pytest.raises(VerificationError, match="cut off"):
        joined(path, parts, tmp_path / "joined.mp4")
    assert not (tmp_path / "joined.mp4").exists()


@pytest.mark.parametrize("name", ["base", "size", "header", "counts", "pictures"])
def test_a_part_that_does_not_read(name: str) -> None:
    part = CodedPart(Fraction(1, 25), FrameSize(64, 96), b"x", (CodedPicture(0, 0, 1, True, 9),))
    with pytest.raises(SpecError):
        CodedPart.from_dict({**part.to_dict(), name: None})


@st.composite
def coded_parts(draw: st.DrawFn) -> list[CodedPart]:
    """Parts as an encoder with that delay gives them, of irregular times."""
    delay = draw(st.integers(0, 3))
    time, parts = draw(st.integers(-50, 50)), []
    for _ in range(draw(st.integers(1, 5))):
        times = []
        for _ in range(draw(st.integers(1, 12))):
            times.append(time)
            time += draw(st.integers(1, 30))
        # Any order in which no picture comes more than `delay` places late.
        waiting, order = list(times), []
        while waiting:
            first = times.index(waiting[0])
            must = len(order) - first >= delay
            order.append(waiting.pop(0 if must else draw(st.integers(0, len(waiting) - 1))))
        stamps = [
            times[n - delay] if n >= delay else times[0] - 31 * (delay - n)
            for n in range(len(times))
        ]
        pictures = tuple(
            CodedPicture(pts, dts, 1, n == 0, 1)
            for n, (pts, dts) in enumerate(zip(order, stamps, strict=True))
        )
        parts.append(CodedPart(Fraction(1, 1000), FrameSize(2, 2), b"", pictures))
    return parts


@given(coded_parts())
def test_decoding_times_rise_and_never_come_late(parts: list[CodedPart]) -> None:
    times = sorted(picture.pts for part in parts for picture in part.pictures)
    stamps = list(_decoding_times(parts, times))
    pictures = [picture for part in parts for picture in part.pictures]
    assert len(stamps) == len(pictures)
    assert all(one < other for one, other in itertools.pairwise(stamps))
    assert all(dts <= picture.pts for dts, picture in zip(stamps, pictures, strict=True))
    if len(parts) == 1:
        assert stamps == [picture.dts for picture in pictures]
