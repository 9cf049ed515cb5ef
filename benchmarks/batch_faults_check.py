"""What a batch has left, held against `segdeploy run`'s masks of the same videos, one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
from batch_faults_driver import batch_settings

from segformer_deploy.workflow.run import Run, RunJob, opened

STATE, RECORD = ".segdeploy", "item.json"


def segment_alone(clips: list[Path], folder: Path) -> int:
    """The masks of each clip by `segdeploy run`'s code, one process, one clip after the other."""
    frames = 0
    with batch_settings().open_segmenter() as segment:
        for clip in clips:
            job = RunJob((str(clip),), masks=folder / clip.stem)
            with opened(job) as sources, Run(job, sources, segment) as run:
                frames += run.go()[0].frames
    return frames


def checked(output: Path, alone: Path, clips: list[Path]) -> dict[str, Any]:
    """Counts that tell whether every frame is there once, and right."""
    import pyarrow.parquet

    found: dict[str, Any] = dict.fromkeys(
        ("frames", "masks", "masks_identical", "rows", "rows_in_order", "overlay_frames"), 0
    )
    found["chunks"] = 0
    for clip in clips:
        place = output / clip.name
        record = json.loads((place / RECORD).read_text())
        found["chunks"] += record["chunks"]
        expected = sorted((alone / clip.stem).iterdir())
        masks = sorted((place / "masks").iterdir())
        found["frames"] += len(expected)
        found["masks"] += len(masks)
        names = {one.name: one for one in masks}
        found["masks_identical"] += sum(
            one.name in names and names[one.name].read_bytes() == one.read_bytes()
            for one in expected
        )
        index = pyarrow.parquet.read_table(place / "frames.parquet")["index"].to_pylist()
        found["rows"] += len(index)
        found["rows_in_order"] += index == list(range(len(expected)))
        with av.open(str(place / "overlay.mp4")) as video:
            found["overlay_frames"] += sum(1 for _ in video.decode(video=0))
    found["partial_files"] = sorted(
        path.relative_to(output).as_posix()
        for path in output.rglob("*")
        if "partial" in path.name or (path.is_file() and _in_work(path.relative_to(output)))
    )
    return found


def is_whole(found: dict[str, Any], clips: int) -> bool:
    """Whether `checked` found each frame exactly once, right, and nothing else."""
    counts = {found[name] for name in ("frames", "masks", "masks_identical", "rows")}
    return (
        counts == {found["overlay_frames"]}
        and found["rows_in_order"] == clips
        and not found["partial_files"]
    )


def same_bytes(output: Path, other: Path) -> dict[str, str]:
    """How many of the results of each kind have the same bytes in two outputs, as "90 of 90"."""
    same: dict[str, int] = {}
    total: dict[str, int] = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output)
        if path.is_file() and name.parts[0] != STATE and path.name != RECORD:
            kind = "masks" if path.parent.name == "masks" else path.name
            twin = other / name
            total[kind] = total.get(kind, 0) + 1
            equal = twin.is_file() and twin.read_bytes() == path.read_bytes()
            same[kind] = same.get(kind, 0) + equal
    return {kind: f"{same[kind]} of {count}" for kind, count in total.items()}


def _in_work(path: Path) -> bool:
    return path.parts[0] == STATE and len(path.parts) > 2
