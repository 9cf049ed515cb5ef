"""An exported graph's weights, packed for the kernels.

The graph must be the plain FP32 deploy form that the exporter writes: every node is compared
with the one expected (plain.py) and every weight must have been used, so that a graph that
computes anything else (quantised, with a class map inside, edited by hand) is declined and not
misread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.native import library
from segformer_deploy.engine.native.plain import check_plain, unsupported
from segformer_deploy.engine.onnx_graph import OnnxGraph

Floats = npt.NDArray[np.float32]


def address(array: npt.NDArray[Any]) -> int:
    """Of a C-contiguous array's first element."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def panels_from_matrix(matrix: Floats, panel: int) -> Floats:
    """[k, n] -> [ceil(n/panel), k, panel], padded with zeros."""
    depth, columns = matrix.shape
    count = -(-columns // panel)
    padded = np.zeros((depth, count * panel), np.float32)
    padded[:, :columns] = matrix
    return np.ascontiguousarray(padded.reshape(depth, count, panel).transpose(1, 0, 2))


class Linear:
    """x @ weight + bias, packed; `struct` points into this object."""

    def __init__(self, weight: Floats, bias: Floats | None, panel: int) -> None:
        self.inputs, self.outputs = weight.shape
        self.weight = panels_from_matrix(weight, panel)
        self.bias: Floats | None = None
        if bias is not None:
            if bias.shape != (self.outputs,):
                raise ValueError(f"a bias of shape {bias.shape}")
            self.bias = np.zeros(self.weight.shape[0] * panel, np.float32)
            self.bias[: self.outputs] = bias
        self.struct = library.Linear(
            address(self.weight),
            None if self.bias is None else address(self.bias),
            self.inputs,
            self.outputs,
        )


class Norm:
    """LayerNorm over the channels."""

    def __init__(self, gamma: Floats, beta: Floats, eps: float) -> None:
        self.gamma, self.beta = np.array(gamma, np.float32), np.array(beta, np.float32)
        self.width = int(self.gamma.shape[0])
        self.struct = library.Norm(address(self.gamma), address(self.beta), eps, self.width)


@dataclass(frozen=True)
class Convolution:
    """A dense convolution as a product over windows ordered (ky, kx, channel)."""

    linear: Linear
    channels: int
    kernel: int
    stride: int
    padding: int

    def out(self, side: int) -> int:
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Block:
    norm1: Norm
    norm2: Norm
    heads: int
    query: Linear
    key_value: Linear
    output: Linear
    reduce: Convolution | None
    reduce_norm: Norm | None
    expand: Linear
    contract: Linear
    depthwise: Floats
    depthwise_bias: Floats


@dataclass(frozen=True)
class Stage:
    embed: Convolution
    embed_norm: Norm
    blocks: tuple[Block, ...]
    norm: Norm

    @property
    def channels(self) -> int:
        return self.norm.width


@dataclass(frozen=True)
class HeadStage:
    project: Linear | None
    fuse: Linear


@dataclass(frozen=True)
class Network:
    """All weights of one model; about as many bytes as the file."""

    mean: Floats
    stages: tuple[Stage, ...]
    head: tuple[HeadStage, ...]
    classifier: Floats
    classifier_bias: Floats

    @property
    def classes(self) -> int:
        return int(self.classifier.shape[0])


def network_from_graph(graph: OnnxGraph, panel: int) -> Network:
    """Pack the weights of `graph`; BackendError where it is not the plain deploy form."""
    reader = _Reader(graph, panel)
    try:
        network = reader.network()
    except (KeyError, IndexError, ValueError) as error:
        raise unsupported(f"{error} is missing or has another shape") from None
    left = sorted(reader.unused())
    if left:
        raise unsupported(f"it has weights of its own ({', '.join(left[:3])})")
    check_plain(graph.nodes, graph.weights, network)
    return network


class _Reader:
    """Takes weights by the names that the exporter gives them, and remembers which."""

    def __init__(self, graph: OnnxGraph, panel: int) -> None:
        self.weights = graph.weights
        self.nodes = {node.name: node for node in graph.nodes}
        self.panel = panel
        self.used: set[str] = set()

    def take(self, name: str) -> Floats:
        array = self.weights[name]
        if array.dtype != np.float32:
            raise ValueError(f"{name} of type {array.dtype}")
        self.used.add(name)
        return array

    def unused(self) -> set[str]:
        floats = {name for name, array in self.weights.items() if array.dtype == np.float32}
        return floats - self.used

    def linear(self, name: str) -> Linear:
        bias = self.take(f"{name}.bias") if f"{name}.bias" in self.weights else None
        return Linear(self.take(f"{name}.weight"), bias, self.panel)

    def pointwise(self, name: str) -> Linear:
        weight = self.take(f"{name}.weight")
        return Linear(weight[:, :, 0, 0].T, self.take(f"{name}.bias"), self.panel)

    def norm(self, name: str) -> Norm:
        eps = float(self.nodes[name].attributes["epsilon"])
        return Norm(self.take(f"{name}.weight"), self.take(f"{name}.bias"), eps)

    def convolution(self, name: str) -> Convolution:
        weight = self.take(f"{name}.weight")
        outputs, channels, kernel, _ = weight.shape
        matrix = weight.transpose(2, 3, 1, 0).reshape(-1, outputs)
        node = self.nodes[name]
        return Convolution(
            Linear(matrix, self.take(f"{name}.bias"), self.panel),
            channels,
            kernel,
            node.attributes["strides"][0],
            node.attributes["pads"][0],
        )

    def block(self, name: str) -> Block:
        attention, ffn = f"{name}.attention", f"{name}.ffn"
        split = self.weights[self.nodes[f"{attention}.query.tokens"].inputs[1]]
        reduces = f"{attention}.reduce.weight" in self.weights
        depthwise = self.take(f"{ffn}.depthwise.weight")
        return Block(
            norm1=self.norm(f"{name}.norm1"),
            norm2=self.norm(f"{name}.norm2"),
            heads=int(split[2]) if len(split) == 4 else 1,
            query=self.linear(f"{attention}.query"),
            key_value=self.linear(f"{attention}.key_value"),
            output=self.linear(f"{attention}.output"),
            reduce=self.convolution(f"{attention}.reduce") if reduces else None,
            reduce_norm=self.norm(f"{attention}.reduce_norm") if reduces else None,
            expand=self.pointwise(f"{ffn}.expand"),
            contract=self.pointwise(f"{ffn}.contract"),
            depthwise=np.array(depthwise.reshape(-1, 9).T, order="C"),
            depthwise_bias=np.array(self.take(f"{ffn}.depthwise.bias")),
        )

    def stage(self, number: int) -> Stage:
        name = f"stage{number}"
        depth = 0
        while f"{name}.block{depth}.out" in self.nodes:
            depth += 1
        return Stage(
            self.convolution(f"{name}.embed"),
            self.norm(f"{name}.embed_norm"),
            tuple(self.block(f"{name}.block{index}") for index in range(depth)),
            self.norm(f"{name}.norm"),
        )

    def head_stage(self, number: int) -> HeadStage:
        name = f"decoder.stage{number}"
        projects = f"{name}.project.weight" in self.weights
        return HeadStage(
            self.linear(f"{name}.project") if projects else None, self.linear(f"{name}.fuse")
        )

    def network(self) -> Network:
        return Network(
            mean=np.array(self.take("mean")).reshape(-1),
            stages=tuple(self.stage(number) for number in range(1, 5)),
            head=tuple(self.head_stage(number) for number in range(1, 5)),
            # Copied in any case: in the file it may lie at an odd address.
            classifier=np.array(self.take("decoder.classifier.weight").T, order="C"),
            classifier_bias=np.array(self.take("decoder.classifier.bias")),
        )
