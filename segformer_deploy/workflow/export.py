"""Checkpoint -> checked ONNX file: model, deploy form, graph and verification in one call."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import MissingDependencyError, SpecError
from segformer_deploy.files import write_bytes
from segformer_deploy.shipped import WEIGHTS_FILE, shipped_file
from segformer_deploy.spec import (
    FrameSize,
    ModelSpec,
    ResizeRule,
    Weights,
    default_class_names,
    default_palette,
)
from segformer_deploy.streets.classes import CLASS_NAMES

if TYPE_CHECKING:
    from segformer_deploy.model.segformer import Segformer

DEFAULT_CLASSES = 150
"""ADE20K's, the data set of the paper's main table."""


@dataclass(frozen=True)
class ExportOptions:
    """What `segdeploy export` was asked for.

    Attributes:
        variant: ``b0`` … ``b5``; None takes the checkpoint's own, or b0.
        checkpoint: folder, file, hub id or ``demo``; None takes the demo weights where this
            installation has them, random ones otherwise.
        classes: None takes the checkpoint's own number, or 150.
        random_weights: random weights even where there are others.
        class_map: put upsampling and argmax into the graph.
        size: stretch frames to this size instead of the checkpoint's own resize rule.
        output: the file to write; None chooses a name under ``build/``.
        seed: of random weights.
    """

    variant: str | None = None
    checkpoint: str | None = None
    classes: int | None = None
    random_weights: bool = False
    class_map: bool = False
    size: FrameSize | None = None
    output: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how far it is from the PyTorch model."""

    onnx: Path
    spec: ModelSpec
    parameters: int
    macs: int
    macs_published: int
    macs_size: FrameSize
    verification: Any

    def to_dict(self) -> dict[str, Any]:
        check = self.verification
        return {
            "onnx": str(self.onnx),
            "variant": self.spec.variant,
            "classes": self.spec.classes,
            "weights": self.spec.to_dict()["weights"],
            "parameters": self.parameters,
            "macs": self.macs,
            "macs_published": self.macs_published,
            "macs_size": str(self.macs_size),
            "max_abs_diff": check.max_abs_diff,
            "relative_diff": check.relative,
            "exempt_share": check.exempt_share,
            "checked_sizes": [list(shape) for shape in check.shapes],
            "bytes": self.onnx.stat().st_size,
        }


def export_onnx(options: ExportOptions, say: Callable[[str], None]) -> ExportReport:
    """Export and check; nothing is written unless the graph equals the PyTorch model.

    Raises CheckpointError, VerificationError or OutputError.
    """
    _require("torch", "onnx", "onnxruntime")
    from segformer_deploy.graph.append_class_map import append_class_map
    from segformer_deploy.graph.macs import count_macs
    from segformer_deploy.graph.verify import verify_against
    from segformer_deploy.model.export import onnx_from_model
    from segformer_deploy.model.segformer import macs_of_model

    model, spec = _model_from_options(options, say)
    spec = spec.stretched_to(options.size)
    output = options.output or default_onnx_path(options, spec)
    graph = onnx_from_model(model, spec)
    say("checking the graph against the PyTorch model at three sizes and a batch of 2")
    verification = verify_against(graph, _reference(model, spec), check_shapes(spec))
    size = spec.resize.size or FrameSize(512, 512)
    macs = count_macs(graph, size)
    if options.class_map:
        graph = append_class_map(graph)
        verify_against(graph, _reference(model, spec), check_shapes(spec)[1:])
    write_bytes(output, graph.SerializeToString())
    return ExportReport(
        onnx=output,
        spec=spec,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=macs,
        macs_published=macs_of_model(model, size),
        macs_size=size,
        verification=verification,
    )


def check_shapes(spec: ModelSpec) -> list[tuple[int, int, int]]:
    """(batch, height, width) of the check: the model's own size, an awkward one, a batch of 2."""
    own = spec.resize.size or FrameSize(360, 480)
    return [(1, own.height, own.width), (1, 97, 133), (2, 64, 96)]


def default_onnx_path(options: ExportOptions, spec: ModelSpec) -> Path:
    """``build/segformer-b0.onnx``, or by the checkpoint's own name."""
    stem = f"segformer-{spec.variant}"
    if options.checkpoint and options.checkpoint != "demo":
        # A folder's or file's name, or a hub id's last part.
        name = Path(options.checkpoint).name.removesuffix(".pth")
        stem = re.sub(r"[^\w.-]+", "-", name) or stem
    return Path("build") / (stem + ("-class-map" if options.class_map else "") + ".onnx")


def _require(*modules: str) -> None:
    import importlib.util

    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(module, "export", "exporting checkpoints")


def _model_from_options(
    options: ExportOptions, say: Callable[[str], None]
) -> tuple[Segformer, ModelSpec]:
    from segformer_deploy.model.checkpoint import load_checkpoint, model_from_checkpoint

    if options.random_weights and options.checkpoint:
        raise SpecError(
            "both --random-weights and --checkpoint", "one of the two", "leave one of them out"
        )
    if options.checkpoint:
        loaded = load_checkpoint(
            options.checkpoint, variant=options.variant, classes=options.classes
        )
        spec = loaded.spec
        say(
            f"{options.checkpoint}: {spec.variant}, {spec.classes} classes, "
            f"licence: {spec.weights.licence}"
        )
        for note in loaded.notes:
            say(f"note: {note}")
        return model_from_checkpoint(loaded), spec
    if not options.random_weights:
        reason = _why_not_demo(options)
        if reason is None:
            say("taking the demo weights, trained on generated streets")
            return _model_from_options(replace(options, checkpoint="demo"), say)
        say(f"{reason}: taking random weights")
    return _random_model(options)


def _why_not_demo(options: ExportOptions) -> str | None:
    """Why the shipped weights do not serve what was asked for; None where they do."""
    if shipped_file(WEIGHTS_FILE) is None:
        return "this installation has no demo weights"
    if options.variant not in (None, "b0"):
        return f"the demo weights are b0's, not {options.variant}'s"
    if options.classes not in (None, len(CLASS_NAMES)):
        return f"the demo weights have {len(CLASS_NAMES)} classes, not {options.classes}"
    return None


def _random_model(options: ExportOptions) -> tuple[Segformer, ModelSpec]:
    from segformer_deploy.model.segformer import config_for, random_segformer

    variant = options.variant or "b0"
    classes = DEFAULT_CLASSES if options.classes is None else options.classes
    if classes < 1:
        raise SpecError(f"--classes {classes}", "1 or more")
    model = random_segformer(config_for(variant, classes), options.seed)
    # The paper tests B5 on ADE20K at 640x640, all others at 512x512.
    side = 640 if variant == "b5" else 512
    spec = ModelSpec(
        variant=variant,
        class_names=default_class_names(classes),
        palette=default_palette(classes),
        resize=ResizeRule.stretch_to(FrameSize(side, side)),
        weights=Weights(),
    )
    return model, spec


def _reference(
    model: Segformer, spec: ModelSpec
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """The published network on a uint8 RGB batch: what the exported graph has to equal."""
    import torch

    mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1)

    def logits(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            pixels = torch.from_numpy(image).permute(0, 3, 1, 2).to(torch.float32) / 255
            answer: npt.NDArray[np.float32] = model((pixels - mean) / std).numpy()
        return answer

    return logits
