"""fit --cameras as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segformer_deploy.bench import fleet_report
from segformer_deploy.cli import fit
from segformer_deploy.cli import fleet as cli_fleet
from segformer_deploy.cli.common import emit
from segformer_deploy.errors import InputError, OutputError, SegdeployError
from tests.little import write_little

Type = Callable[..., dict[str, Any]]
CAMERAS = ("--cameras", "20")
ORIN = (*CAMERAS, "--device", "orin-nano-8gb")


def _no_json(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


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
        data = json.loads(done.stdout, parse_constant=_no_json)
        return {**data, "stderr": done.stderr}

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
        (*ORIN, "--jitter", "1000s"),
        (*ORIN, "--fps", "30", "--jitter", "167ms"),  # above five periods
        (*ORIN, "--overhead", "9" * 300),
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


@pytest.mark.parametrize("place", ["afile", "afile/x", "afile/x/y"])
def test_a_file_in_the_folders_place_is_said_before_the_work(
    typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "afile").write_text("mine")
    for name in ("_estimated", "_measured_here"):
        monkeypatch.setattr(cli_fleet, name, _too_late)
    for words in (ORIN, CAMERAS):
        with pytest.raises(OutputError, match=f"cannot write {place}: Not a directory") as refused:
            typed(*words, "--output", place)
        assert "--output" in refused.value.next_step
    assert (tmp_path / "afile").read_text() == "mine"


def _too_late(*_: object) -> None:
    raise AssertionError("begun before the folder was looked at")


def test_a_folder_that_may_not_be_written(
    typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever is root may write anywhere: ask as the system would answer others.
    monkeypatch.setattr(cli_fleet.os, "access", lambda place, _: Path(place) != tmp_path)
    with pytest.raises(OutputError, match="Permission denied"):
        typed(*ORIN, "--output", "new/folder")
    assert not (tmp_path / "new").exists()


def test_the_answer_outlives_a_chart_that_cannot_be_written(
    typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OutputError("cannot write fleet.png: No space left on device")

    monkeypatch.setattr(fleet_report, "drawing", full)
    data = typed(*ORIN, code=1)
    assert data["devices"]["likely"] > 0
    assert data["chart"] is None
    shown = data["stderr"]
    assert f"estimated: {data['devices']['likely']} devices" in shown
    assert shown.index("estimated: ") < shown.index("error: cannot write fleet.png")


def test_a_queue_too_near_saturation(typed: Type, tmp_path: Path) -> None:
    samples = [9.9991 - 9, 9.9989 + 9] * 50
    (tmp_path / "here.json").write_text(json.dumps({"samples_ms": samples, "error": None}))
    words = ("--measured", "here.json", "--policy", "queue", "--latency", "5s")
    data = typed("--cameras", "10", *words)
    assert data["devices"]["likely"] == 2
    assert data["points"][0]["settled"] is False
    assert "not settled" in data["stderr"]
    assert "too near saturation" in data["stderr"]


@pytest.mark.parametrize("ms", [1e308, 4e6, 1e-300])
def test_samples_that_are_no_frames_time(typed: Type, tmp_path: Path, ms: float) -> None:
    (tmp_path / "here.json").write_text(json.dumps({"samples_ms": [5.0, ms], "error": None}))
    with pytest.raises(InputError, match="a frame of") as refused:
        typed(*CAMERAS, "--measured", "here.json")
    assert "an hour" in refused.value.expected


def test_jitter_up_to_five_periods_is_simulated(typed: Type) -> None:
    data = typed(*ORIN, "--fps", "10", "--policy", "queue", "--jitter", "500ms")
    assert data["devices"]["likely"] > 0
    with pytest.raises(InputError, match="jitter of 501 ms at 10") as refused:
        typed(*ORIN, "--fps", "10", "--jitter", "501ms")
    assert "500 ms" in refused.value.expected


def test_no_figure_of_a_command_is_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": [1.5, float("nan")], "b": {"c": (float("inf"), None)}, "d": "NaN"})
    text = capsys.readouterr().out
    found = json.loads(text, parse_constant=_no_json)
    assert found == {"a": [1.5, None], "b": {"c": [None, None]}, "d": "NaN"}
