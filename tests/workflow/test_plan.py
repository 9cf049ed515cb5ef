"""A folder with a plan: its facts, the check of its masks on a GPU, and what a failure leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.manifest import read_manifest
from segformer_deploy.engine.package import check_folder
from segformer_deploy.engine.plan_facts import NOT_VERIFIED, PlanFacts
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import (
    BackendError,
    BuildError,
    MissingDependencyError,
    VerificationError,
)
from segformer_deploy.runtime.golden import read_picture
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow import choose
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.plan import PlanRequest
from segformer_deploy.workflow.precision import PrecisionOptions
from segformer_deploy.workflow.rebuild import rebuild, rebuild_where_needed
from segformer_deploy.workflow.sizes import AskedSizes
from tests.engine.test_plan_folder import Machine, flip, frames, ort_maps
from tests.engine.trt import fake_runtime
from tests.engine.trt.graphs import int8_model
from tests.little import little_spec, write_little
from tests.workflow.small import ANYTHING, SIZE, hurry, pictures, saved

VERSIONS = ("10.3.0", "11.4.1")


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def plan_of(folder: Path) -> PlanFacts:
    plan = check_folder(folder).plan
    assert plan is not None
    return plan


def spoil(patch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Make the fake's GPU answer something else than the network does."""
    honest = fake_runtime.ICudaEngine.__dict__["session"]
    make = honest.func if isinstance(honest, cached_property) else honest.fget

    class Liar:
        def __init__(self, engine: Any) -> None:
            self.session = make(engine)

        def run(self, names: Any, feeds: Any) -> list[Any]:
            return [change(answer) for answer in self.session.run(names, feeds)]

    patch.setattr(fake_runtime.ICudaEngine, "session", property(Liar))


def other_classes(logits: Any) -> Any:
    return np.roll(logits, 1, axis=1)


def one_nan(logits: Any) -> Any:
    logits = logits.copy()
    logits[0, 0, 0, 0] = np.nan
    return logits


def one_class(logits: Any) -> Any:
    return np.zeros_like(logits)


# ---- what stands in the manifest -----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_for_tensorrt(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, onnx = Machine(monkeypatch, version), saved(tmp_path / "small.onnx")
    folder = machine.build(onnx, tmp_path / "engine")
    manifest = check_folder(folder)
    assert (manifest.backend, manifest.backend_version) == ("tensorrt", version)
    assert manifest.engine_files == ("model.plan",)
    assert manifest.verified == f"TensorRT {version} (fake device)"
    assert (manifest.requested, manifest.delivered) == ("fp32", "fp32")
    assert (folder / "model.onnx").read_bytes() == onnx.read_bytes()
    assert set(snapshot(folder)) == {*manifest.files, "manifest.json"}
    plan = plan_of(folder)
    assert (plan.runs_on, plan.version_compatible, plan.options) == (("8.7",), False, {})
    assert plan.profiles == (SizeRange(SIZE, SIZE, SIZE, 1),)
    assert manifest.sizes == plan.profiles[0]
    assert plan.layers == len(json.loads((folder / "layers.json").read_text())) > 0
    assert 0 < plan.seconds < manifest.build_seconds
    found = [read_picture(folder / class_map) for _, class_map in manifest.golden]
    golden = [read_picture(folder / frame) for frame, _ in manifest.golden]
    for one, other in zip(found, ort_maps(onnx, golden), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.unique(found[0])) > 1
    assert entries(tmp_path) == ["engine", "small.onnx"]
    assert machine.world.held == 0


def activations(batch: int, height: int, width: int) -> int:
    """By the fake builder's own rule."""
    return batch * height * width * 40 + 100


