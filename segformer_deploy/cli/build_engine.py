"""segdeploy build-engine: ONNX -> engine folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.common import (
    Json,
    emit,
    onnx_or_newest,
    parse_size,
    progress,
    say,
    warn_if_random,
)
from segformer_deploy.cli.plan_options import (
    AuxStreams,
    ComputeCapability,
    HardwareCompatible,
    Level,
    Profile,
    Refit,
    Tf32,
    VersionCompatible,
    Workspace,
    bytes_of,
    plan_request,
    profile_from_text,
    refuse_without_plan,
    show_plan,
)
from segformer_deploy.cli.precision_options import (
    Equalise,
    GateImages,
    GateLabels,
    Method,
    Percentile,
    Samples,
    calibration_options,
    folder_pair,
    logits_type,
    need_onnx,
    refuse_contradictions,
    refuse_unused,
    show_report,
)
from segformer_deploy.cli.tile_options import (
    Tile,
    TileAgreement,
    TileImages,
    TileMerge,
    TileOverlap,
    request_from,
)
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.spec import FrameSize
    from segformer_deploy.workflow.build import BuildReport
    from segformer_deploy.workflow.precision import PrecisionOptions

_GPU_BACKENDS = ("tensorrt", "tensorrt-rtx")


def command(
    onnx: Annotated[
        Path | None,
        typer.Argument(metavar="M.onnx", help="The newest under build/ if left out."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="native, onnxruntime, tensorrt, tensorrt-rtx, or auto: native where it can run "
            "the graph, and with --onnx-only tensorrt: whose spelling of INT8."
        ),
    ] = "auto",
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision, proven on frames.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="INT8, calibrated and judged.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|VIDEO|R.json", help="Frames like the camera's, or ranges found earlier."
        ),
    ] = None,
    samples: Samples = 200,
    method: Method = "percentile",
    percentile: Percentile = 99.999,
    equalise: Equalise = True,
    gate_images: GateImages = None,
    gate_labels: GateLabels = None,
    report_images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Frames for the report, not the gate's."),
    ] = None,
    report_labels: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Their label pictures.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(metavar="POINTS", help="The most mIoU to lose, against gate labels.")
    ] = 0.15,
    min_agreement: Annotated[
        float, typer.Option(metavar="PERCENT", help="The least share of pixels of FP32's class.")
    ] = 99.0,
    attention: Annotated[
        bool | None,
        typer.Option(
            "--int8-attention/--no-int8-attention",
            help="INT8 for the attention's products: on for CPUs, off for GPUs, which fuse them.",
        ),
    ] = None,
    depthwise: Annotated[
        bool, typer.Option("--int8-depthwise", help="INT8 for the depthwise 3x3 too.")
    ] = False,
    logits: Annotated[
        str, typer.Option(help="Type of an FP16 graph's output: fp32, or fp16: half the bytes.")
    ] = "fp32",
    force: Annotated[
        bool, typer.Option("--force", help="Build what was asked, though slower or worse.")
    ] = False,
    onnx_only: Annotated[
        bool, typer.Option("--onnx-only", help="Write the FP16 or INT8 graph and stop.")
    ] = False,
    opt: Annotated[
        str | None, typer.Option(metavar="HxW", help="Network size: frames are stretched to it.")
    ] = None,
    min: Annotated[
        str | None, typer.Option(metavar="HxW", help="Smallest network size to accept.")
    ] = None,
    max: Annotated[
        str | None, typer.Option(metavar="HxW", help="Largest network size to accept.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Largest batch to accept.")] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES", help="The most the whole process may take, as 128M: FP32, one size."
        ),
    ] = None,
    tile: Tile = None,
    tile_overlap: TileOverlap = None,
    tile_merge: TileMerge = None,
    tile_agreement: TileAgreement = None,
    tile_images: TileImages = None,
    profile: Profile = None,
    compute_capability: ComputeCapability = None,
    hardware_compatible: HardwareCompatible = False,
    version_compatible: VersionCompatible = False,
    refit: Refit = False,
    tf32: Tf32 = False,
    aux_streams: AuxStreams = 0,
    workspace: Workspace = None,
    level: Level = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder (or file) to write."),
    ] = None,
    json: Json = False,
) -> None:
    """Build an engine folder that runs on a device without torch and onnx.

    The folder holds the engine, a sealed manifest, and golden frames for the check at first load.
    With --fp16 or --int8 the graph is calibrated, held against FP32 on frames of their own, and
    timed beside it: the faster one is built, and precision.json tells what was lost.

    Example:  segdeploy build-engine build/segformer-b0.onnx --opt 512x1024

    Example:  segdeploy build-engine --backend tensorrt-rtx --fp16 --profile 512x512

    Example:  segdeploy build-engine --int8 --calibration frames --gate-images val/images
    --gate-labels val/labels
    """
    from segformer_deploy.workflow.build import BuildOptions, build_engine
    from segformer_deploy.workflow.sizes import AskedSizes

    refuse_contradictions(fp16, int8, onnx_only, backend)
    if not (fp16 or int8):
        refuse_unused(
            {
                "--calibration": calibration,
                "--gate-images": gate_images,
                "--gate-labels": gate_labels,
                "--report-images": report_images,
                "--report-labels": report_labels,
                "--force": force,
            }
        )
    if backend not in _GPU_BACKENDS or onnx_only:
        refuse_without_plan(
            {
                "--profile": profile,
                "--compute-capability": compute_capability,
                "--hardware-compatible": hardware_compatible,
                "--version-compatible": version_compatible,
                "--refit": refit,
                "--tf32": tf32,
                "--aux-streams": aux_streams,
                "--workspace": workspace,
                "--level": level,
            }
        )
    path = onnx_or_newest(onnx, fp32=fp16 or int8)
    precision: PrecisionOptions | None = None
    if fp16 or int8:
        need_onnx("writing a precision into a graph")
        from segformer_deploy.graph.insert_qdq import Recipe
        from segformer_deploy.workflow.gate import Budget
        from segformer_deploy.workflow.precision import PrecisionOptions

        gpu = backend in _GPU_BACKENDS or (onnx_only and backend == "auto")
        precision = PrecisionOptions(
            "int8" if int8 else "fp16",
            "gpu" if gpu else "cpu",
            calibration,
            samples,
            calibration_options(method, percentile, equalise),
            # Our CPU kernels gain by it; a GPU's fused attention would fall apart.
            Recipe(attention=not gpu if attention is None else attention, depthwise=depthwise),
            folder_pair(gate_images, gate_labels, "gate"),
            folder_pair(report_images, report_labels, "report"),
            Budget(max_drop, min_agreement),
            logits_type(logits),
            force,
        )
    if onnx_only and tile:
        raise InputError("--tile with --onnx-only", "a folder: a graph knows nothing of tiles")
    if onnx_only and precision is not None:
        _write_onnx(path, output, parse_size(opt), precision, json)
        return
    ranges = tuple(profile_from_text(text, batch or 1) for text in profile or ())
    if max_memory and (precision is not None or backend in _GPU_BACKENDS):
        raise InputError(
            "--max-memory with a precision or a GPU's backend",
            "an FP32 graph on native or onnxruntime",
            "segdeploy build-engine --max-memory 128M --backend onnxruntime",
        )
    options = BuildOptions(
        tiles=request_from(tile, tile_overlap, tile_merge, tile_agreement, tile_images),
        max_memory=bytes_of(max_memory) if max_memory else None,
        backend=backend,
        sizes=AskedSizes(parse_size(opt), parse_size(min), parse_size(max), batch, ranges),
        output=output,
        precision=precision,
        plan=plan_request(
            capabilities=compute_capability,
            workspace=workspace,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            refit=refit,
            tf32=tf32,
            aux_streams=aux_streams,
            level=level,
        ),
    )
    _show(build_engine(path, options, say, progress), json)


def _write_onnx(
    onnx: Path, output: Path | None, opt: FrameSize | None, precision: Any, json: bool
) -> None:
    from segformer_deploy.engine.onnx_file import spec_from_onnx
    from segformer_deploy.workflow.choose import write_onnx_only

    spec = spec_from_onnx(onnx).stretched_to(opt)
    path, candidate = write_onnx_only(onnx, output, spec, precision, say, progress)
    warn_if_random(spec)
    show_report(candidate.details)
    say(f"{path}: {candidate.details['precision']}, for a {candidate.details['target']}")
    if json:
        emit({"onnx": str(path), **candidate.details, "notes": list(candidate.notes)})


def _show(report: BuildReport, json: bool) -> None:
    manifest = report.manifest
    warn_if_random(manifest.spec)
    if report.precision is not None:
        show_report(report.precision)
    for note in manifest.notes:
        say(f"note: {note}")
    if manifest.tiling is not None:
        say(str(manifest.tiling))
    if manifest.plan is not None:
        show_plan(manifest.plan)
    made_for = (
        manifest.verified
        if manifest.plan is None
        else (f"{manifest.backend} {manifest.backend_version} ({manifest.verified})")
    )
    say(
        f"{report.folder}: {manifest.delivered} for {made_for}, "
        f"resize: {manifest.spec.resize}, {manifest.build_seconds:.1f} s"
    )
    say(f"next: segdeploy bench {report.folder}")
    if json:
        emit(report.to_dict())
