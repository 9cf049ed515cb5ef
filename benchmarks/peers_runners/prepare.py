"""What the peers share, made once in the work folder: frame, weights, the two ONNX files.

A process of its own, so that the parent of the measurement holds no PyTorch. Each piece is
written aside and renamed when complete; a piece that is there is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

OPSET = 18  # LayerNormalization is one op from 17 on; ONNX Runtime fuses GELU by itself.
# Of stages 1 to 4 in the random weights. Some 7 % of neighbouring pixels then differ in class,
# still more than in the maps of a trained network (3 % for driving scenes of 11 classes).
LOUDNESS = (0.05, 0.1, 0.5, 1.0)


def street_frame(height: int, width: int, seed: int = 7) -> np.ndarray[Any, Any]:
    """A street-like picture, uint8 `[height, width, 3]`, RGB: flat areas, edges, some grain.

    Drawn, not random noise: how much work a class map takes depends on how many borders the
    picture has.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / height, x / width
    # Sky: blue above, pale at the horizon.
    sky = np.stack([120 + 180 * y, 160 + 140 * y, 225 + 30 * y], axis=-1)
    picture = np.where((y < 0.5)[..., None], sky, 105 + 40 * (1 - y)[..., None])
    _buildings(picture, random, x, y)
    _road(picture, x, y)
    _trees_and_cars(picture, random, x, y)
    grain = random.normal(0, 3.0, (height, width, 1)) + random.normal(0, 1.5, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def _buildings(picture: Any, random: Any, x: Any, y: Any) -> None:
    for left in np.arange(0.0, 1.0, 0.125):
        if 0.37 < left < 0.5:
            continue  # the street's vanishing point stays open
        top = random.uniform(0.12, 0.32)
        wall = (x >= left) & (x < left + 0.125) & (y > top) & (y < 0.55)
        colour = random.uniform(70, 180, 3)
        picture[wall] = colour * (0.9 + 0.2 * (y[wall] - top))[:, None]
        windows = wall & ((x - left) % 0.03 > 0.014) & ((y - top) % 0.06 > 0.028)
        picture[windows] = colour * 0.45


def _road(picture: Any, x: Any, y: Any) -> None:
    below = y > 0.5
    half = 0.05 + 0.9 * (y - 0.5)
    pavement = below & (np.abs(x - 0.45) > half)
    picture[pavement] = (150, 140, 135)
    road = below & ~pavement
    picture[road] = (80 + 30 * y[road])[:, None] * np.array([1.0, 1.0, 1.05])
    dashes = road & (np.abs(x - 0.45) < 0.012 * (y - 0.48) * 4) & ((y * 16) % 1 < 0.6)
    picture[dashes] = (235, 235, 225)


def _trees_and_cars(picture: Any, random: Any, x: Any, y: Any) -> None:
    for centre in (0.08, 0.72, 0.93):
        crown = ((x - centre) / 0.07) ** 2 + ((y - 0.42) / 0.13) ** 2 < 1
        shade = 1 + 0.3 * np.sin(60 * x[crown]) * np.cos(50 * y[crown])
        picture[crown] = shade[:, None] * np.array([45, 105, 40])
        picture[(np.abs(x - centre) < 0.008) & (y > 0.52) & (y < 0.66)] = (80, 60, 45)
    for centre, bottom, size in ((0.3, 0.78, 0.16), (0.56, 0.66, 0.08), (0.8, 0.9, 0.22)):
        body = (np.abs(x - centre) < size / 2) & (y > bottom - size * 0.6) & (y < bottom)
        picture[body] = random.uniform(40, 220, 3)
        glass = (np.abs(x - centre) < size * 0.4) & body & (y < bottom - size * 0.35)
        picture[glass] = (40, 50, 60)
        for wheel in (centre - size * 0.3, centre + size * 0.3):
            disc = (x - wheel) ** 2 + ((y - bottom) * 0.75) ** 2 < (size * 0.1) ** 2
            picture[disc] = (25, 25, 25)


def make_weights(
    folder: Path, frame: np.ndarray[Any, Any], classes: int, network: tuple[int, int], seed: int
) -> None:
    """A SegFormer-B0 in transformers' format whose random weights give class maps with regions.

    transformers' own initialisation gives nearly constant logits, so one class everywhere.
    Here each layer keeps its signal's variance, the batch norm's statistics and the
    classifier's bias come from the frame, and so many classes win somewhere. The coarse
    stages speak louder than the fine ones, or the class map would be confetti.
    """
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    from peers_runners.hugging_face import image_processor

    torch.manual_seed(seed)
    labels = {index: f"class {index}" for index in range(classes)}
    config = SegformerConfig(
        id2label=labels, label2id={name: index for index, name in labels.items()}
    )
    model = SegformerForSemanticSegmentation(config).eval()
    folder.mkdir(parents=True)
    _write_processor(folder, network)
    inputs = image_processor(folder)(images=frame, return_tensors="pt")
    with torch.no_grad():
        _keep_variance(model)
        _fit_to_frame(model, inputs)
    model.save_pretrained(str(folder))


def _write_processor(folder: Path, network: tuple[int, int]) -> None:
    from peers_runners.hugging_face import image_processor_class

    processor = image_processor_class()(
        do_resize=True, size={"height": network[0], "width": network[1]}, resample=2
    )
    processor.save_pretrained(str(folder))


def _keep_variance(model: Any) -> None:
    from torch import nn

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.1)
            nn.init.normal_(module.bias, std=0.1)


