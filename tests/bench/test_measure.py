"""A case measured here: its result has what `bench --json` had, and more."""

from __future__ import annotations

import json
from pathlib import Path

from segformer_deploy.bench.case import Case
from segformer_deploy.bench.measure import measure_case
from segformer_deploy.bench.report.cases import case_from_bench
from tests.little import NAMES, write_little

EARLIER_KEYS = {
    "engine", "backend", "device", "precision", "weights", "size", "frame", "threads", "kernels",
    "latency_ms", "p99_is_rough", "percentile_method", "stages_ms", "stages_p90_ms", "fps",
    "spread", "runs", "warmup", "first_ms", "samples_ms", "stage_samples_ms", "warnings", "notes",
    "peak_rss_mib", "machine",
}  # fmt: skip
ADDED_KEYS = {
    "segdeploy", "case", "limit", "energy", "clocks", "accuracy", "error", "classes",
    "stages_p99_ms", "video",
}  # fmt: skip


def test_a_result(tmp_path: Path) -> None:
    engine = write_little(tmp_path / "little.onnx")
    phases: list[str] = []
    seen: list[int] = []
    case = Case(str(engine), backend="onnxruntime", threads=1, runs=3, warmup=1)
    result = measure_case(case, on_run=seen.append, on_phase=phases.append)
    assert set(result) == EARLIER_KEYS | ADDED_KEYS
    assert json.loads(json.dumps(result)) == result
    assert result["case"] == case.to_dict()
    assert (result["error"], result["limit"], result["accuracy"]) == (None, None, None)
    assert (seen, phases) == ([1, 2, 3], ["loading the engine", "running"])
    assert result["energy"]["frames"] in (0, 2)  # between the first sample and the last
    assert set(result["clocks"]) >= {"before", "after", "governors", "throttling", "power_mode"}
    assert result["classes"] == len(NAMES)
    assert result["video"] is None
    # What the roofline of a report needs.
    assert case_from_bench(result, "a.json").classes == len(NAMES)
