"""Ranges to build with: a file, an earlier calibration, or a new one; and why it is that one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.calibrate.calibration import CalibrationOptions
from segformer_deploy.calibrate.frame_checks import FrameWarning
from segformer_deploy.calibrate.ranges import read_ranges
from segformer_deploy.errors import InputError
from segformer_deploy.graph.metadata import write_spec
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize, ResizeRule, Weights
from segformer_deploy.workflow import ranges as ranges_module
from segformer_deploy.workflow.choice import silent
from segformer_deploy.workflow.ranges import (
    RangesRequest,
    default_ranges_path,
    is_demo_model,
    ranges_for,
)
from tests.workflow.small import hurry, pictures, saved, small_model, small_spec

KEPT = Path("calibration") / "small.ranges.json"


class Place:
    """A folder with a model and four frames, in which ranges are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.onnx = saved(root / "small.onnx")
        self.frames = pictures(root / "frames", 4)
        self.said: list[str] = []

    def ranges(self, source: Path | None, **changes: Any) -> Any:
        self.said.clear()
        request = RangesRequest(source, **{"spec": small_spec(), **changes})
        return ranges_for(self.onnx, request, self.said.append, silent)

    def heard(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.said)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    return Place(tmp_path)


@pytest.fixture
def no_calibration(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, a calibration is a failure."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("calibrated again")

    return lambda: monkeypatch.setattr(ranges_module, "calibrate", refuse)


def edit(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


# ---- a new calibration -----------------------------------------------------------------------


def test_a_calibration_is_kept_where_the_next_one_looks(place: Place) -> None:
    found = place.ranges(place.frames)
    assert default_ranges_path(place.onnx) == KEPT
    assert read_ranges(KEPT) == found
    assert (len(found.frames), found.network, found.method) == (4, "64x96", "percentile")
    assert place.heard("ranges:", str(KEPT), "4 frames of", "percentile")


def test_warnings_of_the_frames_are_said_and_kept(place: Place) -> None:
    found = place.ranges(place.frames)
    assert any("4 frames to calibrate on; at least 32" in text for text in found.warnings)
    assert any("random noise" in text for text in found.warnings)
    assert read_ranges(KEPT).warnings == found.warnings
    assert [line for line in place.said if line.startswith("WARNING: ")] == [
        f"WARNING: {text}" for text in found.warnings
    ]


def test_a_second_run_gives_the_same_bytes(place: Place) -> None:
    place.ranges(place.frames)
    first = KEPT.read_bytes()
    KEPT.unlink()
    place.ranges(place.frames)
    assert KEPT.read_bytes() == first


def test_only_a_trained_network_is_asked_about_its_colours(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def swapped(run: Any, frames: list[Any]) -> FrameWarning:
        asked.append(len(frames))
        assert run(frames[0][None]).shape == (1, 7, 16, 24)
        return FrameWarning("swapped", "red and blue")

    monkeypatch.setattr(ranges_module, "channel_order_warning", swapped)
    assert "red and blue" not in place.ranges(place.frames).warnings
    model = small_model()
    write_spec(model, small_spec().with_(weights=Weights("someone", "MIT", "0" * 64)))
    saved(place.onnx, model)
    assert place.ranges(place.frames).warnings[-1] == "red and blue"
    assert place.heard("WARNING: red and blue")
    assert asked == [4]


# ---- an earlier one --------------------------------------------------------------------------


def test_an_earlier_one_is_used_where_all_matches(
    place: Place, no_calibration: Callable[[], None]
) -> None:
    first = place.ranges(place.frames)
    before = KEPT.read_bytes()
    no_calibration()
    assert place.ranges(place.frames) == first
    assert place.heard("found earlier from the same 4 frames")
    assert place.heard("WARNING:", "random noise")
    assert KEPT.read_bytes() == before


def test_the_same_frames_under_other_names_are_the_same(
    place: Place, no_calibration: Callable[[], None]
) -> None:
    first = place.ranges(place.frames)
    no_calibration()
    assert place.ranges(pictures(place.root / "copies", 4)) == first


def other_frames(place: Place) -> dict[str, Any]:
    return {"source": pictures(place.root / "others", 4, seed=9)}


def fewer_frames(place: Place) -> dict[str, Any]:
    return {"samples": 3}


def other_method(place: Place) -> dict[str, Any]:
    return {"options": CalibrationOptions("minmax")}


def other_percentile(place: Place) -> dict[str, Any]:
    return {"options": CalibrationOptions(percentile=99.9)}


def not_equalised(place: Place) -> dict[str, Any]:
    return {"options": CalibrationOptions(equalise=False)}


def other_size(place: Place) -> dict[str, Any]:
    rule = ResizeRule.stretch_to(FrameSize(96, 64))
    return {"spec": small_spec().with_(resize=rule)}


def other_graph(place: Place) -> dict[str, Any]:
    saved(place.onnx, small_model(seed=2))
    return {}


def other_version(place: Place) -> dict[str, Any]:
    edit(KEPT, tool="segdeploy 0.0.1")
    return {}


def broken_file(place: Place) -> dict[str, Any]:
    KEPT.write_text("{")
    return {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_frames, "other frames (4 from"),
        (fewer_frames, "other frames (4 from"),
        (other_method, "found by percentile, asked for is minmax"),
        (other_percentile, "hold 99.999 % of the values, asked for is 99.9 %"),
        (not_equalised, "another choice of equalisation"),
        (other_size, "other frames"),
        (other_graph, "another graph"),
        (other_version, "made by segdeploy 0.0.1"),
        (broken_file, "not JSON"),
    ],
)
def test_an_earlier_one_that_differs_is_not_used_and_why_is_said(
    place: Place, change: Callable[[Place], dict[str, Any]], reason: str
) -> None:
    place.ranges(place.frames)
    asked = {"source": place.frames, **change(place)}
    found = place.ranges(**asked)
    assert place.heard(f"{KEPT} is not used: ", reason)
    assert read_ranges(KEPT) == found
    # The new one is what was asked for: the next time it is used.
    place.ranges(**asked)
    assert place.heard("found earlier")


def test_an_earlier_one_without_a_norm_to_equalise_is_used_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segformer_deploy.calibrate.calibration.even_scales", lambda *_: {})
    place.ranges(place.frames)
    place.ranges(place.frames)
    assert place.heard("found earlier")


# ---- a file ----------------------------------------------------------------------------------


def test_a_file_of_this_graph_is_used_as_it_is(
    place: Place, no_calibration: Callable[[], None]
) -> None:
    found = place.ranges(place.frames, options=CalibrationOptions("minmax"))
    file = KEPT.rename(place.root / "R.json")
    no_calibration()
    assert place.ranges(file) == found
    assert not KEPT.exists()


@pytest.mark.parametrize(
    ("change", "reason"), [(other_graph, "another graph"), (other_version, "segdeploy 0.0.1")]
)
def test_a_file_of_another_graph_or_version_is_refused(
    place: Place, change: Callable[[Place], dict[str, Any]], reason: str
) -> None:
    place.ranges(place.frames)
    change(place)
    with pytest.raises(InputError, match=reason) as caught:
        place.ranges(KEPT)
    assert str(KEPT) in caught.value.found
    assert "segdeploy calibrate" in caught.value.next_step


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 9}'])
def test_a_file_of_something_else_is_refused(place: Place, content: str) -> None:
    file = place.root / "R.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"R\.json"):
        place.ranges(file)
    with pytest.raises(InputError, match="cannot be read"):
        place.ranges(place.root / "none.json")


