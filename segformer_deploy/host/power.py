"""What holds a device back while it is measured: power mode, clocks, heat, throttling.

Read before and after; what changed between the two, and what was held down at the end, is said
in words. Sources: Documentation/admin-guide/pm/cpufreq.rst and thermal of Linux; for Intel
`thermal_throttle/*_throttle_count`; for the Raspberry Pi the firmware's `get_throttled`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from segformer_deploy.host.clocks import Clock, Clocks, clock_facts
from segformer_deploy.host.facts import (
    ROOT,
    Ask,
    Facts,
    SilentError,
    listed,
    output_of,
    read_int,
    read_text,
)

HOT_CELSIUS = 95.0
SLOW_SHARE = 0.9
"""A clock below this share of its bound, after work, was held there by something."""
_SECONDS = 3.0
SAMPLE_SECONDS = 0.05
_PI = "sys/devices/platform/soc/soc:firmware/get_throttled"
# Bits of the Raspberry Pi's firmware: what is the case now.
_PI_NOW = {0: "under-voltage", 1: "its clock is capped", 2: "throttled", 3: "soft heat limit"}


@dataclass(frozen=True)
class PowerState(Facts):
    """One look.

    Attributes:
        throttle_counts: of the kernel, summed over cores: how often heat lowered the clock.
        hottest_celsius: of the thermal zones; `hottest` is its name.
        cooling: cooling devices other than fans that are at work: name -> state.
        pi_flags: the Raspberry Pi firmware's bits.
    """

    clocks: Clocks
    throttle_counts: int | None
    hottest: str | None
    hottest_celsius: float | None
    cooling: dict[str, int] = field(default_factory=dict)
    pi_flags: int | None = None
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PowerReport(Facts):
    """Before and after; `throttling` says what was noticed, empty where nothing was.

    Attributes:
        power_mode: what nvpmodel says, such as "25W (1)".
        governors: of the processor's groups of cores, without repeats.
        watched: whether the machine tells anything by which throttling could be noticed.
    """

    before: PowerState
    after: PowerState
    power_mode: str | None
    governors: tuple[str, ...]
    throttling: tuple[str, ...]
    watched: bool
    unknown: dict[str, str] = field(default_factory=dict)


class PowerWatch:
    """Looks when it is made, and again at `ended`."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        ask = Ask()
        self._mode = ask("power_mode", power_mode)
        self._unknown = ask.unknown
        self._before = power_state(root)

    def ended(self) -> PowerReport:
        before, after = self._before, power_state(self._root)
        clocks = after.clocks
        watched = bool(
            clocks.cpu or clocks.gpu or after.throttle_counts is not None or after.hottest
        )
        if not watched:
            self._unknown["throttling"] = "neither clocks nor temperatures are told here"
        return PowerReport(
            before,
            after,
            self._mode,
            tuple(sorted({one.governor for one in clocks.cpu if one.governor})),
            throttling(before, after),
            watched or after.pi_flags is not None,
            self._unknown,
        )


def power_mode() -> str:
    """Of a Jetson: from ``NV Power Mode: 25W`` and a line with the mode's number."""
    text = output_of("nvpmodel", "-q", timeout=_SECONDS)
    found = re.search(r"NV Power Mode:\s*(\S+)\s*(\d+)?", text)
    if not found:
        raise SilentError("nvpmodel -q prints otherwise than expected")
    return f"{found[1]} ({found[2]})" if found[2] else found[1]


def power_state(root: Path = ROOT) -> PowerState:
    """One look at clocks, heat and the kernel's counts."""
    ask = Ask()
    hottest = ask("temperature", lambda: _hottest(root))
    return PowerState(
        clock_facts(root),
        ask("throttle_counts", lambda: _throttle_counts(root)),
        hottest[0] if hottest else None,
        hottest[1] if hottest else None,
        _cooling(root),
        # Only that board has it: no answer is no riddle.
        Ask()("pi_flags", lambda: int(read_text(root / _PI), 16)),
        ask.unknown,
    )


def _throttle_counts(root: Path) -> int:
    files = listed(
        root / "sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/core_throttle_count"
    )
    if not files:
        raise SilentError("the kernel counts no throttling here")
    return sum(read_int(file) for file in files)


