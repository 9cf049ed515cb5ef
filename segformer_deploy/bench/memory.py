"""How much memory this process takes, and on which machine a measurement was made.

**What is counted.** Resident memory: pages of this process that lie in RAM, its private pages
(heap, arenas, stacks) and the pages of files it maps (shared libraries, a mapped model), also
where other processes share those. Not counted: memory that was reserved and never touched,
pages in swap, the operating system's file cache, other processes, and memory of a discrete
GPU. Linux counts per CPU and adds up late, so figures are good to about a MiB.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from segformer_deploy.engine.cores import usable_cores

MIB = 1 << 20
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_PACKAGES = {
    "numpy": ("numpy",),
    "opencv": (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx",),
}


def current_rss_mib(proc: Path = _PROC) -> float | None:
    """Resident memory of this process now, in MiB; None where the system does not tell."""
    return _status_mib("VmRSS", proc)


def peak_rss_mib(proc: Path = _PROC) -> float:
    """The largest resident memory since this process began, or since `reset_peak`, in MiB.

    From VmHWM in ``/proc/self/status``; elsewhere from `getrusage`, which no reset reaches.
    """
    peak = _status_mib("VmHWM", proc)
    return peak if peak is not None else _peak_from_getrusage()


def _peak_from_getrusage() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # KiB on Linux and the BSDs, bytes on macOS.
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def reset_peak(proc: Path = _PROC) -> bool:
    """Let `peak_rss_mib` start anew from the present; False where the system forbids it.

    Writes 5 to ``/proc/self/clear_refs`` (Linux 4.0 and later).
    """
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return _status_mib("VmHWM", proc) is not None


def _status_mib(field_name: str, proc: Path) -> float | None:
    try:
        lines = (proc / "self" / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in lines.splitlines():
        name, _, rest = line.partition(":")
        if name == field_name:
            return int(rest.split()[0]) / 1024
    return None


@dataclass(frozen=True)
class MachineFacts:
    """The machine and versions a measurement was made with; None where the system is silent.

    Attributes:
        cpu: the processor's (or board's) name.
        cores: processors that this process may use (its affinity), not those of the machine.
        memory_mib: RAM of the machine.
        memory_limit_mib: the smallest control-group limit above this process, None for none.
        load_average: runnable tasks over the last minute when this was read.
        versions: library -> version, for those that are installed.
    """

    cpu: str
    cores: int
    memory_mib: float | None
    memory_limit_mib: float | None
    load_average: float | None
    python: str
    platform: str
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_mib": self.memory_mib,
            "memory_limit_mib": self.memory_limit_mib,
            "load_average": self.load_average,
            "python": self.python,
            "platform": self.platform,
            "versions": dict(self.versions),
        }


def machine_facts(proc: Path = _PROC, cgroup: Path = _CGROUP) -> MachineFacts:
    """The facts that belong beside every measurement."""
    try:
        load: float | None = os.getloadavg()[0]
    except OSError:
        load = None
    return MachineFacts(
        cpu=_cpu_name(proc),
        cores=usable_cores(),
        memory_mib=_total_memory_mib(proc),
        memory_limit_mib=_cgroup_limit_mib(proc, cgroup),
        load_average=load,
        python=platform.python_version(),
        platform=platform.platform(),
        versions=_versions(),
    )


def _cpu_name(proc: Path) -> str:
    # Arm kernels give no "model name"; the device tree names the board, which says more.
    for path, key in (("cpuinfo", "model name"), ("device-tree/model", ""), ("cpuinfo", "Model")):
        try:
            text = (proc / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if not key:
            return text.strip("\0\n ")
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _total_memory_mib(proc: Path) -> float | None:
    try:
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def _cgroup_limit_mib(proc: Path, cgroup: Path) -> float | None:
    """The smallest limit from this process's control group up to the root (v2 and v1)."""
    try:
        entries = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if controllers == "":
            limits += _limits_upwards(cgroup, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits_upwards(cgroup / "memory", path, "memory.limit_in_bytes")
    # Version 1 writes "no limit" as the largest page-aligned number.
    real = [limit for limit in limits if limit < 1 << 60]
    return min(real) / MIB if real else None


def _limits_upwards(root: Path, path: str, file: str) -> list[int]:
    limits = []
    folder = root / path.lstrip("/")
    # Inside a container the path may be the host's: then only the root is there.
    for place in (folder, *folder.parents):
        if place != root and root not in place.parents:
            break
        try:
            text = (place / file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return limits


def _versions() -> dict[str, str]:
    versions = {}
    for library, distributions in _PACKAGES.items():
        for name in distributions:
            try:
                versions[library] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            break
    # A board's own OpenCV comes from its system packages, which pip's records do not list.
    if "opencv" not in versions and "cv2" in sys.modules:
        versions["opencv"] = str(sys.modules["cv2"].__version__)
    return versions
