"""How long one frame takes, from the frame in memory to its class map in memory.

One frame is segmented again and again by one caller that waits for each answer: latency, not
the throughput of several streams. Reading, decoding and display are outside: with those of a
real source it is `source_latency` that measures. The clock is
`time.perf_counter_ns`, read immediately before and after each call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segformer_deploy.bench import Frame, TimedSegment
from segformer_deploy.errors import InputError

DEFAULT_WARMUP = 3
DEFAULT_RUNS = 20
DEFAULT_SECONDS = 3.0

STAGES = ("copy_in", "preprocess", "infer", "class_map", "copy_out")
"""The stages of a segmenter, in the order in which they run; the copies only on a GPU."""

NOISY_RATIO = 1.5
"""p90 over p50 above which a machine was doing something else too."""

DRIFT_RATIO = 1.2
"""Median of the last half over that of the first above which a device was slowing down."""

RUNS_FOR_P99 = 100
"""With fewer samples the 99th percentile lies between the two slowest runs: a hint, no more."""


@dataclass(frozen=True)
class LatencyReport:
    """Times in milliseconds. The samples are in the order in which they were taken.

    Percentiles interpolate linearly between the two nearest samples (NumPy's default,
    type 7 of Hyndman and Fan 1996), so p50 is the usual median.

    Attributes:
        samples_ms: the whole call, one value per run; warm-up runs are not among them.
        stage_samples_ms: the same per stage, for those stages that the segmenter reports.
        warmup: runs made before the first sample.
        first_ms: the very first call, where there was a warm-up: what a cold start costs.
    """

    samples_ms: tuple[float, ...]
    stage_samples_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    warmup: int = 0
    first_ms: float | None = None

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise InputError("a latency report without samples", "at least one run")

    @property
    def runs(self) -> int:
        return len(self.samples_ms)

    def percentile(self, q: float) -> float:
        """The `q`-th percentile (0..100) of the whole call, in ms."""
        return percentile(self.samples_ms, q)

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    @property
    def mean(self) -> float:
        return float(np.mean(self.samples_ms))

    @property
    def min(self) -> float:
        return min(self.samples_ms)

    @property
    def fps(self) -> float:
        """Frames per second of one caller that waits for each answer: 1000 / p50."""
        return 1000.0 / self.p50

    @property
    def spread(self) -> float:
        """p90 / p50: 1.0 on a quiet machine."""
        return self.p90 / self.p50

    @property
    def p99_is_rough(self) -> bool:
        return self.runs < RUNS_FOR_P99

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes these numbers less than a fair measurement."""
        found = []
        if self.spread > NOISY_RATIO:
            found.append(
                f"the machine is noisy: p90 is {self.spread:.2f} times the median; "
                "stop other work and measure again"
            )
        drift = self._drift()
        if drift > DRIFT_RATIO:
            found.append(
                f"the runs slowed down: the last half took {drift:.2f} times as long as the "
                "first; the device may be throttling (heat, power mode)"
            )
        return tuple(found)

    def _drift(self) -> float:
        half = self.runs // 2
        if half < DEFAULT_RUNS // 2:
            return 1.0
        return percentile(self.samples_ms[-half:], 50) / percentile(self.samples_ms[:half], 50)

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.p99_is_rough:
            return ()
        return (
            f"p99 of {self.runs} runs is close to the slowest one; "
            f"--runs {RUNS_FOR_P99} or more gives a real one",
        )

    def to_dict(self) -> dict[str, Any]:
        stages = self.stage_samples_ms
        return {
            "latency_ms": {
                "p50": self.p50,
                "p90": self.p90,
                "p99": self.p99,
                "mean": self.mean,
                "min": self.min,
            },
            "p99_is_rough": self.p99_is_rough,
            "percentile_method": "linear",
            "stages_ms": {name: percentile(values, 50) for name, values in stages.items()},
            "stages_p90_ms": {name: percentile(values, 90) for name, values in stages.items()},
            "stages_p99_ms": {name: percentile(values, 99) for name, values in stages.items()},
            "fps": self.fps,
            "spread": self.spread,
            "runs": self.runs,
            "warmup": self.warmup,
            "first_ms": self.first_ms,
            "samples_ms": list(self.samples_ms),
            "stage_samples_ms": {name: list(values) for name, values in stages.items()},
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


def percentile(samples: Sequence[float], q: float) -> float:
    """The `q`-th percentile (0..100), linear between the two nearest samples."""
    return float(np.percentile(np.asarray(samples, np.float64), q, method="linear"))


def measure_latency(
    segment: TimedSegment,
    frame: Frame,
    *,
    warmup: int = DEFAULT_WARMUP,
    runs: int | None = None,
    seconds: float | None = None,
    on_run: Callable[[int, float], None] | None = None,
) -> LatencyReport:
    """Segment `frame` again and again and report the times.

    Args:
        segment: frame -> class map, with `last_stages_ms`.
        frame: uint8 `[H, W, 3]` BGR.
        warmup: calls before the first sample.
        runs, seconds: how long to measure. With one of them, that many runs or seconds (at
            least one run); with both or neither, until both are reached (20 runs and 3 s
            where they are not given).
        on_run: called after each sample, outside the timing, with the number of runs so far
            and the sample in ms.

    Raises InputError where the counts make no measurement; errors of `segment` pass through.
    """
    least_runs, least_seconds = stop_rule(warmup, runs, seconds)
    first_ms = None
    for number in range(warmup):
        took = _timed(segment, frame)
        first_ms = took if number == 0 else first_ms
    samples: list[float] = []
    stages: dict[str, list[float]] = {}
    began = time.perf_counter_ns()
    while len(samples) < least_runs or time.perf_counter_ns() - began < least_seconds * 1e9:
        samples.append(_timed(segment, frame))
        last = segment.last_stages_ms
        for name in STAGES:
            if name in last:
                stages.setdefault(name, []).append(float(last[name]))
        if on_run is not None:
            on_run(len(samples), samples[-1])
    return LatencyReport(
        tuple(samples),
        {name: tuple(values) for name, values in stages.items()},
        warmup,
        first_ms,
    )


def _timed(segment: TimedSegment, frame: Frame) -> float:
    start = time.perf_counter_ns()
    segment(frame)
    return (time.perf_counter_ns() - start) / 1e6


def stop_rule(warmup: int, runs: int | None, seconds: float | None) -> tuple[int, float]:
    """(least runs, least seconds) before a measurement may end; InputError where there is none."""
    if warmup < 0:
        raise InputError(f"{warmup} warm-up runs", "0 or more")
    if runs is not None and runs < 1:
        raise InputError(f"{runs} runs", "at least one run", "leave --runs out, or give 1 or more")
    if seconds is not None and not seconds > 0:
        raise InputError(f"{seconds} seconds of measuring", "a time above 0")
    if runs is None and seconds is None:
        return DEFAULT_RUNS, DEFAULT_SECONDS
    return runs or 1, seconds or 0.0
