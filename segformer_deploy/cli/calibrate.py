"""segdeploy calibrate: frames -> ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import Json, emit, onnx_or_newest, parse_size, progress, say
from segformer_deploy.cli.precision_options import (
    Equalise,
    GateImages,
    GateLabels,
    Method,
    Percentile,
    Samples,
    calibration_options,
    folder_pair,
    need_onnx,
    show_ranking,
)


def command(
    onnx: Annotated[
        Path | None,
        typer.Argument(metavar="M.onnx", help="The FP32 graph; the newest under build/."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|VIDEO",
            help="Frames like those of the camera; generated streets for the demo model.",
        ),
    ] = None,
    method: Method = "percentile",
    percentile: Percentile = 99.999,
    samples: Samples = 200,
    equalise: Equalise = True,
    opt: Annotated[
        str | None, typer.Option(metavar="HxW", help="Network size: frames are stretched to it.")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Rank the blocks by what INT8 does to them.")
    ] = False,
    gate_images: GateImages = None,
    gate_labels: GateLabels = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Where --sensitivity draws its bars.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="R.json", help="File to write.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the ranges that INT8 needs, on frames as the runtime would prepare them.

    Warns of frames that are swapped (BGR for RGB), scaled twice, noise, repeated or too few.

    Example:  segdeploy calibrate build/segformer-b0.onnx --images frames --sensitivity
    """
    need_onnx("calibrating")
    from segformer_deploy.workflow.calibration import CalibrationRequest, run_calibration

    request = CalibrationRequest(
        onnx_or_newest(onnx, fp32=True),
        images,
        samples,
        calibration_options(method, percentile, equalise),
        parse_size(opt),
        output,
        sensitivity,
        folder_pair(gate_images, gate_labels, "gate"),
        chart,
    )
    result = run_calibration(request, say, progress)
    if result.ranking:
        show_ranking(result.ranking)
        say(f"chart: {result.chart}")
    ranges = result.ranges
    say(
        f"{result.path}: {len(ranges.ranges)} ranges from {len(ranges.frames)} frames at "
        f"{ranges.network}, {ranges.method}"
    )
    say(f"next: segdeploy build-engine --int8 --calibration {result.path}")
    if json:
        emit(result.to_dict())
