"""segdeploy doctor: what this machine is, and what keeps it from working or from being fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.common import BUILD, Json, emit, say, table
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.host.libraries import Library
    from segformer_deploy.workflow.doctor.diagnosis import Diagnosis
    from segformer_deploy.workflow.doctor.finding import Finding
    from segformer_deploy.workflow.doctor.machine import Machine

Rows = list[list[str]]


def command(
    build: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the engine folders lie; build/ if not given."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what this machine is, which engine folders run on it, and what to put right.

    Nothing is loaded onto a GPU. Findings are no error: the exit code is 0.

    Example:  segdeploy doctor --build build
    """
    from segformer_deploy.workflow.doctor.diagnosis import diagnose

    if build is not None and not build.is_dir():
        raise InputError(
            f"{build} is not a folder", "the folder that holds engine folders", "segdeploy doctor"
        )
    diagnosis = diagnose(build or BUILD)
    _show(diagnosis, build or BUILD)
    if json:
        emit({"build": str(build or BUILD), **diagnosis.to_dict()})


def _show(diagnosis: Diagnosis, build: Path) -> None:
    machine = diagnosis.machine
    for title, rows in (
        ("machine", _machine_rows(machine)),
        ("memory", _memory_rows(machine)),
        ("GPU", _gpu_rows(machine)),
        ("libraries", _library_rows(machine)),
        ("video", _video_rows(machine)),
    ):
        table(title, ["", "value"], rows)
    if machine.engines:
        table(
            f"engine folders under {build}/",
            ["", "backend", "precision", "runs here"],
            [
                [str(one.path), one.backend or "?", one.precision or "?", one.why or "yes"]
                for one in machine.engines
            ],
        )
    else:
        say(f"engine folders: none under {build}/ (segdeploy build-engine makes one)")
    _show_findings(diagnosis.findings)


def _show_findings(findings: tuple[Finding, ...]) -> None:
    if not findings:
        say("findings: none")
        return
    say(f"findings: {len(findings)}, worst first")
    for finding in findings:
        say(f"{finding.level}: {finding.found}\n  next: {finding.next}")


def _told(name: str, value: Any, unknown: dict[str, str]) -> list[str]:
    """A row: the value, or why there is none."""
    return [
        name.replace("_", " "),
        f"({unknown.get(name, 'unknown')})" if value is None else str(value),
    ]


def _machine_rows(machine: Machine) -> Rows:
    system, cpu, clocks = machine.system, machine.cpu, machine.clocks
    rows = [["board", system.board]] if system.board else []  # PCs have no device tree
    rows += [
        _told("os", system.os, system.unknown),
        _told("kernel", system.kernel, system.unknown),
    ]
    if system.jetson:
        rows += [
            _told(n, getattr(system, n), system.unknown) for n in ("jetpack", "l4t", "power_mode")
        ]
    features = None if cpu.features is None else ", ".join(cpu.features) or "none of those we use"
    rows += [
        _told("model", cpu.model, cpu.unknown),
        ["cores", f"{cpu.usable_cores} usable of {cpu.cores or '?'}, {cpu.architecture}"],
        _told("features", features, cpu.unknown),
    ]
    for kind, found in (("cpu", clocks.cpu), ("gpu", clocks.gpu)):
        if kind == "gpu" and not system.jetson:
            continue  # only a Jetson tells
        for clock in found:
            span = f"{_mhz(clock.min_mhz)} to {_mhz(clock.max_mhz)} MHz"
            governor = clock.governor or "governor unknown"
            rows.append([f"clock {clock.name}", f"{_mhz(clock.current_mhz)} of {span}, {governor}"])
        if not found:
            rows.append([f"{kind} clock", _told(kind, None, clocks.unknown)[1]])
    environment = "virtual environment" if system.virtual_environment else "no virtual environment"
    kernels = machine.kernels
    return [
        *rows,
        ["python", f"{system.python}, {environment}"],
        ["native backend", kernels.network or f"({kernels.why})"],
        ["class maps", kernels.class_map],
    ]


def _mhz(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def _memory_rows(machine: Machine) -> Rows:
    memory = machine.memory
    rows = []
    for name in ("total", "available", "swap", "swap_free", "limit"):
        field = f"{name}_bytes"
        _, value = _told(field, _mib(getattr(memory, field)), memory.unknown)
        rows.append([name.replace("_", " "), value])
    return rows


def _mib(size: int | None) -> str | None:
    return None if size is None else f"{size / (1 << 20):.0f} MiB"


def _gpu_rows(machine: Machine) -> Rows:
    report = machine.gpu
    rows = [
        [
            f"GPU {gpu.index}",
            f"{gpu.name}, compute capability {gpu.sm}, {gpu.multiprocessors} multiprocessors, "
            f"{_mib(gpu.memory_bytes)}{' shared with the CPU' if gpu.integrated else ''}",
        ]
        for gpu in report.gpus
    ]
    if not rows:
        rows = [["GPU", f"({report.why_none})"]]
    if report.cuda_version:
        rows.append(["driver serves CUDA", "{}.{}".format(*report.cuda_version)])
        rows.append(["driver", report.driver_version or "(it does not say its version)"])
    return rows


def _library_rows(machine: Machine) -> Rows:
    libraries = machine.libraries
    known = [
        libraries.numpy,
        libraries.opencv,
        libraries.av,
        libraries.onnxruntime,
        libraries.tensorrt,
        libraries.tensorrt_rtx,
        libraries.tensorrt_lean,
        libraries.cuda_bindings,
        libraries.pycuda,
        libraries.torch,
        libraries.onnx,
    ]
    rows = [[one.module, _library_text(one)] for one in known]
    providers = None if libraries.providers is None else ", ".join(libraries.providers)
    return [*rows, _told("providers", providers, libraries.unknown)]


def _library_text(one: Library) -> str:
    text = ", ".join(one.packages) or one.version or ""
    return f"{text} ({one.why})".strip() if one.why else text


def _video_rows(machine: Machine) -> Rows:
    video = machine.video
    codecs, streamer = video.codecs, video.gstreamer
    rows = [
        [one.path, f"{one.name or 'unnamed'}{'' if one.readable else ' (not for this user)'}"]
        for one in video.cameras
    ]
    if not rows:
        rows = [["cameras", "(no /dev/video*)"]]
    for name in ("decode_h264", "decode_hevc", "encode_h264", "rtsp"):
        rows.append(_told(name, _yes(getattr(codecs, name)), codecs.unknown))
    rows.append(["gstreamer", _told("version", streamer.version, streamer.unknown)[1]])
    if machine.system.jetson:
        for name in ("nvarguscamerasrc", "nvv4l2decoder"):
            rows.append(_told(name, _yes(getattr(streamer, name)), streamer.unknown))
    return rows


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
