"""What is said of a machine: nothing of a healthy one, and of each fault what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.cuda.device import Gpu, GpuReport
from segformer_deploy.engine import package
from segformer_deploy.errors import BackendError
from segformer_deploy.host.clocks import Clock, Clocks
from segformer_deploy.host.cpu import Cpu
from segformer_deploy.host.libraries import Libraries, Library
from segformer_deploy.host.memory import Memory
from segformer_deploy.host.system import System
from segformer_deploy.host.video import Camera, Codecs, GStreamer, Video
from segformer_deploy.workflow.build import BuildOptions, build_engine
from segformer_deploy.workflow.doctor.diagnosis import Diagnosis
from segformer_deploy.workflow.doctor.finding import LEVELS, Finding
from segformer_deploy.workflow.doctor.machine import EngineFolder, Kernels, Machine, look
from segformer_deploy.workflow.doctor.rules import findings_of
from tests.little import write_little

MIB = 1 << 20


def there(module: str, *packages: str) -> Library:
    return Library(module, True, "1.0", packages or (f"{module} 1.0",), None, True)


def absent(module: str) -> Library:
    return Library(module, False, None, (), "not installed")


ADA = Gpu(0, "NVIDIA GeForce RTX 4090", (8, 9), 24 << 30, False, 128)
ORIN = Gpu(0, "Orin", (8, 7), 8 << 30, True, 16)
HEALTHY = Machine(
    system=System(None, False, None, None, None, "Linux", "6.8", "3.12", False, True, 1),
    cpu=Cpu("a processor", "x86_64", 8, 8, ("avx2",)),
    clocks=Clocks((Clock("policy0", 1000, 400, 4000, "schedutil"),), ()),
    memory=Memory(16 << 30, 8 << 30, 0, 0, None),
    gpu=GpuReport((ADA,), (12, 8), "570.86.10"),
    libraries=Libraries(
        numpy=there("numpy"),
        opencv=there("cv2", "opencv-python-headless 4.10"),
        av=there("av"),
        onnxruntime=there("onnxruntime", "onnxruntime-gpu 1.20"),
        tensorrt=there("tensorrt"),
        tensorrt_rtx=absent("tensorrt_rtx"),
        tensorrt_lean=absent("tensorrt_lean"),
        cuda_bindings=there("cuda.bindings"),
        pycuda=absent("pycuda"),
        torch=absent("torch"),
        onnx=absent("onnx"),
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        system_opencv=None,
        system_tensorrt=None,
    ),
    video=Video(
        (Camera("/dev/video0", "a camera", True),),
        Codecs("14.0", True, True, True, True),
        GStreamer("1.20.3", None, None),
    ),
    kernels=Kernels("avx2", "compiled C", True),
    engines=(EngineFolder(Path("build/a"), "native", "int8", True),),
)
JETSON = replace(
    HEALTHY,
    system=replace(HEALTHY.system, jetson=True, board="Jetson", l4t="36.4.3", nvidia_cards=0),
    gpu=GpuReport((ORIN,), (12, 6), "540.4.0"),
    libraries=replace(
        HEALTHY.libraries,
        opencv=Library("cv2", True, "4.8.0", (), None, True),
        system_opencv="/usr/lib/python3.10/dist-packages/cv2",
        system_tensorrt="/usr/lib/python3.10/dist-packages/tensorrt/__init__.py",
    ),
    video=replace(HEALTHY.video, gstreamer=GStreamer("1.20.3", True, True)),
)
CPU_BOARD = replace(
    HEALTHY,
    system=replace(HEALTHY.system, nvidia_cards=0),
    gpu=GpuReport((), why_none="there is no NVIDIA driver (libcuda.so.1 is not found)"),
    libraries=replace(
        HEALTHY.libraries,
        tensorrt=absent("tensorrt"),
        cuda_bindings=absent("cuda.bindings"),
        providers=("CPUExecutionProvider",),
        onnxruntime=there("onnxruntime"),
    ),
)


def libraries(machine: Machine, **changes: Any) -> Machine:
    return replace(machine, libraries=replace(machine.libraries, **changes))


def video(machine: Machine, **changes: Any) -> Machine:
    return replace(machine, video=replace(machine.video, **changes))


def system(machine: Machine, **changes: Any) -> Machine:
    return replace(machine, system=replace(machine.system, **changes))


def memory(machine: Machine, **changes: Any) -> Machine:
    return replace(machine, memory=replace(machine.memory, **changes))


@pytest.mark.parametrize("machine", [HEALTHY, JETSON, CPU_BOARD])
def test_nothing_is_said_of_a_healthy_machine(machine: Machine) -> None:
    assert findings_of(machine) == ()


NOT_SEEING = {"virtual_environment": True, "system_packages": False}
BROKEN_CV2 = Library("cv2", True, "4.10", ("opencv-python 4.10",), "does not load: libGL", False)
POWERSAVE = Clocks((Clock("policy0", 400, 400, 4000, "powersave", "acpi-cpufreq"),), ())
BOTH = there("onnxruntime", "onnxruntime 1.20", "onnxruntime-gpu 1.20")
CASES: list[tuple[Machine, str, str, str]] = [
    (libraries(HEALTHY, onnxruntime=BOTH), "fault", "overwrite each other", "[gpu]"),
    (libraries(CPU_BOARD, onnxruntime=BOTH), "fault", "overwrite each other", "[cpu]"),
    (
        libraries(HEALTHY, opencv=there("cv2", "opencv-python 4", "opencv-python-headless 4")),
        "fault",
        "overwrite each other's module cv2",
        "pip uninstall -y opencv-python opencv-python-headless",
    ),
    (libraries(HEALTHY, numpy=absent("numpy")), "fault", "numpy is not installed", "pip install"),
    (libraries(HEALTHY, opencv=BROKEN_CV2), "fault", "libGL", "opencv-python-headless"),
    (libraries(JETSON, opencv=absent("cv2")), "fault", "cv2 is not", "apt install python3-opencv"),
    (
        libraries(HEALTHY, providers=None, unknown={"providers": "it does not load"}),
        "fault",
        "onnxruntime: it does not load",
        "install it again",
    ),
    (memory(HEALTHY, limit_bytes=128 * MIB), "fault", "128 MiB", "docker run --memory"),
    (memory(HEALTHY, total_bytes=200 * MIB), "fault", "200 MiB", "smaller --size"),
    (
        replace(HEALTHY, gpu=GpuReport((), None, None, "there is no NVIDIA driver")),
        "fault",
        "on the PCI bus, but there is no NVIDIA driver",
        "install NVIDIA's driver",
    ),
    (
        replace(JETSON, gpu=GpuReport((), None, None, "there is no NVIDIA driver")),
        "fault",
        "the Jetson's GPU cannot be used",
        "--runtime nvidia",
    ),
    (
        replace(CPU_BOARD, gpu=GpuReport((), (12, 8), None, "cuInit failed")),
        "note",
        "no GPU can be used: cuInit failed",
        "CUDA_VISIBLE_DEVICES",
    ),
    (
        replace(HEALTHY, gpu=GpuReport((replace(ADA, compute_capability=(7, 2)),), (12, 8))),
        "fault",
        "compute capability 7.2",
        "--backend native",
    ),
    (replace(HEALTHY, gpu=GpuReport((ADA,), (12, 5))), "fault", "up to 12.5", "release 560"),
    (replace(JETSON, gpu=GpuReport((ORIN,), (12, 2))), "fault", "up to 12.2", "JetPack 6.1"),
    (
        libraries(HEALTHY, tensorrt=absent("tensorrt")),
        "slow",
        "neither TensorRT nor TensorRT-RTX",
        "tensorrt-rtx",
    ),
    (
        system(libraries(JETSON, tensorrt=absent("tensorrt")), **NOT_SEEING),
        "slow",
        "neither TensorRT nor TensorRT-RTX",
        "--system-site-packages",
    ),
    (
        libraries(JETSON, tensorrt=absent("tensorrt"), system_tensorrt=None),
        "slow",
        "neither TensorRT nor TensorRT-RTX",
        "apt install nvidia-jetpack",
    ),
    (
        libraries(HEALTHY, cuda_bindings=absent("cuda.bindings")),
        "fault",
        "cuda.bindings is missing",
        "[cuda]",
    ),
    (
        libraries(HEALTHY, providers=("CPUExecutionProvider",)),
        "slow",
        "no CUDA provider",
        "pip uninstall -y onnxruntime;",
    ),
    (
        libraries(JETSON, providers=("CPUExecutionProvider",)),
        "slow",
        "no CUDA provider",
        "for this JetPack",
    ),
    (
        libraries(JETSON, opencv=there("cv2", "opencv-python 4.10")),
        "slow",
        "hides JetPack's OpenCV",
        "pip uninstall -y opencv-python",
    ),
    (replace(HEALTHY, clocks=POWERSAVE), "slow", "held low (policy0", "cpupower"),
    (replace(JETSON, clocks=POWERSAVE), "slow", "held low (policy0", "jetson_clocks"),
    (
        replace(HEALTHY, kernels=Kernels(None, "compiled C", True, "without its compiled network")),
        "slow",
        "the native backend cannot run: without its compiled network",
        "C compiler",
    ),
    (
        replace(HEALTHY, kernels=Kernels("avx2", "NumPy (SEGDEPLOY_KERNELS=numpy)", False)),
        "slow",
        "computed by NumPy",
        "unset SEGDEPLOY_KERNELS",
    ),
    (video(HEALTHY, cameras=()), "note", "no camera", "--device /dev/video0"),
    (
        video(HEALTHY, cameras=(Camera("/dev/video0", None, False),)),
        "note",
        "may not open /dev/video0",
        "usermod -aG video",
    ),
    (
        video(HEALTHY, codecs=Codecs("14.0", False, True, True, True)),
        "fault",
        "cannot read H.264",
        "av",
    ),
    (video(HEALTHY, codecs=Codecs("14.0", True, True, True, False)), "note", "RTSP", "av"),
    (
        video(HEALTHY, codecs=Codecs(None, None, None, None, None, {"version": "does not load"})),
        "fault",
        "does not load",
        "av",
    ),
    (
        video(JETSON, gstreamer=GStreamer("1.20.3", False, True)),
        "note",
        "no nvarguscamerasrc",
        "nvidia-l4t-gstreamer",
    ),
    (
        replace(
            HEALTHY,
            engines=(EngineFolder(Path("build/b"), "tensorrt", "fp16", False, "why", "do"),),
        ),
        "fault",
        "build/b does not run here: why",
        "do",
    ),
]


@pytest.mark.parametrize(("machine", "level", "found", "remedy"), CASES)
def test_each_fault_is_said_once_with_what_to_do(
    machine: Machine, level: str, found: str, remedy: str
) -> None:
    findings = findings_of(machine)
    assert len(findings) == 1, findings
    [finding] = findings
    assert finding.level == level
    assert found in finding.found
    assert remedy in finding.next


@pytest.mark.parametrize(
    "machine",
    [
        memory(HEALTHY, limit_bytes=256 * MIB),
        memory(HEALTHY, total_bytes=None, limit_bytes=None),
        replace(HEALTHY, gpu=GpuReport((replace(ADA, compute_capability=(7, 5)),), (12, 6))),
        replace(HEALTHY, gpu=GpuReport((ADA,), None)),
        libraries(HEALTHY, onnxruntime=absent("onnxruntime"), providers=None),
        libraries(HEALTHY, tensorrt=absent("tensorrt"), tensorrt_rtx=there("tensorrt_rtx")),
        libraries(JETSON, opencv=there("cv2", "opencv-python 4.10"), system_opencv=None),
        video(JETSON, gstreamer=GStreamer(None, None, None, {"version": "not installed"})),
        video(HEALTHY, gstreamer=GStreamer("1.20.3", False, False)),
        video(HEALTHY, codecs=Codecs("14.0", None, None, None, None)),
    ],
)
def test_near_misses_and_what_is_not_known_are_no_finding(machine: Machine) -> None:
    assert findings_of(machine) == ()


Change = Callable[[Machine], Machine]
CHANGES: list[Change] = [
    lambda m: libraries(m, onnxruntime=BOTH),
    lambda m: libraries(m, numpy=absent("numpy")),
    lambda m: libraries(m, providers=("CPUExecutionProvider",)),
    lambda m: libraries(m, tensorrt=absent("tensorrt")),
    lambda m: memory(m, limit_bytes=MIB),
    lambda m: replace(m, clocks=POWERSAVE),
    lambda m: video(m, cameras=()),
    lambda m: video(m, codecs=Codecs("14.0", False, False, False, False)),
    lambda m: replace(m, kernels=Kernels(None, "NumPy", False, "why")),
]


@given(st.lists(st.sampled_from(CHANGES), unique=True), st.sampled_from([HEALTHY, JETSON]))
def test_the_worst_comes_first_and_none_is_lost(changes: list[Change], start: Machine) -> None:
    machine, alone = start, set[Finding]()
    for change in changes:
        machine = change(machine)
        alone |= set(findings_of(change(start)))
    findings = findings_of(machine)
    ranks = [LEVELS.index(finding.level) for finding in findings]
    assert ranks == sorted(ranks)
    assert set(findings) == alone
    plain = Diagnosis(machine, findings).to_dict()
    assert json.loads(json.dumps(plain)) == plain


def test_engine_folders_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = write_little(tmp_path / "little.onnx")
    for name in ("good", "elsewhere"):
        build_engine(onnx, BuildOptions(output=tmp_path / "build" / name))
    edited = tmp_path / "build" / "edited"
    edited.mkdir()
    (edited / "manifest.json").write_text("{}")

    def check_runs_here(folder: Path) -> object:
        if folder.name == "elsewhere":
            raise BackendError("it was built for an Orin", "an Orin", "segdeploy build-engine x")
        return object()

    monkeypatch.setattr(package, "check_runs_here", check_runs_here)
    engines = {one.path.name: one for one in look(tmp_path / "build").engines}
    assert set(engines) == {"good", "elsewhere", "edited"}
    good, elsewhere, edited_one = (engines[name] for name in ("good", "elsewhere", "edited"))
    assert (good.backend, good.precision, good.runs, good.why) == (
        "onnxruntime",
        "fp32",
        True,
        None,
    )
    assert (elsewhere.backend, elsewhere.precision, elsewhere.runs) == (
        "onnxruntime",
        "fp32",
        False,
    )
    assert elsewhere.why == "it was built for an Orin; expected: an Orin"
    assert elsewhere.next == "segdeploy build-engine x"
    assert (edited_one.backend, edited_one.precision, edited_one.runs) == (None, None, False)
    assert "has format None" in str(edited_one.why)
