"""Where two graphs part: every value's error, and the node at which it appears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from segformer_deploy.errors import InputError, OnnxFileError, SegdeployError
from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.equalise import equalise, knobs_of
from segformer_deploy.graph.insert_qdq import insert_qdq
from segformer_deploy.graph.metadata import write_precision
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.layers import LayerError, compare_layers
from tests.graph.lively import (
    lively_ranges,
    logits_of,
    scale_weight,
    set_weight,
    values_of,
    weights_of,
)
from tests.little import little_model
from tests.model.tiny import random_frames
from tests.workflow.small import saved, small_model

FRAMES = random_frames(2, 64, 96, seed=3)


def compared(tmp_path: Path, a: onnx.ModelProto, b: onnx.ModelProto) -> tuple[LayerError, ...]:
    return compare_layers(saved(tmp_path / "a.onnx", a), saved(tmp_path / "b.onnx", b), FRAMES)


def by_name(errors: tuple[LayerError, ...]) -> dict[str, LayerError]:
    return {one.name: one for one in errors}


def equalised_int8(factor: float = 1.0) -> onnx.ModelProto:
    """INT8 whose norms are scaled, as its metadata says."""
    model = small_model()
    weights = weights_of(model)
    scales = {
        knob.norm: np.float32(factor) * np.linspace(0.5, 2, len(weights[knob.affine[0]]))
        for knob in knobs_of(model)
    }
    scales = {norm: values.astype(np.float32) for norm, values in scales.items()}
    ranges = {name: 4 * largest for name, largest in lively_ranges().items()}
    result = insert_qdq(equalise(model, scales), ranges)
    write_precision(result, {"equalised": sorted(scales)})
    return result


def norms() -> set[str]:
    return {knob.norm for knob in knobs_of(small_model())}


def test_identical_graphs_part_nowhere(tmp_path: Path) -> None:
    steps: list[int] = []
    path = saved(tmp_path / "a.onnx")
    errors = compare_layers(path, path, FRAMES, steps.append)
    assert steps == [1, 2]
    assert errors[-1].name == "logits"
    assert {(one.error, one.added, one.largest) for one in errors} == {(0.0, 0.0, 0.0)}
    floats = {"Conv", "MatMul", "Gelu", "Softmax", "LayerNormalization", "Resize", "Add"}
    assert floats <= {one.op for one in errors}


@pytest.mark.parametrize(
    "node", ["stage2.block0.ffn.contract", "stage3.embed", "stage1.block0.attention.query"]
)
def test_a_changed_weight_is_found_where_it_works(tmp_path: Path, node: str) -> None:
    other = small_model()
    scale_weight(other, f"{node}.weight", 1.5)
    errors = compared(tmp_path, small_model(), other)
    first = next(one for one in errors if one.error > 0)
    assert first.name in (node, f"{node}.product")
    assert first.added == first.error
    assert first is max(errors, key=lambda one: one.added)
    assert errors[-1].error > 0


def test_errors_are_those_of_numpy(tmp_path: Path) -> None:
    other = small_model()
    bias = weights_of(other)["stage2.embed.bias"].copy()
    bias[3] += 0.5
    set_weight(other, "stage2.embed.bias", bias)
    errors = compared(tmp_path, small_model(), other)
    names = ["stage2.embed", "stage2.embed_norm"]
    a, b = (
        {**values_of(model, names, FRAMES), "logits": logits_of(model, FRAMES)}
        for model in (small_model(), other)
    )
    for name in (*names, "logits"):
        exact, found = a[name].astype(np.float64), b[name].astype(np.float64)
        expected = np.sqrt(((found - exact) ** 2).sum() / (exact**2).sum())
        assert by_name(errors)[name].error == pytest.approx(expected, rel=1e-4)
        largest = np.abs(found - exact).max()
        assert by_name(errors)[name].largest == pytest.approx(largest, rel=1e-4)
    assert by_name(errors)["stage2.embed"].largest == pytest.approx(0.5, abs=1e-5)
    norm, embed = by_name(errors)["stage2.embed_norm"], by_name(errors)["stage2.embed"]
    assert norm.added == pytest.approx(norm.error - embed.error)


def test_fp16_parts_a_little_everywhere(tmp_path: Path) -> None:
    errors = compared(tmp_path, small_model(), cast_fp16(small_model()))
    inner = [one for one in errors if one.name.startswith("stage")]
    assert len(inner) > 100
    moved = [one.error for one in inner if one.op in ("Conv", "MatMul", "LayerNormalization")]
    assert min(moved) > 0
    assert max(moved) < 0.01


def test_norms_that_were_equalised_are_left_out(tmp_path: Path) -> None:
    errors = by_name(compared(tmp_path, small_model(), equalised_int8()))
    assert norms()
    assert not norms() & set(errors)
    assert not {f"{norm}.nchw" for norm in norms()} & set(errors)
    # What they feed is there, and so is a norm that no factor touches.
    assert 0 < errors["stage1.block0.ffn.expand"].error < 0.3
    assert "stage2.embed_norm" in errors
    assert not any("quantized" in name for name in errors)
    # Where no factors were moved, the norms are compared.
    plain = by_name(compared(tmp_path, small_model(), insert_qdq(small_model(), lively_ranges())))
    assert norms() <= set(plain)


def test_equalised_norms_are_left_out_in_either_order(tmp_path: Path) -> None:
    errors = compared(tmp_path, equalised_int8(), small_model())
    found = set(by_name(errors))
    assert not norms() & found
    assert not {f"{norm}.nchw" for norm in norms()} & found


def test_norms_with_other_factors_are_left_out(tmp_path: Path) -> None:
    errors = compared(tmp_path, equalised_int8(), equalised_int8(factor=3))
    found = by_name(errors)
    assert found["logits"].error < 0.6
    assert not norms() & set(found)
    assert not {f"{norm}.nchw" for norm in norms()} & set(found)


def test_engine_folders_are_compared_by_their_graphs(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.onnx")
    options = BuildOptions(backend="onnxruntime", output=tmp_path / "engine")
    folder = build_engine(a, options).folder
    assert {one.error for one in compare_layers(a, folder, FRAMES[:1])} == {0.0}


# ---- graphs that cannot be compared ----------------------------------------------------------


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every float value under another name, the output apart."""

    def new(name: str) -> str:
        return name if name in ("image", "logits", "") else f"other.{name}"

    for node in model.graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = new(tensor.name)
    return model


def test_graphs_of_others_are_refused(tmp_path: Path) -> None:
    foreign = little_model()
    del foreign.metadata_props[:]
    with pytest.raises(OnnxFileError, match="metadata"):
        compared(tmp_path, small_model(), foreign)
    other = little_model()
    other.graph.output[0].name = other.graph.node[-1].output[0] = "answer"
    with pytest.raises(OnnxFileError, match="answer"):
        compared(tmp_path, small_model(), other)


def test_values_are_matched_by_name_only(tmp_path: Path) -> None:
    errors = compared(tmp_path, small_model(), renamed(small_model()))
    assert [(one.name, one.error) for one in errors] == [("logits", 0.0)]


def test_networks_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        compared(tmp_path, small_model(), little_model())


@pytest.mark.parametrize("content", [None, b"", b"no protobuf at all"])
def test_a_file_that_is_missing_or_cut_off_is_refused(tmp_path: Path, content: Any) -> None:
    broken = tmp_path / "b.onnx"
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(SegdeployError, match=r"b\.onnx"):
        compare_layers(saved(tmp_path / "a.onnx"), broken, FRAMES[:1])
