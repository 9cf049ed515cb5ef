"""Layers written down from the paper count as the exported graphs and PyTorch's counter do."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.bench.cost import FRAME, SHAPES, Form, Network, network
from segformer_deploy.bench.cost_bytes import layer_bytes, peak_live_bytes, weight_bytes
from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.graph.macs import activation_memory, count_macs
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import Segformer, macs_of_model, random_segformer
from segformer_deploy.model.variants import VARIANTS, config_for
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.export import ExportOptions, export_onnx
from tests.model.tiny import spec_for

PAPER = {"b0": 8.4, "b1": 15.9, "b2": 62.4, "b3": 79.0, "b4": 95.7}
"""GMAC on ADE20K at 512x512, the paper's Table 1 and 6 (B5: 183.3 at 640x640)."""


@lru_cache(maxsize=2)
def graph(variant: str, classes: int) -> onnx.ModelProto:
    """The graph of `variant` with random weights, as `workflow.export` makes it."""
    config = config_for(variant, classes)
    return onnx_from_model(random_segformer(config, 1), spec_for(config, variant))


def test_the_table_is_the_models() -> None:
    assert SHAPES.keys() == VARIANTS.keys()
    for name, shape in SHAPES.items():
        config = VARIANTS[name]
        assert (shape.widths, shape.depths) == (config.widths, config.depths)
        assert shape.head == config.head_channels


def test_an_exported_file_counts_the_same(tmp_path: Path) -> None:
    path = tmp_path / "b0.onnx"
    size = FrameSize(64, 96)
    options = ExportOptions("b0", classes=3, random_weights=True, size=size, output=path)
    report = export_onnx(options, lambda _: None)
    assert network("b0", size, 3).macs == report.macs == count_macs(onnx.load(path), size)
    assert network("b0", size, 3, form="published").macs == report.macs_published


@pytest.mark.parametrize(
    ("variant", "classes", "batch", "size"),
    [
        ("b0", 150, 1, "512x512"),
        ("b0", 150, 2, "97x133"),
        ("b0", 150, 1, "1024x2048"),
        ("b1", 19, 1, "513x770"),
        ("b1", 19, 3, "64x65"),
    ],
)
def test_macs_are_the_exported_graphs(variant: str, classes: int, batch: int, size: str) -> None:
    own = network(variant, FrameSize.parse(size), classes, batch=batch)
    assert own.macs == count_macs(graph(variant, classes), FrameSize.parse(size), batch)
    assert sum(own.macs_by_kind().values()) == own.macs


@pytest.mark.parametrize(
    "variant", ["b2", *(pytest.param(v, marks=pytest.mark.slow) for v in ("b3", "b4", "b5"))]
)
def test_macs_of_large_graphs(variant: str) -> None:
    for size in (FrameSize(512, 512), FrameSize(333, 517)):
        assert network(variant, size, 19).macs == count_macs(graph(variant, 19), size)


@pytest.mark.parametrize("variant", list(SHAPES))
@pytest.mark.parametrize("size", ["512x512", "640x481"])
def test_macs_of_the_published_form_are_pytorchs(variant: str, size: str) -> None:
    with torch.device("meta"):
        model = Segformer(config_for(variant, 150))
    parsed = FrameSize.parse(size)
    assert network(variant, parsed, 150, form="published").macs == macs_of_model(model, parsed)


@pytest.mark.parametrize("variant", list(PAPER))
def test_macs_are_the_papers(variant: str) -> None:
    macs = network(variant, FrameSize(512, 512), 150, form="published").macs
    assert macs / 1e9 == pytest.approx(PAPER[variant], rel=0.002)


def test_b5_and_the_deploy_form() -> None:
    b5 = network("b5", FrameSize(640, 640), 150, form="published").macs
    assert b5 / 1e9 == pytest.approx(183.3, rel=0.002)
    assert network("b0", FrameSize(512, 512), 150).macs / 1e9 == pytest.approx(4.09, abs=0.005)
    # The paper's 125.5 GMAC at 1024x2048 count windows of 1024x1024: within 4 % of whole frames.
    whole = network("b0", FrameSize(1024, 2048), 19, form="published").macs
    assert whole / 1e9 == pytest.approx(125.5, rel=0.04)


@pytest.mark.parametrize("variant", ["b0", "b3", "b5"])
def test_parameters_are_the_checkpoints(variant: str) -> None:
    with torch.device("meta"):
        model = Segformer(config_for(variant, 150))
    published = network(variant, FrameSize(64, 64), 150, form="published")
    assert published.parameters == sum(p.numel() for p in model.parameters())


