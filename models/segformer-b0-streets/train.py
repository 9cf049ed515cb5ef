"""Train SegFormer-B0 from scratch on generated streets, on a CPU, and resume where it was cut.

    python models/segformer-b0-streets/train.py --minutes 60
    python models/segformer-b0-streets/train.py --evaluate

The recipe is the paper's (section 4.1: AdamW, poly schedule of power 1.0, random resize, flip,
crop), adapted to training from scratch: a higher learning rate with a warm-up, an average of
the weights, and crops that grow while the schedule runs down. The decode head is trained in
its commuted form (projections before upsampling): the same function, fewer operations.

The schedule runs over the minutes of training, not over steps, so that it ends on a machine of
any speed; `--minutes` larger than before continues a finished run from its saved state, and
`--start-from model.safetensors` continues one from its published weights, which carry how far
they came (only the optimiser and the average begin anew).
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from evaluate import FIRST_SEED, score
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from segformer_deploy.model.segformer import Segformer, config_for, random_segformer
from segformer_deploy.spec import MEAN_IMAGENET, STD_IMAGENET, FrameSize
from segformer_deploy.streets import CLASS_NAMES, street_frame

HERE = Path(__file__).resolve().parent
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
WARM_UP_STEPS = 150
AVERAGE = 0.998
WORKERS = 2
LONGEST_STEP_S = 10.0
"""A step counts at most this long: a machine put to sleep does not use up the schedule."""


@dataclass(frozen=True)
class Phase:
    """Until this share of the schedule: crop side, frames per step, sides of the whole frame."""

    until: float
    crop: int
    batch: int
    sides: tuple[int, int]


PHASES = (
    Phase(0.35, 160, 16, (160, 320)),
    Phase(0.80, 256, 8, (256, 576)),
    Phase(1.01, 384, 4, (384, 640)),
)


def phase_at(share: float) -> Phase:
    return next(phase for phase in PHASES if share < phase.until)


# Frames ---------------------------------------------------------------------------------------


def sample(seed: int, phase: Phase) -> tuple[np.ndarray, np.ndarray]:
    """One crop of one street: uint8 BGR `[crop, crop, 3]` and its label."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(phase.sides[0], phase.sides[1] + 1))
    image, label = street_frame(seed, FrameSize(side, side))
    top, left = (int(v) for v in rng.integers(0, side - phase.crop + 1, 2))
    window = slice(top, top + phase.crop), slice(left, left + phase.crop)
    image, label = image[window], label[window]
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def _one(task: tuple[int, Phase]) -> tuple[np.ndarray, np.ndarray]:
    return sample(*task)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    os.nice(1)


class Batches:
    """Batches made ahead by worker processes; `take(phase)` gives the next one."""

    def __init__(self, first_seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = context.Pool(WORKERS, _start_worker)
        self.seed = first_seed
        self.ready: list[tuple[Phase, Any]] = []

    def _order(self, phase: Phase) -> None:
        seeds = range(self.seed, self.seed + phase.batch)
        self.seed += phase.batch
        self.ready.append((phase, self.pool.map_async(_one, [(s, phase) for s in seeds])))

    def take(self, phase: Phase) -> tuple[Tensor, Tensor]:
        while len(self.ready) < 4:
            self._order(phase)
        _, result = self.ready.pop(0)
        images, labels = zip(*result.get(), strict=True)
        return normalised(np.stack(images)), torch.from_numpy(np.stack(labels)).long()

    def close(self) -> None:
        self.pool.terminate()


def normalised(bgr: np.ndarray) -> Tensor:
    """uint8 BGR `[B, H, W, 3]` -> float `[B, 3, H, W]`, as the deployed graph normalises."""
    image = torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1])).permute(0, 3, 1, 2).float()
    mean = torch.tensor(MEAN_IMAGENET).view(1, 3, 1, 1)
    std = torch.tensor(STD_IMAGENET).view(1, 3, 1, 1)
    return (image / 255 - mean) / std


# Network --------------------------------------------------------------------------------------


