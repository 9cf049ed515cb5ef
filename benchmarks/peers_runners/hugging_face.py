"""What the four transformers peers share: its image processor and its post-processing.

The processor is the Pillow one, named outright: with torchvision installed transformers would
choose another, whose resize gives other pixels, and two machines would measure two programs.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from peers_runners.child import Job


def image_processor_class() -> Any:
    """transformers' SegFormer image processor that resizes with Pillow."""
    from transformers import SegformerImageProcessorPil

    return SegformerImageProcessorPil


def image_processor(weights: Path) -> Any:
    """The processor with the settings of a checkpoint folder."""
    return image_processor_class().from_pretrained(str(weights))


def load_frame(job: Job) -> np.ndarray[Any, Any]:
    """The frame, uint8 `[H, W, 3]`, RGB."""
    return np.ascontiguousarray(np.load(job.frame))


def use_threads(threads: int) -> None:
    """Give PyTorch, which runs transformers' post-processing, the same number of threads."""
    import torch

    torch.set_num_threads(threads)


def class_map_of(processor: Any, logits: Any, size: tuple[int, int]) -> Any:
    """transformers' post-processing: full-size bilinear upsampling, then argmax."""
    outputs = SimpleNamespace(logits=logits)
    return processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]


def versions(*modules: str) -> dict[str, str]:
    """Versions of installed distributions, by name."""
    from importlib.metadata import version

    return {module: version(module) for module in modules}
