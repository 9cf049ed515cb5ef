"""INT8 graphs: what is quantised, what is not, and with which integers."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from segformer_deploy.graph.insert_qdq import (
    Recipe,
    Spelling,
    insert_qdq,
    quantised_values,
)
from segformer_deploy.spec import METADATA_KEY, ModelSpec
from tests.graph.lively import (
    lively_model,
    lively_ranges,
    nodes_of,
    weights_of,
)
from tests.model.tiny import TINY

LAYOUT = ("Transpose", "Reshape")
RECIPES = {
    "default": Recipe(),
    "everything": Recipe.everything(),
    "first convolution": Recipe(first_convolution=True),
    "no classifier": Recipe(classifier=False),
    "depthwise": Recipe(depthwise=True),
    "attention": Recipe(attention=True),
    "no residuals": Recipe(residuals=False),
    "kept": Recipe(
        attention=True,
        kept=frozenset(
            {"stage1.block0.ffn", "stage2.block1.attention", "stage3.embed", "decoder.stage1"}
        ),
    ),
}
HALVES = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
"""All finite FP16 numbers above 0, in order."""


def smallest_half_that_holds(largest: float) -> float:
    """The smallest FP16 number of which 127 hold `largest`, from the list of all."""
    return float(HALVES[np.searchsorted(HALVES * 127, largest)])


def should_be_taken(product: str, recipe: Recipe) -> bool:
    """The recipe in words, by the names of nodes alone."""
    if any(product == block or product.startswith(block + ".") for block in recipe.kept):
        return False
    if product == "stage1.embed":
        return recipe.first_convolution
    if product == "decoder.classifier.product":
        return recipe.classifier
    if product.endswith(".ffn.depthwise"):
        return recipe.depthwise
    if product.endswith((".attention.scores", ".attention.mixed")):
        return recipe.attention
    return True


def should_be_rounded(addition: str, recipe: Recipe) -> bool:
    """Whether what a branch adds to the residual stream is to lie on a grid."""
    found = re.fullmatch(r"(stage\d\.block\d)\.(attended|out)", addition)
    if not found or not recipe.residuals:
        return False
    end = {"attended": "attention.output.product", "out": "ffn.contract"}[found[2]]
    return should_be_taken(f"{found[1]}.{end}", recipe)


class Wiring:
    """Who writes and reads what, for looking through layout."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.writer = {name: node for node in self.nodes for name in node.output}

    def behind_layout(self, value: str) -> onnx.NodeProto | None:
        node = self.writer.get(value)
        while node is not None and node.op_type in LAYOUT:
            node = self.writer.get(node.input[0])
        return node

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """The nodes that read `value`, layout replaced by its own readers."""
        found = []
        for node in self.nodes:
            if value in node.input:
                inner = node.op_type in LAYOUT
                found += self.readers(node.output[0]) if inner else [node]
        return found


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture(params=["signed", "unsigned"])
def spelling(request: pytest.FixtureRequest) -> Spelling:
    return request.param


def int8_model(recipe: Recipe | None = None, spelling: Spelling = "unsigned") -> onnx.ModelProto:
    return insert_qdq(lively_model(), lively_ranges(), recipe, spelling)


# What is quantised ----------------------------------------------------------------------------


def test_the_recipe_s_products_read_grids_and_no_others(recipe: Recipe) -> None:
    model = int8_model(recipe)
    wiring, weights = Wiring(model), weights_of(lively_model())
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul"):
            continue
        taken = should_be_taken(node.name, recipe)
        writers = [wiring.behind_layout(name) for name in node.input[:2]]
        on_grid = [
            writer is not None and writer.op_type == "DequantizeLinear" for writer in writers
        ]
        assert on_grid == [taken] * 2, node.name
        weight = node.input[1].removesuffix(".dequantized")
        if weight in weights:
            assert (weight in weights_of(model)) == (not taken), node.name
        assert len(node.input) == 2 or node.input[2] in weights_of(model)


def test_only_the_recipe_s_readers_read_grids(recipe: Recipe) -> None:
    model = int8_model(recipe)
    wiring = Wiring(model)
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        readers = wiring.readers(node.output[0])
        assert readers
        for reader in readers:
            allowed = should_be_taken if reader.op_type in ("Conv", "MatMul") else should_be_rounded
            assert allowed(reader.name, recipe), (node.name, reader.name)


def test_branches_are_rounded_where_the_recipe_says(recipe: Recipe) -> None:
    model = int8_model(recipe)
    wiring = Wiring(model)
    additions = [node for node in model.graph.node if node.name.endswith((".attended", ".out"))]
    assert len(additions) == 2 * sum(TINY.depths)
    for node in additions:
        stream, branch = (wiring.behind_layout(name) for name in node.input)
        assert stream.op_type != "DequantizeLinear", node.name
        rounded = branch.op_type == "DequantizeLinear"
        assert rounded == should_be_rounded(node.name, recipe), node.name


def test_each_value_has_one_pair_and_it_stands_before_layout(recipe: Recipe) -> None:
    model = int8_model(recipe)
    wiring = Wiring(model)
    quantise = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    sources = [node.input[0] for node in quantise]
    assert len(set(sources)) == len(sources)
    assert sorted(sources) == sorted(quantised_values(lively_model(), recipe))
    for node in quantise:
        assert wiring.writer[node.input[0]].op_type not in LAYOUT, node.name
        (dequantise,) = (other for other in model.graph.node if node.output[0] in other.input)
        assert list(dequantise.input) == [node.output[0], *node.input[1:]]


def test_without_its_pairs_the_graph_is_the_old_one(recipe: Recipe, spelling: Spelling) -> None:
    model = int8_model(recipe, spelling)
    before = {node.output[0]: node.input[0] for node in model.graph.node}
    rest = []
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, name in enumerate(node.input):
            if name.endswith(".dequantized"):
                node.input[index] = before[name].removesuffix(".quantized")
        rest.append(node)
    assert rest == list(lively_model().graph.node)


def test_a_value_with_a_kept_and_a_quantised_reader_serves_both() -> None:
    kept = int8_model(Recipe(kept=frozenset({"decoder.stage1"})))
    assert nodes_of(kept)["decoder.stage1.fuse"].input[0] == "stage1.norm"
    assert nodes_of(kept)["stage1.norm.nchw"].input[0] == "stage1.norm.dequantized"
    other = int8_model(Recipe(kept=frozenset({"stage2.embed"})))
    assert nodes_of(other)["decoder.stage1.fuse"].input[0] == "stage1.norm.dequantized"
    assert nodes_of(other)["stage1.norm.nchw"].input[0] == "stage1.norm"


def test_the_graph_is_valid_and_says_so(recipe: Recipe, spelling: Spelling) -> None:
    before = lively_model()
    untouched = before.SerializeToString()
    after = insert_qdq(before, lively_ranges(), recipe, spelling)
    assert before.SerializeToString() == untouched
    onnx.checker.check_model(after, full_check=True)
    specs = [ModelSpec.from_json(m.metadata_props[0].value) for m in (before, after)]
    assert specs[1] == specs[0].with_(precision="int8")
    assert after.metadata_props[0].key == METADATA_KEY
    assert (after.graph.input, after.graph.output) == (before.graph.input, before.graph.output)
    names = [tensor.name for tensor in after.graph.initializer]
    assert len(names) == len(set(names))
    read = {name for node in after.graph.node for name in node.input}
    assert set(names) <= read
