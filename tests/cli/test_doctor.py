"""`segdeploy doctor` as a user types it: a report, not a judgement, quick and without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segformer_deploy.cli import doctor
from segformer_deploy.engine import package
from segformer_deploy.errors import BackendError
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.doctor.diagnosis import Diagnosis
from segformer_deploy.workflow.doctor.rules import findings_of
from tests.cli.test_cli import json_of, segdeploy
from tests.little import write_little
from tests.workflow.test_doctor import CASES, HEALTHY, JETSON

PARTS = ("machine", "memory", "GPU", "libraries", "video")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    return tmp_path


def test_a_report_in_an_empty_folder(place: Path) -> None:
    start = time.perf_counter()
    done = segdeploy("doctor", "--json", cwd=place)
    seconds = time.perf_counter() - start
    report = json_of(done)
    assert seconds < 10  # 0.4 s on a free machine; this one may be busy
    assert set(report) == {
        "build",
        "system",
        "cpu",
        "clocks",
        "memory",
        "gpu",
        "libraries",
        "video",
        "kernels",
        "engines",
        "findings",
    }
    assert (report["build"], report["engines"]) == ("build", [])
    assert report["cpu"]["usable_cores"] >= 1
    assert (report["gpu"]["why_none"] is None) == bool(report["gpu"]["gpus"])
    for part in PARTS:
        assert f"\n{part}\n" in f"\n{done.stderr}"
    assert "engine folders: none under build/" in done.stderr
    assert "findings: " in done.stderr


def test_findings_are_exit_code_0_and_come_last(place: Path) -> None:
    broken = place / "there" / "broken"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{}")
    done = segdeploy("doctor", "--build", "there", "--json", cwd=place)
    report = json_of(done)
    [engine] = report["engines"]
    assert (engine["path"], engine["runs"]) == ("there/broken", False)
    first = report["findings"][0]
    assert first["level"] == "fault"
    faults = [one["found"] for one in report["findings"] if one["level"] == "fault"]
    assert any(text.startswith("there/broken does not run here") for text in faults)
    assert done.stderr.index("findings: ") > done.stderr.index("engine folders under there/")


def test_a_folder_that_runs_here(place: Path) -> None:
    onnx = write_little(place / "little.onnx")
    build_engine(onnx, BuildOptions(output=place / "build" / "little"))
    done = segdeploy("doctor", "--json", cwd=place)
    [engine] = json_of(done)["engines"]
    assert (engine["path"], engine["runs"], engine["why"]) == ("build/little", True, None)
    assert (engine["backend"], engine["precision"]) == ("onnxruntime", "fp32")
    assert "does not run here" not in done.stderr


@pytest.mark.parametrize("missing", ["numpy", "cv2", "av", "onnxruntime"])
def test_a_library_that_is_missing_is_a_finding(place: Path, missing: str) -> None:
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "sys.argv = ['segdeploy', 'doctor', '--json']\n"
        "from segformer_deploy.cli.main import main\nmain()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    report = json_of(done)
    found = [one["found"] for one in report["findings"] if one["level"] == "fault"]
    name = {"av": "PyAV"}.get(missing, missing)
    if missing == "onnxruntime":  # the native backend needs none
        assert not report["libraries"]["onnxruntime"]["installed"]
    else:
        assert any(text.startswith(name) for text in found), found


def test_a_build_folder_that_is_none_is_an_error(place: Path) -> None:
    (place / "file").write_text("")
    for name in ("missing", "file"):
        done = segdeploy("doctor", "--build", name, "--json", cwd=place)
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["found"] == f"{name} is not a folder"
        assert "Traceback" not in done.stderr


def test_help_has_an_example(place: Path) -> None:
    done = segdeploy("doctor", "--help", cwd=place)
    assert done.returncode == 0
    assert "segdeploy doctor --build build" in " ".join(done.stdout.split())
    assert "doctor" in segdeploy("--help", cwd=place).stdout


def test_engines_with_their_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = write_little(tmp_path / "little.onnx")
    build_engine(onnx, BuildOptions(output=tmp_path / "build" / "little"))

    def refuse(folder: Path) -> object:
        raise BackendError("built for sm 8.7", "sm 8.9, this GPU's", "build it here")

    monkeypatch.setattr(package, "check_runs_here", refuse)
    monkeypatch.chdir(tmp_path)
    doctor.command(json=True)
    shown = capsys.readouterr()
    [engine] = json.loads(shown.out)["engines"]
    assert engine["why"] == "built for sm 8.7; expected: sm 8.9, this GPU's"
    assert "fault: build/little does not run here: built for sm 8.7" in shown.err
    assert "next: build it here" in shown.err


@pytest.mark.parametrize("machine", [HEALTHY, JETSON, *(case[0] for case in CASES)])
def test_every_machine_can_be_shown(machine: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(machine, type(HEALTHY))
    diagnosis = Diagnosis(machine, findings_of(machine))
    doctor._show(diagnosis, Path("build"))
    shown = capsys.readouterr().err
    assert "None" not in shown
    for finding in diagnosis.findings:
        assert f"{finding.level}: {finding.found}" in shown
    if not diagnosis.findings:
        assert "findings: none" in shown
