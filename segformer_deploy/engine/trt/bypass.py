"""``x -> Q -> DQ -> node``  ->  ``x -> node``, and int8 weights back to floats, at a named node.

Some kernels cannot be built with Q/DQ around them (depthwise 3x3 on Orin, TensorRT #4060; type
errors of its graph compiler, #4832). The network keeps its answer up to the rounding that goes
away: what is bypassed computes in the float type that stands on both sides of the pair.

The edge side has no onnx, so this works on the library's own network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.engine.trt.network import layers_of

if TYPE_CHECKING:
    import tensorrt as trt

_FALLBACK = re.compile(
    r"could not find any implementation|no implementation|unsupported.*(int8|type)"
    r"|type(s)? (mismatch|error)|(mismatch|invalid|unexpected).*(data ?)?type",
    re.IGNORECASE,
)
_RANGE = re.compile(r"ForeignNode\[(.+?)\.\.\.(.+?)\]")


@dataclass(frozen=True)
class _Pair:
    """A DQ layer and the input of a product that it feeds, perhaps through a reshape."""

    consumer: Any
    index: int
    dequantise: Any
    product: str


def asks_for_bypass(errors: Iterable[str]) -> bool:
    """Whether the builder's errors are of the kind that a bypass may mend."""
    return any(_FALLBACK.search(error) for error in errors)


class Bypass:
    """Takes Q/DQ pairs out of one network; keeps the float weights that it makes alive."""

    def __init__(self, library: Library, network: trt.INetworkDefinition) -> None:
        self._api = library.api
        self._network = network
        self._alive: list[Any] = []

    def at(self, errors: Iterable[str]) -> list[str]:
        """Bypass the pairs around the nodes that `errors` name; the names of those nodes."""
        pairs = self._pairs()
        products = {pair.product for pair in pairs}
        named = self._named(list(errors), products)
        done = [pair for pair in pairs if pair.product in named]
        for pair in done:
            self._take_out(pair)
        return sorted({pair.product for pair in done})

    def _named(self, errors: list[str], products: set[str]) -> set[str]:
        text = "\n".join(errors)
        order = [layer.name for layer in layers_of(self._network)]
        inside: set[str] = set()
        for first, last in _RANGE.findall(text):
            if first in order and last in order:
                inside |= set(order[order.index(first) : order.index(last) + 1]) & products
        # A range is the compiler's whole piece, often the whole network: inside it only
        # what is named apart counts, else the kind of product that fails most often.
        rest = _RANGE.sub(" ", text)
        exact = {name for name in products if re.search(_whole(name), rest)}
        return exact or self._likeliest(inside)

    def _likeliest(self, products: set[str]) -> set[str]:
        depthwise = products & set(self._depthwise())
        return depthwise or products

    def _depthwise(self) -> Iterable[str]:
        api = self._api
        for layer in layers_of(self._network):
            if layer.type == api.LayerType.CONVOLUTION:
                convolution: trt.IConvolutionLayer = _as(layer, api.IConvolutionLayer)
                if convolution.num_groups > 1:
                    yield layer.name

    def _pairs(self) -> list[_Pair]:
        """Every DQ that feeds something, with the product that it belongs to."""
        api = self._api
        makers = {layer.get_output(0).name: layer for layer in layers_of(self._network)}
        kinds = api.LayerType.CONVOLUTION, api.LayerType.MATRIX_MULTIPLY
        found = []
        for product in layers_of(self._network):
            if product.type not in kinds:
                continue
            for start in range(product.num_inputs):
                consumer, index = product, start
                maker = _maker(makers, consumer, index)
                while maker is not None and maker.type == api.LayerType.SHUFFLE:
                    consumer, index = maker, 0
                    maker = _maker(makers, consumer, index)
                if maker is not None and maker.type == api.LayerType.DEQUANTIZE:
                    found.append(_Pair(consumer, index, maker, product.name))
        return found

    def _take_out(self, pair: _Pair) -> None:
        api = self._api
        makers = {layer.get_output(0).name: layer for layer in layers_of(self._network)}
        maker = _maker(makers, pair.dequantise, 0)
        if maker is not None and maker.type == api.LayerType.QUANTIZE:
            pair.consumer.set_input(pair.index, maker.get_input(0))
            return
        weights = self._constant(makers, pair.dequantise, 0)
        scale = self._constant(makers, pair.dequantise, 1)
        dequantise: trt.IDequantizeLayer = _as(pair.dequantise, api.IDequantizeLayer)
        floats = _dequantised(weights, scale, dequantise.axis)
        output: trt.ITensor = dequantise.get_output(0)
        if output.dtype == api.DataType.HALF:
            floats = floats.astype(np.float16)
        self._alive.append(floats)
        constant: trt.IConstantLayer = self._network.add_constant(floats.shape, api.Weights(floats))
        constant.name = f"{dequantise.name}.bypassed"
        pair.consumer.set_input(pair.index, constant.get_output(0))

    def _constant(self, makers: dict[str, Any], layer: Any, index: int) -> Any:
        """The values of a constant input, in its own type."""
        api = self._api
        maker = _maker(makers, layer, index)
        while maker is not None and maker.type in (api.LayerType.CAST, api.LayerType.SHUFFLE):
            maker = _maker(makers, maker, 0)
        assert maker is not None
        assert maker.type == api.LayerType.CONSTANT
        constant: trt.IConstantLayer = _as(maker, api.IConstantLayer)
        shape = tuple(constant.shape)
        return np.array(constant.weights).reshape(shape)


def _whole(name: str) -> str:
    """Matches `name`, but neither a longer name nor a part of one."""
    return rf"(?<![\w.]){re.escape(name)}(?!\w|\.\w)"


def _maker(makers: dict[str, Any], layer: Any, index: int) -> Any:
    tensor = layer.get_input(index)
    return None if tensor is None else makers.get(tensor.name)


def _as(layer: Any, kind: Any) -> Any:
    """A layer as what it is: the bindings hand out every layer as the base class."""
    layer.__class__ = kind
    return layer


def _dequantised(weights: Any, scale: Any, axis: int) -> Any:
    """int8 -> float32; `scale` is one value, or one per index of `axis`."""
    if scale.size == 1:
        return weights.astype(np.float32) * np.float32(scale.reshape(()))
    shape = [1] * weights.ndim
    shape[axis] = scale.size
    return weights.astype(np.float32) * scale.astype(np.float32).reshape(shape)
