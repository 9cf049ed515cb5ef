"""Engines of a matrix: exported once, kept where they are what was asked for, else made again."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx
from segformer_deploy.errors import InputError, MissingDependencyError
from segformer_deploy.spec import Weights
from segformer_deploy.version import __version__
from segformer_deploy.workflow import bench_engines as module
from segformer_deploy.workflow.bench_engines import exported_engines
from tests.little import little_model, little_spec


def left_by(path: Path, version: str = __version__, **changes: object) -> Path:
    """A little network at `path`, as an earlier run of that version would have left it."""
    model = little_model(little_spec(**changes))
    model.producer_version = version
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="variant 'b9'"):
        exported_engines(["b9"], ["fp32"], 3, tmp_path, print)
    with pytest.raises(InputError, match="precision 'fp8'"):
        exported_engines(["b0"], ["fp8"], 3, tmp_path, print)


def test_without_the_export_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="'torch' is not installed"):
        exported_engines(["b0"], ["fp32"], 3, tmp_path, print)


def test_engines_are_made_when_asked_for_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    [source] = exported_engines(["b0"], ["fp32"], 3, tmp_path, said.append)
    assert not list(tmp_path.iterdir())
    kept = left_by(tmp_path / "segformer-b0-c3.onnx")
    before = kept.read_bytes()
    assert source.engine.path == kept
    assert (said, kept.read_bytes()) == ([], before)
    assert source.commands[1].format(size="64x96", backend="native") == (
        "segdeploy build-engine build/segformer-b0.onnx --opt 64x96 --backend native"
    )


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [
        ("0.0.1", {}, "version of segdeploy 0.0.1"),
        ("", {}, "version of segdeploy unknown"),
        (__version__, {"variant": "b1"}, "variant b1"),
        (__version__, {"weights": Weights("a", "b", "0" * 64)}, "weights trained"),
        (__version__, {"precision": "int8"}, "precision int8"),
    ],
)
def test_what_is_otherwise_is_exported_again(
    tmp_path: Path, version: str, changes: dict[str, object], said: str
) -> None:
    path = left_by(tmp_path / "segformer-b0-c3.onnx", version, **changes)
    heard: list[str] = []
    [source] = exported_engines(["b0"], ["fp32"], 3, tmp_path, heard.append)
    assert source.engine.path == path
    [line] = heard
    assert line.startswith(f"exporting b0 with random weights to {path}: what is there has ")
    assert said in line
    spec = spec_from_onnx(path)
    assert (spec.variant, spec.precision, spec.weights.random) == ("b0", "fp32", True)
    assert read_onnx_header(path).producer_version == __version__


def test_another_number_of_classes_or_a_cut_off_file_is_exported_again(tmp_path: Path) -> None:
    path = tmp_path / "segformer-b0-c4.onnx"
    heard: list[str] = []
    [source] = exported_engines(["b0"], ["fp32"], 4, tmp_path, heard.append)
    left_by(path)
    assert spec_from_onnx(source.made()).classes == 4
    assert "classes 3" in heard[0]
    path.write_bytes(path.read_bytes()[:5000])
    assert spec_from_onnx(source.made()).classes == 4
    assert "what is there does not read" in heard[1]
    source.made()
    assert len(heard) == 2


def test_a_quantised_graph_says_its_version_too(tmp_path: Path) -> None:
    heard: list[str] = []
    [source] = exported_engines(["b0"], ["int8"], 3, tmp_path, heard.append)
    path = source.made()
    assert spec_from_onnx(path).precision == "int8"
    assert read_onnx_header(path).producer_version == __version__
    assert len(heard) == 2
    source.made()
    assert len(heard) == 2
    old = onnx.load(path)
    old.producer_version = "0.0.1"
    onnx.save(old, path)
    source.made()
    assert heard[2].startswith("quantising b0")
    assert "version of segdeploy 0.0.1" in heard[2]
