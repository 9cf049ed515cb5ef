"""Where frames are segmented: what was asked for, or its error; auto says what it took and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segformer_deploy.cuda import device, opening
from segformer_deploy.cuda.device import Gpu, GpuReport
from segformer_deploy.engine.backend import EngineOptions
from segformer_deploy.engine.ort import OrtOptions
from segformer_deploy.engine.ort_device import OrtDeviceEngine
from segformer_deploy.engine.session import FakeEngine
from segformer_deploy.errors import BackendError, MissingDependencyError, SegdeployError
from segformer_deploy.runtime import device_choice
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from segformer_deploy.workflow.build import BuildOptions, build_engine
from tests.cuda.gpus import install_pycuda
from tests.cuda.host.library import HostCuda
from tests.engine.fake_ort import CPU, CUDA, FakeOrt, install
from tests.little import little_spec, write_little
from tests.runtime.gpu import frames, spec_of
from tests.runtime.ort_gpu import CLASSES, OrtGpu, write_network

SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(96, 128)))
ORIN = GpuReport((Gpu(0, "Orin", (8, 7), 8 << 30, True, 16),), (12, 6), "560.35.03")
(FRAME,) = frames(1, 97, 131)


@dataclass
class Here:
    """This machine: a driver in host memory, and an engine of ONNX Runtime on its GPU."""

    host: HostCuda
    fake: FakeOrt
    engine: OrtDeviceEngine

    def error(self) -> SegdeployError:
        """What ``--device cuda`` ends with."""
        with pytest.raises(SegdeployError) as caught:
            Segmenter(self.engine, spec=SPEC, device="cuda")
        for part in (caught.value.found, caught.value.expected, caught.value.next_step):
            assert part, caught.value
        return caught.value

    def auto(self) -> str:
        """Why ``--device auto`` takes the CPU's way, which must give the right masks."""
        with Segmenter(self.engine, spec=SPEC, device="auto") as segment:
            assert segment.device == "cpu"
            found, how = segment(FRAME), segment.device_how
        with Segmenter(self.engine, spec=SPEC, device="cpu") as segment:
            assert segment.device_how == "as asked for"
            np.testing.assert_array_equal(found, segment(FRAME))
        return how

    def refused(self) -> SegdeployError:
        """The error of ``cuda``, once ``auto`` was seen to tell the same and to go on."""
        error = self.error()
        assert self.auto() == (
            f"the GPU's way does not open: {error.found}; next: {error.next_step}"
        )
        assert self.host.retained == 0
        return error


@pytest.fixture
def here(host_cuda: HostCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Here]:
    # The binding and the question without one ask the same driver.
    monkeypatch.setattr(device, "cuda_library", lambda: str(host_cuda.path))
    fake = install(monkeypatch)
    fake.world.host = host_cuda
    engine = OrtDeviceEngine(write_network(tmp_path / "m.onnx"), OrtOptions("cuda", 1))
    yield Here(host_cuda, fake, engine)
    engine.close()
    host_cuda.assert_nothing_left()


def test_a_gpu_that_works_is_taken(here: Here) -> None:
    with Segmenter(here.engine, spec=SPEC) as segment:
        assert segment.device == "cuda"
        name = f"onnxruntime 1.22.0 ({CUDA})"
        assert segment.device_how.startswith(f"the network runs there ({name}); our kernels: ")
        assert " 8.7 " in segment.device_how, "for which GPU they were compiled"
        there = segment(FRAME)
    with Segmenter(here.engine, spec=SPEC, device="cpu") as segment:
        np.testing.assert_array_equal(there, segment(FRAME))


