"""Energy per frame, where the machine counts or measures it; else None, and one line why.

`energy_sources` has what can be asked. What is told is all that a rail, package or card took
meanwhile, its idle share included, and `covers` names it: the rest of the board, the power
supply and a display are not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from segformer_deploy.host.energy_sources import (
    Source,
    ina,
    load_nvml,
    nvml_cards,
    rapl,
    tegrastats,
)
from segformer_deploy.host.facts import ROOT, Facts, SilentError


@dataclass(frozen=True)
class Reading(Facts):
    """What one source told over the frames that count."""

    source: str
    covers: str
    joules: float


@dataclass(frozen=True)
class Energy(Facts):
    """Energy of the frames between the first run that counts and the last.

    Attributes:
        joules_per_frame, watts: the sum of the readings, by frame and by second.
        frames, seconds: over which they were taken.
        readings: one per source.
        unknown: source -> why it tells nothing here.
    """

    joules_per_frame: float | None
    watts: float | None
    frames: int
    seconds: float
    readings: tuple[Reading, ...] = ()
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def covers(self) -> str:
        return " and ".join(one.covers for one in self.readings)


class EnergyMeter:
    """Reads every source at each `mark`; a context manager that closes what it opened.

    ::

        with EnergyMeter() as meter:
            for done in range(1, runs + 1):
                run()
                meter.mark(done)
            energy = meter.ended()

    The first mark is where counting begins, so warm-up is outside and one run less is counted.
    """

    def __init__(
        self,
        root: Path = ROOT,
        *,
        nvml: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unknown: dict[str, str] = {}
        self._clock = clock
        self._sources: list[Source] = []
        makers: dict[str, Callable[[], list[Source]]] = {
            "ina": lambda: ina(root, clock),
            "tegrastats": lambda: tegrastats(root, clock),
            "rapl": lambda: rapl(root),
            "nvml": lambda: nvml_cards(nvml or load_nvml, clock),
        }
        for name, make in makers.items():
            if name == "tegrastats" and self._sources:
                continue  # the same sensors
            try:
                self._sources += make()
            except SilentError as silence:
                self.unknown[name] = str(silence)
        self._first: tuple[int, float, list[float]] | None = None
        self._last: tuple[int, float, list[float]] | None = None

    def mark(self, done: int) -> None:
        """After each run, outside its timing; `done` is the number of runs so far."""
        try:
            now = (done, self._clock(), [source.joules() for source in self._sources])
        except SilentError as silence:
            self.unknown["while measuring"] = str(silence)
            self._drop()
            return
        self._first = self._first or now
        self._last = now

    def _drop(self) -> None:
        self.close()
        self._sources, self._first, self._last = [], None, None

    def ended(self) -> Energy:
        if self._first is None or self._last is None or self._first[0] == self._last[0]:
            if self._sources:
                self.unknown["frames"] = "one run at most: energy is counted between two"
            return Energy(None, None, 0, 0.0, (), self.unknown)
        frames, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        readings = tuple(
            Reading(source.name, source.covers, after - before)
            for source, before, after in zip(
                self._sources, self._first[2], self._last[2], strict=True
            )
        )
        if not readings or seconds <= 0:
            return Energy(None, None, frames, seconds, (), self.unknown)
        total = sum(one.joules for one in readings)
        return Energy(total / frames, total / seconds, frames, seconds, readings, self.unknown)

    def close(self) -> None:
        """Safe twice."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> EnergyMeter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
