"""Device memory through cuda-python, on a libcuda.so.1 of our own; the fake goes the same way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.cuda.driver import CudaDriver, Driver, FakeDriver, Rows
from segformer_deploy.errors import MissingDependencyError, RunError
from tests.cuda import drive
from tests.engine.trt.proof import missing, needed

SOURCE = Path(__file__).parent / "memory_cuda.c"
ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
HELD, RETAINED, STREAMS, BAD_FREES, QUEUED = range(5)


@dataclass
class Answer:
    said: str
    state: list[int]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libcuda.so.1."""
    needed("cuda.bindings", "cuda")
    if COMPILER is None:
        missing("a C compiler", "apt install gcc")
    folder = tmp_path_factory.mktemp("cuda")
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(SOURCE)]
    subprocess.run([*command, "-o", str(folder / "libcuda.so.1")], check=True)
    return folder


def go(library: Path, *steps: str, **environment: str) -> Answer:
    """Run steps of drive.py in a process that finds this libcuda.so.1."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cuda.drive", *steps],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(library), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Answer(**json.loads(done.stdout))


NOTHING_LEFT = [0, 0, 0, 0, 0]


def test_cuda_goes_through_all_steps(library: Path) -> None:
    names = [step.__name__ for step in drive.STEPS]
    answer = go(library, "open", *names, "asynchronous", "left_open")
    assert answer == Answer("Fake Orin", NOTHING_LEFT)


def test_cuda_out_of_memory(library: Path) -> None:
    answer = go(library, "out_of_memory", FAKE_CUDA_BYTES="1000")
    assert answer == Answer("", NOTHING_LEFT)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"FAKE_CUDA_DEVICES": "0"}, "cuInit failed: CUDA_ERROR_NO_DEVICE (100)"),
        (
            {"FAKE_CUDA_FAIL": "cuDevicePrimaryCtxRetain"},
            "cuDevicePrimaryCtxRetain failed: CUDA_ERROR_UNKNOWN (999)",
        ),
        ({"FAKE_CUDA_FAIL": "cuCtxSetCurrent"}, "cuCtxSetCurrent failed"),
        ({"FAKE_CUDA_FAIL": "cuStreamCreate"}, "cuStreamCreate failed"),
    ],
)
def test_no_usable_gpu(library: Path, environment: dict[str, str], says: str) -> None:
    answer = go(library, "open", **environment)
    assert answer.said.startswith(f"BackendError: the GPU cannot be used: {says}"), answer.said
    assert "segdeploy doctor" in answer.said
    assert answer.state == NOTHING_LEFT


def test_no_driver_at_all(library: Path, tmp_path: Path) -> None:
    """Whatever this machine has: an empty library of that name comes first."""
    empty = tmp_path / "empty.c"
    empty.write_text("int nothing;\n")
    command = [str(COMPILER), "-shared", "-fPIC", str(empty), "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run(command, check=True)
    answer = go(tmp_path, "open")
    assert answer.said.startswith("BackendError: the GPU cannot be used: "), answer.said


@pytest.mark.parametrize(
    "function", ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpy2DAsync", "cuStreamSynchronize"]
)
def test_a_call_that_fails_is_named(library: Path, function: str) -> None:
    answer = go(library, "rows", FAKE_CUDA_FAIL=function)
    assert answer.said.startswith(f"RunError: {function} failed: CUDA_ERROR_UNKNOWN (999)")


def test_a_stream_that_is_not_destroyed_does_not_keep_the_context(library: Path) -> None:
    answer = go(library, "closing", FAKE_CUDA_FAIL="cuStreamDestroy")
    assert answer.said.startswith("RunError: cuStreamDestroy failed")
    assert answer.state[RETAINED] == 0


def test_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match=r"cuda\.bindings") as caught:
        CudaDriver()
    assert caught.value.next_step == 'pip install "segformer-deploy[cuda]"'


@pytest.mark.parametrize("step", drive.STEPS, ids=lambda step: str(step.__name__))
def test_the_fake_goes_through_all_steps(step: object) -> None:
    made: list[FakeDriver] = []

    def open_driver() -> Driver:
        made.append(FakeDriver())
        return made[-1]

    step(open_driver)  # type: ignore[operator]
    assert [(driver.held, driver.closed) for driver in made] == [(0, True)] * len(made)
    assert all(driver.peak > 0 for driver in made)


def test_the_fake_runs_out_of_memory() -> None:
    driver = FakeDriver(capacity=1000)
    drive.out_of_memory(lambda: driver)
    assert (driver.held, driver.peak, driver.closed) == (0, 1000, True)


def test_the_fake_knows_its_bounds() -> None:
    driver = FakeDriver()
    block = driver.allocate(100, "a test")
    assert (driver.view(block.address, 100) == 0xA5).all(), "nothing may rely on zeros"
    ten = np.zeros(10, np.uint8)
    for wrong in (
        lambda: driver.copy_in(block.address + 91, ten),
        lambda: driver.copy_in(block.address - 1, ten),
        lambda: driver.copy_out(ten, block.address + 91),
        lambda: driver.copy_rows(Rows(block.address, 30, block.address + 50, 20, 20, 4)),
    ):
        with pytest.raises(RunError, match="are no device memory"):
            wrong()
    block.close()
    with pytest.raises(RunError, match="are no device memory"):
        driver.copy_out(ten, block.address)
