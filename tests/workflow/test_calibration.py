"""`segdeploy calibrate`: ranges into a file, the blocks' ranking and its chart on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from segformer_deploy.calibrate.calibration import CalibrationOptions
from segformer_deploy.calibrate.ranges import read_ranges
from segformer_deploy.errors import InputError
from segformer_deploy.graph.insert_qdq import Recipe
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow import precision as precision_module
from segformer_deploy.workflow.calibration import (
    CalibrationRequest,
    CalibrationResult,
    run_calibration,
)
from segformer_deploy.workflow.choice import silent
from segformer_deploy.workflow.sensitivity import blocks_of
from tests.workflow.small import hurry, label_pictures, pictures, saved, small_model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    saved(tmp_path / "small.onnx")
    pictures(tmp_path / "frames", 4)
    return tmp_path


def calibrated(place: Path, **changes: Any) -> CalibrationResult:
    fields: dict[str, Any] = {
        "onnx": place / "small.onnx",
        "images": place / "frames",
        "samples": 200,
        "options": CalibrationOptions(),
        **changes,
    }
    return run_calibration(CalibrationRequest(**fields), lambda _: None, silent)


def test_the_file_lies_where_build_engine_looks(place: Path) -> None:
    result = calibrated(place)
    assert result.path == Path("calibration/small.ranges.json")
    assert read_ranges(result.path) == result.ranges
    assert (result.ranking, result.chart) == ((), None)
    data = json.loads(json.dumps(result.to_dict()))
    assert (data["frames"], data["network"], data["method"]) == (4, "64x96", "percentile")
    assert data["warnings"] == list(result.ranges.warnings)
    assert data["warnings"]


def test_output_and_size_are_the_callers(place: Path) -> None:
    result = calibrated(place, output=place / "deep" / "R.json", opt=FrameSize(96, 64))
    assert read_ranges(place / "deep" / "R.json").network == "96x64"
    assert result.path == place / "deep" / "R.json"
    assert not (place / "calibration").exists()


def test_it_calibrates_again_each_time(place: Path) -> None:
    first = calibrated(place).path.read_bytes()
    Path("calibration/small.ranges.json").write_text("spoilt")
    assert calibrated(place).path.read_bytes() == first


def test_sensitivity_ranks_every_block_and_draws(place: Path) -> None:
    result = calibrated(place, sensitivity=True)
    assert {one.block for one in result.ranking} == set(blocks_of(small_model(), Recipe()))
    errors = [one.logit_error for one in result.ranking]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0
    assert result.chart == Path("calibration/small.sensitivity.png")
    assert cv2.imread(str(result.chart)) is not None
    assert result.to_dict()["sensitivity"][0] == result.ranking[0].to_dict()


def judged_names(
    place: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[list[str], bool]:
    """The frames that blocks were ranked on, and whether they had labels."""
    seen: list[Any] = []

    def rank(_make: Any, _blocks: Any, judge: Any, _advance: Any) -> tuple[Any, ...]:
        seen.append(judge.frames)
        return ()

    monkeypatch.setattr(precision_module, "rank_blocks", rank)
    calibrated(place, sensitivity=True, **changes)
    (frames,) = seen
    return [frame.name for frame in frames], frames.labelled


def test_blocks_are_ranked_on_frames_that_are_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judged_names(place, monkeypatch, samples=2) == (["f01.png", "f02.png"], False)
    # Where none is left, on the calibration's own: a ranking is no verdict.
    names, _ = judged_names(place, monkeypatch)
    assert names == ["f00.png", "f01.png", "f02.png", "f03.png"]


def test_blocks_are_ranked_on_the_gates_frames(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = pictures(place / "gate", 2, seed=5)
    assert judged_names(place, monkeypatch, gate=(gate, None)) == (["f00.png", "f01.png"], False)
    labels = label_pictures(place / "labels", 2)
    assert judged_names(place, monkeypatch, gate=(gate, labels)) == (["f00.png", "f01.png"], True)


def test_a_foreign_model_needs_frames(place: Path) -> None:
    with pytest.raises(InputError, match="no frames were named"):
        calibrated(place, images=None)
    assert not (place / "calibration").exists()
