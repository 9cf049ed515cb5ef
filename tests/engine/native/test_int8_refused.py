"""INT8 graphs that the compiled network must refuse: other grids, other ways to and from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from segformer_deploy.engine.native.engine import NativeEngine
from segformer_deploy.errors import BackendError
from segformer_deploy.graph.insert_qdq import Recipe
from tests.engine.native.quantise import change, int8_model, saved

NORM, QUERY = "stage1.block0.norm1", "stage1.block0.attention.query.weight"


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def refused(model: onnx.ModelProto, path: Path, match: str) -> None:
    with pytest.raises(BackendError, match=match) as caught:
        NativeEngine(saved(model, path), 1)
    assert "onnxruntime" in caught.value.next_step


def _constant(value: object, dtype: type) -> Callable[[np.ndarray], np.ndarray]:
    return lambda old: np.full(old.shape, value, dtype)


@pytest.mark.parametrize(
    ("name", "new"),
    [
        *((f"{NORM}.scale", _constant(v, np.float32)) for v in (0, -1, np.nan, np.inf, 1e-30)),
        (f"{NORM}.scale", _constant(1, np.float16)),
        (f"{NORM}.scale", lambda old: old.reshape(1)),
        (f"{NORM}.zero_point", _constant(127, np.uint8)),
        (f"{NORM}.zero_point", _constant(1, np.int8)),
        (f"{NORM}.zero_point", _constant(128, np.uint16)),
        (f"{NORM}.zero_point", lambda old: old.reshape(1)),
        (f"{QUERY}.scale", lambda old: old[:-1]),
        (f"{QUERY}.scale", lambda old: old[:1].reshape(())),
        (f"{QUERY}.scale", lambda old: old * np.where(np.arange(len(old)) == 3, -1, 1)),
        (f"{QUERY}.zero_point", lambda old: old + (np.arange(len(old)) == 3).astype(np.int8)),
        (f"{QUERY}.zero_point", lambda old: old[:-1]),
        (f"{QUERY}.zero_point", _constant(0, np.uint8)),
        (f"{QUERY}.quantized", lambda old: old.astype(np.uint8)),
        (f"{QUERY}.quantized", lambda old: old[:, :-1]),
        (f"{QUERY}.quantized", lambda old: old[:-1]),
        (f"{QUERY}.quantized", lambda old: old[:-2]),
        (f"{QUERY}.quantized", lambda old: old.reshape(-1)),
        ("stage2.embed.weight.quantized", lambda old: old[:, :-1]),
        ("stage1.block0.ffn.expand.weight.quantized", lambda old: old[..., 0]),
        ("decoder.classifier.weight.quantized", lambda old: old[:-2]),
        ("decoder.classifier.weight.scale", lambda old: old[:-1]),
        ("stage1.block0.attention.output.scale", _constant(0, np.float32)),
        ("stage1.block0.ffn.contract.zero_point", _constant(0, np.uint8)),
    ],
)
def test_another_grid_is_refused(
    tmp_path: Path, name: str, new: Callable[[np.ndarray], np.ndarray]
) -> None:
    model = int8_model()
    change(model, name, new)
    refused(model, tmp_path / "m.onnx", r"scale|zero_point|weight")


@pytest.mark.parametrize("part", ["scale", "zero_point", "weight"])
def test_what_is_missing_is_refused(tmp_path: Path, part: str) -> None:
    model = int8_model()
    name = f"{QUERY}.quantized" if part == "weight" else f"{NORM}.{part}"
    tensor = next(one for one in model.graph.initializer if one.name == name)
    model.graph.initializer.remove(tensor)
    refused(model, tmp_path / "m.onnx", "missing")


def test_rounded_but_not_back_is_refused(tmp_path: Path) -> None:
    """What reads the grid reads the steps themselves."""
    model = int8_model()
    model.graph.node.remove(node_of(model, f"{NORM}.dequantized"))
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == f"{NORM}.dequantized":
                node.input[index] = f"{NORM}.quantized"
    refused(model, tmp_path / "m.onnx", "dequantized")


def test_an_input_that_is_not_rounded_is_refused(tmp_path: Path) -> None:
    model = int8_model()
    node_of(model, "stage1.block0.attention.query.product").input[0] = NORM
    refused(model, tmp_path / "m.onnx", "other values")


def test_another_step_on_the_way_back_is_refused(tmp_path: Path) -> None:
    model = int8_model()
    node_of(model, f"{NORM}.dequantized").input[1] = "stage1.block0.norm2.scale"
    refused(model, tmp_path / "m.onnx", "other values")


def test_another_zero_point_on_the_way_back_is_refused(tmp_path: Path) -> None:
    model = int8_model()
    del node_of(model, f"{NORM}.dequantized").input[2]
    refused(model, tmp_path / "m.onnx", "other values")


def test_scales_along_another_axis_are_refused(tmp_path: Path) -> None:
    model = int8_model()
    node_of(model, f"{QUERY}.dequantized").attribute[0].i = 0  # as many inputs as outputs
    refused(model, tmp_path / "m.onnx", "axis")


def test_an_axis_of_a_single_scale_is_refused(tmp_path: Path) -> None:
    model = int8_model()
    attribute = helper.make_attribute("axis", 1)
    node_of(model, f"{NORM}.dequantized").attribute.append(attribute)
    refused(model, tmp_path / "m.onnx", "axis")


def test_other_attributes_of_a_grid_are_refused(tmp_path: Path) -> None:
    model = int8_model()
    attribute = helper.make_attribute("saturate", 0)
    node_of(model, f"{NORM}.quantized").attribute.append(attribute)
    refused(model, tmp_path / "m.onnx", "saturate")


def test_a_grid_that_nobody_needs_is_refused(tmp_path: Path) -> None:
    model = int8_model()
    step = numpy_helper.from_array(np.array(1, np.float32), "stage1.embed.scale")
    model.graph.initializer.append(step)
    refused(model, tmp_path / "m.onnx", "stage1.embed.scale")


@pytest.mark.parametrize("switch", ["first_convolution", "depthwise"])
def test_products_without_integer_kernels_are_refused(tmp_path: Path, switch: str) -> None:
    recipe = replace(Recipe(), **{switch: True})
    refused(int8_model(recipe=recipe), tmp_path / "m.onnx", "weight|own|plain")


def test_a_rounded_branch_of_a_float_product_is_refused(tmp_path: Path) -> None:
    name = "stage1.block0.attention.output"
    model = int8_model(recipe=Recipe(kept=frozenset({"stage1.block0.attention"})))
    grid = [f"{name}.scale", f"{name}.zero_point"]
    for part, value in zip(grid, (np.array(1, np.float32), np.array(128, np.uint8)), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(value, part))
    for op, source, target in (
        ("QuantizeLinear", name, f"{name}.quantized"),
        ("DequantizeLinear", f"{name}.quantized", f"{name}.dequantized"),
    ):
        model.graph.node.append(helper.make_node(op, [source, *grid], [target], name=target))
    node_of(model, "stage1.block0.attended").input[1] = f"{name}.dequantized"
    refused(model, tmp_path / "m.onnx", "no INT8 product")
