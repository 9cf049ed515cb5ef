"""How much of a Q/DQ graph's arithmetic is INT8, as the file states it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from segformer_deploy.graph.int8_share import counted_products
from segformer_deploy.spec import FrameSize


@dataclass(frozen=True)
class Quantised:
    """Products (Conv, MatMul, Gemm) whose two inputs are INT8, among all of a graph.

    Attributes:
        macs, int8_macs: multiply-accumulates of one frame, and those of INT8 products.
        products, int8_products: how many nodes.
        floating: names of the products that stayed in floating point.
        floating_weights: weights that the file stores in floating point before a Q: INT8 when
            an engine is built, but no smaller as a file.
    """

    macs: int
    int8_macs: int
    products: int
    int8_products: int
    floating: tuple[str, ...]
    floating_weights: int

    @property
    def share(self) -> float:
        """Of the multiply-accumulates, 0 to 1."""
        return self.int8_macs / self.macs if self.macs else 0.0


def quantised(model: onnx.ModelProto, size: FrameSize) -> Quantised:
    """Count for one frame that enters the network at `size`.

    See `counted_products`. OnnxFileError where a shape cannot be worked out.
    """
    products = counted_products(model, size)
    floating = tuple(product.node for product in products if not product.int8)
    return Quantised(
        sum(product.macs for product in products),
        sum(product.macs for product in products if product.int8),
        len(products),
        len(products) - len(floating),
        floating,
        _floating_weights(model),
    )


def _floating_weights(model: onnx.ModelProto) -> int:
    weights = {tensor.name for tensor in model.graph.initializer}
    quantisers = (node for node in model.graph.node if node.op_type == "QuantizeLinear")
    return len({node.input[0] for node in quantisers} & weights)
