"""Clocks: what the processor and a Jetson's GPU run at, and within which bounds.

A discrete GPU keeps its clocks to itself; a Jetson's GPU is a device of the kernel's devfreq.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from segformer_deploy.host.facts import ROOT, Ask, Facts, listed, read_int, read_text

# Of the devfreq devices on a Jetson, those that are the GPU: JetPack 6 says "17000000.gpu",
# JetPack 5 and older the chip ("17000000.ga10b"), JetPack 7 "gpu-gpc-0".
_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")


@dataclass(frozen=True)
class Clock(Facts):
    """One clock, in MHz.

    Attributes:
        name: the kernel's: ``policy0`` is the first group of cores that share a clock.
        min_mhz, max_mhz: the bounds that are set now (a power mode lowers them).
        governor: who chooses within the bounds, such as ``schedutil`` or ``powersave``.
        driver: of the processor's clock.
        preference: what a driver that lets the hardware choose was told, such as ``power``.
    """

    name: str
    current_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    governor: str | None
    driver: str | None = None
    preference: str | None = None
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def held_low(self) -> bool:
        """Whether the processor was told to save power rather than to be fast.

        "powersave" is the lowest clock with most drivers. Where the hardware chooses the clock
        (active intel_pstate and amd-pstate-epp) it is the usual governor, and the preference
        is what holds it low.
        """
        if self.governor != "powersave":
            return False
        if self.driver in ("intel_pstate", "amd-pstate-epp"):
            return self.preference == "power"
        return True


@dataclass(frozen=True)
class Clocks(Facts):
    """The processor's clocks by group of cores, and a Jetson's GPU's; empty where none is told."""

    cpu: tuple[Clock, ...]
    gpu: tuple[Clock, ...]
    unknown: dict[str, str] = field(default_factory=dict)


def clock_facts(root: Path = ROOT) -> Clocks:
    """Of the kernel's cpufreq and devfreq."""
    policies = listed(root / "sys/devices/system/cpu/cpufreq", "policy[0-9]*")
    devices = [
        device
        for device in listed(root / "sys/class/devfreq", "*")
        if any(name in device.name for name in _GPU_NAMES)
    ]
    unknown = {}
    if not policies:
        unknown["cpu"] = "the kernel has no cpufreq here, as in most virtual machines"
    if not devices:
        unknown["gpu"] = "the kernel lists no GPU among its devfreq devices, as only Jetsons do"
    return Clocks(
        tuple(_cpu_clock(policy) for policy in sorted(policies, key=_number)),
        tuple(_gpu_clock(device) for device in devices),
        unknown,
    )


def _number(policy: Path) -> int:
    digits = policy.name.removeprefix("policy")
    return int(digits) if digits.isdigit() else 0


def _cpu_clock(policy: Path) -> Clock:
    ask = Ask()

    def mhz(name: str) -> float | None:
        # cpufreq counts in kHz.
        return ask(f"{name}_mhz", lambda: read_int(policy / f"scaling_{_SHORT[name]}_freq") / 1e3)

    preference = policy / "energy_performance_preference"
    return Clock(
        policy.name,
        mhz("current"),
        mhz("min"),
        mhz("max"),
        ask("governor", lambda: read_text(policy / "scaling_governor")),
        ask("driver", lambda: read_text(policy / "scaling_driver")),
        # Drivers that choose themselves have it, others never do: no answer is no riddle.
        Ask()("preference", lambda: read_text(preference)),
        ask.unknown,
    )


_SHORT = {"current": "cur", "min": "min", "max": "max"}


def _gpu_clock(device: Path) -> Clock:
    ask = Ask()

    def mhz(name: str) -> float | None:
        # devfreq counts in Hz.
        return ask(f"{name}_mhz", lambda: read_int(device / f"{_SHORT[name]}_freq") / 1e6)

    return Clock(
        device.name,
        mhz("current"),
        mhz("min"),
        mhz("max"),
        ask("governor", lambda: read_text(device / "governor")),
        unknown=ask.unknown,
    )
