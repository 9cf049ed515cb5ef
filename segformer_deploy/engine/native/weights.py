"""A network's weights, packed for the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.native import library
from segformer_deploy.engine.native.quantised import Steps, lanes_from_matrix

Floats = npt.NDArray[np.float32]


def address(array: npt.NDArray[Any]) -> int:
    """Of a C-contiguous array's first element."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def optional_address(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None else address(array)


def panels_from_matrix(matrix: Floats, panel: int) -> Floats:
    """[k, n] -> [ceil(n/panel), k, panel], padded with zeros."""
    depth, columns = matrix.shape
    count = -(-columns // panel)
    padded = np.zeros((depth, count * panel), np.float32)
    padded[:, :columns] = matrix
    return np.ascontiguousarray(padded.reshape(depth, count, panel).transpose(1, 0, 2))


def _padded(values: npt.NDArray[Any], panel: int) -> npt.NDArray[Any]:
    whole = np.zeros(-(-len(values) // panel) * panel, values.dtype)
    whole[: len(values)] = values
    return whole


def _offset_of(weight: Steps, as_bytes: int) -> int | None:
    if as_bytes == library.ANY_BYTES:
        return weight.offset(any_pair=True)
    # Of inputs as far below 0 as above hardly a weight fits: not worth the look.
    return weight.offset() if as_bytes and weight.least > -np.inf else None


class Linear:
    """x @ weight + bias, packed; `struct` points into this object.

    Args:
        weight: [inputs, outputs], in float32 or in integers.
        output_step: of the grid that the result is rounded to; 0: it is not.
        as_bytes: which integers its kernel takes as bytes (library.py).
    """

    def __init__(
        self,
        weight: Floats | Steps,
        bias: Floats | None,
        panel: int,
        output_step: float = 0.0,
        as_bytes: int = library.NO_BYTES,
    ) -> None:
        self.quantised = isinstance(weight, Steps)
        self.rounded = output_step > 0
        step, offset = 0.0, 0
        self.scale: Floats | None = None
        self.start: npt.NDArray[Any] | None = None
        self.weight: npt.NDArray[Any]
        if isinstance(weight, Steps):
            self.inputs, self.outputs = weight.matrix.shape
            self.scale, step = _padded(weight.scale, panel), weight.input_step
            unsigned = _offset_of(weight, as_bytes)
            self.weight = lanes_from_matrix(weight.matrix, panel, 2 if unsigned is None else 1)
            if unsigned is not None:
                offset = unsigned
                self.start = _padded(-offset * weight.matrix.sum(axis=0, dtype=np.int32), panel)
        else:
            self.inputs, self.outputs = weight.shape
            self.weight = panels_from_matrix(weight, panel)
        self.biased = bias is not None
        self.bias: Floats | None = None
        if bias is not None and bias.shape != (self.outputs,):
            raise ValueError(f"a bias of shape {bias.shape}")
        if bias is not None or self.quantised:
            no_bias = np.zeros(self.outputs, np.float32)
            self.bias = _padded(no_bias if bias is None else bias, panel)
        self.struct = library.Linear(
            address(self.weight),
            optional_address(self.bias),
            optional_address(self.scale),
            optional_address(self.start),
            offset,
            step,
            output_step,
            self.inputs,
            self.outputs,
        )


class Classifier:
    """The last projection, [classes, channels]: the left side of its product."""

    def __init__(self, weight: Floats | Steps, bias: Floats, as_bytes: int) -> None:
        self.quantised = isinstance(weight, Steps)
        # Copied in any case: in the file it may lie at an odd address.
        self.bias = np.array(bias)
        self.scale: Floats | None = None
        self.step, self.bytes = 0.0, False
        self.weight: npt.NDArray[Any]
        if isinstance(weight, Steps):
            self.bytes = _offset_of(weight, as_bytes) == 0
            integer = np.int8 if self.bytes else np.int16
            self.weight = np.array(weight.matrix.T, integer, order="C")
            self.scale, self.step = weight.scale, weight.input_step
        else:
            self.weight = np.array(weight.T, order="C")


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
    grids: library.Grids | None
    """Of the attention's two products, where they are INT8."""
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
    classifier: Classifier

    @property
    def classes(self) -> int:
        return int(self.classifier.weight.shape[0])
