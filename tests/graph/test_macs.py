"""Counting from shapes equals counting while running: PyTorch's flop counter, real arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.macs import (
    Moved,
    activation_memory,
    count_macs,
    data_movement,
    macs_by_kind,
    node_counts,
    static_shapes,
    value_bytes,
)
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


def test_shapes_and_bytes_are_those_of_a_run() -> None:
    graph = onnx_from_model(random_segformer(TINY, 1), spec_for(TINY))
    shapes = static_shapes(graph, FrameSize(97, 133), 2)
    sizes = value_bytes(graph, FrameSize(97, 133), 2)
    assert sizes.pop("image") == 2 * 97 * 133 * 3
    assert sizes.keys() == {name for node in graph.graph.node for name in node.output}
    names = [name for node in graph.graph.node for name in node.output]
    for name in names[:-1]:
        graph.graph.output.append(helper.make_empty_tensor_value_info(name))
    graph = onnx.shape_inference.infer_shapes(graph)
    runner = session(graph)
    found = runner.run(None, {"image": random_frames(2, 97, 133)})
    for info, array in zip(runner.get_outputs(), found, strict=True):
        assert shapes[info.name] == array.shape, info.name
        assert sizes[info.name] == array.nbytes, info.name


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


def with_a_secret_node(name: str) -> onnx.ModelProto:
    """A graph in which nobody knows what the node `name` gives."""
    graph = onnx_from_model(random_segformer(TINY, 1), spec_for(TINY))
    node = next(node for node in graph.graph.node if node.name == name)
    node.op_type, node.domain = "Secret", "elsewhere"
    graph.opset_import.append(helper.make_opsetid("elsewhere", 1))
    return graph


def test_shapes_that_do_not_follow_are_refused() -> None:
    graph = with_a_secret_node("stage1.embed")
    with pytest.raises(OnnxFileError, match=r"cannot be worked out|do not fit"):
        count_macs(graph, FrameSize(64, 64))


# Bytes ----------------------------------------------------------------------------------------

CASTS = {
    np.dtype(kind): int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    for kind in (np.uint8, np.int32, np.float16, np.float32, np.float64)
}


class Executed:
    """A graph that is computed in NumPy while it is written: every value is a real array.

    A view is the same object as what it views, so object identity says who shares memory.
    """

    def __init__(self, height: int, width: int) -> None:
        rng = np.random.default_rng(0)
        self.size = FrameSize(height, width)
        image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
        weight = rng.integers(0, 256, (65, 3), np.uint8)
        self.arrays: dict[str, npt.NDArray[Any]] = {"image": image, "weight": weight}
        self.rows: dict[str, npt.NDArray[Any]] = {"weight": weight}
        """Values of the graph as [rows, 3]; image is the same memory in another shape."""
        self.nodes: list[onnx.NodeProto] = []
        self.add("Reshape", ["image", "shape"], [image], [image.reshape(-1, 3)])

    def add(
        self,
        kind: str,
        inputs: list[str],
        arrays: list[npt.NDArray[Any]],
        rows: list[npt.NDArray[Any]],
        **attributes: Any,
    ) -> None:
        names = [f"value{len(self.rows) + i}" for i in range(len(arrays))]
        node = helper.make_node(kind, inputs, names, name=f"node{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        self.arrays.update(zip(names, arrays, strict=True))
        self.rows.update(zip(names, rows, strict=True))

    def add_random(self, draw: st.DrawFn) -> None:
        source = draw(st.sampled_from(sorted(self.rows)))
        value, memory = self.rows[source], self.arrays[source]
        kind = draw(st.sampled_from(["Cast", "Concat", "Split", "Identity"]))
        if kind == "Identity":
            self.add(kind, [source], [memory], [value])
        elif kind == "Split" and len(value) > 1:
            half = -(-len(value) // 2)
            parts = [value[:half].copy(), value[half:].copy()]
            self.add(kind, [source], parts, parts, axis=0, num_outputs=2)
        elif kind == "Concat":
            alike = sorted(name for name, one in self.rows.items() if one.dtype == value.dtype)
            names = [source, *draw(st.lists(st.sampled_from(alike), max_size=2))]
            joined = np.concatenate([self.rows[name] for name in names])
            self.add(kind, names, [joined], [joined], axis=0)
        else:
            dtype = draw(st.sampled_from(sorted(CASTS, key=str)))
            cast = value.astype(dtype)  # a copy even where the type stays
            self.add("Cast", [source], [cast], [cast], to=CASTS[dtype])

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        infos = []
        for name in outputs:
            array = self.rows[name]
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            infos.append(helper.make_tensor_value_info(name, kind, array.shape))
        graph = helper.make_graph(
            self.nodes,
            "random",
            [
                helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", 3]),
                # Some exporters list weights among the inputs too; they stay weights.
                helper.make_tensor_value_info("weight", TensorProto.UINT8, [65, 3]),
            ],
            infos,
            [
                numpy_helper.from_array(self.arrays["weight"], "weight"),
                numpy_helper.from_array(np.array([-1, 3], np.int64), "shape"),
            ],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])

    def alive_at(self, step: int, outputs: list[str]) -> int:
        """Bytes that are needed while node `step` runs, straight from the definition."""
        needed = {id(self.arrays["image"]): self.arrays["image"]}
        for made, node in enumerate(self.nodes[: step + 1]):
            for name in node.output:
                used_later = any(name in later.input for later in self.nodes[step:])
                if made == step or used_later or name in outputs:
                    needed[id(self.arrays[name])] = self.arrays[name]
        needed.pop(id(self.arrays["weight"]), None)
        return sum(array.nbytes for array in needed.values())


@st.composite
def executed_graphs(draw: st.DrawFn) -> tuple[Executed, list[str]]:
    graph = Executed(draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    for _ in range(draw(st.integers(0, 12))):
        graph.add_random(draw)
    made = [name for node in graph.nodes for name in node.output]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return graph, outputs


@given(executed_graphs())
def test_memory_is_what_the_definition_says(case: tuple[Executed, list[str]]) -> None:
    graph, outputs = case
    found = activation_memory(graph.model(outputs), graph.size)
    alive = [graph.alive_at(step, outputs) for step in range(len(graph.nodes))]
    assert found.peak == max(alive)
    assert found.peak_node == f"node{alive.index(max(alive))}"
    written = {id(array): array.nbytes for array in graph.arrays.values()}
    for name in ("image", "weight"):
        written.pop(id(graph.arrays[name]))
    assert found.total == sum(written.values())


def test_memory_of_a_residual_by_hand() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Relu", ["float"], ["branch"]),
            helper.make_node("Relu", ["branch"], ["deeper"]),
            helper.make_node("Add", ["float", "deeper"], ["sum"], name="residual"),
            helper.make_node("Cast", ["sum"], ["out"], to=TensorProto.FLOAT16),
        ],
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT16, [None] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    values = 2 * 4 * 6 * 3
    found = activation_memory(model, FrameSize(4, 6), 2)
    # The image, and three maps in FP32 at once: at the second Relu, and at the Add.
    assert (found.peak, found.peak_node) == (values * (1 + 3 * 4), "Relu")
    assert found.total == values * (4 * 4 + 2)
    assert data_movement(model, FrameSize(4, 6), 2) == {"Cast": Moved(2, values * (4 + 2))}


def test_moved_bytes_are_those_of_a_run() -> None:
    graph = append_class_map(onnx_from_model(random_segformer(TINY, 1), spec_for(TINY)))
    kinds = {name: node.op_type for node in graph.graph.node for name in node.output}
    moved = data_movement(graph, FrameSize(97, 133), 2)
    for name in kinds.keys() - {"class_map"}:
        graph.graph.output.append(helper.make_empty_tensor_value_info(name))
    graph = onnx.shape_inference.infer_shapes(graph)
    runner = session(graph)
    found = runner.run(None, {"image": random_frames(2, 97, 133)})
    written = dict.fromkeys(moved, 0)
    for info, array in zip(runner.get_outputs(), found, strict=True):
        if kinds[info.name] in written:
            written[kinds[info.name]] += array.nbytes
    assert moved["Reshape"].nodes > 0
    assert written.keys() == {"Cast", "Concat", "Reshape", "Split", "Transpose"}
    written["Reshape"] = 0  # the same bytes under another shape
    assert {kind: one.bytes for kind, one in moved.items()} == written


def test_a_value_of_unknown_rank_is_refused() -> None:
    graph = with_a_secret_node("decoder.classifier")
    with pytest.raises(OnnxFileError, match=r"cannot be worked out|do not fit"):
        activation_memory(graph, FrameSize(64, 64))
