"""One point of the curve: a size, its memory and its mIoU."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from floor.arena import Arena
from floor.bound import least_live_bytes, live_bytes
from floor.calibrate import grids_from_extremes, observe
from floor.executor import Executor
from floor.network import Network, network_from_model
from floor.prepare import Ready, ready_from_network
from floor.schedule import arena_bytes, phases, plan_within, smallest_bytes
from floor.score import Scored, difference, frames_of, score
from floor.space import FAST
from segformer_deploy.bench import Frame, read_frame
from segformer_deploy.bench.labels import Pair
from segformer_deploy.errors import VerificationError
from segformer_deploy.runtime.class_map import class_map_from_logits
from segformer_deploy.runtime.resample import resize
from segformer_deploy.spec import FrameSize, ModelSpec

SLACK = 1.05
"""The arena that is run may be this much above the finest cut's: it runs many times faster."""
TRACED_PIXELS = 96 * 128
"""Above, following every allocation takes minutes."""


@dataclass(frozen=True)
class Task:
    model: Any
    network: Network
    spec: ModelSpec


def task_from(checkpoint: Path) -> Task:
    import torch

    from segformer_deploy.model.checkpoint import load_checkpoint, model_from_checkpoint

    torch.set_num_threads(1)
    loaded = load_checkpoint(checkpoint)
    model = model_from_checkpoint(loaded)
    return Task(model, network_from_model(model, loaded.spec.mean, loaded.spec.std), loaded.spec)


def resizer(size: FrameSize) -> Callable[[Frame], Frame]:
    """A frame of any size, BGR -> the network's size, RGB, with the filter the Segmenter uses."""

    def resized(frame: Frame) -> Frame:
        out = np.empty((size.height, size.width, 3), np.uint8)
        return resize(frame, size.height, size.width, "bilinear", swap=True, out=out, threads=1)

    return resized


def float_segmenter(task: Task, size: FrameSize) -> Callable[[Frame], npt.NDArray[Any]]:
    """PyTorch in FP32, logits upsampled as the Segmenter does."""
    import torch

    resized = resizer(size)
    mean = 255 * torch.tensor(task.spec.mean).reshape(1, 3, 1, 1)
    std = 255 * torch.tensor(task.spec.std).reshape(1, 3, 1, 1)

    def segment(frame: Frame) -> npt.NDArray[Any]:
        image = torch.from_numpy(resized(frame)).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            logits = task.model((image - mean) / std)[0].numpy()
        return class_map_from_logits(logits, FrameSize(*frame.shape[:2]), threads=1)

    return segment


def point(
    task: Task,
    size: FrameSize,
    tests: Sequence[Pair],
    calibration: Sequence[Pair],
    lean_frames: int,
) -> tuple[dict[str, Any], Scored]:
    """Everything about one size, and the 8-bit scores."""
    config, resized = task.network.config, resizer(size)
    fp32 = score(float_segmenter(task, size), task.spec, tests)
    seen = observe(task.network, size, (frames_of([pair], resized)[0] for pair in calibration))
    ready = ready_from_network(task.network, grids_from_extremes(task.network, seen))
    fast = Executor(ready, size, FAST)
    int8 = score(
        lambda frame: fast.class_map(resized(frame), FrameSize(*frame.shape[:2])), task.spec, tests
    )
    same = [float((a == b).mean()) for a, b in zip(int8.maps, fp32.maps, strict=True)]
    least, again = least_live_bytes(config, size)
    some = frames_of(tests[:lean_frames], resized)
    lean = [lean_run(ready, size, some, int8.maps, keep_c1=keep) for keep in (True, False)]
    return {
        "size": str(size),
        "pixels": size.pixels,
        "fp32_miou": fp32.miou,
        "int8_miou": int8.miou,
        "int8_less_fp32": vars(difference(int8.counts, fp32.counts)),
        "agreement": float(np.mean(same)),
        "bound_c1_to_c4": live_bytes(config, size),
        "bound_c1_again": live_bytes(config, size, 1),
        "bound_least": least,
        "bound_least_makes_again": again,
        "keep": lean[0],
        "again": lean[1],
        "counts": {"fp32": fp32.counts.sum(0).tolist(), "int8": int8.counts.sum(0).tolist()},
    }, int8


