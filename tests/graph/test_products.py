"""Products are found with the names that people use, and their inputs before any layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.graph.products import Flow, kind_and_block, products_of
from tests.graph.lively import lively_model, nodes_of, values_of
from tests.model.tiny import TINY, random_frames


def graph_of(nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ones((4, 4), np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def node(op: str, inputs: list[str], name: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [name], name=name, **attributes)


@pytest.mark.parametrize(
    ("name", "kind", "block"),
    [
        ("stage1.embed", "first_convolution", "stage1.embed"),
        ("stage2.embed", "embed", "stage2.embed"),
        ("stage1.block0.attention.query.product", "attention.query", "stage1.block0.attention"),
        ("stage4.block12.attention.scores", "attention.scores", "stage4.block12.attention"),
        ("stage3.block7.ffn.depthwise", "ffn.depthwise", "stage3.block7.ffn"),
        ("decoder.stage2.project.product", "decoder.project", "decoder.stage2"),
        ("decoder.stage2.fuse", "decoder.fuse", "decoder.stage2"),
        ("decoder.classifier.product", "classifier", "decoder.classifier"),
        ("decoder.classifier", "classifier", "decoder.classifier"),
        ("foreign", "foreign", "foreign"),
    ],
)
def test_a_name_says_kind_and_block(name: str, kind: str, block: str) -> None:
    assert kind_and_block(name) == (kind, block)


def test_every_product_is_found_once_and_in_order() -> None:
    model = lively_model()
    expected = [n.name for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    products = products_of(model)
    assert [product.node for product in products] == expected
    # A block holds reduce (not in stage 4), query, key_value, scores, mixed, output and three
    # convolutions; around them stand 4 embeddings, 4 projections of the decoder, the classifier.
    blocks = sum(TINY.depths)
    assert len(products) == 9 * blocks - TINY.depths[3] + 9
    assert {len(product.sources) for product in products if product.weight} == {1}
    alone = [product for product in products if product.weight is None]
    assert [len(product.sources) for product in alone] == [2] * (2 * blocks)
    assert {product.kind for product in alone} == {"attention.scores", "attention.mixed"}


def test_a_source_holds_the_values_that_the_product_reads() -> None:
    """The same numbers in another order, so that one range is right for both."""
    model = lively_model()
    nodes = nodes_of(model)
    pairs = {
        (nodes[product.node].input[index], source)
        for product in products_of(model)
        for index, source in enumerate(product.sources)
    }
    moved = sorted((read, source) for read, source in pairs if read != source)
    assert len(moved) > 10
    found = values_of(model, {name for pair in moved for name in pair}, random_frames(1, 64, 96))
    writers = {name: node for node in model.graph.node for name in node.output}
    for read, source in moved:
        same = np.array_equal(np.sort(found[read], axis=None), np.sort(found[source], axis=None))
        assert same, read
        assert writers[source].op_type not in ("Transpose", "Reshape"), source


def test_layout_is_looked_through_only_where_nothing_else_reads_it() -> None:
    chain = [
        node("Relu", ["image"], "value"),
        node("Transpose", ["value"], "turned", perm=[0, 3, 1, 2]),
        node("Transpose", ["turned"], "back", perm=[0, 2, 3, 1]),
        node("MatMul", ["back", "weight"], "product"),
    ]
    (only,) = products_of(graph_of(chain, ["product"]))
    assert only.sources == ("value",)

    seen_by_another = [*chain, node("Relu", ["back"], "other")]
    (only,) = products_of(graph_of(seen_by_another, ["product", "other"]))
    assert only.sources == ("back",)

    halfway = [*chain, node("Relu", ["turned"], "other")]
    (only,) = products_of(graph_of(halfway, ["product", "other"]))
    assert only.sources == ("turned",)

    handed_out = graph_of(chain, ["product", "back"])
    (only,) = products_of(handed_out)
    assert only.sources == ("back",)


def test_another_reader_of_the_value_itself_does_not_matter() -> None:
    model = graph_of(
        [
            node("Relu", ["image"], "value"),
            node("Transpose", ["value"], "turned", perm=[0, 3, 1, 2]),
            node("MatMul", ["turned", "weight"], "product"),
            node("Add", ["value", "value"], "other"),
        ],
        ["product", "other"],
    )
    (only,) = products_of(model)
    assert only.sources == ("value",)
    assert Flow(model.graph).layout_before("turned") == ["turned", "value"]


def test_what_changes_values_is_no_layout() -> None:
    model = graph_of(
        [
            node("Transpose", ["image"], "turned", perm=[0, 3, 1, 2]),
            node("Relu", ["turned"], "value"),
            node("MatMul", ["value", "weight"], "product"),
        ],
        ["product"],
    )
    (only,) = products_of(model)
    assert (only.sources, only.weight) == (("value",), "weight")


def test_layout_may_reach_back_to_the_frame() -> None:
    model = graph_of(
        [
            node("Transpose", ["image"], "turned", perm=[0, 3, 1, 2]),
            node("MatMul", ["turned", "weight"], "product"),
        ],
        ["product"],
    )
    (only,) = products_of(model)
    assert only.sources == ("image",)
