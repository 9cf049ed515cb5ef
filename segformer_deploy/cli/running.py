"""A run from its job to its exit code, whoever segments: an engine here, or a server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer

from segformer_deploy.cli.common import emit, progress, say
from segformer_deploy.cli.live_status import line_from_stats, live_status
from segformer_deploy.errors import InputError
from segformer_deploy.video.address import redacted

if TYPE_CHECKING:
    from segformer_deploy.video.loop import RunReport
    from segformer_deploy.workflow.run import Run, RunJob, Segments

Opened = tuple[Callable[[], dict[str, Any]], "Segments"]
"""What is said in JSON of who segments, which is asked after the run, and it."""


def run_and_tell(job: RunJob, open_segments: Callable[[ExitStack], Opened], json: bool) -> None:
    """Run the job and tell what came of it; typer.Exit where a signal ended it.

    Args:
        open_segments: opens what segments, has the stack close it, and introduces it.
    """
    from segformer_deploy.video.interrupts import terminable
    from segformer_deploy.workflow.run import Run, opened

    if json and job.json_lines == "-":
        raise InputError("--json and --json-lines - both want stdout", "one of them")
    with ExitStack() as stack:
        terminated = stack.enter_context(terminable())
        # The sources first: a camera wants to be opened before the engine's libraries are.
        sources = stack.enter_context(opened(job))
        who, segment = open_segments(stack)
        run = stack.enter_context(Run(job, sources, segment))
        if run.view is not None:
            say(f"view: {run.view.url}")
        reports = _gone(run, job)
    _tell(job, reports)
    if json:
        emit(_to_dict(who(), job, reports))
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


def _to_dict(who: dict[str, Any], job: RunJob, reports: list[RunReport]) -> dict[str, Any]:
    """One source's report stands at the top, several in a list."""
    streams = [
        {"source": name, **job.places(number), **report.to_dict()}
        for number, (name, report) in enumerate(zip(job.names, reports, strict=True))
    ]
    if len(streams) == 1:
        return {**who, **streams[0]}
    return {**who, "streams": streams}