@pytest.mark.parametrize("batch", [1, 3])
def test_the_largest_profile_decides_the_memory(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = write_little(tmp_path / "m.onnx", little_spec(resize=ResizeRule("none", None)))
    small, large = FrameSize(64, 64), FrameSize(130, 90)
    sizes = AskedSizes(
        profiles=(SizeRange(small, small, small, batch), SizeRange(small, small, large, batch))
    )
    plan = plan_of(Machine(monkeypatch).build(onnx, tmp_path / "e", sizes=sizes))
    scratch = activations(batch, 130, 90)
    # A frame of bytes, and three float classes at a quarter of the size, rounded up.
    bindings = batch * (130 * 90 * 3 + 3 * 33 * 23 * 4)
    assert plan.activation_memory_bytes == scratch
    assert plan.peak_device_bytes == scratch + bindings
    assert plan.weights_memory_bytes > 0


def test_streams_cost_what_the_builder_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, onnx = Machine(monkeypatch), write_little(tmp_path / "m.onnx")
    none = plan_of(machine.build(onnx, tmp_path / "none"))
    two = plan_of(machine.build(onnx, tmp_path / "two", aux_streams=2))
    assert two.activation_memory_bytes - none.activation_memory_bytes == 2 * 8_192_000
    assert two.peak_device_bytes - none.peak_device_bytes == 2 * 8_192_000
    assert two.options == {"aux_streams": 2}


def test_every_option_reaches_the_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, onnx = Machine(monkeypatch), write_little(tmp_path / "m.onnx")
    machine.build(onnx, tmp_path / "plain")
    plain = machine.world.builds[-1]
    assert plain.flags.isdisjoint({"TF32", "REFIT", "VERSION_COMPATIBLE"})
    assert plain.strongly_typed
    assert (plain.aux_streams, plain.limits, plain.hardware) == (0, {}, "NONE")
    folder = machine.build(
        onnx,
        tmp_path / "all",
        hardware_compatible=True,
        version_compatible=True,
        refit=True,
        tf32=True,
        aux_streams=1,
        workspace=1 << 22,
        level=5,
    )
    build = machine.world.builds[-1]
    assert {"TF32", "REFIT", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= build.flags
    assert (build.aux_streams, build.level, build.limits) == (1, 5, {"WORKSPACE": 1 << 22})
    assert build.hardware == "AMPERE_PLUS"
    assert plan_of(folder).runs_on == ("8.0+",)
    assert plan_of(folder).version_compatible


def test_a_batch_of_one_is_always_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, onnx = Machine(monkeypatch), write_little(tmp_path / "m.onnx")
    folder = machine.build(onnx, tmp_path / "e", sizes=AskedSizes(batch=4))
    with Segmenter(folder) as segment:
        for count in (1, 3, 4):
            assert len(segment(frames(count))) == count
    assert {shape[0] for shape in machine.world.runs} == {1, 3, 4}


def test_products_without_their_qdq_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "1.7.1", None)
    machine.world.unbuildable = {"stage1.block0.ffn.expand"}
    said: list[str] = []
    onnx = saved(tmp_path / "int8.onnx", int8_model())
    sizes = AskedSizes(opt=SIZE)
    options = BuildOptions("tensorrt-rtx", sizes, tmp_path / "engine", plan=PlanRequest())
    manifest = build_engine(onnx, options, said.append).manifest
    assert manifest.plan is not None
    assert manifest.plan.bypassed == ("stage1.block0.ffn.expand",)
    without = "without Q/DQ, which could not be built: stage1.block0.ffn.expand"
    assert without in manifest.notes
    assert any("INT8 for weights only" in note for note in manifest.notes)
    assert any("stage1.block0.ffn.expand cannot be built" in text for text in said)
    assert (manifest.requested, manifest.delivered) == ("int8", "int8")


def test_warnings_of_the_library_stand_in_the_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, onnx = Machine(monkeypatch), write_little(tmp_path / "m.onnx")
    machine.world.warnings = ["a strange thing"] * 3
    notes = check_folder(machine.build(onnx, tmp_path / "e")).notes
    assert "the library warns: a strange thing (said 3 times)" in notes


def test_a_plan_stands_beside_the_cpus_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    machine, onnx = Machine(monkeypatch), write_little(tmp_path / "m.onnx")
    for backend in ("auto", machine.backend):
        build_engine(onnx, BuildOptions(backend))
    assert entries(tmp_path / "build") == ["m-fp32", "m-fp32-tensorrt"]


# ---- wrong answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_classes, "gives wrong masks on this device"),
        (one_class, "gives wrong masks on this device"),
        (one_nan, "1 of 2688 logits of TensorRT 10.3.0 (fake device) are NaN or infinite"),
    ],
)
def test_a_plan_that_answers_wrongly_is_not_kept(
    change: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, onnx = Machine(monkeypatch), saved(tmp_path / "small.onnx")
    old = snapshot(machine.build(onnx, tmp_path / "old"))
    spoil(monkeypatch, change)
    for name in ("old", "new"):
        with pytest.raises(VerificationError) as caught:
            machine.build(onnx, tmp_path / name)
        assert words in caught.value.found
        # By the name that the user gave it, not by that of the folder which is gone.
        assert ".partial" not in str(caught.value)
        assert caught.value.next_step
    assert snapshot(tmp_path / "old") == old
    assert entries(tmp_path) == ["old", "small.onnx"]
    assert machine.world.held == 0
    assert all(driver.closed for driver in machine.world.drivers)


def test_a_builder_that_fails_leaves_the_older_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, onnx = Machine(monkeypatch), write_little(tmp_path / "m.onnx")
    old = snapshot(machine.build(onnx, tmp_path / "e"))
    machine.world.failures = ["Error Code 2: it broke"]
    with pytest.raises(BuildError, match="it broke"):
        machine.build(onnx, tmp_path / "e")
    assert snapshot(tmp_path / "e") == old
    assert entries(tmp_path) == ["e", "m.onnx"]


# ---- no GPU --------------------------------------------------------------------------------------


def precision(place: Path, name: Any) -> PrecisionOptions:
    return PrecisionOptions(name, "gpu", calibration=place / "frames", budget=ANYTHING)


def test_tensorrt_without_a_gpu_says_so_before_it_calibrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("calibrated for nothing")

    monkeypatch.setattr(choose, "candidate_from_onnx", never)
    machine = Machine(monkeypatch, sm=None)
    onnx = saved(tmp_path / "small.onnx")
    options = BuildOptions("tensorrt", output=tmp_path / "e", precision=precision(tmp_path, "int8"))
    with pytest.raises(BackendError, match="there is no NVIDIA driver") as caught:
        build_engine(onnx, options)
    assert "--backend tensorrt-rtx" in caught.value.next_step
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        build_engine(onnx, options)
    assert machine.world.builds == []
    assert entries(tmp_path) == ["small.onnx"]


def test_the_first_load_on_a_device_checks_and_remembers(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, onnx = Machine(monkeypatch, "1.7.1", None), saved(tmp_path / "small.onnx")
    folder = machine.build(onnx, tmp_path / "e")
    assert check_folder(folder).verified == NOT_VERIFIED
    assert machine.loads == 0
    before = snapshot(folder)
    machine.gpu("8.9")
    with Segmenter(folder) as segment:
        assert segment.first_load_agreement == 1.0
    assert len(machine.world.runs) == 2
    (mark,) = (own_cache / "segdeploy" / "verified").iterdir()
    assert "TensorRT-RTX" in mark.read_text()
    with Segmenter(folder) as segment:
        assert segment.first_load_agreement is None
        segment(frames(1)[0])
    assert len(machine.world.runs) == 3
    assert snapshot(folder) == before


@pytest.mark.parametrize("change", [other_classes, one_class])
def test_wrong_masks_at_the_first_load_are_refused_and_not_remembered(
    change: Any, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "1.7.1", None)
    folder = machine.build(saved(tmp_path / "small.onnx"), tmp_path / "e")
    machine.gpu("8.9")
    with monkeypatch.context() as patch:
        spoil(patch, change)
        for _ in range(2):
            with pytest.raises(VerificationError, match="wrong masks on this device"):
                Segmenter(folder)
    assert not (own_cache / "segdeploy" / "verified").exists()
    assert machine.world.held == 0
    with Segmenter(folder) as segment:
        assert segment.first_load_agreement == 1.0


def test_a_plan_for_another_gpu_than_this_one_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "1.7.1", "8.9")
    onnx = write_little(tmp_path / "m.onnx")
    folder = machine.build(onnx, tmp_path / "e", capabilities=("7.5", "12.0"))
    assert check_folder(folder).verified == NOT_VERIFIED
    assert plan_of(folder).runs_on == ("7.5", "12.0")
    assert machine.loads == 0
    here = check_folder(machine.build(onnx, tmp_path / "h", capabilities=("8.9",)))
    assert here.verified.startswith("TensorRT-RTX")


# ---- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_precision_is_kept_untimed_where_its_gpu_is_not_here(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    machine = Machine(monkeypatch, "1.7.1", None)
    pictures(tmp_path / "frames", 4)
    onnx = saved(tmp_path / "small.onnx")
    options = BuildOptions(
        "tensorrt-rtx", output=tmp_path / "e", precision=precision(tmp_path, name)
    )
    report = build_engine(onnx, options)
    written = json.loads((report.folder / "precision.json").read_text())
    assert written == report.precision
    assert (written["requested"], written["delivered"]) == (name, name)
    assert written["speed"] is None
    assert "not timed" in written["outcome"]
    assert written["outcome"] in report.manifest.notes
    assert report.manifest.spec.precision == name
    # The graph that the plan came from is the one in the folder, and carries the precision.
    assert (report.folder / "model.onnx").read_bytes() != onnx.read_bytes()
    machine.gpu("8.9")
    with Segmenter(report.folder) as segment:
        assert segment.first_load_agreement is not None


# ---- built again ---------------------------------------------------------------------------------


def no_cpu_engine(patch: pytest.MonkeyPatch) -> None:
    """A board whose only engine is TensorRT."""

    def missing(*_: Any, **__: Any) -> Any:
        raise MissingDependencyError("onnxruntime", "cpu", "running ONNX files")

    for place in ("engine.backend.OrtEngine", "workflow.second_opinion.OrtEngine"):
        patch.setattr(f"segformer_deploy.{place}", missing)
    patch.setattr("segformer_deploy.engine.backend.NativeEngine", missing)


@pytest.mark.parametrize("name", ["fp16", None])
def test_a_board_builds_again_with_nothing_but_its_library(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    pictures(tmp_path / "frames", 4)
    asked = precision(tmp_path, name) if name else None
    options = BuildOptions("tensorrt-rtx", output=tmp_path / "e", precision=asked)
    Machine(monkeypatch, "1.7.1", None)
    first = build_engine(saved(tmp_path / "small.onnx"), options)
    before = snapshot(first.folder)
    board = Machine(monkeypatch, "1.7.1", "7.5")
    no_cpu_engine(monkeypatch)
    said: list[str] = []
    assert rebuild_where_needed(first.folder, said.append)
    assert "8.0 and later" in said[0]
    after = snapshot(first.folder)
    kept = [name for name in before if name.startswith(("golden/", "precision", "model.onnx"))]
    assert len(kept) == (6 if name else 5)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    manifest = check_folder(first.folder)
    assert manifest.spec == first.manifest.spec
    assert manifest.delivered == (name or "fp32")
    assert manifest.verified == "TensorRT-RTX 1.7.1 (fake device)"
    board.loads = 0
    assert not rebuild_where_needed(first.folder)
    assert board.loads == 0
    assert entries(tmp_path) == ["e", "frames", "small.onnx"]


def test_only_a_mismatch_is_mended_by_building_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    folder = machine.build(write_little(tmp_path / "m.onnx"), tmp_path / "e")
    machine.gpu(None)
    with pytest.raises(BackendError):
        rebuild_where_needed(folder)
    machine.gpu("8.6")
    flip(folder / "model.onnx", 5)
    before = snapshot(folder)
    for again in (rebuild, rebuild_where_needed):
        with pytest.raises(Exception, match="other content"):
            again(folder)
    assert snapshot(folder) == before
    assert not rebuild_where_needed(tmp_path / "m.onnx")
    assert not rebuild_where_needed(tmp_path / "none")


def test_a_rebuild_that_fails_leaves_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = saved(tmp_path / "small.onnx")
    folder = Machine(monkeypatch).build(onnx, tmp_path / "e")
    before = snapshot(folder)
    machine = Machine(monkeypatch, sm="8.6")
    machine.world.failures = ["Error Code 2: it broke"]
    with pytest.raises(BuildError):
        rebuild_where_needed(folder)
    spoil(monkeypatch, other_classes)
    with pytest.raises(VerificationError):
        rebuild_where_needed(folder)
    assert snapshot(folder) == before
    assert read_manifest(folder).plan is not None


# ---- what TensorRT learnt ------------------------------------------------------------------------


def test_timings_are_kept_for_the_next_build(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, onnx = Machine(monkeypatch), write_little(tmp_path / "m.onnx")
    for _ in range(2):
        machine.build(onnx, tmp_path / "e")
    first, second = machine.world.builds
    assert first.timing_cache is not None
    assert second.timing_cache == first.timing_cache + b"+1"
    (cache,) = (own_cache / "segdeploy" / "timing").iterdir()
    assert cache.name == "10.3.0-sm8.7.cache"


def test_a_home_that_cannot_be_written_to_costs_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = Machine(monkeypatch).build(write_little(tmp_path / "m.onnx"), tmp_path / "e")
    Segmenter(folder).close()


def test_rtx_learns_nothing(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "1.7.1", None)
    machine.build(write_little(tmp_path / "m.onnx"), tmp_path / "e")
    assert machine.world.builds[0].timing_cache is None
    assert list(own_cache.iterdir()) == []
