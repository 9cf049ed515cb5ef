"""What fit's pick is held against: the matrix's best within the budget, found by brute force."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fit_check


def result(variant: str, size: int, precision: str, p50: float, peak: float) -> dict[str, Any]:
    return {
        "case": {"variant": variant, "precision": precision, "backend": "native"},
        "size": f"{size}x{size}",
        "latency_ms": {"p50": p50},
        "peak_rss_mib": peak,
        "error": None,
    }


results = st.lists(
    st.builds(
        result,
        st.sampled_from(["b0", "b1", "b2"]),
        st.sampled_from([256, 384, 512]),
        st.sampled_from(["fp32", "int8"]),
        st.floats(1, 500),
        st.floats(50, 500),
    ),
    max_size=12,
)


@given(results, st.floats(1, 500), st.floats(50, 500))
def test_the_best_within_a_budget(found: list[dict[str, Any]], ms: float, mib: float) -> None:
    best = fit_check.best_within(found, mib, ms)
    within = [r for r in found if r["latency_ms"]["p50"] <= ms and r["peak_rss_mib"] <= mib]
    assert (best is None) == (not within)
    for other in within:
        assert best is not None
        ours = (best["case"]["variant"], int(best["size"].split("x")[0]))
        theirs = (other["case"]["variant"], int(other["size"].split("x")[0]))
        assert ours >= theirs
        if ours == theirs and best["case"]["precision"] == other["case"]["precision"]:
            assert best["latency_ms"]["p50"] <= other["latency_ms"]["p50"]


def test_a_failed_case_is_never_best() -> None:
    failed = {**result("b2", 512, "fp32", 1, 1), "error": {"kind": "RunError"}}
    assert fit_check.best_within([failed], 1000, 1000) is None


def test_precision_decides_between_equals() -> None:
    pair = [result("b0", 256, "int8", 1, 60), result("b0", 256, "fp32", 9, 90)]
    best = fit_check.best_within(pair, 100, 10)
    assert best is not None
    assert fit_check.name_of(best) == "b0-256x256-fp32-native"


def test_nearest_says_how_far_the_budget_is_from_a_median() -> None:
    name, share = fit_check.nearest(
        [result("b0", 256, "int8", 90, 60), result("b1", 256, "int8", 130, 60)], 100
    )
    assert name.startswith("b0")
    assert share == pytest.approx(-0.1)


def test_budgets() -> None:
    assert fit_check.budget_from_text("1G:250ms") == ("1G", "250ms", 1024, 250)
    with pytest.raises(SystemExit, match="128M:250ms"):
        fit_check.budget_from_text("128:2s")


def test_only_b0_to_b5_have_a_rank() -> None:
    with pytest.raises(SystemExit, match="variant 'custom'"):
        fit_check.rank(result("custom", 256, "fp32", 1, 60))
    variants = ["b0", "b1", "b2", "b3", "b4", "b5"]
    ranks = [fit_check.rank(result(variant, 256, "fp32", 1, 60)) for variant in variants]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("code", "out", "good"),
    [
        (0, '{"folder": "x", "winner": "b0"}', True),
        (1, '{"folder": "x", "winner": null}', True),  # nothing within the budget
        (1, '{"error": {"found": "broken"}}', False),
        (1, "", False),
        (2, "", False),
        (130, "", False),
    ],
)
def test_a_report_is_told_from_an_error(
    monkeypatch: pytest.MonkeyPatch, code: int, out: str, good: bool
) -> None:
    done = subprocess.CompletedProcess([], code, out)
    monkeypatch.setattr(fit_check.subprocess, "run", lambda *_, **__: done)
    if good:
        assert fit_check.segdeploy(["fit"])["folder"] == "x"
    else:
        with pytest.raises(SystemExit, match=f"segdeploy fit: exit code {code}"):
            fit_check.segdeploy(["fit"])
