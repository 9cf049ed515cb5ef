"""From an exported graph to a network's packed weights.

The graph must be the plain deploy form that the exporter writes, in FP32 or with INT8 products:
every node is compared with the one expected (plain.py) and every weight must have been used, so
that a graph that computes anything else (with a class map inside, edited by hand) is declined and
not misread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.native.library import Grids, Library
from segformer_deploy.engine.native.plain import check_plain, unsupported
from segformer_deploy.engine.native.quantised import Steps, step_from_grid, steps_from_weight
from segformer_deploy.engine.native.weights import (
    Block,
    Classifier,
    Convolution,
    Floats,
    HeadStage,
    Linear,
    Network,
    Norm,
    Stage,
)
from segformer_deploy.engine.onnx_graph import OnnxGraph

Numbers = npt.NDArray[Any]
_COUNTED = (np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8))
"""Types of what computes; the rest are shapes."""
_LEAST_GELU = -0.17
"""x (1 + erf(x / sqrt 2)) / 2 is least at x = -0.7518: -0.169971, and rounding is far finer than
what is left to here."""


def network_from_graph(graph: OnnxGraph, library: Library) -> Network:
    """Pack the weights of `graph`; BackendError where it is not the plain deploy form."""
    # Packed weights are copies: of what was copied the file's pages need not stay in memory.
    reader = _Reader(graph, library)
    try:
        network = reader.network()
    except (KeyError, IndexError, ValueError) as error:
        raise unsupported(f"{error} is missing or has another shape") from None
    left = sorted(reader.unused())
    if left:
        raise unsupported(f"it has weights of its own ({', '.join(left[:3])})")
    check_plain(graph.nodes, graph.weights, network)
    return network


def _same(weight: Numbers) -> Numbers:
    return weight


def _of_pixels(weight: Numbers) -> Numbers:
    """A 1x1 convolution's, [outputs, inputs, 1, 1]."""
    pixels: Numbers = weight[:, :, 0, 0].T
    return pixels


def _of_windows(weight: Numbers) -> Numbers:
    """Another convolution's; windows are ordered (ky, kx, channel)."""
    windows: Numbers = weight.transpose(2, 3, 1, 0)
    return windows.reshape(-1, weight.shape[0])


def _matrix(name: str, weight: Numbers, matrix_of: Callable[[Numbers], Numbers]) -> Numbers:
    try:
        inputs, outputs = (matrix := matrix_of(weight)).shape
    except (IndexError, ValueError):
        raise ValueError(f"{name} of shape {weight.shape}") from None
    if not inputs or not outputs:
        raise ValueError(f"{name} of shape {weight.shape}")
    return matrix


