"""How far SegFormer looks (the paper's section 3.3), in FP32 and INT8, and what tiles need of it.

::

    python benchmarks/receptive_field.py              # about four minutes on two cores
    python benchmarks/receptive_field.py --frames 2

The effective receptive field: gradients at the middle of each stage's output and of the logits, in
magnitude, over the frames. The graphs are the files that are deployed, run as PyTorch functions
(receptive_field_graph.py); INT8's rounding passes gradients straight through. Finite differences
would be true to the engine, but a patch's influence on one logit lies below a step of the grids
almost everywhere, so that they show rounding instead of reach. What an engine does with
less context is measured by itself: tiles of 256x256 inside 512x512, run by the engine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

ROOT = Path(__file__).resolve().parent.parent
for _folder in (ROOT, ROOT / "benchmarks"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from receptive_field_graph import TorchGraph  # noqa: E402
from receptive_field_page import draw, lines  # noqa: E402

from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.calibrate.ranges import read_ranges  # noqa: E402
from segformer_deploy.engine.package import load_engine  # noqa: E402
from segformer_deploy.files import sha256_of_file, write_text  # noqa: E402
from segformer_deploy.graph.equalise import equalise  # noqa: E402
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq  # noqa: E402
from segformer_deploy.runtime.class_map import class_map_from_logits  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.streets import street_frame  # noqa: E402

SIDE, TILE = 512, 256
STAGES = tuple(f"stage{number}.norm" for number in range(1, 5))
LOGITS = "logits"
STRIDE = {"image": 1, **{name: 4 << index for index, name in enumerate(STAGES)}, LOGITS: 4}
SHARES = (0.5, 0.9, 0.99)
HALF_SIDES = (16, 32, 64, 128, 192)
"""Squares, in pixels, whose share of the gradient is reported too."""
FIRST_SEED = 20_000_000
"""The shipped model's training used smaller ones only."""
CONTEXTS = (0, 32, 64, 96, 128)
"""Pixels around the tile; multiples of 32 keep the stages' grids where they were."""
MARGINS = tuple(range(0, 65, 8))
Floats = np.ndarray[Any, np.dtype[np.float64]]


