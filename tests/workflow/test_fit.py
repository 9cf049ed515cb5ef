"""What fit measures and leaves out, against a matrix of everything."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segformer_deploy.bench.case import Case, failed
from segformer_deploy.bench.pareto import Budget, FitReport, pick, point_from_result
from segformer_deploy.errors import InputError
from segformer_deploy.spec import FrameSize
from segformer_deploy.version import __version__
from segformer_deploy.workflow import fit as module
from segformer_deploy.workflow.bench_engines import EngineSource, given_engines
from segformer_deploy.workflow.fit import fit
from tests.little import write_little

SIZES = ("64x64", "96x96", "128x128")
VARIANTS = ("b0", "b1", "b2")
FRAME = failed(Case(""), {})


def device(case: Case) -> tuple[float, float]:
    """A device's milliseconds and MiB: they grow with variant and size."""
    size = FrameSize.parse(case.size or "")
    work = size.height * size.width / 4096 * (1 + VARIANTS.index(case.variant or "b0"))
    return work * (0.5 if case.precision == "int8" else 1.0), 20 + 4 * work


def measure(case: Case) -> dict[str, Any]:
    ms, mib = device(case)
    figures: dict[str, Any] = {
        "latency_ms": {"p50": ms, "p90": ms, "p99": ms, "min": ms},
        "peak_rss_mib": mib,
    }
    more = {"error": None, "segdeploy": __version__, "size": case.size, "backend": "native 0.1"}
    return {**FRAME, "case": case.to_dict(), **figures, **more}


@pytest.fixture(autouse=True)
def no_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "drawing", lambda *_: False)


def sources(made: list[str] | None = None) -> list[EngineSource]:
    def maker(name: str) -> Callable[[], Path]:
        def make() -> Path:
            if made is not None:
                made.append(name)
            return Path(f"{name}.onnx")

        return make

    return [
        EngineSource(v, p, maker(f"{v}-{p}"), commands=("build {size} {backend}",))
        for v in VARIANTS
        for p in ("fp32", "int8")
    ]


def fitted(folder: Path, budget: Budget, **more: Any) -> FitReport:
    return fit(sources(), SIZES, ["native"], [None], Case(""), budget, folder, measure, **more)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.4, 14), st.floats(21, 80))
def test_it_picks_what_a_full_matrix_would(ms: float, mib: float) -> None:
    budget = Budget(memory_mib=mib, latency_ms=ms)
    every = [
        point_from_result(measure(Case("", variant=v, precision=p, size=s, backend="native")))
        for v in VARIANTS
        for p in ("fp32", "int8")
        for s in SIZES
    ]
    best = pick([one for one in every if one is not None], budget)
    with tempfile.TemporaryDirectory() as folder:
        report = fitted(Path(folder), budget)
    assert (report.winner.name if report.winner else None) == (best.name if best else None)
    assert len(report.points) + len(report.skipped) == len(every)
    within = {one.name for one in every if one is not None and not budget.excess(one)}
    assert within.isdisjoint(report.skipped)


def test_what_cannot_win_is_neither_made_nor_measured(tmp_path: Path) -> None:
    made: list[str] = []
    skipped: dict[str, str] = {}
    report = fit(
        sources(made),
        SIZES,
        ["native"],
        [None],
        Case(""),
        Budget(latency_ms=0.9),
        tmp_path,
        measure,
        on_skip=lambda name, why: skipped.update({name: why}),
    )
    assert "b1-fp32" not in made
    assert skipped == report.skipped
    assert skipped["b1-64x64-fp32-native"].startswith("b0-64x64-fp32-native is smaller, and even")
    assert report.winner is not None
    assert report.winner.name == "b0-64x64-int8-native"
    assert report.commands == ("build 64x64 native",)


