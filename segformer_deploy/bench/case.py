"""One case of a benchmark: which engine, at which size, run how; and its result as one object."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segformer_deploy.engine.fingerprint import engine_hash
from segformer_deploy.errors import InputError, SegdeployError, SpecError
from segformer_deploy.spec import FrameSize
from segformer_deploy.version import __version__

LOADING, RUNNING, SCORING = "loading the engine", "running", "scoring"


@dataclass(frozen=True)
class Case:
    """What is measured. Sizes are HxW texts, so that a case is its own JSON.

    Attributes:
        engine: engine folder or ONNX file.
        label: names the case instead of the variant.
        variant, precision: as the engine's description has them, for names and tables.
        size: network size; None keeps the model's own rule.
        frame: size of the frame; None takes the network's.
        threads: None takes all cores of this process.
        source: whose frames are segmented, as `segdeploy run --source` names it; None takes one
            frame in memory. `frame` is then what a camera or the streets are asked for.
        draw: draw the overlay of a source's frames too.
        images, labels: folders of labelled frames to score mIoU on; None scores nothing.
        engine_sha256: of the ONNX file or the manifest, so that a result of another engine at
            the same place is not taken for this one's.
    """

    engine: str
    label: str | None = None
    variant: str | None = None
    precision: str | None = None
    size: str | None = None
    frame: str | None = None
    backend: str = "auto"
    provider: str = "cpu"
    device: str = "auto"
    threads: int | None = None
    arena: bool = True
    timed: bool = False
    trust: bool = False
    warmup: int = 3
    runs: int | None = None
    seconds: float | None = None
    images: str | None = None
    labels: str | None = None
    engine_sha256: str | None = None
    source: str | None = None
    draw: bool = True

    def __post_init__(self) -> None:
        for text in (self.size, self.frame):
            if text is not None:
                FrameSize.parse(text)
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InputError(f"{self.seconds} seconds of measuring", "a time above 0")
        if (self.images is None) != (self.labels is None):
            raise InputError("frames without labels, or labels without frames", "both, or neither")
        if self.source is not None:
            from segformer_deploy.bench.source_frames import check_source

            check_source(self.source, FrameSize.parse(self.frame) if self.frame else None)
        elif not self.draw:
            raise InputError("--no-draw without a source", "--source beside it")

    @property
    def name(self) -> str:
        """For a file and a table: ``b0-512x512-fp32-native-t2``."""
        threads = f"t{self.threads}" if self.threads else None
        parts = (
            self.label or self.variant or Path(self.engine).stem,
            self.size,
            self.precision,
            self.backend,
        )
        return "-".join(str(part) for part in (*parts, threads) if part)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def recorded(self) -> dict[str, Any]:
        """As results hold it: without the password of a source."""
        from segformer_deploy.video.address import redacted

        return {**asdict(self), "source": None if self.source is None else redacted(self.source)}

    @classmethod
    def from_dict(cls, data: Any) -> Case:
        """Read what `to_dict` wrote; SpecError where it is something else."""
        try:
            return cls(**data)
        except TypeError as error:
            raise SpecError(
                f"a case that does not read ({error})", "what Case.to_dict writes"
            ) from (error)


def sha256_of_engine(engine: Path) -> str | None:
    """Of the ONNX file, or of a folder's manifest, which holds its files' hashes; None for none."""
    try:
        return engine_hash(engine / "manifest.json" if engine.is_dir() else engine)
    except (InputError, OSError):
        return None


def error_of(error: BaseException) -> dict[str, str]:
    """An error as results hold it: `kind`, `found`, `expected`, `next`."""
    ours = isinstance(error, SegdeployError)
    return {
        "kind": type(error).__name__,
        "found": str(getattr(error, "found", None) or error or type(error).__name__),
        "expected": error.expected if ours else "",  # type: ignore[attr-defined]
        "next": error.next_step if ours else "",  # type: ignore[attr-defined]
    }


def failed(case: Case, error: dict[str, str], **more: Any) -> dict[str, Any]:
    """The result of a case that gave no figures."""
    from segformer_deploy.bench.memory import machine_facts

    return {
        "engine": case.engine,
        "segdeploy": __version__,
        "machine": machine_facts().to_dict(),
        "case": case.recorded(),
        "limit": None,
        "energy": None,
        "clocks": None,
        "accuracy": None,
        "error": error,
        **more,
    }