def frames(count: int, size: int = SIDE) -> Iterator[np.ndarray[Any, Any]]:
    """Generated streets, uint8 [size, size, 3], RGB."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        frame, _ = street_frame(seed, FrameSize(size, size))
        yield np.ascontiguousarray(frame[:, :, ::-1])


def int8_graph(model: onnx.ModelProto, ranges_file: Path) -> onnx.ModelProto:
    """`model` as `segdeploy build-engine --int8` writes it for a CPU, no block kept out."""
    ranges = read_ranges(ranges_file)
    return insert_qdq(equalise(model, ranges.scales()), ranges.ranges, Recipe(), "unsigned")


def half_side(mass: Floats, share: float) -> float:
    """Half the side, in cells, of the smallest centred square that holds `share` of `mass`.

    The centre is the picture's; squares grow by a ring of cells at a time.
    """
    rows, columns = (np.abs(np.arange(n) + 0.5 - n / 2) + 0.5 for n in mass.shape)
    rings = np.maximum(rows[:, None], columns[None]).ravel()
    order = np.argsort(rings, kind="stable")
    total = np.cumsum(mass.ravel()[order])
    return float(rings[order][np.searchsorted(total, share * total[-1] * (1 - 1e-12))])


def held(mass: Floats, side: int) -> float:
    """The share of `mass` in the centred square of half the side `side`, in cells."""
    height, width = mass.shape
    rows, columns = max(height // 2 - side, 0), max(width // 2 - side, 0)
    return float(mass[rows : height - rows, columns : width - columns].sum() / mass.sum())


def middle(values: torch.Tensor, name: str) -> torch.Tensor:
    """What is derived: the four cells at the middle of `values`, as one number.

    Of the logits, the class that wins there. Of a stage, its channels with random signs of a fixed
    seed: a LayerNorm's channels sum to nearly a constant, whose gradient says nothing.
    """
    if name == LOGITS:
        values = values.permute(0, 2, 3, 1)
    height, width = values.shape[1:3]
    cells = values[0, height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1]
    summed = cells.sum(dim=(0, 1))
    if name == LOGITS:
        return summed.max()
    signs = np.random.default_rng(0).choice([-1.0, 1.0], len(summed))
    return summed @ torch.tensor(signs, dtype=torch.float32)


def fields_of(graph: TorchGraph, frame: np.ndarray[Any, Any]) -> dict[str, Floats]:
    """Share of the gradient's magnitude per cell, by "what <- of what".

    ``logits <- image``, ``stageN.norm <- image``, and ``logits <- stageN.norm``.
    """
    image = torch.from_numpy(frame)[None].float().requires_grad_()
    values = graph(image, [*STAGES, LOGITS])
    found = {}
    sources = {"image": image, **{name: values[name] for name in STAGES}}
    gradients = torch.autograd.grad(
        middle(values[LOGITS], LOGITS), list(sources.values()), retain_graph=True
    )
    for name, gradient in zip(sources, gradients, strict=True):
        found[f"{LOGITS} <- {name}"] = _mass(gradient)
    for name in STAGES:
        (gradient,) = torch.autograd.grad(middle(values[name], name), image, retain_graph=True)
        found[f"{name} <- image"] = _mass(gradient)
    return found


def _mass(gradient: torch.Tensor) -> Floats:
    """[1, h, w, C] -> the share of each cell in the summed magnitude, [h, w]."""
    mass: Floats = gradient[0].abs().sum(dim=-1).double().numpy()
    return mass / mass.sum()


def receptive_fields(
    model: onnx.ModelProto, count: int, advance: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """(half-sides in pixels of the mean over the frames and of each frame, the mean fields)."""
    graph = TorchGraph(model)
    total: dict[str, Floats] = {}
    samples: dict[str, list[list[float]]] = {}
    for number, frame in enumerate(frames(count), 1):
        for name, mass in fields_of(graph, frame).items():
            total[name] = total.get(name, 0.0) + mass / count
            stride = STRIDE[name.split(" <- ")[1]]
            sides = [stride * half_side(mass, share) for share in SHARES]
            samples.setdefault(name, []).append(sides)
        advance(f"frame {number} of {count}")
    rows: dict[str, Any] = {}
    for name, mass in total.items():
        stride = STRIDE[name.split(" <- ")[1]]
        rows[name] = {
            "half_side_px": [stride * half_side(mass, share) for share in SHARES],
            "of_each_frame_px": samples[name],
        }
        if stride == 1:
            rows[name]["held"] = {str(side): held(mass, side) for side in HALF_SIDES}
    return rows, total


def tiles(onnx_file: Path, count: int) -> dict[str, Any]:
    """Agreement with the whole frame's class map, per frame, by context and by margin.

    ``context``: the middle 256x256, which the engine sees with so many pixels around them.
    ``margin``: a tile of 256x256, of which so many pixels along each side are dropped.
    """
    engine = load_engine(onnx_file).engine
    session = engine.session()

    def class_map(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        logits = session.run({"image": np.ascontiguousarray(image[None])})["logits"][0]
        return class_map_from_logits(logits, FrameSize(*image.shape[:2]))

    context: dict[int, list[float]] = {one: [] for one in CONTEXTS}
    margin: dict[int, list[float]] = {one: [] for one in MARGINS}
    begin, end = (SIDE - TILE) // 2, (SIDE + TILE) // 2
    for frame in frames(count):
        whole = class_map(frame)[begin:end, begin:end]
        for around in CONTEXTS:
            seen = class_map(frame[begin - around : end + around, begin - around : end + around])
            kept = seen[around : around + TILE, around : around + TILE]
            context[around].append(float((kept == whole).mean()))
            if around == 0:
                for drop in MARGINS:
                    part = slice(drop, TILE - drop)
                    margin[drop].append(float((kept[part, part] == whole[part, part]).mean()))
    session.close()
    engine.close()
    return {"engine": engine.name, "context": context, "margin": margin}


def main(arguments: list[str] | None = None) -> int:
    models = ROOT / "models" / "segformer-b0-streets" / "model.onnx"
    parser = argparse.ArgumentParser(description="The effective receptive field, and tiles.")
    add = parser.add_argument
    add("--model", type=Path, default=models, help="an FP32 ONNX file of ours")
    add("--ranges", type=Path, default=ROOT / "calibration" / "model.ranges.json")
    add("--frames", type=int, default=20, help="generated streets")
    add("--output", type=Path, default=ROOT / "benchmarks/results/receptive-field.json")
    add("--figure", type=Path, default=ROOT / "docs" / "receptive-field.png")
    options = parser.parse_args(arguments)
    model = onnx.load(options.model)
    graphs = {"fp32": model, "int8": int8_graph(model, options.ranges)}
    fields, precisions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for precision, graph in graphs.items():
            rows, fields[precision] = receptive_fields(
                graph, options.frames, lambda text, p=precision: print(p, text, file=sys.stderr)
            )
            file = Path(folder) / f"{precision}.onnx"
            onnx.save(graph, file)
            precisions[precision] = {"fields": rows, "tiles": tiles(file, options.frames)}
    data = {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": {
            "model_sha256": sha256_of_file(options.model),
            "frames": options.frames,
            "seeds_from": FIRST_SEED,
            "size": SIDE,
            "tile": TILE,
            "shares": SHARES,
        },
        "machine": machine_facts().to_dict(),
        "precisions": precisions,
    }
    write_text(options.output, json.dumps(data, indent=1) + "\n")
    draw(fields, data, options.figure)
    print("\n".join(lines(json.loads(options.output.read_text(encoding="utf-8")))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
