"""From a training state to the files that ship: weights, ONNX, model card.

    python models/segformer-b0-streets/publish.py --state build/train-b0-streets/state.pt

Writes beside itself: `config.json`, `preprocessor_config.json` and `model.safetensors` (a
transformers folder, weights in FP16), `model.onnx` (exported from exactly those weights),
and `card.toml` with the accuracy that `evaluate.py` measures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from segformer_deploy.files import sha256_of_file, write_text
from segformer_deploy.model.segformer import config_for
from segformer_deploy.spec import MEAN_IMAGENET, STD_IMAGENET
from segformer_deploy.streets import CLASS_NAMES, PALETTE
from segformer_deploy.workflow.export import ExportOptions, export_onnx

HERE = Path(__file__).resolve().parent
SIDE = 512


PROGRESS = ("step", "trained_s", "next_seed", "seed")
"""What `train.py --start-from` needs to go on from these weights."""


def write_weights(state: dict[str, Any]) -> None:
    """Matrices in FP16, the small rest in FP32; the loader widens them again."""
    saved = {
        name: value.half().contiguous() if value.ndim > 1 else value.contiguous()
        for name, value in state["average"].items()
    }
    progress = json.dumps({name: state[name] for name in PROGRESS})
    save_file(saved, HERE / "model.safetensors", {"format": "pt", "progress": progress})


def write_configs() -> None:
    network = config_for("b0", len(CLASS_NAMES))
    config = {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "hidden_sizes": network.widths,
        "depths": network.depths,
        "num_attention_heads": network.heads,
        "sr_ratios": network.reductions,
        "mlp_ratios": [network.mlp_ratio] * 4,
        "patch_sizes": network.patch_sizes,
        "strides": network.strides,
        "decoder_hidden_size": network.head_channels,
        "num_encoder_blocks": 4,
        "num_channels": 3,
        "hidden_act": "gelu",
        "id2label": dict(enumerate(CLASS_NAMES)),
        "label2id": {name: index for index, name in enumerate(CLASS_NAMES)},
    }
    processor = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN_IMAGENET,
        "image_std": STD_IMAGENET,
        "do_reduce_labels": False,
    }
    write_text(HERE / "config.json", json.dumps(config, indent=1) + "\n")
    write_text(HERE / "preprocessor_config.json", json.dumps(processor, indent=1) + "\n")


def write_card(state: dict[str, object], score: dict[str, object]) -> None:
    """TOML written by hand: it is read by people, and Python 3.10 has no TOML library."""
    recipe = hashlib.sha256((HERE / "train.py").read_bytes()).hexdigest()
    ious = score["per_class_iou"]
    assert isinstance(ious, dict)
    lines = [
        "# Model card: SegFormer-B0 trained from scratch on generated streets.",
        'name = "segformer-b0-streets"',
        'variant = "b0"',
        'licence = "Apache-2.0"',
        'intended_use = "the demo, tests and benchmarks; not for driving anything"',
        f"classes = {json.dumps(list(CLASS_NAMES))}",
        f"palette = {json.dumps([list(colour) for colour in PALETTE])}",
        f"mean = {list(MEAN_IMAGENET)}",
        f"std = {list(STD_IMAGENET)}",
        f'resize = "stretch to {SIDE}x{SIDE} (pillow-bilinear)"',
        "",
        "[training]",
        'data = "segformer_deploy.streets, seeds from 0"',
        f"frames = {state['next_seed']}",
        f"steps = {state['step']}",
        f"minutes = {float(str(state['trained_s'])) / 60:.1f}",
        f"seed = {state['seed']}",
        f'train_py_sha256 = "{recipe}"',
        "",
        "[files]",
        f'weights_sha256 = "{sha256_of_file(HERE / "model.safetensors")}"',
        f'onnx_sha256 = "{sha256_of_file(HERE / "model.onnx")}"',
        "",
        "[accuracy]",
        'repeat = "python models/segformer-b0-streets/evaluate.py"',
        f"frames = {score['frames']}",
        f"first_seed = {score['first_seed']}",
        f"miou_percent = {float(str(score['miou'])):.2f}",
        f"pixel_accuracy_percent = {float(str(score['pixel_accuracy'])):.2f}",
        "",
        "[accuracy.per_class_iou_percent]",
        *(f"{name} = {value:.2f}" for name, value in ious.items()),
    ]
    write_text(HERE / "card.toml", "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=Path("build/train-b0-streets/state.pt"))
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    state = torch.load(options.state, weights_only=True)
    write_weights(state)
    write_configs()
    export_onnx(ExportOptions(checkpoint="demo", output=HERE / "model.onnx"), print)
    done = subprocess.run(
        [sys.executable, str(HERE / "evaluate.py"), "--frames", str(options.frames)],
        check=True,
        capture_output=True,
        text=True,
    )
    write_card(state, json.loads(done.stdout))
    print(done.stdout)


if __name__ == "__main__":
    main()
