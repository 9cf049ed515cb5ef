"""``image -> Cast(FP32) -> ...``  ->  ``image -> Cast(FP16) -> ... -> Cast(FP32) -> logits``.

Not exact: every value is rounded to FP16 (11 significant bits), except inside the islands that
the caller names, each with its reason. The graph is strongly typed: a Cast stands wherever a
value crosses between FP16 and FP32, so that no engine has anything left to decide. Norms, GELU
and softmax stay one operation each; decomposed, a norm overflows in FP16.

Q/DQ pairs stay: their scales are FP16 numbers already, so the integers do not change with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.errors import SpecError
from segformer_deploy.graph.metadata import checked_spec, write_spec

LogitsType = Literal["fp16", "fp32"]
_HALF, _FULL = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)


def cast_fp16(
    model: onnx.ModelProto, islands: Iterable[str] = (), *, logits: LogitsType = "fp32"
) -> onnx.ModelProto:
    """A copy of the FP32 or INT8 graph `model` that computes in FP16 outside `islands`.

    Args:
        islands: names of nodes that stay in FP32.
        logits: the type of the output; FP16 logits halve what leaves the device.

    Raises:
        OnnxFileError: `model` is not an exported graph with logits.
        SpecError: an island is no node of `model`, or `model` is in FP16 already.
    """
    spec = checked_spec(model)
    kept = frozenset(islands)
    unknown = sorted(kept - {node.name for node in model.graph.node})
    if unknown:
        raise SpecError(f"FP32 islands {', '.join(unknown[:3])}", "names of nodes of this graph")
    if logits not in get_args(LogitsType):
        raise SpecError(f"logits in '{logits}'", "one of " + ", ".join(get_args(LogitsType)))
    if spec.precision == "fp16" or _HALF in _types(model).values():
        raise SpecError("a graph that is in FP16 already", "the FP32 graph, or an INT8 one in FP32")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Caster(result, kept, _HALF if logits == "fp16" else _FULL).rewrite()
    if spec.precision == "fp32":
        write_spec(result, spec.with_(precision="fp16"))
    return result


def _types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _pairs_at(graph: onnx.GraphProto, islands: frozenset[str]) -> set[str]:
    """The Q/DQ nodes of what `islands` write and read: they see what FP16 cannot hold."""
    written = {name for node in graph.node if node.name in islands for name in node.output}
    read = {name for node in graph.node if node.name in islands for name in node.input}
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in written:
            found.add(node.name)
            written.update(node.output)
        elif node.op_type == "DequantizeLinear" and (
            node.input[0] in written or node.output[0] in read
        ):
            found.add(node.name)
    return found


class _Caster:
    """One pass over a graph that is changed in place."""

    def __init__(self, model: onnx.ModelProto, islands: frozenset[str], logits: int) -> None:
        self._graph = model.graph
        self._islands = islands | _pairs_at(model.graph, islands)
        self._logits = logits
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        # The element type of each float value, as it will be.
        self._types: dict[str, int] = {}
        self._made: set[str] = set()

    def rewrite(self) -> None:
        nodes: list[onnx.NodeProto] = []
        output = self._graph.output[0].name
        for node in self._graph.node:
            nodes += self._converted(node)
        nodes += self._typed_output(nodes, output)
        copies = []
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del self._graph.node[:]
        self._graph.node.extend(copies)
        self._graph.output[0].type.tensor_type.elem_type = self._logits
        self._drop_unread_weights()

    def _converted(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """`node` with its float inputs in its own type, behind the casts that this takes."""
        kind = _FULL if node.name in self._islands else _HALF
        casts: list[onnx.NodeProto] = []
        is_float = False
        for index, name in enumerate(node.input):
            if name in self._weights and self._weights[name].data_type == _FULL:
                is_float = True
                node.input[index] = self._weight_as(name, kind)
            elif name in self._types:
                is_float = True
                # A value's shape is the same in every type.
                if node.op_type != "Shape" and self._types[name] != kind:
                    node.input[index] = self._cast(name, kind, casts)
        self._note_outputs(node, kind, is_float)
        return [*casts, node]

    def _note_outputs(self, node: onnx.NodeProto, kind: int, is_float: bool) -> None:
        if node.op_type == "Cast":
            to = next(a for a in node.attribute if a.name == "to")
            if to.i == _FULL:
                to.i = kind
                self._types[node.output[0]] = kind
        elif is_float and node.op_type not in ("Shape", "QuantizeLinear"):
            self._types.update(dict.fromkeys(node.output, kind))

    def _weight_as(self, name: str, kind: int) -> str:
        if kind == _FULL:
            return name
        half = f"{name}.fp16"
        if half not in self._made:
            self._made.add(half)
            # What does not fit becomes infinite, here as anywhere: the caller has looked.
            with np.errstate(over="ignore"):
                values = numpy_helper.to_array(self._weights[name]).astype(np.float16)
            self._graph.initializer.append(numpy_helper.from_array(values, half))
        return half

    def _cast(self, name: str, kind: int, casts: list[onnx.NodeProto]) -> str:
        target = f"{name}.{'fp16' if kind == _HALF else 'fp32'}"
        if target not in self._made:
            self._made.add(target)
            casts.append(_node("Cast", [name], target, to=kind))
        return target

    def _typed_output(self, nodes: list[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
        if self._types[output] == self._logits:
            return []
        (writer,) = (node for node in nodes if output in node.output)
        inner = f"{output}.inner"
        writer.output[list(writer.output).index(output)] = writer.name = inner
        return [_node("Cast", [inner], output, to=self._logits)]

    def _drop_unread_weights(self) -> None:
        read = {name for node in self._graph.node for name in node.input}
        for tensor in list(self._graph.initializer):
            if tensor.name not in read:
                self._graph.initializer.remove(tensor)


def _node(op: str, inputs: list[str], name: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [name], name=name, **attributes)
