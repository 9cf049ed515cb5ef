"""Which backend runs a file: the one that was named, or the best that can, with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from segformer_deploy.engine.backend import CPU_BACKENDS, EngineOptions, engine_from_onnx
from segformer_deploy.engine.native import library
from segformer_deploy.engine.package import load_engine
from segformer_deploy.errors import BackendError, OnnxFileError
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import random_segformer
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.sizes import AskedSizes
from tests.little import write_little
from tests.model.tiny import TINY, random_frames, spec_for


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(TINY, head_channels=16)
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    onnx.save(onnx_from_model(random_segformer(config, 0), spec_for(config)), path)
    return path


def test_auto_takes_native_where_it_can(plain: Path) -> None:
    chosen = engine_from_onnx(plain, EngineOptions())
    assert (chosen.backend, chosen.note) == ("native", None)
    assert chosen.engine.name.startswith("native ")


def test_auto_says_why_it_does_not(tmp_path: Path) -> None:
    chosen = engine_from_onnx(write_little(tmp_path / "m.onnx"), EngineOptions())
    assert chosen.backend == "onnxruntime"
    assert chosen.note is not None
    assert "cannot run this graph" in chosen.note


def test_without_compiled_code_auto_says_so(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "library_path", lambda: Path("nowhere/_network.so"))
    monkeypatch.setattr(library, "_loaded", {})
    chosen = engine_from_onnx(plain, EngineOptions())
    assert chosen.engine.name.startswith("onnxruntime ")
    assert "without its compiled network" in str(chosen.note)
    with pytest.raises(BackendError, match="without its compiled network"):
        engine_from_onnx(plain, EngineOptions("native"))


def test_a_named_backend_is_never_replaced(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(BackendError, match="cannot run this graph"):
        engine_from_onnx(write_little(tmp_path / "m.onnx"), EngineOptions("native"))
    assert engine_from_onnx(plain, EngineOptions("onnxruntime")).engine.name.startswith("onnx")


def test_a_broken_file_is_an_error_of_the_file(tmp_path: Path, plain: Path) -> None:
    broken = tmp_path / "m.onnx"
    broken.write_bytes(plain.read_bytes()[:4000])
    for backend in ("auto", *CPU_BACKENDS):
        with pytest.raises(OnnxFileError):
            engine_from_onnx(broken, EngineOptions(backend))


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "tflite"},
        {"provider": "gpu"},
        {"threads": -1},
        {"backend": "native", "provider": "cuda"},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(BackendError):
        EngineOptions(**options)  # type: ignore[arg-type]


def test_a_folder_runs_on_what_it_was_built_for_or_on_what_is_named(
    tmp_path: Path, plain: Path
) -> None:
    frame = random_frames(1, 96, 128)[0]
    masks = []
    for backend in CPU_BACKENDS:
        options = BuildOptions(
            backend, AskedSizes(opt=FrameSize(96, 128)), output=tmp_path / backend
        )
        report = build_engine(plain, options)
        assert report.manifest.backend == backend
        assert load_engine(report.folder).engine.name.startswith(backend)
        for other in CPU_BACKENDS:
            with Segmenter(report.folder, backend=other) as segment:
                assert segment.engine_name.startswith(other)
                masks.append(segment(frame))
    agreement = [np.mean(mask == masks[0]) for mask in masks]
    assert min(agreement) > 0.999  # near ties may fall either way


def test_a_native_build_is_held_against_onnxruntime(tmp_path: Path, plain: Path) -> None:
    report = build_engine(plain, BuildOptions(output=tmp_path / "e"))
    assert report.manifest.backend == "native"
    assert any("differ from onnxruntime" in note for note in report.manifest.notes)
