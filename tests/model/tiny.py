"""Tiny networks, and transformers' own SegFormer with the same weights to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from segformer_deploy.model.segformer import Segformer, SegformerConfig
from segformer_deploy.spec import ModelSpec, default_class_names, default_palette
from tests.model.checkpoint_builders import randomise

# On networks this small a second thread mostly waits: on a busy machine, most of the run time.
torch.set_num_threads(1)

TINY = SegformerConfig((8, 16, 40, 64), (1, 2, 1, 1), head_channels=12, classes=7)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def spec_for(config: SegformerConfig, variant: str = "custom") -> ModelSpec:
    names = default_class_names(config.classes)
    return ModelSpec(variant, names, default_palette(config.classes), MEAN, STD)


def transformers_model(config: SegformerConfig) -> Any:
    """transformers' SegFormer of the same sizes, with its own initial weights."""
    import transformers

    return transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            num_attention_heads=list(config.heads),
            sr_ratios=list(config.reductions),
            decoder_hidden_size=config.head_channels,
            num_labels=config.classes,
        )
    ).eval()


def saved_state(model: Any, folder: Path) -> dict[str, Tensor]:
    """What transformers writes to disk for `model`: the published parameter names."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def same_weights(config: SegformerConfig, folder: Path, seed: int = 0) -> tuple[Segformer, Any]:
    """Our network and transformers', with the weights that transformers saved."""
    theirs = randomise(transformers_model(config), seed)
    ours = Segformer(config)
    ours.load_state_dict(saved_state(theirs, folder), strict=True)
    return ours, theirs


def normalised(frames: npt.NDArray[np.uint8], dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 RGB frames [B, H, W, 3] -> what a network in its published form takes."""
    image = torch.from_numpy(frames).permute(0, 3, 1, 2).to(dtype) / 255
    mean = torch.tensor(MEAN, dtype=dtype).reshape(3, 1, 1)
    std = torch.tensor(STD, dtype=dtype).reshape(3, 1, 1)
    return (image - mean) / std


def transformers_logits(model: Any, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model(pixel_values=normalised(frames)).logits)


def random_frames(batch: int, height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def session(model: Any, threads: int = 1) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
