"""Which block suffers from INT8: each quantised alone, ranked by the damage it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx

from segformer_deploy.errors import OutputError
from segformer_deploy.files import write_bytes
from segformer_deploy.graph.insert_qdq import Recipe
from segformer_deploy.graph.products import products_of
from segformer_deploy.workflow.judge import Judge

Make = Callable[[frozenset[str]], onnx.ModelProto]
"""Blocks that stay in the higher precision -> the graph."""


@dataclass(frozen=True)
class BlockDamage:
    """What one block does to the masks when it alone is INT8.

    Attributes:
        disagreement: pixels of another class than in FP32, in percent.
        logit_error: relative root mean square error of the logits.
    """

    block: str
    disagreement: float
    logit_error: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def blocks_of(model: onnx.ModelProto, recipe: Recipe) -> tuple[str, ...]:
    """The blocks of the FP32 graph `model` that `recipe` quantises, in the order they run."""
    taken = [product.block for product in products_of(model) if recipe.takes(product)]
    return tuple(dict.fromkeys(taken))


def rank_blocks(
    make: Make,
    blocks: Sequence[str],
    judge: Judge,
    on_block: Callable[[int], None] | None = None,
) -> tuple[BlockDamage, ...]:
    """The damage of each block, worst first."""
    found = []
    for number, block in enumerate(blocks, 1):
        verdict = judge(make(frozenset(blocks) - {block}))
        found.append(BlockDamage(block, 100 - verdict.agreement, verdict.logit_error))
        if on_block is not None:
            on_block(number)
    # Few pixels change class on few frames; the logits' error tells more blocks apart.
    return tuple(sorted(found, key=lambda one: (-one.logit_error, -one.disagreement, one.block)))


_ENDINGS = (".png", ".jpg", ".jpeg")
_ROW, _LEFT, _WIDTH, _RIGHT = 26, 250, 460, 190
_INK, _BAR, _PAPER = (40, 40, 40), (180, 119, 31), (255, 255, 255)


def write_chart(path: Path, ranking: Sequence[BlockDamage]) -> None:
    """A bar chart (PNG or JPEG) of the blocks' logit errors, worst first; OutputError."""
    height = _ROW * (len(ranking) + 2)
    picture = np.full((height, _LEFT + _WIDTH + _RIGHT, 3), _PAPER, np.uint8)
    _text(picture, "each block alone in INT8: error of the logits, disagreement", 10, 18)
    largest = max((one.logit_error for one in ranking), default=0) or 1.0
    for row, one in enumerate(ranking, 1):
        baseline = _ROW * (row + 1) - 8
        end = _LEFT + round(_WIDTH * one.logit_error / largest)
        cv2.rectangle(picture, (_LEFT, baseline - 13), (end, baseline + 3), _BAR, cv2.FILLED)
        _text(picture, one.block, 10, baseline)
        _text(
            picture, f"{100 * one.logit_error:.2f} %  {one.disagreement:.3f} %", end + 8, baseline
        )
    ending = path.suffix.lower() or ".png"
    if ending not in _ENDINGS:
        raise OutputError(f"the chart cannot be written to {path}", "a name that ends in .png")
    write_bytes(path, cv2.imencode(ending, picture)[1].tobytes())


def _text(picture: np.ndarray[Any, Any], text: str, x: int, y: int) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
