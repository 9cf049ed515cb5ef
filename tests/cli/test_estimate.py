"""`segdeploy estimate` as a user types it: estimated is said, the error comes with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from segformer_deploy.bench.devices import all_devices
from segformer_deploy.bench.estimate import stored_fit
from segformer_deploy.cli import estimate
from segformer_deploy.errors import (
    FrameError,
    InputError,
    OnnxFileError,
    SegdeployError,
    SpecError,
)
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from tests.little import little_spec, write_little

app = typer.Typer()
app.command("estimate")(estimate.command)
app.callback()(lambda: None)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    result: Result = CliRunner().invoke(app, ["estimate", *arguments])
    if isinstance(result.exception, SegdeployError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def json_of(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert len(result.stdout.splitlines()) == 1
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def test_one_device() -> None:
    result = run("--device", "orin-nano-8gb", "--variant", "b0")
    assert result.stdout == ""
    error = stored_fit()["errors"]["jetson"]
    assert "ESTIMATED, not measured: SegFormer-B0, 512x512, 150 classes" in result.stderr
    assert f"median {error['median']:.2f}x, 90th percentile {error['p90']:.2f}x" in result.stderr
    assert "left out with all devices of the same cores" in result.stderr
    assert "published on this device: b0 512x512 fp16, published form: 22.6924 ms" in result.stderr
    # Wherever a figure of ours stands, so does the word.
    assert "estimated ┃" in result.stderr.split("latency, ms")[0]
    assert not re.search(r"(?<!not )measured", result.stderr)


def test_json_holds_one_object() -> None:
    data = json_of("--device", "Raspberry Pi 4", "--variant", "b2", "--size", "256x384")
    assert data["estimated"] is True
    assert (data["variant"], data["size"], data["classes"]) == ("b2", "256x384", 150)
    assert (data["precision"], data["form"]) == ("fp32", "deploy")
    assert data["device"]["slug"] == "rpi-4"
    bounds = data["latency_ms"]
    assert bounds["low"] < bounds["estimate"] < bounds["high"]
    assert data["error"]["known"]
    assert data["error"]["rows"] == 10
    assert data["memory"]["total_bytes"] > data["memory"]["weights_bytes"]


def test_all_devices() -> None:
    result = run("--all", "--variant", "b1", "--json")
    data = json.loads(result.stdout)
    assert data["estimated"] is True
    slugs = [one["device"]["slug"] for one in data["devices"]]
    assert slugs == [device.slug for device in all_devices()]
    assert all(one["estimated"] for one in data["devices"])
    for slug in slugs:
        assert f" {slug} " in result.stderr
    unknown = {one["device"]["group"] for one in data["devices"] if not one["error"]["known"]}
    assert unknown == {"gpu-card", "cpu-x86"}
    assert "error, gpu-card: unknown" in result.stderr
    assert "error, cpu-arm: median" in result.stderr


def test_the_list() -> None:
    result = run("--list", "--json")
    devices = json.loads(result.stdout)["devices"]
    assert len(devices) == len(all_devices())
    assert "orin-nano" in next(d for d in devices if d["slug"] == "orin-nano-8gb")["aliases"]
    for device in devices:
        assert f" {device['slug']} " in result.stderr


def test_the_models_own_variant_size_classes_and_precision(tmp_path: Path) -> None:
    spec = little_spec(variant="b3", resize=ResizeRule.stretch_to(FrameSize(96, 160)))
    onnx = write_little(tmp_path / "m.onnx", spec)
    data = json_of(str(onnx), "--device", "orin-nano-8gb")
    assert (data["variant"], data["size"], data["classes"]) == ("b3", "96x160", 3)
    assert data["precision"] == "fp32"
    folder = build_engine(onnx, BuildOptions(output=tmp_path / "engine")).folder
    assert json_of(str(folder), "--device", "orin-nano-8gb") == data
    other = json_of(
        str(onnx), "--device", "t4", "--size", "64x64", "--classes", "9", "--precision", "int8"
    )
    assert (other["size"], other["classes"], other["precision"]) == ("64x64", 9, "int8")


def test_the_newest_under_build_is_taken_and_named(tmp_path: Path) -> None:
    write_little(tmp_path / "build" / "m.onnx", little_spec(variant="b4"))
    result = run("--device", "l4", "--json")
    assert json.loads(result.stdout)["variant"] == "b4"
    assert "the newest under build/" in result.stderr


def test_without_a_model_b0_is_said_aloud() -> None:
    assert "b0 (neither a MODEL nor --variant was given)" in run("--device", "t4").stderr


def test_precision_and_form_change_the_estimate() -> None:
    arguments = ("--device", "orin-nano-8gb", "--variant", "b0")
    usual = json_of(*arguments)
    assert usual["precision"] == "fp16"
    times = [
        json_of(*arguments, "--precision", name)["latency_ms"]["estimate"]
        for name in ("fp32", "fp16", "int8")
    ]
    assert times == sorted(times, reverse=True)
    published = json_of(*arguments, "--form", "published")
    assert published["macs"] > 2 * usual["macs"]


@pytest.mark.parametrize(
    ("arguments", "kind", "found"),
    [
        (["--device", "orin-nanoo"], InputError, "no device is named 'orin-nanoo'"),
        ([], InputError, "no device was named"),
        (["--all", "--device", "t4"], InputError, "both --device and --all"),
        (["--device", "t4", "--variant", "b7"], SpecError, "variant 'b7'"),
        (["--device", "t4", "--variant", "b0", "--precision", "fp8"], SpecError, "fp8"),
        (["--device", "t4", "--variant", "b0", "--form", "x"], SpecError, "--form x"),
        (["--device", "t4", "--variant", "b0", "--size", "9x9"], FrameError, "9x9"),
        (["--device", "t4", "--variant", "b0", "--size", "big"], SpecError, "big"),
        (["m.onnx", "--device", "t4"], OnnxFileError, "m.onnx"),
        (["m.onnx", "--variant", "b0", "--device", "t4"], SpecError, "both a MODEL"),
    ],
)
def test_mistakes(arguments: list[str], kind: type[SegdeployError], found: str) -> None:
    with pytest.raises(kind) as caught:
        run(*arguments)
    assert found in caught.value.found
    assert caught.value.expected


def test_a_network_that_is_no_variant(tmp_path: Path) -> None:
    onnx = write_little(tmp_path / "m.onnx", little_spec(variant="custom"))
    with pytest.raises(SpecError, match="custom") as caught:
        run(str(onnx), "--device", "t4")
    assert "--variant" in caught.value.next_step


def test_the_newest_under_build_is_named_where_it_is_no_variant(tmp_path: Path) -> None:
    write_little(tmp_path / "build" / "mine.onnx", little_spec(variant="custom"))
    with pytest.raises(SpecError, match="custom") as caught:
        run("--device", "rpi-5")
    assert caught.value.found.startswith("build/mine.onnx is of no variant")