class Commuted(nn.Module):
    """A Segformer whose decode head projects before it upsamples: the same function."""

    def __init__(self, model: Segformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        head = self.model.decode_head
        stages = self.model.segformer.encoder(image)
        channels = head.linear_fuse.weight.shape[0]
        total = torch.zeros(())
        for index, (stage, layer) in enumerate(zip(stages, head.linear_c, strict=True)):
            # The fuse convolution takes stage 4 first.
            slot = slice((3 - index) * channels, (4 - index) * channels)
            fuse = head.linear_fuse.weight[:, slot, 0, 0]
            weight = (fuse @ layer.proj.weight)[:, :, None, None]
            part = functional.conv2d(stage, weight, fuse @ layer.proj.bias)
            if index:
                size = stages[0].shape[2:]
                part = functional.interpolate(part, size, mode="bilinear", align_corners=False)
            total = total + part
        return head.classifier(functional.relu(head.batch_norm(total)))


def loss_of(logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    full = functional.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    return functional.cross_entropy(full, label, weights)


def class_weights() -> Tensor:
    """Rare classes count more: the cube root of their rarity over 60 frames, mean 1."""
    counts = np.zeros(len(CLASS_NAMES))
    for seed in range(FIRST_SEED - 60, FIRST_SEED):
        _, label = street_frame(seed, FrameSize(128, 128))
        counts += np.bincount(label.ravel(), minlength=len(CLASS_NAMES))
    weights = (counts / counts.sum() + 1e-3) ** (-1 / 3)
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


# Training -------------------------------------------------------------------------------------


class Run:
    """Model, optimiser and progress; all of it in one file, so that a cut run goes on."""

    def __init__(self, folder: Path, seed: int, start_from: Path | None = None) -> None:
        self.path = folder / "state.pt"
        self.seed = seed
        self.model = random_segformer(config_for("b0", len(CLASS_NAMES)), seed)
        self.step, self.trained_s, self.next_seed = 0, 0.0, 0
        if start_from is not None:
            self._start_from(start_from)
        self.network = Commuted(self.model)
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(self._groups(), LEARNING_RATE)
        self.cold_steps = self.step
        if self.path.is_file():
            state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average = state["average"]
            self.step, self.trained_s = state["step"], state["trained_s"]
            self.next_seed = state["next_seed"]
            self.seed = state["seed"]
            self.cold_steps = state["cold_steps"]

    def _start_from(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            wide = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
            progress = json.loads(file.metadata()["progress"])
        self.model.load_state_dict(wide)
        self.step, self.trained_s = progress["step"], progress["trained_s"]
        self.next_seed, self.seed = progress["next_seed"], progress["seed"]

    def _groups(self) -> list[dict[str, Any]]:
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        return [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": plain, "weight_decay": 0.0},
        ]

    def save(self) -> None:
        state = {
            "seed": self.seed,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
            "trained_s": self.trained_s,
            "next_seed": self.next_seed,
            "cold_steps": self.cold_steps,
        }
        aside = self.path.with_suffix(".partial")
        torch.save(state, aside)
        aside.replace(self.path)

    def advance(self, image: Tensor, label: Tensor, weights: Tensor, share: float) -> float:
        warm = min(1.0, (self.step - self.cold_steps + 1) / WARM_UP_STEPS)
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * warm * max(0.0, 1.0 - share)
        self.network.train()
        loss = loss_of(self.network(image), label, weights)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
        return float(loss.detach())


def train(folder: Path, minutes: float, seed: int, start_from: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, seed, start_from)
    weights = class_weights()
    batches = Batches(run.next_seed)
    log = (folder / "curve.csv").open("a", newline="")
    curve = csv.writer(log)
    losses: list[float] = []
    saved = time.monotonic()
    try:
        while run.trained_s < 60 * minutes:
            share = run.trained_s / (60 * minutes)
            phase = phase_at(share)
            start = time.monotonic()
            image, label = batches.take(phase)
            losses.append(run.advance(image, label, weights, share))
            run.trained_s += min(time.monotonic() - start, LONGEST_STEP_S)
            run.next_seed = batches.seed
            if run.step % 50 == 0:
                mean = sum(losses) / len(losses)
                losses.clear()
                curve.writerow([run.step, f"{run.trained_s:.0f}", phase.crop, f"{mean:.4f}"])
                log.flush()
                print(f"step {run.step}, {run.trained_s / 60:.1f} min, loss {mean:.4f}", flush=True)
            if time.monotonic() - saved > 120:
                run.save()
                saved = time.monotonic()
    finally:
        run.save()
        batches.close()
        log.close()


# Evaluation -----------------------------------------------------------------------------------


def averaged_model(folder: Path) -> Segformer:
    model = Segformer(config_for("b0", len(CLASS_NAMES)))
    model.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["average"])
    return model.eval()


def segmenting(model: Segformer) -> Callable[[np.ndarray], np.ndarray]:
    """Frame to class map in PyTorch: how a run is looked at before it is published."""
    network = Commuted(model)

    def segment(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = network(normalised(image[None]))
            full = functional.interpolate(logits, image.shape[:2], mode="bilinear")
        return full.argmax(1)[0].numpy().astype(np.uint8)

    return segment


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="of training in all")
    parser.add_argument("--folder", type=Path, default=Path("build/train-b0-streets"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-from", type=Path, help="weights to begin a new run from")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the average")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--export", type=Path, help="write the averaged weights (safetensors)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if not (options.evaluate or options.export):
        train(options.folder, options.minutes, options.seed, options.start_from)
    model = averaged_model(options.folder)
    if options.export:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, options.export)
    print(json.dumps(score(segmenting(model), options.frames)))


if __name__ == "__main__":
    main()
