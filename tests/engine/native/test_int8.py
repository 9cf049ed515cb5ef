"""The compiled network on INT8 graphs: ONNX Runtime's answer but for edges.

Both round the same values to the same grids, but compute what is rounded in float32 of another
order. So where a value lies on the edge between two steps they may take different ones, and what
follows differs by a step's worth; everywhere else they agree to float32's rounding.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from segformer_deploy.engine.native.library import VARIANTS
from segformer_deploy.graph.insert_qdq import Recipe
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import street_frame
from tests.engine.native.compiled import force_variant
from tests.engine.native.quantise import (
    SMALL,
    assert_same_but_for_edges,
    change,
    float_model,
    int8_model,
    logits_of,
    onnxruntime_logits,
    quantised,
    saved,
)
from tests.model.tiny import random_frames

STREETS = Path(__file__).parents[3] / "models" / "segformer-b0-streets" / "model.onnx"
UNITS = [
    *(f"stage{i}.block0.{part}" for i in range(1, 5) for part in ("attention", "ffn")),
    *(f"stage{i}.embed" for i in range(2, 5)),
    *(f"decoder.stage{i}" for i in range(1, 5)),
    "decoder.classifier",
]


SHAPES = [(1, 64, 64), (1, 64, 72), (1, 66, 80), (1, 72, 64), (1, 64, 68), (1, 70, 66), (1, 65, 65)]
"""Enough for a median: which frames have a value on an edge differs from processor to processor."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(int8_model(), tmp_path_factory.mktemp("int8") / "small.onnx")


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return force_variant(monkeypatch, request.param)


# The same answer ------------------------------------------------------------------------------


def test_logits_are_onnxruntimes(small: Path, variant: str) -> None:
    sides = [(64, 64), (64, 65), (70, 98), (96, 64), (65, 161), (64, 96), (128, 66)]
    assert_same_but_for_edges(small, [(1, *size) for size in sides])


def test_they_are_not_those_of_the_float_graph(small: Path, tmp_path: Path) -> None:
    frames = random_frames(1, 64, 96)
    exact = logits_of(saved(float_model(SMALL, 1), tmp_path / "m.onnx"), frames)
    difference = np.abs(logits_of(small, frames) - exact).max() / np.abs(exact).max()
    assert 1e-3 < difference < 0.5


@pytest.mark.parametrize("unit", UNITS)
def test_any_block_may_stay_in_float32(tmp_path: Path, unit: str) -> None:
    recipe = Recipe(kept=frozenset({unit}))
    path = saved(int8_model(recipe=recipe), tmp_path / "m.onnx")
    assert_same_but_for_edges(path, SHAPES)


@pytest.mark.parametrize("unit", UNITS)
def test_any_block_may_be_the_only_one(tmp_path: Path, unit: str) -> None:
    recipe = Recipe(kept=frozenset(UNITS) | {"stage2.block1.attention"} - {unit})
    path = saved(int8_model(recipe=recipe), tmp_path / "m.onnx")
    assert_same_but_for_edges(path, SHAPES)


def test_residuals_need_not_be_rounded(tmp_path: Path, variant: str) -> None:
    path = saved(int8_model(recipe=Recipe(residuals=False)), tmp_path / "m.onnx")
    assert_same_but_for_edges(path, [(1, 64, 64), (1, 64, 72), (2, 66, 80)])


def test_a_head_with_an_activation_per_stage(tmp_path: Path, variant: str) -> None:
    path = saved(int8_model(replace(SMALL, stage_activation=True)), tmp_path / "m.onnx")
    assert_same_but_for_edges(path, SHAPES)


@pytest.mark.parametrize("classes", [1, 19, 150])
def test_any_number_of_classes(tmp_path: Path, variant: str, classes: int) -> None:
    path = saved(int8_model(replace(SMALL, classes=classes)), tmp_path / "m.onnx")
    assert_same_but_for_edges(path, SHAPES)


def test_without_a_reduction(tmp_path: Path, variant: str) -> None:
    path = saved(int8_model(replace(SMALL, reductions=(2, 1, 1, 1))), tmp_path / "m.onnx")
    assert_same_but_for_edges(path, SHAPES)


def test_maps_that_are_no_whole_vectors(tmp_path: Path, variant: str) -> None:
    """Multiples of 8, not of 16, and products of 6 and 50 inputs, which no bytes pack."""
    config = replace(SMALL, widths=(6, 20, 50, 80), head_channels=40)
    path = saved(int8_model(config), tmp_path / "m.onnx")
    assert_same_but_for_edges(path, SHAPES)


def test_both_spellings_are_one_grid(small: Path, tmp_path: Path) -> None:
    signed = saved(int8_model(spelling="signed"), tmp_path / "m.onnx")
    frames = random_frames(1, 70, 90)
    np.testing.assert_array_equal(logits_of(signed, frames), logits_of(small, frames))


def test_class_maps_of_the_shipped_network(tmp_path: Path) -> None:
    size = FrameSize(192, 256)
    frames = [street_frame(seed, size)[0][None, :, :, ::-1].copy() for seed in range(4)]
    path = saved(quantised(onnx.load(STREETS), frames[:2]), tmp_path / "m.onnx")
    for frame in frames:
        ours, theirs = logits_of(path, frame), onnxruntime_logits(path, frame)
        assert np.median(np.abs(ours - theirs)) <= 5e-3 * np.abs(theirs).max()
        assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.99


# Bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (65, 161), (130, 166), (64, 556)])
def test_neither_threads_nor_batches_change_a_bit(
    small: Path, variant: str, size: tuple[int, int]
) -> None:
    frames = random_frames(3, *size)
    one = logits_of(small, frames, 1)
    np.testing.assert_array_equal(one, logits_of(small, frames, 2))
    np.testing.assert_array_equal(one, logits_of(small, frames, 5))
    for index in range(3):
        np.testing.assert_array_equal(one[index], logits_of(small, frames[index : index + 1])[0])


def test_what_is_not_a_number_breaks_nothing(tmp_path: Path, variant: str) -> None:
    model = int8_model()
    change(model, "stage1.embed_norm.bias", lambda bias: np.full_like(bias, np.nan))
    change(model, "stage2.embed_norm.bias", lambda bias: np.full_like(bias, np.inf))
    found = logits_of(saved(model, tmp_path / "m.onnx"), random_frames(1, 64, 64))
    assert found.shape == (1, 7, 16, 16)
