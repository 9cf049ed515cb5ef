"""benchmarks/queueing.py: what its file says was foretold is what is foretold of its times."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import queueing  # noqa: E402

DATA: dict[str, Any] = json.loads((BENCHMARKS / "results" / "queueing.json").read_text("utf-8"))
PAGE = (BENCHMARKS.parent / "docs" / "fit.md").read_text("utf-8")
CASES = pytest.mark.parametrize("case", DATA["cases"], ids=lambda case: str(case["cameras"]))


@CASES
def test_the_file_is_of_this_simulation(case: dict[str, Any]) -> None:
    alone = queueing.foretold(case["cameras"], DATA["fps"], tuple(case["alone_ms"]))
    assert alone == pytest.approx(case["foretold"])
    own = queueing.foretold(case["cameras"], case["fps_in"], tuple(case["in_run_ms"]))
    assert own == pytest.approx(case["foretold_from_its_times"])
    assert len(case["in_run_ms"]) == case["run"]["shown"]


@CASES
def test_the_real_run_is_as_its_own_times_foretell(case: dict[str, Any]) -> None:
    run, own = case["run"], case["foretold_from_its_times"]
    assert run["drops_percent"] == pytest.approx(own["drops_percent"], abs=5)


@CASES
def test_the_page_has_its_row(case: dict[str, Any]) -> None:
    three = (case["run"], case["foretold_from_its_times"], case["foretold"])
    cells = [str(case["cameras"])]
    cells += [f"{one['drops_percent']:.1f} %" for one in three]
    cells += [f"{one['age_p50_ms']:.0f}" for one in three]
    assert "| " + " | ".join(cells) + " |" in PAGE
