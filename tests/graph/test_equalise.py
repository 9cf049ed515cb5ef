"""Even ranges: the same network in real numbers, and a nearer one on an INT8 grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.errors import OnnxFileError, SpecError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.equalise import (
    LIMIT,
    ChannelStatistics,
    equalise,
    even_scales,
    knobs_of,
)
from segformer_deploy.graph.insert_qdq import insert_qdq
from tests.graph.lively import (
    lively_model,
    lively_ranges,
    logits_of,
    scale_weight,
    values_of,
    weights_of,
)
from tests.model.tiny import TINY, random_frames

Doubles = npt.NDArray[np.float64]
NORM, READER = "stage1.block0.norm2", "stage1.block0.ffn.expand"


def statistics_of(model: onnx.ModelProto) -> dict[str, ChannelStatistics]:
    names = [knob.norm for knob in knobs_of(model)]
    found = values_of(model, names, random_frames(2, 64, 96, seed=5))
    flat = {name: value.reshape(-1, value.shape[-1]) for name, value in found.items()}
    return {
        name: ChannelStatistics(
            np.abs(rows).max(axis=0), (rows.astype(np.float64) ** 2).mean(axis=0)
        )
        for name, rows in flat.items()
    }


def on_grid(values: Doubles, largest: Doubles | float) -> Doubles:
    """`values` on a symmetric grid of 255 steps; zeros where `largest` is 0."""
    step = np.maximum(np.asarray(largest, np.float64) / 127, 1e-30)
    return np.clip(np.rint(values / step), -127, 127) * step


def true_error(rows: Doubles, matrix: Doubles) -> float:
    """Of rows @ matrix on INT8 grids: root mean square, over that of the exact product."""
    rounded = on_grid(rows, np.abs(rows).max()) @ on_grid(matrix, np.abs(matrix).max(axis=0))
    exact = rows @ matrix
    return float(np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(exact**2)))


def with_an_uneven_norm(factor: float = 100.0) -> onnx.ModelProto:
    """One channel of a norm is `factor` times as large; its weights make up for it."""
    model = lively_model()
    scale = np.ones(8)
    scale[3] = factor
    for name in ("weight", "bias"):
        scale_weight(model, f"{NORM}.{name}", scale)
    scale_weight(model, f"{READER}.weight", 1 / scale.reshape(1, 8, 1, 1))
    return model


# Where ----------------------------------------------------------------------------------------


def test_every_norm_that_only_products_read_is_a_knob() -> None:
    knobs = {knob.norm: knob for knob in knobs_of(lively_model())}
    blocks = [f"stage{s + 1}.block{b}" for s in range(4) for b in range(TINY.depths[s])]
    expected = {f"{block}.norm{i}" for block in blocks for i in (1, 2)}
    # Stage 4 does not reduce its sequence.
    expected |= {f"{block}.attention.reduce_norm" for block in blocks if block[5] != "4"}
    # The norms at the ends of stages; those behind the embeddings feed the residual stream.
    expected |= {f"stage{stage}.norm" for stage in range(1, 5)}
    assert knobs.keys() == expected
    assert set(knobs["stage1.norm"].weights) == {
        ("stage2.embed.weight", 1),
        ("decoder.stage1.fuse.weight", 0),
    }
    assert knobs[NORM].affine == (f"{NORM}.weight", f"{NORM}.bias")


def norm_and_reader(*extra: onnx.NodeProto, group: int = 1) -> onnx.ModelProto:
    nodes = [
        helper.make_node(
            "LayerNormalization", ["image", "gain", "shift"], ["norm"], name="norm", axis=-1
        ),
        helper.make_node("Transpose", ["norm"], ["turned"], name="turned", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["turned", "kernel"], ["conv"], name="conv", group=group),
        *extra,
    ]
    weights = {
        "gain": np.ones(4),
        "shift": np.zeros(4),
        "kernel": np.ones((4, 4 // group, 1, 1)),
        "matrix": np.ones((4, 4)),
    }
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 4, 4])],
        [helper.make_tensor_value_info("conv", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_norm_that_anything_else_reads_is_left_alone() -> None:
    assert [knob.norm for knob in knobs_of(norm_and_reader())] == ["norm"]
    product = helper.make_node("MatMul", ["norm", "matrix"], ["other"], name="other")
    (knob,) = knobs_of(norm_and_reader(product))
    assert set(knob.weights) == {("kernel", 1), ("matrix", 0)}

    addition = helper.make_node("Add", ["norm", "image"], ["other"], name="other")
    assert not knobs_of(norm_and_reader(addition))
    behind_layout = helper.make_node("Relu", ["turned"], ["other"], name="other")
    assert not knobs_of(norm_and_reader(behind_layout))
    by_itself = helper.make_node("MatMul", ["norm", "norm"], ["other"], name="other")
    assert not knobs_of(norm_and_reader(by_itself))
    for name in ("norm", "turned"):
        handed_out = norm_and_reader()
        handed_out.graph.output.append(helper.make_empty_tensor_value_info(name))
        assert not knobs_of(handed_out), name


@pytest.mark.parametrize("group", [2, 4])
def test_a_grouped_convolution_s_norm_is_left_alone(group: int) -> None:
    assert not knobs_of(norm_and_reader(group=group))


# Exact ----------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_the_logits_stay(seed: int) -> None:
    """Algebra: FP32's rounding and no more, here 2e-5 of the largest logit."""
    model, rng = lively_model(), np.random.default_rng(seed)
    untouched = model.SerializeToString()
    gains = {knob.norm: len(weights_of(model)[knob.affine[0]]) for knob in knobs_of(model)}
    scales = {
        norm: np.exp(rng.uniform(-4, 4, channels)).astype(np.float32)
        for norm, channels in gains.items()
    }
    after = equalise(model, scales)
    assert model.SerializeToString() == untouched
    assert after.graph.node == model.graph.node
    assert after.metadata_props == model.metadata_props
    frames = random_frames(1, 97, 133, seed=seed % 1000)
    expected = logits_of(model, frames)
    difference = np.abs(logits_of(after, frames) - expected).max()
    assert difference < 2e-5 * np.abs(expected).max()


