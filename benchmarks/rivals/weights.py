"""Random weights whose class maps have regions, and the ONNX files of every network.

A process of its own (``python -m rivals.weights``), whose memory goes back when it ends. A file
that is there is kept: its folder's name states what decides its content.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_runners.prepare import make_weights, street_frame
from torch import Tensor, nn

from rivals.networks import NETWORKS, FromPixels

OPSET = 20
"""Our own export's."""
SEED = 0


def enliven(network: nn.Module, classify: nn.Conv2d, image: Tensor) -> None:
    """Random weights that keep the signal's variance; every class wins somewhere in `image`.

    PyTorch's own initialisation gives nearly constant logits, so one class everywhere, and a
    class map that costs nothing. Batch norms take their statistics from the picture, layer by
    layer; the classifier is scaled to zero mean and unit spread per class.
    """
    torch.manual_seed(SEED)
    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(_take_statistics))
    with torch.no_grad():
        logits = network(image)[0].flatten(1)
        for hook in hooks:
            hook.remove()
        spread = logits.std(dim=1)
        assert classify.bias is not None
        classify.weight /= spread[:, None, None, None]
        classify.bias.copy_((classify.bias - logits.mean(dim=1)) / spread)


def _take_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
    values = inputs[0]
    if values[0, 0].numel() == 1:
        # One value per channel (a mean over the picture): its size over all channels stands in.
        norm.running_mean.zero_()
        norm.running_var.fill_(float(values.square().mean()))
        return
    norm.running_mean.copy_(values.mean(dim=(0, 2, 3)))
    norm.running_var.copy_(values.var(dim=(0, 2, 3), unbiased=False))


def rival(name: str, classes: int, frame: np.ndarray[Any, Any]) -> nn.Module:
    """The network `name` with random weights, for a frame uint8 [H, W, 3], RGB."""
    torch.manual_seed(SEED)
    network = NETWORKS[name](classes, frame.shape[0]).eval()
    if name != "setr":  # whose memory alone is asked for
        head: Any = network.head
        image = FromPixels(nn.Identity())(torch.from_numpy(frame)[None])
        enliven(network, head.classify, image)
    return network


class UsualB0(nn.Module):
    """SegFormer-B0 as transformers defines it: pixel values -> logits."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from transformers import SegformerForSemanticSegmentation

        self.model = SegformerForSemanticSegmentation.from_pretrained(str(weights)).eval()

    def forward(self, pixels: Tensor) -> Any:
        return self.model(pixel_values=pixels).logits


def export(
    network: nn.Module, path: Path, frame: tuple[int, int], size: tuple[int, int] | None
) -> None:
    """One frame of fixed size in, logits or with `size` the class map out.

    Fixed sizes are to the advantage of what is exported so: the shapes are constants.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            FromPixels(network, size).eval(),
            (torch.zeros(1, *frame, 3, dtype=torch.uint8),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits" if size is None else "class_map"],
        )


def _once(path: Path, make: Callable[[Path], None]) -> None:
    if path.exists():
        return
    aside = path.with_name(f"partial-{os.getpid()}-{path.name}")
    try:
        make(aside)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def prepare(work: Path, names: list[str], classes: int, frame_size: tuple[int, int]) -> None:
    """Fill `work` with ``frame.npy``, ``weights/`` (B0's) and two ONNX files per network."""
    work.mkdir(parents=True, exist_ok=True)
    frame = street_frame(*frame_size)
    np.save(work / "frame.npy", frame)
    if not (work / "weights" / "config.json").exists():
        make_weights(work / "weights", frame, classes, frame_size, SEED)
    for name in names:
        wanted = {None: work / f"{name}.onnx", frame_size: work / f"{name}.class-map.onnx"}
        if name == "setr":
            del wanted[frame_size]
        if all(path.exists() for path in wanted.values()):
            continue
        network = UsualB0(work / "weights") if name == "b0" else rival(name, classes, frame)
        for size, path in wanted.items():

            def make(aside: Path, network: nn.Module = network, size: Any = size) -> None:
                export(network, aside, frame_size, size)

            _once(path, make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder to fill")
    parser.add_argument("--names", nargs="+", required=True, help="networks")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--frame", type=int, nargs=2, required=True, metavar=("H", "W"))
    a = parser.parse_args()
    prepare(a.work, a.names, a.classes, (a.frame[0], a.frame[1]))


if __name__ == "__main__":
    main()
