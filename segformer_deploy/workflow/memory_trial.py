"""What a whole process takes that segments frames, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import RunError
from segformer_deploy.spec import FrameSize

_TIMEOUT = 600
_PROBE = """
import json, sys, time
import numpy as np
from segformer_deploy import Segmenter
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.spec import FrameSize
path, backend, height, width, runs, arena, tile, overlap, merge = sys.argv[1:]
size = FrameSize(int(height), int(width))
tiling = Tiling(FrameSize.parse(tile), int(overlap), merge) if tile else None
def resident(field):  # by hand: what would be imported for it would be measured too
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[field].split()[0]) / 1024
with Segmenter(
    path, backend=backend, size=size, arena=arena == "True", tiling=tiling
) as segment:
    loaded = resident("VmRSS")
    frame = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)
    ms = []
    for _ in range(int(runs)):
        start = time.perf_counter()
        segment(frame)
        ms.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"loaded": loaded, "peak": resident("VmHWM"), "ms": ms}))
"""


@dataclass(frozen=True)
class TrialFrame:
    """A frame that is segmented by tiles: its size in the network's input, and how."""

    size: FrameSize
    tiling: Tiling


@dataclass(frozen=True)
class Peak:
    """What a process took, read from within it.

    Attributes:
        loaded_mib: resident memory with the engine loaded, before the first frame.
        peak_mib: the largest resident memory from the process's start to its last frame.
        ms: of each frame, the first one among them.
    """

    loaded_mib: float
    peak_mib: float
    ms: tuple[float, ...] = ()


def measure_peak(
    path: Path,
    size: FrameSize,
    backend: str,
    runs: int = 4,
    *,
    arena: bool = True,
    tiling: Tiling | None = None,
) -> Peak:
    """Segment `runs` frames of `size` in a process of its own and read what it took.

    `arena` and `tiling` are `Segmenter`'s; a graph that says how its values are held goes before
    `arena`. RunError where that process fails.
    """
    tiles = (tiling.tile, tiling.overlap, tiling.merge) if tiling else ("", "", "")
    arguments = map(str, (path, backend, size.height, size.width, runs, arena, *tiles))
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise RunError(
            f"a trial run of {path.name} at {size} on {backend} failed: {' '.join(last)}",
            f"a process that segments {runs} frames",
            "run it by itself: segdeploy bench MODEL.onnx --size " + str(size),
        ) from error
    return Peak(found["loaded"] or 0.0, found["peak"], tuple(found["ms"]))
