"""build-engine for TensorRT, and run, bench and inspect on what it built: as a user types them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segformer_deploy.engine.package import check_folder
from segformer_deploy.runtime.segmenter import Segmenter
from tests.cli.test_precision_commands import Place, place
from tests.engine.test_plan_folder import Machine

__all__ = ["place"]

RTX = ("--backend", "tensorrt-rtx")
TRT = ("--backend", "tensorrt")


@pytest.fixture
def workstation(place: Place, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """TensorRT-RTX and no GPU."""
    return Machine(monkeypatch, "1.7.1", None)


@pytest.fixture
def board(place: Place, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """TensorRT and its GPU."""
    return Machine(monkeypatch)


def built(place: Place) -> list[str]:
    return sorted(path.name for path in (place.root / "build").iterdir())


# ---- build-engine --------------------------------------------------------------------------------


def test_a_plan_in_words(place: Place, workstation: Machine) -> None:
    done = place("build-engine", *RTX)
    assert (done.code, done.stdout) == (0, "")
    folder = "build/small-fp32-tensorrt-rtx"
    for words in (
        "ONNX: build/small.onnx (the newest under build/)",
        "building the plan with TensorRT-RTX 1.7.1 for 64x96",
        "plan: for compute capability 8.0 and later, 64x96",
        "MB at the worst moment of a run",
        f"{folder}: fp32 for tensorrt-rtx 1.7.1 (not verified on a device), resize: stretch to 64",
        f"next: segdeploy bench {folder}",
    ):
        assert words in done.stderr, done.stderr
    assert built(place) == ["small-fp32-tensorrt-rtx", "small.onnx"]


def test_a_plan_as_json(place: Place, workstation: Machine) -> None:
    answer = place("build-engine", *RTX, "--batch", "2", "-o", "e", "--json").json
    assert (answer["engine"], answer["backend"]) == ("e", "tensorrt-rtx")
    assert answer["backend_version"] == "1.7.1"
    assert answer["verified"] == "not verified on a device"
    assert answer["precision"] is None
    plan = answer["plan"]
    assert plan == json.loads(Path("e/manifest.json").read_text())["plan"]
    assert plan["runs_on"] == ["8.0+"]
    assert plan["profiles"] == [{"min": "64x96", "opt": "64x96", "max": "64x96", "batch": 2}]
    assert plan["options"] == {}
    assert plan["bypassed"] == []
    frame, logits = 2 * 64 * 96 * 3, 2 * 7 * 16 * 24 * 4
    assert plan["activation_memory_bytes"] == 2 * 64 * 96 * 40 + 100
    assert plan["peak_device_bytes"] == plan["activation_memory_bytes"] + frame + logits
    assert plan["weights_memory_bytes"] > 0


def test_a_plan_on_its_own_gpu(place: Place, board: Machine) -> None:
    answer = place("build-engine", *TRT, "--json").json
    assert answer["verified"] == "TensorRT 10.3.0 (fake device)"
    assert answer["plan"]["runs_on"] == ["8.7"]
    assert place("build-engine", "--backend", "onnxruntime", "--json").json["plan"] is None


def test_several_profiles_and_options(place: Place, workstation: Machine) -> None:
    answer = place(
        *("build-engine", *RTX, "-o", "e", "--json"),
        *("--profile", "64x96,96x96,128x160", "--profile", "160x192", "--batch", "3"),
        *("--compute-capability", "7.5", "--compute-capability", "12.0"),
        *("--workspace", "1.5M", "--aux-streams", "1", "--tf32", "--version-compatible"),
    ).json
    plan = answer["plan"]
    assert plan["profiles"] == [
        {"min": "64x96", "opt": "96x96", "max": "128x160", "batch": 3},
        {"min": "160x192", "opt": "160x192", "max": "160x192", "batch": 3},
    ]
    assert plan["runs_on"] == ["7.5", "12.0"]
    assert plan["version_compatible"] is True
    assert plan["options"] == {
        "version_compatible": True,
        "tf32": True,
        "aux_streams": 1,
        "workspace": 3 << 19,
    }
    (build,) = workstation.world.builds
    assert build.capabilities == ("SM75", "SM120")
    assert [one["image"][2] for one in build.profiles] == [(3, 128, 160, 3), (3, 160, 192, 3)]


def test_a_precision_for_a_plan(place: Place, workstation: Machine) -> None:
    answer = place(
        *("build-engine", *RTX, "--fp16", "--logits", "fp16", "--calibration", "frames"),
        *("--min-agreement", "0", "--json"),
    ).json
    assert answer["engine"] == "build/small-fp16-tensorrt-rtx"
    assert (answer["requested"], answer["delivered"]) == ("fp16", "fp16")
    assert answer["precision"]["speed"] is None
    plan = answer["plan"]
    # Half of what leaves the device.
    assert plan["peak_device_bytes"] - plan["activation_memory_bytes"] == (
        64 * 96 * 3 + 7 * 16 * 24 * 2
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*RTX, "--profile", "64x96", "--opt", "64x96"), "profiles and --min, --opt or --max"),
        ((*RTX, "--profile", "64,64"), "profile '64,64'"),
        ((*RTX, "--profile", "128,64,32"), "min <= opt <= max"),
        ((*RTX, "--profile", "wide"), "size 'wide'"),
        ((*RTX, "--workspace", "much"), "a memory size of 'much'"),
        ((*RTX, "--workspace", "0"), "a memory size of '0'"),
        ((*RTX, "--workspace", "9" * 400), "less than 2^63"),
        ((*RTX, "--compute-capability", "9.9"), "compute capability 9.9 for TensorRT-RTX"),
        ((*RTX, "--compute-capability", ""), "compute capability"),
        ((*RTX, "--hardware-compatible"), "hardware-compatible plan of TensorRT-RTX"),
        ((*TRT, "--compute-capability", "8.6"), "its plans are for the GPU that builds them"),
        (TRT, "there is no NVIDIA driver"),
        (("--profile", "64x96"), "--profile without a plan"),
        (("--compute-capability", "8.6"), "--compute-capability without a plan"),
        (("--hardware-compatible",), "--hardware-compatible without a plan"),
        (("--version-compatible",), "--version-compatible without a plan"),
        (("--refit",), "--refit without a plan"),
        (("--tf32",), "--tf32 without a plan"),
        (("--aux-streams", "1"), "--aux-streams without a plan"),
        (("--workspace", "64M"), "--workspace without a plan"),
        (("--level", "0"), "--level without a plan"),
        (("--level", "3", "--backend", "native"), "--level without a plan"),
        ((*RTX, "--fp16", "--onnx-only", "--refit"), "--refit without a plan"),
        ((*TRT, "--fp16", "--int8"), "--fp16 and --int8 at once"),
        (("--backend", "tensorflow"), "backend 'tensorflow'"),
    ],
)
def test_contradictions(
    place: Place, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    for version in ("10.3.0", "1.7.1"):
        machine = Machine(monkeypatch, version, None)
    message = place("build-engine", *arguments).message
    assert words in " ".join(message.split()), message
    assert built(place) == ["small.onnx"]
    assert machine.world.builds == []


@pytest.mark.parametrize(
    "arguments", [("--level", "6"), ("--aux-streams", "8"), ("--batch", "0"), ("--aux-streams",)]
)
def test_wrong_usage(place: Place, workstation: Machine, arguments: tuple[str, ...]) -> None:
    assert place("build-engine", *RTX, *arguments).code == 2


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_without_the_library(place: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name.replace("-", "_"), None)
    message = place("build-engine", "--backend", name).message
    assert f'pip install "segformer-deploy[{name}]"' in message
    assert built(place) == ["small.onnx"]


# ---- run, bench, inspect -------------------------------------------------------------------------


def masks_of(folder: Path) -> list[np.ndarray]:
    found = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())]
    assert len(found) == 6
    return [np.asarray(one) for one in found]


def expected_masks() -> list[np.ndarray]:
    with Segmenter("build/small.onnx", backend="onnxruntime") as segment:
        frames = [cv2.imread(str(path)) for path in sorted(Path("frames").iterdir())]
        return [segment(np.asarray(frame)) for frame in frames]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_run_on_a_plan_and_on_the_onnx_beside_it(place: Place, board: Machine) -> None:
    folder = place("build-engine", *TRT, "--json").json["engine"]
    done = place("run", folder, "--source", "frames", "--masks", "gpu", "--json")
    assert done.json["frames"] == 6
    assert same(masks_of(Path("gpu")), expected_masks())
    board.gpu(None)
    done = place("run", folder, "--source", "frames", "--masks", "none")
    assert "there is no NVIDIA driver" in done.message
    assert "--backend onnxruntime" in done.message
    place("run", folder, "--source", "frames", "--masks", "cpu", "--backend", "onnxruntime")
    assert same(masks_of(Path("cpu")), expected_masks())


def test_run_with_trust(place: Place, board: Machine) -> None:
    folder = place("build-engine", *TRT, "--json").json["engine"]
    plan = shutil.copy(Path(folder) / "model.plan", "found.plan")
    words = ("run", plan, "--source", "frames", "--masks", "masks")
    message = place(*words).message
    assert "a plan without a manifest" in message
    assert "--trust" in message
    assert not Path("masks").exists()
    done = place(*words, "--trust")
    assert done.code == 0, done.stderr
    assert "note: found.plan is trusted: classes are numbered" in done.stderr
    assert same(masks_of(Path("masks")), expected_masks())


def test_bench_builds_again_where_it_is_asked_to(
    place: Place, board: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place("build-engine", *TRT, "--json").json["engine"]
    Machine(monkeypatch, "11.4.1", "8.6")
    refused = place("bench", folder, "--runs", "2", "--json")
    error = json.loads(refused.stdout)["error"]
    assert (refused.code, error["kind"]) == (1, "MismatchError")
    assert error["next"].endswith(f"--output {folder}")
    assert check_folder(Path(folder)).backend_version == "10.3.0"
    done = place("bench", folder, "--runs", "2", "--rebuild", "--json")
    assert "was built with TensorRT 10.3.0, and 11.4.1 is installed: building it" in done.stderr
    assert done.json["backend"] == "TensorRT 11.4.1 (fake device)"
    assert check_folder(Path(folder)).backend_version == "11.4.1"
    again = place("bench", folder, "--runs", "2", "--rebuild")
    assert "building it" not in again.stderr
    assert built(place) == ["small-fp32-tensorrt", "small.onnx"]


def test_run_builds_again_where_it_is_asked_to(
    place: Place, board: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place("build-engine", *TRT, "--json").json["engine"]
    Machine(monkeypatch, sm="12.0")
    words = ("run", folder, "--source", "frames", "--masks", "masks", "--rebuild")
    assert place(*words).code == 0
    plan = check_folder(Path(folder)).plan
    assert plan is not None
    assert plan.runs_on == ("12.0",)
    assert same(masks_of(Path("masks")), expected_masks())


def test_rebuild_means_nothing_to_an_onnx_file(place: Place, board: Machine) -> None:
    words = ("bench", "build/small.onnx", "--backend", "onnxruntime", "--runs", "1", "--rebuild")
    assert place(*words).code == 0


def test_inspect_a_folder_with_a_plan(place: Place, workstation: Machine) -> None:
    """On a machine with no TensorRT at all."""
    folder = place("build-engine", *RTX, "--json").json["engine"]
    workstation.patch.setitem(sys.modules, "tensorrt_rtx", None)
    done = place("inspect", folder)
    assert done.code == 0, done.stderr
    assert "tensorrt-rtx 1.7.1" in done.stderr
    answer = place("inspect", folder, "--json").json
    assert answer["backend"] == "tensorrt-rtx 1.7.1"
    assert answer["verified"] == "not verified on a device"
    path = Path(folder) / "model.plan"
    path.write_bytes(path.read_bytes()[:-1])
    assert "not whole" in place("inspect", folder).message
