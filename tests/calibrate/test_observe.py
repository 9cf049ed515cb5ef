"""Values inside a graph, a few at a time: those of one run, within a budget of memory."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.calibrate.observe import Observer, _groups
from segformer_deploy.errors import VerificationError
from segformer_deploy.graph.insert_qdq import quantised_values
from segformer_deploy.spec import FrameSize
from tests.graph.lively import add_to_weight, lively_model, scale_weight, values_of
from tests.model.tiny import random_frames

SIZE = FrameSize(64, 96)


def observed(model: onnx.ModelProto, names: list[str], budget: int) -> dict[str, np.ndarray]:
    (image,) = random_frames(1, SIZE.height, SIZE.width)
    return dict(Observer(model, names, SIZE, budget)(image))


@pytest.mark.parametrize("budget", [0, 40_000, 1 << 30])
def test_values_are_those_of_one_run(budget: int) -> None:
    model = lively_model()
    names = list(quantised_values(model))[::6]
    found = observed(model, names, budget)
    assert list(found) == names
    for name, value in values_of(model, names, random_frames(1, 64, 96)).items():
        assert (found[name].shape, found[name].dtype) == (value.shape, np.float32)
        # ONNX Runtime fuses other nodes where other values are asked for.
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-5 * np.abs(value).max())


@pytest.mark.parametrize("budget", [0, 20_000, 80_000, 1 << 30])
def test_a_run_hands_out_no_more_than_the_budget(budget: int) -> None:
    model = lively_model()
    names = list(quantised_values(model))[::6]
    groups = Observer(model, names, SIZE, budget).groups
    assert [name for group in groups for name in group] == names
    sizes = {
        name: v.nbytes for name, v in values_of(model, names, random_frames(1, 64, 96)).items()
    }
    for group in groups:
        assert sum(sizes[name] for name in group) <= budget or len(group) == 1, group
    assert (len(groups) == 1) == (budget == 1 << 30)
    assert (len(groups) == len(names)) == (budget == 0)


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 100))
def test_groups_are_filled_in_order(sizes: list[int], budget: int) -> None:
    names = [f"value{index}" for index in range(len(sizes))]
    by_name = dict(zip(names, sizes, strict=True))
    groups = _groups(names, by_name, budget)
    assert [name for group in groups for name in group] == names
    totals = [sum(by_name[name] for name in group) for group in groups]
    assert all(t <= budget or len(g) == 1 for t, g in zip(totals, groups, strict=True))
    # The first of the next group would not have fitted.
    for total, following in zip(totals, groups[1:], strict=False):
        assert total + by_name[following[0]] > budget


def test_frames_of_another_size_go_too() -> None:
    observe = Observer(lively_model(), ["decoder.relu"], SIZE)
    ((_, value),) = observe(random_frames(1, 97, 133)[0])
    assert value.shape == (1, 25, 34, 12)


def test_the_graph_stays_as_it_was() -> None:
    model = lively_model()
    before = model.SerializeToString()
    observed(model, ["decoder.relu", "logits"], 0)
    assert model.SerializeToString() == before


def test_nan_and_infinity_are_refused_by_name() -> None:
    broken = lively_model()
    add_to_weight(broken, "stage2.embed.bias", np.nan)
    with pytest.raises(VerificationError, match=r"stage2\.block0\.norm1") as caught:
        observed(broken, ["stage1.norm", "stage2.block0.norm1", "decoder.relu"], 1 << 30)
    assert "checkpoint" in str(caught.value)
    overflowing = lively_model()
    scale_weight(overflowing, "stage1.embed.weight", 1e38)
    with pytest.raises(VerificationError, match=r"stage1\.embed"):
        observed(overflowing, ["stage1.embed"], 1 << 30)