def budget_run(
    task: Task, size: FrameSize, budget: int, calibration: Sequence[Pair], test: Pair, keep_c1: bool
) -> dict[str, Any]:
    """One frame in an arena of exactly `budget` bytes, cut as coarsely as that allows."""
    resized = resizer(size)
    seen = observe(task.network, size, (frames_of([pair], resized)[0] for pair in calibration))
    ready = ready_from_network(task.network, grids_from_extremes(task.network, seen))
    whole = read_frame(test.image)
    frame, own_size = resized(whole), FrameSize(*whole.shape[:2])
    wanted = Executor(ready, size, FAST).class_map(frame, own_size)
    run = lean_run(ready, size, [frame], [wanted], keep_c1=keep_c1, budget=budget)
    return {"size": str(size), "keep_c1": keep_c1, "budget": budget, **run}


def lean_run(
    ready: Ready,
    size: FrameSize,
    frames: Sequence[Frame],
    maps: Sequence[npt.NDArray[Any]],
    *,
    keep_c1: bool,
    budget: int | None = None,
) -> dict[str, Any]:
    """Run `frames` in a small arena; every claim about it is checked here.

    Args:
        maps: the class maps that the fast plan gave.
        budget: the arena's bytes; by default hardly more than the finest cut needs.

    Raises:
        VerificationError: other class maps than `maps`, or another peak than the schedule's.
    """
    config = ready.network.config
    finest = smallest_bytes(config, size, keep_c1=keep_c1)
    plan = plan_within(config, size, budget or int(SLACK * finest), keep_c1=keep_c1)
    run = Executor(ready, size, plan, arena=Arena(budget) if budget else None)
    started = time.perf_counter()
    for frame, wanted in zip(frames, maps, strict=False):
        run.arena.poison()
        found = run.class_map(frame, FrameSize(*wanted.shape))
        run.arena.check()
        if (found != wanted).any():
            raise VerificationError(f"{plan} gives another class map at {size}", "the same bits")
    seconds = (time.perf_counter() - started) / max(1, len(frames))
    if run.arena.peak != arena_bytes(run.space):
        raise VerificationError(
            f"the arena's peak is {run.arena.peak}", f"{arena_bytes(run.space)} by the schedule"
        )
    peak = max(phases(run.space), key=lambda phase: phase.bytes)
    return {
        "finest_arena_bytes": finest,
        "arena_bytes": run.arena.peak,
        "plan": asdict(plan),
        "frames": len(frames),
        "seconds_per_frame": seconds,
        "peak_phase": asdict(peak),
        "python_bytes": _traced(run, frames[0]) if size.pixels <= TRACED_PIXELS else None,
    }


def _traced(run: Executor, frame: Frame) -> int:
    """The most that one frame allocates outside of the arena: Python's own small objects."""
    tracemalloc.start()
    try:
        run(frame, run.size, lambda y, x, pixels: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def line_of(point: dict[str, Any]) -> str:
    keep, again, loss = point["keep"], point["again"], point["int8_less_fp32"]
    return (
        f"{point['size']:>8}  FP32 {point['fp32_miou']:5.2f}  INT8 {point['int8_miou']:5.2f} "
        f"({loss['difference']:+.2f}, {loss['low']:+.2f} to {loss['high']:+.2f})  "
        f"arena {keep['arena_bytes']:,} / {again['arena_bytes']:,} bytes  "
        f"least {keep['finest_arena_bytes']:,} / {again['finest_arena_bytes']:,}  "
        f"live set {point['bound_c1_to_c4']:,}"
    )
