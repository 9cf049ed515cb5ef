"""ONNX Runtime's time for each file, in turns, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from peers_runners.compare import ratio_per_round, spread
from peers_runners.parent import take_turns

from int8_runners.measure import engine_of
from segformer_deploy.bench import Frame
from segformer_deploy.cli.common import progress
from segformer_deploy.engine.session import Session

PAUSE_S = 0.02
"""After each turn: thread pools spin for some milliseconds after work, on the next one's core."""


class Turn:
    """A loaded network that `take_turns` can ask for one run."""

    def __init__(self, session: Session, image: Frame) -> None:
        self._session, self._image = session, image

    def ask(self, op: str) -> dict[str, Any]:
        begin = perf_counter()
        self._session.run({"image": self._image})
        return {"ms": 1e3 * (perf_counter() - begin), "stages": {}}

    def cpu_seconds(self) -> float | None:
        """None: threads of one process cannot be told apart."""
        return None


def times(
    files: Mapping[str, Path], image: Frame, *, threads: int, rounds: int, warm_up: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of the network alone, by name, with the raw samples.

    Args:
        files: FP32 first; the ratios are to it, formed round by round.
        image: uint8 `[1, h, w, 3]` RGB, what every network is given.
    """
    with ExitStack() as stack:
        turns = {}
        for name, path in files.items():
            engine = engine_of(path, threads)
            stack.callback(engine.close)
            turns[name] = Turn(engine.session(), image)
        with progress("timing, rounds", warm_up + rounds) as advance:
            samples = take_turns(
                turns, rounds, warm_up, PAUSE_S, lambda done, _total: advance(done)
            )
    first = samples[next(iter(files))].ms
    return {
        name: {
            "ms": asdict(spread(one.ms)),
            # Above 1 the file is faster than FP32.
            "speed_up": asdict(ratio_per_round(first, one.ms)),
            "samples_ms": one.ms,
        }
        for name, one in samples.items()
    }
