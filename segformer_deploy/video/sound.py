"""The sound of a source file, carried over into the video that is being written.

Packets are copied as they are where the container takes the codec and players know it
there; elsewhere the sound is encoded to AAC, and `notes` says so. The file is opened a second
time for it, so that reading pictures never waits for sound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter

from segformer_deploy.video.video_file import open_media

_MPEG4 = {"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"}
_PCM = {"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_f32le", "pcm_u8"}
# FFmpeg would put more into these (PCM and Vorbis into MP4): players then stay silent.
_TAKES = {
    ".mp4": _MPEG4,
    ".mov": {"aac", "mp3", "ac3", "eac3", "alac", *_PCM},
    ".mkv": {*_MPEG4, *_PCM, "vorbis", "dts", "truehd", "mp2"},
}
# A decoder's own name where it is not the codec's.
_CODEC_OF_DECODER = {"mp3float": "mp3", "mp2float": "mp2", "dca": "dts", "libopus": "opus"}
_AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_AAC_FRAME = 1024
_AAC_BITS_PER_CHANNEL = 80_000


class Sound:
    """All audio streams of `path`, fed into `output` as far as the pictures have got.

    Args:
        path: the source file.
        output: the open container, before its header is written.
        ending: of the output file: ``.mp4``, ``.mov`` or ``.mkv``.

    Attributes:
        start: time of the first sound in seconds, or None where the file has no sound.
        origin: the source time that becomes 0, in seconds; to be set before `advance`.
        notes: what did not pass through unchanged.
    """

    def __init__(self, path: Path, output: Any, ending: str) -> None:
        self.notes: list[str] = []
        self.origin = Fraction(0)
        self._path = path
        self._input = open_media(path)
        self._tracks: dict[int, _Track] = {}
        for stream in self._input.streams.audio:
            track = self._track(stream, output, ending)
            if track is not None:
                self._tracks[stream.index] = track
        if self._input.streams.subtitles:
            self.notes.append("the subtitles are left out")
        starts = [
            stream.start_time * stream.time_base
            for stream in self._input.streams.audio
            if stream.index in self._tracks and stream.start_time is not None
        ]
        self.start: Fraction | None = min(starts, default=None)
        self._packets = self._read()
        self._waiting: Any = next(self._packets, None)

    def advance(self, until: Fraction | None) -> None:
        """Write the sound up to `until` seconds of the output; to its end where None.

        Raises:
            OSError, av.error.FFmpegError: the output cannot be written.
        """
        while self._waiting is not None:
            packet = self._waiting
            stamp = packet.dts if packet.dts is not None else packet.pts
            due = None if stamp is None else stamp * packet.time_base - self.origin
            if until is not None and due is not None and due >= until:
                return
            self._waiting = next(self._packets, None)
            _shift(packet, -round(self.origin / packet.time_base))
            self._tracks[packet.stream.index].take(packet)

    def finish(self) -> None:
        """Write what the encoders still hold."""
        for track in self._tracks.values():
            track.finish()

    def close(self) -> None:
        """Close the source; safe to call twice."""
        self._waiting = None
        self._input.close()

    def _track(self, stream: Any, output: Any, ending: str) -> _Track | None:
        context = stream.codec_context
        if context is None or not context.sample_rate:
            self.notes.append("a sound track is left out: there is no decoder for it")
            return None
        name = _CODEC_OF_DECODER.get(context.name, context.name)
        if name in _TAKES[ending]:
            return _CopiedTrack(stream, output, ending)
        self.notes.append(f"the sound is encoded to AAC: {ending[1:]} does not take {name}")
        return _EncodedTrack(stream, output)

    def _read(self) -> Iterator[Any]:
        if not self._tracks:
            return
        streams = [s for s in self._input.streams.audio if s.index in self._tracks]
        try:
            for packet in self._input.demux(*streams):
                if packet.size > 0:  # the last, empty ones only say that the stream ends
                    yield packet
        except av.error.FFmpegError as error:
            self.notes.append(f"the sound of {self._path} ends early: {error.strerror}")


def _shift(packet: Any, ticks: int) -> None:
    if packet.pts is not None:
        packet.pts += ticks
    if packet.dts is not None:
        packet.dts += ticks


class _Track:
    """One audio stream on its way."""

    def take(self, packet: Any) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Nothing is held back, unless a subclass says otherwise."""


