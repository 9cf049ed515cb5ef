"""What was asked for beside FP32: the faster one is built, and the folder says why."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.engine.native.engine import NativeEngine
from segformer_deploy.engine.package import check_folder
from segformer_deploy.errors import BackendError, OutputError, VerificationError
from segformer_deploy.graph.metadata import checked_spec, write_spec
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import Segformer
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.workflow import choose as choose_module
from segformer_deploy.workflow.build import BuildOptions, BuildReport, build_engine
from segformer_deploy.workflow.choose import write_onnx_only
from segformer_deploy.workflow.gate import Budget
from segformer_deploy.workflow.precision import (
    Candidate,
    PrecisionOptions,
    candidate_from_onnx,
)
from tests.model.checkpoint_builders import randomise
from tests.model.tiny import TINY, spec_for
from tests.workflow.small import (
    ANYTHING,
    hurry,
    label_pictures,
    laps,
    pictures,
    saved,
    small_model,
    small_spec,
)

FASTER, SLOWER = 5.0, 20.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    saved(tmp_path / "small.onnx")
    pictures(tmp_path / "frames", 4)
    return tmp_path


def options(place: Path, precision: Any = "int8", **changes: Any) -> PrecisionOptions:
    return PrecisionOptions(
        precision, **{"calibration": place / "frames", "budget": ANYTHING, **changes}
    )


@cache
def candidate(precision: Any) -> Candidate:
    """Made once in a folder of its own; what becomes of it is the subject."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        onnx_file = saved(Path(folder) / "small.onnx")
        pictures(Path(folder) / "frames", 4)
        return candidate_from_onnx(onnx_file, small_spec(), options(Path(folder), precision))


def built(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    milliseconds: float,
    precision: Any = "int8",
    notes: tuple[str, ...] = (),
    **changes: Any,
) -> BuildReport:
    """An engine folder, where FP32 takes 10 ms and the precision so many."""
    made = replace(candidate(precision), notes=notes)
    monkeypatch.setattr(choose_module, "candidate_from_onnx", lambda *_, **__: made)

    def race(files: dict[str, Path], *_: Any, **__: Any) -> Any:
        assert set(files) == {"fp32", precision}
        assert checked_spec(onnx.load(files["fp32"])).precision == "fp32"
        assert checked_spec(onnx.load(files[precision])).precision == precision
        return laps(fp32=10.0, **{precision: milliseconds})

    monkeypatch.setattr(choose_module, "race", race)
    return build_engine(
        place / "small.onnx",
        BuildOptions(
            backend="onnxruntime",
            output=place / "engine",
            precision=options(place, precision, **changes),
        ),
    )


