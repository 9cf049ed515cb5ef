"""Live sets by hand, and the order of execution as ONNX Runtime's own profile tells it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.graph.chunk_ffn import chunk_ffn
from segformer_deploy.graph.live_set import execution_order, live_set
from segformer_deploy.graph.strips_decoder import strip_decoder
from segformer_deploy.graph.strips_embed import strip_embedding
from segformer_deploy.spec import FrameSize
from tests.graph.lively import lively_model
from tests.graph.pieces import fixed, frame

FLOAT = TensorProto.FLOAT


def _graph(nodes: list[onnx.NodeProto], length: int, out: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [length])],
        [helper.make_tensor_value_info("y", FLOAT, [out])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def _node(op: str, inputs: list[str], name: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [name], name=name, **attributes)


def test_a_chain_holds_two_values_at_once() -> None:
    chain = [_node("Relu", ["x"], "a"), _node("Neg", ["a"], "b"), _node("Abs", ["b"], "y")]
    found = live_set(_graph(chain, 100, 100))
    assert (found.peak_bytes, found.node) == (800, "b")  # x is an input: not counted


def test_a_value_read_late_is_held_until_then() -> None:
    nodes = [
        _node("Relu", ["x"], "kept"),
        _node("Neg", ["kept"], "b"),
        _node("Abs", ["b"], "c"),
        _node("Add", ["c", "kept"], "y"),
    ]
    assert live_set(_graph(nodes, 100, 100)).peak_bytes == 1200


def test_a_reshape_takes_nothing_and_keeps_what_it_read() -> None:
    nodes = [
        _node("Relu", ["x"], "a"),
        _node("Unsqueeze", ["a", "axes"], "b"),
        _node("Squeeze", ["b", "axes"], "c"),
        _node("Neg", ["c"], "y"),
    ]
    model = _graph(nodes, 100, 100)
    model.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [0]))
    assert live_set(model).peak_bytes == 800


def test_pieces_hold_less() -> None:
    whole = fixed(FrameSize(128, 64))
    cut = strip_embedding(strip_decoder(chunk_ffn(whole, 4000), 4000), 20_000)
    assert live_set(cut).peak_bytes < live_set(whole).peak_bytes


@pytest.mark.parametrize("limit", [1 << 30, 6000])
def test_the_order_is_onnx_runtime_s(limit: int, tmp_path: Path) -> None:
    size = FrameSize(64, 96)
    model = strip_decoder(chunk_ffn(fixed(size), limit), limit)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"image": frame(size)})
    events = json.loads(Path(session.end_profiling()).read_text())
    ending = "_kernel_time"
    ran = [e["name"].removesuffix(ending) for e in events if e["name"].endswith(ending)]
    assert ran == [node.name for node in execution_order(model.graph)]


def test_a_graph_of_free_size_is_refused() -> None:
    with pytest.raises(OnnxFileError, match="is free"):
        live_set(lively_model())