def test_parameters_of_the_deploy_form_are_the_graphs() -> None:
    stored = sum(
        torch.Size(t.dims).numel()
        for t in graph("b0", 150).graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT
    )
    # The graph also stores the mean (3 values) and the constants of its arithmetic.
    assert 0 <= stored - network("b0", FrameSize(64, 64), 150).parameters < 16


@pytest.mark.parametrize("size", ["512x512", "97x133", "256x1024"])
def test_live_bytes_are_near_the_exported_graphs(size: str) -> None:
    """The graph runs in another order, with copies: up to twice as much, never less than half."""
    parsed = FrameSize.parse(size)
    own = peak_live_bytes(network("b0", parsed, 150), "fp32")
    assert 0.4 < own / activation_memory(graph("b0", 150), parsed).peak <= 1


def held_by_hand(net: Network) -> int:
    """The peak again, the slow way: at each layer, every value that a later one reads."""
    most = 0
    for index, layer in enumerate(net.layers):
        later = {name for other in net.layers[index + 1 :] for name in other.reads}
        before = {earlier.name: 4 * earlier.writes for earlier in net.layers[:index]}
        before[FRAME] = net.batch * net.size.pixels * 3
        needed = {n: b for n, b in before.items() if n in later or n in layer.reads}
        first = layer.reads[0]
        if layer.in_place and first not in later and before[first] == 4 * layer.writes:
            del needed[first]
        most = max(most, sum(needed.values()) + 4 * layer.writes)
    return most


SIZES = st.builds(FrameSize, st.integers(64, 300), st.integers(64, 300))


@settings(max_examples=15, deadline=None)
@given(SIZES, st.sampled_from(["deploy", "published"]), st.booleans())
def test_live_bytes_by_hand(size: FrameSize, form: Form, fused: bool) -> None:
    net = network("b0", size, 5, form=form, fused_attention=fused)
    assert peak_live_bytes(net, "fp32") == held_by_hand(net)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.sampled_from(sorted(SHAPES)), st.integers(1, 200), st.integers(1, 4))
def test_what_holds_for_every_size(size: FrameSize, variant: str, classes: int, batch: int) -> None:
    one = network(variant, size, classes)
    more = network(variant, size, classes, batch=batch)
    published = network(variant, size, classes, form="published")
    assert more.macs == batch * one.macs
    assert more.parameters == one.parameters
    assert peak_live_bytes(more, "fp16") == batch * peak_live_bytes(one, "fp16")
    assert published.macs > one.macs
    # Fused attention computes the same, and never writes its scores.
    fused = network(variant, size, classes, fused_attention=True)
    assert fused.macs_by_kind() == one.macs_by_kind()
    assert peak_live_bytes(fused, "fp32") <= peak_live_bytes(one, "fp32")
    for net in (one, fused, published):
        written = {FRAME}
        for layer in net.layers:
            assert written.issuperset(layer.reads)
            assert layer.name not in written
            written.add(layer.name)
        assert net.layers[-1].name == "logits"


def test_bytes_follow_the_precision() -> None:
    net = network("b0", FrameSize(96, 96), 19)
    assert weight_bytes(net, "fp32") == 4 * net.parameters == 2 * weight_bytes(net, "fp16")
    assert net.parameters < weight_bytes(net, "int8") < 1.1 * net.parameters
    wide, half, narrow = (layer_bytes(net, p) for p in ("fp32", "fp16", "int8"))
    for layer, a, b, c in zip(net.layers, wide, half, narrow, strict=True):
        assert a.writes == 2 * b.writes == 4 * layer.writes
        assert c.writes in (layer.writes, 2 * layer.writes)
        assert c.total <= b.total <= a.total
    sizes = {
        layer.name: one.writes / layer.writes for layer, one in zip(net.layers, narrow, strict=True)
    }
    # Read by a convolution alone: 1 byte. A residual stream, read by an addition too: 2.
    assert sizes["stage1.block0.expand"] == 1
    assert sizes["stage1.block0.add1"] == sizes["logits"] == 2


def test_networks_that_are_none() -> None:
    with pytest.raises(SpecError, match="b9"):
        network("b9", FrameSize(64, 64), 5)
    with pytest.raises(SpecError):
        network("b0", FrameSize(64, 64), 0)
    with pytest.raises(FrameError):
        network("b0", FrameSize(63, 64), 5)
