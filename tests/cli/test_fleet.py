"""fit --cameras as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segformer_deploy.cli import fit
from segformer_deploy.errors import InputError, SegdeployError
from tests.little import write_little

Type = Callable[..., dict[str, Any]]
CAMERAS = ("--cameras", "20")
ORIN = (*CAMERAS, "--device", "orin-nano-8gb")


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Type:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(fit.command)

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, "--json"])
        if isinstance(done.exception, SegdeployError):
            raise done.exception
        assert done.exit_code == code, done.output
        return {**json.loads(done.stdout), "stderr": done.stderr}

    return run


def test_a_device_that_is_not_here(typed: Type) -> None:
    data = typed(*ORIN, "--fps", "30", "--latency", "200ms", "--variant", "b0", "--size", "512x512")
    devices = data["devices"]
    assert 0 < devices["low"] < devices["likely"] < devices["high"]
    assert data["budget"] == {"latency_ms": 200.0, "percentile": "p99", "drops_percent": 1.0}
    assert (data["cameras"], data["fps"], data["policy"], data["streams"]) == (
        20,
        30.0,
        "newest",
        1,
    )
    assert Path(data["chart"]).is_file()
    shown = data["stderr"]
    assert "ESTIMATED by simulation" in shown
    assert f"estimated: {devices['likely']} devices" in shown
    assert f"{devices['low']} devices at best, {devices['high']} devices at worst" in shown
    assert "network alone" in shown
    point = next(one for one in data["points"] if one["devices"] == devices["likely"])
    assert point["within"]


def test_a_device_of_unknown_error(typed: Type) -> None:
    data = typed(*CAMERAS, "--device", "l4")
    assert data["service"]["low_is"] == "roofline"
    assert data["devices"]["high"] is None
    assert "error of that estimate is UNKNOWN" in data["stderr"]
    assert "at least" in data["stderr"]
    assert "--measured FILE" in data["stderr"]


def test_options_reach_the_simulation(typed: Type) -> None:
    words = ("--policy", "queue", "--streams", "2", "--jitter", "20ms", "--percentile", "p90")
    plain = typed(*ORIN, *words)
    assert (plain["policy"], plain["streams"], plain["jitter_ms"]) == ("queue", 2, 20.0)
    assert plain["budget"]["percentile"] == "p90"
    more = typed(*ORIN, *words, "--overhead", "20ms")
    grown = more["service"]["ms"]["likely"] - plain["service"]["ms"]["likely"]
    assert grown == pytest.approx(20)
    assert more["devices"]["likely"] > plain["devices"]["likely"]
    coarse = typed(*ORIN, "--fps", "30", "--max-drops", "60")
    fine = typed(*ORIN, "--fps", "30", "--max-drops", "0")
    assert coarse["devices"]["likely"] < fine["devices"]["likely"]
    slower = typed(*ORIN, "--precision", "fp32", "--classes", "19")
    assert slower["service"]["ms"]["likely"] > 1.5 * plain["service"]["ms"]["likely"]


def test_no_number_is_enough(typed: Type) -> None:
    data = typed(*CAMERAS, "--device", "rpi-5", "--latency", "100ms", code=1)
    assert data["devices"] == {"low": None, "likely": None, "high": None}
    assert data["chart"] is None
    assert "above 100 ms" in data["why_none"]["likely"]
    assert "error: no number of devices is enough" in data["stderr"]


def test_measured_here_and_from_its_file(typed: Type, tmp_path: Path) -> None:
    write_little(tmp_path / "little.onnx")
    here = typed("little.onnx", *CAMERAS, "--size", "64x96", "--runs", "5", "--fps", "1")
    assert here["service"]["measured"] is True
    assert here["service"]["samples"] == 5
    assert "measured here: little.onnx 64x96" in here["service"]["source"]
    assert here["devices"]["low"] is None
    (tmp_path / "here.json").write_text(
        json.dumps({"samples_ms": [40.0] * 100, "error": None, "engine": "e"})
    )
    found = typed(*CAMERAS, "--measured", "here.json", "--fps", "10", "--latency", "200ms")
    # 20 cameras of 10 frames/s at 40 ms are eight devices' work; 2 cameras fit on one.
    assert found["devices"]["likely"] == 10
    words = ("--measured", "here.json", "--batch", "4", "--batch-time", "80ms")
    batched = typed(*CAMERAS, *words, "--latency", "200ms", "--overhead", "1ms")
    assert (batched["batch"], batched["batch_ms"]) == (4, 84.0)
    assert batched["devices"]["likely"] < 10
    with pytest.raises(InputError, match="a batch of 4"):
        typed(*CAMERAS, *words[:-1], "39ms")


@pytest.mark.parametrize(
    "words",
    [
        (*ORIN, "--memory", "256M"),
        (*ORIN, "--min-miou", "40"),
        (*ORIN, "--variants", "b0"),
        (*ORIN, "--sizes", "64x64"),
        (*ORIN, "--backends", "native"),
        (*ORIN, "--threads", "1"),
        (*ORIN, "--measured", "here.json"),
        (*ORIN, "--runs", "5"),
        (*ORIN, "--frame", "64x64"),
        ("engine", *ORIN),
        ("engine", *CAMERAS, "--measured", "here.json"),
        ("engine", *CAMERAS, "--variant", "b0"),
        ("engine", *CAMERAS, "--classes", "19"),
        ("a", "b", *CAMERAS),
        (*CAMERAS, "--measured", "here.json", "--precision", "fp16"),
        (*CAMERAS, "--measured", "here.json", "--size", "64x64"),
        (*ORIN, "--fps", "0"),
        (*ORIN, "--fps", "nan"),
        (*ORIN, "--max-drops", "100"),
        (*ORIN, "--max-drops", "-1"),
        (*ORIN, "--batch", "4", "--batch-time", "20ms"),
        (*CAMERAS, "--measured", "here.json", "--batch", "4"),
        (*CAMERAS, "--measured", "here.json", "--batch-time", "4ms"),
        (*ORIN, "--policy", "oldest"),
        (*ORIN, "--policy", "queue", "--max-drops", "2"),
        (*ORIN, "--precision", "fp8"),
        (*ORIN, "--percentile", "p95"),
        (*ORIN, "--latency", "-1"),
        (*ORIN, "--jitter", "x"),
        (*CAMERAS, "--device", "nothing-like-it"),
        CAMERAS,  # and no engine under build/
        ("--latency", "1s", "--fps", "10"),
        ("--latency", "1s", "--device", "l4"),
        ("--latency", "1s", "--size", "64x64"),
        ("--latency", "1s", "--policy", "newest"),
    ],
)
def test_senseless_questions_are_refused(typed: Type, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        typed(*words)


def test_the_refusal_names_the_way_out(typed: Type) -> None:
    with pytest.raises(InputError, match="--memory with --cameras") as refused:
        typed(*ORIN, "--memory", "256M")
    assert "segdeploy estimate" in refused.value.next_step
    with pytest.raises(InputError, match="--variant without --cameras") as refused:
        typed("--latency", "1s", "--variant", "b0")
    assert "--variants" in refused.value.next_step
