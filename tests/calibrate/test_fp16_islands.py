"""What FP16 cannot hold is found by name, and an ordinary network has none of it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.calibrate.fp16_islands import (
    RangeReport,
    ValueRange,
    _Seen,
    islands_from_report,
    range_report,
)
from segformer_deploy.errors import MediaError, VerificationError
from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.insert_qdq import insert_qdq, quantised_values
from segformer_deploy.graph.round_fp16 import round_fp16
from tests.calibrate.given_frames import GivenFrames, some_frames
from tests.graph.lively import (
    add_to_weight,
    lively_model,
    logits_of,
    nodes_of,
    scale_weight,
    set_weight,
    values_of,
    weights_of,
)
from tests.model.tiny import random_frames


def islands_of(model: onnx.ModelProto) -> dict[str, str]:
    return islands_from_report(model, range_report(model, some_frames(2)))


def range_of(*arrays: np.ndarray) -> ValueRange:
    seen = _Seen()
    for array in arrays:
        seen.add(array.astype(np.float32))
    return seen.range()


# What is seen ---------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e5, 1e5, width=32), min_size=2, max_size=50),
    st.sampled_from([1e-9, 1e-4, 1.0]),
    st.integers(1, 49),
)
def test_a_range_is_numpy_s(numbers: list[float], scale: float, cut: int) -> None:
    values = (np.array(numbers) * scale).astype(np.float32)
    cut = min(cut, len(values) - 1)
    found = range_of(values[:cut], values[cut:])
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float64)
    nonzero = values != 0
    assert found.largest == np.abs(values).max()
    assert found.smallest == np.abs(values[nonzero]).min(initial=np.inf) or not nonzero.any()
    flushed = np.count_nonzero(nonzero & (half == 0)) / max(1, np.count_nonzero(nonzero))
    assert found.flushed == pytest.approx(flushed)
    power = np.sum(values.astype(np.float64) ** 2)
    if power > 1e-30:
        lost = np.where(np.isfinite(half), half - values, 0)
        expected = np.sqrt(np.sum(lost**2) / power)
        assert found.rounding == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_zeros_are_no_loss() -> None:
    assert range_of(np.zeros(5)) == ValueRange(0.0, 0.0, 0.0, 0.0)
    assert range_of(np.zeros(5)).objection() is None


def test_the_report_covers_every_float_value_and_weight() -> None:
    model, frames = lively_model(), some_frames(2)
    report = range_report(model, frames)
    written = [name for node in model.graph.node for name in node.output]
    found = values_of(model, written, np.stack(frames.images), literal=True)
    floats = {name: v for name, v in found.items() if v.dtype == np.float32}
    assert list(report.values) == list(floats)
    for name, value in floats.items():
        assert report.values[name].largest == pytest.approx(np.abs(value).max(), rel=1e-4), name
    weights = {n: w for n, w in weights_of(model).items() if w.dtype == np.float32}
    assert report.weights.keys() == weights.keys()
    for name, weight in weights.items():
        assert report.weights[name].largest == np.abs(weight).max(), name
    assert (report.frames, report.origin) == (2, "a test")
    data = json.loads(json.dumps(report.to_dict()))
    assert data["values"]["logits"]["largest"] == report.values["logits"].largest


def test_only_as_many_frames_are_run_as_asked_for() -> None:
    done: list[int] = []
    report = range_report(lively_model(), some_frames(3), 2, done.append)
    assert (report.frames, done) == (2, [1, 2])
    with pytest.raises(MediaError, match="no frames"):
        range_report(lively_model(), GivenFrames())


def test_nan_is_refused() -> None:
    broken = lively_model()
    add_to_weight(broken, "stage3.embed.bias", np.nan)
    with pytest.raises(VerificationError, match=r"stage3\.embed"):
        range_report(broken, some_frames(1))


# What is objected to --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "objects"), [(65504 / 4, False), (16376.5, True), (7e4, True), (1e30, True)]
)
def test_there_is_headroom_of_four(largest: float, objects: bool) -> None:
    reason = range_of(np.linspace(-largest, largest, 99)).objection()
    assert (reason is not None) == objects
    assert reason is None or f"{largest:.3g}" in reason


@pytest.mark.parametrize(
    ("scale", "objects"), [(1.0, False), (1e-3, False), (1e-5, True), (1e-7, True), (1e-9, True)]
)
def test_values_that_underflow_are_objected_to(scale: float, objects: bool) -> None:
    values = np.random.default_rng(0).normal(size=10_000) * scale
    reason = range_of(values).objection()
    assert (reason is not None) == objects
    assert reason is None or "underflow" in reason


def test_a_few_small_values_among_large_ones_are_no_loss() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    values[::2] *= 1e-9
    found = range_of(values)
    assert found.flushed > 0.4
    assert found.objection() is None


def test_values_whose_squares_vanish_are_objected_to() -> None:
    values = np.random.default_rng(0).normal(size=1000) * 1e-26
    assert range_of(values).objection() is not None


# Which nodes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_an_ordinary_network_has_no_islands(seed: int) -> None:
    model = lively_model(seed)
    assert islands_from_report(model, range_report(model, some_frames(2))) == {}


def test_a_weight_out_of_range_makes_its_node_an_island() -> None:
    model, name = lively_model(), "stage2.block0.ffn.contract.bias"
    bias = weights_of(model)[name].copy()
    bias[3] = 20_000
    set_weight(model, name, bias)
    assert "stage2.block0.ffn.contract" in islands_of(model)
    alone = RangeReport(1, "", {}, {name: range_of(bias)})
    reasons = islands_from_report(model, alone)
    assert reasons.keys() == {"stage2.block0.ffn.contract"}
    assert reasons["stage2.block0.ffn.contract"].startswith(f"{name} reaches 2e+04")


def test_a_tiny_weight_makes_its_node_an_island() -> None:
    model, name = lively_model(), "decoder.stage3.fuse.weight"
    scale_weight(model, name, 1e-7)
    found = islands_of(model)
    assert "decoder.stage3.fuse" in found
    alone = RangeReport(1, "", {}, {name: range_of(weights_of(model)[name])})
    reasons = islands_from_report(model, alone)
    assert reasons.keys() == {"decoder.stage3.fuse"}
    assert name in reasons["decoder.stage3.fuse"]
    assert "underflow" in reasons["decoder.stage3.fuse"]


def overflowing_model() -> onnx.ModelProto:
    """What the first attention adds to the residual stream goes beyond FP16."""
    model = lively_model()
    for name in ("weight", "bias"):
        scale_weight(model, f"stage1.block0.attention.output.{name}", 1e5)
    return model


def test_a_value_out_of_range_makes_its_node_an_island() -> None:
    found = islands_of(overflowing_model())
    for name in ("output.product", "output"):
        node = f"stage1.block0.attention.{name}"
        assert found[node].startswith(f"{node} reaches")
    assert "stage1.block0.attended" in found
    assert not [node for node in found if not node.startswith("stage1.")]
    assert found.keys() <= nodes_of(overflowing_model()).keys()


def test_islands_are_enough() -> None:
    """The graph with the islands that were found gives numbers, and the right ones."""
    model, frames = overflowing_model(), random_frames(1, 64, 96, seed=2)
    half = round_fp16(cast_fp16(model, islands_of(model)))
    exact = logits_of(model, frames)
    assert np.abs(logits_of(half, frames) - exact).max() < 0.02 * np.abs(exact).max()


def test_islands_are_enough_in_an_int8_graph() -> None:
    """The grids of what an island reads or writes hold what FP16 cannot."""
    model, frames = overflowing_model(), random_frames(1, 64, 96, seed=2)
    seen = values_of(model, quantised_values(model), frames)
    ranges = {name: float(np.abs(value).max()) for name, value in seen.items()}
    quantised = insert_qdq(model, ranges, spelling="signed")
    half = round_fp16(cast_fp16(quantised, islands_of(model)))
    exact, in_fp32 = (logits_of(one, frames, literal=True) for one in (model, quantised))
    in_fp16 = logits_of(half, frames, literal=True)
    assert np.abs(in_fp32 - exact).max() < 0.1 * np.abs(exact).max()
    assert np.abs(in_fp16 - exact).max() < 0.1 * np.abs(exact).max()
