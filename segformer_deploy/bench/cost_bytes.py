"""Bytes of a network's layers at a precision, and the most that is alive at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from segformer_deploy.bench.cost import FRAME, Kind, Network
from segformer_deploy.spec import Precision


@dataclass(frozen=True)
class LayerBytes:
    """What one layer moves, in bytes: weights, values read, the value written."""

    weights: int
    reads: int
    writes: int

    @property
    def total(self) -> int:
        return self.weights + self.reads + self.writes


def layer_bytes(net: Network, precision: Precision) -> tuple[LayerBytes, ...]:
    """What each layer of `net` moves, in the order of its layers.

    With int8, weights of convolutions and projections take 1 byte, and so does a value that only
    these read; all else takes 2 (the recipe's FP16 around INT8 products).
    """
    sizes = _value_bytes(net, precision)
    wide = 4 if precision == "fp32" else 2
    return tuple(
        LayerBytes(
            layer.weights * (1 if precision == "int8" and layer.kind in ("conv", "gemm") else wide),
            sum(sizes[name] for name in layer.reads),
            sizes[layer.name],
        )
        for layer in net.layers
    )


def weight_bytes(net: Network, precision: Precision) -> int:
    """Bytes of all weights at `precision`."""
    return sum(layer.weights for layer in layer_bytes(net, precision))


def peak_live_bytes(net: Network, precision: Precision) -> int:
    """The most that is alive at once when the layers run in order; weights do not count.

    A value is held from the layer that writes it to the last that reads it; the logits to the
    end, the frame until it is normalised. An elementwise layer writes over its first input where
    that is not needed later and is as large.
    """
    sizes = _value_bytes(net, precision)
    return max(_alive(net, sizes))


def _alive(net: Network, sizes: dict[str, int]) -> Iterator[int]:
    last = {name: index for index, layer in enumerate(net.layers) for name in layer.reads}
    held = {FRAME: sizes[FRAME]}
    for index, layer in enumerate(net.layers):
        first = layer.reads[0]
        own = sizes[layer.name]
        in_place = layer.in_place and last[first] == index and sizes[first] == own
        yield sum(held.values()) + (0 if in_place else own)
        held = {name: size for name, size in held.items() if last[name] > index}
        held[layer.name] = own


def _value_bytes(net: Network, precision: Precision) -> dict[str, int]:
    readers: dict[str, list[Kind]] = {}
    for layer in net.layers:
        for name in layer.reads:
            readers.setdefault(name, []).append(layer.kind)
    wide = 4 if precision == "fp32" else 2
    sizes = {FRAME: net.batch * net.size.pixels * 3}
    for layer in net.layers:
        found = readers.get(layer.name, [])
        narrow = precision == "int8" and found and all(kind in ("conv", "gemm") for kind in found)
        sizes[layer.name] = layer.writes * (1 if narrow else wide)
    return sizes
