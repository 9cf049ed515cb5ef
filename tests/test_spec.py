"""The dataclasses that cross borders: they survive JSON, and refuse what cannot be right."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.spec import (
    FrameSize,
    ModelSpec,
    ResizeRule,
    Weights,
    default_class_names,
    default_palette,
)


def spec(**changes: object) -> ModelSpec:
    plain = ModelSpec("b0", ("road", "sky"), ((1, 2, 3), (4, 5, 6)))
    return replace(plain, **changes)  # type: ignore[arg-type]


sizes = st.builds(FrameSize, st.integers(64, 4096), st.integers(64, 4096))
filters = st.sampled_from(["pillow-bilinear", "pillow-bicubic", "opencv-bilinear"])
rules = st.one_of(
    st.builds(ResizeRule.stretch_to, sizes, filters),
    st.builds(
        lambda short, long, how: ResizeRule("short_side", None, short, long, how),
        st.integers(64, 1024),
        st.none() | st.integers(64, 4096),
        filters,
    ),
    st.just(ResizeRule("none", None)),
)
specs = st.builds(
    lambda n, rule, labels, weights, mean: ModelSpec(
        "b3",
        default_class_names(n),
        default_palette(n),
        mean=mean,
        resize=rule,
        label_map=labels,
        weights=weights,
    ),
    st.integers(1, 300),
    rules,
    st.none() | st.dictionaries(st.integers(0, 65535), st.integers(0, 255), min_size=1),
    st.builds(Weights, st.text(min_size=1), st.text(), st.text()),
    st.tuples(*[st.floats(0, 1, allow_nan=False)] * 3),
)


@given(specs)
def test_a_spec_survives_json(one: ModelSpec) -> None:
    assert ModelSpec.from_json(one.to_json()) == one


def test_random_weights_are_marked_in_the_json() -> None:
    assert json.loads(spec().to_json())["weights"] == "random"
    assert spec().weights.random
    trained = spec(weights=Weights("folder", "Apache-2.0", "00"))
    assert json.loads(trained.to_json())["weights"]["licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ()},
        {"palette": ((0, 0, 0),)},
        {"palette": ((0, 0, 0), (0, 0, 256))},
        {"std": (1.0, 1.0, 0.0)},
        {"precision": "fp8"},
        {"output": "mask"},
    ],
)
def test_a_wrong_spec_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        spec(**change)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 99}', "not json", '{"format": 1, "x": 2}']
)
def test_json_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)


@given(specs, st.data())
def test_a_spec_with_any_one_field_missing_is_refused(one: ModelSpec, data: st.DataObject) -> None:
    fields = one.to_dict()
    del fields[data.draw(st.sampled_from(sorted(fields)))]
    with pytest.raises(SpecError):
        ModelSpec.from_dict(fields)


def test_sizes_read_height_first() -> None:
    assert FrameSize.parse("512x1024") == FrameSize(512, 1024)
    assert FrameSize.parse(" 640 ") == FrameSize(640, 640)
    assert str(FrameSize(3, 5)) == "3x5"


@pytest.mark.parametrize("text", ["", "x", "512x", "0x5", "-1x4", "1.5x2", "512*512"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        FrameSize.parse(text)


def test_short_side_rule_as_mmsegmentation_computes_it() -> None:
    rule = ResizeRule("short_side", None, 512, 2048)
    # 480x640 -> scale 512/480; 682.67 rounds to 683
    assert rule.network_size(FrameSize(480, 640)) == FrameSize(512, 683)
    # a panorama is limited by its long side: scale 2048/4000
    assert rule.network_size(FrameSize(500, 4000)) == FrameSize(256, 2048)


@given(rules, st.builds(FrameSize, st.integers(1, 5000), st.integers(1, 5000)))
def test_no_rule_lets_a_too_small_size_pass(rule: ResizeRule, frame: FrameSize) -> None:
    try:
        size = rule.network_size(frame)
    except (FrameError, SpecError):
        return
    assert min(size.height, size.width) >= 64


def test_palette_of_any_length_has_no_repeats() -> None:
    palette = default_palette(255)
    assert len(set(palette)) == 255
    assert palette[:3] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))  # PASCAL VOC's first three
