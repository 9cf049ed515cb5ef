"""A case in a process of its own: its result, its failure, its end by limit, signal or clock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segformer_deploy.bench import limit as limits
from segformer_deploy.bench.case import Case
from segformer_deploy.bench.clock import Clock
from segformer_deploy.bench.limit import MIB
from segformer_deploy.bench.runner import run_case
from tests.bench.test_limit import V1, V2, groups_in, maker, version_1, version_2
from tests.little import write_little


@pytest.fixture
def no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "places", lambda _root: [])


def child(code: str) -> list[str]:
    """A child that speaks the runner's language, without an engine."""
    tell = "import json, sys, os, time\ndef tell(**m): print(json.dumps(m), flush=True)\n"
    return [sys.executable, "-c", f"{tell}{code}"]


def kernel(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Groups get these files when they are made, and go as a folder does."""
    make, remove = maker(files), shutil.rmtree
    original = limits._made
    monkeypatch.setattr(limits, "_made", lambda size, root, *_: original(size, root, make, remove))
    monkeypatch.setattr(
        limits, "_empty_and_remove", lambda folder, _: shutil.rmtree(folder, ignore_errors=True)
    )


def test_a_case_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    engine = write_little(tmp_path / "little.onnx")
    seen: list[int] = []
    case = Case(str(engine), backend="onnxruntime", threads=1, runs=2, warmup=0)
    result = run_case(case, on_run=seen.append)
    assert result["error"] is None
    assert len(result["samples_ms"]) == 2
    assert seen == [1, 2]
    assert result["limit"] is None


def test_an_error_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    result = run_case(Case(str(tmp_path / "none.onnx")))
    assert result["error"]["kind"] == "OnnxFileError"
    assert "none.onnx" in result["error"]["found"]


def test_a_crash_is_told_with_its_signal_and_last_words() -> None:
    code = "tell(phase='running'); print('oh no', file=sys.stderr, flush=True); os.abort()"
    error = run_case(Case("a"), child=child(code))["error"]
    assert error["kind"] == "ProcessEnded"
    assert "by SIGABRT while running: oh no" in error["found"]


def test_a_program_that_is_not_there() -> None:
    assert run_case(Case("a"), child=["/nowhere/python"])["error"]["kind"] == "FileNotFoundError"


def test_noise_between_the_lines_is_passed_over() -> None:
    code = "print('hello'); print('[1]'); tell(result={'error': None, 'peak_rss_mib': 1})"
    assert run_case(Case("a"), child=child(code))["error"] is None


def test_a_case_that_takes_too_long() -> None:
    error = run_case(Case("a"), child=child("tell(phase='running'); time.sleep(60)"), timeout=0.5)
    assert error["error"]["kind"] == "TimedOut"
    assert "while running" in error["error"]["found"]


@pytest.mark.parametrize(("limit", "outcome"), [(200, "peak within"), (100, "peak above")])
def test_a_limit_that_cannot_be_enforced(no_groups: None, limit: int, outcome: str) -> None:
    code = "tell(result={'error': None, 'peak_rss_mib': 150.0})"
    found = run_case(Case("a"), limit=limit * MIB, child=child(code))["limit"]
    assert (found["enforced"], found["outcome"], found["peak_mib"]) == (False, outcome, 150.0)
    assert found["survived"] is (outcome == "peak within")
    assert found["why"]


@pytest.mark.parametrize("version", [1, 2])
def test_a_kill_is_read_from_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    own = (version_1 if version == 1 else version_2)(tmp_path)
    # A plain file keeps the end of a longer text that is written over; the kernel's does not.
    kernel(monkeypatch, {**V1, "memory.limit_in_bytes": ""} if version == 1 else V2)
    file = "memory.oom_control" if version == 1 else "memory.events"
    # What the kernel does: it counts, and ends the process.
    code = (
        f"import glob; tell(phase='running')\n"
        f"open(glob.glob({str(own)!r} + '/segdeploy-*/{file}')[0], 'w').write('oom_kill 1\\n')\n"
        "os.kill(os.getpid(), 9)"
    )
    result = run_case(Case("a"), limit=64 * MIB, root=tmp_path, child=child(code))
    found = result["limit"]
    assert (found["outcome"], found["survived"], found["oom_kills"]) == ("killed", False, 1)
    assert (found["how"], found["enforced"]) == (f"cgroup v{version}", True)
    assert result["error"]["kind"] == "MemoryLimit"
    assert "killed by the kernel at a limit of 64 MiB while running" in result["error"]["found"]
    assert groups_in(own) == []


def test_a_limit_that_went_away_is_not_called_enforced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = version_2(tmp_path)
    kernel(monkeypatch, V2)
    code = (
        f"import glob; place = glob.glob({str(own)!r} + '/segdeploy-*/memory.max')[0]\n"
        "open(place, 'w').write('max')\n"
        "tell(result={'error': None, 'peak_rss_mib': 900.0})"
    )
    found = run_case(Case("a"), limit=64 * MIB, root=tmp_path, child=child(code))["limit"]
    assert (found["enforced"], found["outcome"]) == (False, "peak above")
    assert "was gone at the end" in found["why"]


def test_a_kill_by_somebody_else_is_not_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_2(tmp_path)
    kernel(monkeypatch, V2)
    result = run_case(Case("a"), limit=MIB, root=tmp_path, child=child("os.kill(os.getpid(), 9)"))
    assert (result["limit"]["outcome"], result["limit"]["survived"]) == ("failed", None)
    assert "by SIGKILL" in result["error"]["found"]


def test_a_limit_too_small_for_python_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_2(tmp_path)
    kernel(monkeypatch, {**V2, "memory.events": "oom_kill 1\n"})
    result = run_case(Case("a"), limit=MIB, root=tmp_path, child=["sh", "-c", "kill -9 $$"])
    assert "while starting Python" in result["error"]["found"]
    assert "does not even hold Python" in result["error"]["next"]


def test_surviving_under_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_2(tmp_path)
    kernel(monkeypatch, V2)
    code = "tell(result={'error': None, 'peak_rss_mib': 150.0})"
    found = run_case(Case("a"), limit=64 * MIB, root=tmp_path, child=child(code))["limit"]
    assert (found["outcome"], found["survived"], found["peak_mib"]) == ("survived", True, 7.0)


def test_ctrl_c_ends_the_child(tmp_path: Path) -> None:
    """A parent in a process of its own, for the signal has to be a real one."""
    code: Any = child(
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = (
        "from segformer_deploy.bench.case import Case\n"
        "from segformer_deploy.bench.runner import run_case\n"
        f"run_case(Case('a'), child={code!r})\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 10
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert b"KeyboardInterrupt" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_case_takes_the_time_of_its_runs() -> None:
    """Each run starts the clock anew: all of them take longer than the silence allowed."""
    code = (
        "tell(phase='running')\n"
        "for n in range(5): time.sleep(0.3); tell(runs=n + 1)\n"
        "tell(result={'error': None, 'peak_rss_mib': 1})"
    )
    began = time.monotonic()
    result = run_case(Case("a", warmup=0), child=child(code), silence=1.0)
    assert time.monotonic() - began > 1.4
    assert result["error"] is None


def test_a_warm_up_has_the_time_of_each_of_its_runs() -> None:
    code = "tell(phase='running'); time.sleep(1.2); tell(result={'error': None})"
    assert run_case(Case("a", warmup=2), child=child(code), silence=0.8)["error"] is None
    error = run_case(Case("a", warmup=0), child=child(code), silence=0.8)["error"]
    assert error["kind"] == "TimedOut"
    assert "nothing was heard of the case for 0.8 s" in error["found"]


def test_a_bound_of_the_whole_holds_whatever_is_heard() -> None:
    code = "for n in range(100): tell(runs=n); time.sleep(0.05)"
    error = run_case(Case("a"), child=child(code), timeout=0.6)["error"]
    assert "the case took longer than 0.6 s" in error["found"]


def test_scored_frames_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, Any]] = []
    original = Clock.heard
    monkeypatch.setattr(Clock, "heard", lambda self, one: (heard.append(one), original(self, one)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    engine = write_little(tmp_path / "little.onnx")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for index in range(2):
            picture = np.zeros((64, 96, 3) if name == "images" else (64, 96), np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), picture)
    folders = {name: str(tmp_path / name) for name in ("images", "labels")}
    case = Case(str(engine), backend="onnxruntime", threads=1, runs=1, warmup=0, **folders)
    assert run_case(case)["error"] is None
    assert [one["scored"] for one in heard if "scored" in one] == [1, 2]