class _CopiedTrack(_Track):
    """Packets as they are; only their time stamps are made to fit the new container."""

    def __init__(self, stream: Any, output: Any, ending: str) -> None:
        self._output = output
        # Matroska knows no time before 0 and would delay everything else instead; Opus's
        # start has a field of its own there.
        self._from_zero = ending == ".mkv" and stream.codec_context.name != "opus"
        if hasattr(output, "add_stream_from_template"):
            self._stream = output.add_stream_from_template(stream)
        else:  # PyAV before 14
            self._stream = output.add_stream(template=stream)
        self._rate = stream.codec_context.sample_rate
        self._samples = int(stream.codec_context.frame_size or 0)
        self._next: int | None = None
        self._last_dts: int | None = None

    def take(self, packet: Any) -> None:
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is not None:
            self._smooth(packet)
            if self._from_zero and packet.pts < 0:
                if packet.pts + packet.duration <= 0:
                    return  # it only warms up the decoder
                packet.pts = packet.dts = 0
        packet.stream = self._stream
        self._output.mux(packet)

    def _smooth(self, packet: Any) -> None:
        """Count in samples, so that a container of whole milliseconds leaves no jitter.

        A stamp is only moved by what the old container had rounded off. Stamps that stand
        still or run backwards, which no container takes, are moved behind the last.
        """
        base = Fraction(packet.time_base)
        stamp = round(packet.dts * base * self._rate)
        if self._next is not None and abs(stamp - self._next) <= base * self._rate:
            stamp = self._next
        if self._last_dts is not None and stamp <= self._last_dts:
            stamp = self._last_dts + 1
        if self._samples:
            packet.duration = self._samples
            self._next = stamp + self._samples
        else:
            packet.duration = round((packet.duration or 0) * base * self._rate)
        packet.time_base = Fraction(1, self._rate)
        packet.pts = packet.dts = stamp
        self._last_dts = stamp


class _EncodedTrack(_Track):
    """Decoded, brought to a layout that AAC has, gaps filled with silence, and encoded."""

    def __init__(self, stream: Any, output: Any) -> None:
        context = stream.codec_context
        self._output = output
        self._rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48000
        channels = len(context.layout.channels)
        self._layout = _AAC_LAYOUTS.get(channels, "stereo")
        self._stream = output.add_stream("aac", rate=self._rate)
        self._stream.codec_context.layout = self._layout
        self._stream.codec_context.format = "fltp"
        self._stream.bit_rate = _AAC_BITS_PER_CHANNEL * min(channels, 6)
        self._graph: Any = None
        self._shape: tuple[str, str, int] | None = None

    def take(self, packet: Any) -> None:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            return  # the gap becomes silence, so that sound and pictures stay together
        for frame in frames:
            shape = (frame.format.name, frame.layout.name, frame.sample_rate)
            if shape != self._shape:
                self._drain()
                self._graph, self._shape = self._new_graph(frame), shape
            self._graph.push(frame)
            self._encode()

    def finish(self) -> None:
        self._drain()
        if self._shape is not None:
            self._output.mux(self._stream.encode(None))

    def _new_graph(self, frame: Any) -> Any:
        graph = av.filter.Graph()
        aformat = f"sample_fmts=fltp:sample_rates={self._rate}:channel_layouts={self._layout}"
        nodes = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=frame.time_base,
            ),
            graph.add("aresample", f"{self._rate}:async=1"),
            graph.add("aformat", aformat),
            graph.add("asetnsamples", f"n={_AAC_FRAME}:p=0"),
            graph.add("abuffersink"),
        ]
        for here, there in itertools.pairwise(nodes):
            here.link_to(there)
        graph.configure()
        return graph

    def _drain(self) -> None:
        if self._graph is not None:
            self._graph.push(None)
            self._encode()
            self._graph = None

    def _encode(self) -> None:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            self._output.mux(self._stream.encode(frame))
