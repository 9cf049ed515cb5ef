"""build-engine: the folder is whole, explains itself, and an older one is never lost."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.engine import manifest as manifest_module
from segformer_deploy.engine.manifest import FileRecord, read_manifest
from segformer_deploy.engine.package import check_folder, engine_folders, load_engine
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.errors import (
    BackendError,
    EngineFolderError,
    FrameError,
    OnnxFileError,
    OutputError,
    SpecError,
    VerificationError,
)
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.sizes import AskedSizes
from tests.little import WEIGHT, little_model, little_spec, write_little


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx = write_little(tmp_path / "little.onnx")
    return build_engine(onnx, BuildOptions(output=tmp_path / "engine")).folder


def test_the_folder_is_whole_and_says_what_it_is(tmp_path: Path, folder: Path) -> None:
    manifest = check_folder(folder)
    assert manifest.spec == little_spec()
    assert (manifest.requested, manifest.delivered) == ("fp32", "fp32")
    assert manifest.source_sha256 == FileRecord.of(tmp_path / "little.onnx").sha256
    on_disk = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert on_disk == set(manifest.files) | {"manifest.json"}
    assert len(manifest.golden) >= 2
    assert manifest.verified.startswith("onnxruntime")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["engine", "little.onnx"]


def test_two_builds_differ_in_time_only(tmp_path: Path, folder: Path) -> None:
    again = build_engine(tmp_path / "little.onnx", BuildOptions(output=tmp_path / "again"))
    first = check_folder(folder).to_dict()
    second = again.manifest.to_dict()
    first.pop("build_seconds"), second.pop("build_seconds")
    assert first == second


def test_opt_replaces_the_resize_rule(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "m.onnx", little_spec(resize=ResizeRule("none", None)))
    options = BuildOptions(sizes=AskedSizes(opt=FrameSize(128, 64)), output=tmp_path / "e")
    report = build_engine(onnx, options)
    assert report.manifest.spec.resize.size == FrameSize(128, 64)
    with Segmenter(report.folder) as segment:
        assert segment.network_size(FrameSize(480, 640)) == FrameSize(128, 64)


def test_sizes_and_batch_outside_the_built_range_are_refused(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "m.onnx", little_spec(resize=ResizeRule("none", None)))
    sizes = AskedSizes(min=FrameSize(64, 64), max=FrameSize(96, 128), batch=1)
    options = BuildOptions(sizes=sizes, output=tmp_path / "e")
    with Segmenter(build_engine(onnx, options).folder) as segment:
        segment(np.zeros((96, 128, 3), np.uint8))
        with pytest.raises(FrameError, match="network size 100x128") as caught:
            segment(np.zeros((100, 128, 3), np.uint8))
        assert "build-engine" in caught.value.next_step
        with pytest.raises(FrameError, match="batch of 2"):
            segment([np.zeros((64, 64, 3), np.uint8)] * 2)


@pytest.mark.parametrize(
    "sizes", [("64x64", "32x64", "128x128"), ("64x64", "128x128", "96x256"), ("64", "128", "64")]
)
def test_a_range_out_of_order_is_refused(sizes: tuple[str, str, str]) -> None:
    with pytest.raises(SpecError, match="min"):
        SizeRange(*map(FrameSize.parse, sizes))


def test_nan_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    weight = WEIGHT.copy()
    weight[1, 1] = np.nan
    onnx = tmp_path / "nan.onnx"
    onnx.write_bytes(little_model(weight=weight).SerializeToString())
    with pytest.raises(VerificationError, match="NaN or infinite"):
        build_engine(onnx, BuildOptions(output=tmp_path / "engine"))
    assert [p.name for p in tmp_path.iterdir()] == ["nan.onnx"]


def test_one_class_everywhere_is_said(tmp_path: Path) -> None:
    onnx = tmp_path / "one.onnx"
    onnx.write_bytes(little_model(weight=0 * WEIGHT).SerializeToString())
    report = build_engine(onnx, BuildOptions(output=tmp_path / "engine"))
    assert any("one class" in note for note in report.manifest.notes)


def test_a_failed_build_keeps_the_older_folder(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = check_folder(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OutputError, match="No space left"):
        build_engine(tmp_path / "little.onnx", BuildOptions(output=folder))
    assert check_folder(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["engine", "little.onnx"]


def test_unknown_backend_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="'tflite'"):
        build_engine(write_little(tmp_path / "m.onnx"), BuildOptions(backend="tflite"))
    with pytest.raises(OnnxFileError, match="does not exist"):
        build_engine(tmp_path / "no.onnx", BuildOptions(output=tmp_path / "e"))


# What is loaded, and why not ----------------------------------------------------------------


def damage_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"fp32"', '"fp16"', 1))


def damage_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def remove_golden(folder: Path) -> None:
    shutil.rmtree(folder / "golden")


def cut_engine(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    damage_manifest: "was changed after the build",
    damage_json: "does not read",
    remove_manifest: "has no manifest.json",
    remove_golden: "is incomplete: golden",
    cut_engine: "the copy is not whole",
    flip_a_byte: "other content than was built",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items())
def test_each_damage_has_its_own_message(folder: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    load_engine(folder).engine.close()
    damage(folder)
    with pytest.raises(EngineFolderError) as caught:
        load_engine(folder)
    assert message in str(caught.value)
    assert caught.value.next_step


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "plan.engine").touch()
    with pytest.raises(EngineFolderError, match="does not exist"):
        load_engine(tmp_path / "missing")
    with pytest.raises(EngineFolderError, match="a plan without a manifest"):
        load_engine(tmp_path / "plan.engine")


def test_a_manifest_survives_its_file(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "manifest.json").write_text(manifest.to_json())
    assert read_manifest(folder) == manifest


def test_newest_folder_first(tmp_path: Path, folder: Path) -> None:
    import os

    shutil.copytree(folder, tmp_path / "older")
    os.utime(tmp_path / "older", (1, 1))
    assert engine_folders(tmp_path) == [folder, tmp_path / "older"]


# What a build may not destroy, and manifests that someone sealed again ------------------------


def test_a_folder_that_is_no_engine_is_never_replaced(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "models" / "m.onnx")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "precious.txt").touch()
    for output in (notes, onnx.parent, tmp_path, onnx):
        with pytest.raises(OutputError, match=r"not an engine folder|holds"):
            build_engine(onnx, BuildOptions(output=output))
    assert (notes / "precious.txt").exists()
    assert onnx.is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine_files": ["../little.onnx"]}, "file name"),
        ({"engine_files": ["/etc/passwd"]}, "file name"),
        ({"engine_files": ["other.onnx"]}, "without a hash"),
        ({"engine_files": []}, "no engine file"),
        ({"files": []}, "AttributeError"),
        ({"sizes": {"min": "1x1"}}, "KeyError"),
        ({"built_with": "\ud800"}, "does not"),
    ],
)
def test_a_manifest_sealed_again_is_still_checked(
    folder: Path, change: dict[str, object], message: str
) -> None:
    path = folder / "manifest.json"
    data = {**json.loads(path.read_text()), **change}
    data.pop("seal")
    if message != "does not":
        data["seal"] = manifest_module._seal(data)
    path.write_text(json.dumps(data))
    with pytest.raises(EngineFolderError, match=message):
        load_engine(folder)


def test_short_side_models_build_inside_their_range(tmp_path: Path) -> None:
    rule = ResizeRule("short_side", None, 96, 256)
    onnx = write_little(tmp_path / "m.onnx", little_spec(resize=rule))
    build_engine(onnx, BuildOptions(output=tmp_path / "free"))
    Segmenter(tmp_path / "free").close()
    with pytest.raises(FrameError, match="network size 96x96") as caught:
        build_engine(
            onnx, BuildOptions(sizes=AskedSizes(max=FrameSize(64, 64)), output=tmp_path / "small")
        )
    assert "--min 64x64 --max 96x96" in caught.value.next_step


def test_what_a_killed_command_left_is_not_the_newest(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / ".engine.aabbccdd.partial.old")
    assert engine_folders(tmp_path) == [folder]