def _hottest(root: Path) -> tuple[str, float]:
    found = []
    for zone in listed(root / "sys/class/thermal", "thermal_zone[0-9]*"):
        ask: Callable[..., tuple[str, float] | None] = Ask()
        # A Jetson's zones of parts that are off answer with an error; millidegrees.
        one = ask(zone.name, lambda zone=zone: (read_text(zone / "type"), _celsius(zone)))
        found += [one] if one else []
    if not found:
        raise SilentError("the kernel has no thermal zones here, as in most virtual machines")
    return max(found, key=lambda one: one[1])


def _celsius(zone: Path) -> float:
    return read_int(zone / "temp") / 1e3


def _cooling(root: Path) -> dict[str, int]:
    """Devices that cool by doing less; fans cost no speed, and idle states no work."""
    at_work = {}
    for device in listed(root / "sys/class/thermal", "cooling_device[0-9]*"):
        try:
            name, state = read_text(device / "type"), read_int(device / "cur_state")
        except SilentError:
            continue
        if state > 0 and not any(word in name.lower() for word in ("fan", "powerclamp")):
            at_work[f"{name} ({device.name})"] = state
    return at_work


def throttling(before: PowerState, after: PowerState) -> tuple[str, ...]:
    """What was noticed, in words; empty where nothing was."""
    found = []
    if before.throttle_counts is not None and after.throttle_counts is not None:
        more = after.throttle_counts - before.throttle_counts
        if more > 0:
            found.append(f"the kernel lowered the clock for heat {more} times")
    found += [f"{name} holds the device back (state {s})" for name, s in after.cooling.items()]
    if after.hottest_celsius is not None and after.hottest_celsius >= HOT_CELSIUS:
        found.append(f"{after.hottest} is at {after.hottest_celsius:.0f} degrees Celsius")
    if after.pi_flags is not None:
        now = [text for bit, text in _PI_NOW.items() if after.pi_flags >> bit & 1]
        found += [f"the Raspberry Pi's firmware says: {text}" for text in now]
    earlier = {clock.name: clock for clock in (*before.clocks.cpu, *before.clocks.gpu)}
    for clock in (*after.clocks.cpu, *after.clocks.gpu):
        found += _clock_words(earlier.get(clock.name), clock)
    return tuple(found)


def _clock_words(before: Clock | None, after: Clock) -> list[str]:
    found = []
    if before and before.max_mhz and after.max_mhz and after.max_mhz < before.max_mhz:
        found.append(
            f"{after.name}: its highest clock was lowered from {before.max_mhz:.0f} to "
            f"{after.max_mhz:.0f} MHz"
        )
    if after.held_low:
        found.append(f"{after.name} is held low (governor {after.governor})")
    elif (
        after.governor == "performance"
        and after.current_mhz
        and after.max_mhz
        # This governor asks for the highest clock: less is what heat or power left of it.
        # Drivers that let the hardware choose tell a mean over idle times, so not of them.
        and after.driver not in ("intel_pstate", "amd-pstate-epp", "intel_cpufreq")
        and after.current_mhz < SLOW_SHARE * after.max_mhz
    ):
        found.append(
            f"{after.name} runs at {after.current_mhz:.0f} of {after.max_mhz:.0f} MHz though the "
            "governor asks for the highest"
        )
    return found


class Sampled:
    """Power that is asked for again and again, added up by a thread of its own.

    `watts()` raises SilentError where the sensor fails; the next `joules()` passes it on.
    """

    def __init__(
        self,
        name: str,
        covers: str,
        watts: Callable[[], float],
        clock: Callable[[], float],
        closing: Callable[[], object] = lambda: None,
    ) -> None:
        self.name, self.covers = name, covers
        self._watts, self._clock, self._closing = watts, clock, closing
        self._guard, self._stop = threading.Lock(), threading.Event()
        self._failure: SilentError | None = None
        self._sum, self._time, self._now = 0.0, clock(), watts()
        self._thread = threading.Thread(target=self._sample, name="power", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                self._add(self._watts())
            except SilentError as silence:
                self._failure = silence
                return

    def _add(self, watts: float | None) -> float:
        """Up to now with the mean of the last two samples, or the last one alone."""
        with self._guard:
            now = self._clock()
            mean = self._now if watts is None else (self._now + watts) / 2
            self._sum += mean * (now - self._time)
            self._time, self._now = now, self._now if watts is None else watts
            return self._sum

    def joules(self) -> float:
        if self._failure is not None:
            raise self._failure
        return self._add(None)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=1)
        self._closing()
