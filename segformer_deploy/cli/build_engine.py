"""segdeploy build-engine: ONNX -> engine folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import (
    Json,
    emit,
    onnx_or_newest,
    parse_size,
    say,
    warn_if_random,
)


def command(
    onnx: Annotated[
        Path | None,
        typer.Argument(metavar="M.onnx", help="The newest under build/ if left out."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help="native, onnxruntime, or auto: native where it can run the graph."),
    ] = "auto",
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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write.")
    ] = None,
    json: Json = False,
) -> None:
    """Build an engine folder that runs on a device without torch and onnx.

    The folder holds the engine, a sealed manifest, and golden frames for the check at first load.

    Example:  segdeploy build-engine build/segformer-b0.onnx --opt 512x1024
    """
    from segformer_deploy.workflow.build import BuildOptions, build_engine

    report = build_engine(
        onnx_or_newest(onnx),
        BuildOptions(
            backend=backend,
            opt=parse_size(opt),
            min=parse_size(min),
            max=parse_size(max),
            batch=batch,
            output=output,
        ),
        say,
    )
    manifest = report.manifest
    warn_if_random(manifest.spec)
    for note in manifest.notes:
        say(f"note: {note}")
    say(
        f"{report.folder}: {manifest.delivered} for {manifest.verified}, "
        f"resize: {manifest.spec.resize}, {manifest.build_seconds:.1f} s"
    )
    say(f"next: segdeploy bench {report.folder}")
    if json:
        emit(report.to_dict())
