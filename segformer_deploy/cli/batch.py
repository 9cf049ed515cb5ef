"""segdeploy batch: an archive of videos, in chunks, on all cores or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Trust,
    emit,
    engine_or_newest,
    introduce,
    parse_size,
    progress,
    rebuilt_if_asked,
    say,
    table,
)
from segformer_deploy.cli.tile_options import TileMerge, TileOrNone, TileOverlap, tiling_from
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.batch.pool import Pool
    from segformer_deploy.batch.report import BatchReport
    from segformer_deploy.batch.settings import BatchSettings

_WORKERS = "Workers"


def command(
    source: Annotated[
        str,
        typer.Option(
            "--source",
            "-s",
            metavar="FOLDER|PATTERN|LIST.txt|VIDEO",
            help="A folder of videos, 'clips/*.mp4', a list with a path per line, or a video.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="A folder of results per video."),
    ],
    engine: EngineArgument = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="overlay.mp4; written if no other is named.")
    ] = False,
    masks: Annotated[bool, typer.Option("--masks", help="masks/: class maps as PNG.")] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="frames.parquet: class maps as runs, class shares.")
    ] = False,
    pattern: Annotated[
        str | None, typer.Option(metavar="NAME", help="Files of a folder to take: '*_front.avi'.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="The folders in a folder too.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Make all results again, with these settings.")
    ] = False,
    opacity: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the overlay.")] = 0.5,
    legend: Annotated[bool, typer.Option("--legend/--no-legend", help="Class names.")] = True,
    chunk_seconds: Annotated[
        float, typer.Option(min=0.01, help="How long a chunk is at least; key frames decide.")
    ] = 10.0,
    size: Size = None,
    tile: TileOrNone = None,
    tile_overlap: TileOverlap = None,
    tile_merge: TileMerge = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers, each with an engine; else as many as there are cores for.",
            rich_help_panel=_WORKERS,
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Of each worker.", rich_help_panel=_WORKERS)
    ] = 2,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="On a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local.",
            rich_help_panel=_WORKERS,
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Of each worker on a Ray cluster: 0.5 is half a one.",
            rich_help_panel=_WORKERS,
        ),
    ] = None,
    backend: Backend = "auto",
    provider: Provider = "cpu",
    device: Device = "auto",
    arena: Arena = True,
    rebuild: Rebuild = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Segment an archive of videos: each frame once, whatever is killed; called again, the rest.

    Exit code 1 where a video failed; the others are done, and a table names it.

    Example:  segdeploy batch --source archive --recursive --output segmented --masks
    """
    from segformer_deploy.batch.run import BatchJob, run_batch
    from segformer_deploy.batch.settings import BatchSettings
    from segformer_deploy.video.interrupts import terminable

    if gpus is not None and ray is None:
        raise InputError("--gpus without a Ray cluster", "--ray ADDRESS beside it")
    settings = BatchSettings(
        engine=rebuilt_if_asked(engine_or_newest(engine), rebuild).absolute(),
        size=parse_size(size),
        threads=threads,
        backend=backend,
        provider=provider,
        device=device,
        arena=arena,
        trust=trust,
        tiling=tiling_from(tile, tile_overlap, tile_merge),
        overlay=overlay or not (masks or parquet),
        masks=masks,
        parquet=parquet,
        opacity=opacity,
        legend=legend,
        chunk_seconds=chunk_seconds,
    )
    job = BatchJob(source, output, settings, pattern, recursive, restart)
    with ExitStack() as stack:
        terminated = stack.enter_context(terminable())
        job.found()  # a name that leads nowhere should not wait for an engine, or a cluster
        pool = stack.enter_context(_pool(ray, processes, threads, gpus or 0.0))
        # On a cluster this machine need not be able to run the engine.
        begin = (lambda: _try_here(settings)) if ray is None else None
        report = run_batch(job, pool, stack.enter_context(_bars()), begin)
    _tell(report, output)
    if json:
        emit({"engine": str(settings.engine), "output": str(output), **report.to_dict()})
    if report.interrupted:
        what = "ended by SIGTERM" if terminated() else "interrupted"
        say(f"{what}: finished chunks are kept; the same command goes on from there")
        raise typer.Exit(143 if terminated() else 130)
    if not report.complete:
        raise typer.Exit(1)


def _try_here(settings: BatchSettings) -> None:
    """Load the engine once here: what is wrong with it is said before anything begins."""
    with settings.open_segmenter() as segment:
        introduce(segment)


def _pool(ray: str | None, processes: int | None, threads: int, gpus: float) -> Pool:
    from segformer_deploy.batch.pool import LocalPool, processes_for

    if ray is not None:
        from segformer_deploy.batch.ray_pool import RayPool

        return RayPool(ray, processes, num_cpus=threads, num_gpus=gpus)
    return LocalPool(processes or processes_for(threads))


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each step, one after another, on stderr."""
    with ExitStack() as bars:
        shown: dict[str, Callable[[int], None]] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in shown:
                bars.close()
                what = "videos" if step == "planning" else "frames"
                shown[step] = bars.enter_context(progress(f"{step} ({what})", total or None))
            shown[step](done)

        yield show


def _tell(report: BatchReport, output: Path) -> None:
    for note in report.notes:
        say(f"note: {note}")
    for item in report.items:
        for note in item.notes if item.state == "done" else ():
            say(f"note: {item.name}: {note}")
    failed = [item for item in report.items if item.state == "failed"]
    if failed:
        rows = [[item.name, item.error or ""] for item in failed]
        table(f"{len(failed)} of {len(report.items)} videos failed", ["video", "why"], rows)
    if report.retries:
        say(f"{report.retries} chunks were begun again, since a worker died")
    already, done = report.count("already"), report.count("done")
    if report.complete and not done:
        say(f"nothing to do: all {already} videos are done already: {output}")
        return
    rate = report.segmented / max(1e-9, report.seconds)
    say(
        f"{done} of {len(report.items)} videos done, {already} were already; {report.segmented} "
        f"frames in {report.seconds:.1f} s ({rate:.1f} frames/s): {output}"
    )
