"""The published network equals transformers' own: names, counts, answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model.segformer import (
    VARIANTS,
    Segformer,
    SegformerConfig,
    config_for,
    macs_of_model,
    random_segformer,
)
from segformer_deploy.spec import FrameSize
from tests.model.tiny import TINY, same_weights, saved_state, transformers_model

# Table 6 of the paper, ADE20K: B5 at 640x640.
PAPER_GMAC = {"b0": 8.4, "b1": 15.9, "b2": 62.4, "b3": 79.0, "b4": 95.7, "b5": 183.3}
# Encoder and head in millions, the same table.
PAPER_PARAMETERS = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return same_weights(TINY, tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_as_many_as_transformers_has(variant: str) -> None:
    config = config_for(variant, 150)
    with torch.device("meta"):
        ours, theirs = Segformer(config), transformers_model(config)
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())
    assert count / 1e6 == pytest.approx(PAPER_PARAMETERS[variant], abs=0.06)


@pytest.mark.parametrize("variant", VARIANTS)
def test_multiply_accumulates_are_the_papers(variant: str) -> None:
    size = FrameSize(640, 640) if variant == "b5" else FrameSize(512, 512)
    with torch.device("meta"):
        model = Segformer(config_for(variant, 150))
    macs = macs_of_model(model, size)
    assert macs / 1e9 == pytest.approx(PAPER_GMAC[variant], rel=0.01)


def test_names_and_shapes_are_those_that_transformers_saves(tmp_path) -> None:
    theirs = saved_state(transformers_model(TINY), tmp_path)
    ours = Segformer(TINY).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@settings(max_examples=10)
@given(height=st.integers(64, 200), width=st.integers(64, 200), batch=st.integers(1, 2))
def test_logits_are_transformers_at_any_size(pair, height: int, width: int, batch: int) -> None:
    ours, theirs = pair
    generator = torch.Generator().manual_seed(height * 1000 + width)
    image = torch.randn(batch, 3, height, width, generator=generator)
    with torch.no_grad():
        found, expected = ours(image), theirs(pixel_values=image).logits
    assert found.shape == (batch, TINY.classes, -(-height // 4), -(-width // 4))
    # Two orders of the same sums: 200 epsilons of the largest logit.
    tolerance = 200 * torch.finfo(torch.float32).eps * expected.abs().max()
    assert (found - expected).abs().max() <= tolerance


def test_each_layer_norm_has_its_own_epsilon() -> None:
    model = Segformer(replace(TINY, block_eps=1e-6, embed_eps=1e-4))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            embedding = "patch_embeddings" in name or "attention.self" in name
            assert module.eps == (1e-4 if embedding else 1e-6), name


def test_stage_activation_is_a_relu_before_the_upsampling() -> None:
    plain = random_segformer(TINY, 3).decode_head
    head = random_segformer(replace(TINY, stage_activation=True), 3).decode_head
    head.load_state_dict(plain.state_dict())
    stages = [torch.randn(1, w, 32 >> i, 24 >> i) for i, w in enumerate(TINY.widths)]
    with torch.no_grad():
        found = head.upsampled(stages)[:, : TINY.head_channels]
        projected = functional.conv2d(
            stages[3],
            plain.linear_c[3].proj.weight[:, :, None, None],
            plain.linear_c[3].proj.bias,
        )
        expected = functional.interpolate(projected.relu(), (32, 24), mode="bilinear")
        assert not torch.allclose(plain.upsampled(stages)[:, : TINY.head_channels], expected)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("classes", [2, 19])
def test_random_weights_give_masks_that_vary(classes: int) -> None:
    model = random_segformer(config_for("b0", classes), seed=1)
    coarse = torch.randn(1, 3, 10, 12, generator=torch.Generator().manual_seed(5))
    image = functional.interpolate(coarse, (120, 160), mode="bilinear")
    with torch.no_grad():
        mask = model(image).argmax(dim=1)
    shares = torch.bincount(mask.flatten(), minlength=classes) / mask.numel()
    assert shares.max() < 0.95
    assert (shares > 0.01).sum() >= 2


def test_random_weights_follow_the_seed() -> None:
    first, same, other = (random_segformer(TINY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(
        first["decode_head.classifier.weight"], other["decode_head.classifier.weight"]
    )


def test_unknown_variants_and_odd_heads_are_refused() -> None:
    with pytest.raises(CheckpointError, match="b9"):
        config_for("b9", 19)
    with pytest.raises(CheckpointError, match="heads"):
        SegformerConfig((8, 15, 40, 64), (1, 1, 1, 1), 12)
    with pytest.raises(CheckpointError, match="at least 1"):
        replace(TINY, classes=0)
