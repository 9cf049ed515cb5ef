"""Ctrl-C as a terminal sends it: exit code 130, one word on stderr, whichever command runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.little import write_little

ROOT = str(Path(__file__).resolve().parents[2])
BENCH = ("bench", "little.onnx", "--backend", "onnxruntime", "--threads", "1", "--seconds", "600")
MATRIX = (*BENCH, "--output", "out")
FIT = ("fit", "little.onnx", "--latency", "1s", "--sizes", "64x96", "--runs", "100000000")
# Told once the network runs: the signal then meets the command at its work.
READY = """
import os, sys
from segformer_deploy.bench import case, measure, runner
def told(): open(os.environ["READY"], "w").close()
if os.environ["WHERE"] == "here":
    original = measure._measured
    measure._measured = lambda *a, **k: (told(), original(*a, **k))[1]
else:
    listen = runner._listen
    def heard(line, *a):
        listen(line, *a)
        if chr(34) + "runs" + chr(34) in line and not os.environ.pop("TOLD", None): told()
    runner._listen = heard
from segformer_deploy.cli.main import main
sys.argv[0] = "segdeploy"
main()
"""


@pytest.mark.parametrize(
    ("words", "where"),
    [(BENCH, "here"), (MATRIX, "child"), (FIT, "child")],
    ids=["bench", "matrix", "fit"],
)
def test_interrupted_is_said(tmp_path: Path, words: tuple[str, ...], where: str) -> None:
    write_little(tmp_path / "little.onnx")
    ready, until = tmp_path / "ready", time.monotonic() + 60
    process = subprocess.Popen(
        [sys.executable, "-c", READY, *words, "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT, "READY": str(ready), "WHERE": where},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    assert out == ""
    assert not list(tmp_path.glob("out/*.json"))


def test_other_ends_stay_what_they_were(tmp_path: Path) -> None:
    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "segformer_deploy", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    wrong = typed("bench", "--runs", "none")
    assert (wrong.returncode, "interrupted" in wrong.stderr) == (2, False)
    error = typed("bench", "none.onnx", "--json")
    assert error.returncode == 1
    assert "none.onnx" in json.loads(error.stdout)["error"]["found"]
