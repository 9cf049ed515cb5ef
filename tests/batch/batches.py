"""Batches of little films on a little network, and what `segdeploy run` makes of the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segformer_deploy.batch.pool import InlinePool, Pool
from segformer_deploy.batch.report import BatchReport, ItemReport
from segformer_deploy.batch.run import BatchJob, OnProgress, run_batch
from segformer_deploy.batch.settings import BatchSettings
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.workflow.run import Run, RunJob, opened
from tests.little import write_little


def engine_in(folder: Path) -> Path:
    path = folder / "little.onnx"
    return path if path.exists() else write_little(path)


def job_of(folder: Path, source: Path, output: Path, **changes: Any) -> BatchJob:
    """A job with chunks of half a second."""
    settings = BatchSettings(engine_in(folder), threads=1, chunk_seconds=0.5)
    own = {name: changes.pop(name) for name in list(changes) if hasattr(settings, name)}
    return BatchJob(str(source), output, replace(settings, **own), **changes)


def go(
    job: BatchJob, pool: Pool | None = None, on_progress: OnProgress | None = None
) -> BatchReport:
    return run_batch(job, pool or InlinePool(), on_progress)


def run_alone(folder: Path, source: Path, **places: Any) -> Any:
    """`segdeploy run` on one source."""
    job = RunJob((str(source),), **places)
    with opened(job) as sources, Segmenter(engine_in(folder), threads=1) as segment:
        with Run(job, sources, segment) as run:
            return run.go()[0]


def item_of(report: BatchReport, name: str) -> ItemReport:
    return next(item for item in report.items if item.name == name)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name; the batch's own state left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".segdeploy" not in path.parts
    }
