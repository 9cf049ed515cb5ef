"""The stages of a source's frames where a GPU does the work: the real pipeline, in host memory."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from segformer_deploy.bench.source_frames import open_for_bench
from segformer_deploy.bench.source_latency import measure_source, overlay_drawer
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.runtime.gpu import Gpu, frames, network, spec_of

CLASSES = 5
SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(64, 64)))


@pytest.mark.parametrize("timed", [True, False])
def test_copies_are_stages_of_a_timed_run(host_gpu: Gpu, tmp_path: Path, timed: bool) -> None:
    for number, frame in enumerate(frames(3, 40, 50)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    engine = host_gpu.engine(network(CLASSES))
    with (
        open_for_bench(str(tmp_path)) as source,
        Segmenter(engine, spec=SPEC, device="cuda", timed=timed) as segment,
    ):
        report = measure_source(segment, source, overlay_drawer(SPEC), warmup=1, runs=5)
    engine.close()
    inner = ["copy_in", "preprocess", "infer", "class_map", "copy_out"] if timed else ["segment"]
    stages = report.whole.stage_samples_ms
    assert list(stages) == ["capture", *inner, "draw"]
    assert all(len(values) == 5 for values in stages.values())
    assert any("--timed" in note for note in report.notes) is not timed
