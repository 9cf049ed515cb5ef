"""segdeploy eval: accuracy on labelled frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from segformer_deploy.cli.tile_options import (
    TileMerge,
    TileOrNone,
    TileOverlap,
    say_tiling,
    tiling_from,
)
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.runtime.segmenter import Segmenter


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
    video: Annotated[
        bool, typer.Option("--video", help="The frames follow each other: flicker too.")
    ] = False,
    stabilise: Annotated[
        bool, typer.Option("--stabilise", help="As run --stabilise would; with --video.")
    ] = False,
    tile: TileOrNone = None,
    tile_overlap: TileOverlap = None,
    tile_merge: TileMerge = None,
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

    if stabilise and not video:
        raise InputError("--stabilise of frames in no order", "--video beside it")
    tiling = tiling_from(tile, tile_overlap, tile_merge)
    path = engine_or_newest(engine)
    pairs = pair_files(images, labels)
    with Segmenter(
        path,
        size=parse_size(size),
        threads=threads,
        backend=backend,
        provider=provider,
        device=device,
        tiling=tiling,
    ) as segment:
        introduce(segment)
        say_tiling(segment.tiling)
        with progress("evaluating", len(pairs)) as advance:
            report = evaluate(
                _stabilised(segment) if stabilise else segment,
                segment.spec,
                pairs,
                ignore=ignore,
                boundary=boundary,
                on_image=advance,
                sequence=video,
            )
    result = {
        "engine": str(path),
        "precision": segment.spec.precision,
        "tiling": segment.tiling.to_dict() if segment.tiling else None,
        **report.to_dict(),
    }
    rows = [
        [name, "-" if iou is None else f"{iou:.2f}", _score(result.get("boundary_f"), name)]
        for name, iou in result["per_class_iou"].items()
    ]
    table(f"{path} on {report.images} frames", ["class", "IoU %", "boundary F %"], rows)
    say(f"mIoU {report.miou:.2f} %, pixel accuracy {report.pixel_accuracy:.2f} %")
    if report.flicker is not None:
        say(f"flicker {report.flicker:.2f} %")
    for note in report.notes:
        say(f"note: {note}")
    if json:
        emit(result)


def _stabilised(segment: Segmenter) -> Callable[[Any], Any]:
    from segformer_deploy.video.stabiliser import Stabiliser

    steady = Stabiliser()
    return lambda frame: steady(frame, segment(frame))


def _score(scores: object, name: str) -> str:
    value = scores.get(name) if isinstance(scores, dict) else None
    return "-" if value is None else f"{value:.2f}"
