"""How long one frame of a real source takes, from its capture to the drawn picture.

::

    capture · copy_in · preprocess · infer · class_map · copy_out · draw
    |       |__________________ segment ___________________|      |
    |_________________ capture to drawn frame ____________________|

One frame after the other, on one thread: nothing overlaps, so the stages of a frame add up to
what that frame took, but for the few lines between them. `segdeploy run` overlaps them: its rate
is higher, a frame's latency is not lower. `capture` is the read of the next frame: decoding a
file's, generating a street's, waiting for a camera's. FFmpeg decodes a few frames ahead in threads
of its own, as it does in a run: of a file `capture` holds what is left to wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segformer_deploy.bench import ClassMap, Frame, TimedSegment
from segformer_deploy.bench.latency import (
    DEFAULT_WARMUP,
    STAGES,
    LatencyReport,
    percentile,
    stop_rule,
)
from segformer_deploy.bench.source_frames import Clock, Frames
from segformer_deploy.errors import InputError
from segformer_deploy.spec import FrameSize, ModelSpec

if TYPE_CHECKING:
    from segformer_deploy.video.frame import Frame as SourceFrame
    from segformer_deploy.video.frame import Source

CAPTURE, SEGMENT, DRAW = "capture", "segment", "draw"
_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}

Draw = Callable[[Frame, ClassMap], Frame]
"""Picture uint8 `[H, W, 3]` BGR and its class map `[H, W]` -> the drawn picture."""


@dataclass(frozen=True)
class SourceReport:
    """Latency on the frames of a source.

    Attributes:
        call: frame in memory to class map, as `measure_latency` gives it.
        whole: capture to drawn picture (to class map where nothing is drawn), with its stages.
        name, kind: of the source; a password is left out of the name.
        sizes: of the frames that count, in the order in which they first came.
        rounds: how often the source was read from its start.
        warnings, notes: of the source, for `call`'s own.
    """

    call: LatencyReport
    whole: LatencyReport
    name: str
    kind: str
    drawn: bool
    sizes: tuple[FrameSize, ...]
    rounds: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What stands under `video` in a result. Stages are in the order in which they ran."""
        whole = self.whole
        report = whole.to_dict()
        return {
            "source": self.name,
            "kind": self.kind,
            "draw": self.drawn,
            "sizes": [str(size) for size in self.sizes],
            "rounds": self.rounds,
            "latency_ms": report["latency_ms"],
            "fps": whole.fps,
            "stages_ms": {
                name: {p: percentile(values, q) for p, q in _PERCENTILES.items()}
                for name, values in whole.stage_samples_ms.items()
            },
            "first_ms": whole.first_ms,
            "samples_ms": report["samples_ms"],
            "stage_samples_ms": report["stage_samples_ms"],
        }


class _Samples:
    """What each frame took: the call alone, the whole, and the stages of both."""

    def __init__(self, segment: TimedSegment, draw: Draw | None, clock: Clock) -> None:
        self._segment, self._draw, self._clock = segment, draw, clock
        self.call: list[float] = []
        self.whole: list[float] = []
        self.stages: dict[str, list[float]] = {}
        self.sizes: dict[FrameSize, None] = {}

    def run(self, frame: SourceFrame, capture_ns: int) -> tuple[float, float, dict[str, float]]:
        """(call, whole, stages) of one frame in ms; the clock is read once between two stages."""
        clock = self._clock
        start = clock()
        class_map = self._segment(frame.image)
        segmented = clock()
        end = segmented
        if self._draw is not None:
            self._draw(frame.image, class_map)
            end = clock()
        call = (segmented - start) / 1e6
        last = self._segment.last_stages_ms
        inner = {name: float(last[name]) for name in STAGES if name in last}
        stages = {CAPTURE: capture_ns / 1e6, **(inner or {SEGMENT: call})}
        if self._draw is not None:
            stages[DRAW] = (end - segmented) / 1e6
        return call, (capture_ns + end - start) / 1e6, stages

    def keep(self, frame: SourceFrame, call: float, whole: float, stages: dict[str, float]) -> None:
        self.call.append(call)
        self.whole.append(whole)
        self.sizes.setdefault(frame.size)
        for name, value in stages.items():
            self.stages.setdefault(name, []).append(value)


