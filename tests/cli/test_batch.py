"""segdeploy batch from a shell: what it says, writes and answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.batch.films import film
from tests.little import write_little

ROOT = str(Path(__file__).resolve().parents[2])
MAIN = "import sys; sys.argv[0] = 'segdeploy'; from segformer_deploy.cli.main import main; main()"


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "batch", "little.onnx", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def batch(*words: object, cwd: Path) -> tuple[int, str, str]:
    process = start(*words, cwd=cwd)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_little(tmp_path / "little.onnx")
    (tmp_path / "archive").mkdir()
    film(tmp_path / "archive" / "a.mp4", 40)
    film(tmp_path / "archive" / "b.mkv", 30)
    return tmp_path


def test_it_does_all_and_then_nothing(place: Path) -> None:
    words = ("-s", "archive", "-o", "out", "--masks", "--chunk-seconds", 0.5, "--json")
    code, out, err = batch(*words, cwd=place)
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    assert (data["done"], data["frames"], data["failed"]) == (2, 70, 0)
    assert "2 of 2 videos done" in err
    assert len(list((place / "out" / "a.mp4" / "masks").glob("*.png"))) == 40
    assert not (place / "out" / "a.mp4" / "overlay.mp4").exists()  # only what was named
    code, out, err = batch(*words, cwd=place)
    assert (code, json.loads(out)["already"]) == (0, 2)
    assert "nothing to do: all 2 videos are done already" in err


def test_a_bad_video_is_in_a_table_and_the_code_is_1(place: Path) -> None:
    (place / "archive" / "empty.mp4").touch()
    code, _, err = batch("-s", "archive", "-o", "out", "--processes", 1, cwd=place)
    assert code == 1
    assert "1 of 3 videos failed" in err
    assert "empty.mp4" in err
    assert "Traceback" not in err
    assert (place / "out" / "a.mp4" / "overlay.mp4").is_file()
    assert (place / "out" / "b.mkv" / "overlay.mp4").is_file()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("-s", "absent", "-o", "out"), "no such file"),
        (("-s", "archive", "-o", "archive"), "source folder itself"),
        (("-s", "archive", "-o", "out", "--gpus", 1), "--gpus without"),
        (("-s", "archive", "-o", "out", "--backend", "tensorrt"), "tensorrt"),
        (("-s", "archive", "-o", "little.onnx"), "little.onnx"),
    ],
)
def test_what_cannot_be(place: Path, words: tuple[object, ...], found: str) -> None:
    code, _, err = batch(*words, cwd=place)
    assert code == 1
    assert found in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(place: Path, number: signal.Signals, code: int) -> None:
    film(place / "archive" / "a.mp4", 300)
    words = ("-s", "archive", "-o", "out", "--processes", 1, "--chunk-seconds", 0.3, "--json")
    process = start(*words, cwd=place)
    chunks = place / "out" / ".segdeploy" / "chunks"
    until = time.monotonic() + 60
    while not list(chunks.glob("*/[0-9]*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "finished chunks are kept" in err
    assert "Traceback" not in err
    assert json.loads(out)["interrupted"] is True
    code, out, err = batch(*words, cwd=place)
    assert code == 0, err
    assert 0 < json.loads(out)["frames"] < 330
