"""Rules about the GPU and the libraries that use it."""

from __future__ import annotations

from collections.abc import Iterator

from segformer_deploy.workflow.doctor.finding import Finding, seen_from_environment
from segformer_deploy.workflow.doctor.machine import Machine

# Turing: the oldest GPU that TensorRT-RTX and today's TensorRT build for.
_LEAST_COMPUTE = (7, 5)
# JetPack 6.1's, and the oldest that the extra `cuda` takes.
_LEAST_CUDA = (12, 6)


def gpu_out_of_reach(machine: Machine) -> Iterator[Finding]:
    gpu, system = machine.gpu, machine.system
    if gpu.gpus:
        return
    if system.jetson:
        yield Finding(
            "fault",
            f"the Jetson's GPU cannot be used: {gpu.why_none}",
            "in a container: docker run --runtime nvidia; else flash JetPack again",
        )
    elif system.nvidia_cards:
        yield Finding(
            "fault",
            f"an NVIDIA card is on the PCI bus, but {gpu.why_none}",
            "install NVIDIA's driver; in a container: docker run --gpus all",
        )
    elif gpu.cuda_version is not None:
        yield Finding(
            "note",
            f"NVIDIA's driver is installed, but no GPU can be used: {gpu.why_none}",
            "unset CUDA_VISIBLE_DEVICES if it hides the GPU; without a GPU all runs on the CPU",
        )


def old_driver(machine: Machine) -> Iterator[Finding]:
    version = machine.gpu.cuda_version
    if machine.gpu.gpus and version is not None and version < _LEAST_CUDA:
        yield Finding(
            "fault",
            "NVIDIA's driver serves CUDA up to {}.{}, and 12.6 is needed".format(*version),
            "flash JetPack 6.1 or later"
            if machine.system.jetson
            else "update NVIDIA's driver to release 560 or later",
        )


def old_gpu(machine: Machine) -> Iterator[Finding]:
    for gpu in machine.gpu.gpus:
        if gpu.compute_capability < _LEAST_COMPUTE:
            yield Finding(
                "fault",
                f"{gpu.name} has compute capability {gpu.sm}, and TensorRT builds for 7.5 "
                "and later",
                "use --backend native on the CPU",
            )


def no_tensorrt(machine: Machine) -> Iterator[Finding]:
    libraries, gpus = machine.libraries, machine.gpu.gpus
    if not gpus or libraries.tensorrt.installed or libraries.tensorrt_rtx.installed:
        return
    found = f"there is a GPU ({gpus[0].name}) and neither TensorRT nor TensorRT-RTX"
    if not machine.system.jetson:
        remedy = 'pip install "segformer-deploy[tensorrt]", or on a GeForce "[tensorrt-rtx]"'
    elif libraries.system_tensorrt:
        remedy = f"JetPack's own is there ({libraries.system_tensorrt}), for the system's Python"
        remedy += seen_from_environment(machine)
    else:
        remedy = "sudo apt install nvidia-jetpack" + seen_from_environment(machine)
    yield Finding("slow", found, remedy)


def no_cuda_bindings(machine: Machine) -> Iterator[Finding]:
    libraries = machine.libraries
    if not machine.gpu.gpus or libraries.cuda_bindings.installed:
        return
    if libraries.tensorrt.installed or libraries.tensorrt_rtx.installed:
        yield Finding(
            "fault",
            "TensorRT engines need cuda-python for device memory: cuda.bindings is missing",
            'pip install "segformer-deploy[cuda]"',
        )


def onnxruntime_without_cuda(machine: Machine) -> Iterator[Finding]:
    providers = machine.libraries.providers
    if not machine.gpu.gpus or providers is None or "CUDAExecutionProvider" in providers:
        return
    yield Finding(
        "slow",
        "there is a GPU, and this onnxruntime has no CUDA provider (it has: "
        f"{', '.join(providers)})",
        "take NVIDIA's onnxruntime-gpu wheel for this JetPack, or a TensorRT engine"
        if machine.system.jetson
        else 'pip uninstall -y onnxruntime; pip install "segformer-deploy[gpu]"',
    )