class _Reader:
    """Takes weights by the names that the exporter gives them, and remembers which."""

    def __init__(self, graph: OnnxGraph, library: Library) -> None:
        self.weights = graph.weights
        self.nodes = {node.name: node for node in graph.nodes}
        self.release = graph.release
        self.panel, self.bytes = library.panel, library.bytes
        self.used: set[str] = set()

    def take(self, name: str) -> Floats:
        array = self.number(name)
        if array.dtype != np.float32:
            raise ValueError(f"{name} of type {array.dtype}")
        return array

    def number(self, name: str) -> Numbers:
        array = self.weights[name]
        self.used.add(name)
        return array

    def unused(self) -> set[str]:
        return {n for n, array in self.weights.items() if array.dtype in _COUNTED} - self.used

    # Grids ------------------------------------------------------------------------------------

    def step(self, value: str) -> float:
        """The step of the grid that `value` is rounded to."""
        parts = (self.number(f"{value}.{part}") for part in ("scale", "zero_point"))
        return step_from_grid(value, *parts)

    def grids(self, attention: str) -> Grids | None:
        """Of all that enters the two products of `attention`, or of nothing."""
        values = [f"{attention}.{part}" for part in ("query", "key", "softmax", "value")]
        if not any(f"{value}.scale" in self.weights for value in values):
            return None
        return Grids(*(self.step(value) for value in values))

    def weight(
        self,
        name: str,
        value: str,
        matrix_of: Callable[[Numbers], Numbers],
        least: float = -np.inf,
    ) -> Floats | Steps:
        """[inputs, outputs] of the product `name`; quantised where `value`, its input, is, which
        is never below `least`."""
        weight = f"{name}.weight"
        if f"{weight}.quantized" not in self.weights:
            return _matrix(weight, self.take(weight), matrix_of)
        names = ("quantized", "scale", "zero_point")
        integers, scale, zero_point = (self.number(f"{weight}.{part}") for part in names)
        matrix = _matrix(weight, integers, matrix_of)
        return steps_from_weight(weight, matrix, scale, zero_point, self.step(value), least)

    def branch_end(self, name: str, weight: Floats | Steps, bias: Floats | None) -> Linear:
        """The last product of a branch, whose result may be rounded as well."""
        step = self.step(name) if f"{name}.scale" in self.weights else 0.0
        if step and not isinstance(weight, Steps):
            raise unsupported(f"it rounds '{name}', which is no INT8 product")
        return Linear(weight, bias, self.panel, step, self.bytes)

    # Layers -----------------------------------------------------------------------------------

    def bias(self, name: str) -> Floats | None:
        return self.take(f"{name}.bias") if f"{name}.bias" in self.weights else None

    def linear(self, name: str, value: str) -> Linear:
        weight = self.weight(name, value, _same)
        return Linear(weight, self.bias(name), self.panel, as_bytes=self.bytes)

    def pointwise(self, name: str, value: str, least: float = -np.inf) -> Linear:
        weight = self.weight(name, value, _of_pixels, least)
        return self.branch_end(name, weight, self.take(f"{name}.bias"))

    def norm(self, name: str) -> Norm:
        eps = float(self.nodes[name].attributes["epsilon"])
        return Norm(self.take(f"{name}.weight"), self.take(f"{name}.bias"), eps)

    def convolution(self, name: str, value: str) -> Convolution:
        weight = self.weight(name, value, _of_windows)
        linear = Linear(weight, self.take(f"{name}.bias"), self.panel, as_bytes=self.bytes)
        node = self.nodes[name]
        kernel = node.attributes["kernel_shape"][0]
        channels, rest = divmod(linear.inputs, kernel * kernel)
        if rest:
            raise ValueError(f"{name}.weight of {linear.inputs} inputs")
        return Convolution(
            linear, channels, kernel, node.attributes["strides"][0], node.attributes["pads"][0]
        )

    # The network ------------------------------------------------------------------------------

    def block(self, name: str) -> Block:
        attention, ffn = f"{name}.attention", f"{name}.ffn"
        norm1, norm2 = f"{name}.norm1", f"{name}.norm2"
        split = self.weights[self.nodes[f"{attention}.query.tokens"].inputs[1]]
        reduces = f"{attention}.reduce_norm" in self.nodes
        output = f"{attention}.output"
        joined = self.weight(output, f"{attention}.mixed", _same)
        depthwise = self.take(f"{ffn}.depthwise.weight")
        made = Block(
            norm1=self.norm(norm1),
            norm2=self.norm(norm2),
            heads=int(split[2]) if len(split) == 4 else 1,
            query=self.linear(f"{attention}.query", norm1),
            key_value=self.linear(
                f"{attention}.key_value", f"{attention}.reduce_norm" if reduces else norm1
            ),
            grids=self.grids(attention),
            output=self.branch_end(output, joined, self.bias(output)),
            reduce=self.convolution(f"{attention}.reduce", norm1) if reduces else None,
            reduce_norm=self.norm(f"{attention}.reduce_norm") if reduces else None,
            expand=self.pointwise(f"{ffn}.expand", norm2),
            contract=self.pointwise(f"{ffn}.contract", f"{ffn}.gelu", _LEAST_GELU),
            depthwise=np.array(depthwise.reshape(-1, 9).T, order="C"),
            depthwise_bias=np.array(self.take(f"{ffn}.depthwise.bias")),
        )
        self.release()
        return made

    def stage(self, number: int) -> Stage:
        name, before = f"stage{number}", f"stage{number - 1}.norm"
        depth = 0
        while f"{name}.block{depth}.out" in self.nodes:
            depth += 1
        return Stage(
            self.convolution(f"{name}.embed", before if number > 1 else "frames.centred"),
            self.norm(f"{name}.embed_norm"),
            tuple(self.block(f"{name}.block{index}") for index in range(depth)),
            self.norm(f"{name}.norm"),
        )

    def head_stage(self, number: int) -> HeadStage:
        name, value = f"decoder.stage{number}", f"stage{number}.norm"
        projects = f"{name}.project" in self.nodes
        return HeadStage(
            self.linear(f"{name}.project", value) if projects else None,
            self.linear(f"{name}.fuse", f"{name}.relu" if projects else value),
        )

    def network(self) -> Network:
        return Network(
            mean=np.array(self.take("mean")).reshape(-1),
            stages=tuple(self.stage(number) for number in range(1, 5)),
            head=tuple(self.head_stage(number) for number in range(1, 5)),
            classifier=Classifier(
                self.weight("decoder.classifier", "decoder.relu", _same, least=0.0),
                self.take("decoder.classifier.bias"),
                self.bytes,
            ),
        )