def test_nothing_within_the_budget(tmp_path: Path) -> None:
    report = fitted(tmp_path, Budget(memory_mib=1))
    assert (report.winner, report.commands) == (None, ())
    assert len(report.points) == 2  # the smallest in each precision


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    budget = Budget(latency_ms=100)
    first, again = fitted(tmp_path, budget), fitted(tmp_path, budget)
    assert (first.matrix.measured, again.matrix.measured) == (18, 0)
    assert again.to_dict()["kept"] == 18
    assert again.winner == first.winner


def test_labelled_frames_decide(tmp_path: Path) -> None:
    def scored(case: Case) -> dict[str, Any]:
        # Here the smaller network is the better one.
        return {**measure(case), "accuracy": {"miou": 50.0 - VARIANTS.index(case.variant or "")}}

    report = fit(
        *(sources(), ["64x64"], ["native"], [None], Case("")),
        *(Budget(min_miou=49.5), tmp_path, scored),
    )
    assert report.accuracy == "miou"
    assert report.winner is not None
    assert report.winner.name == "b0-64x64-int8-native"  # as good as fp32, and faster


def test_given_engines_have_no_smaller_sisters(tmp_path: Path) -> None:
    engines = given_engines([write_little(tmp_path / f"{name}.onnx") for name in "ab"])
    assert [one.engine.label for one in engines] == ["a", "b"]
    assert all(one.random for one in engines)
    assert engines[0].commands[0].startswith("segdeploy build-engine")
    report = fit(
        engines, SIZES, ["onnxruntime"], [1], Case(""), Budget(latency_ms=1), tmp_path, measure
    )
    # b0 at a larger size than one that was too slow.
    assert set(report.skipped) == {f"{n}-128x128-fp32-onnxruntime-t1" for n in "ab"}


def test_one_name_for_two_engines_is_refused_at_the_start(tmp_path: Path) -> None:
    """Another engine's JSON, and its command, would stand for this one's."""
    first, second = (write_little(tmp_path / name / "model.onnx") for name in "ab")
    (tmp_path / "a" / "model").mkdir()

    def never(_case: Case) -> dict[str, Any]:
        raise AssertionError

    def run(engines: list[EngineSource]) -> None:
        budget = Budget(latency_ms=1)
        fit(engines, SIZES, ["onnxruntime"], [1], Case(""), budget, tmp_path, never)

    with pytest.raises(InputError, match="two cases are named model-64x64") as caught:
        run(given_engines([first, second]))
    assert str(first) in caught.value.found
    assert str(second) in caught.value.found
    with pytest.raises(InputError, match="two cases are named model-64x64"):
        run(given_engines([first, first]))
    beside = EngineSource("b0", "fp32", lambda: first, "model", first.with_suffix(""))
    with pytest.raises(InputError, match="two cases are named model-64x64"):
        run([*given_engines([first]), beside])


def test_given_engines_do_not_rule_each_other_out(tmp_path: Path) -> None:
    """One that is slow says nothing of another: their classes and shapes may differ."""
    slow, quick = given_engines([write_little(tmp_path / f"{name}.onnx") for name in ("s", "q")])

    def measured(case: Case) -> dict[str, Any]:
        found = measure(case)
        ms = 50.0 if case.label == "s" else 1.0
        return {**found, "latency_ms": dict.fromkeys(("p50", "p90", "p99", "min"), ms)}

    report = fit(
        *([slow, quick], ["64x64", "96x96"], ["onnxruntime"], [1], Case("")),
        *(Budget(latency_ms=10), tmp_path, measured),
    )
    assert list(report.skipped) == ["s-96x96-fp32-onnxruntime-t1"]
    assert report.winner is not None
    assert report.winner.name == "q-96x96-fp32-onnxruntime-t1"
    assert str(tmp_path / "q.onnx") in report.commands[0]


def test_without_an_order_labelled_frames_are_asked_for(tmp_path: Path) -> None:
    odd = EngineSource("custom", "fp32", lambda: tmp_path, "odd", tmp_path)
    with pytest.raises(InputError, match="variant 'custom' among 7 engines"):
        fit(
            *([*sources(), odd], SIZES, ["native"], [None], Case("")),
            *(Budget(latency_ms=9), tmp_path, measure),
        )
