"""Sound that is carried over, checked packet by packet or by its waveform."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from segformer_deploy.video.sink import open_sink
from segformer_deploy.video.source import open_source
from tests.video.makers import (
    RATE,
    make_video,
    read_packets,
    read_sound,
    read_times,
)


def copy(source_path: Path, output: Path, most: int = 10**9) -> list[str]:
    with open_source(source_path) as source, open_sink(output, source) as sink:
        for frame in source:
            if frame.index == most:
                break
            sink.write(frame, frame.image)
    return sink.notes


@pytest.mark.parametrize(
    ("codec", "source", "output"),
    [
        ("aac", "a.mp4", "out.mp4"),
        ("aac", "a.mkv", "out.mp4"),
        ("aac", "a.mov", "out.mov"),
        ("libmp3lame", "a.mp4", "out.mp4"),
        ("libopus", "a.mkv", "out.mp4"),
        ("libopus", "a.mkv", "out.mkv"),
        ("flac", "a.mkv", "out.mkv"),
        ("ac3", "a.mkv", "out.mp4"),
    ],
)
def test_packets_pass_unchanged(tmp_path: Path, codec: str, source: str, output: str) -> None:
    path = make_video(tmp_path / source, 25, sound=codec)
    assert copy(path, tmp_path / output) == []
    before, after = read_packets(path), read_packets(tmp_path / output)
    assert [packet for packet, _ in after] == [packet for packet, _ in before]
    assert len(before) >= 5
    worst = max(abs(a - b) for (_, a), (_, b) in zip(after, before, strict=True))
    assert worst <= Fraction(1, 500)  # Matroska counts milliseconds, on the way in and out
    assert read_times(tmp_path / output) == read_times(path)


@pytest.mark.parametrize("ending", ["mkv", "mov"])
def test_pcm_passes_bit_by_bit(tmp_path: Path, ending: str) -> None:
    path = make_video(tmp_path / "a.mkv", 25, sound="pcm_s16le")
    out = tmp_path / f"out.{ending}"
    assert copy(path, out) == []
    # A container may cut PCM into other pieces, at its pleasure.
    assert b"".join(p for p, _ in read_packets(out)) == b"".join(p for p, _ in read_packets(path))
    assert read_packets(out)[0][1] == 0


def test_what_an_encoder_put_before_zero_does_not_move_matroska(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 25, sound="aac")
    before = read_packets(path)
    assert before[0][1] < 0  # AAC's first packet only warms up the decoder
    assert copy(path, tmp_path / "out.mkv") == []
    after = read_packets(tmp_path / "out.mkv")
    assert [packet for packet, _ in after] == [packet for packet, _ in before[1:]]
    assert all(
        abs(a - b) < Fraction(1, 500) for (_, a), (_, b) in zip(after, before[1:], strict=True)
    )
    assert read_times(tmp_path / "out.mkv") == read_times(path)


def test_sound_from_a_transport_stream(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", 25, sound="aac")
    assert copy(path, tmp_path / "out.mp4") == []
    before, start_before = read_sound(path)
    after, start_after = read_sound(tmp_path / "out.mp4")
    offset = read_times(path)[0] - read_times(tmp_path / "out.mp4")[0]
    assert abs((start_before - start_after) - offset) < Fraction(1, 500)
    length = min(len(before), len(after))
    assert length > 0.8 * RATE
    np.testing.assert_allclose(after[2048 : length - 2048], before[2048 : length - 2048], atol=1e-3)


@pytest.mark.parametrize(
    ("codec", "ending", "layout"),
    [
        ("pcm_s16le", "mkv", "stereo"),
        ("pcm_s16le", "mkv", "mono"),
        ("pcm_f32le", "mkv", "5.1"),
        ("vorbis", "mkv", "stereo"),
        ("mp2", "mkv", "stereo"),
    ],
)
@pytest.mark.parametrize("start_s", [0.0, 0.3])
def test_what_mp4_does_not_take_becomes_aac_in_time(
    tmp_path: Path, codec: str, ending: str, layout: str, start_s: float
) -> None:
    path = make_video(
        tmp_path / f"a.{ending}",
        40,
        sound=codec,
        sound_start_s=start_s,
        sound_layout=layout,
    )
    notes = copy(path, tmp_path / "out.mp4")
    assert len(notes) == 1
    assert "AAC" in notes[0]
    with av.open(str(tmp_path / "out.mp4")) as file:
        context = file.streams.audio[0].codec_context
        assert (context.name, context.sample_rate) == ("aac", RATE)
        assert context.layout.name in (layout, layout.replace("5.1", "5.1(side)"))
    before, after = timeline(path), timeline(tmp_path / "out.mp4")
    inside = slice(int((start_s + 0.1) * RATE), int(1.4 * RATE))
    # The same wave at the same place: 1 ms off would turn 220 Hz by 79 degrees.
    correlation = np.corrcoef(before[inside], after[inside])[0, 1]
    assert correlation > 0.99
    assert abs(after[: int(max(0.0, start_s - 0.05) * RATE)]).max(initial=0) < 0.02


def timeline(path: Path, seconds: float = 1.6) -> np.ndarray:
    """The sound laid on the film's clock, as a player would, at 48 kHz."""
    samples, start = read_sound(path)
    line = np.zeros(int(seconds * RATE) + len(samples) + RATE)
    first = round(start * RATE)
    if first < 0:
        samples, first = samples[-first:], 0
    line[first : first + len(samples)] = samples
    return line[: int(seconds * RATE)]


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mkv", 40, sound="pcm_s16le")
    path = make_video(tmp_path / "a.mkv", 40, sound="pcm_s16le", sound_gap_s=(0.4, 0.9))
    copy(path, tmp_path / "out.mp4")
    before, after = timeline(whole), timeline(tmp_path / "out.mp4")
    for start, end in ((0.1, 0.35), (1.0, 1.4)):
        inside = slice(int(start * RATE), int(end * RATE))
        # Behind the gap the source's own clock, whole milliseconds, is all there is to go by.
        assert np.corrcoef(before[inside], after[inside])[0, 1] > 0.75
    assert np.abs(after[int(0.5 * RATE) : int(0.85 * RATE)]).max() < 0.02


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_ends_with_the_pictures_where_a_run_ends_early(tmp_path: Path, codec: str) -> None:
    path = make_video(tmp_path / "a.mkv", 50, sound=codec)
    copy(path, tmp_path / "out.mp4", most=20)
    assert len(read_times(tmp_path / "out.mp4")) == 20
    packets = read_packets(tmp_path / "out.mp4")
    # Up to the end of the last frame (0.8 s), give or take a packet and AAC's own delay.
    assert Fraction(3, 4) < packets[-1][1] < Fraction(43, 50)


def test_sound_and_pictures_lie_close_together_in_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 75, sound="aac")
    copy(path, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as file:
        packets = [(p.pos, p.stream.type, p.dts * p.time_base) for p in file.demux() if p.size > 0]
    latest = {"video": Fraction(0), "audio": Fraction(0)}
    for _, kind, time in sorted(packets):
        latest[kind] = time
        if min(latest.values()) > 0:
            assert abs(latest["video"] - latest["audio"]) < 1


def test_subtitles_are_said_to_be_left_out(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mkv", 4)
    path = tmp_path / "a.mkv"
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    with (
        av.open(str(whole)) as film,
        av.open(str(tmp_path / "a.srt")) as text,
        av.open(str(path), "w") as file,
    ):
        if int(av.__version__.split(".")[0]) < 15:
            pytest.skip("this PyAV cannot copy subtitles")
        pairs = [
            (film, file.add_stream_from_template(film.streams.video[0], opaque=True)),
            (text, file.add_stream_from_template(text.streams.subtitles[0], opaque=True)),
        ]
        for source, stream in pairs:
            for packet in source.demux():
                if packet.size > 0:
                    packet.stream = stream
                    file.mux(packet)
    assert copy(path, tmp_path / "out.mp4") == ["the subtitles are left out"]
