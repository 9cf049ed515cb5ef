"""What a batch is asked to do, and what of it decides the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segformer_deploy.engine.backend import AUTO
from segformer_deploy.engine.fingerprint import engine_hash
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import InputError
from segformer_deploy.spec import FrameSize

if TYPE_CHECKING:
    from segformer_deploy.runtime.segmenter import Segmenter

CHUNK_SECONDS = 10.0
THREADS = 2
"""Of each worker: two workers of two threads segment more than one of four."""


@dataclass(frozen=True)
class BatchSettings:
    """How chunks are segmented; it travels to the workers.

    Attributes:
        engine: an engine folder or ONNX file, absolute, seen by all workers.
        size, backend, provider, device, arena, trust, tiling: as `Segmenter` takes them.
        threads: of each worker.
        overlay, masks, parquet: what is written.
        opacity, legend: of the overlay.
        chunk_seconds: how long a chunk is at least.
    """

    engine: Path
    size: FrameSize | None = None
    threads: int = THREADS
    backend: str = AUTO
    provider: str = "cpu"
    device: str = "auto"
    arena: bool = True
    trust: bool = False
    tiling: Tiling | Literal["auto"] | None = "auto"
    overlay: bool = True
    masks: bool = False
    parquet: bool = False
    opacity: float = 0.5
    legend: bool = True
    chunk_seconds: float = CHUNK_SECONDS

    def __post_init__(self) -> None:
        if not (self.overlay or self.masks or self.parquet):
            raise InputError("nothing to write was named", "--overlay, --masks or --parquet")
        if not self.chunk_seconds > 0:
            raise InputError(f"chunks of {self.chunk_seconds:g} s", "more than 0")

    def open_segmenter(self) -> Segmenter:
        """The segmenter of these settings; SegdeployError where it does not load here."""
        from segformer_deploy.runtime.segmenter import Segmenter

        return Segmenter(
            self.engine,
            size=self.size,
            threads=self.threads,
            backend=self.backend,
            provider=self.provider,
            device=self.device,
            arena=self.arena,
            trust=self.trust,
            tiling=self.tiling,
        )

    def identity(self) -> dict[str, Any]:
        """All that decides what is in the results, by name.

        Threads and the memory arena are not among it: class maps are the same with any.
        """
        return {
            "engine": engine_hash(self.engine),
            "size": None if self.size is None else str(self.size),
            "backend": self.backend,
            "provider": self.provider,
            "device": self.device,
            "tiling": None if self.tiling is None else str(self.tiling),
            "overlay": self.overlay,
            "masks": self.masks,
            "parquet": self.parquet,
            "opacity": self.opacity,
            "legend": self.legend,
            "chunk_seconds": self.chunk_seconds,
        }
