"""segdeploy run: segment a video, a folder of frames or a picture."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import (
    Arena,
    Backend,
    Device,
    EngineArgument,
    Json,
    Provider,
    Rebuild,
    Size,
    Threads,
    Trust,
    emit,
    engine_or_newest,
    introduce,
    parse_size,
    progress,
    rebuilt_if_asked,
    say,
)
from segformer_deploy.errors import InputError


def command(
    source: Annotated[str, typer.Option("--source", "-s", help="Video, picture or folder.")],
    engine: EngineArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Overlay: .mp4/.mkv/.mov, .png/.jpg, or a folder."),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Class maps as PNG indices.")
    ] = None,
    opacity: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the overlay.")] = 0.5,
    legend: Annotated[bool, typer.Option("--legend/--no-legend", help="Class names.")] = True,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    overlap: Annotated[
        bool, typer.Option("--overlap/--no-overlap", help="Read and write while segmenting.")
    ] = True,
    size: Size = None,
    threads: Threads = None,
    backend: Backend = "auto",
    provider: Provider = "cpu",
    device: Device = "auto",
    arena: Arena = True,
    rebuild: Rebuild = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Segment every frame of a source and write overlays, class maps, or both.

    Ctrl-C ends the run and leaves a playable file of the frames so far.

    Example:  segdeploy run --source street.mp4 --output overlay.mp4 --masks masks
    """
    from segformer_deploy.runtime.segmenter import Segmenter
    from segformer_deploy.video.loop import run
    from segformer_deploy.video.overlay import Overlay
    from segformer_deploy.video.sink import MaskSink, open_sink
    from segformer_deploy.video.source import open_source

    if output is None and masks is None:
        raise InputError("nothing to write was named", "--output, --masks or both")
    with ExitStack() as stack:
        # The source first: a wrong name should not wait for an engine to load.
        frames = stack.enter_context(open_source(source))
        path = rebuilt_if_asked(engine_or_newest(engine), rebuild)
        segment = stack.enter_context(
            Segmenter(
                path,
                size=parse_size(size),
                threads=threads,
                backend=backend,
                provider=provider,
                device=device,
                arena=arena,
                trust=trust,
            )
        )
        spec = segment.spec
        introduce(segment)
        sink = stack.enter_context(open_sink(output, frames)) if output else None
        mask_sink = stack.enter_context(MaskSink(masks, spec.classes, frames)) if masks else None
        total = frames.frame_count if max_frames is None else max_frames
        with progress("segmenting", total) as advance:
            report = run(
                frames,
                segment,
                sink=sink,
                masks=mask_sink,
                overlay=Overlay(spec.palette, spec.class_names, legend=legend) if sink else None,
                opacity=opacity,
                on_frame=lambda done: advance(done.frames),
                max_frames=max_frames,
                class_names=spec.class_names,
                overlap=overlap,
            )
    for note in report.notes:
        say(f"note: {note}")
    places = " and ".join(str(place) for place in (output, masks) if place)
    say(f"{report.frames} frames in {report.seconds:.1f} s ({report.fps:.1f} frames/s): {places}")
    if json:
        emit(
            {
                "engine": str(path),
                "source": source,
                "output": str(output) if output else None,
                "masks": str(masks) if masks else None,
                **report.to_dict(),
            }
        )
    if report.interrupted:
        say("interrupted: the files hold the frames so far")
        raise typer.Exit(130)