# ---- nothing named ---------------------------------------------------------------------------


def test_without_frames_a_foreign_model_is_refused(place: Place) -> None:
    with pytest.raises(InputError, match="no frames were named") as caught:
        place.ranges(None)
    assert "--calibration" in caught.value.next_step
    assert not KEPT.exists()


def test_without_frames_an_earlier_one_of_this_graph_is_used(place: Place) -> None:
    found = place.ranges(place.frames)
    assert place.ranges(None) == found
    assert place.heard("ranges:", str(KEPT), "4 frames of")
    saved(place.onnx, small_model(seed=2))
    with pytest.raises(InputError, match="no frames were named"):
        place.ranges(None)
    assert place.heard(f"{KEPT} is not used: ", "another graph")


def test_warnings_are_said_however_ranges_are_used_again(place: Place) -> None:
    place.ranges(place.frames)
    place.ranges(None)
    assert place.heard("WARNING:", "random noise")


def test_the_demo_model_takes_streets(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges_module, "is_demo_model", lambda *_: True)
    found = place.ranges(None, samples=2)
    assert len(found.frames) == 2
    assert "street" in found.origin
    assert place.heard("no frames were named", "demo model", found.origin)


def test_the_demo_model_is_known_by_its_weights(place: Place) -> None:
    assert not is_demo_model(place.onnx, small_spec())
    other = small_spec().with_(weights=Weights("someone", "MIT", "0" * 64))
    assert not is_demo_model(place.onnx, other)
    shipped = shipped_file(ONNX_FILE)
    if shipped is not None:
        from segformer_deploy.engine.onnx_file import spec_from_onnx

        assert is_demo_model(place.onnx, spec_from_onnx(shipped))