def test_the_norm_is_divided_by_the_scales() -> None:
    scale = np.array([0.5, 1, 2, 4, 0.25, 8, 3, 100], np.float32)
    model, frames = lively_model(), random_frames(1, 64, 96)
    after = equalise(model, {NORM: scale})
    before = values_of(model, [NORM, READER], frames)
    found = values_of(after, [NORM, READER], frames)
    np.testing.assert_allclose(found[NORM] * scale, before[NORM], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[READER], before[READER], rtol=0, atol=1e-5)
    changed = {
        name
        for name, weight in weights_of(after).items()
        if (weight != weights_of(model)[name]).any()
    }
    assert changed == {f"{NORM}.weight", f"{NORM}.bias", f"{READER}.weight"}


def test_no_scales_change_nothing() -> None:
    assert equalise(lively_model(), {}).SerializeToString() == lively_model().SerializeToString()


@pytest.mark.parametrize(
    ("norm", "scale", "told"),
    [
        ("stage1.embed_norm", np.ones(8), "no norm that only products read"),
        ("nowhere", np.ones(8), "nowhere"),
        (NORM, np.ones(7), "8"),
        (NORM, np.ones((1, 8)), "8"),
        (NORM, np.array(1.0), "8"),
        (NORM, np.array([1, 1, 1, 1, 1, 1, 1, 0.0]), "positive"),
        (NORM, np.array([1, 1, 1, 1, 1, 1, 1, -2.0]), "positive"),
        (NORM, np.array([1, 1, 1, 1, 1, 1, 1, np.nan]), "positive"),
        (NORM, np.array([1, 1, 1, 1, 1, 1, 1, np.inf]), "positive"),
    ],
)
def test_wrong_scales_are_refused(norm: str, scale: Doubles, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        equalise(lively_model(), {norm: scale.astype(np.float32)})


def test_only_an_fp32_graph_with_logits_is_made_even() -> None:
    for model in (append_class_map(lively_model()), insert_qdq(lively_model(), lively_ranges())):
        with pytest.raises(OnnxFileError):
            equalise(model, {})


# Better ---------------------------------------------------------------------------------------


def test_an_uneven_norm_gets_scales_that_lower_the_true_error() -> None:
    model = with_an_uneven_norm()
    scales = even_scales(model, statistics_of(model))
    assert scales[NORM].dtype == np.float32
    assert scales[NORM].argmax() == 3
    frames = random_frames(2, 64, 96, seed=6)
    errors = []
    for graph in (model, equalise(model, scales)):
        rows = values_of(graph, [NORM], frames)[NORM].reshape(-1, 8).astype(np.float64)
        matrix = weights_of(graph)[f"{READER}.weight"][:, :, 0, 0].T.astype(np.float64)
        errors.append(true_error(rows, matrix))
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize("dead", [[0, 1], [0, 1, 2, 4, 5]])
def test_dead_channels_leave_the_gain_to_the_others(dead: list[int]) -> None:
    model = with_an_uneven_norm()
    for name in ("weight", "bias"):
        scale_weight(model, f"{NORM}.{name}", np.where(np.isin(np.arange(8), dead), 0, 1))
    scales = even_scales(model, statistics_of(model))
    rows = values_of(model, [NORM], random_frames(2, 64, 96, seed=6))[NORM].reshape(-1, 8)
    matrix = weights_of(model)[f"{READER}.weight"][:, :, 0, 0].T.astype(np.float64)
    factors = scales.get(NORM, np.ones(8)).astype(np.float64)
    after = true_error(rows / factors, matrix * factors[:, None])
    assert after < true_error(rows.astype(np.float64), matrix) / 4


@given(st.integers(0, 2**32 - 1), st.floats(0, 2.5))
@settings(max_examples=10)
def test_scales_never_make_a_product_much_worse(seed: int, spread: float) -> None:
    """The choice rests on an estimate, so allow it a tenth."""
    model, rng = lively_model(), np.random.default_rng(seed)
    for name in ("weight", "bias"):
        scale_weight(model, f"{NORM}.{name}", np.exp(rng.normal(0, spread, 8)))
    scale_weight(model, f"{READER}.weight", np.exp(rng.normal(0, spread, (1, 8, 1, 1))))
    scales = even_scales(model, statistics_of(model))
    rows = values_of(model, [NORM], random_frames(2, 64, 96, seed=6))[NORM].reshape(-1, 8)
    matrix = weights_of(model)[f"{READER}.weight"][:, :, 0, 0].T.astype(np.float64)
    factors = scales.get(NORM, np.ones(8)).astype(np.float64)
    assert (factors >= 1 / LIMIT * 0.999).all()
    assert (factors <= LIMIT * 1.001).all()
    after = true_error(rows / factors, matrix * factors[:, None])
    assert after <= 1.1 * true_error(rows.astype(np.float64), matrix)


def test_even_ranges_are_left_as_they_are() -> None:
    """Equal channels and equal weights: nothing to gain, so no scales."""
    model = lively_model()
    rng = np.random.default_rng(0)
    seen = {
        knob.norm: ChannelStatistics(
            np.full(len(weights_of(model)[knob.affine[0]]), 3, np.float32),
            np.full(len(weights_of(model)[knob.affine[0]]), 1.0),
        )
        for knob in knobs_of(model)
    }
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight") and len(tensor.dims) > 1:
            signs = rng.choice([-1.0, 1.0], tuple(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(signs, tensor.name))
    assert even_scales(model, seen) == {}


def test_dead_channels_do_no_harm() -> None:
    """Channels that are always 0 get finite factors, and the network stays the same."""
    model = lively_model()
    dead = np.array([1, 0, 1, 1, 0, 1, 100, 1.0])
    for name in ("weight", "bias"):
        scale_weight(model, f"{NORM}.{name}", dead)
    scales = even_scales(model, statistics_of(model))
    assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales.values())
    frames = random_frames(1, 64, 96)
    expected = logits_of(model, frames)
    found = logits_of(equalise(model, scales), frames)
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
