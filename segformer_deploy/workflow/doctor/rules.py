"""What is wrong with a machine, worst first: each rule is one function from facts to findings."""

from __future__ import annotations

from collections.abc import Iterator

from segformer_deploy.workflow.doctor import gpu_rules
from segformer_deploy.workflow.doctor.finding import (
    LEVELS,
    Finding,
    Level,
    Rule,
    seen_from_environment,
)
from segformer_deploy.workflow.doctor.machine import Machine

_LEAST_MEMORY = 256 << 20


def findings_of(machine: Machine) -> tuple[Finding, ...]:
    """All findings, worst first, within a level in the order of the rules."""
    found = [finding for rule in _RULES for finding in rule(machine)]
    return tuple(sorted(found, key=lambda finding: LEVELS.index(finding.level)))


def _needed_libraries(machine: Machine) -> Iterator[Finding]:
    jetson = machine.system.jetson
    for library, package in (
        (machine.libraries.numpy, "numpy"),
        (machine.libraries.opencv, "opencv-python-headless"),
    ):
        remedy = f"pip install --force-reinstall {package}"
        if library.module == "cv2" and jetson:
            remedy = "sudo apt install python3-opencv" + seen_from_environment(machine)
        if not library.installed:
            yield Finding("fault", f"{library.module} is not installed", remedy)
        elif library.loads is False:
            yield Finding("fault", f"{library.module}: {library.why}", remedy)


def _packages_that_overwrite(machine: Machine) -> Iterator[Finding]:
    libraries = machine.libraries
    extra = "gpu" if machine.gpu.gpus else "cpu"
    for library, again in (
        (libraries.onnxruntime, f'"segformer-deploy[{extra}]"'),
        (libraries.opencv, "opencv-python-headless"),
    ):
        if len(library.packages) > 1:
            names = [package.split()[0] for package in library.packages]
            yield Finding(
                "fault",
                f"{' and '.join(library.packages)} are both installed and overwrite each "
                f"other's module {library.module}",
                f"pip uninstall -y {' '.join(names)}; pip install {again}",
            )


def _onnxruntime_loads(machine: Machine) -> Iterator[Finding]:
    libraries = machine.libraries
    if libraries.onnxruntime.installed and libraries.providers is None:
        yield Finding(
            "fault",
            f"onnxruntime: {libraries.unknown['providers']}",
            "install it again, or use --backend native",
        )


def _little_memory(machine: Machine) -> Iterator[Finding]:
    usable = machine.memory.usable_bytes
    if usable is not None and usable < _LEAST_MEMORY:
        limited = usable == machine.memory.limit_bytes
        yield Finding(
            "fault",
            f"this process may use {usable >> 20} MiB, and less than {_LEAST_MEMORY >> 20} MiB "
            "is little for B0",
            "raise the control group's memory limit (docker run --memory, systemd MemoryMax)"
            if limited
            else "segment at a smaller --size, and stop what else runs here",
        )


def _engines_that_do_not_run(machine: Machine) -> Iterator[Finding]:
    for engine in machine.engines:
        if not engine.runs:
            remedy = engine.next or "segdeploy build-engine"
            yield Finding("fault", f"{engine.path} does not run here: {engine.why}", remedy)


def _codecs_missing(machine: Machine) -> Iterator[Finding]:
    codecs = machine.video.codecs
    again = "pip install --force-reinstall av"
    if codecs.version is None:
        yield Finding("fault", codecs.unknown["version"], again)
        return
    missing: tuple[tuple[bool | None, Level, str], ...] = (
        (codecs.decode_h264, "fault", "read H.264 videos"),
        (codecs.encode_h264, "fault", "write videos (it has no libx264)"),
        (codecs.decode_hevc, "note", "read H.265 videos"),
        (codecs.rtsp, "note", "read network cameras (RTSP)"),
    )
    for has, level, what in missing:
        if has is False:
            yield Finding(level, f"PyAV {codecs.version} cannot {what}", again)


def _no_kernels(machine: Machine) -> Iterator[Finding]:
    kernels = machine.kernels
    remedy = "install a C compiler and reinstall segformer-deploy"
    if kernels.network is None:
        yield Finding("slow", f"the native backend cannot run: {kernels.why}", remedy)
    if not kernels.class_map_compiled:
        yield Finding(
            "slow",
            f"class maps and resizes are computed by {kernels.class_map}: same result, several "
            "times slower",
            "unset SEGDEPLOY_KERNELS" if "SEGDEPLOY_KERNELS" in kernels.class_map else remedy,
        )


def _opencv_on_a_jetson(machine: Machine) -> Iterator[Finding]:
    libraries = machine.libraries
    if machine.system.jetson and libraries.opencv.packages and libraries.system_opencv:
        package = libraries.opencv.packages[0]
        yield Finding(
            "slow",
            f"{package} from pip hides JetPack's OpenCV ({libraries.system_opencv})",
            f"pip uninstall -y {package.split()[0]}" + seen_from_environment(machine),
        )


def _held_clocks(machine: Machine) -> Iterator[Finding]:
    held = [clock.name for clock in machine.clocks.cpu if clock.held_low]
    if held:
        yield Finding(
            "slow",
            f"the processor's clock is held low ({', '.join(held)}: powersave)",
            "sudo nvpmodel -m 0; sudo jetson_clocks"
            if machine.system.jetson
            else "sudo cpupower frequency-set -g performance",
        )


def _cameras(machine: Machine) -> Iterator[Finding]:
    cameras = machine.video.cameras
    if not cameras:
        yield Finding(
            "note",
            "there is no camera (/dev/video*)",
            "connect one (in a container: docker run --device /dev/video0), or give --source a "
            "video or a folder of frames",
        )
    closed = [camera.path for camera in cameras if not camera.readable]
    if closed:
        yield Finding(
            "note",
            f"this user may not open {', '.join(closed)}",
            "sudo usermod -aG video $USER, then log in again",
        )


def _jetson_gstreamer(machine: Machine) -> Iterator[Finding]:
    streamer = machine.video.gstreamer
    if not machine.system.jetson:
        return
    for has, name, purpose in (
        (streamer.nvarguscamerasrc, "nvarguscamerasrc", "cameras on the CSI connector"),
        (streamer.nvv4l2decoder, "nvv4l2decoder", "decoding videos in hardware"),
    ):
        if has is False:
            yield Finding(
                "note",
                f"GStreamer has no {name}, for {purpose}",
                "sudo apt install nvidia-l4t-gstreamer",
            )


_RULES: tuple[Rule, ...] = (
    _needed_libraries,
    _packages_that_overwrite,
    _onnxruntime_loads,
    gpu_rules.gpu_out_of_reach,
    gpu_rules.old_driver,
    gpu_rules.old_gpu,
    gpu_rules.no_cuda_bindings,
    _little_memory,
    _engines_that_do_not_run,
    _codecs_missing,
    gpu_rules.no_tensorrt,
    _no_kernels,
    gpu_rules.onnxruntime_without_cuda,
    _opencv_on_a_jetson,
    _held_clocks,
    _cameras,
    _jetson_gstreamer,
)
