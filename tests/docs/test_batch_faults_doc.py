"""What benchmarks/README.md tells of batches whose workers are killed is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULT = json.loads((ROOT / "benchmarks/results/batch-faults.json").read_text(encoding="utf-8"))
_, _, PAGE = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").partition("## batch_fa")


def test_the_table_of_workers() -> None:
    expected = [
        f"| {one['workers']} | {one['frames_per_second']:.1f} | {one['seconds']:.0f} |"
        for one in RESULT["workers"]
    ]
    found = [line for line in PAGE.splitlines() if line[:3] in ("| 1", "| 2", "| 3")]
    assert found == expected
    assert f"One process without Ray took {RESULT['alone_seconds']:.0f} s" in PAGE


def test_nothing_was_lost_doubled_or_changed() -> None:
    frames, chunks = RESULT["frames"], RESULT["faults"]["report"]["chunks"]
    assert f"({frames} frames, {chunks} chunks)" in PAGE
    assert f"{frames} of {frames} masks identical" in PAGE
    for case in (RESULT["faults"], RESULT["interrupted"], *RESULT["workers"]):
        output = case["output"]
        counts = [output[name] for name in ("masks", "masks_identical", "rows", "overlay_frames")]
        assert counts == [frames] * 4
        assert output["partial_files"] == []
    assert len(RESULT["interrupted"]["points"]) == 10
    assert RESULT["second_call"]["nothing_written"]