def report_of(folder: Path) -> dict[str, Any]:
    data = json.loads((folder / "precision.json").read_text())
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_faster_one_is_built(
    place: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    report = built(place, monkeypatch, FASTER, precision)
    manifest = check_folder(report.folder)
    assert (manifest.requested, manifest.delivered) == (precision, precision)
    assert manifest.spec.precision == precision
    graph = onnx.load(report.folder / "model.onnx")
    assert checked_spec(graph).precision == precision
    told = report_of(report.folder)
    assert told == json.loads(json.dumps(report.precision))
    assert (told["requested"], told["delivered"]) == (precision, precision)
    assert told["speed"]["ratio"] == pytest.approx(2)
    assert told["speed"]["size"] == "64x96"
    assert told["speed"][precision]["median_ms"] == FASTER
    assert f"{precision} is built: 2.00 times as fast" in told["outcome"]
    assert told["outcome"] in manifest.notes
    with Segmenter(report.folder) as segment:
        assert segment(np.zeros((64, 96, 3), np.uint8)).shape == (64, 96)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_slower_one_is_declined_and_fp32_is_built(
    place: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    report = built(place, monkeypatch, SLOWER, precision)
    manifest = check_folder(report.folder)
    assert (manifest.requested, manifest.delivered) == (precision, "fp32")
    assert manifest.spec == small_spec()
    assert (report.folder / "model.onnx").read_bytes() == (place / "small.onnx").read_bytes()
    told = report_of(report.folder)
    assert (told["requested"], told["delivered"]) == (precision, "fp32")
    outcome = told["outcome"]
    assert f"{precision} was asked for and fp32 is built" in outcome
    assert "2.00 times as slow" in outcome
    assert "--force" in outcome
    assert outcome in manifest.notes
    # What it would have cost stays told.
    assert told["report"]["agreement"] > 50
    assert report.to_dict()["delivered"] == "fp32"


def test_a_tie_goes_to_fp32(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(place, monkeypatch, 10.0).manifest.delivered == "fp32"


def test_force_builds_the_slower_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = built(place, monkeypatch, SLOWER, force=True)
    assert report.manifest.delivered == "int8"
    assert "slower than fp32, but asked" in report_of(report.folder)["outcome"]
    assert checked_spec(onnx.load(report.folder / "model.onnx")).precision == "int8"


@pytest.mark.parametrize(
    ("milliseconds", "delivered", "opinion"),
    [(FASTER, "int8", "in root mean square by"), (SLOWER, "fp32", "by at most")],
)
def test_the_native_engine_runs_it_and_another_library_agrees(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    milliseconds: float,
    delivered: str,
    opinion: str,
) -> None:
    # It takes channels by eights.
    config = replace(TINY, head_channels=16)
    model = onnx_from_model(randomise(Segformer(config), 1), spec_for(config))
    write_spec(model, small_spec())
    saved(place / "eights.onnx", model)
    try:
        NativeEngine(place / "eights.onnx").close()
    except BackendError as error:
        pytest.skip(error.found)
    monkeypatch.setattr(choose_module, "race", lambda *_, **__: laps(fp32=10, int8=milliseconds))
    asked = BuildOptions("native", output=place / "engine", precision=options(place))
    manifest = build_engine(place / "eights.onnx", asked).manifest
    assert (manifest.backend, manifest.delivered) == ("native", delivered)
    assert any(opinion in note for note in manifest.notes)


NOTES = ("stage2.block0.ffn stays higher: worst that was left",)


def test_notes_of_the_graph_are_notes_of_its_engine(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = built(place, monkeypatch, FASTER, notes=NOTES)
    assert report.manifest.notes[:2] == (*NOTES, report_of(report.folder)["outcome"])


def test_an_fp32_engine_has_no_notes_of_blocks(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = built(place, monkeypatch, SLOWER, notes=NOTES)
    assert not any("stays higher" in note for note in report.manifest.notes)


def test_a_broken_budget_leaves_nothing_and_an_older_folder_untouched(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in place.iterdir())
    impossible = options(place, "fp16", budget=Budget(100, 100))
    asked = BuildOptions(backend="onnxruntime", output=place / "engine", precision=impossible)
    with pytest.raises(VerificationError, match="% of the pixels agree"):
        build_engine(place / "small.onnx", asked)
    assert sorted(path.name for path in place.iterdir()) == before
    older: Manifest = built(place, monkeypatch, FASTER, "fp16").manifest
    files = {path: path.read_bytes() for path in (place / "engine").rglob("*") if path.is_file()}
    monkeypatch.setattr(choose_module, "candidate_from_onnx", candidate_from_onnx)
    with pytest.raises(VerificationError):
        build_engine(place / "small.onnx", asked)
    assert check_folder(place / "engine") == older
    assert files == {p: p.read_bytes() for p in (place / "engine").rglob("*") if p.is_file()}
    assert sorted(path.name for path in place.iterdir()) == sorted([*before, "engine"])


# ---- the graph alone -------------------------------------------------------------------------


def only(place: Path, output: Path | None, **changes: Any) -> Path:
    path, candidate = write_onnx_only(
        place / "small.onnx", output, small_spec(), options(place, **changes), lambda _: None
    )
    assert path.read_bytes() == candidate.model.SerializeToString()
    return path


def test_the_graph_alone_lies_beside_its_report(place: Path) -> None:
    path = only(place, None, target="gpu")
    assert path == Path("build") / "small-int8.onnx"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "small-int8.onnx",
        "small-int8.precision.json",
    ]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert checked_spec(model).precision == "int8"
    told = json.loads(path.with_suffix(".precision.json").read_text())
    assert (told["requested"], told["delivered"], told["target"]) == ("int8", "int8", "gpu")
    assert told["graph"]["spelling"] == "signed"
    assert told["report"]["agreement"] > 50


def test_labels_reach_the_report_of_the_graph_alone(place: Path) -> None:
    gate = pictures(place / "gate", 2, seed=5), label_pictures(place / "labels", 2)
    path = only(place, place / "deep" / "x.onnx", precision="fp16", gate=gate)
    told = json.loads((place / "deep" / "x.precision.json").read_text())
    assert set(told["report"]["classes"]) == set(small_spec().class_names)
    assert checked_spec(onnx.load(path)).precision == "fp16"


@pytest.mark.parametrize("name", ["small.onnx", "./sub/../small.onnx", "graph.json", "graph"])
def test_a_graph_is_not_written_over_its_source_or_as_something_else(
    place: Path, name: str
) -> None:
    (place / "sub").mkdir()
    with pytest.raises(OutputError, match="cannot be written to"):
        only(place, Path(name))
    assert (place / "small.onnx").read_bytes() == small_model().SerializeToString()
    assert not (place / "calibration").exists()


def test_a_broken_budget_writes_no_graph(place: Path) -> None:
    with pytest.raises(VerificationError):
        only(place, None, precision="fp16", budget=Budget(100, 100))
    assert not (place / "build").exists()
