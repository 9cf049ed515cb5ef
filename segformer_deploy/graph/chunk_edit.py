"""What the rewrites into strips and chunks share: a graph of one size, and how parts are replaced.

Rows are cut evenly, so that no piece is much smaller than the others. Every piece is finished
before the next begins, wherever nodes run depth first from the output, as ONNX Runtime's do
(`live_set.execution_order`): a piece's nodes hang together, pieces meet only in their `Concat`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from segformer_deploy.errors import OnnxFileError

Rows = tuple[int, int]
"""First row, and the row after the last."""


def even_rows(height: int, count: int) -> list[Rows]:
    """`height` rows in `count` pieces (at most one per row) that differ by one row at most."""
    count = max(1, min(count, height))
    ends = [height * i // count for i in range(count + 1)]
    return list(pairwise(ends))


def pieces_for(height: int, row_bytes: int, limit: int) -> int:
    """How many pieces `height` rows make where none takes more than `limit` bytes.

    One row each, where a row alone takes more.
    """
    return -(-height // max(1, limit // row_bytes))


class GraphEdit:
    """A copy of `model`, whose sizes are all fixed, in which groups of nodes are replaced.

    Raises OnnxFileError where a size is free (see `chunk_fixed_size`).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.shapes = static_shapes(self.model)
        self.writer: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in node.output:
                self.writer[name] = node
            for name in node.input:
                self.readers[name].append(node)
        self._outputs = {value.name for value in self.graph.output}
        self._constants = {tensor.name for tensor in self.graph.initializer}
        self._replaced: dict[str, list[onnx.NodeProto]] = {}
        """Name of a group's last node -> the nodes that stand there instead."""
        self._dropped: set[str] = set()
        self._new: list[onnx.NodeProto] = []

    def sole_reader(self, value: str, op: str) -> onnx.NodeProto | None:
        """The node `op` that alone reads `value`; None where others do, or it is an output."""
        readers = self.readers[value]
        if len(readers) != 1 or value in self._outputs or readers[0].op_type != op:
            return None
        return readers[0]

    def written_by(self, value: str, op: str) -> onnx.NodeProto | None:
        node = self.writer.get(value)
        return node if node is not None and node.op_type == op else None

    def is_constant(self, value: str) -> bool:
        return value in self._constants

    def numbers(self, value: str) -> list[int]:
        """The integers of a constant."""
        (tensor,) = (one for one in self.graph.initializer if one.name == value)
        return [int(number) for number in numpy_helper.to_array(tensor)]

    # Writing ----------------------------------------------------------------------------------

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._new.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def copy(
        self, node: onnx.NodeProto, inputs: dict[str, str], part: str, **attributes: Any
    ) -> str:
        """`node` once more for the piece `part`, with some inputs and attributes replaced."""
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{node.name}.{part}"
        del twin.input[:]
        twin.input.extend(inputs.get(name, name) for name in node.input)
        del twin.output[:]
        twin.output.append(f"{node.output[0]}.{part}")
        kept = [one for one in twin.attribute if one.name not in attributes]
        del twin.attribute[:]
        twin.attribute.extend(kept)
        twin.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self._new.append(twin)
        return str(twin.output[0])

    def copies(self, chain: Iterable[onnx.NodeProto], inputs: dict[str, str], part: str) -> str:
        """A chain of nodes once more; `inputs` also learns what stands for their outputs."""
        last = ""
        for node in chain:
            last = inputs[node.output[0]] = self.copy(node, inputs, part)
        return last

    def integers(self, *values: int) -> str:
        name = "shape." + "_".join(str(v).replace("-", "minus") for v in values)
        return self.constant(name, np.array(values, np.int64))

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants.add(name)
            self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def rows(self, value: str, rows: Rows, name: str, axis: int = 1) -> str:
        """Some rows of `value`; `value` itself where they are all."""
        if rows == (0, self.shapes[value][axis]):
            return value
        ends = [self.integers(rows[0]), self.integers(rows[1]), self.integers(axis)]
        return self.node("Slice", [value, *ends], name)

    def replace(self, group: Iterable[onnx.NodeProto], last: onnx.NodeProto) -> None:
        """Drop `group`; what was written since the last call takes the place of its `last`."""
        self._dropped.update(node.name for node in group)
        self._replaced[last.name] = self._new
        self._new = []

    def finished(self) -> onnx.ModelProto:
        """The model with everything replaced; the editor is not to be used after it."""
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            nodes += self._replaced.get(node.name, ())
            if node.name not in self._dropped:
                nodes.append(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        del self.graph.value_info[:]
        return self.model


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every value; OnnxFileError where one is not fixed."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    free = [n for node in inferred.node for n in node.output if n and n not in shapes]
    if free:
        raise OnnxFileError(
            f"the size of {free[0]} is free",
            "a graph of one frame size",
            "fix its size first: segformer_deploy.graph.chunk_fixed_size.fix_size",
        )
    return shapes


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    found = next((one for one in node.attribute if one.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
