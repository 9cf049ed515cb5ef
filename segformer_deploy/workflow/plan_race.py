"""A plan in the precision asked for against one in the next, on the GPU that is here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.engine.plan_folder import load_plan
from segformer_deploy.spec import FrameSize, Precision
from segformer_deploy.workflow.choice import REPORT_NAME, Progress
from segformer_deploy.workflow.choose import Verdict, verdict_from_laps, write_report
from segformer_deploy.workflow.race import ROUNDS, WARM_UP, Lap, race_engines

NEXT: dict[Precision, Precision] = {"int8": "fp16", "fp16": "fp32"}
"""What would be built if the precision asked for were not."""


def race_plans(
    folders: dict[str, tuple[Path, Manifest]], size: FrameSize, progress: Progress
) -> dict[str, Lap]:
    """Time the checked plans of two folders, turn by turn, copies in and out included."""
    opened = {}
    try:
        for name, (folder, manifest) in folders.items():
            opened[name] = load_plan(folder, manifest, manifest.backend)[0], manifest.backend
        with progress("timing the two plans", WARM_UP + ROUNDS) as advance:
            return race_engines(opened, size, on_round=advance)
    finally:
        for engine, _ in opened.values():
            engine.close()


def faster_plan(
    asked: tuple[Path, Manifest],
    build_other: Callable[[Path], Manifest],
    size: FrameSize,
    say: Callable[[str], None],
    progress: Progress,
) -> Manifest:
    """Build the other plan in a folder inside the first, time both, and keep the faster one.

    Args:
        asked: the folder of the plan that was asked for, and its manifest.
        build_other: fills a folder; its manifest.
    """
    folder, manifest = asked
    other_folder = folder / "other"
    other_folder.mkdir()
    other = build_other(other_folder)
    plans: dict[str, tuple[Path, Manifest]] = {
        manifest.delivered: asked,
        other.delivered: (other_folder, other),
    }
    laps = race_plans(plans, size, progress)
    verdict = verdict_from_laps(manifest.delivered, other.delivered, laps, size, force=False)
    say(verdict.outcome)
    _tell(folder / REPORT_NAME, verdict)
    if verdict.delivered == manifest.delivered:
        shutil.rmtree(other_folder)
        return replace(manifest, notes=(*manifest.notes, verdict.outcome))
    _take(other_folder, folder)
    return replace(other, requested=manifest.requested, notes=(*other.notes, verdict.outcome))


def _tell(path: Path, verdict: Verdict) -> None:
    report = json.loads(path.read_text(encoding="utf-8"))
    report |= {
        "delivered": verdict.delivered,
        "outcome": verdict.outcome,
        "speed": verdict.speed,
    }
    write_report(path, report)


def _take(winner: Path, folder: Path) -> None:
    """Put what is in `winner`, a folder inside `folder`, in place of everything else in it.

    The report of what was asked for stays: it tells why something else is here.
    """
    for path in folder.iterdir():
        if path.is_dir() and path != winner:
            shutil.rmtree(path)
        elif path.is_file() and path.name != REPORT_NAME:
            path.unlink()
    for path in winner.iterdir():
        if path.name != REPORT_NAME:
            path.rename(folder / path.name)
    shutil.rmtree(winner)
