"""Energy per frame, where the machine counts or measures it; else None, and one line why.

- **A Jetson's INA sensors**, in the kernel's hwmon: millivolts and milliamperes of the rail that
  feeds the module, sampled. Where hwmon has none, `tegrastats`, which prints the same rails.
- **RAPL** (Intel, AMD): counters of the processor's packages, and of memory where it has its own,
  in microjoules; they wrap around. Since Linux 5.10 only root may read them (CVE-2020-8694).
- **NVML**, the library that nvidia-smi and pynvml ask: the card's energy counter in millijoules
  (Volta and newer), else its power, sampled.

What is told is all that a rail, package or card took meanwhile, its idle share included, and
`covers` names it: the rest of the board, the power supply and a display are not in it.
Sources: Documentation/power/powercap/powercap.rst and hwmon/ina3221.rst of Linux, nvml.h.
"""

from __future__ import annotations

import ctypes
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from segformer_deploy.host.facts import (
    ROOT,
    Facts,
    SilentError,
    listed,
    program,
    read_int,
    read_text,
)
from segformer_deploy.host.power import WHOLE_RAILS, Sampled, covered, watts_from_tegrastats

_TEGRASTATS_MS = 100


class Source(Protocol):
    """`joules()` counts up from an arbitrary beginning."""

    name: str
    covers: str

    def joules(self) -> float: ...

    def close(self) -> None: ...


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
            "ina": lambda: _ina(root, clock),
            "tegrastats": lambda: _tegrastats(root, clock),
            "rapl": lambda: _rapl(root),
            "nvml": lambda: _nvml(nvml or _load_nvml, clock),
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


class Counter:
    """A counter of the machine's own, in `unit` joules, that wraps around at `wraps` units."""

    def __init__(
        self, name: str, covers: str, read: Callable[[], int], unit: float, wraps: int | None = None
    ) -> None:
        self.name, self.covers = name, covers
        self._read, self._unit, self._wraps = read, unit, wraps
        self._last, self._sum = read(), 0

    def joules(self) -> float:
        """Has to be asked at least once per wrap: tens of minutes for a package at full power."""
        now = self._read()
        step = now - self._last
        if step < 0 and self._wraps is not None:
            # The range is the largest value it shows, so that one more step gives 0.
            step += self._wraps + 1
        self._last, self._sum = now, self._sum + step
        return self._sum * self._unit

    def close(self) -> None:
        """Nothing stays open."""


def _rapl(root: Path) -> list[Source]:
    sources: list[Source] = []
    for domain in listed(root / "sys/class/powercap", "intel-rapl:*"):
        name = read_text(domain / "name")
        # "core" and "uncore" lie within their package, "psys" holds packages and more.
        if not name.startswith(("package", "dram")):
            continue
        file = domain / "energy_uj"
        try:
            file.read_bytes()
        except PermissionError:
            raise SilentError(f"{file} is for root only: run as root, or chmod a+r it") from None
        except OSError as error:
            raise SilentError(f"{file} cannot be read: {error.strerror or error}") from error
        wraps = read_int(domain / "max_energy_range_uj")
        covers = f"processor {name}" if name.startswith("package") else f"memory ({domain.name})"
        sources.append(Counter("rapl", covers, lambda file=file: read_int(file), 1e-6, wraps))  # type: ignore[misc]
    if not sources:
        raise SilentError("the kernel shows no RAPL counters, as in most virtual machines")
    return sources


def _ina(root: Path, clock: Callable[[], float]) -> list[Source]:
    rails: dict[str, tuple[Path, Path]] = {}
    for chip in listed(root / "sys/class/hwmon", "hwmon*"):
        with suppress(SilentError):
            if not read_text(chip / "name").startswith("ina"):
                continue
        for label in listed(chip, "in*_label"):
            channel = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            with suppress(SilentError):
                rail = read_text(label)
                if amperes.exists() and "sum" not in rail.lower() and rail != "NC":
                    rails[rail] = (volts, amperes)
    if not rails:
        raise SilentError("the kernel's hwmon lists no INA sensor, as only Jetsons have")
    chosen = [rails[name] for name in WHOLE_RAILS if name in rails][:1] or list(rails.values())

    def watts() -> float:
        # Millivolts times milliamperes.
        return sum(read_int(volts) * read_int(amperes) for volts, amperes in chosen) / 1e6

    return [Sampled("ina", covered(list(rails)), watts, clock)]


def _tegrastats(root: Path, clock: Callable[[], float]) -> list[Source]:
    if not (root / "etc/nv_tegra_release").exists():
        raise SilentError("this is no Jetson")
    words = [program("tegrastats"), "--interval", str(_TEGRASTATS_MS)]
    try:
        child = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError as error:
        raise SilentError(f"tegrastats does not start: {error.strerror or error}") from error
    assert child.stdout is not None
    lines = child.stdout
    newest = [lines.readline()]

    def follow() -> None:
        for line in lines:
            newest[0] = line

    def close() -> None:
        child.kill()
        child.wait()

    try:
        _, covers = watts_from_tegrastats(newest[0])
    except SilentError:
        close()
        raise
    threading.Thread(target=follow, name="tegrastats", daemon=True).start()
    return [
        Sampled("tegrastats", covers, lambda: watts_from_tegrastats(newest[0])[0], clock, close)
    ]


def _load_nvml() -> Any:
    return ctypes.CDLL("libnvidia-ml.so.1")


def _nvml(load: Callable[[], Any], clock: Callable[[], float]) -> list[Source]:
    try:
        library = load()
    except OSError:
        raise SilentError("NVIDIA's libnvidia-ml.so.1 is not there: no driver for a GPU") from None

    def call(name: str, *arguments: Any) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            raise SilentError(f"{name} answers with status {status}")

    call("nvmlInit_v2")
    count = ctypes.c_uint()
    call("nvmlDeviceGetCount_v2", ctypes.byref(count))
    sources: list[Source] = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))

        def millijoules(handle: Any = handle) -> int:
            value = ctypes.c_ulonglong()
            call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(value))
            return value.value

        def watts(handle: Any = handle) -> float:
            value = ctypes.c_uint()
            call("nvmlDeviceGetPowerUsage", handle, ctypes.byref(value))
            return value.value / 1e3

        try:
            sources.append(Counter("nvml", f"GPU {index}", millijoules, 1e-3))
        except SilentError:
            sources.append(Sampled("nvml", f"GPU {index}", watts, clock))
    if not sources:
        raise SilentError("NVML counts no GPU")
    return sources
