"""An engine's hash: of all bytes that its answers come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.engine.fingerprint import engine_hash, external_files
from tests.little import write_little


def test_a_file_with_its_weights_inside_is_its_own_bytes(tmp_path: Path) -> None:
    path = write_little(tmp_path / "little.onnx")
    assert external_files(path) == []
    assert engine_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    for data in (b"", b"\xff\xff no message"):
        path.write_bytes(data)
        assert engine_hash(path) == hashlib.sha256(data).hexdigest()


def _tensor(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), location)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def test_weights_are_found_wherever_a_model_may_have_them(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["a"], value=_tensor("in-a-node"))
    inner = helper.make_graph([constant], "inner", [], [], [_tensor("in-a-branch")])
    branch = helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner)
    sparse = onnx.SparseTensorProto(values=_tensor("values"), indices=_tensor("indices"))
    graph = helper.make_graph(
        [branch], "outer", [], [], [_tensor("first")], sparse_initializer=[sparse]
    )
    function = helper.make_function(
        "own", "f", [], ["a"], [helper.make_node("Constant", [], ["a"], value=_tensor("in-f"))], []
    )
    model = helper.make_model(graph, functions=[function])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_files(path) == sorted(
        ["in-a-node", "in-a-branch", "values", "indices", "first", "in-f"]
    )
