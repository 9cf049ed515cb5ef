"""segdeploy run: segment videos, pictures, cameras and streams."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.capture_options import (
    InputFormat,
    InputFps,
    InputOption,
    InputSize,
    Live,
    Loop,
    Reconnect,
    Stall,
    capture_options,
)
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
from segformer_deploy.cli.live_status import line_from_stats, live_status
from segformer_deploy.errors import InputError
from segformer_deploy.video.address import redacted

if TYPE_CHECKING:
    from segformer_deploy.video.loop import RunReport
    from segformer_deploy.workflow.run import Run, RunJob

_PAGE = "Page"


def command(
    source: Annotated[
        list[str],
        typer.Option(
            "--source",
            "-s",
            help="Video, picture, folder, camera:0, csi:0, gst:…, rtsp://…, test:, or - for raw "
            "frames on stdin; several share the engine.",
        ),
    ],
    engine: EngineArgument = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="Overlay: .mp4/.mkv/.mov, .png/.jpg, a folder, rtsp://…, /dev/video9; several.",
        ),
    ] = None,
    masks: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Class maps as PNG indices.")
    ] = None,
    json_lines: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Each frame's class shares, a line each.")
    ] = None,
    stabilise: Annotated[
        bool, typer.Option("--stabilise", help="Steadier class maps: less flicker.")
    ] = False,
    flicker: Annotated[
        bool, typer.Option("--flicker", help="Measure flicker of a file too.")
    ] = False,
    opacity: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the overlay.")] = 0.5,
    legend: Annotated[bool, typer.Option("--legend/--no-legend", help="Class names.")] = True,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    overlap: Annotated[
        bool, typer.Option("--overlap/--no-overlap", help="Read and write while segmenting.")
    ] = True,
    live: Live = None,
    loop: Loop = False,
    reconnect: Reconnect = True,
    stall: Stall = 5.0,
    input_size: InputSize = None,
    input_fps: InputFps = None,
    input_format: InputFormat = "bgr24",
    input_option: InputOption = None,
    view: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT", help="A live page, on this machine only.", rich_help_panel=_PAGE
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="What the page asks for; else made.",
            envvar="SEGDEPLOY_TOKEN",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    recordings: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Where its record button writes.", rich_help_panel=_PAGE
        ),
    ] = Path("recordings"),
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
    """Segment every frame of a source, or the newest of a live one; write, show or send it.

    Ctrl-C or SIGTERM ends the run and leaves playable files of the frames so far.

    Example:  segdeploy run --source rtsp://camera/stream --output overlay.mp4 --view 8080
    """
    from segformer_deploy.video.interrupts import terminable
    from segformer_deploy.workflow.run import Run, RunJob, opened

    job = RunJob(
        sources=tuple(source),
        outputs=tuple(output or ()),
        masks=masks,
        json_lines=json_lines,
        capture=capture_options(
            live=live,
            loop=loop,
            reconnect=reconnect,
            stall=stall,
            input_size=input_size,
            input_fps=input_fps,
            input_format=input_format,
            input_option=input_option,
        ),
        view=view,
        token=token,
        recordings=recordings,
        stabilise=stabilise,
        flicker=flicker,
        opacity=opacity,
        legend=legend,
        max_frames=max_frames,
        overlap=overlap,
    )
    if json and json_lines == "-":
        raise InputError("--json and --json-lines - both want stdout", "one of them")
    with ExitStack() as stack:
        terminated = stack.enter_context(terminable())
        # The sources first: a camera wants to be opened before the engine's libraries are.
        sources = stack.enter_context(opened(job))
        path = rebuilt_if_asked(engine_or_newest(engine), rebuild)
        from segformer_deploy.runtime.segmenter import Segmenter

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
        introduce(segment)
        run = stack.enter_context(Run(job, sources, segment))
        if run.view is not None:
            say(f"view: {run.view.url}")
        reports = _gone(run, job)
    _tell(job, reports)
    if json:
        emit(_to_dict(str(path), job, reports))
    if any(report.interrupted for report in reports):
        say("ended by SIGTERM" if terminated() else "interrupted: the files hold the frames so far")
        raise typer.Exit(143 if terminated() else 130)


def _gone(run: Run, job: RunJob) -> list[RunReport]:
    """Run it, with a bar where the end is known, and a line for each stream where not."""
    if any(stream.source.live for stream in run.streams):
        with live_status(run.stats):
            return run.go()
    counts = [stream.source.frame_count for stream in run.streams]
    known = [count for count in counts if count is not None]
    total = sum(known) if len(known) == len(counts) else None
    if job.max_frames is not None:
        total = job.max_frames * len(counts)
    with progress("segmenting", total) as advance:
        return run.go(lambda done: advance(sum(stats.shown for stats in run.stats())))


def _tell(job: RunJob, reports: list[RunReport]) -> None:
    for number, (name, report) in enumerate(zip(job.names, reports, strict=True)):
        where = " and ".join(redacted(place) for place in job.places_of(number))
        for note in report.notes:
            say(f"note: {note}")
        which = f"{name}: " if len(reports) > 1 else ""
        rate = f"{report.frames} frames in {report.seconds:.1f} s ({report.fps:.1f} frames/s)"
        say(f"{which}{rate}" + (f": {where}" if where else ""))
        if report.live is not None:
            say(line_from_stats(report.live))
        elif report.flicker is not None:
            say(f"flicker {100 * report.flicker:.2f} %")


def _to_dict(engine: str, job: RunJob, reports: list[RunReport]) -> dict[str, Any]:
    """One source's report stands at the top, several in a list."""
    streams = [
        {"source": name, **job.places(number), **report.to_dict()}
        for number, (name, report) in enumerate(zip(job.names, reports, strict=True))
    ]
    if len(streams) == 1:
        return {"engine": engine, **streams[0]}
    return {"engine": engine, "streams": streams}
