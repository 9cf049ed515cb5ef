"""The processor: its name, the cores that are ours, and what its instructions can do."""

from __future__ import annotations

import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from segformer_deploy.host.facts import ROOT, Ask, Facts, SilentError, read_text

# The kernel's word -> ours. Those that decide how fast FP32 and INT8 products are.
_FEATURES = {
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "amx_int8": "amx_int8",
    "neon": "neon",
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
}
# Arm kernels give numbers where x86 gives a name: (implementer, part) of the MIDR register.
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x4e", "0x003"): "NVIDIA Denver 2",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


@dataclass(frozen=True)
class Cpu(Facts):
    """The processor.

    Attributes:
        architecture: of the running kernel: ``x86_64``, ``aarch64``.
        cores: logical processors that are switched on.
        usable_cores: those that this process may use (taskset, a container's cpuset).
        features: what every core has; None where the kernel does not say.
    """

    model: str | None
    architecture: str
    cores: int | None
    usable_cores: int
    features: tuple[str, ...] | None
    unknown: dict[str, str] = field(default_factory=dict)


def cpu_facts(root: Path = ROOT) -> Cpu:
    """Of /proc/cpuinfo and of this process's affinity."""
    ask = Ask()

    def blocks() -> list[dict[str, str]]:
        return _processors(read_text(root / "proc/cpuinfo"))

    return Cpu(
        model=ask("model", lambda: _model(blocks())),
        architecture=platform.machine(),
        cores=ask("cores", lambda: len(blocks())),
        usable_cores=_usable_cores(),
        features=ask("features", lambda: _features(blocks())),
        unknown=ask.unknown,
    )


def _usable_cores() -> int:
    # engine/cores.py asks the same, but the engine lies above this room and is not imported.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processors(text: str) -> list[dict[str, str]]:
    """One dict per processor; SilentError where there is none."""
    found = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        # The last block of some Arm kernels is about the board.
        if "processor" in values:
            found.append(values)
    if not found:
        raise SilentError("/proc/cpuinfo names no processor")
    return found


def _model(processors: list[dict[str, str]]) -> str:
    """A Jetson's "model name" is "ARMv8 Processor rev 1": the part number says more."""
    parts = [
        _ARM_PARTS.get((p.get("CPU implementer", ""), p.get("CPU part", ""))) for p in processors
    ]
    if None not in parts:
        counts = Counter(str(part) for part in parts)
        if len(counts) == 1:
            return str(parts[0])
        return " + ".join(f"{count}x {name}" for name, count in counts.items())
    first = processors[0]
    if "model name" in first:
        return first["model name"]
    if "CPU part" in first:
        return f"Arm, implementer {first.get('CPU implementer', '?')}, part {first['CPU part']}"
    raise SilentError("/proc/cpuinfo gives the processor no name")


def _features(processors: list[dict[str, str]]) -> tuple[str, ...]:
    """What all cores have: a thread may run on any of them."""
    flags = [set(p.get("flags", p.get("Features", "")).split()) for p in processors]
    if not all(flags):
        raise SilentError("/proc/cpuinfo lists no features")
    common = set.intersection(*flags)
    return tuple(dict.fromkeys(ours for theirs, ours in _FEATURES.items() if theirs in common))
