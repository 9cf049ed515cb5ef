"""segdeploy eval: accuracy on labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import (
    Backend,
    Device,
    EngineArgument,
    Json,
    Provider,
    Size,
    Threads,
    emit,
    engine_or_newest,
    introduce,
    parse_size,
    progress,
    say,
    table,
)


def command(
    images: Annotated[Path, typer.Option(help="Folder of frames.")],
    labels: Annotated[Path, typer.Option(help="Folder of label pictures (class indices).")],
    engine: EngineArgument = None,
    size: Size = None,
    ignore: Annotated[
        int | None,
        typer.Option(help="The only label value to ignore; else all values outside the classes."),
    ] = None,
    boundary: Annotated[
        bool, typer.Option("--boundary/--no-boundary", help="Boundary F-score too.")
    ] = True,
    threads: Threads = None,
    backend: Backend = "auto",
    provider: Provider = "cpu",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure mIoU, per-class IoU, pixel accuracy and boundary F-score on labelled frames.

    Example:  segdeploy eval --images data/val/images --labels data/val/labels
    """
    from segformer_deploy.bench.accuracy import evaluate
    from segformer_deploy.bench.labels import pair_files
    from segformer_deploy.runtime.segmenter import Segmenter

    path = engine_or_newest(engine)
    pairs = pair_files(images, labels)
    with Segmenter(
        path,
        size=parse_size(size),
        threads=threads,
        backend=backend,
        provider=provider,
        device=device,
    ) as segment:
        introduce(segment)
        with progress("evaluating", len(pairs)) as advance:
            report = evaluate(
                segment, segment.spec, pairs, ignore=ignore, boundary=boundary, on_image=advance
            )
    result = {"engine": str(path), "precision": segment.spec.precision, **report.to_dict()}
    rows = [
        [name, "-" if iou is None else f"{iou:.2f}", _score(result.get("boundary_f"), name)]
        for name, iou in result["per_class_iou"].items()
    ]
    table(f"{path} on {report.images} frames", ["class", "IoU %", "boundary F %"], rows)
    say(f"mIoU {report.miou:.2f} %, pixel accuracy {report.pixel_accuracy:.2f} %")
    for note in report.notes:
        say(f"note: {note}")
    if json:
        emit(result)


def _score(scores: object, name: str) -> str:
    value = scores.get(name) if isinstance(scores, dict) else None
    return "-" if value is None else f"{value:.2f}"
