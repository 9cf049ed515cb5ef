"""The hand-written ONNX graph: valid, free of sizes, and equal to transformers' own answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.errors import SpecError
from segformer_deploy.model.deploy import deploy_form
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import VARIANTS, config_for, random_segformer
from segformer_deploy.spec import ModelSpec
from tests.model.tiny import (
    MEAN,
    STD,
    TINY,
    random_frames,
    same_weights,
    session,
    spec_for,
    transformers_logits,
)

# What TensorRT 10.3's parser reads; control flow and strings would stop it.
ALLOWED = {
    *("Add", "Cast", "Concat", "Conv", "Gelu", "LayerNormalization", "MatMul", "Relu"),
    *("Reshape", "Resize", "Shape", "Softmax", "Split", "Sub", "Transpose"),
}
ACCEPTANCE = [(1, 512, 512), (1, 360, 480), (1, 500, 333), (1, 96, 65), (2, 96, 65)]


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return onnx_from_model(random_segformer(TINY, 1), spec_for(TINY))


def assert_same_masks(found, expected) -> tuple[float, float]:
    """Logits within 1e-4 of the largest; classes equal outside near ties; the exempt share."""
    difference = np.abs(found - expected).max()
    assert found.shape == expected.shape
    assert difference <= 1e-4 * np.abs(expected).max()
    best = np.sort(expected, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 2 * difference
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[clear].all()
    return float(difference / np.abs(expected).max()), float(1 - clear.mean())


def test_checker_and_strict_inference_accept_it(graph) -> None:
    onnx.checker.check_model(graph, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(
        graph, check_type=True, strict_mode=True, data_prop=True
    )
    assert len(inferred.graph.value_info) > len(graph.graph.node) // 2


def test_border_of_the_file(graph) -> None:
    assert (graph.opset_import[0].version, graph.ir_version) == (20, 9)
    assert (graph.producer_name, len(graph.opset_import)) == ("segdeploy", 1)
    assert graph.producer_version
    assert "custom, 7 classes" in graph.doc_string
    (image,), (logits,) = graph.graph.input, graph.graph.output
    dimensions = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert dimensions == ["batch", "height", "width", 3]
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dimensions = [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim]
    assert dimensions == ["batch", 7, "logits_height", "logits_width"]
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    (entry,) = graph.metadata_props
    assert entry.key == "segdeploy"
    assert ModelSpec.from_json(entry.value) == spec_for(TINY)


def test_weights_are_the_deploy_forms_under_their_names(graph) -> None:
    form = deploy_form(random_segformer(TINY, 1), MEAN, STD).state_dict()
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.graph.initializer
        if not tensor.name.startswith("shape.")
    }
    assert weights.keys() == form.keys()
    assert all(np.array_equal(weights[name], form[name].numpy()) for name in form)
    assert "stage1.block0.attention.query.weight" in weights


def test_it_has_the_nodes_it_needs_and_no_others(graph) -> None:
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts.keys() == ALLOWED
    blocks, reduced = sum(TINY.depths), sum(TINY.depths[:3])
    assert counts["Gelu"] == counts["Softmax"] == blocks
    assert counts["Conv"] == 4 + 3 * blocks + reduced
    assert counts["LayerNormalization"] == 8 + 2 * blocks + reduced
    assert counts["MatMul"] == 5 * blocks + 5
    assert counts["Resize"] == 3
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    assert all(node.output[0] == node.name for node in graph.graph.node if len(node.output) == 1)


def test_one_head_needs_no_head_axis(graph) -> None:
    names = {node.name for node in graph.graph.node}
    assert "stage2.block0.attention.joined_heads" in names
    assert "stage1.block0.attention.joined_heads" not in names


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    ours, theirs = same_weights(TINY, tmp_path_factory.mktemp("tiny"))
    return session(onnx_from_model(ours, spec_for(TINY))), theirs


@settings(max_examples=12)
@given(height=st.integers(64, 200), width=st.integers(64, 200), batch=st.integers(1, 2))
def test_it_answers_as_transformers_at_any_size(pair, height, width, batch) -> None:
    runner, theirs = pair
    frames = random_frames(batch, height, width, seed=height * width)
    (found,) = runner.run(None, {"image": frames})
    assert found.shape == (batch, TINY.classes, -(-height // 4), -(-width // 4))
    assert_same_masks(found, transformers_logits(theirs, frames))


def test_a_head_with_stage_activation_equals_its_published_form() -> None:
    from segformer_deploy.graph.verify import verify_against
    from tests.model.tiny import normalised

    model = random_segformer(replace(TINY, stage_activation=True), 3)
    graph = onnx_from_model(model, spec_for(TINY))
    verify_against(graph, lambda f: model(normalised(f)).detach().numpy(), [(1, 97, 133)])


@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=[] if v == "b0" else pytest.mark.slow) for v in VARIANTS],
)
def test_every_variant_answers_as_transformers(variant: str, tmp_path) -> None:
    config = config_for(variant, 150)
    ours, theirs = same_weights(config, tmp_path, seed=2)
    runner = session(onnx_from_model(ours, spec_for(config, variant)), threads=2)
    for shape in ACCEPTANCE:
        frames = random_frames(*shape, seed=7)
        (found,) = runner.run(None, {"image": frames})
        expected = transformers_logits(theirs, frames)
        assert len(np.unique(expected.argmax(axis=1))) > 1
        relative, exempt = assert_same_masks(found, expected)
        print(f"{variant} {shape}: {relative:.2g} of the largest logit, exempt {exempt:.5f}")


def test_specs_that_do_not_fit_are_refused() -> None:
    model = random_segformer(TINY, 1)
    with pytest.raises(SpecError, match="150 classes for a model of 7"):
        onnx_from_model(model, spec_for(replace(TINY, classes=150)))
    for change in ({"precision": "fp16"}, {"output": "class_map"}):
        with pytest.raises(SpecError, match=r"fp16|class_map"):
            onnx_from_model(model, spec_for(TINY).with_(**change))
