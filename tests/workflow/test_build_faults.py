"""Builds that are killed, interrupted, refused or doubled: an older folder is never lost.

The builds are real ones, by TensorRT-RTX, which needs no GPU for it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from segformer_deploy.engine.package import check_folder, engine_folders
from segformer_deploy.errors import BuildError, OutputError
from segformer_deploy.files import _aside
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.rebuild import rebuild_where_needed
from tests.engine.test_plan_folder import Machine
from tests.engine.trt.proof import rtx
from tests.little import write_little
from tests.workflow.small import saved
from tests.workflow.test_plan import entries, snapshot

ROOT = Path(__file__).resolve().parents[2]
BUILDING = "building the plan with"


def command(onnx: Path, output: Path) -> list[str]:
    words = ["build-engine", str(onnx), "--backend", "tensorrt-rtx", "--output", str(output)]
    return [sys.executable, "-m", "segformer_deploy", *words]


@contextmanager
def started(onnx: Path, output: Path, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """`segdeploy build-engine` as a process; whatever happens, it does not outlive the test."""
    process = subprocess.Popen(
        command(onnx, output),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **more,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Until it says `text`."""
    assert process.stderr is not None
    heard = []
    for line in process.stderr:
        heard.append(line)
        if text in line:
            return
    raise AssertionError("".join(heard))


def wait_for_lock(folder: Path) -> None:
    lock, until = folder.with_name(f".{folder.name}.lock"), time.monotonic() + 60
    while not (lock.exists() and lock.read_text()):
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    """A network whose plan takes a second to build."""
    rtx()
    return saved(tmp_path / "small.onnx")


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """Another network, whose plan takes a twentieth of it."""
    rtx()
    return write_little(tmp_path / "little.onnx")


def build(onnx: Path, output: Path) -> Path:
    return build_engine(onnx, BuildOptions("tensorrt-rtx", output=output)).folder


# ---- killed --------------------------------------------------------------------------------------


def test_a_killed_build_leaves_nothing_under_its_name(
    tmp_path: Path, onnx: Path, quick: Path
) -> None:
    older, fresh = build(quick, tmp_path / "older"), tmp_path / "fresh"
    before, killed, kept, left = snapshot(older), 0, 0, 0
    # From the first moment that something is there to lose, to well into the plan's build.
    for index, delay in enumerate((0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.15)):
        target = (older, fresh)[index % 2]
        with started(onnx, target) as process:
            wait_for_lock(target)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            killed += process.wait(60) == -signal.SIGKILL
        left += any(".partial" in name for name in entries(tmp_path))
        kept += snapshot(older) == before and not fresh.exists()
        # A machine that is quicker than our signal: then the new one is there, all of it.
        for folder in engine_folders(tmp_path):
            check_folder(folder)
        assert set(engine_folders(tmp_path)) <= {older, fresh}
        before = snapshot(older)
        shutil.rmtree(fresh, ignore_errors=True)
    assert min(killed, kept) >= 5
    assert left >= 2, "the builds were killed before they had begun anything"
    for target in (older, fresh):
        build(quick, target)
        check_folder(target)
    assert entries(tmp_path) == ["fresh", "little.onnx", "older", "small.onnx"]


def moved_away(folder: Path) -> dict[str, bytes]:
    """As a build leaves it that is killed between its two renames; what was in the folder."""
    before = snapshot(folder)
    folder.rename(_aside(folder, "old"))
    (_aside(folder) / "golden").mkdir(parents=True)
    return before


