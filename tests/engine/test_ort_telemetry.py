"""ONNX Runtime reports to nobody from our processes, unless the user says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.little import write_little

RUN = """
import sys
import numpy as np
from segformer_deploy import Segmenter
with Segmenter(sys.argv[1], backend="onnxruntime") as segment:
    segment(np.zeros((64, 64, 3), np.uint8))
"""


def files_after(home: Path, model: Path, **settings: str) -> list[str]:
    # Neither what this test's own process has set, nor what tells it a CI's machine.
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    home.mkdir()
    subprocess.run(
        [sys.executable, "-c", RUN, str(model)],
        check=True,
        env={**environment, "HOME": str(home), **settings},
    )
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def test_nothing_is_left_in_the_home_folder(tmp_path: Path) -> None:
    model = write_little(tmp_path / "m.onnx")
    assert files_after(tmp_path / "home", model) == []


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from segformer_deploy.engine.ort import import_onnxruntime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
