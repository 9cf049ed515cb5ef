"""Q/DQ pairs taken out of real TensorRT-RTX networks: which, what follows, near misses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from segformer_deploy.engine.trt.bypass import Bypass, asks_for_bypass
from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.engine.trt.journal import Journal, logger_for
from segformer_deploy.engine.trt.network import ParsedNetwork, network_from_onnx
from segformer_deploy.graph.insert_qdq import Recipe
from tests.engine.trt.graphs import STATIC, int8_model
from tests.engine.trt.proof import rtx
from tests.graph.lively import weights_of

QUERY = "stage2.block0.attention.query.product"
CONVOLUTION = "stage1.block0.ffn.expand"


class Parsed:
    """A network of the library, what it hangs on, and its pairs by a walk of our own."""

    def __init__(self, library: Library, model: onnx.ModelProto) -> None:
        self.api, self.journal = library.api, Journal()
        self.logger = logger_for(self.api, self.journal)
        self.builder = self.api.Builder(self.logger)
        self.parsed: ParsedNetwork = network_from_onnx(
            library, self.builder, self.logger, self.journal, model.SerializeToString()
        )
        self.network: Any = self.parsed.network
        self.bypass = Bypass(library, self.network)

    def layers(self) -> list[Any]:
        return [self.network.get_layer(index) for index in range(self.network.num_layers)]

    def feeding(self) -> dict[str, list[str]]:
        """Product -> the layers behind its inputs, seen through changes of shape."""
        makers = {
            layer.get_output(index).name: layer
            for layer in self.layers()
            for index in range(layer.num_outputs)
        }
        found: dict[str, list[str]] = {}
        for layer in self.layers():
            if layer.type.name not in ("CONVOLUTION", "MATRIX_MULTIPLY"):
                continue
            names = []
            for index in range(layer.num_inputs):
                maker = makers.get(layer.get_input(index).name)
                while maker is not None and maker.type.name == "SHUFFLE":
                    maker = makers.get(maker.get_input(0).name)
                names.append("" if maker is None else f"{maker.type.name} {maker.name}")
            found[layer.name] = names
        return found

    def quantised(self) -> set[str]:
        return {
            name
            for name, makers in self.feeding().items()
            if any(maker.startswith("DEQUANTIZE") for maker in makers)
        }

    def constant(self, name: str) -> np.ndarray[Any, Any]:
        (layer,) = (layer for layer in self.layers() if layer.name == name)
        layer.__class__ = self.api.IConstantLayer
        return np.array(layer.weights).reshape(tuple(layer.shape))

    def build(self) -> Any:
        config = self.builder.create_builder_config()
        shapes = self.builder.create_optimization_profile()
        shapes.set_shape("image", *STATIC["image"])
        config.add_optimization_profile(shapes)
        return self.builder.build_serialized_network(self.network, config)


def failure(name: str) -> str:
    return f"Error Code 10: Internal Error (Could not find any implementation for node {name}.)"


def dequantised(model: onnx.ModelProto, name: str, axis: int) -> np.ndarray[Any, Any]:
    """The float weight, from the ONNX initialisers, in float64."""
    weights = weights_of(model)
    steps = weights[f"{name}.quantized"].astype(np.float64)
    scale = weights.get(f"{name}.scale.fp16", weights.get(f"{name}.scale"))
    assert scale is not None
    return np.asarray(
        np.moveaxis(np.moveaxis(steps, axis, -1) * scale.astype(np.float64), -1, axis)
    )


@pytest.mark.parametrize(("name", "axis"), [(QUERY, 1), (CONVOLUTION, 0)])
@pytest.mark.parametrize("fp16", [True, False])
def test_one_name_takes_out_its_own_pairs(name: str, axis: int, fp16: bool) -> None:
    model = int8_model(fp16=fp16)
    parsed = Parsed(rtx(), model)
    before = parsed.feeding()
    assert all(maker.startswith("DEQUANTIZE") for maker in before[name])
    assert len(before[name]) == 2
    assert parsed.bypass.at([failure(name)]) == [name]
    after = parsed.feeding()
    assert not any(maker.startswith("DEQUANTIZE") for maker in after.pop(name))
    before.pop(name)
    assert after == before
    weight = f"{name.removesuffix('.product')}.weight"
    found = parsed.constant(f"{weight}.dequantized.bypassed")
    expected = dequantised(model, weight, axis)
    dtype = np.float16 if fp16 else np.float32
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected.astype(dtype))
    assert np.abs(expected).max() > 0


def test_the_activation_is_what_was_quantised() -> None:
    parsed = Parsed(rtx(), int8_model())
    parsed.bypass.at([failure(QUERY)])
    (product,) = (layer for layer in parsed.layers() if layer.name == QUERY)
    assert product.get_input(0).name == "stage2.block0.norm1"


def test_everything_bypassed_builds() -> None:
    parsed = Parsed(rtx(), int8_model())
    names = parsed.quantised()
    assert len(names) > 20
    done = parsed.bypass.at([failure(name) for name in names])
    assert set(done) == names
    assert parsed.quantised() == set()
    assert parsed.build() is not None, parsed.journal.errors
    assert parsed.bypass.at([failure(name) for name in names]) == []


def test_a_range_means_its_depthwise_products_first() -> None:
    parsed = Parsed(rtx(), int8_model(Recipe(depthwise=True)))
    depthwise = {name for name in parsed.quantised() if name.endswith(".depthwise")}
    assert len(depthwise) == 5
    piece = failure("{ForeignNode[stage1.block0.norm1...stage2.block1.out]}")
    inside = {name for name in depthwise if name.startswith(("stage1", "stage2"))}
    assert set(parsed.bypass.at([piece])) == inside
    # Asked again, nothing depthwise is left there: the rest of the piece follows.
    more = parsed.bypass.at([piece])
    assert QUERY in more
    assert not any(name.startswith(("stage3", "decoder")) for name in more)
    assert depthwise - inside <= parsed.quantised()


def test_a_name_said_beside_a_range_decides() -> None:
    parsed = Parsed(rtx(), int8_model(Recipe(depthwise=True)))
    errors = [failure("{ForeignNode[stage1.block0.norm1...stage2.block1.out]}"), failure(QUERY)]
    assert parsed.bypass.at(errors) == [QUERY]


@pytest.mark.parametrize("name", ["stage1.embed", "stage1.embed2", "my.stage1.embed"])
def test_names_that_hold_each_other(name: str) -> None:
    model = int8_model(Recipe(first_convolution=True))
    others = {"stage2.embed": "stage1.embed2", "stage3.embed": "my.stage1.embed"}
    for node in model.graph.node:
        node.name = others.get(node.name, node.name)
    parsed = Parsed(rtx(), model)
    assert {"stage1.embed", "stage1.embed2", "my.stage1.embed"} <= parsed.quantised()
    before = parsed.quantised()
    assert parsed.bypass.at([failure(name)]) == [name]
    assert parsed.quantised() == before - {name}


@pytest.mark.parametrize("around", ["{}", "node {}.", "{} + act", "[{}]", "'{}'", "{}: no", "{},"])
def test_names_are_found_in_all_sentences(around: str) -> None:
    parsed = Parsed(rtx(), int8_model())
    assert parsed.bypass.at([around.format(QUERY)]) == [QUERY]


@pytest.mark.parametrize("said", ["", "node stage9.embed", "stage2.block0.attention.query"])
def test_an_unknown_name_takes_nothing_out(said: str) -> None:
    parsed = Parsed(rtx(), int8_model())
    before = parsed.feeding()
    assert parsed.bypass.at([failure(said)]) == []
    assert parsed.feeding() == before


def test_a_product_that_is_not_quantised_is_left_alone() -> None:
    parsed = Parsed(rtx(), int8_model())
    assert parsed.bypass.at([failure("stage1.embed")]) == []


@pytest.mark.parametrize(
    ("error", "asks"),
    [
        (failure(QUERY), True),
        ("Error Code 9: no implementation of this convolution in INT8", True),
        ("[myelin] type error: unexpected data type Int8", True),
        ("Unsupported input type INT8", True),
        ("CUDA error 2: out of memory", False),
        ("no tactics to implement the operation within workspace limit", False),
        ("Network has dynamic inputs, but no optimization profile has been defined.", False),
        ("Build was canceled by user", False),
        ("", False),
    ],
)
def test_which_errors_ask_for_it(error: str, asks: bool) -> None:
    assert asks_for_bypass([error]) == asks
    assert not asks_for_bypass([])
