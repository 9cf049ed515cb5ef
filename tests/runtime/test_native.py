"""Loading the compiled kernels, doing without them, and the strips they run in."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.runtime import native, strips
from segformer_deploy.runtime.class_map import class_map_from_logits
from segformer_deploy.spec import FrameSize

ROOT = Path(__file__).parents[2]
BUILT = native.load(native.LIBRARY)[0] is not None
needs_library = pytest.mark.skipif(not BUILT, reason="the kernels are not compiled here")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The loader as a new process sees it."""
    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setattr(native, "_warned", False)
    monkeypatch.delenv(native.VARIABLE, raising=False)
    return monkeypatch


def test_without_the_library_numpy_answers_and_says_so_once(
    fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fresh.setattr(native, "LIBRARY", tmp_path / "_kernels.so")
    logits = np.zeros((3, 4, 4), np.float32)
    logits[2] = 1
    with pytest.warns(RuntimeWarning, match="NumPy .*without its compiled kernels"):
        found = class_map_from_logits(logits, FrameSize(8, 8))
    assert (found == 2).all()
    assert not native.available()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_map_from_logits(logits, FrameSize(8, 8))


def test_numpy_on_request_is_no_reason_to_warn(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv(native.VARIABLE, "numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.kernels() is None
    assert native.describe() == "NumPy (SEGDEPLOY_KERNELS=numpy)"


def test_a_file_that_is_no_library_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "_kernels.so"
    path.write_bytes(b"not a library")
    kernels, line = native.load(path)
    assert kernels is None
    assert "does not load" in line


@needs_library
def test_the_library_beside_the_code_is_used(fresh: pytest.MonkeyPatch) -> None:
    assert native.available()
    kernels = native.kernels()
    assert kernels is not None
    assert native.describe() == f"compiled C (_kernels.so, {kernels.variant})"


@needs_library
def test_a_library_of_another_interface_or_variant_is_not_used(
    fresh: pytest.MonkeyPatch,
) -> None:
    kernels, line = native.load(native.LIBRARY, "sparc")
    assert kernels is None
    assert "segdeploy_class_map_sparc" in line
    fresh.setattr(native, "ABI", native.ABI + 1)
    kernels, line = native.load(native.LIBRARY)
    assert kernels is None
    assert f"interface {native.ABI - 1}, this version needs {native.ABI}" in line


@needs_library
def test_no_memory_in_a_kernel_is_a_memory_error() -> None:
    native.check(0)
    with pytest.raises(MemoryError):
        native.check(1)


@pytest.mark.skipif(not shutil.which("cmake"), reason="CMake builds the kernels")
def test_the_package_builds_without_a_compiler(tmp_path: Path) -> None:
    environment = {**os.environ, "CC": str(tmp_path / "no-compiler")}
    build = [str(shutil.which("cmake")), "-S", str(ROOT), "-B", str(tmp_path / "build")]
    done = subprocess.run(build, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no C compiler" in done.stdout
    install = [build[0], "--install", str(tmp_path / "build"), "--prefix", str(tmp_path / "out")]
    subprocess.run(install, check=True, capture_output=True)
    assert not list(tmp_path.glob("out/**/*.so"))


# ---- strips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 100, 481])
@pytest.mark.parametrize("threads", [None, 1, 2, 5])
@pytest.mark.parametrize("fewest", [1, 30, 1000])
def test_strips_cover_every_row_once(rows: int, threads: int | None, fewest: int) -> None:
    seen = np.zeros(rows, int)
    strips_seen: list[tuple[int, int]] = []

    def work(begin: int, end: int) -> None:
        seen[begin:end] += 1
        strips_seen.append((begin, end))

    strips.run_in_strips(work, rows, threads, fewest)
    assert (seen == 1).all()
    if threads == 1 or rows < 2 * fewest:
        assert strips_seen == [(0, rows)]
    assert all(end - begin >= min(fewest, rows) for begin, end in strips_seen)


def test_two_threads_really_work_at_once() -> None:
    meeting = threading.Barrier(2, timeout=20)
    waited = threading.local()

    def work(begin: int, end: int) -> None:
        # Each thread waits for the other at its first strip; alone it would time out.
        if not getattr(waited, "done", False):
            waited.done = True
            meeting.wait()

    strips.run_in_strips(work, 100, 2, 1)


def test_a_failure_in_any_strip_reaches_the_caller() -> None:
    def work(begin: int, end: int) -> None:
        if begin <= 50 < end:
            raise MemoryError("strip")

    for _ in range(20):
        with pytest.raises(MemoryError, match="strip"):
            strips.run_in_strips(work, 100, 3, 1)


def test_fewer_than_one_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="threads=0"):
        strips.run_in_strips(lambda begin, end: None, 10, 0, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    strips.run_in_strips(lambda begin, end: None, 100, 2, 1)
    child = os.fork()
    if child == 0:
        meeting = threading.Barrier(2, timeout=10)
        waited = threading.local()

        def work(begin: int, end: int) -> None:
            if not getattr(waited, "done", False):
                waited.done = True
                meeting.wait()

        try:
            strips.run_in_strips(work, 100, 2, 1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
