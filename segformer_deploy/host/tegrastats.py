"""`tegrastats`, the program that prints a Jetson's power: its lines, and its process.

The rails differ from board to board; a line of each:

- Nano: ``POM_5V_IN 2532/2500 POM_5V_GPU 40/40 POM_5V_CPU 200/200``
- TX2: ``VDD_SYS_GPU 153/153 VDD_SYS_SOC 306/306 VDD_4V0_WIFI 0/0 VDD_IN 1649/1649 ...``
- AGX Xavier: ``GPU 120/100 CPU 468/450 SOC 937/900 CV 0/0 VDDRQ 312/234 SYS5V 1458/1400``
- Orin Nano and NX: ``VDD_IN 4321mW/4300mW VDD_CPU_GPU_CV 512mW/510mW VDD_SOC 1200mW/1200mW``
- AGX Orin: ``VDD_GPU_SOC 3000mW/3000mW VDD_CPU_CV 1000mW/1000mW VIN_SYS_5V0 2000mW/2000mW``
- Thor: ``VDD_GPU 2400mW/2400mW VDD_CPU_SOC_MSS 6510mW/6510mW VIN_SYS_5V0 ... VIN ...``

The first figure is now, the second the mean since the program began; milliwatts, also where no
unit stands. Source: NVIDIA's Jetson Linux developer guide, "tegrastats utility".
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence

from segformer_deploy.host.facts import SilentError

INTERVAL_MS = 100
STALE_SECONDS = 20 * INTERVAL_MS / 1000
"""A line older than this tells nothing of now. Twenty intervals: a busy board prints late."""
FIRST_SECONDS = 5.0
"""So long a first line is waited for."""
# The rail that feeds everything, and what that is; boards without it measure several.
WHOLE_RAILS = {"VDD_IN": "the module", "POM_5V_IN": "the module", "VIN": "the board"}
# Those that together feed the module of a board without such a rail.
_KNOWN_RAILS = frozenset(
    (
        *("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        *("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
    )
)
# Memory (`RAM 1/2MB`), clocks (`GPU 1MHz/2MHz`) and loads have another unit or form.
_PAIR = re.compile(r"(?<!\S)([A-Za-z]\w*)\s+(-?\d+)(?:mW)?/-?\d+(?:mW)?(?!\S)")


def covered(rails: Iterable[str]) -> str:
    """What these rails feed, in words."""
    names = sorted(rails)
    for whole, what in WHOLE_RAILS.items():
        if whole in names:
            return f"{what} ({whole})"
    return f"the sum of the rails {', '.join(names)}"


def watts_from_tegrastats(line: str) -> tuple[float, str]:
    """Watts and what they cover, from one line.

    ``NC`` is a channel that is not connected. SilentError where the line has no power, or a rail
    that is not known: a sum without it would be too small, and with it perhaps too large.
    """
    rails = {name: int(milliwatts) for name, milliwatts in _PAIR.findall(line) if name != "NC"}
    if not rails:
        raise SilentError(f"tegrastats prints no power: {line[:60]!r}")
    for whole in WHOLE_RAILS:
        if whole in rails:
            return rails[whole] / 1e3, covered(rails)
    unknown = sorted(rails.keys() - _KNOWN_RAILS)
    if unknown:
        raise SilentError(
            f"tegrastats prints power rails that are not known ({', '.join(unknown)}): whether "
            "they belong into the sum is not known either"
        )
    return sum(rails.values()) / 1e3, covered(rails)


class Tegrastats:
    """The running program; `watts` is of its newest line."""

    def __init__(self, words: Sequence[str]) -> None:
        """SilentError where it does not start, or prints no line of power within seconds."""
        try:
            self._child = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise SilentError(f"tegrastats does not start: {error.strerror or error}") from error
        self._line, self._when, self._ended = "", time.monotonic(), False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name="tegrastats", daemon=True)
        self._thread.start()
        try:
            with self._news:
                self._news.wait_for(lambda: self._line or self._ended, FIRST_SECONDS)
            _, self.covers = watts_from_tegrastats(self._newest())
        except SilentError:
            self.close()
            raise

    def _follow(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                with self._news:
                    self._line, self._when = line, time.monotonic()
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _newest(self) -> str:
        with self._news:
            if self._ended:
                raise SilentError("tegrastats has ended: nothing tells the power any more")
            age = time.monotonic() - self._when
            if not self._line or age > STALE_SECONDS:
                raise SilentError(f"tegrastats has printed nothing for {age:.1f} s")
            return self._line

    def watts(self) -> float:
        """SilentError where the program has ended, hangs, or prints something else now."""
        return watts_from_tegrastats(self._newest())[0]

    def close(self) -> None:
        """Safe twice."""
        self._child.kill()
        self._child.wait()
        self._thread.join(timeout=1)
