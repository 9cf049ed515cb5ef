"""Who calibrates does not judge; who was named judges; and nobody is named: said, or refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from segformer_deploy.calibrate.frames import frames_from_source
from segformer_deploy.errors import InputError
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule
from segformer_deploy.workflow.frame_choice import RANKING_FRAMES, FrameChoice
from tests.little import little_model, little_spec

SPEC = little_spec(resize=ResizeRule.stretch_to(FrameSize(64, 64)))


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for index in range(count):
        picture = random.integers(0, 256, (64, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


def choice(
    tmp_path: Path, source: Path | None, wanted: int = 200, gate: Path | None = None, **more: object
) -> FrameChoice:
    model = tmp_path / "little.onnx"
    onnx.save(little_model(SPEC), model)
    named = None if gate is None else (gate, None)
    spec = more.get("spec", SPEC)
    assert isinstance(spec, ModelSpec)
    return FrameChoice(model, spec, source, wanted, named, bool(more.get("needed", True)))


@pytest.mark.parametrize(("count", "wanted"), [(4, 200), (9, 200), (40, 10), (40, 200)])
def test_judges_never_calibrated(tmp_path: Path, count: int, wanted: int) -> None:
    source = pictures(tmp_path / "frames", count)
    chosen = choice(tmp_path, source, wanted)
    calibrating = {f.name for f in frames_from_source(source, SPEC.resize, chosen.samples)}
    judging = {frame.name for frame in chosen.judging()}
    assert calibrating
    assert judging
    assert not calibrating & judging
    assert len(calibrating) <= wanted


def test_the_named_frames_judge_and_all_others_may_calibrate(tmp_path: Path) -> None:
    gate = pictures(tmp_path / "gate", 3, seed=1)
    chosen = choice(tmp_path, pictures(tmp_path / "frames", 8), gate=gate)
    assert chosen.samples == 200
    assert [frame.name for frame in chosen.judging()] == ["0.png", "1.png", "2.png"]
    assert chosen.judging().origin == str(gate)


def test_one_picture_alone_cannot_do_both(tmp_path: Path) -> None:
    chosen = choice(tmp_path, pictures(tmp_path / "frames", 1))
    with pytest.raises(InputError, match="takes every frame"):
        chosen.judging()


def test_without_any_frames_int8_of_a_foreign_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames were named") as caught:
        choice(tmp_path, None).judging()
    assert "--calibration FOLDER" in caught.value.next_step
    streets = choice(tmp_path, None, needed=False).judging(limit=2)
    assert "generated streets" in streets.origin


def test_a_ranges_file_holds_no_frames(tmp_path: Path) -> None:
    chosen = choice(tmp_path, tmp_path / "x.ranges.json")
    assert chosen.frames_source is None
    assert chosen.samples == 200


def test_looking_for_overflow_on_streets_is_said_of_a_foreign_model(tmp_path: Path) -> None:
    said: list[str] = []
    choice(tmp_path, None).looked_at(said.append)
    assert "generated streets" in said[0]
    source = pictures(tmp_path / "frames", 3)
    said.clear()
    assert len(choice(tmp_path, source).looked_at(said.append)) == 3
    assert not said


def test_ranking_takes_a_few_even_where_calibration_leaves_none(tmp_path: Path) -> None:
    few = choice(tmp_path, pictures(tmp_path / "few", 3), wanted=3).ranking()
    assert len(few) == 3
    many = choice(tmp_path, pictures(tmp_path / "many", 40), wanted=10).ranking()
    assert len(many) == RANKING_FRAMES


def test_the_demo_model_has_streets_to_judge_on() -> None:
    path = shipped_file(ONNX_FILE)
    assert path is not None
    from segformer_deploy.engine.onnx_file import spec_from_onnx

    frames = FrameChoice(path, spec_from_onnx(path), None, 200, None, True).judging(limit=2)
    assert frames.labelled
    assert len(frames) == 2
