"""The appended class map is the argmax of logits enlarged by PyTorch's bilinear resize."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn import functional

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import random_segformer
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule
from tests.little import little_model, little_spec
from tests.model.tiny import TINY, normalised, random_frames, session, spec_for


def spec_of(model: onnx.ModelProto) -> ModelSpec:
    return ModelSpec.from_json(model.metadata_props[0].value)


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 97, 133), (1, 160, 81)])
def test_it_is_the_argmax_of_the_enlarged_logits(shape) -> None:
    model = random_segformer(TINY, 1)
    graph = append_class_map(onnx_from_model(model, spec_for(TINY)))
    onnx.checker.check_model(graph, full_check=True)
    frames = random_frames(*shape)
    (found,) = session(graph).run(None, {"image": frames})
    with torch.no_grad():
        logits = functional.interpolate(model(normalised(frames)), shape[1:], mode="bilinear")
    best = logits.topk(2, dim=1).values
    clear = (best[:, 0] - best[:, 1] > 1e-4 * logits.abs().max()).numpy()
    assert (found.dtype, found.shape) == (np.uint8, shape)
    assert clear.mean() > 0.99
    assert (found == logits.argmax(dim=1).numpy())[clear].all()
    assert len(np.unique(found)) > 1


def test_the_border_and_the_spec_say_so() -> None:
    before = onnx_from_model(random_segformer(TINY, 1), spec_for(TINY))
    untouched = before.SerializeToString()
    after = append_class_map(before)
    assert before.SerializeToString() == untouched
    (output,) = after.graph.output
    dimensions = [d.dim_param for d in output.type.tensor_type.shape.dim]
    assert (output.name, dimensions) == ("class_map", ["batch", "height", "width"])
    assert spec_of(after) == spec_of(before).with_(output="class_map")
    assert (after.opset_import[0].version, after.ir_version) == (20, 9)


def test_the_first_of_equal_classes_wins() -> None:
    weight = np.ones((5, 3), np.float32)
    weight[0] = 0
    graph = append_class_map(little_model(named_spec(5), weight))
    (found,) = session(graph).run(None, {"image": random_frames(1, 64, 72)})
    assert (found == 1).all()


@pytest.mark.parametrize(("classes", "dtype"), [(256, np.uint8), (257, np.int32)])
def test_uint8_reaches_to_256_classes(classes: int, dtype) -> None:
    weight = np.zeros((classes, 3), np.float32)
    weight[-1] = 1
    graph = append_class_map(little_model(named_spec(classes), weight))
    (found,) = session(graph).run(None, {"image": random_frames(1, 64, 64)})
    assert found.dtype == dtype
    assert (found == classes - 1).all()


def test_fp16_logits_are_cast_before_they_are_enlarged() -> None:
    """Interpolating in FP16 would round ties into existence; the reference stays in FP32."""
    model = little_model()
    (last,) = (node for node in model.graph.node if node.output[0] == "logits")
    last.output[0] = "fp32"
    model.graph.node.append(helper.make_node("Cast", ["fp32"], ["logits"], to=TensorProto.FLOAT16))
    frames = random_frames(1, 68, 84)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    (half,) = session(model).run(None, {"image": frames})
    logits = functional.interpolate(torch.from_numpy(half).float(), (68, 84), mode="bilinear")
    graph = append_class_map(model)
    onnx.checker.check_model(graph, full_check=True)
    (found,) = session(graph).run(None, {"image": frames})
    best = logits.topk(2, dim=1).values
    clear = (best[:, 0] - best[:, 1] > 1e-6 * logits.abs().max()).numpy()
    assert (found == logits.argmax(dim=1).numpy())[clear].all()
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.index("Resize") > len(model.graph.node)
    resize = graph.graph.node[kinds.index("Resize")]
    inferred = onnx.shape_inference.infer_shapes(graph)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert types[resize.input[0]] == TensorProto.FLOAT


def test_graphs_that_were_not_exported_are_refused() -> None:
    foreign = little_model()
    del foreign.metadata_props[:]
    with pytest.raises(OnnxFileError, match="metadata"):
        append_class_map(foreign)
    with pytest.raises(OnnxFileError, match="class_map"):
        append_class_map(append_class_map(little_model()))


def named_spec(classes: int) -> ModelSpec:
    spec = spec_for(replace(TINY, classes=classes))
    return spec.with_(
        resize=ResizeRule.stretch_to(FrameSize(64, 64)), variant=little_spec().variant
    )
