"""fit as a user types it, on networks small enough to measure here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from segformer_deploy.cli import fit
from segformer_deploy.cli.fleet_options import milliseconds_from_text
from segformer_deploy.errors import InputError, SegdeployError
from segformer_deploy.spec import Weights
from tests.little import little_spec, write_little

Type = Callable[..., dict[str, Any]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Type:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.chdir(tmp_path)
    write_little(tmp_path / "random.onnx")
    write_little(tmp_path / "trained.onnx", little_spec(weights=Weights("a", "b", "0" * 64)))
    app = typer.Typer()
    app.command()(fit.command)

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, "--json"])
        if isinstance(done.exception, SegdeployError):
            raise done.exception
        assert done.exit_code == code, done.output
        return {**json.loads(done.stdout), "stderr": done.stderr}

    return run


def labelled(folder: Path) -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(2):
        frame = rng.integers(0, 256, (64, 96, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), frame)
        cv2.imwrite(str(folder / "labels" / f"{index}.png"), frame[..., 0] % 3)
    return ("--images", "images", "--labels", "labels")


FAST = ("--backends", "onnxruntime", "--runs", "2", "--threads", "1")


def test_it_takes_the_largest_that_fits(typed: Type) -> None:
    words = ("random.onnx", "--memory", "4G", "--latency", "10s", "--sizes", "64x96,96x96", *FAST)
    report = typed(*words)
    assert report["accuracy"] == "order"
    assert report["winner"] == "random-96x96-fp32-onnxruntime-t1"
    assert report["commands"] == [
        "segdeploy build-engine random.onnx --opt 96x96 --backend onnxruntime"
    ]
    assert "accuracy was not measured" in report["stderr"]
    assert "next: segdeploy build-engine" in report["stderr"]
    assert (report["measured"], report["kept"]) == (2, 0)
    again = typed(*words)
    assert (again["measured"], again["kept"]) == (0, 2)


def test_nothing_fits(typed: Type) -> None:
    report = typed("random.onnx", "--memory", "1M", "--sizes", "64x96,96x96", *FAST, code=1)
    assert report["winner"] is None
    assert list(report["skipped"]) == ["random-96x96-fp32-onnxruntime-t1"]
    assert "skipped: random-64x96-fp32-onnxruntime-t1 is smaller" in report["stderr"]
    assert "nothing measured is within the budget" in report["stderr"]


def test_every_case_failed(typed: Type) -> None:
    words = ("random.onnx", "--memory", "4G", "--sizes", "64x96", "--backends", "native")
    report = typed(*words, code=1)
    assert (report["winner"], len(report["failed"])) == (None, 1)
    assert "error: no case gave figures; the first: " in report["stderr"]
    assert "the native backend cannot run this graph" in report["stderr"]
    for wrong in ("matplotlib", "allow more"):  # neither is to blame
        assert wrong not in report["stderr"]


def test_a_stored_result_without_its_latency_is_measured_again(typed: Type, tmp_path: Path) -> None:
    words = ("random.onnx", "--memory", "4G", "--sizes", "64x96", *FAST)
    typed(*words)
    [file] = (tmp_path / "results" / "fit").glob("*.json")
    result = json.loads(file.read_text())
    del result["latency_ms"]
    file.write_text(json.dumps(result))
    again = typed(*words)
    assert (again["measured"], again["winner"]) == (1, "random-64x96-fp32-onnxruntime-t1")


def test_engines_of_one_name_are_refused_before_anything_is_measured(
    typed: Type, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        write_little(tmp_path / folder / "model.onnx")
    for pair in (("a/model.onnx", "b/model.onnx"), ("random.onnx", "./random.onnx")):
        with pytest.raises(InputError, match="two cases are named") as caught:
            typed(*pair, "--memory", "4G", "--sizes", "64x96", *FAST)
        assert all(str(Path(name)) in str(caught.value) for name in pair)
    assert not (tmp_path / "results").exists()


def test_a_custom_network_among_others_needs_labelled_frames(typed: Type, tmp_path: Path) -> None:
    weights = Weights("a", "b", "0" * 64)
    write_little(tmp_path / "pruned.onnx", little_spec(variant="custom", weights=weights))
    words = ("trained.onnx", "pruned.onnx", "--memory", "4G", "--sizes", "64x96", *FAST)
    with pytest.raises(InputError, match="variant 'custom' among 2 engines"):
        typed(*words)
    assert not (tmp_path / "results").exists()
    report = typed(*words, *labelled(tmp_path))
    assert report["accuracy"] == "miou"
    alone = typed("pruned.onnx", "--memory", "4G", "--sizes", "64x96,96x96", *FAST)
    assert alone["winner"] == "pruned-96x96-fp32-onnxruntime-t1"


def test_labelled_frames_are_scored(typed: Type, tmp_path: Path) -> None:
    words = ("trained.onnx", "--min-miou", "0.1", "--sizes", "64x96", *FAST, *labelled(tmp_path))
    report = typed(*words)
    assert report["accuracy"] == "miou"
    assert 0 < report["points"][0]["miou"] < 100
    assert report["winner"] == "trained-64x96-fp32-onnxruntime-t1"


def test_mistakes(typed: Type, tmp_path: Path) -> None:
    pairs = labelled(tmp_path)
    for words, said in (
        (("random.onnx",), "no budget"),
        (("random.onnx", "--min-miou", "40"), "--min-miou without labelled frames"),
        (("random.onnx", "--min-miou", "nan", *pairs), "--min-miou nan"),
        (("random.onnx", "--min-miou", "4300", *pairs), "--min-miou 4300"),
        (("random.onnx", "--min-miou", "-1", *pairs), "--min-miou -1"),
        (("random.onnx", "--memory", "9" * 400), "a memory size of '999"),
        (("random.onnx", "--latency", "9" * 400), "a time of '999"),
        (("random.onnx", "--latency", "1s", "--classes", "4"), "--classes 4 of engines"),
        (("random.onnx", "--latency", "soon"), "a time of 'soon'"),
        (("random.onnx", "--latency", "1s", "--percentile", "p42"), "percentile 'p42'"),
        (("random.onnx", "--latency", "1s", "--variants", "b0"), "engines that are there"),
        (("random.onnx", "--latency", "1s", *pairs), "networks of random weights"),
        (("random.onnx", "--latency", "1s", "--sizes", "8x"), "8x"),
    ):
        with pytest.raises(SegdeployError) as caught:
            typed(*words)
        assert said in str(caught.value)


@pytest.mark.parametrize(("text", "ms"), [("200ms", 200), ("0.2s", 200), ("33.5", 33.5)])
def test_times(text: str, ms: float) -> None:
    assert milliseconds_from_text(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["", "0ms", "-1", "2min", "ms"])
def test_no_times(text: str) -> None:
    with pytest.raises(InputError, match="a time of"):
        milliseconds_from_text(text)
