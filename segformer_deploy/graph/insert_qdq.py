"""``x -> MatMul(W)``  ->  ``x -> Q -> DQ -> MatMul(DQ(W8))``: INT8 written into the graph.

Not exact, and says by how much it may be wrong: each value that enters a product is rounded to
a grid of 255 steps, symmetric about 0, and nothing else changes. The grid is the file's, not an
engine's, so every engine computes with the same integers.

One grid, two spellings. ``signed``: int8 with zero-point 0, which TensorRT demands.
``unsigned``: uint8 with zero-point 128, for which ONNX Runtime's CPU kernels are faster. Weights
are int8, one scale per output channel, in both. Scales are values that FP16 can hold, so that
the same number stands in an FP32 and in an FP16 graph.

Biases, norms, softmax, GELU and resizes keep the precision of the graph around them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from segformer_deploy.errors import SpecError
from segformer_deploy.graph.metadata import fp32_spec, write_spec
from segformer_deploy.graph.products import (
    ATTENTION_PRODUCTS,
    CLASSIFIER,
    DEPTHWISE,
    FIRST_CONVOLUTION,
    Flow,
    Product,
    products_of,
)

Spelling = Literal["signed", "unsigned"]
Floats = npt.NDArray[np.float32]

STEPS = 127
"""Of the grid, on either side of 0: -128 is reachable only by what lies beyond the range."""
ZERO_POINT: dict[Spelling, npt.NDArray[Any]] = {
    "signed": np.array(0, np.int8),
    "unsigned": np.array(128, np.uint8),
}
_RESIDUAL = (".attended", ".out")
"""Ends of the names of the additions to the residual stream."""
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)
LARGEST = STEPS * float(np.finfo(np.float16).max)
"""What a grid can hold: beyond it the scale is no FP16 number."""


@dataclass(frozen=True)
class Recipe:
    """Which products are quantised; those not named here always are.

    Attributes:
        first_convolution: the 7x7 of stage 1. Off: it sees the whole range of the pixels.
        classifier: the last projection.
        depthwise: the 3x3 inside each Mix-FFN. Off: 2 % of the work, and TensorRT builders have
            failed on it.
        attention: both products of the attention. Off: GPU engines fuse it as a whole in FP16;
            on a CPU it pays.
        residuals: also round what each branch adds to the residual stream, so that an engine
            may fuse the addition with the product before it (TensorRT).
        kept: blocks that stay in the higher precision.
    """

    first_convolution: bool = False
    classifier: bool = True
    depthwise: bool = False
    attention: bool = False
    residuals: bool = True
    kept: frozenset[str] = frozenset()

    @classmethod
    def everything(cls) -> Recipe:
        """All switches on: what ranges are needed for, whatever recipe follows."""
        return cls(True, True, True, True, True)

    def takes(self, product: Product) -> bool:
        if product.block in self.kept:
            return False
        switches = {
            FIRST_CONVOLUTION: self.first_convolution,
            CLASSIFIER: self.classifier,
            DEPTHWISE: self.depthwise,
            **dict.fromkeys(ATTENTION_PRODUCTS, self.attention),
        }
        return switches.get(product.kind, True)

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "kept": sorted(self.kept)}


def insert_qdq(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    recipe: Recipe | None = None,
    spelling: Spelling = "unsigned",
) -> onnx.ModelProto:
    """A copy of the FP32 graph `model` in which the products that `recipe` takes are INT8.

    Args:
        ranges: value -> the largest magnitude that the grid must hold.

    Raises:
        OnnxFileError: `model` is not an exported FP32 graph with logits.
        SpecError: a range is missing, or is not a finite number above or equal to 0.
    """
    recipe = recipe or Recipe()
    if spelling not in get_args(Spelling):
        raise SpecError(f"spelling '{spelling}'", "one of " + ", ".join(get_args(Spelling)))
    spec = fp32_spec(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Rewriter(result, ranges, recipe, spelling).rewrite()
    write_spec(result, spec.with_(precision="int8"))
    return result


def quantised_values(model: onnx.ModelProto, recipe: Recipe | None = None) -> tuple[str, ...]:
    """The values of `model` for which `recipe` (default: everything) needs a range, in order."""
    recipe = recipe or Recipe.everything()
    taken = [product for product in products_of(model) if recipe.takes(product)]
    names = [source for product in taken for source in product.sources]
    if recipe.residuals:
        names += _branch_ends(model, taken)
    return tuple(dict.fromkeys(names))


def scale_from_range(largest: float) -> float:
    """The step of a grid that holds `largest`: the next FP16 number above largest / 127."""
    scale = np.float16(largest / STEPS)
    if float(scale) * STEPS < largest:
        scale = np.nextafter(scale, np.float16(np.inf))
    return max(float(scale), SMALLEST_SCALE)


def quantised_weight(weight: Floats, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 weights and their scales, one per index of `axis`."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = np.array([scale_from_range(v) for v in np.abs(weight).max(axis=others)], np.float32)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    steps = np.rint(weight / scales.reshape(shape))
    return np.clip(steps, -STEPS, STEPS).astype(np.int8), scales


def _branch_ends(model: onnx.ModelProto, taken: Collection[Product]) -> list[str]:
    """What the branches add to the residual stream, where a taken product ends the branch."""
    return [end for _, end in _branches(model, taken)]


def _branches(model: onnx.ModelProto, taken: Collection[Product]) -> list[tuple[str, str]]:
    """(the addition's input, the value before its layout), per branch that a product ends."""
    flow = Flow(model.graph)
    ends = {product.node.removesuffix(".product") for product in taken}
    additions = [node for node in model.graph.node if node.op_type == "Add"]
    inputs = [name for node in additions for name in node.input if node.name.endswith(_RESIDUAL)]
    pairs = [(name, flow.before_layout(name)) for name in inputs]
    return [pair for pair in pairs if pair[1] in ends]


class _Rewriter:
    """One pass over a graph that is changed in place."""

    def __init__(
        self,
        model: onnx.ModelProto,
        ranges: Mapping[str, float],
        recipe: Recipe,
        spelling: Spelling,
    ) -> None:
        self._graph = model.graph
        self._flow = Flow(model.graph)
        self._ranges = ranges
        self._zero = ZERO_POINT[spelling]
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._taken = [product for product in products_of(model) if recipe.takes(product)]
        self._reads = self._reads_of_products()
        if recipe.residuals:
            self._reads |= self._reads_of_branches(model)
        self._values = {value for _, value in self._reads}

    def _reads_of_products(self) -> set[tuple[str, str]]:
        """(node, value) wherever a node is to read the grid instead of the value itself."""
        found = set()
        for product in self._taken:
            node = self._flow.writer[product.node]
            for name in node.input[:2]:
                if name not in self._weights:
                    found.add(self._read(node.name, name))
        return found

    def _reads_of_branches(self, model: onnx.ModelProto) -> set[tuple[str, str]]:
        found = set()
        for name, _ in _branches(model, self._taken):
            addition = next(n for n in self._graph.node if n.op_type == "Add" and name in n.input)
            found.add(self._read(addition.name, name))
        return found

    def _read(self, reader: str, name: str) -> tuple[str, str]:
        """Who reads the value before the layout that ends in `name`."""
        chain = self._flow.layout_before(name)
        if len(chain) > 1:
            reader = self._flow.writer[chain[-2]].name
        return reader, chain[-1]

    def rewrite(self) -> None:
        for name in sorted(self._values):
            self._check_range(name)
        nodes = [self._weight_node(product) for product in self._taken if product.weight]
        weights = {(product.node, product.weight) for product in self._taken}
        for node in self._graph.node:
            for index, name in enumerate(node.input):
                if (node.name, name) in self._reads or (node.name, name) in weights:
                    node.input[index] = f"{name}.dequantized"
            nodes += [node, *self._pairs(node.output)]
        copies = [_copy(node) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _check_range(self, name: str) -> None:
        largest = self._ranges.get(name)
        if largest is None or not 0 <= largest <= LARGEST:
            raise SpecError(
                f"the range of '{name}' is {largest}",
                f"a number of 0 to {LARGEST:.3g} for every value that is quantised",
                "calibrate this graph again: segdeploy calibrate",
            )

    def _pairs(self, names: Collection[str]) -> Iterator[onnx.NodeProto]:
        """The Q/DQ pairs behind the values `names`."""
        for name in names:
            if name not in self._values:
                continue
            grid = [f"{name}.scale", f"{name}.zero_point"]
            self._add(grid[0], np.array(scale_from_range(self._ranges[name]), np.float32))
            self._add(grid[1], self._zero)
            yield _pair_node("QuantizeLinear", [name, *grid], f"{name}.quantized")
            inputs = [f"{name}.quantized", *grid]
            yield _pair_node("DequantizeLinear", inputs, f"{name}.dequantized")

    def _weight_node(self, product: Product) -> onnx.NodeProto:
        name = product.weight
        assert name is not None
        tensor = self._weights[name]
        weight = numpy_helper.to_array(tensor)
        if not np.abs(weight).max(initial=0) <= LARGEST:
            raise SpecError(
                f"'{name}' reaches {np.abs(weight).max():.3g}",
                f"weights up to {LARGEST:.3g}, which an FP16 scale can hold",
                f"keep its block out of INT8: {product.block}",
            )
        # Outputs are the first axis of a convolution's weights, the last of a matrix's.
        axis = 0 if product.op == "Conv" else weight.ndim - 1
        steps, scales = quantised_weight(weight, axis)
        self._graph.initializer.remove(tensor)
        names = [f"{name}.quantized", f"{name}.scale", f"{name}.zero_point"]
        parts: list[npt.NDArray[Any]] = [steps, scales, np.zeros(len(scales), np.int8)]
        for part, array in zip(names, parts, strict=True):
            self._add(part, array)
        return _pair_node("DequantizeLinear", names, f"{name}.dequantized", axis=axis)

    def _add(self, name: str, array: npt.NDArray[Any]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(array, name))


def _pair_node(op: str, inputs: list[str], name: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [name], name=name, **attributes)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    # Deleting the graph's nodes takes the contents of those we hold with them.
    result = onnx.NodeProto()
    result.CopyFrom(node)
    return result
