"""Two engine files on the engine at hand, turn by turn: which is faster here?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segformer_deploy.engine.backend import EngineOptions, engine_from_onnx
from segformer_deploy.engine.session import Engine
from segformer_deploy.runtime.golden import golden_frame
from segformer_deploy.spec import FrameSize

ROUNDS = 30
WARM_UP = 3
_PAUSE_S = 0.03
"""Longer than any library's threads spin after a run: they would take the next one's cores."""


@dataclass(frozen=True)
class Lap:
    """How long one file took.

    Attributes:
        engine: the library that ran it.
        median_ms: of a run, the network alone.
        undisturbed_ms: the median of the faster half of the runs: what other work on the machine
            did not slow down. It decides, for a busy minute must not decline a faster graph.
        samples_ms: every timed run, in order; the rounds of all files belong together.
    """

    engine: str
    backend: str
    median_ms: float
    undisturbed_ms: float
    samples_ms: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "backend": self.backend,
            "median_ms": self.median_ms,
            "undisturbed_ms": self.undisturbed_ms,
            "samples_ms": list(self.samples_ms),
        }


def race(
    files: Mapping[str, Path],
    options: EngineOptions,
    size: FrameSize,
    rounds: int = ROUNDS,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Lap]:
    """Time each file on one frame of network size `size`, interleaved, warm-up apart."""
    with ExitStack() as stack:
        engines = {}
        for name, path in files.items():
            chosen = engine_from_onnx(path, options)
            stack.callback(chosen.engine.close)
            engines[name] = chosen.engine, chosen.backend
        return race_engines(engines, size, rounds, on_round)


def race_engines(
    engines: Mapping[str, tuple[Engine, str]],
    size: FrameSize,
    rounds: int = ROUNDS,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Lap]:
    """The same of loaded engines, each with the name of its backend; they stay open."""
    image = golden_frame(size, seed=0)[None]
    samples: dict[str, list[float]] = {name: [] for name in engines}
    with ExitStack() as stack:
        sessions = {}
        for name, (engine, _) in engines.items():
            sessions[name] = engine.session()
            stack.callback(sessions[name].close)
        for number in range(WARM_UP + rounds):
            for name, session in sessions.items():
                time.sleep(_PAUSE_S)
                started = time.perf_counter()
                session.run({"image": image})
                samples[name].append(1e3 * (time.perf_counter() - started))
            if on_round is not None:
                on_round(number + 1)
    return {
        name: lap_from_samples(engine.name, backend, samples[name][WARM_UP:])
        for name, (engine, backend) in engines.items()
    }


def lap_from_samples(engine: str, backend: str, samples_ms: Sequence[float]) -> Lap:
    """The lap of timed runs."""
    return Lap(
        engine,
        backend,
        float(np.median(samples_ms)),
        float(np.percentile(samples_ms, 25)),
        tuple(round(ms, 3) for ms in samples_ms),
    )
