"""What can tell energy: a Jetson's sensors, RAPL counters, NVIDIA's library.

- **A Jetson's INA sensors**, in the kernel's hwmon: millivolts and milliamperes of the rail that
  feeds the module, sampled. Where hwmon has none, `tegrastats`, which prints the same rails.
- **RAPL** (Intel, AMD): counters of the processor's packages, and of memory where it has its own,
  in microjoules; they wrap around. Since Linux 5.10 only root may read them (CVE-2020-8694).
- **NVML**, the library that nvidia-smi and pynvml ask: the card's energy counter in millijoules
  (Volta and newer), else its power, sampled.

Each maker gives its sources, or raises SilentError with the one line that says why it has none.
Sources: Documentation/power/powercap/powercap.rst and hwmon/ina3221.rst of Linux, nvml.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from segformer_deploy.host.facts import SilentError, listed, program, read_int, read_text
from segformer_deploy.host.power import Sampled
from segformer_deploy.host.tegrastats import INTERVAL_MS, WHOLE_RAILS, Tegrastats, covered


class Source(Protocol):
    """`joules()` counts up from an arbitrary beginning."""

    name: str
    covers: str

    def joules(self) -> float: ...

    def close(self) -> None: ...


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


def rapl(root: Path) -> list[Source]:
    """The counters of processor packages and of their memory."""
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


def ina(root: Path, clock: Callable[[], float]) -> list[Source]:
    """The rail that feeds the module, or the sum of those that are there."""
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


def tegrastats(root: Path, clock: Callable[[], float]) -> list[Source]:
    """The same rails as this program prints them; its process ends with the source."""
    if not (root / "etc/nv_tegra_release").exists():
        raise SilentError("this is no Jetson")
    running = Tegrastats([program("tegrastats"), "--interval", str(INTERVAL_MS)])
    try:
        return [Sampled("tegrastats", running.covers, running.watts, clock, running.close)]
    except SilentError:
        running.close()
        raise


def load_nvml() -> Any:
    """NVIDIA's management library; OSError where there is none."""
    return ctypes.CDLL("libnvidia-ml.so.1")


def nvml_cards(load: Callable[[], Any], clock: Callable[[], float]) -> list[Source]:
    """Each GPU that the library `load` gives counts."""
    try:
        library = load()
    except OSError:
        raise SilentError("NVIDIA's libnvidia-ml.so.1 is not there: no driver for a GPU") from None

    def call(name: str, *arguments: Any) -> None:
        try:
            function = getattr(library, name)
        except AttributeError:  # an older driver's
            raise SilentError(f"this NVML has no {name}") from None
        status = function(*arguments)
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
