"""One run of a network in a fresh copy of Python, under a hard memory limit or without one."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fresh_copy import FreshCopy

from segformer_deploy.bench.limit import MIB, Group, NoGroup, memory_group
from segformer_deploy.errors import RunError
from segformer_deploy.spec import FrameSize

# Nothing is imported for the report: it would be measured too.
CHILD = """
import json, sys, time, zlib
import numpy as np
from segformer_deploy import Segmenter
from segformer_deploy.spec import FrameSize
path, backend, side_y, side_x, frames = sys.argv[1:]
size = FrameSize(int(side_y), int(side_x))
def resident(field):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[field].split()[0]) / 1024
ms, checksums = [], []
with Segmenter(path, backend=backend, size=size) as segment:
    for seed in range(int(frames)):
        shape = (size.height, size.width, 3)
        frame = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        start = time.perf_counter()
        answer = segment(frame)
        ms.append(1e3 * (time.perf_counter() - start))
        checksums.append(zlib.crc32(answer.tobytes()))
mapped = sorted({l.split()[5] for l in open("/proc/self/maps") if len(l.split()) > 5})
print(json.dumps({
    "peak_mib": resident("VmHWM"), "anonymous_mib": resident("RssAnon"),
    "of_files_mib": resident("RssFile"), "ms": ms, "checksums": checksums,
    "reads": int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[9]),
    "mapped": [one for one in mapped if one.startswith("/")],
}))
"""


@dataclass(frozen=True)
class Form:
    """One way to run the network at one size."""

    name: str
    path: Path
    size: FrameSize
    backend: str = "onnxruntime"


@dataclass(frozen=True)
class Probe:
    """How one run fared.

    Attributes:
        outcome: ``survived``, ``killed``, ``too slow`` or ``failed``.
        group_mib: the most that was charged to the group.
        told: what the run told at its end; None where it came to none.
    """

    outcome: str
    how: str
    group_mib: float | None
    told: dict[str, Any] | None


class Prober:
    """Runs forms in a fresh copy of Python, under limits."""

    def __init__(self, copy: FreshCopy, frames: int, timeout: float) -> None:
        self.copy, self.frames, self.timeout = copy, frames, timeout

    def __call__(self, form: Form, mib: int | None, frames: int | None = None) -> Probe:
        """One run under a limit in MiB, or without one."""
        self.copy.evict(form.path)
        side = (form.size.height, form.size.width)
        arguments = map(str, (form.path, form.backend, *side, frames or self.frames))
        words = [str(self.copy.python), "-I", "-c", CHILD, *arguments]
        if mib is None:
            return self._run(words, None)
        with memory_group(mib * MIB) as group:
            if isinstance(group, NoGroup):
                raise RunError(
                    f"no limit can be enforced here: {group.why}",
                    "a control group of its own",
                    "run as root, or: systemd-run --user --scope python "
                    "benchmarks/smallest_limit.py",
                )
            return self._run(group.command(words), group)

    def _run(self, words: list[str], group: Group | None) -> Probe:
        outcome, told = "failed", None
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                timeout=self.timeout,
                check=False,
                env=self.copy.environment,
            )
            if done.returncode == 0:
                outcome, told = "survived", json.loads(done.stdout.splitlines()[-1])
            elif group is None:
                raise RunError(f"a run without a limit failed: {done.stderr[-300:]}", "none")
        except subprocess.TimeoutExpired:
            outcome = "too slow"
        if group is None:
            return Probe(outcome, "no limit", None, told)
        if group.oom_kills and outcome != "survived":
            outcome = "killed"
        peak = group.peak_bytes
        how = f"cgroup v{group.version}"
        return Probe(outcome, how, None if peak is None else peak / MIB, told)
