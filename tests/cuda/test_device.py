"""Which GPUs are here, asked of drivers that are compiled for the purpose."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from segformer_deploy.cuda import device
from segformer_deploy.cuda.device import Gpu, GpuReport, find_gpus

SOURCE = Path(__file__).parent / "fake_cuda.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")

Ask = Callable[..., GpuReport]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`find_gpus` of a driver compiled with these definitions."""

    def report(*definitions: str, nvml: bool = True) -> GpuReport:
        # The loader knows a library by its path: each one gets its own.
        library = tmp_path / str(len(list(tmp_path.iterdir()))) / "libcuda.so.1"
        library.parent.mkdir()
        flags = [f"-D{one}" for one in definitions]
        command = [str(COMPILER), "-shared", "-fPIC", "-O1", *flags, str(SOURCE)]
        subprocess.run([*command, "-o", str(library)], check=True)
        monkeypatch.setattr(device, "cuda_library", lambda: str(library))
        manager = str(library) if nvml else "libno-such-manager.so.1"
        monkeypatch.setattr(device, "management_library", lambda: manager)
        return find_gpus()

    return report


@needs_compiler
def test_two_gpus(ask: Ask) -> None:
    report = ask()
    assert report == GpuReport(
        (
            Gpu(0, "Orin", (8, 7), 8 << 30, True, 16),
            Gpu(1, "NVIDIA GeForce RTX 4090", (8, 9), 24 << 30, False, 128),
        ),
        (12, 6),
        "560.35.03",
        None,
    )
    assert [gpu.sm for gpu in report.gpus] == ["8.7", "8.9"]
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["cuda_version"] == "12.6"
    assert plain["gpus"][0]["compute_capability"] == "8.7"


@needs_compiler
def test_no_device(ask: Ask) -> None:
    report = ask("INIT=100")
    assert report.gpus == ()
    assert report.cuda_version == (12, 6)
    assert report.why_none == ("cuInit failed: CUDA_ERROR_NO_DEVICE (100): the driver sees no GPU")


@needs_compiler
def test_a_driver_that_starts_and_counts_none(ask: Ask) -> None:
    report = ask("GPUS=0")
    assert (report.gpus, report.why_none) == ((), "the driver is there and sees no GPU")


@needs_compiler
@pytest.mark.parametrize(
    ("version", "expected"), [(10020, (10, 2)), (12060, (12, 6)), (13000, (13, 0)), (0, None)]
)
def test_the_version_that_the_driver_serves(
    ask: Ask, version: int, expected: tuple[int, int] | None
) -> None:
    report = ask(f"VERSION={version}")
    assert report.cuda_version == expected
    assert len(report.gpus) == 2


@needs_compiler
def test_an_error_without_a_name(ask: Ask) -> None:
    assert ask("INIT=803", "NO_ERROR_NAMES").why_none == (
        "cuInit failed: error (803): the kernel's part of the driver and libcuda.so.1 are of "
        "different versions: reboot"
    )
    assert ask("INIT=4711").why_none == "cuInit failed: error (4711)"


@needs_compiler
def test_one_broken_gpu_is_not_passed_over(ask: Ask) -> None:
    report = ask("BROKEN_GPU=1")
    assert report.gpus == ()
    assert str(report.why_none).startswith("cuDeviceGet failed: CUDA_ERROR_UNKNOWN (999)")


@needs_compiler
@pytest.mark.parametrize(
    ("definition", "name"),
    [("NO_TOTAL_MEM", "cuDeviceTotalMem_v2"), ("NO_VERSION", "cuDriverGetVersion")],
)
def test_a_driver_that_lacks_a_function(ask: Ask, definition: str, name: str) -> None:
    report = ask(definition)
    assert report.gpus == ()
    assert f"has no function {name}" in str(report.why_none)


@needs_compiler
def test_without_the_management_library(ask: Ask) -> None:
    report = ask(nvml=False)
    assert len(report.gpus) == 2
    assert report.driver_version is None


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_library", lambda: "libno-such-driver.so.1")
    assert find_gpus() == GpuReport(
        (), None, None, "there is no NVIDIA driver (libno-such-driver.so.1 is not found)"
    )


def test_a_file_that_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so.1"
    library.write_bytes(b"not a library")
    monkeypatch.setattr(device, "cuda_library", lambda: str(library))
    report = find_gpus()
    assert report.gpus == ()
    assert str(report.why_none).startswith("the NVIDIA driver's library does not load (")


def test_this_machine_answers() -> None:
    """Whatever is here: GPUs, or a reason; never both, never neither."""
    report = find_gpus()
    assert (report.why_none is None) == bool(report.gpus)
