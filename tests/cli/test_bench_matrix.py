"""bench as a matrix, under limits and with energy: as a user types it.

No control group is made here: what is typed finds none, which is a case of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segformer_deploy.bench import limit as limits
from segformer_deploy.cli import bench, bench_options
from segformer_deploy.errors import SegdeployError
from tests.little import write_little

Type = Callable[..., dict[str, Any]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type `bench ...` in a folder that holds two networks; gives the JSON object."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setattr(limits, "places", lambda _root: [])
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_little(tmp_path / f"{name}.onnx")
    app = typer.Typer()
    app.command()(bench.command)

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, "--json"])
        if isinstance(done.exception, SegdeployError):
            raise done.exception
        assert done.exit_code == code, done.output
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return {**answer, "stderr": done.stderr}

    return run


FAST = ("--runs", "2", "--warmup", "0", "--backend", "onnxruntime")


def test_a_matrix_of_given_engines(typed: Type, tmp_path: Path) -> None:
    words = ("one.onnx", "two.onnx", "--sizes", "64x64,64x96", *FAST, "--output", "out")
    first = typed(*words)
    assert (first["cases"], first["measured"], first["failed"]) == (4, 4, 0)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.json"))
    assert files == sorted(
        f"{name}-{size}-fp32-onnxruntime.json"
        for name in ("one", "two")
        for size in ("64x64", "64x96")
    )
    stored = json.loads((tmp_path / "out" / files[0]).read_text())
    assert stored == first["results"][0]
    again = typed(*words)
    assert (again["measured"], again["kept"]) == (0, 4)
    assert "4 were there already" in again["stderr"]


def test_a_failing_case_does_not_stop_the_rest(typed: Type, tmp_path: Path) -> None:
    # The native backend cannot run this little network.
    words = ("one.onnx", "--backends", "native,onnxruntime", "--runs", "2", "--output", "out")
    report = typed(*words)
    assert (report["measured"], report["failed"]) == (2, 1)
    kinds = [result["error"] and result["error"]["kind"] for result in report["results"]]
    assert kinds[0] is not None
    assert kinds[1] is None
    assert "the native backend cannot run this graph" in report["stderr"]


def test_a_matrix_without_any_figures_has_failed(typed: Type, tmp_path: Path) -> None:
    words = ("one.onnx", "--backends", "native", "--sizes", "64x64,64x96", "--output", "out")
    report = typed(*words, code=1)
    assert (report["measured"], report["failed"]) == (2, 2)
    assert "error: no case gave figures; the first: " in report["stderr"]
    assert "the native backend cannot run this graph" in report["stderr"]


def test_results_of_another_machine_are_measured_again_and_said(
    typed: Type, tmp_path: Path
) -> None:
    words = ("one.onnx", "--sizes", "64x64", *FAST, "--output", "out")
    typed(*words)
    [file] = (tmp_path / "out").glob("*.json")
    moved = json.loads(file.read_text())
    moved["machine"]["cpu"] = "another processor"
    file.write_text(json.dumps(moved))
    again = typed(*words)
    assert (again["measured"], again["kept"]) == (1, 0)
    why = again["measured_again"]["one-64x64-fp32-onnxruntime"]
    assert why.startswith("of another machine or setting: cpu another processor, now ")
    assert f"measured again: the result that is there is {why}" in again["stderr"]
    assert json.loads(file.read_text())["machine"]["cpu"] != "another processor"
    assert typed(*words)["kept"] == 1


def test_several_threads_make_a_matrix(typed: Type) -> None:
    report = typed("one.onnx", "--threads", "1,2", *FAST)
    names = [result["case"]["threads"] for result in report["results"]]
    assert (names, report["folder"]) == ([1, 2], "results/matrix")


def test_a_limit_that_cannot_be_enforced_is_marked(typed: Type) -> None:
    result = typed("one.onnx", "--memory-limit", "1G", *FAST)
    limit = result["limit"]
    assert (limit["mib"], limit["enforced"], limit["outcome"]) == (1024, False, "peak within")
    assert "not enforced" in result["stderr"]
    assert typed("one.onnx", "--memory-limit", "2M", *FAST)["limit"]["survived"] is False


STREETS = ("--source", "test:seed=1", "--frame", "64x96", *FAST)


def test_a_source_is_shown_stage_by_stage(typed: Type) -> None:
    result = typed("one.onnx", *STREETS)
    assert result["video"]["source"] == "test:seed=1"
    assert result["case"]["source"] == "test:seed=1"
    lines = result["stderr"].splitlines()
    names = ("capture to drawn frame", "  capture", "  preprocess", "  infer", "  class_map")
    places = [next(n for n, line in enumerate(lines) if name in line) for name in names]
    assert places == sorted(places)
    assert next(n for n, line in enumerate(lines) if "  draw" in line) > places[-1]
    assert "capture to class map" in typed("one.onnx", "--no-draw", *STREETS)["stderr"]


def test_a_source_in_a_matrix_and_under_a_limit(typed: Type) -> None:
    report = typed("one.onnx", "--sizes", "64x64,64x96", *STREETS)
    assert [result["video"]["kind"] for result in report["results"]] == ["stream", "stream"]
    assert typed("one.onnx", "--sizes", "64x64,64x96", *STREETS)["kept"] == 2
    limited = typed("one.onnx", "--memory-limit", "1G", *STREETS)
    assert limited["limit"]["survived"] is True
    assert "draw" in limited["video"]["stages_ms"]


def test_the_smallest_limit_without_groups_is_the_peak(typed: Type) -> None:
    result = typed("one.onnx", "--smallest-limit", *FAST)
    found = result["smallest_limit"]
    assert found["enforced"] is False
    assert found["mib"] - 1 < result["peak_rss_mib"] <= found["mib"]
    assert "smallest limit: not enforced" in result["stderr"]


def test_one_engine_as_before(typed: Type) -> None:
    result = typed("one.onnx", *FAST)
    assert result["engine"] == "one.onnx"
    assert (result["case"]["runs"], result["limit"], result["error"]) == (2, None, None)
    assert "frame to class map" in result["stderr"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("one.onnx", "--variants", "b0"), "engines that are there"),
        (("one.onnx", "two.onnx", "--smallest-limit"), "--smallest-limit of a matrix"),
        (("one.onnx", "--memory-limit", "lots"), "a memory size of 'lots'"),
        (("one.onnx", "--sizes", "huge"), "huge"),
        (("one.onnx", "--output", "out", "--rebuild"), "--rebuild in a matrix"),
        (("one.onnx", "--classes", "4"), "--classes 4 of engines that are there"),
        (("one.onnx", "--size", "64x64", "--sizes", "64x64"), "--size and --sizes"),
        (("one.onnx", "--backend", "native", "--backends", "native"), "--backend and --backends"),
        (("one.onnx", "--sizes", "64x64", "--seconds", "nan"), "nan seconds of measuring"),
        (("one.onnx", "--sizes", "64x64", "--seconds", "-1"), "-1.0 seconds of measuring"),
        (("one.onnx", "--memory-limit", "9" * 400), "a memory size of '999"),
        (("one.onnx", "./one.onnx", "--sizes", "64x64"), "two cases are named one-64x64"),
        (("one.onnx", "--no-draw"), "--no-draw without a source"),
        (("one.onnx", "--source", "-"), "raw frames on stdin"),
        (("one.onnx", "--source", "none.mp4"), "cannot open none.mp4"),
        (("one.onnx", "--source", ".", "--frame", "64x64"), "its own size"),
        (("one.onnx", "--backends", "magic"), "magic"),
        (("none.onnx", "--memory-limit", "1G"), "none.onnx"),
        (("--variants", "b7"), "variant 'b7'"),
    ],
)
def test_mistakes(typed: Type, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SegdeployError) as caught:
        typed(*words)
    assert said in str(caught.value)


def test_threads_that_are_no_number_are_wrong_usage(typed: Type) -> None:
    app = typer.Typer()
    app.command()(bench.command)
    for text in ("0", "1,x", "-1", "²", "9" * 5000):
        assert CliRunner().invoke(app, ["one.onnx", "--threads", text]).exit_code == 2


def test_words_and_lists() -> None:
    assert bench_options.words_of(" a, b,,a ") == ["a", "b"]
    assert bench_options.threads_of(None) == [None]
    assert bench_options.threads_of("4,2,04") == [4, 2]
    assert bench_options.sizes_of("64x96,064x96") == ["64x96"]


def test_energy_clocks_and_limits_in_words() -> None:
    reading = {"covers": "processor package-0"}
    told = {"joules_per_frame": 0.25, "watts": 12.0, "readings": [reading], "unknown": {}}
    assert bench_options.energy_words(told) == [
        "energy 0.25 J per frame, 12 W: processor package-0, idle share included"
    ]
    closed = {"joules_per_frame": None, "unknown": {"rapl": "x is for root only", "ina": "none"}}
    assert bench_options.energy_words(closed) == ["note: no energy: x is for root only"]
    clocks = {"power_mode": "25W (1)", "governors": ["schedutil"], "throttling": ["hot"]}
    assert bench_options.clock_words(clocks) == [
        "power mode 25W (1), governor schedutil",
        "note: throttling: hot",
    ]
    limit = {
        "mib": 128,
        "enforced": True,
        "how": "cgroup v2",
        "outcome": "killed",
        "survived": False,
        "phase": "running",
        "peak_mib": 128.0,
    }
    assert bench_options.limit_words(limit) == (
        "memory limit 128 MiB (cgroup v2, swap off): killed while running, peak 128 MiB"
    )
