"""segdeploy export: checkpoint -> ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import Json, emit, parse_size, say, warn_if_random


def command(
    variant: Annotated[
        str | None, typer.Option(help="b0 to b5; the checkpoint's own, or b0, if not given.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|FILE|HUB-ID|demo",
            help="Weights; the demo model's, else random ones, if not given.",
        ),
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Random weights, for measuring speed.")
    ] = False,
    class_map: Annotated[
        bool,
        typer.Option("--class-map", help="Put upsampling and argmax into the graph."),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Stretch frames to this size, not the checkpoint's rule."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="M.onnx", help="File to write.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32, help="Seed of random weights.")] = 0,
    json: Json = False,
) -> None:
    """Export a checkpoint to ONNX, checked against the PyTorch model.

    Batch, height and width stay free; normalisation and class names travel inside the file.

    Example:  segdeploy export --checkpoint nvidia/segformer-b0-finetuned-ade-512-512
    """
    from segformer_deploy.workflow.export import ExportOptions, export_onnx

    report = export_onnx(
        ExportOptions(
            variant=variant,
            checkpoint=checkpoint,
            classes=classes,
            random_weights=random_weights,
            class_map=class_map,
            size=parse_size(size),
            output=output,
            seed=seed,
        ),
        say,
    )
    warn_if_random(report.spec)
    check = report.verification
    say(
        f"{report.onnx}: {report.spec.variant}, {report.spec.classes} classes, "
        f"{report.parameters / 1e6:.2f} M parameters, "
        f"{report.macs / 1e9:.2f} GMAC at {report.macs_size} "
        f"(the published graph: {report.macs_published / 1e9:.2f})"
    )
    say(
        f"checked: largest difference to PyTorch {check.max_abs_diff:.2g} "
        f"({check.relative:.2g} of the largest logit), class maps identical outside "
        f"{100 * check.exempt_share:.3f} % of near-ties"
    )
    say(f"next: segdeploy build-engine {report.onnx}")
    if json:
        emit(report.to_dict())
