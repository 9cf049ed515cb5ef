"""Files take turns on the engine, and only rounds after the warm-up count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.backend import EngineOptions
from segformer_deploy.errors import OnnxFileError
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow import race as race_module
from segformer_deploy.workflow.race import WARM_UP, lap_from_samples, race
from tests.little import write_little
from tests.workflow.small import saved


class Fakes:
    """Engines whose runs take a time of our own choosing, in order of their turns."""

    def __init__(self, milliseconds: dict[str, list[float]]) -> None:
        self.milliseconds = milliseconds
        self.now = 0.0
        self.runs: list[str] = []
        self.images: list[Any] = []
        self.closed: list[str] = []

    def engine_from_onnx(self, path: Path, _options: EngineOptions) -> Any:
        return Chosen(Fake(self, path.stem), "a backend")


@dataclass
class Chosen:
    engine: Fake
    backend: str


class Fake:
    def __init__(self, fakes: Fakes, name: str) -> None:
        self.fakes, self.name = fakes, name

    def session(self) -> Fake:
        return self

    def run(self, arrays: dict[str, Any]) -> None:
        self.fakes.runs.append(self.name)
        self.fakes.images.append(arrays["image"])
        turn = self.fakes.runs.count(self.name) - 1
        self.fakes.now += self.fakes.milliseconds[self.name][turn] / 1000
        if self.fakes.milliseconds[self.name][turn] < 0:
            raise RuntimeError("failed")

    def close(self) -> None:
        self.fakes.closed.append(self.name)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(race_module, "_PAUSE_S", 0)

    def with_fakes(fakes: Fakes) -> Fakes:
        monkeypatch.setattr(race_module, "engine_from_onnx", fakes.engine_from_onnx)
        monkeypatch.setattr(race_module.time, "perf_counter", lambda: fakes.now)
        return fakes

    return with_fakes


FILES = {"fp32": Path("a.onnx"), "int8": Path("b.onnx")}
SIZE = FrameSize(64, 96)


def test_files_take_turns_and_warm_up_counts_for_nothing(install: Any) -> None:
    warm_up = [900.0] * WARM_UP
    fakes = install(Fakes({"a": [*warm_up, 7, 5, 90], "b": [*warm_up, 3, 1, 2]}))
    rounds: list[int] = []
    laps = race(FILES, EngineOptions(), SIZE, rounds=3, on_round=rounds.append)
    assert fakes.runs == ["a", "b"] * (WARM_UP + 3)
    assert rounds == list(range(1, WARM_UP + 4))
    assert laps["fp32"].median_ms == pytest.approx(7)
    assert laps["int8"].median_ms == pytest.approx(2)
    assert laps["fp32"].samples_ms == pytest.approx((7, 5, 90))
    assert (laps["int8"].engine, laps["int8"].backend) == ("b", "a backend")
    assert laps["int8"].to_dict()["samples_ms"] == pytest.approx([3, 1, 2])
    assert {image.shape for image in fakes.images} == {(1, 64, 96, 3)}
    assert all(np.array_equal(image, fakes.images[0]) for image in fakes.images)
    assert sorted(set(fakes.closed)) == ["a", "b"]


def test_a_run_that_fails_leaves_nothing_open(install: Any) -> None:
    fakes = install(Fakes({"a": [1, 1], "b": [1, -1]}))
    with pytest.raises(RuntimeError, match="failed"):
        race(FILES, EngineOptions(), SIZE)
    assert sorted(set(fakes.closed)) == ["a", "b"]


def test_real_files_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "_PAUSE_S", 0)
    files = {"one": saved(tmp_path / "small.onnx"), "two": write_little(tmp_path / "little.onnx")}
    laps = race(files, EngineOptions("onnxruntime"), SIZE, rounds=3)
    for lap in laps.values():
        assert len(lap.samples_ms) == 3
        assert min(lap.samples_ms) > 0
        assert lap.median_ms == pytest.approx(np.median(lap.samples_ms), abs=1e-3)
        assert (lap.backend, lap.engine.split()[0]) == ("onnxruntime", "onnxruntime")
    with pytest.raises(OnnxFileError):
        race({"none": tmp_path / "none.onnx"}, EngineOptions("onnxruntime"), SIZE)


def test_other_works_minutes_do_not_decide() -> None:
    """Eleven of thirty runs beside another process: the median stays, and so does the decision."""
    quiet, busy = [10.0] * 19, [25.0] * 11
    lap = lap_from_samples("an engine", "native", [*busy, *quiet])
    assert (lap.median_ms, lap.undisturbed_ms) == (10.0, 10.0)
    worse = lap_from_samples("an engine", "native", [*busy, *busy, *quiet])
    assert (worse.median_ms, worse.undisturbed_ms) == (25.0, 10.0)
