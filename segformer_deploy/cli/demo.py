"""segdeploy demo: the whole chain, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import Json, emit, say, warn_if_random


def command(
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|FILE|HUB-ID", help="Weights, as for export."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", "-s", help="Video, picture or folder of your own.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("demo"),
    json: Json = False,
) -> None:
    """Build an engine, benchmark it and segment a street video, all into one folder.

    Example:  segdeploy demo --checkpoint nvidia/segformer-b0-finetuned-cityscapes-1024-1024
    """
    from segformer_deploy.workflow.demo import demo

    result = demo(output, checkpoint, source, say)
    warn_if_random(result.spec)
    say(
        f"p50 {result.latency.p50:.1f} ms from frame to class map; "
        f"{result.run.frames} frames at {result.run.fps:.1f} frames/s from file to file"
        + ("" if result.miou is None else f"; mIoU {result.miou:.1f} % against the clip's labels")
    )
    say("look at:")
    for path in result.files:
        say(f"  {path}")
    if json:
        emit(result.to_dict())
