"""FP16 graphs: strongly typed, cast at borders alone, with the same integers as before."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from segformer_deploy.errors import OnnxFileError, SpecError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from segformer_deploy.spec import ModelSpec
from tests.graph.lively import lively_model, lively_ranges, logits_of, nodes_of, weights_of
from tests.model.tiny import random_frames

HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT
ISLANDS = ("stage1.block0.norm1", "stage2.block0.attention.softmax", "stage3.embed")
FLOAT_NODES = sorted(
    node.name for node in lively_model().graph.node if node.op_type not in ("Shape", "Concat")
)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each value and weight, as ONNX infers it."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**found, **{tensor.name: tensor.data_type for tensor in model.graph.initializer}}


def int8_model(recipe: Recipe | None = None) -> onnx.ModelProto:
    return insert_qdq(lively_model(), lively_ranges(), recipe, "signed")


def has_pairs(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


SOURCES = {
    "fp32": lively_model,
    "int8": int8_model,
    "int8 everything": lambda: int8_model(Recipe.everything()),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return SOURCES[request.param]()


@pytest.mark.parametrize("logits", ["fp32", "fp16"])
@pytest.mark.parametrize("islands", [(), ISLANDS], ids=["no islands", "islands"])
def test_every_float_is_fp16_outside_islands(
    source: onnx.ModelProto, islands: tuple[str, ...], logits: str
) -> None:
    model = cast_fp16(source, islands, logits=logits)
    onnx.checker.check_model(model, full_check=True)
    types, before = types_of(model), types_of(source)
    assert (types["image"], types["logits"]) == (
        TensorProto.UINT8,
        HALF if logits == "fp16" else FULL,
    )
    for node in model.graph.node:
        if node.op_type in ("Cast", "Shape", "Concat"):
            continue
        if islands and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue  # an island's own may be in either
        allowed = FULL if node.name in islands else HALF
        for name in (*node.input, *node.output):
            if name and types[name] in (HALF, FULL):
                assert types[name] == allowed, (node.name, name)
    for name, kind in before.items():
        if kind not in (HALF, FULL) and name in types:
            assert types[name] == kind, name


@pytest.mark.parametrize("islands", [(), ISLANDS], ids=["no islands", "islands"])
def test_casts_stand_at_borders_and_nowhere_else(
    source: onnx.ModelProto, islands: tuple[str, ...]
) -> None:
    model = cast_fp16(source, islands)
    types = types_of(model)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len({(node.input[0], types[node.output[0]]) for node in casts}) == len(casts)
    for node in casts:
        assert types[node.input[0]] != types[node.output[0]], node.name
    weights = weights_of(source).keys() | weights_of(model).keys()
    # The frame, the logits, and per island what goes in and what comes out, which one cast
    # serves to any number of readers.
    nodes = nodes_of(source)
    borders = sum(len({*nodes[name].input} - weights) + 1 for name in islands)
    assert len(casts) == 2 + borders or (has_pairs(source) and len(casts) < 2 + borders)
    assert not [node.name for node in casts if node.input[0] in weights]


def test_nothing_but_casts_is_added(source: onnx.ModelProto) -> None:
    """Norms, GELU and softmax stay one node each; decomposed, a norm overflows in FP16."""
    untouched = source.SerializeToString()
    model = cast_fp16(source, ISLANDS)
    assert source.SerializeToString() == untouched
    before, after = (Counter(node.op_type for node in m.graph.node) for m in (source, model))
    assert (after - before).keys() == {"Cast"}
    assert not before - after
    for kind in ("LayerNormalization", "Gelu", "Softmax"):
        assert before[kind] > 0
    attributes = {node.name: node.attribute for node in source.graph.node if node.op_type != "Cast"}
    found = nodes_of(model)
    assert all(
        found[name].attribute == theirs for name, theirs in attributes.items() if name != "logits"
    )
    assert found["logits.inner"].attribute == attributes["logits"]


def test_weights_are_rounded_once_and_unread_ones_go() -> None:
    source = lively_model()
    found, before = weights_of(cast_fp16(source, ISLANDS)), weights_of(source)
    nodes = nodes_of(source)
    in_islands = {name for island in ISLANDS for name in nodes[island].input if name in before}
    assert len(in_islands) == 4
    for name, weight in before.items():
        if weight.dtype != np.float32:
            assert np.array_equal(found[name], weight)
        elif name in in_islands:
            assert np.array_equal(found[name], weight)
            assert f"{name}.fp16" not in found
        else:
            assert np.array_equal(found[f"{name}.fp16"], weight.astype(np.float16))
            assert name not in found


def test_the_integers_of_an_int8_graph_stay() -> None:
    source = int8_model(Recipe.everything())
    found, before = weights_of(cast_fp16(source)), weights_of(source)
    seen = Counter()
    for name, array in before.items():
        if name.endswith((".quantized", ".zero_point")):
            seen["integers"] += 1
            assert array.dtype == np.int8
            assert np.array_equal(found[name], array), name
        elif name.endswith(".scale"):
            seen["scales"] += 1
            assert found[f"{name}.fp16"].dtype == np.float16
            assert np.array_equal(found[f"{name}.fp16"].astype(np.float32), array), name
    assert seen["scales"] > 90
    assert seen["integers"] > seen["scales"]


@settings(max_examples=12)
@given(
    st.lists(st.sampled_from(FLOAT_NODES), max_size=12, unique=True),
    st.sampled_from(["fp16", "fp32"]),
    st.booleans(),
)
def test_any_islands_give_a_valid_graph(islands: list[str], logits: str, quantised: bool) -> None:
    model = cast_fp16(int8_model() if quantised else lively_model(), islands, logits=logits)
    onnx.checker.check_model(model, full_check=True)
    kinds = types_of(model)
    for node in model.graph.node:
        if node.op_type == "Cast" or node.name.removesuffix(".inner") not in islands:
            continue
        assert HALF not in {kinds[name] for name in (*node.input, *node.output) if name}, node.name


def test_everything_as_an_island_is_the_fp32_graph() -> None:
    """Bits: the same logits, though not one node is in FP16."""
    source, frames = lively_model(), random_frames(1, 64, 96)
    model = cast_fp16(source, [node.name for node in source.graph.node])
    assert model.graph.node == source.graph.node
    assert np.array_equal(logits_of(model, frames), logits_of(source, frames))


def test_the_logits_may_be_an_island() -> None:
    model = cast_fp16(lively_model(), ["logits"])
    onnx.checker.check_model(model, full_check=True)
    half = cast_fp16(lively_model(), ["logits"], logits="fp16")
    assert types_of(half)["logits"] == HALF


def test_onnxruntime_runs_it_at_every_size(source: onnx.ModelProto) -> None:
    model = cast_fp16(source)
    for batch, height, width in [(1, 64, 64), (2, 97, 133)]:
        frames = random_frames(batch, height, width)
        found = logits_of(model, frames, literal=True)
        assert (found.dtype, found.shape[2:]) == (np.float32, (-(-height // 4), -(-width // 4)))
        expected = logits_of(source, frames, literal=True)
        assert np.sqrt(np.mean((found - expected) ** 2)) < 0.1 * expected.std()


def test_the_class_map_may_be_appended_behind_either() -> None:
    for logits in ("fp16", "fp32"):
        model = append_class_map(cast_fp16(lively_model(), logits=logits))
        onnx.checker.check_model(model, full_check=True)


def test_the_spec_says_so() -> None:
    def spec_of(model: onnx.ModelProto) -> ModelSpec:
        return ModelSpec.from_json(model.metadata_props[0].value)

    assert spec_of(cast_fp16(lively_model())) == spec_of(lively_model()).with_(precision="fp16")
    assert spec_of(cast_fp16(int8_model())).precision == "int8"


def test_what_does_not_fit_becomes_infinite_in_fp16_alone() -> None:
    """The caller has looked; nothing is clipped behind his back."""
    source = lively_model()
    (tensor,) = (t for t in source.graph.initializer if t.name == "stage1.embed.bias")
    values = numpy_helper.to_array(tensor).copy()
    values[0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert np.isposinf(weights_of(cast_fp16(source))["stage1.embed.bias.fp16"][0])
    kept = weights_of(cast_fp16(source, ["stage1.embed"]))
    assert kept["stage1.embed.bias"][0] == np.float32(1e5)


def test_what_cannot_be_cast_is_refused() -> None:
    with pytest.raises(SpecError, match="no such node"):
        cast_fp16(lively_model(), ["no such node"])
    with pytest.raises(SpecError, match="bf16"):
        cast_fp16(lively_model(), logits="bf16")  # type: ignore[arg-type]
    for source in (lively_model(), int8_model()):
        with pytest.raises(SpecError, match="FP16 already"):
            cast_fp16(cast_fp16(source))
    with pytest.raises(OnnxFileError, match="class_map"):
        cast_fp16(append_class_map(lively_model()))
    foreign = lively_model()
    del foreign.metadata_props[:]
    with pytest.raises(OnnxFileError, match="metadata"):
        cast_fp16(foreign)