@pytest.mark.parametrize(
    ("call", "code", "says", "step"),
    [
        ("cuInit", 100, "CUDA_ERROR_NO_DEVICE (100)", "CUDA_VISIBLE_DEVICES"),
        ("cuInit", 36, "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER (36)", "update the NVIDIA driver"),
        ("cuInit", 803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", "reboot"),
        ("cuInit", 804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE (804)", "cuda-compat"),
        ("cuInit", 34, "CUDA_ERROR_STUB_LIBRARY (34)", "LD_LIBRARY_PATH"),
        ("cuDevicePrimaryCtxRetain", 46, "CUDA_ERROR_DEVICE_UNAVAILABLE (46)", "compute-mode"),
        ("cuDevicePrimaryCtxRetain", 2, "CUDA_ERROR_OUT_OF_MEMORY (2)", "close what else"),
        ("cuDevicePrimaryCtxRetain", 999, "CUDA_ERROR_UNKNOWN (999)", "restart"),
    ],
)
def test_a_driver_that_refuses(here: Here, call: str, code: int, says: str, step: str) -> None:
    here.host.fail(call, code=code, once=False)
    error = here.refused()
    assert isinstance(error, BackendError)
    assert error.found.startswith(f"the GPU cannot be used: cuda-python: {call} failed: {says}: ")
    assert error.expected == "an NVIDIA GPU with its driver"
    assert step in error.next_step
    assert "segdeploy doctor" in error.next_step
    here.host.mend()


@pytest.mark.parametrize("version", [11040, 10020])
def test_a_driver_that_is_too_old(here: Here, version: int) -> None:
    here.host.version = version
    here.host.fail("cuInit", code=36, once=False)
    error = here.refused()
    served = f"{version // 1000}.{version % 1000 // 10}"
    assert error.found == f"the GPU cannot be used: its driver serves CUDA {served}"
    assert error.expected == "a driver of CUDA 12.0 or later"
    assert "525" in error.next_step
    here.host.mend()


def test_no_driver(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-python says it in its own words; the driver's library is asked for by name."""
    monkeypatch.setattr(device, "cuda_library", lambda: "libno-such-driver.so.1")
    here.host.fail("cuInit", code=999, once=False)
    error = here.refused()
    assert error.found == (
        "the GPU cannot be used: there is no NVIDIA driver (libno-such-driver.so.1 is not found)"
    )
    assert error.next_step.startswith("install the NVIDIA driver")
    here.host.mend()


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


def test_no_binding(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cuda.bindings", "pycuda", "pycuda.driver")
    error = here.refused()
    assert isinstance(error, MissingDependencyError)
    assert error.found == "the Python module 'cuda.bindings' or 'pycuda' is not installed"
    assert error.next_step == 'pip install "segformer-deploy[cuda]"'


def test_no_binding_and_no_gpu_is_no_question_of_pip(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "cuda.bindings", "pycuda", "pycuda.driver")
    here.host.fail("cuInit", code=100, once=False)
    error = here.refused()
    assert error.found.startswith("the GPU cannot be used: cuInit failed: CUDA_ERROR_NO_DEVICE")
    assert "pip" not in error.next_step
    here.host.mend()


def test_a_binding_that_does_not_load_is_not_called_missing(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As pycuda does, which is linked against libcuda.so.1, where that is another one."""
    without(monkeypatch, "cuda.bindings")
    package = tmp_path / "site" / "pycuda"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "driver.py").write_text("raise ImportError('libcuda.so.1: undefined symbol: cuX')")
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    error = here.refused()
    assert error.found == (
        "the GPU cannot be used: pycuda: the Python module 'pycuda' does not load: "
        "libcuda.so.1: undefined symbol: cuX"
    )
    for name in ("pycuda", "pycuda.driver"):
        sys.modules.pop(name, None)


def test_the_other_binding_is_taken_and_said(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cuda.bindings")
    install_pycuda(here.host, monkeypatch)
    opened = opening.open_driver()
    assert opened.binding == "pycuda"
    assert opened.why == ("pycuda, because the Python module 'cuda.bindings' is not installed")
    opened.driver.close()
    opened = opening.open_driver("pycuda")
    assert opened.why == "pycuda, as asked for"
    opened.driver.close()


def test_the_first_binding_is_taken_and_said(here: Here) -> None:
    opened = opening.open_driver()
    assert (opened.binding, opened.why) == ("cuda-python", "cuda-python, which is tried first")
    opened.driver.close()
    with pytest.raises(BackendError, match="no CUDA binding named 'cupy'"):
        opening.open_driver("cupy")


@pytest.mark.parametrize("call", ["cuStreamCreate", "cuModuleLoadData"])
def test_a_gpu_that_fails_behind_the_context(here: Here, call: str) -> None:
    """Memory that runs out between the context and the first frame."""
    here.host.fail(call, code=2, once=False)
    assert f"{call} failed: CUDA_ERROR_OUT_OF_MEMORY (2)" in here.refused().found
    here.host.mend()


# Engines that work on the CPU -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx = write_little(tmp_path / "little.onnx")
    return build_engine(onnx, BuildOptions(output=tmp_path / "engine")).folder


def test_a_folder_for_the_cpu_says_how_to_build_one_for_the_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_choice, "find_gpus", lambda: ORIN)
    with pytest.raises(BackendError) as caught:
        Segmenter(folder, device="cuda")
    assert caught.value.found.startswith(
        "--device cuda with a network that runs on the CPU (onnxruntime "
    )
    assert caught.value.expected == "an engine that runs on the GPU"
    command = f"segdeploy build-engine {folder}/model.onnx --backend tensorrt"
    assert caught.value.next_step.startswith(command)
    assert Path(command.split()[2]).is_file()
    assert "--backend onnxruntime --provider cuda" in caught.value.next_step


def test_a_folder_for_the_cpu_where_there_is_no_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = GpuReport((), why_none="there is no NVIDIA driver (libcuda.so.1 is not found)")
    monkeypatch.setattr(device_choice, "find_gpus", lambda: none)
    with pytest.raises(BackendError, match="there is no NVIDIA driver") as caught:
        Segmenter(folder, device="cuda")
    assert "build-engine" not in caught.value.next_step
    assert "--device cpu" in caught.value.next_step


def test_auto_says_that_the_network_runs_on_the_cpu(folder: Path) -> None:
    with Segmenter(folder) as segment:
        assert segment.device == "cpu"
        assert segment.device_how == f"the network runs there ({segment.engine_name})"


def test_an_unknown_device_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="device 'gpu'") as caught:
        Segmenter(tmp_path / "missing", device="gpu")
    assert caught.value.expected == "one of auto, cpu, cuda"


def test_a_fake_engine_has_no_device_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_choice, "find_gpus", lambda: ORIN)
    engine = FakeEngine(lambda image: np.zeros((1, 3, 16, 24), np.float32), 3)
    with pytest.raises(BackendError, match=r"runs on the CPU \(fake\)") as caught:
        Segmenter(engine, spec=little_spec(), device="cuda")
    assert "segdeploy build-engine --backend" in caught.value.next_step


# ONNX Runtime, from a file ----------------------------------------------------------------------


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> Iterator[OrtGpu]:
    gpu = OrtGpu(install(monkeypatch))
    monkeypatch.setattr(
        opening, "open_driver", lambda: opening.Opened(gpu.open_driver(), "fake", "for a test")
    )
    yield gpu
    gpu.assert_nothing_left()


@pytest.mark.parametrize("asked", ["auto", "cuda"])
@pytest.mark.parametrize("provider", ["auto", "cuda", "tensorrt"])
def test_a_file_on_a_gpu_provider(ort: OrtGpu, tmp_path: Path, provider: str, asked: str) -> None:
    path = write_network(tmp_path / "m.onnx")
    with Segmenter(path, backend="onnxruntime", provider=provider, device=asked) as segment:
        assert (segment.device, segment.note) == ("cuda", None)
        there = segment(FRAME)
    with Segmenter(path, backend="onnxruntime") as segment:
        assert segment.device == "cpu"
        np.testing.assert_array_equal(there, segment(FRAME))


def test_a_provider_that_does_not_start(ort: OrtGpu, tmp_path: Path) -> None:
    """By its name it is refused, whatever the device; auto goes on with the CPU, and says so."""
    path = write_network(tmp_path / "m.onnx")
    ort.fake.dropped.add(CUDA)
    for asked in ("auto", "cuda", "cpu"):
        with pytest.raises(BackendError, match=f"{CUDA} could not be started"):
            Segmenter(path, backend="onnxruntime", provider="cuda", device=asked)
    with Segmenter(path, backend="onnxruntime", provider="auto") as segment:
        assert f"the CPU runs the network: {CUDA} could not be started" in str(segment.note)
        assert segment.device_how == f"the network runs there (onnxruntime 1.22.0 ({CPU}))"
        assert segment(FRAME).shape == FRAME.shape[:2]
    with pytest.raises(BackendError, match="--device cuda with a network that runs on the CPU"):
        Segmenter(path, backend="onnxruntime", provider="auto", device="cuda")


def test_providers_are_onnx_runtimes() -> None:
    assert EngineOptions("native", "auto").provider == "auto"
    with pytest.raises(BackendError, match="provider 'cuda' of the backend native"):
        EngineOptions("native", "cuda")
