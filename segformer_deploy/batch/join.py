"""From the chunks of a video to its results, without decoding or encoding anything again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_deploy import files
from segformer_deploy.batch.chunk import read_chunk
from segformer_deploy.batch.folder import RECORD, BatchFolder
from segformer_deploy.batch.items import Item
from segformer_deploy.batch.plan import Plan
from segformer_deploy.batch.run_length import join_logs
from segformer_deploy.batch.settings import BatchSettings
from segformer_deploy.batch.worker import MASKS, OVERLAY, RUNS
from segformer_deploy.errors import VerificationError
from segformer_deploy.video.coded import CodedPart, JoinedVideo
from segformer_deploy.video.video_file import VideoFile

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EACCES)


@dataclass
class Joined:
    """What `item.json` says of a video.

    Attributes:
        frames: of all chunks.
        corrupt: damaged or missing packets and frames of the source.
        notes: what the reader ought to know, each once.
        class_shares: class name -> mean share of the pixels, largest first.
    """

    frames: int = 0
    corrupt: int = 0
    notes: list[str] = field(default_factory=list)
    class_shares: dict[str, float] = field(default_factory=dict)

    def add(self, meta: dict[str, Any]) -> None:
        """Count a chunk."""
        before, here = self.frames, meta["frames"]
        self.frames = before + here
        self.corrupt += meta["corrupt"]
        self.note(meta["notes"])
        for name in {**self.class_shares, **meta["class_shares"]}:
            old, new = self.class_shares.get(name, 0.0), meta["class_shares"].get(name, 0.0)
            self.class_shares[name] = (old * before + new * here) / max(1, self.frames)

    def note(self, notes: Sequence[str]) -> None:
        self.notes.extend(note for note in notes if note not in self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        shares = sorted(self.class_shares.items(), key=lambda one: -one[1])
        return {
            "frames": self.frames,
            "corrupt": self.corrupt,
            "notes": self.notes,
            "class_shares": {name: round(share, 6) for name, share in shares},
        }


def join_item(folder: BatchFolder, item: Item, plan: Plan, settings: BatchSettings) -> Joined:
    """Make the results of an item whose chunks are all there; they appear by one rename.

    The chunks stay until `BatchFolder.forget`: if we are killed here, the next call joins again.

    Raises:
        OutputError: the results cannot be written.
        MediaError: the source cannot be read any more (its sound and rate are needed).
    """
    folder.check()
    chunks = folder.chunks(item, plan)
    joined = Joined()
    if plan.note:
        joined.note([plan.note])
    metas = [read_chunk(chunk) for chunk in chunks]
    for meta in metas:
        joined.add(meta)
    if plan.parts and joined.frames != plan.frames:
        folder.drop(item)
        raise VerificationError(
            f"the chunks of {item.path} hold {joined.frames} frames",
            f"{plan.frames}, as planned",
            "the same command makes them again",
        )
    place = folder.result(item)
    with files.atomic_folder(place) as aside:
        if settings.overlay:
            parts = [CodedPart.from_dict(meta["coded"]) for meta in metas]
            joined.note(_join_overlay(item.path, aside, chunks, parts))
        if settings.masks:
            _join_masks(aside / MASKS, chunks)
        if settings.parquet:
            join_logs(aside / RUNS, [chunk / RUNS for chunk in chunks])
        if settings.masks:
            _check_masks(aside / MASKS, joined.frames, lambda: folder.drop(item))
        record = {"settings": folder.settings, "source": list(plan.stamp), "chunks": plan.chunks}
        text = json.dumps({**record, **joined.to_dict()}, indent=1)
        (aside / RECORD).write_text(text, encoding="utf-8")
        folder.check()
    return joined


def _join_overlay(
    source: Path, aside: Path, chunks: Sequence[Path], parts: Sequence[CodedPart]
) -> list[str]:
    with VideoFile(source) as video:
        video.finished = True  # all of it was read: its sound goes to the end
        film = JoinedVideo(aside / "overlay.mp4", video)
        with film:
            film.join([(chunk / OVERLAY, part) for chunk, part in zip(chunks, parts, strict=True)])
        return film.notes


def _join_masks(folder: Path, chunks: Sequence[Path]) -> None:
    folder.mkdir()
    for chunk in chunks:
        for mask in (chunk / MASKS).iterdir():
            _link(mask, folder / mask.name)


def _link(old: Path, new: Path) -> None:
    """The same file under a second name; a copy where the file system has no such names."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(old, new)


def _check_masks(folder: Path, frames: int, drop: Callable[[], None]) -> None:
    found = sum(1 for _ in folder.iterdir())
    if found != frames:
        drop()
        raise VerificationError(
            f"{found} masks for {frames} frames", "one each", "the same command makes them again"
        )