def measure_source(
    segment: TimedSegment,
    source: Source,
    draw: Draw | None = None,
    *,
    warmup: int = DEFAULT_WARMUP,
    runs: int | None = None,
    seconds: float | None = None,
    on_run: Callable[[int, float], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> SourceReport:
    """Capture, segment and draw one frame after another, and report the times.

    Args:
        segment, warmup, runs, seconds: as for `measure_latency`; a run is one frame.
        source: open, not yet iterated; the caller closes it.
        draw: what makes the picture; None leaves it out.
        on_run: called after each sample, outside the timing, with the number of runs so far
            and the whole of the last in ms.

    Raises InputError where the counts make no measurement or the source ends within the warm-up;
    errors of the source and of `segment` pass through.
    """
    least_runs, least_seconds = stop_rule(warmup, runs, seconds)
    frames, samples = Frames(source, clock), _Samples(segment, draw, clock)
    first: tuple[float, float] | None = None
    began: int | None = None
    ended = False
    while began is None or len(samples.whole) < least_runs or clock() - began < least_seconds * 1e9:
        if frames.given == warmup and began is None:
            began = clock()
        found = frames.next()
        if found is None:
            ended = True
            break
        call, whole, stages = samples.run(*found)
        if began is None:
            first = first or (call, whole)
            continue
        samples.keep(found[0], call, whole, stages)
        if on_run is not None:
            on_run(len(samples.whole), whole)
    if not samples.whole:
        raise _ended_in_warmup(source.name, frames.given, warmup)
    inner = {name: values for name, values in samples.stages.items() if name in STAGES}
    return SourceReport(
        call=_report(samples.call, inner, warmup, first and first[0]),
        whole=_report(samples.whole, _in_order(samples.stages), warmup, first and first[1]),
        name=source.name,
        kind=source.kind,
        drawn=draw is not None,
        sizes=tuple(samples.sizes),
        rounds=frames.rounds,
        warnings=_warnings(source.name, ended, len(samples.whole), runs, seconds),
        notes=_notes(source, frames, samples),
    )


def _report(
    samples: list[float], stages: dict[str, list[float]], warmup: int, first: float | None
) -> LatencyReport:
    kept = {name: tuple(values) for name, values in stages.items()}
    return LatencyReport(tuple(samples), kept, warmup, first)


def _in_order(stages: dict[str, list[float]]) -> dict[str, list[float]]:
    """As they follow each other, also where a later frame brought a stage that the first lacked."""
    order = (CAPTURE, *STAGES, SEGMENT, DRAW)
    return {name: stages[name] for name in order if name in stages}


def _ended_in_warmup(name: str, given: int, warmup: int) -> InputError:
    return InputError(
        f"{name} ended after {given} frames, before the first one that counts",
        f"more frames than the {warmup} of the warm-up",
        "a longer source, or --warmup 0",
    )


def _warnings(
    name: str, ended: bool, done: int, runs: int | None, seconds: float | None
) -> tuple[str, ...]:
    if not ended:
        return ()
    asked = [f"{runs} runs" if runs else "", f"{seconds:g} seconds" if seconds else ""]
    wanted = " and ".join(filter(None, asked)) or "the usual time"
    return (
        f"{name} ended early: {done} frames were measured instead of {wanted}, "
        "and it gives its frames only once",
    )


def _notes(source: Source, frames: Frames, samples: _Samples) -> tuple[str, ...]:
    notes = list(source.notes)
    if frames.rounds > 1:
        notes.append(
            f"{source.name} was read {frames.rounds} times from its start; "
            "from the second time on the system has the file in memory"
        )
    if len(samples.sizes) > 1:
        notes.append(f"frames of {len(samples.sizes)} sizes: their times do not compare")
    if SEGMENT in samples.stages:
        notes.append("the stages on the GPU are told apart with --timed only")
    return tuple(dict.fromkeys(notes))


def with_source_words(call: dict[str, Any], report: SourceReport, text: str) -> dict[str, Any]:
    """`call`, of `LatencyReport.to_dict`, with what is to be said of the source named `text`."""
    from segformer_deploy.video.address import parse_address

    waits = ["capture holds the wait for the source's next frame"]
    more = waits if parse_address(text).comes_back else []
    return {
        **call,
        "warnings": [*report.warnings, *call["warnings"]],
        "notes": [*report.notes, *more, *call["notes"]],
    }


def overlay_drawer(spec: ModelSpec) -> Draw:
    """The overlay that `segdeploy run --output` draws unless told otherwise, legend included."""
    from segformer_deploy.video.overlay import Overlay

    return Overlay(spec.palette, spec.class_names).draw
