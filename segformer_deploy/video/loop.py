"""From sources to their sinks, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from segformer_deploy.errors import FrameError
from segformer_deploy.video.bell import Bell
from segformer_deploy.video.frame import Frame, Picture, Source
from segformer_deploy.video.interrupts import uninterrupted, watched
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.live_line import LiveLine
from segformer_deploy.video.overlay import ClassMap, Overlay
from segformer_deploy.video.pipeline import InTurn, Line, Overlapped
from segformer_deploy.video.shown import Watcher
from segformer_deploy.video.sink import MaskSink, Sink
from segformer_deploy.video.stream import Steps, Stream
from segformer_deploy.video.tally import STAGES, Progress, RunReport, Tally
from segformer_deploy.video.threads import Tell
from segformer_deploy.video.turns import Turns

__all__ = ["STAGES", "Progress", "RunReport", "Segment", "Stream", "run", "run_streams"]

Segment = Callable[[Picture], ClassMap]
"""uint8 `[H, W, 3]` BGR -> class map `[H, W]`, which may be the same array each time."""


def run(
    source: Source,
    segment: Segment,
    *,
    sink: Sink | None = None,
    masks: MaskSink | None = None,
    overlay: Overlay | None = None,
    opacity: float = 0.5,
    on_frame: Callable[[Progress], None] | None = None,
    max_frames: int | None = None,
    class_names: Sequence[str] | None = None,
    overlap: bool = True,
) -> RunReport:
    """Segment every frame of `source`; write overlays to `sink` and class maps to `masks`.

    `run_streams` with one stream: see there.
    """
    stream = Stream(source, () if sink is None else (sink,), masks, overlay=overlay)
    return run_streams(
        [stream],
        segment,
        opacity=opacity,
        on_frame=on_frame,
        max_frames=max_frames,
        class_names=class_names,
        overlap=overlap,
    )[0]


def run_streams(
    streams: Sequence[Stream],
    segment: Segment,
    *,
    opacity: float = 0.5,
    on_frame: Callable[[Progress], None] | None = None,
    max_frames: int | None = None,
    class_names: Sequence[str] | None = None,
    overlap: bool = True,
    watchers: Sequence[Watcher] = (),
) -> list[RunReport]:
    """Segment the frames of all sources on one engine, and hand the results to their sinks.

    Of a live source the newest frame is taken each time; of any other, every frame. Several
    sources take turns. Sources and sinks are closed at the end, however it ends. Ctrl-C ends
    the run early, in good order: the sinks hold the frames so far, and the reports say
    `interrupted`. The first error ends all; recordings of live sources are kept then.

    With `overlap` a source is read by one thread and its sinks are used by another, until the
    run returns; `segment` and `on_frame` are called on the calling thread. The results are the
    same bytes as without, and so are the errors. A source that does not give its next frame
    within a second of the run's end is closed when it does.

    Args:
        streams: the sources, open and not yet iterated, with their sinks.
        segment: gives a class map of the frame's own height and width.
        opacity: of the class map's colours.
        on_frame: called once a frame is written, in order. With `overlap` a little later:
            up to two more frames may be written by then.
        max_frames: stop after so many of each source; no more than these are read.
        class_names: for the report; the overlay's where they are left out.
        overlap: read up to two frames ahead and write up to two behind, while one is being
            segmented. Live sources always overlap.
        watchers: are offered each finished frame.

    Returns:
        A report for each stream.

    Raises:
        SegdeployError: whatever source, segmenter or sinks raise; unfinished files are removed.
    """
    bell = Bell()
    ways = [
        _Way(stream, number, bell, opacity, on_frame, max_frames, class_names, overlap, watchers)
        for number, stream in enumerate(streams)
    ]
    with ExitStack() as closing:
        pressed = closing.enter_context(watched())
        for way in ways:
            way.enter(closing)
        try:
            for way in ways:
                way.line.start()
            turns = Turns([way.line for way in ways], bell, lambda number: _end(ways[number]))
            while (turn := turns.next()) is not None:
                number, (frame, decode_ms) = turn
                ways[number].segment(segment, frame, decode_ms)
                if pressed():
                    break
            interrupted = pressed()
        except KeyboardInterrupt:
            interrupted = True
        try:
            with uninterrupted():
                for way in ways:
                    way.end()  # here, so that its time counts and its notes are complete
        except KeyboardInterrupt:
            interrupted = True  # it came while the files were being finished, and waited
    return [way.report(interrupted) for way in ways]


def _end(way: _Way) -> None:
    """End one stream while others go on; a Ctrl-C waits until it has."""
    with uninterrupted():
        way.end()


class _Way:
    """One stream on its way through a run."""

    def __init__(
        self,
        stream: Stream,
        number: int,
        bell: Bell,
        opacity: float,
        on_frame: Callable[[Progress], None] | None,
        max_frames: int | None,
        class_names: Sequence[str] | None,
        overlap: bool,
        watchers: Sequence[Watcher],
    ) -> None:
        source = stream.source
        if class_names is None and stream.overlay is not None:
            class_names = stream.overlay.class_names
        self._stream, self._number = stream, number
        self._steps = Steps(stream, number, opacity, watchers)
        self._tally = Tally(class_names, source.frame_count, max_frames)
        self._on_frame = on_frame
        self._ended = False
        self.line = self._line(bell, max_frames, overlap)

    def enter(self, closing: ExitStack) -> None:
        # The line last: its threads are to end before what they use is closed.
        for part in (self.line.source, *self._stream.closing(), self.line):
            closing.enter_context(part)

    def segment(self, segment: Segment, frame: Frame, decode_ms: float) -> None:
        """Have a frame segmented, and what follows begun."""
        if not self._stream.source.live:
            self._stream.meter.frame_in(str(frame.size), self._stream.source.corrupt)
        class_map, segment_ms = _segmented(segment, frame, self.line)
        self.line.put(frame, class_map, {"decode": decode_ms, "segment": segment_ms})

    def end(self) -> None:
        """Finish what was begun and close the sinks; safe to call twice."""
        if not self._ended:
            self.line.settle()
            if self._stream.source.live:
                self._stream.source.close()  # it would go on capturing for nobody
            self._stream.finish()
            self._ended = True

    def report(self, interrupted: bool) -> RunReport:
        stream = self._stream
        live = stream.meter.snapshot() if stream.source.live else None
        flicker = None if stream.score is None else stream.score.overall
        corrupt = stream.source.corrupt
        return self._tally.report(interrupted, corrupt, stream.notes(), live, flicker)

    def _line(self, bell: Bell, max_frames: int | None, overlap: bool) -> Line:
        source = self._stream.source
        if isinstance(source, LiveSource):
            return LiveLine(source, max_frames, self._finish, bell)
        # With one frame there is nothing to overlap it with.
        several = source.kind != "image" and source.frame_count != 1 and max_frames != 1
        if overlap and several:
            return Overlapped(source, max_frames, self._finish, bell)
        return InTurn(source, max_frames, self._finish)

    def _finish(self, frame: Frame, class_map: ClassMap, stages: dict[str, float]) -> Tell:
        # A frame is either written and counted, or neither.
        with uninterrupted():
            class_map, smoothed = self._steps.smooth(frame, class_map)
            shares = self._tally.shares(class_map)
            stages.update(smoothed)
            stages.update(self._steps.run(frame, class_map, shares))
            self._tally.frame_done(frame, stages, shares)
        if self._on_frame is None:
            return lambda: None
        return partial(self._on_frame, self._tally.progress(frame, stages, self._number))


def _segmented(segment: Segment, frame: Frame, line: Line) -> tuple[ClassMap, float]:
    """The class map of a frame, and the milliseconds that it took."""
    start = time.perf_counter()
    try:
        class_map = segment(frame.image)
        if class_map.shape != frame.image.shape[:2]:
            raise FrameError(
                f"a class map of {class_map.shape} for a frame of {frame.size}",
                "one class per pixel of the frame",
            )
    except Exception:
        line.settle()  # the frames before it are written, and their errors come first
        raise
    return class_map, (time.perf_counter() - start) * 1e3
