"""The plan that fits a budget: chosen by what a process really took, exact, and said when none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from segformer_deploy import Segmenter
from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx
from segformer_deploy.engine.ort import LEAN_KEY, OrtEngine, OrtOptions
from segformer_deploy.errors import BuildError, OnnxFileError, RunError, SpecError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.chunk_fixed_size import fix_size
from segformer_deploy.graph.live_set import live_set
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow import memory
from segformer_deploy.workflow.memory import MIB, lean_graph, least_graph
from segformer_deploy.workflow.memory_trial import Peak, measure_peak
from tests.graph.lively import lively_model, logits_of
from tests.model.tiny import random_frames
from tests.workflow.small import SIZE, saved

SMALL_CUTS = ((16_000, 8_000), (8_000, 4_000))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path / "m.onnx")


class Scale:
    """Stands in for `measure_peak`: a peak per way of holding values, and what it was asked."""

    def __init__(self, patch: pytest.MonkeyPatch, **peaks: float) -> None:
        self.peaks, self.asked = peaks, []  # type: dict[str, float], list[str]
        patch.setattr(memory, "measure_peak", self)
        patch.setattr(memory, "CUTS", SMALL_CUTS)

    def __call__(self, path: Path, size: FrameSize, backend: str, runs: int = 4) -> Peak:
        mode = read_onnx_header(path).metadata.get(LEAN_KEY, "usual")
        if runs:
            self.asked.append(mode)
        return Peak(self.peaks.get("loaded", 0.0), self.peaks[mode], (1.0,) * runs)


def test_what_fits_is_left_as_it_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = Scale(monkeypatch, usual=95.4)
    plan = lean_graph(source, tmp_path / "out.onnx", SIZE, 100 * MIB)
    assert (plan.mode, plan.cut, plan.size, plan.exact) == ("usual", None, None, "bits")
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()
    assert scale.asked == ["usual"]


def test_the_fastest_that_fits_is_taken(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = Scale(monkeypatch, usual=200, block=150, least=90)
    lean_graph(source, tmp_path / "block.onnx", SIZE, 160 * MIB)
    assert scale.asked == ["usual", "block"]
    said: list[str] = []
    plan = lean_graph(source, tmp_path / "least.onnx", SIZE, 100 * MIB, say=said.append)
    assert scale.asked[2:] == ["usual", "block", "block", "least"]
    assert (plan.mode, plan.cut, plan.size) == ("least", SMALL_CUTS[0], SIZE)
    assert read_onnx_header(tmp_path / "least.onnx").metadata[LEAN_KEY] == "least"
    assert "90.0 MiB measured" in plan.note()
    assert "64x96 and no other" in plan.note()
    assert len(said) == 4


def test_what_cannot_fit_is_not_tried(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = Scale(monkeypatch, usual=200, block=80, least=80, loaded=120)
    with pytest.raises(BuildError, match=r"80\.0 MiB at least") as caught:
        lean_graph(source, tmp_path / "out.onnx", SIZE, 100 * MIB)
    assert "--max-memory 85M" in caught.value.next_step
    assert "100 MiB" in caught.value.expected
    assert scale.asked == ["usual", "least"]  # the second only to say what would do
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("size", [SIZE, FrameSize(97, 133)], ids=str)
def test_the_logits_are_the_graph_s(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: FrameSize
) -> None:
    Scale(monkeypatch, usual=200, block=200, least=90)
    out = tmp_path / "out.onnx"
    plan = lean_graph(source, out, size, 100 * MIB)
    frames = random_frames(1, size.height, size.width, seed=5)
    expected = logits_of(onnx.load(source), frames)
    with_ours = OrtEngine(out, OrtOptions(threads=1)).session()
    found = with_ours.run({"image": frames})["logits"]
    assert plan.exact == ("bits" if size == SIZE else "algebra")
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())
    if size == SIZE:
        np.testing.assert_array_equal(found, expected)
    again = with_ours.run({"image": frames})["logits"]  # a buffer of its own
    assert not np.may_share_memory(found, again)
    np.testing.assert_array_equal(found, again)


def test_the_least_graph_is_the_last_plan(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scale(monkeypatch, usual=200, block=200, least=90)
    plain, out = onnx.load(source), tmp_path / "least.onnx"
    model = least_graph(plain, SIZE)
    onnx.save(model, out)
    assert read_onnx_header(out).metadata[LEAN_KEY] == "least"
    assert spec_from_onnx(out).resize.size == SIZE
    assert live_set(model).peak_bytes < live_set(fix_size(plain, SIZE)).peak_bytes
    frames = random_frames(1, SIZE.height, SIZE.width, seed=6)
    found = OrtEngine(out, OrtOptions(threads=1)).session().run({"image": frames})["logits"]
    np.testing.assert_array_equal(found, logits_of(plain, frames))


def test_frames_of_any_size_give_the_same_masks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scale(monkeypatch, usual=200, block=90, least=90)
    out = tmp_path / "out.onnx"
    lean_graph(source, out, SIZE, 100 * MIB)
    assert spec_from_onnx(out).resize.size == SIZE
    frame = random_frames(1, 75, 111, seed=2)[0]
    with Segmenter(source, backend="onnxruntime") as plain:
        expected = plain(frame)
    with Segmenter(out, backend="onnxruntime") as lean:
        np.testing.assert_array_equal(lean(frame), expected)


def test_native_is_only_measured(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = Scale(monkeypatch, usual=90)
    plan = lean_graph(source, tmp_path / "out.onnx", SIZE, 100 * MIB, backend="native")
    assert plan.cut is None
    with pytest.raises(BuildError, match="native") as caught:
        lean_graph(source, tmp_path / "none.onnx", SIZE, 50 * MIB, backend="native")
    assert "--backend" not in caught.value.next_step
    assert scale.asked == ["usual", "usual"]


def test_a_file_that_is_not_lean_keeps_its_options(source: Path) -> None:
    assert OrtEngine(source, OrtOptions(threads=1)).lean == ""


def test_a_real_process_is_measured(source: Path) -> None:
    peak = measure_peak(source, SIZE, "onnxruntime", runs=2)
    assert 20 < peak.loaded_mib <= peak.peak_mib < 400
    assert len(peak.ms) == 2
    assert min(peak.ms) > 0


def test_a_process_that_fails_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(RunError, match=r"trial run of broken\.onnx at 64x96") as caught:
        measure_peak(broken, SIZE, "onnxruntime", runs=1)
    assert "segdeploy bench" in caught.value.next_step


def test_other_graphs_and_budgets_are_refused(tmp_path: Path) -> None:
    maps = saved(tmp_path / "maps.onnx", append_class_map(lively_model()))
    with pytest.raises(OnnxFileError, match="class_map"):
        lean_graph(maps, tmp_path / "out.onnx", SIZE, 100 * MIB)
    with pytest.raises(SpecError, match="0 bytes"):
        lean_graph(maps, tmp_path / "out.onnx", SIZE, 0)
    with pytest.raises(SpecError, match="tensorrt"):
        lean_graph(maps, tmp_path / "out.onnx", SIZE, 1, backend="tensorrt")
