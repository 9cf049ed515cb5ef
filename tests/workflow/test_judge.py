"""A graph held against FP32: the verdict is NumPy's, and the graph runs as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.bench.labels import Label
from segformer_deploy.calibrate.frames import StreetFrames
from segformer_deploy.errors import MediaError, VerificationError
from segformer_deploy.spec import FrameSize, ResizeRule, default_palette
from segformer_deploy.streets import CLASS_NAMES
from segformer_deploy.workflow import judge as judge_module
from segformer_deploy.workflow.judge import (
    Judge,
    JudgedFrame,
    JudgedFrames,
    Verdict,
    as_written,
    judged_from_folders,
    judged_from_frames,
)
from tests.calibrate.given_frames import some_frames
from tests.graph.lively import session
from tests.little import BIAS, WEIGHT, little_model, little_spec
from tests.model.tiny import random_frames
from tests.workflow.small import ious_by_hand, map_by_hand, mean_by_hand

Array = npt.NDArray[Any]
OTHER = (WEIGHT + np.random.default_rng(5).normal(0, 0.05, WEIGHT.shape)).astype(np.float32)
SIZES = [FrameSize(64, 96), FrameSize(100, 130), FrameSize(33, 41)]


def network_frames() -> Array:
    return random_frames(len(SIZES), 64, 96, seed=2)


def labels() -> list[Array]:
    """Per frame, class indices with void as 255."""
    rng = np.random.default_rng(3)
    return [rng.choice([0, 1, 2, 255], (size.height, size.width)) for size in SIZES]


def judged(*, labelled: bool = True) -> JudgedFrames:
    def make() -> Iterator[JudgedFrame]:
        for index, (image, size) in enumerate(zip(network_frames(), SIZES, strict=True)):
            known = labels()[index] != 255
            label = Label(np.where(known, labels()[index], 0).astype(np.int64), known)
            yield JudgedFrame(f"frame {index}", image, size, label if labelled else None)

    return JudgedFrames("a test", labelled, len(SIZES), make)


def logits_by_hand(image: Array, weight: Array) -> Array:
    means = image.reshape(16, 4, 24, 4, 3).astype(np.float64).mean((1, 3))
    return np.moveaxis(means @ weight.astype(np.float64).T + BIAS, 2, 0)


def maps_by_hand(weight: Array) -> list[Array]:
    return [
        map_by_hand(logits_by_hand(image, weight), size)
        for image, size in zip(network_frames(), SIZES, strict=True)
    ]


# ---- the verdict -----------------------------------------------------------------------------


def test_agreement_miou_and_error_are_those_of_numpy() -> None:
    verdict = Judge(little_model(), judged())(little_model(weight=OTHER))
    before, after = maps_by_hand(WEIGHT), maps_by_hand(OTHER)
    pixels = sum(size.pixels for size in SIZES)
    same = sum(int((a == b).sum()) for a, b in zip(before, after, strict=True))
    assert 50 < 100 * same / pixels < 99
    # A tie in float32 may fall the other way.
    assert verdict.agreement == pytest.approx(100 * same / pixels, abs=100 * 3 / pixels)
    ious = [mean_by_hand(ious_by_hand(maps, labels(), 3)) for maps in (before, after)]
    assert verdict.miou_fp32 == pytest.approx(ious[0], abs=0.05)
    assert verdict.miou == pytest.approx(ious[1], abs=0.05)
    assert verdict.drop == pytest.approx(ious[0] - ious[1], abs=0.05)
    exact = np.stack([logits_by_hand(image, WEIGHT) for image in network_frames()])
    other = np.stack([logits_by_hand(image, OTHER) for image in network_frames()])
    error = np.sqrt(((other - exact) ** 2).sum() / (exact**2).sum())
    assert verdict.logit_error == pytest.approx(error, rel=1e-4)


def test_the_same_graph_agrees_wholly() -> None:
    steps: list[int] = []
    verdict = Judge(little_model(), judged(), steps.append)(little_model())
    assert (verdict.agreement, verdict.logit_error, verdict.drop) == (100.0, 0.0, 0.0)
    assert verdict.miou == verdict.miou_fp32
    assert steps == [1, 2, 3, 1, 2, 3]


def test_without_labels_there_is_no_miou() -> None:
    verdict = Judge(little_model(), judged(labelled=False))(little_model(weight=OTHER))
    assert (verdict.miou, verdict.miou_fp32, verdict.drop) == (None, None, None)
    assert verdict.agreement < 100
    assert verdict.to_dict() == {
        "agreement": verdict.agreement,
        "miou": None,
        "miou_fp32": None,
        "drop": None,
        "logit_error": verdict.logit_error,
    }


def test_a_rise_is_a_drop_below_0() -> None:
    assert Verdict(99, 61.5, 60.0, 0).drop == pytest.approx(-1.5)


def test_only_so_many_logits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "_KEEP_LOGITS_BYTES", 2 * 3 * 16 * 24 * 4)
    verdict = Judge(little_model(), judged())(little_model(weight=OTHER))
    exact = np.stack([logits_by_hand(image, WEIGHT) for image in network_frames()[:2]])
    other = np.stack([logits_by_hand(image, OTHER) for image in network_frames()[:2]])
    error = np.sqrt(((other - exact) ** 2).sum() / (exact**2).sum())
    assert verdict.logit_error == pytest.approx(error, rel=1e-4)


# ---- what no verdict is given on -------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_with_the_frame(bad: float) -> None:
    weight = WEIGHT.copy()
    weight[1, 1] = bad
    with pytest.raises(VerificationError, match=r"384 of 1152 logits are NaN .* on frame 0"):
        Judge(little_model(), judged())(little_model(weight=weight))


def test_one_class_everywhere_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"one class everywhere \(green\)") as caught:
        Judge(little_model(), judged())(little_model(weight=0 * WEIGHT))
    assert caught.value.expected.startswith("3 classes")


def test_one_class_where_fp32_has_no_other_is_not() -> None:
    flat = little_model(weight=0 * WEIGHT)
    assert Judge(flat, judged())(flat).agreement == 100


def test_frames_are_needed() -> None:
    with pytest.raises(MediaError, match="no frames to judge"):
        Judge(little_model(), JudgedFrames("nowhere", False, 0, lambda: iter(())))


# ---- where frames come from ------------------------------------------------------------------


def test_streets_bring_labels_to_a_model_of_their_classes() -> None:
    spec = little_spec(class_names=CLASS_NAMES, palette=default_palette(len(CLASS_NAMES)))
    streets = judged_from_frames(StreetFrames(2, spec.resize), spec)
    assert streets.labelled
    frames = list(streets)
    assert len(frames) == len(streets) == 2
    for frame in frames:
        assert frame.label is not None
        assert frame.label.size == frame.size
        assert frame.label.valid.all()
        assert frame.image.shape == (64, 96, 3)
    other = judged_from_frames(StreetFrames(1, spec.resize), little_spec())
    assert not other.labelled
    assert [frame.label for frame in other] == [None]


def test_pictures_alone_bring_none() -> None:
    found = judged_from_frames(some_frames(2), little_spec())
    assert (found.labelled, found.origin, len(found)) == (False, "a test", 2)
    assert [frame.name for frame in found] == ["frame 0", "frame 1"]


def test_folders_are_paired_evenly_and_can_be_gone_through_again(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(9):
        frame = np.full((40, 60, 3), 10 * index, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"f{index}.png"), frame)
        # Half the size, void in the upper half.
        label = np.full((20, 30), index % 3, np.uint8)
        label[:10] = 255
        cv2.imwrite(str(tmp_path / "labels" / f"f{index}.png"), label)
    spec = little_spec(resize=ResizeRule.stretch_to(FrameSize(64, 96)))
    found = judged_from_folders(tmp_path / "images", tmp_path / "labels", spec, 3)
    assert (found.labelled, len(found), found.origin) == (True, 3, str(tmp_path / "images"))
    for _ in range(2):
        frames = list(found)
        assert [frame.name for frame in frames] == ["f0.png", "f4.png", "f8.png"]
        for frame, index in zip(frames, (0, 4, 8), strict=True):
            assert frame.image.shape == (64, 96, 3)
            assert (frame.image == 10 * index).all()
            assert frame.size == FrameSize(40, 60)
            assert frame.label is not None
            assert frame.label.size == frame.size
            assert not frame.label.valid[:20].any()
            assert frame.label.valid[20:].all()
            assert (frame.label.classes[20:] == index % 3).all()
    assert len(judged_from_folders(tmp_path / "images", tmp_path / "labels", spec)) == 9


# ---- graphs run as they are written ----------------------------------------------------------


def with_nodes(nodes: list[onnx.NodeProto], **constants: Array) -> onnx.ModelProto:
    """The little network with `nodes` between ``mean`` and the convolution, which reads ``x``."""
    model = little_model()
    before, conv = list(model.graph.node[:3]), model.graph.node[3]
    last = onnx.NodeProto()
    last.CopyFrom(conv)
    last.input[0] = "x"
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in before]
    del model.graph.node[:]
    model.graph.node.extend([*kept, *nodes, last])
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    return model


def means_of(image: Array) -> npt.NDArray[np.float32]:
    means = image.reshape(16, 4, 24, 4, 3).astype(np.float64).mean((1, 3))
    return np.moveaxis(means, 2, 0).astype(np.float32)


def test_fp16_is_really_rounded() -> None:
    # From 1024 on FP16 holds whole numbers only, from 2048 on even ones.
    model = with_nodes(
        [
            helper.make_node("Cast", ["mean"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Add", ["half", "much"], ["sum"]),
            helper.make_node("Sub", ["sum", "much"], ["rest"]),
            helper.make_node("Cast", ["rest"], ["x"], to=TensorProto.FLOAT),
        ],
        much=np.array(2048, np.float16),
    )
    image = random_frames(1, 64, 96)[0]
    much = np.float16(2048)
    expected = ((means_of(image).astype(np.float16) + much) - much).astype(np.float32)
    assert (expected % 2 == 0).all()
    found = as_written(model)(image)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected + BIAS[:, None, None])
    # What it is there for: a CPU's own FP16 is none.
    plain = session(model).run(None, {"image": image[None]})[0][0]
    assert np.abs(plain - expected - BIAS[:, None, None]).max() > 0.4


def test_q_and_dq_are_carried_out_one_by_one() -> None:
    grid = ["mean.scale", "mean.zero"]
    model = with_nodes(
        [
            helper.make_node("QuantizeLinear", ["mean", *grid], ["steps"]),
            helper.make_node("DequantizeLinear", ["steps", *grid], ["x"]),
            helper.make_node(
                "DequantizeLinear", ["w8", "w.scale", "w.zero"], ["w.dequantized"], axis=0
            ),
        ],
        **{
            "mean.scale": np.array(0.75, np.float32),
            "mean.zero": np.array(128, np.uint8),
            # Sums of two products of the grid's ends saturate 16 bits.
            "w8": np.full((3, 3, 1, 1), 127, np.int8),
            "w.scale": np.array([1, 0.5, 2], np.float32),
            "w.zero": np.zeros(3, np.int8),
        },
    )
    model.graph.node[-1].input[1] = "w.dequantized"
    image = random_frames(1, 64, 96)[0]
    image[:8] = 255
    steps = np.clip(np.rint(means_of(image).astype(np.float64) / 0.75) + 128, 0, 255) - 128
    assert steps.max() == 127
    total = 127 * 0.75 * steps.sum(0)
    expected = total * np.array([1, 0.5, 2])[:, None, None] + BIAS[:, None, None]
    np.testing.assert_allclose(as_written(model)(image), expected, rtol=1e-6)
