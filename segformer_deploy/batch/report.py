"""What a batch says at its end: one line per video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["done", "already", "failed", "unfinished"]


@dataclass
class ItemReport:
    """What became of one video.

    Attributes:
        name, source: as `Item` has them.
        output: where its results are, or would be.
        state: ``done`` now; ``already``: by an earlier call; ``failed``: `error` says why;
            ``unfinished``: the batch ended before it.
        frames, chunks: of the whole video, where it is done.
        segmented: frames that this call segmented.
        notes: what the reader ought to know.
        error: found, expected and next step.
    """

    name: str
    source: Path
    output: Path
    state: State = "unfinished"
    frames: int = 0
    chunks: int = 0
    segmented: int = 0
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.name,
            "source": str(self.source),
            "output": str(self.output) if self.state in ("done", "already") else None,
            "state": self.state,
            "frames": self.frames,
            "chunks": self.chunks,
            "notes": self.notes,
            "error": self.error,
        }


@dataclass(frozen=True)
class BatchReport:
    """What became of all.

    Attributes:
        items: one each, in the order of the source.
        seconds: wall-clock time of this call.
        interrupted: Ctrl-C ended it.
        retries: chunks that were begun more than once, since a worker died.
        notes: of the batch as a whole.
    """

    items: Sequence[ItemReport]
    seconds: float
    interrupted: bool = False
    retries: int = 0
    notes: Sequence[str] = ()

    def count(self, state: State) -> int:
        return sum(item.state == state for item in self.items)

    @property
    def segmented(self) -> int:
        """Frames that this call segmented, also those of videos that are not finished yet."""
        return sum(item.segmented for item in self.items)

    @property
    def complete(self) -> bool:
        """Whether all results are there."""
        return all(item.state in ("done", "already") for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        states: tuple[State, ...] = ("done", "already", "failed", "unfinished")
        return {
            **{state: self.count(state) for state in states},
            "frames": self.segmented,
            "seconds": round(self.seconds, 3),
            "fps": round(self.segmented / max(1e-9, self.seconds), 3),
            "retries": self.retries,
            "interrupted": self.interrupted,
            "notes": list(self.notes),
            "items": [item.to_dict() for item in self.items],
        }
