"""A matrix that goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.bench.case import Case, failed
from segformer_deploy.bench.limit import MIB
from segformer_deploy.bench.matrix import (
    MatrixEngine,
    MatrixReport,
    matrix_cases,
    run_matrix,
)
from segformer_deploy.bench.stored import result_file
from segformer_deploy.errors import InputError, OutputError, RunError
from segformer_deploy.version import __version__

FIGURES = {
    "latency_ms": {"p50": 2.0, "p90": 3.0, "p99": 4.0, "min": 1.0},
    "peak_rss_mib": 50.0,
    "size": "64x64",
    "backend": "native 0.1",
}


def result_of(case: Case, **more: Any) -> dict[str, Any]:
    return {**failed(case, {}), **FIGURES, "error": None, **more}


def cases(tmp_path: Path, count: int = 3) -> list[Case]:
    engine = tmp_path / "a.onnx"
    engine.write_bytes(b"a network")
    sizes = [f"{64 * n}x64" for n in range(1, count + 1)]
    engines = [MatrixEngine(engine, "b0", "fp32")]
    return matrix_cases(engines, sizes, ["native"], [None], Case("", runs=2))


def test_every_combination(tmp_path: Path) -> None:
    engines = [MatrixEngine(tmp_path / "a.onnx", "b0", p) for p in ("fp32", "int8")]
    made = matrix_cases(engines, ["64x64", "96x96"], ["native", "onnxruntime"], [1, 2], Case(""))
    assert len({case.name for case in made}) == 16
    assert made[0].name == "b0-64x64-fp32-native-t1"


def test_two_cases_of_one_name(tmp_path: Path) -> None:
    engines = [MatrixEngine(tmp_path / folder / "a.onnx", "b0", "fp32", "a") for folder in "xy"]
    with pytest.raises(InputError, match="two cases are named a-64x64-fp32-native"):
        matrix_cases(engines, ["64x64"], ["native"], [None], Case(""))


def test_what_is_there_is_kept_and_counted(tmp_path: Path) -> None:
    wanted, measured = cases(tmp_path), list[str]()

    def measure(case: Case) -> dict[str, Any]:
        measured.append(case.name)
        return result_of(case)

    first = run_matrix(wanted[:2], tmp_path / "out", measure)
    again = run_matrix(wanted, tmp_path / "out", measure)
    assert (first.measured, first.kept) == (2, 0)
    assert (again.measured, again.kept, again.failed) == (1, 2, 0)
    assert measured == [case.name for case in wanted]
    assert [result["case"] for result in again.results] == [case.to_dict() for case in wanted]


def test_another_engine_at_the_same_place_is_measured_again(tmp_path: Path) -> None:
    run_matrix(cases(tmp_path), tmp_path / "out", result_of)
    (tmp_path / "a.onnx").write_bytes(b"another network")
    engines = [MatrixEngine(tmp_path / "a.onnx", "b0", "fp32")]
    changed = matrix_cases(engines, ["64x64"], ["native"], [None], Case("", runs=2))
    assert run_matrix(changed, tmp_path / "out", result_of).measured == 1


def test_a_failing_case_is_recorded_and_tried_again(tmp_path: Path) -> None:
    wanted, out = cases(tmp_path), tmp_path / "out"

    def measure(case: Case) -> dict[str, Any]:
        if case.size == "128x64":
            raise RunError("broken", "whole", "mend it")
        return result_of(case)

    report = run_matrix(wanted, out, measure)
    assert (report.measured, report.failed) == (3, 1)
    stored = json.loads(result_file(out, wanted[1]).read_text())
    assert stored["error"]["found"] == "broken"
    again = run_matrix(wanted, out, result_of)
    assert (again.measured, again.kept, again.failed) == (1, 2, 0)


def test_what_is_measured_again_is_said(tmp_path: Path) -> None:
    [case] = cases(tmp_path, 1)
    run_matrix([case], tmp_path / "out", lambda one: {**result_of(one), "segdeploy": "0.0.0"})
    told: list[tuple[str, str]] = []
    report = run_matrix(
        [case], tmp_path / "out", result_of, on_again=lambda one, why: told.append((one.name, why))
    )
    assert (report.measured, report.kept) == (1, 0)
    assert told == [(case.name, f"of version 0.0.0, this is {__version__}")]
    assert report.to_dict()["measured_again"] == dict(told)


def test_fruitless_is_where_no_case_gave_anything(tmp_path: Path) -> None:
    wanted = cases(tmp_path)
    broken = {"kind": "RunError", "found": "broken"}
    killed = {"bytes": MIB, "survived": False, "outcome": "killed"}

    def broken_but(one_more: Any) -> str | None:
        results = [failed(wanted[0], broken), one_more]
        return MatrixReport(tmp_path, results, failed=2).fruitless

    assert broken_but(failed(wanted[1], broken)) == "broken"
    assert broken_but(result_of(wanted[1])) is None
    assert broken_but(failed(wanted[1], broken, limit=killed)) is None
    assert MatrixReport(tmp_path).fruitless is None


def test_ctrl_c_keeps_what_was_finished(tmp_path: Path) -> None:
    wanted, out = cases(tmp_path), tmp_path / "out"

    def measure(case: Case) -> dict[str, Any]:
        if case.size == "128x64":
            raise KeyboardInterrupt
        return result_of(case)

    with pytest.raises(KeyboardInterrupt):
        run_matrix(wanted, out, measure)
    assert [path.name for path in out.iterdir()] == [result_file(out, wanted[0]).name]


def test_a_full_disk_ends_the_matrix(tmp_path: Path) -> None:
    def measure(case: Case) -> dict[str, Any]:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError):
        run_matrix(cases(tmp_path), tmp_path / "out", measure)
