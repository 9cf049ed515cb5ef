"""The blocks' damage: one block at a time in INT8, the worst first, and a chart that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from segformer_deploy.errors import SegdeployError
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from segformer_deploy.graph.metadata import fp32_spec
from segformer_deploy.workflow.judge import Judge, Verdict, judged_from_frames
from segformer_deploy.workflow.sensitivity import (
    BlockDamage,
    blocks_of,
    rank_blocks,
    write_chart,
)
from tests.calibrate.given_frames import some_frames
from tests.graph.lively import lively_model, lively_ranges
from tests.workflow.small import Array

BLOCKS_OF_TINY = [
    *("stage1.block0.attention", "stage1.block0.ffn"),
    *("stage2.embed", "stage2.block0.attention", "stage2.block0.ffn"),
    *("stage2.block1.attention", "stage2.block1.ffn"),
    *("stage3.embed", "stage3.block0.attention", "stage3.block0.ffn"),
    *("stage4.embed", "stage4.block0.attention", "stage4.block0.ffn"),
]
DAMAGE = (
    BlockDamage("decoder.classifier", 2.5, 0.08),
    BlockDamage("stage1.block0.attention", 1.25, 0.04),
    BlockDamage("stage3.embed", 0.0, 0.0),
)


def test_blocks_are_named_in_the_order_they_run() -> None:
    blocks = blocks_of(lively_model(), Recipe())
    assert [block for block in blocks if block.startswith("stage")] == BLOCKS_OF_TINY
    assert "stage1.embed" not in blocks
    assert "decoder.classifier" in blocks
    assert len(set(blocks)) == len(blocks)


def test_a_recipe_decides_which_blocks_there_are() -> None:
    model = lively_model()
    assert "stage1.embed" in blocks_of(model, Recipe(first_convolution=True))
    less = Recipe(classifier=False, kept=frozenset({"stage3.embed"}))
    assert set(blocks_of(model, Recipe())) - set(blocks_of(model, less)) == {
        "decoder.classifier",
        "stage3.embed",
    }


def quantised_weights(model: onnx.ModelProto) -> set[str]:
    ending = ".weight.quantized"
    names = (tensor.name for tensor in model.graph.initializer)
    return {name.removesuffix(ending) for name in names if name.endswith(ending)}


def test_exactly_one_block_at_a_time_is_int8() -> None:
    model, ranges = lively_model(), lively_ranges()
    blocks = blocks_of(model, Recipe())
    whole = quantised_weights(insert_qdq(model, ranges))
    judged: list[onnx.ModelProto] = []

    def judge(graph: onnx.ModelProto) -> Verdict:
        judged.append(graph)
        return Verdict(100, None, None, 0)

    def make(kept: frozenset[str]) -> onnx.ModelProto:
        return insert_qdq(model, ranges, Recipe(kept=kept))

    steps: list[int] = []
    judging: Any = judge
    rank_blocks(make, blocks, judging, steps.append)
    assert steps == list(range(1, len(blocks) + 1))
    seen: set[str] = set()
    for block, graph in zip(blocks, judged, strict=True):
        weights = quantised_weights(graph)
        assert weights
        # A stage's slice of the decoder's fuse has a block of its own.
        assert all(name == block or name.startswith(f"{block}.") for name in weights), block
        assert not weights & seen
        seen |= weights
    assert seen == whole


def test_the_worst_come_first_by_the_logits() -> None:
    verdicts = {
        "a": Verdict(99.9, None, None, 0.02),
        "b": Verdict(99.0, None, None, 0.01),
        "c": Verdict(99.8, None, None, 0.03),
        "d": Verdict(98.0, None, None, 0.01),
    }

    def make(kept: frozenset[str]) -> Any:
        (alone,) = set(verdicts) - kept
        return alone

    judge: Any = verdicts.__getitem__
    ranking = rank_blocks(make, tuple(verdicts), judge)
    assert [one.block for one in ranking] == ["c", "a", "d", "b"]
    assert ranking[2].disagreement == pytest.approx(2)
    assert ranking[0].to_dict() == {
        "block": "c",
        "disagreement": pytest.approx(0.2),
        "logit_error": 0.03,
    }


def test_a_block_with_an_outlier_is_found() -> None:
    model, ranges = lively_model(), lively_ranges()
    # Nothing changes but the range of one block's input: its steps are 100 times as large.
    ranges["stage1.block0.norm2"] *= 100

    def make(kept: frozenset[str]) -> onnx.ModelProto:
        return insert_qdq(model, ranges, Recipe(kept=kept))

    frames = judged_from_frames(some_frames(1), fp32_spec(model))
    ranking = rank_blocks(make, blocks_of(model, Recipe()), Judge(model, frames))
    assert ranking[0].block == "stage1.block0.ffn"


# ---- the chart -------------------------------------------------------------------------------


def bars(picture: Array) -> list[tuple[int, int, int]]:
    """(top, left, length) of each bar, top to bottom: runs of rows with a long blue stretch."""
    blue = (np.abs(picture.astype(int) - (180, 119, 31)).max(2) < 12).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(blue)
    found = [tuple(int(v) for v in stats[index][:4]) for index in range(1, count)]
    return sorted((top, left, width) for left, top, width, height in found if height > 10)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_the_longest_bar_is_the_worst_blocks(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"chart{ending}"
    write_chart(path, DAMAGE)
    picture = cv2.imread(str(path))
    assert picture is not None
    if ending == ".jpg":
        return
    found = bars(picture)
    assert len(found) == len(DAMAGE)
    assert [one[1] for one in found] == [found[0][1]] * 3
    lengths = [one[2] for one in found]
    assert lengths[0] == max(lengths)
    assert lengths[1] / lengths[0] == pytest.approx(0.5, abs=0.01)
    assert lengths[2] <= 1
    height, width = picture.shape[:2]
    assert found[0][1] + lengths[0] < width - 100
    dark = picture.max(2) < 100
    for top, left, length in found:
        # A name to the left of each bar, figures to the right, all of it inside the picture.
        assert dark[top : top + 16, :left].sum() > 50
        assert dark[top : top + 16, left + length + 2 :].sum() > 50
        assert not dark[top : top + 16, -2:].any()
        assert top + 16 < height


def test_a_chart_without_errors_divides_by_none(tmp_path: Path) -> None:
    write_chart(tmp_path / "flat.png", [BlockDamage("a", 0, 0)])
    write_chart(tmp_path / "empty.png", [])
    assert cv2.imread(str(tmp_path / "flat.png")) is not None
    assert cv2.imread(str(tmp_path / "empty.png")) is not None


def test_an_unknown_kind_of_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegdeployError, match="png"):
        write_chart(tmp_path / "chart.txt", DAMAGE)
