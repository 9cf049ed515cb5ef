"""Which results of an earlier run count: just this case, made here, with figures or killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.bench import limit as limits
from segformer_deploy.bench import stored as module
from segformer_deploy.bench.case import Case, failed
from segformer_deploy.bench.limit import MIB, Group
from segformer_deploy.bench.stored import Here, Shelf, differences, result_file, this_machine
from segformer_deploy.version import __version__

CASE = Case("a.onnx", variant="b0", precision="fp32", size="64x64", backend="onnxruntime")
MACHINE: dict[str, Any] = {
    "cpu": "A",
    "cores": 4,
    "memory_mib": 8000.0,
    "memory_limit_mib": None,
    "load_average": 0.5,
    "python": "3.11.2",
    "platform": "Linux-6.1",
    "versions": {"numpy": "2.0", "onnxruntime": "1.20", "tensorrt": "10.3"},
}
HERE = Here(MACHINE, "25W (1)", ("schedutil",), "compiled C")


def result(**more: Any) -> dict[str, Any]:
    return {
        **failed(CASE, {}),
        "machine": MACHINE,
        "latency_ms": {"p50": 2.0, "p90": 3.0, "p99": 4.0, "min": 1.0},
        "peak_rss_mib": 50.0,
        "size": "64x64",
        "backend": "ONNX Runtime",
        "kernels": "compiled C",
        "clocks": {"power_mode": "25W (1)", "governors": ["schedutil"]},
        "error": None,
        **more,
    }


def found(folder: Path, content: Any, limit: int | None = None, here: Here = HERE) -> Any:
    text = content if isinstance(content, str) else json.dumps(content)
    result_file(folder, CASE).write_text(text)
    return Shelf(folder, here).find(CASE, limit)


def test_the_same_case_of_this_machine_is_kept(tmp_path: Path) -> None:
    kept = found(tmp_path, result())
    assert (kept.result, kept.why) == (result(), None)
    busier = {**MACHINE, "load_average": 9.0, "memory_mib": 7990.0}
    assert found(tmp_path, result(machine=busier)).result is not None
    assert Shelf(tmp_path / "nowhere", HERE).find(CASE).why is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpu": "B"}, "cpu B, now A"),
        ({"cores": 2}, "cores 2, now 4"),
        ({"memory_mib": 4000.0}, "memory_mib 4000, now 8000"),
        ({"memory_limit_mib": 512.0}, "memory_limit_mib 512, now unknown"),
        ({"platform": "Linux-5.4"}, "platform Linux-5.4, now Linux-6.1"),
        ({"python": "3.10.0"}, "python 3.10.0, now 3.11.2"),
        ({"versions": {"numpy": "2.0", "onnxruntime": "1.19"}}, "onnxruntime 1.19, now 1.20"),
    ],
)
def test_of_another_machine(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    stored = found(tmp_path, result(machine={**MACHINE, **change}))
    assert stored.result is None
    assert stored.why == f"of another machine or setting: {said}"


def test_of_another_power_mode_governor_or_kernels(tmp_path: Path) -> None:
    clocks = {"power_mode": "10W (0)", "governors": ["powersave"]}
    why = found(tmp_path, result(clocks=clocks, kernels="NumPy")).why
    assert "kernels NumPy, now compiled C" in why
    assert "power mode 10W (0), now 25W (1)" in why
    assert "governor powersave, now schedutil" in why


def test_only_the_backends_library_counts() -> None:
    versions = {"numpy": "2.0", "onnxruntime": "1.20", "tensorrt": "8.6"}
    old = result(machine={**MACHINE, "versions": versions})
    assert differences(old, CASE, HERE) == []
    auto = Case("a.onnx", backend="auto")
    assert differences(old, auto, HERE) == ["tensorrt 8.6, now 10.3"]


def test_this_machine_is_as_its_own_results_have_it() -> None:
    here = this_machine()
    own = failed(CASE, {})
    assert differences(own, CASE, here) == []


@pytest.mark.parametrize(
    ("change", "limit", "said"),
    [
        ({"segdeploy": "0.0.0"}, None, f"of version 0.0.0, this is {__version__}"),
        ({"case": {**CASE.recorded(), "runs": 7}}, None, "of another case: runs"),
        ({"limit": {"bytes": MIB}}, None, "of a limit of 1 MiB, now no limit"),
        ({}, MIB, "of no limit, now a limit of 1 MiB"),
        ({"error": {"kind": "RunError", "found": "broken"}}, None, "a failure: broken"),
    ],
)
def test_of_another_case(tmp_path: Path, change: dict[str, Any], limit: Any, said: str) -> None:
    assert found(tmp_path, result(**change), limit).why == said


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[1]",
        '{"case": 3}',
        {**result(), "latency_ms": None},
        {name: value for name, value in result().items() if name != "latency_ms"},
        {**result(), "latency_ms": {"p50": 2.0, "p90": 3.0, "p99": 4.0}},
        {**result(), "latency_ms": {"p50": float("nan"), "p90": 3.0, "p99": 4.0, "min": 1.0}},
        {**result(), "peak_rss_mib": "much"},
        {**result(), "error": {}},
        {**result(), "machine": None},
        {**result(), "accuracy": {"pixels": 3}},
    ],
)
def test_what_lacks_figures_is_as_if_it_were_not_there(tmp_path: Path, damage: Any) -> None:
    stored = found(tmp_path, damage)
    assert (stored.result, stored.why) == (None, None)


def limited(outcome: str, **more: Any) -> dict[str, Any]:
    limit = {"bytes": MIB, "enforced": True, "outcome": outcome, "survived": False}
    return {"limit": {**limit, **more}}


def test_a_kill_is_kept_and_too_slow_is_not(tmp_path: Path) -> None:
    error = {"error": {"kind": "X", "found": "ended"}, "clocks": None}
    assert found(tmp_path, result(**limited("killed"), **error), MIB).result is not None
    assert found(tmp_path, result(**limited("too slow"), **error), MIB).why == "a failure: ended"


@pytest.mark.parametrize("possible", [True, False])
def test_what_was_not_enforced_is_measured_again_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, possible: bool
) -> None:
    groups = []

    class Made:
        def __init__(self, limit: int) -> None:
            groups.append(limit)

        def __enter__(self) -> Any:
            return Group(tmp_path, 2, MIB) if possible else limits.NoGroup("no")

        def __exit__(self, *_: object) -> None:
            """Nothing was made."""

    monkeypatch.setattr(module, "memory_group", Made)
    loose = result(**limited("peak above", enforced=False))
    here = Here(MACHINE, "25W (1)", ("schedutil",), "compiled C")
    first, again = (found(tmp_path, loose, MIB, here) for _ in range(2))
    assert (first.result is None) is possible
    assert first == again
    assert groups == [MIB]  # asked once
    if possible:
        assert "not enforced, and can be now" in first.why
    # What a group held stays, also where none can be had any more.
    assert found(tmp_path, result(**limited("survived")), MIB, here).result is not None
