"""Reading: every kind is known, and what is not read is named with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.bench.report import (
    document_from_results,
    html_from_document,
    summary_from_results,
)
from segformer_deploy.bench.report.cases import case_from_bench, case_from_estimate, path_key
from segformer_deploy.bench.report.fields import number
from segformer_deploy.bench.report.front import front_of_cases
from segformer_deploy.bench.report.machine import machine_from_dict
from segformer_deploy.bench.report.model import groups_from_cases
from segformer_deploy.bench.report.read import read_results
from segformer_deploy.errors import InputError
from tests.bench.report.given_results import MACHINE, ROOT, bench, estimated, evaluated, write


def test_percentiles_come_from_the_raw_samples() -> None:
    samples = list(np.random.default_rng(0).gamma(2.0, 5.0, 57))
    case = case_from_bench(bench(samples_ms=samples, latency_ms={"p50": 1.0}), "a.json")
    assert [case.p10, case.p50, case.p90, case.p99] == [
        pytest.approx(float(np.percentile(samples, q))) for q in (10, 50, 90, 99)
    ]
    assert any("states a p50 of 1.00 ms" in warning for warning in case.warnings)


def test_without_samples_the_stated_percentiles_stand_and_it_is_said() -> None:
    case = case_from_bench(bench(samples_ms=[]), "a.json")
    assert (case.p10, case.p50, case.samples) == (None, 10.95, 0)
    assert any("no raw samples" in note for note in case.notes)


def test_a_failed_case_has_its_reason_and_no_figures() -> None:
    error = {"kind": "MemoryLimit", "found": "killed", "expected": "less", "next": "do"}
    limit = {"bytes": 64 << 20, "enforced": True, "survived": False}
    case = case_from_bench(bench(error=error, limit=limit), "a.json")
    assert case.error == "killed; expected: less; next: do"
    assert case.p50 is None
    assert case.limit is not None
    assert case.limit.text == "64 MiB broken (enforced)"


def test_an_estimates_error_is_no_failure() -> None:
    case = case_from_estimate(estimated(), "a.json")
    assert case.estimated
    assert not case.error
    assert (case.p10, case.p50, case.p90, case.peak_mib) == (5.0, 8.0, 15.0, 30.0)
    assert "off by 1.20x" in case.basis


def test_a_score_finds_its_engine_by_its_path(tmp_path: Path) -> None:
    score = evaluated(engine="./build//segformer-b0-fp32/")
    other = bench(engine="build/other")
    found = read_results(write(tmp_path, a=bench(), b=other, c=score))
    assert [case.miou for case in found.cases] == [70.0, None]


def test_a_score_of_random_weights_is_none(tmp_path: Path) -> None:
    found = read_results(write(tmp_path, a=bench(weights="random"), c=evaluated()))
    assert found.cases[0].random
    assert found.cases[0].miou is None


def test_the_matrix_writes_a_score_beside_the_latency(tmp_path: Path) -> None:
    data = bench(accuracy={"miou": 61.5, "pixel_accuracy": 90.0, "images": 4, "notes": []})
    found = read_results(write(tmp_path, a=data))
    assert found.cases[0].miou == 61.5
    assert len(found.accuracies) == 1


def test_lists_are_taken_apart(tmp_path: Path) -> None:
    matrix = {"folder": "x", "cases": 2, "results": [bench(), bench(precision="int8")]}
    devices = {"estimated": True, "devices": [estimated(), estimated(variant="b1")]}
    found = read_results(write(tmp_path, a=matrix, b=devices, c=[bench()]))
    assert len(found.measured) == 3
    assert sum(case.estimated for case in found.cases) == 2
    assert not found.unread


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    failed = {"error": {"kind": "X", "found": "no engine"}}
    folder = write(
        tmp_path, ok=bench(), deep__cut='{"a":', empty="", number="3", odd={"a": 1}, failed=failed
    )
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "notes.txt").write_text("{")
    reasons = dict(read_results(folder).unread)
    assert set(reasons) == {f"{name}.json" for name in
                            ("deep/cut", "empty", "number", "odd", "failed", "binary")}  # fmt: skip
    assert "line 1" in reasons["deep/cut.json"]
    assert "its keys: a" in reasons["odd.json"]
    assert "no engine" in reasons["failed.json"]


def test_no_folder_and_no_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        read_results(tmp_path / "none")
    with pytest.raises(InputError, match=r"no \.json"):
        read_results(tmp_path)


def test_machines_are_kept_apart_and_runs_are_named(tmp_path: Path) -> None:
    other = {**MACHINE, "cpu": "Other CPU"}
    rebooted = {**MACHINE, "memory_mib": 8000.4, "load_average": 3.0}
    folder = write(tmp_path, one__a=bench(), two__b=bench(machine=rebooted), c=bench(machine=other))
    groups = groups_from_cases(read_results(folder).cases)
    assert sorted(len(group.cases) for group in groups) == [1, 2]


def in_mode(mode: str | None, **changes: Any) -> dict[str, Any]:
    return bench(clocks={"power_mode": mode, "governors": ["schedutil"]}, **changes)


def test_two_power_modes_of_one_board_are_two_machines(tmp_path: Path) -> None:
    """A slow mode's case would never be on the front beside a fast one's."""
    slow, fast = in_mode("15W (1)", scale=2.0), in_mode("MAXN (0)")
    found = read_results(write(tmp_path, a=slow, b=fast, c=in_mode("MAXN (0)", precision="int8")))
    groups = groups_from_cases(found.cases)
    assert {group.machine.power_mode: len(group.cases) for group in groups} == {
        "15W (1)": 1,
        "MAXN (0)": 2,
    }
    assert all(("power mode", g.machine.power_mode) in g.machine.facts for g in groups)
    front = [case.machine.power_mode for case in front_of_cases(found.cases)]
    assert sorted(front) == ["15W (1)", "MAXN (0)"]
    html = html_from_document(document_from_results(found))
    assert "Test CPU, 4 cores, 15W (1)</h2>" in html
    assert "2 machines and power modes" in html
    modes = [one["power_mode"] for one in summary_from_results(found)["machines"]]
    assert sorted(modes) == ["15W (1)", "MAXN (0)"]


def test_a_case_that_failed_is_of_its_runs_power_mode(tmp_path: Path) -> None:
    killed = bench(clocks=None, error={"found": "killed"})
    folder = write(tmp_path, run__a=in_mode("15W (1)"), run__b=killed)
    assert len(groups_from_cases(read_results(folder).cases)) == 1
    write(tmp_path, run__c=in_mode("MAXN (0)"))
    assert len(groups_from_cases(read_results(folder).cases)) == 3  # in which, is not known


def test_a_case_without_a_machine_joins_its_run(tmp_path: Path) -> None:
    lost = {"case": {"variant": "b1"}, "error": {"found": "killed"}}
    folder = write(tmp_path, run__a=bench(), run__b=lost)
    assert len(groups_from_cases(read_results(folder).cases)) == 1
    assert not machine_from_dict(None).said


def test_the_repositorys_own_results_are_all_known() -> None:
    folder = ROOT / "benchmarks" / "results"
    found = read_results(folder)
    # A file without a section of its own must at least be named.
    named = {Path(other.source).name for other in found.others} | {n for n, _ in found.unread}
    assert named == {path.name for path in folder.glob("*.json")}
    known = {"floor", "int8-peers", "int8-speed", "kernel-report", "lean-memory", "live-latency",
             "live-soak", "live-view", "peers-b0-19", "peers-b0-512", "receptive-field",
             "resolution", "rivals", "rtx-builds", "scaling-b0", "stabiliser", "tiles"}  # fmt: skip
    assert known <= {Path(other.source).stem for other in found.others}
    document = document_from_results(found)
    assert not any(
        "not what this kind holds" in text for s in document.sections for text in s.leads
    )


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(bench())) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


ODD = [
    1e308,
    -1e308,
    5e-324,
    -1.0,
    10**400,
    10**30,
    True,
    "\u00b2x4",
    "9" * 5000,
    [1e308],
    {"a": 1},
]
PLACES = [
    ("peak_rss_mib",), ("first_ms",), ("engine",), ("threads",), ("classes",), ("size",),
    ("frame",), ("samples_ms",), ("latency_ms", "p50"), ("stages_ms", "infer"), ("warmup",),
    ("energy", "joules_per_frame"), ("limit", "bytes"), ("accuracy", "miou"),
    ("machine", "load_average"), ("machine", "memory_mib"), ("machine", "cores"),
    ("machine", "versions"), ("case", "seconds"), ("case", "runs"), ("case", "variant"),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_one_odd_value_never_costs_the_page(tmp_path: Path, place: tuple[str, ...]) -> None:
    for index, value in enumerate(ODD):
        data = json.loads(json.dumps(bench(limit={"bytes": 1 << 28}, accuracy={"miou": 1.0},
                                           energy={"joules_per_frame": 1.0})))  # fmt: skip
        inner = data
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        write(tmp_path, **{f"odd{index}": data})
    found = read_results(write(tmp_path, good=bench(), other=bench(precision="int8")))
    assert len(found.cases) + len(found.unread) == len(ODD) + 2
    html_from_document(document_from_results(found))
    json.dumps(summary_from_results(found), allow_nan=False)


def test_a_value_that_is_left_out_is_named() -> None:
    case = case_from_bench(bench(peak_rss_mib=1e308, engine=10**400), "a.json")
    assert (case.peak_mib, case.engine) == (None, "")
    assert "peak_rss_mib is no figure that can be: left out" in case.warnings
    assert "engine is no name: left out" in case.warnings
    samples = case_from_bench(bench(samples_ms=[1.0, -1.0, 1e300, 3.0]), "a.json")
    assert samples.samples == 2
    assert "2 of 4 samples are no times: left out" in samples.warnings
    assert case_from_bench(bench(), "a.json").warnings == ()


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted({*bench(), *estimated(), "accuracy"})), JSON))
def test_odd_values_never_break_the_page(changes: dict[str, Any]) -> None:
    cases = (
        case_from_bench({**bench(), **changes}, "a.json"),
        case_from_estimate({**estimated(), **changes}, "b.json"),
    )
    from segformer_deploy.bench.report.model import Results

    html = html_from_document(document_from_results(Results("x", 2, cases)))
    assert "nan" not in html.split("<main", 1)[1].split("<script>", 1)[0].lower().split()


@given(JSON)
def test_a_number_is_finite_or_nothing(value: Any) -> None:
    found = number(value)
    assert found is None or (np.isfinite(found) and not isinstance(value, bool))


def test_paths_of_one_engine() -> None:
    assert path_key("./build//b0/") == path_key("build/b0") == path_key("build\\b0")
    assert json.dumps(path_key("")) == '""'
