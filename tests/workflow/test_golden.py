"""Golden frames of a plan: whose class maps they are, and which a rebuilt folder takes along."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.manifest import read_manifest
from segformer_deploy.engine.package import check_folder
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import MissingDependencyError, VerificationError
from segformer_deploy.runtime.golden import MIN_AGREEMENT, golden_frame, read_picture
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.golden import carried_golden, refuse_nan
from segformer_deploy.workflow.sizes import AskedSizes
from tests.engine.test_plan_folder import Machine, flip, here
from tests.little import little_spec, write_little
from tests.workflow.small import SIZE

__all__ = ["here"]

NONE = ResizeRule("none", None)


def only(*texts: str) -> tuple[SizeRange, ...]:
    return tuple(SizeRange(s, s, s) for s in map(FrameSize.parse, texts))


@pytest.fixture
def old(tmp_path: Path, here: Machine) -> Path:
    """A folder whose model takes frames as they come, for 64x96."""
    onnx = write_little(tmp_path / "m.onnx", little_spec(resize=NONE))
    return here.build(onnx, tmp_path / "old", sizes=AskedSizes(profiles=only("64x96")))


def carried(old: Path, target: Path, *profiles: str, **changes: Any) -> Any:
    target.mkdir()
    spec = read_manifest(old).spec.with_(**changes)
    return carried_golden(old / "model.onnx", target, spec, only(*profiles))


def test_the_frames_and_their_maps_go_along(old: Path, tmp_path: Path) -> None:
    found, manifest = carried(old, tmp_path / "new", "64x96"), check_folder(old)
    assert found.names == manifest.golden
    assert found.by == manifest.verified
    assert str(old) in found.notes[0]
    for name in (name for pair in found.names for name in pair):
        assert (tmp_path / "new" / name).read_bytes() == (old / name).read_bytes()


def test_frames_that_the_new_plan_does_not_take_stay(old: Path, tmp_path: Path) -> None:
    assert carried(old, tmp_path / "new", "128x128", "64x64") is None
    assert list((tmp_path / "new").iterdir()) == []
    assert carried(old, tmp_path / "both", "128x128", "64x96") is not None


def test_frames_of_another_spec_stay(old: Path, tmp_path: Path) -> None:
    assert carried(old, tmp_path / "a", "64x96", resize=ResizeRule.stretch_to(SIZE)) is None
    assert carried(old, tmp_path / "b", "64x96", precision="fp16") is None


def test_a_graph_that_is_in_no_folder_brings_none(old: Path, tmp_path: Path) -> None:
    spec = check_folder(old).spec
    loose = tmp_path / "loose"
    for name in ("model.onnx", "other.onnx"):
        path = write_little(loose / name)
        assert carried_golden(path, tmp_path / "x", spec, only("64x96")) is None


def test_a_damaged_folder_brings_none(old: Path, tmp_path: Path) -> None:
    flip(old / "golden" / "1.class_map.png", 80)
    assert carried(old, tmp_path / "new", "64x96") is None


def test_another_size_from_the_folders_own_graph(old: Path, tmp_path: Path, here: Machine) -> None:
    sizes = AskedSizes(profiles=only("128x160"))
    new = here.build(old / "model.onnx", tmp_path / "new", sizes=sizes)
    manifest = check_folder(new)
    assert read_picture(new / manifest.golden[0][0]).shape == (128, 160, 3)
    Segmenter(new).close()


def test_without_a_gpu_that_folder_loads_later_too(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = Machine(monkeypatch, "1.7.1", None)
    first = rtx.build(old / "model.onnx", tmp_path / "a", sizes=AskedSizes(profiles=only("64x96")))
    other = AskedSizes(profiles=only("128x160"))
    second = rtx.build(first / "model.onnx", tmp_path / "b", sizes=other)
    rtx.gpu("8.9")
    for folder in (first, second):
        with Segmenter(folder) as segment:
            assert segment.first_load_agreement == 1.0


def test_a_cpus_engine_makes_its_own(old: Path, tmp_path: Path) -> None:
    options = BuildOptions("onnxruntime", output=tmp_path / "cpu")
    manifest = build_engine(old / "model.onnx", options).manifest
    assert not [note for note in manifest.notes if str(old) in note]
    assert manifest.plan is None


def test_the_maps_are_a_cpus_and_a_note_says_whose(old: Path, tmp_path: Path) -> None:
    manifest = check_folder(old)
    (note,) = [note for note in manifest.notes if "golden frames' class maps are from" in note]
    assert "onnxruntime" in note
    assert manifest.verified.startswith("TensorRT 10.3.0")
    with Segmenter(tmp_path / "m.onnx", backend="onnxruntime") as segment:
        for index, (frame, class_map) in enumerate(manifest.golden):
            picture = golden_frame(FrameSize(64, 96), seed=index)
            np.testing.assert_array_equal(read_picture(old / frame), picture)
            np.testing.assert_array_equal(read_picture(old / class_map), segment(picture))


def test_a_plan_is_held_to_its_precisions_agreement(old: Path) -> None:
    assert check_folder(old).min_agreement == MIN_AGREEMENT["fp32"]


def test_golden_frames_need_some_engine(
    tmp_path: Path, here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that came from nowhere, on a machine whose only engine is TensorRT."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    onnx = write_little(tmp_path / "m.onnx")  # no SegFormer: not native's either
    with pytest.raises(MissingDependencyError, match="onnxruntime"):
        here.build(onnx, tmp_path / "e")
    assert not (tmp_path / "e").exists()


class _Answers:
    """An engine whose every answer is `logits`."""

    name = "a liar"

    def __init__(self, logits: Any) -> None:
        self.logits, self.closed = logits, 0

    def session(self) -> Any:
        return self

    def run(self, _: Any) -> dict[str, Any]:
        return {"logits": self.logits}

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_one_logit_that_is_no_number_is_refused(bad: float, dtype: Any) -> None:
    logits = np.zeros((1, 3, 16, 24), dtype)
    frame = golden_frame(FrameSize(64, 96), seed=0)
    engine: Any = _Answers(logits)
    refuse_nan(engine, little_spec(), frame)
    logits[0, 2, 15, 23] = bad
    with pytest.raises(VerificationError, match="1 of 1152 logits of a liar are NaN or infinite"):
        refuse_nan(engine, little_spec(), frame)
    assert engine.closed == 2
    refuse_nan(engine, little_spec(output="class_map"), frame)
