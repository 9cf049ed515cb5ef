"""An ONNX graph as layers of the fake TensorRT: rewiring a layer rewires the graph."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.engine.trt.fake_trt import DataType, LayerType, MisuseError, World

PUBLIC = (
    *("INetworkDefinition", "ITensor", "ILayer", "Weights"),
    *("IConvolutionLayer", "IConstantLayer", "IDequantizeLayer"),
)
_KINDS = {
    "Conv": "CONVOLUTION",
    "MatMul": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Reshape": "SHUFFLE",
    "Transpose": "SHUFFLE",
    "Cast": "CAST",
    "Shape": "SHAPE",
    "Concat": "CONCATENATION",
    "Split": "SLICE",
    "Softmax": "SOFTMAX",
    "Resize": "RESIZE",
    "LayerNormalization": "NORMALIZATION",
    "AveragePool": "POOLING",
    "Relu": "ACTIVATION",
    "Gelu": "ACTIVATION",
    "ReduceMax": "REDUCE",
    "ArgMax": "REDUCE",
}
_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
_ATTRIBUTE_INPUTS = {"Conv": 1, "Reshape": 1, "Resize": 1, "Split": 1}
"""From this input on, constants are not inputs of the layer but its attributes."""


class ITensor:
    """A value of the graph; constants have a name of their own here, as in the library."""

    __slots__ = ("_graph", "name", "value")

    def __init__(self, graph: INetworkDefinition, value: str, name: str = "") -> None:
        constant = value in graph.constants
        self._graph, self.value = graph, value
        self.name = name or (f"{value}_output" if constant else value)

    @property
    def dtype(self) -> Any:
        return DataType[_TYPES[self._graph.types[self.value]]]


class Weights:
    """Memory that the library reads while it builds; it keeps no reference to it."""

    __slots__ = ("_array", "shape")

    def __init__(self, array: Any) -> None:
        if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
            raise TypeError("Weights of something else than a NumPy array in one piece")
        self._array, self.shape = weakref.ref(array), array.shape

    def numpy(self) -> Any:
        array = self._array()
        if array is None:
            raise MisuseError("weights were given back before the build")
        return array


class ILayer:
    """A layer as the bindings hand it out: of the base class, until its class is changed."""

    __slots__ = ("_graph", "_node", "_outputs", "_slots", "name", "type")

    def __init__(
        self,
        graph: INetworkDefinition,
        kind: str,
        name: str,
        outputs: list[ITensor],
        node: onnx.NodeProto | None = None,
        slots: tuple[int, ...] = (),
    ) -> None:
        self._graph, self._node, self._slots, self._outputs = graph, node, slots, outputs
        self.type, self.name = LayerType[kind], name

    @property
    def num_inputs(self) -> int:
        return len(self._slots)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor | None:
        if not 0 <= index < len(self._slots):
            return None
        assert self._node is not None
        slot = self._slots[index]
        between = self._graph.broadcasts.get((self._node.output[0], slot))
        if between is not None and between is not self:
            return between.get_output(0)
        return ITensor(self._graph, self._node.input[slot])

    def set_input(self, index: int, tensor: ITensor) -> None:
        assert self._node is not None
        slot = self._slots[index]
        node = self._node.output[0]
        if self._graph.broadcasts.get((node, slot)) is not self:
            self._graph.broadcasts.pop((node, slot), None)
        self._node.input[slot] = tensor.value

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    @property
    def precision(self) -> Any:
        self._graph.world.remove("ILayer.precision")
        return DataType.FLOAT

    @precision.setter
    def precision(self, _: Any) -> None:
        self._graph.world.remove("ILayer.precision")

    def _must_be(self, kind: str) -> onnx.NodeProto:
        if self.type != LayerType[kind]:
            raise MisuseError(f"the {self.type.name} layer '{self.name}' was used as {kind}")
        return self._node  # type: ignore[return-value]


class IConvolutionLayer(ILayer):
    __slots__ = ()

    @property
    def num_groups(self) -> int:
        return int(_attribute(self._must_be("CONVOLUTION"), "group", 1))


class IDequantizeLayer(ILayer):
    __slots__ = ()

    @property
    def axis(self) -> int:
        node = self._must_be("DEQUANTIZE")
        scale = self._graph.constants.get(node.input[1])
        if scale is None or not scale.dims:
            return -1
        axis, rank = _attribute(node, "axis", 1), len(self._graph.constants[node.input[0]].dims)
        return int(axis) % rank


class IConstantLayer(ILayer):
    __slots__ = ()

    @property
    def weights(self) -> Any:
        """In one row, whatever the shape."""
        self._must_be("CONSTANT")
        return self._graph.array(self._outputs[0].value).reshape(-1)

    @property
    def shape(self) -> tuple[int, ...]:
        self._must_be("CONSTANT")
        return tuple(self._graph.array(self._outputs[0].value).shape)


class INetworkDefinition:
    """A graph that is changed in place; made empty, filled by the parser."""

    __slots__ = (
        *("world", "strongly_typed", "model", "constants", "added", "types"),
        *("layers", "broadcasts"),
    )

    def __init__(self, world: World, strongly_typed: bool) -> None:
        self.world, self.strongly_typed = world, strongly_typed
        self.model: onnx.ModelProto | None = None
        self.constants: dict[str, TensorProto] = {}
        self.added: dict[str, Weights] = {}
        self.types: dict[str, int] = {}
        self.layers: list[ILayer] = []
        self.broadcasts: dict[tuple[str, int], ILayer] = {}

    def take(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        known = onnx.shape_inference.infer_shapes(model).graph
        for value in [*known.input, *known.value_info, *known.output]:
            self.types[value.name] = value.type.tensor_type.elem_type
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        writers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            self._add_node(node, writers)

    def _add_node(self, node: onnx.NodeProto, writers: dict[str, onnx.NodeProto]) -> None:
        attributes = _ATTRIBUTE_INPUTS.get(node.op_type, len(node.input))
        slots = [
            index
            for index, value in enumerate(node.input)
            if value and not (index >= attributes and value in self.constants)
        ]
        for index in slots:
            value = node.input[index]
            if value in self.constants and all(layer.name != value for layer in self.layers):
                self.layers.append(ILayer(self, "CONSTANT", value, [ITensor(self, value)]))
        if node.op_type == "MatMul" and self._is_weight(writers.get(node.input[1])):
            # The parser raises a matrix to the rank of what it is multiplied with.
            name = f"ONNXTRT_Broadcast_{len(self.layers)}"
            output = ITensor(self, node.input[1], f"{name}_output")
            between = ILayer(self, "SHUFFLE", name, [output], node, (1,))
            self.broadcasts[node.output[0], 1] = between
            self.layers.append(between)
        outputs = [ITensor(self, name) for name in node.output if name]
        kind = _KINDS.get(node.op_type, "ELEMENTWISE")
        self.layers.append(ILayer(self, kind, node.name, outputs, node, tuple(slots)))

    def _is_weight(self, writer: onnx.NodeProto | None) -> bool:
        return (
            writer is not None
            and writer.op_type == "DequantizeLinear"
            and writer.input[0] in self.constants
        )

    def array(self, name: str) -> Any:
        if name in self.added:
            return self.added[name].numpy()
        return numpy_helper.to_array(self.constants[name])

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]

    def add_constant(self, shape: Any, weights: Weights) -> ILayer:
        array = weights.numpy()
        if int(np.prod(shape)) != array.size:
            raise MisuseError(f"{array.size} weights for a constant of {tuple(shape)}")
        name = f"(Unnamed Layer* {len(self.layers)}) [Constant]"
        self.added[name] = weights
        self.constants[name] = numpy_helper.from_array(array.reshape(shape), name)
        self.types[name] = self.constants[name].data_type
        layer = ILayer(self, "CONSTANT", name, [ITensor(self, name)])
        layer.__class__ = IConstantLayer
        self.layers.append(layer)
        return layer

    def finished(self) -> onnx.ModelProto:
        """The graph as it is now, with the weights that were added."""
        assert self.model is not None
        model = onnx.ModelProto.FromString(self.model.SerializeToString())
        for name, weights in self.added.items():
            shape = tuple(self.constants[name].dims)
            model.graph.initializer.append(
                numpy_helper.from_array(weights.numpy().reshape(shape), name)
            )
        return model


def fed_by_dequantise(model: onnx.ModelProto, product: str) -> bool:
    """Whether a DQ feeds the node `product`, perhaps through a change of layout."""
    writers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name != product:
            continue
        for value in node.input:
            writer = writers.get(value)
            while writer is not None and writer.op_type in ("Reshape", "Transpose"):
                writer = writers.get(writer.input[0])
            if writer is not None and writer.op_type == "DequantizeLinear":
                return True
    return False


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((one.i for one in node.attribute if one.name == name), default)
