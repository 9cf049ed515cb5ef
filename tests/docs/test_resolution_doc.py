"""docs/resolution.md holds what the two results hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import receptive_field_page  # noqa: E402
import resolution  # noqa: E402

PICTURES = {"resolution.png": 120_000, "receptive-field.png": 120_000}


def result(name: str) -> dict[str, Any]:
    found = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "resolution.md").read_text(encoding="utf-8")


def test_the_tables_are_the_measured_ones(page: str) -> None:
    expected = [
        *resolution.HEADING,
        *resolution.table(result("resolution")),
        *receptive_field_page.lines(result("receptive-field")),
    ]
    assert sorted(line for line in page.splitlines() if line.startswith("|")) == sorted(expected)


def test_the_words_are_the_measured_ones(page: str) -> None:
    words, field = " ".join(page.split()), result("receptive-field")
    assert f"{result('resolution')['images']} frames" in words
    assert f"{field['task']['frames']} generated streets" in words


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_pictures_are_there_and_small(page: str, name: str) -> None:
    assert f"]({name})" in page
    assert (ROOT / "docs" / name).stat().st_size < PICTURES[name]


def test_a_frame_with_all_its_context_agrees_with_itself() -> None:
    field = result("receptive-field")
    for precision in ("fp32", "int8"):
        tiles = field["precisions"][precision]["tiles"]
        assert set(tiles["context"]["128"]) == {1.0}
        assert tiles["margin"]["0"] == tiles["context"]["0"]
