"""Published rows: each is used or says why not, and where they disagree is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from segformer_deploy.bench.published import (
    EXCLUSIONS,
    disagreements,
    published_rows,
    raw_rows,
)

DATA = Path(__file__).resolve().parents[2] / "segformer_deploy/bench/data"


def test_every_row_is_used_or_says_why_not() -> None:
    rows = raw_rows()
    assert [int(row["row"]) for row in rows] == list(range(1, 153))
    assert {row["excluded"] for row in rows} <= {"", *EXCLUSIONS}
    assert len(published_rows()) == 21
    for row in rows:
        assert row["source"]
        if not row["excluded"]:
            assert row["status"].startswith("VERIFIED")
            assert row["batch"] == "1"
            assert row["published_model"].startswith("SegFormer-B")


def test_the_reasons_are_counted_in_the_readme() -> None:
    text = (DATA / "README.md").read_text()
    for reason in EXCLUSIONS:
        count = sum(row["excluded"] == reason for row in raw_rows())
        assert reason == "recall" or f"| `{reason}` | {count} |" in text, reason


def test_rows_that_disagree_are_named() -> None:
    found = {(one.device.slug, one.precision): one.ratio for one in disagreements()}
    assert found == {
        ("rpi-4", "fp32"): pytest.approx(2.01, abs=0.01),
        ("t4", "fp16"): pytest.approx(48.4 / 27.0),
    }


def test_excluded_rows_have_a_true_reason() -> None:
    """What each reason says of a row can be read in the row."""
    for row in raw_rows():
        reason = row["excluded"]
        if reason == "size-unknown":
            assert row["published_engine"].startswith("Paddle")
            assert not row["height"]
        if reason == "framework":
            assert row["published_engine"].startswith("PyTorch")
        if reason == "no-engine":
            assert row["latency_ms"] == "NO ENGINE"
        if reason == "device-unknown":
            assert not row["device"]
