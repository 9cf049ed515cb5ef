"""``LayerNorm(g, b) -> W``  ->  ``LayerNorm(g / s, b / s) -> W * s``: ranges made even.

Exact in real numbers (kind: algebra): channel c of the norm's output is divided by s_c and the
weights that read it are multiplied by s_c. It holds for zero-padded convolutions too, since 0 / s
is 0. One INT8 grid serves all channels of a value, so a channel with a range far below the
largest loses most of its steps; s moves part of that difference into the weights, whose scales
are per output channel (SmoothQuant, arXiv 2211.10438, equation 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from segformer_deploy.errors import SpecError
from segformer_deploy.graph.metadata import fp32_spec
from segformer_deploy.graph.products import LAYOUT, Flow, products_of

Floats = npt.NDArray[np.float32]

ALPHAS = (0.0, 0.25, 0.5, 0.75)
"""How much of the values' unevenness the factors take; 0 leaves the norm as it is."""
LIMIT = 64.0
"""On either side of 1: a factor beyond it belongs to a channel that is all but dead."""


@dataclass(frozen=True)
class Knob:
    """A norm whose output nothing but products with weights read.

    Attributes:
        norm: its output.
        affine: the initializers of its scale and offset, both [C].
        weights: (initializer, axis of its input channels) of each reader.
    """

    norm: str
    affine: tuple[str, str]
    weights: tuple[tuple[str, int], ...]


def knobs_of(model: onnx.ModelProto) -> tuple[Knob, ...]:
    """Every place of `model` at which ranges can be made even."""
    readers = _readers(model)
    weights = {product.node: product.weight for product in products_of(model)}
    found = []
    for norm in model.graph.node:
        if norm.op_type != "LayerNormalization" or len(norm.input) != 3:
            continue
        everyone = readers.get(norm.output[0], [])
        users = [node for node in everyone if node and _scales_with_input(node, weights)]
        if users and len(users) == len(everyone):
            axes = tuple((node.input[1], 1 if node.op_type == "Conv" else 0) for node in users)
            found.append(Knob(norm.output[0], (norm.input[1], norm.input[2]), axes))
    return tuple(found)


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto | None]]:
    """Who reads each value, through layout; None stands for the caller, who reads the outputs."""
    flow = Flow(model.graph)
    found: dict[str, list[onnx.NodeProto | None]] = {}
    for node in model.graph.node:
        if node.op_type in LAYOUT and flow.readers[node.output[0]] == 1:
            continue  # its reader stands for it
        for name in node.input:
            found.setdefault(flow.before_layout(name), []).append(node)
    for value in model.graph.output:
        found.setdefault(flow.before_layout(value.name), []).append(None)
    return found


def _scales_with_input(node: onnx.NodeProto, weights: Mapping[str, str | None]) -> bool:
    """Whether `node` is a product with weights, every output of which sees every channel."""
    grouped = any(a.name == "group" and a.i != 1 for a in node.attribute)
    return weights.get(node.name) is not None and not grouped


@dataclass(frozen=True)
class ChannelStatistics:
    """What was seen of one norm's output, per channel.

    Attributes:
        largest: magnitude, [C].
        power: mean square, [C].
    """

    largest: Floats
    power: npt.NDArray[np.float64]


def even_scales(model: onnx.ModelProto, seen: Mapping[str, ChannelStatistics]) -> dict[str, Floats]:
    """The factor of each channel, [C], for each norm where factors lower the expected error.

    Their geometric mean is 1, so that no value as a whole grows or shrinks. Of the exponents in
    `ALPHAS` each norm takes the one whose INT8 products are expected to be nearest the exact
    ones; a norm for which that is none is left out.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for knob in knobs_of(model):
        weights = [
            np.moveaxis(numpy_helper.to_array(tensors[name]).astype(np.float64), axis, 0)
            for name, axis in knob.weights
        ]
        # [C, everything else]; a convolution's outputs are then its first axis, a matrix's last.
        matrices = [_channels_by_outputs(weight) for weight in weights]
        statistics = seen[knob.norm]
        choices = [_factors(statistics, matrices, alpha) for alpha in ALPHAS]
        errors = [_expected_error(statistics, matrices, factors) for factors in choices]
        best = int(np.argmin(errors))
        if ALPHAS[best]:
            found[knob.norm] = choices[best].astype(np.float32)
    return found


def _channels_by_outputs(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[C_in, C_out, ...] -> [C_in, ..., C_out], as [C_in, K, C_out]."""
    moved = np.moveaxis(weight, 1, -1)
    return moved.reshape(moved.shape[0], -1, moved.shape[-1])


