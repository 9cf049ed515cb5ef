"""Counting from shapes equals counting while running (PyTorch's flop counter)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.macs import count_macs, macs_by_kind, node_counts, static_shapes
from segformer_deploy.model.deploy import deploy_form
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import config_for, random_segformer
from segformer_deploy.spec import FrameSize
from tests.model.tiny import MEAN, STD, TINY, random_frames, session, spec_for


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (2, 97, 133)])
def test_counts_are_those_of_a_run(batch: int, height: int, width: int) -> None:
    model = random_segformer(TINY, 1)
    frames = torch.from_numpy(random_frames(batch, height, width))
    form = deploy_form(model, MEAN, STD)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        form(frames)
    graph = onnx_from_model(model, spec_for(TINY))
    found = macs_by_kind(graph, FrameSize(height, width), batch)
    assert sum(found.values()) == counter.get_total_flops() // 2
    assert found.keys() == {"Conv", "MatMul"}


def test_b0_needs_4_09_gmac() -> None:
    config = config_for("b0", 150)
    graph = onnx_from_model(random_segformer(config, 1), spec_for(config, "b0"))
    macs = count_macs(graph, FrameSize(512, 512))
    assert macs <= 4.2e9
    assert macs / 1e9 == pytest.approx(4.09, abs=0.005)
    assert count_macs(append_class_map(graph), FrameSize(512, 512)) == macs


def test_shapes_are_those_of_a_run() -> None:
    graph = onnx_from_model(random_segformer(TINY, 1), spec_for(TINY))
    shapes = static_shapes(graph, FrameSize(97, 133), 2)
    names = [name for node in graph.graph.node for name in node.output]
    for name in names[:-1]:
        graph.graph.output.append(helper.make_empty_tensor_value_info(name))
    graph = onnx.shape_inference.infer_shapes(graph)
    runner = session(graph)
    found = runner.run(None, {"image": random_frames(2, 97, 133)})
    for info, array in zip(runner.get_outputs(), found, strict=True):
        assert shapes[info.name] == array.shape, info.name


def test_gemm_and_groups_count_by_hand() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["map"], group=2),
            helper.make_node("Flatten", ["map"], ["flat"], axis=2),
            helper.make_node("Gemm", ["flat", "matrix"], ["out"], transA=1, transB=1),
        ],
        "hand",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, None])],
        [
            numpy_helper.from_array(np.zeros((6, 2, 3, 3), np.float32), "kernel"),
            numpy_helper.from_array(np.zeros((5, 6), np.float32), "matrix"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    # The image is read as [batch, height, width, 3]: here 4 "rows" are channels.
    assert macs_by_kind(model, FrameSize(4, 8)) == {
        "Conv": 1 * 6 * (8 - 2) * (3 - 2) * (2 * 3 * 3),
        "Gemm": 6 * 5 * 6,
    }


def test_node_counts_add_up() -> None:
    graph = onnx_from_model(random_segformer(TINY, 1), spec_for(TINY))
    counts = node_counts(graph)
    assert sum(counts.values()) == len(graph.graph.node)
    assert counts["Resize"] == 3
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_shapes_that_do_not_follow_are_refused() -> None:
    graph = onnx_from_model(random_segformer(TINY, 1), spec_for(TINY))
    for node in graph.graph.node:
        if node.name == "stage1.embed":
            node.op_type, node.domain = "Secret", "elsewhere"
    graph.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(OnnxFileError, match=r"cannot be worked out|do not fit"):
        count_macs(graph, FrameSize(64, 64))
