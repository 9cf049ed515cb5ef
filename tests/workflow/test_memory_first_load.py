"""The budget of --max-memory holds for a folder's first load too, golden frames and all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from segformer_deploy.engine.manifest import read_manifest
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import random_segformer
from tests.model.tiny import TINY, spec_for

FIRST_LOAD = """
import json, sys
import numpy as np
from segformer_deploy import Segmenter
with Segmenter(sys.argv[1]) as segment:
    checked = segment.first_load_agreement
    segment(np.zeros((128, 128, 3), np.uint8))
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(lines["VmHWM"].split()[0]) / 1024
print(json.dumps([checked, peak, "cv2" in sys.modules]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_the_first_load_stays_within_the_reserve(tmp_path: Path, backend: str) -> None:
    model = random_segformer(replace(TINY, head_channels=24), 0)  # as native wants it
    onnx.save(onnx_from_model(model, spec_for(model.config)), tmp_path / "m.onnx")
    command = [sys.executable, "-m", "segformer_deploy", "build-engine"]
    options = ["--opt", "128x128", "--backend", backend, "--output", str(tmp_path / "engine")]
    subprocess.run(
        [*command, str(tmp_path / "m.onnx"), "--max-memory", "900M", *options],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    notes = " ".join(read_manifest(tmp_path / "engine").notes)
    measured = re.search(r"([\d.]+) MiB measured", notes)
    assert measured is not None, notes
    done = subprocess.run(
        [sys.executable, "-c", FIRST_LOAD, str(tmp_path / "engine")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    checked, peak, opencv = json.loads(done.stdout)
    assert checked == 1.0
    assert not opencv
    assert peak <= float(measured[1]) + 4.0
