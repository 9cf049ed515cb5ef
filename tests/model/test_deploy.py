"""Each step of the deploy form is exact in the sense that it states, and so is the whole.

"algebra": within a few hundred float32 epsilons of the largest value, and within 1e-12 in
float64, where a wrong step could not hide behind rounding.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segformer_deploy.model.deploy import deploy_form
from segformer_deploy.model.folds import (
    bias_after_softmax,
    folded_head,
    frame_convolution,
    joined_key_value,
    scaled_query,
)
from segformer_deploy.model.segformer import Segformer, config_for, random_segformer
from tests.model.tiny import MEAN, STD, TINY, normalised, random_frames

EPSILONS = {torch.float32: 300 * torch.finfo(torch.float32).eps, torch.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", EPSILONS)


def assert_algebra(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    difference = (found - expected).abs().max().item()
    assert difference <= EPSILONS[found.dtype] * expected.abs().max().item()


def some(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def frame_case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    frames = random_frames(1, 37, 50)
    raw = torch.from_numpy(frames).permute(0, 3, 1, 2).to(dtype)
    mean = 255 * torch.tensor(MEAN, dtype=torch.float64).reshape(3, 1, 1)
    weight = some(8, 3, 7, 7, dtype=dtype)
    expected = functional.conv2d(normalised(frames, dtype), weight, stride=4, padding=3)
    return raw, mean.to(dtype), weight, expected


@DTYPES
def test_frame_convolution_is_algebra(dtype: torch.dtype) -> None:
    raw, mean, weight, expected = frame_case(dtype)
    folded = frame_convolution(weight.double(), STD).to(dtype)
    assert_algebra(functional.conv2d(raw - mean, folded, stride=4, padding=3), expected)


def test_the_mean_cannot_go_into_the_bias() -> None:
    """The near miss: padding zeros are zeros after normalising, so borders would change."""
    raw, mean, weight, expected = frame_case(torch.float64)
    folded = frame_convolution(weight, STD)
    bias = -(folded * mean).sum(dim=(1, 2, 3))
    wrong = functional.conv2d(raw, folded, bias, stride=4, padding=3)
    difference = (wrong - expected).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-9
    assert difference.max() > 0.1


@DTYPES
def test_scaled_query_is_algebra_and_bits_for_heads_of_64(dtype: torch.dtype) -> None:
    for width in (32, 64):
        x, key = some(20, width, dtype=dtype), some(9, width, dtype=dtype, seed=1)
        query = some(width, width, dtype=dtype, seed=2), some(width, dtype=dtype, seed=3)
        expected = functional.linear(x, *query) @ key.T / width**0.5
        weight, bias = scaled_query((query[0].double(), query[1].double()), width)
        found = functional.linear(x, weight.to(dtype), bias.to(dtype)) @ key.T
        assert_algebra(found, expected)
        if width == 64:
            assert torch.equal(found, expected)


def test_joined_key_value_changes_no_bit() -> None:
    key, value = some(16, 16, dtype=torch.float32), some(16, 16, dtype=torch.float32, seed=1)
    first, second = joined_key_value(key, value).chunk(2)
    assert torch.equal(first, key)
    assert torch.equal(second, value)


@DTYPES
def test_bias_after_softmax_is_algebra(dtype: torch.dtype) -> None:
    query, key, value = (some(11, 16, dtype=dtype, seed=s) for s in (1, 2, 3))
    key_bias, value_bias, bias = (some(16, dtype=dtype, seed=s) for s in (4, 5, 6))
    weight = some(16, 16, dtype=dtype, seed=7)
    mixed = (query @ (key + key_bias).T).softmax(dim=-1) @ (value + value_bias)
    expected = functional.linear(mixed, weight, bias)
    pair = bias_after_softmax(value_bias.double(), (weight.double(), bias.double()))
    mixed = (query @ key.T).softmax(dim=-1) @ value
    assert_algebra(functional.linear(mixed, pair[0].to(dtype), pair[1].to(dtype)), expected)


@DTYPES
@pytest.mark.parametrize("size", [(32, 24), (25, 17), (16, 33)])
def test_folded_head_is_algebra(dtype: torch.dtype, size: tuple[int, int]) -> None:
    model = random_segformer(TINY, 4).to(dtype)
    head = model.decode_head
    grids = [tuple(-(-side // 2**stage) for side in size) for stage in range(4)]
    stages = [
        some(2, width, *grid, dtype=dtype, seed=width)
        for width, grid in zip(TINY.widths, grids, strict=True)
    ]
    with torch.no_grad():
        expected = head.batch_norm(head.linear_fuse(head.upsampled(stages)))
        norm = head.batch_norm
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        folded = folded_head(
            head.linear_fuse.weight.double()[:, :, 0, 0],
            scale,
            norm.bias.double() - scale * norm.running_mean.double(),
            [(layer.proj.weight.double(), layer.proj.bias.double()) for layer in head.linear_c],
        )
        found = folded.bias.to(dtype).reshape(1, -1, 1, 1)
        for x, weight in zip(stages, folded.weights, strict=True):
            small = functional.conv2d(x, weight.to(dtype)[:, :, None, None])
            found = found + functional.interpolate(small, size, mode="bilinear")
    assert_algebra(found, expected)


def both(model: Segformer, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    frames = random_frames(batch, height, width, seed=height + width)
    dtype = model.decode_head.classifier.weight.dtype
    with torch.no_grad():
        expected = model(normalised(frames, dtype))
        return deploy_form(model, MEAN, STD)(torch.from_numpy(frames)), expected


@cache
def tiny_model(active: bool, dtype: torch.dtype) -> Segformer:
    return random_segformer(replace(TINY, stage_activation=active), 2).to(dtype)


@DTYPES
@settings(max_examples=8)
@given(height=st.integers(64, 200), width=st.integers(64, 200), active=st.booleans())
def test_the_whole_is_algebra_at_any_size(
    dtype: torch.dtype, height: int, width: int, active: bool
) -> None:
    assert_algebra(*both(tiny_model(active, dtype), 1, height, width))


@DTYPES
def test_b0_is_algebra(dtype: torch.dtype) -> None:
    model = random_segformer(config_for("b0", 150), 1)
    assert_algebra(*both(deepcopy(model).to(dtype), 2, 96, 65))


def test_epsilons_are_carried_over() -> None:
    """Large epsilons, so that one in the wrong place would show."""
    config = replace(TINY, block_eps=0.5, embed_eps=0.05, batch_norm_eps=2.0)
    assert_algebra(*both(random_segformer(config, 5).double(), 1, 96, 65))


def test_b0_needs_less_than_half_of_the_published_work() -> None:
    with torch.device("meta"):
        model = Segformer(config_for("b0", 150))
    form = deploy_form(model.to_empty(device="cpu"), MEAN, STD)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        form(torch.zeros(1, 512, 512, 3, dtype=torch.uint8))
    assert counter.get_total_flops() / 2 <= 4.2e9


def test_the_model_is_left_as_it_was() -> None:
    model = random_segformer(TINY, 0)
    before = deepcopy(model.state_dict())
    deploy_form(model, MEAN, STD)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