def _fit_to_frame(model: Any, inputs: Any) -> None:
    head = model.decode_head
    for projection, loudness in zip(head.linear_projections, LOUDNESS, strict=True):
        projection.proj.weight *= loudness
        projection.proj.bias *= loudness
    head.batch_norm.train()
    head.batch_norm.momentum = 1.0
    model(**inputs)
    head.batch_norm.eval()
    head.batch_norm.momentum = 0.1
    logits = model(**inputs).logits[0].flatten(1)
    spread = logits.std(dim=1)
    head.classifier.weight /= spread[:, None, None, None]
    # Zero mean and unit spread per class: each class then wins where its own filter answers.
    head.classifier.bias.copy_((head.classifier.bias - logits.mean(dim=1)) / spread)


def export_onnx(weights: Path, output: Path, size: tuple[int, int] | None) -> None:
    """The usual export: free batch, height and width; with `size`, resize and argmax as well.

    These are the axes and the exporter that optimum-onnx uses.
    """
    import torch
    from torch import nn
    from transformers import SegformerForSemanticSegmentation

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SegformerForSemanticSegmentation.from_pretrained(str(weights)).eval()

        def forward(self, pixel_values: Any) -> Any:
            logits = self.model(pixel_values=pixel_values).logits
            if size is None:
                return logits
            large = nn.functional.interpolate(
                logits, size=size, mode="bilinear", align_corners=False
            )
            return large.argmax(dim=1)

    name = "logits" if size is None else "class_map"
    axes = {"pixel_values": {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}}
    axes[name] = {0: "batch_size"} if size else {0: "batch_size", 2: "out_h", 3: "out_w"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Network(),
            (torch.zeros(1, 3, 512, 512),),
            str(output),
            dynamo=False,
            opset_version=OPSET,
            input_names=["pixel_values"],
            output_names=[name],
            dynamic_axes=axes,
        )


def _once(path: Path, make: Any) -> None:
    """Call `make(temporary)` unless `path` is there; rename when it is complete."""
    if path.exists():
        return
    temporary = path.with_name(f"partial-{os.getpid()}-{path.name}")
    try:
        make(temporary)
        temporary.rename(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def prepare(
    work: Path,
    classes: int,
    network: tuple[int, int],
    frame_size: tuple[int, int],
    seed: int,
    checkpoint: Path | None = None,
) -> None:
    """Fill `work` with ``frame.npy``, ``weights/``, ``peer.onnx``, ``peer_class_map.onnx``."""
    work.mkdir(parents=True, exist_ok=True)
    frame = street_frame(*frame_size)

    def write_frame(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, frame)

    def write_weights(path: Path) -> None:
        if checkpoint is None:
            make_weights(path, frame, classes, network, seed)
        else:
            shutil.copytree(checkpoint, path)
            _write_processor(path, network)

    _once(work / "frame.npy", write_frame)
    _once(work / "weights", write_weights)
    weights = work / "weights"
    _once(work / "peer.onnx", lambda path: export_onnx(weights, path, None))
    _once(work / "peer_class_map.onnx", lambda path: export_onnx(weights, path, frame_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder to fill")
    parser.add_argument("--classes", type=int, default=150, help="number of classes")
    parser.add_argument("--network", type=int, nargs=2, default=(512, 512), help="H W")
    parser.add_argument("--frame", type=int, nargs=2, default=(480, 640), help="H W")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--checkpoint", type=Path, help="weights in transformers' format")
    a = parser.parse_args()
    prepare(a.work, a.classes, tuple(a.network), tuple(a.frame), a.seed, a.checkpoint)


if __name__ == "__main__":
    main()