def test_killed_between_two_renames(
    tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(quick, tmp_path / "engine")
    before = moved_away(folder)
    with monkeypatch.context() as patch:
        Machine(patch, "1.7.1", None).world.failures = ["Error Code 2: it broke"]
        with pytest.raises(BuildError):
            build(quick, folder)
    assert snapshot(folder) == before
    assert entries(tmp_path) == ["engine", "little.onnx"]
    moved_away(folder)
    build(quick, folder)
    check_folder(folder)
    assert entries(tmp_path) == ["engine", "little.onnx"]


def test_killed_between_two_renames_of_a_rebuild(tmp_path: Path, quick: Path) -> None:
    """The graph that it is built from lies in the folder that is away."""
    folder = build(quick, tmp_path / "engine")
    moved_away(folder)
    build(folder / "model.onnx", folder)
    check_folder(folder)
    moved_away(folder)
    with pytest.raises(Exception, match="driver"):
        rebuild_where_needed(folder)  # it is there again, and needs a GPU
    check_folder(folder)


# ---- interrupted ---------------------------------------------------------------------------------


def test_ctrl_c_ends_the_builder_and_leaves_nothing(
    tmp_path: Path, onnx: Path, quick: Path
) -> None:
    older = build(quick, tmp_path / "older")
    before = snapshot(older)
    for delay, target in ((0.0, tmp_path / "fresh"), (0.1, older)):
        with started(onnx, target) as process:
            wait_for(process, BUILDING)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        assert snapshot(older) == before
        assert entries(tmp_path) == ["little.onnx", "older", "small.onnx"]


# ---- two at once ---------------------------------------------------------------------------------


def test_two_builds_of_a_folder(tmp_path: Path, onnx: Path, quick: Path) -> None:
    target = tmp_path / "engine"
    with started(onnx, target) as process:
        wait_for_lock(target)
        process.send_signal(signal.SIGSTOP)  # so that it holds the lock as long as we look
        with pytest.raises(OutputError, match="being built by another process") as caught:
            build(quick, target)
        assert f"number {process.pid}" in caught.value.found
        assert str(target) in caught.value.found
        build(quick, tmp_path / "beside")
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    # The one that came first has won, whole.
    assert (target / "model.onnx").read_bytes() == onnx.read_bytes()
    check_folder(target)
    build(quick, target)
    assert (target / "model.onnx").read_bytes() == quick.read_bytes()
    assert entries(tmp_path) == ["beside", "engine", "little.onnx", "small.onnx"]


def test_two_threads_that_build_a_folder(
    tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "1.7.1", None)
    inside, go = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go.wait(60)

    machine.world.on_step = wait
    target, ended = tmp_path / "engine", list[Any]()
    first = threading.Thread(target=lambda: ended.append(build(quick, target)))
    first.start()
    assert inside.wait(60)
    try:
        with pytest.raises(OutputError, match=f"number {os.getpid()}"):
            build(quick, target)
    finally:
        go.set()
        first.join()
    assert ended == [target]
    build(quick, target)
    assert entries(tmp_path) == ["engine", "little.onnx"]


# ---- no place ------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tmp_path: Path, quick: Path) -> None:
    with mounted(tmp_path / "disk", "size=500k") as disk:
        older = build(quick, disk / "older")
        before = snapshot(older)
        for target in (older, disk / "fresh"):
            with pytest.raises(OutputError, match="No space left on device") as caught:
                build(quick, target)
            assert f"cannot write {target}" in caught.value.found
            assert "free some space" in caught.value.next_step
            assert "--output" in caught.value.next_step
            assert entries(disk) == ["older"]
        assert snapshot(older) == before
        check_folder(older)


def test_a_read_only_disk(tmp_path: Path, quick: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        older = build(quick, disk / "older")
        before = snapshot(older)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for target in (older, disk / "fresh"):
            with pytest.raises(OutputError, match="Read-only file system") as caught:
                build(quick, target)
            assert f"cannot write {target}" in caught.value.found
            assert "the file system is read-only" in caught.value.next_step
        assert snapshot(older) == before
        assert entries(disk) == ["older"]


def test_files_that_may_not_grow(tmp_path: Path, quick: Path) -> None:
    """A disk that is full to a process of its own, for those who may not mount one."""
    older = build(quick, tmp_path / "older")
    before = snapshot(older)
    limit = len(before["model.plan"]) // 2

    def short() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    for target in (older, tmp_path / "fresh"):
        done = subprocess.run(
            command(quick, target),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=short,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 1, done.stderr
        assert f"error: cannot write {target}: File too large" in done.stderr
        assert "--output" in done.stderr
        assert "Traceback" not in done.stderr
    assert snapshot(older) == before
    assert entries(tmp_path) == ["little.onnx", "older"]