def _factors(
    seen: ChannelStatistics, matrices: list[npt.NDArray[np.float64]], alpha: float
) -> npt.NDArray[np.float64]:
    if not alpha:
        return np.ones(len(seen.largest))
    tiny = float(np.finfo(np.float32).tiny)
    of_weights = np.max([np.abs(matrix).max(axis=(1, 2)) for matrix in matrices], axis=0)
    values = np.log(np.maximum(seen.largest.astype(np.float64), tiny))
    powers = alpha * values - (1 - alpha) * np.log(np.maximum(of_weights, tiny))
    alive = (seen.largest > 0) & (of_weights > 0)
    # Of those alone: a channel that is always 0 would pull all others to the limit.
    centre = powers[alive].mean() if alive.any() else 0.0
    factors: npt.NDArray[np.float64] = np.exp(powers - centre)
    return np.where(alive, np.clip(factors, 1 / LIMIT, LIMIT), 1.0)


def _expected_error(
    seen: ChannelStatistics,
    matrices: list[npt.NDArray[np.float64]],
    factors: npt.NDArray[np.float64],
) -> float:
    """Noise of the INT8 products over their power, summed over the readers of the norm.

    Rounding to steps of d adds noise of d^2 / 12 to each value and to each weight.
    """
    step = float((seen.largest / factors).max())
    total = 0.0
    for matrix in matrices:
        scaled = matrix * factors[:, None, None]
        weight_steps = np.abs(scaled).max(axis=(0, 1))
        power = seen.power[:, None, None]
        noise = step**2 * np.sum(scaled**2)
        noise += np.sum(weight_steps**2 * (power / factors[:, None, None] ** 2)) * matrix.shape[1]
        exact = np.sum(power * matrix**2)
        total += float(noise / max(exact, float(np.finfo(np.float64).tiny)))
    return total


def equalise(model: onnx.ModelProto, scales: Mapping[str, Floats]) -> onnx.ModelProto:
    """A copy of the FP32 graph `model` with `scales` (norm -> [C]) moved behind the norms.

    Raises:
        OnnxFileError: `model` is not an exported FP32 graph with logits.
        SpecError: a scale belongs to no norm of the graph, has another length, or is not above 0.
    """
    fp32_spec(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    knobs = {knob.norm: knob for knob in knobs_of(model)}
    for norm, factors in scales.items():
        knob = _checked(knobs.get(norm), norm, np.asarray(factors), tensors)
        for name in knob.affine:
            _multiply(tensors[name], 1 / factors.astype(np.float64), 0)
        for name, axis in knob.weights:
            _multiply(tensors[name], factors.astype(np.float64), axis)
    return result


def _checked(
    knob: Knob | None, norm: str, factors: Floats, tensors: Mapping[str, onnx.TensorProto]
) -> Knob:
    channels = tuple(tensors[knob.affine[0]].dims) if knob else ()
    good = factors.shape == channels and bool(np.isfinite(factors).all() and (factors > 0).all())
    if knob is None or not good:
        raise SpecError(
            f"scales {list(factors.shape)} for '{norm}'"
            + ("" if knob else ", which is no norm that only products read"),
            f"positive numbers, {list(channels)}" if knob else "a norm of this graph",
            "calibrate this graph again: segdeploy calibrate",
        )
    return knob


def _multiply(tensor: onnx.TensorProto, factors: npt.NDArray[np.float64], axis: int) -> None:
    """Multiply along `axis`, rounded once."""
    values = numpy_helper.to_array(tensor)
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    product = (values.astype(np.float64) * factors.reshape(shape)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(product, tensor.name))
