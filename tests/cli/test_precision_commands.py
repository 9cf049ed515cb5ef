"""calibrate, build-engine --int8 and --fp16, compare --layers: as a user types them.

They run in this process, through the console entry point: torch and onnx are loaded once.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest
from onnx import TensorProto

from segformer_deploy.calibrate.ranges import read_ranges
from segformer_deploy.cli import main as main_module
from segformer_deploy.engine.package import check_folder
from segformer_deploy.graph.metadata import checked_spec
from segformer_deploy.workflow import choose
from tests.workflow.small import hurry, label_pictures, laps, pictures, saved, small_model

ANY_LOSS = ("--min-agreement", "0", "--max-drop", "100")
ORT = ("--backend", "onnxruntime")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout; anything else there is an error."""
        assert self.code == 0, self.stderr
        answer = json.loads(self.stdout)
        assert isinstance(answer, dict)
        return answer

    @property
    def message(self) -> str:
        """The one message of a command that failed."""
        assert self.code == 1, (self.code, self.stderr)
        assert self.stderr.count("error: ") == 1, self.stderr
        assert "Traceback" not in self.stderr
        return self.stderr.split("error: ")[1]


class Place:
    """A folder with `build/small.onnx` and six pictures in `frames`."""

    def __init__(
        self, root: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.root, self._capsys, self._patch = root, capsys, patch
        saved(root / "build" / "small.onnx")
        pictures(root / "frames", 6)

    def __call__(self, *arguments: str | Path) -> Done:
        self._capsys.readouterr()
        self._patch.setattr(sys, "argv", ["segdeploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main_module.main()
        printed = self._capsys.readouterr()
        return Done(int(caught.value.code or 0), printed.out, printed.err)

    def takes(self, **milliseconds: float) -> None:
        """The race's outcome from here on."""
        self._patch.setattr(choose, "race", lambda *_, **__: laps(**milliseconds))

    def gate(self, labels: bool = True) -> tuple[str, ...]:
        if not (self.root / "gate").exists():
            pictures(self.root / "gate", 3, seed=5)
            label_pictures(self.root / "truth", 3)
        return ("--gate-images", "gate", *(("--gate-labels", "truth") if labels else ()))


@pytest.fixture
def place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Place:
    monkeypatch.chdir(tmp_path)
    hurry(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    return Place(tmp_path, capsys, monkeypatch)


# ---- calibrate -------------------------------------------------------------------------------


def test_calibrate_writes_ranges_and_names_the_next_step(place: Place) -> None:
    done = place("calibrate", "--images", "frames")
    assert (done.code, done.stdout) == (0, "")
    assert "ONNX: build/small.onnx (the newest under build/)" in done.stderr
    assert "WARNING: 6 frames to calibrate on" in done.stderr
    ranges = read_ranges(Path("calibration/small.ranges.json"))
    assert f"{len(ranges.ranges)} ranges from 6 frames at 64x96, percentile" in done.stderr
    assert "build-engine --int8 --calibration calibration/small.ranges.json" in done.stderr


def test_calibrate_with_sensitivity_as_json(place: Place) -> None:
    done = place(
        *("calibrate", "build/small.onnx", "--images", "frames", "--method", "minmax"),
        *("--no-equalise", "--samples", "2", "--sensitivity", "--chart", "bars.png"),
        *("-o", "R.json", "--opt", "96x64", "--json"),
    )
    answer = done.json
    assert answer["ranges"] == "R.json"
    assert (answer["method"], answer["frames"], answer["network"]) == ("minmax", 2, "96x64")
    assert answer["chart"] == "bars.png"
    assert cv2.imread("bars.png") is not None
    worst = answer["sensitivity"][0]["block"]
    assert worst in done.stderr
    assert "chart: bars.png" in done.stderr
    assert "WARNING" in done.stderr
    assert not read_ranges(Path("R.json")).equalisation


# ---- build-engine ----------------------------------------------------------------------------


def test_int8_is_calibrated_judged_and_built(place: Place) -> None:
    place.takes(fp32=8, int8=4)
    done = place(
        "build-engine",
        "--int8",
        "--calibration",
        "frames",
        *place.gate(),
        *ANY_LOSS,
        *ORT,
        "--json",
    )
    answer = done.json
    assert (answer["requested"], answer["delivered"]) == ("int8", "int8")
    assert answer["engine"] == "build/small-int8"
    told = json.loads(Path("build/small-int8/precision.json").read_text())
    assert answer["precision"] == told
    assert check_folder(Path("build/small-int8")).delivered == "int8"
    assert "int8 is built: 2.00 times as fast as fp32" in done.stderr
    # The table per class, the sums, and what part of the work is INT8.
    for name in checked_spec(small_model()).class_names:
        assert name in done.stderr
    assert re.search(r"mIoU \d+\.\d\d -> \d+\.\d\d %: drop -?\d+\.\d\d points", done.stderr)
    assert re.search(r"\d+\.\d\d % of the pixels agree with fp32", done.stderr)
    assert "of it in INT8" in done.stderr
    assert "int8 file: 0." in done.stderr
    assert place("inspect", "build/small-int8", "--json").json["kind"] == "engine"


def test_ranges_found_before_are_taken_and_force_builds_the_slower_one(place: Place) -> None:
    place.takes(fp32=4, int8=8)
    place("calibrate", "--images", "frames", "-o", "R.json")
    more = (*place.gate(labels=False), "--force", *ORT)
    answer = place("build-engine", "--int8", "--calibration", "R.json", *more, "--json").json
    assert answer["delivered"] == "int8"
    assert answer["precision"]["calibration"]["frames"] == 6
    assert answer["precision"]["report"]["labels"] is False


def test_fp16_that_is_slower_is_declined_with_exit_code_0(
    place: Place,
) -> None:
    place.takes(fp32=4, fp16=8)
    arguments = ("build-engine", "--fp16", "--calibration", "frames", *ANY_LOSS, *ORT, "--json")
    done = place(*arguments)
    assert (done.json["requested"], done.json["delivered"]) == ("fp16", "fp32")
    assert "fp16 was asked for and fp32 is built" in done.stderr
    assert any("fp32 is built" in note for note in done.json["notes"])


def test_a_broken_budget_is_exit_code_1_and_one_object(place: Place) -> None:
    place.takes(fp32=8, fp16=4)
    arguments = ("build-engine", "--fp16", "--calibration", "frames", "--min-agreement", "100")
    done = place(*arguments, *ORT, "--json")
    assert "of the pixels agree with FP32 (at least 100 %)" in done.message
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "VerificationError"
    assert "--min-agreement" in error["next"]
    assert not Path("build/small-fp16").exists()


def test_the_graph_alone_is_signed_with_fp16_unless_a_cpu_is_named(place: Place) -> None:
    arguments = ("build-engine", "--int8", "--onnx-only", "--backend", "tensorrt-rtx")
    done = place(*arguments, "--calibration", "frames", *ANY_LOSS, "--json")
    assert done.json["onnx"] == "build/small-int8.onnx"
    assert (done.json["target"], done.json["graph"]["spelling"]) == ("gpu", "signed")
    assert "build/small-int8.onnx: int8, for a gpu" in done.stderr
    assert "the weights are random" in done.stderr
    types = {t.data_type for t in onnx.load("build/small-int8.onnx").graph.initializer}
    assert {TensorProto.INT8, TensorProto.FLOAT16} <= types
    assert TensorProto.UINT8 not in types
    told = json.loads(Path("build/small-int8.precision.json").read_text())
    assert (told["delivered"], told["bytes"]) == ("int8", done.json["bytes"])


@pytest.mark.parametrize(
    ("asked", "kind"), [("fp16", TensorProto.FLOAT16), ("fp32", TensorProto.FLOAT)]
)
def test_the_logits_are_of_the_type_that_was_asked_for(place: Place, asked: str, kind: int) -> None:
    arguments = ("build-engine", "--fp16", "--onnx-only", "--logits", asked)
    assert place(*arguments, "--calibration", "frames", *ANY_LOSS).code == 0
    output = onnx.load("build/small-fp16.onnx").graph.output[0]
    assert output.type.tensor_type.elem_type == kind


def test_logits_of_another_type_are_refused(place: Place) -> None:
    done = place("build-engine", "--fp16", "--logits", "int8", "--calibration", "frames")
    assert done.code == 1
    assert "logits in 'int8'" in done.stderr


# ---- compare --layers ------------------------------------------------------------------------


def test_layers_show_where_two_graphs_part(place: Place) -> None:
    arguments = ("build-engine", "build/small.onnx", "--int8", "--onnx-only", *ORT)
    assert place(*arguments, "--calibration", "frames", *ANY_LOSS).code == 0
    report = json.loads(Path("build/small-int8.precision.json").read_text())
    assert (report["target"], report["graph"]["spelling"]) == ("cpu", "unsigned")
    pair = ("build/small.onnx", "build/small-int8.onnx", "--images", "frames", "--layers")
    done = place("compare", *pair, "--json")
    answer = done.json
    assert (answer["a"], answer["frames"]) == ("build/small.onnx", 4)
    logits = answer["layers"][-1]
    assert logits["name"] == "logits"
    assert 0 < logits["error"] < 0.5
    assert f"logits: {100 * logits['error']:.3f} % off" in done.stderr
    worst = max(answer["layers"], key=lambda one: one["added"])
    assert worst["name"] in done.stderr
    shown = place("compare", *pair)
    assert (shown.code, shown.stdout) == (0, "")
    same = place("compare", pair[0], *pair[:1], *pair[2:], "--json").json
    assert {one["error"] for one in same["layers"]} == {0.0}
