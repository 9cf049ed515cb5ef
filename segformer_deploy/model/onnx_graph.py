"""Writing an ONNX graph by hand: every node, value and weight gets the name we choose.

A node's only output carries the node's name, so a profile, a sensitivity table and a builder's
message all speak of the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from torch import Tensor

OPSET = 20
"""The first with Gelu as one op; LayerNormalization (17) and FP16 Q/DQ scales (19) are in."""
IR_VERSION = 9
"""The one that belongs to opset 20. ONNX Runtime 1.17 refuses 10, TensorRT 10.3 refuses 11."""


class GraphBuilder:
    """Writes nodes and initializers into one model, in the order in which they are asked for.

    Weights go straight into the final message: the helpers that assemble a model from parts
    copy all of them three times, which takes seconds for B5.
    """

    def __init__(self) -> None:
        self._model = onnx.ModelProto(ir_version=IR_VERSION)
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._graph = self._model.graph
        self._initializers: set[str] = set()

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output; gives the output's name, which is the node's."""
        self._graph.node.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, value: str, names: Sequence[str]) -> list[str]:
        """Cut the last axis into equal parts."""
        node = helper.make_node(
            "Split", [value], list(names), name=f"{value}.split", axis=-1, num_outputs=len(names)
        )
        self._graph.node.append(node)
        return list(names)

    def weight(self, name: str, tensor: Tensor) -> str:
        """Add a float32 initializer."""
        array = np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
        return self._initializer(name, array)

    def integers(self, *values: int) -> str:
        """A constant int64 vector, for shapes; the same values are stored once."""
        name = "shape." + "_".join(str(v).replace("-", "minus") for v in values)
        return self._initializer(name, np.array(values, dtype=np.int64))

    def _initializer(self, name: str, array: npt.NDArray[Any]) -> str:
        if name not in self._initializers:
            self._initializers.add(name)
            tensor = self._graph.initializer.add(name=name, dims=array.shape)
            tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
            # ONNX's raw bytes are little-endian.
            tensor.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return name

    def shape(self, value: str, start: int, end: int, name: str) -> str:
        """The sizes of axes `start` to `end` (exclusive) of `value`, at run time."""
        return self.node("Shape", [value], name, start=start, end=end)

    def concat(self, parts: Sequence[str], name: str) -> str:
        return self.node("Concat", parts, name, axis=0)

    def channels_first(self, value: str, name: str | None = None) -> str:
        """[B, h, w, C] -> [B, C, h, w]."""
        return self.node("Transpose", [value], name or f"{value}.nchw", perm=[0, 3, 1, 2])

    def channels_last(self, value: str, name: str | None = None) -> str:
        """[B, C, h, w] -> [B, h, w, C]."""
        return self.node("Transpose", [value], name or f"{value}.nhwc", perm=[0, 2, 3, 1])

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        doc: str,
        producer_version: str,
    ) -> onnx.ModelProto:
        """The finished model; the builder is not to be used after it."""
        self._graph.name = name
        self._graph.doc_string = doc
        self._graph.input.extend(inputs)
        self._graph.output.extend(outputs)
        self._model.producer_name = "segdeploy"
        self._model.producer_version = producer_version
        self._model.doc_string = doc
        return self._model


def tensor_info(name: str, dtype: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """A graph input or output; a name in `shape` is a free dimension."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


UINT8 = int(TensorProto.UINT8)
FLOAT = int(TensorProto.FLOAT)
