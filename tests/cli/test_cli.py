"""The commands as a user types them: exit codes, one JSON object, messages without tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.little import little_spec, write_little


def segdeploy(*arguments: str | Path, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "segformer_deploy", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )


def json_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object on stdout; anything else there is an error."""
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    write_little(tmp_path / "build" / "little.onnx")
    return tmp_path


def pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        cv2.imwrite(str(folder / f"f{index}.png"), rng.integers(0, 256, (64, 96, 3), np.uint8))
    return folder


def test_help_names_every_command(place: Path) -> None:
    done = segdeploy("--help", cwd=place)
    assert done.returncode == 0
    for command in ("export", "build-engine", "run", "bench", "eval", "compare", "inspect", "demo"):
        assert command in done.stdout
        shown = segdeploy(command, "--help", cwd=place)
        assert shown.returncode == 0
        assert f"Example:  segdeploy {command}" in " ".join(shown.stdout.split()).replace(
            "Example: ", "Example:  "
        )


def test_help_loads_no_heavy_library(place: Path) -> None:
    heavy = ("torch", "onnx", "onnxruntime", "numpy", "cv2", "av", "transformers")
    code = (
        f"import sys, segformer_deploy.cli.main\nprint([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_chain_without_names(place: Path) -> None:
    built = json_of(segdeploy("build-engine", "--json", cwd=place))
    assert built["engine"] == "build/little-fp32"
    assert (built["requested"], built["delivered"]) == ("fp32", "fp32")
    assert built["backend"] == "onnxruntime"
    assert built["build_seconds"] > 0
    done = segdeploy("bench", "--runs", "3", "--json", cwd=place)
    bench = json_of(done)
    assert "build/little-fp32 (the newest under build/)" in done.stderr
    assert "the weights are random" in done.stderr
    assert set(bench["latency_ms"]) >= {"p50", "p90", "p99"}
    assert set(bench["stages_ms"]) == {"preprocess", "infer", "class_map"}
    assert bench["fps"] > 0
    assert bench["peak_rss_mib"] > 10
    assert (bench["precision"], bench["size"]) == ("fp32", "64x96")
    assert len(bench["samples_ms"]) == 3
    shown = json_of(segdeploy("inspect", "build/little-fp32", "--json", cwd=place))
    assert shown["kind"] == "engine"
    assert shown["weights"] == "random"


def test_run_eval_and_compare(place: Path) -> None:
    segdeploy("build-engine", cwd=place)
    images = pictures(place / "images")
    ran = json_of(
        segdeploy("run", "-s", images, "-o", "over", "--masks", "masks", "--json", cwd=place)
    )
    assert ran["frames"] == 3
    mask = cv2.imread(str(place / "masks" / "f1.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (64, 96)
    assert set(np.unique(mask)) <= {0, 1, 2}
    assert len(list((place / "over").iterdir())) == 3
    # Labels that are the engine's own answers: a perfect score, by definition.
    scored = json_of(
        segdeploy("eval", "--images", images, "--labels", "masks", "--json", cwd=place)
    )
    assert scored["miou"] == pytest.approx(100)
    assert scored["pixel_accuracy"] == pytest.approx(100)
    assert scored["images"] == 3
    assert set(scored["per_class_iou"]) == {"red", "green", "blue"}
    write_little(place / "other.onnx", little_spec())
    agreed = json_of(
        segdeploy(
            "compare", "build/little-fp32", "other.onnx", "--images", images, "--json", cwd=place
        )
    )
    assert (agreed["agreement"], agreed["miou"], agreed["images"]) == (1.0, 100.0, 3)


def test_errors_are_one_message_and_exit_code_1(place: Path) -> None:
    for arguments in (
        ("bench",),  # nothing built yet
        ("build-engine", "missing.onnx"),
        ("bench", "missing-folder"),
        ("inspect", "missing"),
        ("run", "-s", "missing.mp4", "-o", "x.mp4"),
        ("run", "-s", "missing.mp4"),
        ("bench", "build/little.onnx", "--size", "huge"),
        ("bench", "build/little.onnx", "--size", "8x8"),
        ("eval", "--images", "a", "--labels", "b"),
        ("export", "--checkpoint", "./no-such-folder"),
        ("export", "--variant", "b9"),
    ):
        done = segdeploy(*arguments, cwd=place)
        assert done.returncode == 1, (arguments, done.stderr)
        assert done.stderr.count("error: ") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_an_error_with_json_is_one_object_too(place: Path) -> None:
    done = segdeploy("bench", "missing-folder", "--json", cwd=place)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "EngineFolderError"
    assert "missing-folder" in error["found"]


def test_wrong_usage_is_exit_code_2(place: Path) -> None:
    assert segdeploy("bench", "--no-such-option", cwd=place).returncode == 2
    assert segdeploy("eval", cwd=place).returncode == 2
    assert segdeploy("no-such-command", cwd=place).returncode == 2


def test_version(place: Path) -> None:
    from segformer_deploy import __version__

    assert segdeploy("--version", cwd=place).stdout.strip() == f"segdeploy {__version__}"


def test_version_is_the_packages(place: Path) -> None:
    from segformer_deploy import __version__

    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in text
