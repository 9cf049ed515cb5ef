"""A matrix that goes on where it stopped, and the search for the smallest limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.case import Case, failed
from segformer_deploy.bench.limit import MIB
from segformer_deploy.bench.matrix import (
    MatrixEngine,
    matrix_cases,
    result_file,
    run_matrix,
    search_smallest,
    smallest_surviving,
    stored_result,
)
from segformer_deploy.errors import InputError, OutputError, RunError
from segformer_deploy.version import __version__


def result_of(case: Case, **more: Any) -> dict[str, Any]:
    return {**failed(case, {}), "error": None, "segdeploy": __version__, **more}


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


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"case": 3}'])
def test_a_damaged_result_is_measured_again(tmp_path: Path, damage: str) -> None:
    [case] = cases(tmp_path, 1)
    (tmp_path / "out").mkdir()
    result_file(tmp_path / "out", case).write_text(damage)
    assert run_matrix([case], tmp_path / "out", result_of).measured == 1


def test_results_of_another_version_or_limit_do_not_count(tmp_path: Path) -> None:
    [case] = cases(tmp_path, 1)
    run_matrix([case], tmp_path, lambda one: result_of(one, limit={"bytes": MIB}), limit=MIB)
    assert stored_result(tmp_path, case) is None
    assert stored_result(tmp_path, case, MIB) is not None
    run_matrix([case], tmp_path, lambda one: {**result_of(one), "segdeploy": "0.0.0"})
    assert stored_result(tmp_path, case) is None


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


def test_a_kill_by_the_limit_is_a_result(tmp_path: Path) -> None:
    [case] = cases(tmp_path, 1)
    killed = {"bytes": MIB, "survived": False}

    def measure(one: Case) -> dict[str, Any]:
        return failed(one, {"found": "killed"}, limit=killed)

    assert run_matrix([case], tmp_path, measure, limit=MIB).failed == 1
    assert run_matrix([case], tmp_path, measure, limit=MIB).kept == 1


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


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 1000))
def test_bisection_finds_the_border(border: int, start: int, more: int) -> None:
    largest = start + more
    tried: list[int] = []

    def survives(mib: int) -> bool:
        tried.append(mib)
        return mib >= border

    search = smallest_surviving(survives, start, largest)
    assert search.smallest == (border if border <= largest else None)
    assert all(tried.count(mib) == 2 for mib in tried)
    assert search.notes == ()
    assert len(search.probes) < 40


def test_what_is_not_monotonic_is_said() -> None:
    found = smallest_surviving(lambda mib: mib >= 30 and mib != 31, 60, 200)
    assert found.smallest == 30
    assert "not monotonic: 30 MiB survived, and the larger 31 MiB did not" in found.notes[0]
    runs = iter([True, False])
    mixed = smallest_surviving(lambda mib: next(runs) if mib == 5 else mib > 5, 10, 20)
    assert mixed.smallest == 6
    assert "5 MiB survived in 1 of 2 runs" in mixed.notes


def test_a_search_without_groups_gives_the_peak() -> None:
    case = Case("a")

    def measure(one: Case, limit: int | None = None, timeout: float = 0) -> dict[str, Any]:
        found = None if limit is None else {"enforced": False, "why": "no groups"}
        return result_of(one, peak_rss_mib=120.2, limit=found)

    found = search_smallest(case, 2, 1.0, measure=measure)["smallest_limit"]
    assert (found["mib"], found["enforced"], found["why"]) == (121, False, "no groups")


def test_a_search_gives_the_result_under_the_smallest_limit() -> None:
    told: list[str] = []

    def measure(one: Case, limit: int | None = None, timeout: float = 0) -> dict[str, Any]:
        if limit is None:
            return result_of(one, peak_rss_mib=120.2)
        survived = limit >= 77 * MIB
        outcome = "survived" if survived else "killed"
        found = {"enforced": True, "survived": survived, "outcome": outcome, "bytes": limit}
        return result_of(one, peak_rss_mib=70.0, limit=found)

    result = search_smallest(
        Case("a"), 2, 1.0, lambda _done, text: told.append(text), measure=measure
    )
    assert result["smallest_limit"]["mib"] == 77
    assert result["limit"]["bytes"] == 77 * MIB
    assert result["case"]["runs"] == 2
    assert "76 MiB: killed" in told
