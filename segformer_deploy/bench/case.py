"""One case of a benchmark: which engine, at which size, run how; and its result as one object."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer_deploy.errors import InputError, SegdeployError, SpecError
from segformer_deploy.spec import FrameSize
from segformer_deploy.version import __version__

if TYPE_CHECKING:
    from segformer_deploy.bench.latency import LatencyReport
    from segformer_deploy.runtime.segmenter import Segmenter

DEFAULT_FRAME = FrameSize(360, 480)
OnRun = Callable[[int], object]
"""Called after each run that counts, with the number of them so far."""
OnPhase = Callable[[str], object]
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

    def __post_init__(self) -> None:
        for text in (self.size, self.frame):
            if text is not None:
                FrameSize.parse(text)
        if (self.images is None) != (self.labels is None):
            raise InputError("frames without labels, or labels without frames", "both, or neither")

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
    file = engine / "manifest.json" if engine.is_dir() else engine
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
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
        "case": case.to_dict(),
        "limit": None,
        "energy": None,
        "clocks": None,
        "accuracy": None,
        "error": error,
        **more,
    }


def measure_case(
    case: Case,
    *,
    on_open: Callable[[Segmenter], object] = lambda _: None,
    on_run: OnRun = lambda _: None,
    on_phase: OnPhase = lambda _: None,
) -> dict[str, Any]:
    """Load the engine, run it, and give the result's object; errors of the engine pass through.

    Args:
        on_open: called with the segmenter before its first frame.
        on_phase: called with what begins: loading the engine, running, scoring.
    """
    from segformer_deploy.runtime.segmenter import Segmenter

    on_phase(LOADING)
    size = FrameSize.parse(case.size) if case.size else None
    with Segmenter(
        case.engine,
        size=size,
        threads=case.threads,
        backend=case.backend,
        provider=case.provider,
        device=case.device,
        timed=case.timed,
        arena=case.arena,
        trust=case.trust,
    ) as segment:
        on_open(segment)
        result = _measured(case, segment, size, on_run, on_phase)
        if case.images and case.labels:
            on_phase(SCORING)
            result["accuracy"] = _accuracy(segment, Path(case.images), Path(case.labels))
    return result


def _measured(
    case: Case, segment: Segmenter, size: FrameSize | None, on_run: OnRun, on_phase: OnPhase
) -> dict[str, Any]:
    from segformer_deploy.bench.latency import measure_latency
    from segformer_deploy.host.energy import EnergyMeter
    from segformer_deploy.host.power import PowerWatch
    from segformer_deploy.runtime.golden import golden_frame

    own = size or segment.spec.resize.size or DEFAULT_FRAME
    frame = FrameSize.parse(case.frame) if case.frame else own
    with EnergyMeter() as energy:
        watch = PowerWatch()

        def after_run(done: int, _ms: float) -> None:
            energy.mark(done)
            on_run(done)

        on_phase(RUNNING)
        latency = measure_latency(
            segment,
            golden_frame(frame, seed=0),
            warmup=case.warmup,
            runs=case.runs,
            seconds=case.seconds,
            on_run=after_run,
        )
        clocks = watch.ended()
        spent = energy.ended()
    return {
        **_described(case, segment, frame, latency),
        "segdeploy": __version__,
        "case": case.to_dict(),
        "limit": None,
        "energy": spent.to_dict(),
        "clocks": clocks.to_dict(),
        "accuracy": None,
        "error": None,
    }


def _described(
    case: Case, segment: Segmenter, frame: FrameSize, latency: LatencyReport
) -> dict[str, Any]:
    from segformer_deploy.bench.memory import machine_facts, peak_rss_mib
    from segformer_deploy.runtime.native import describe

    return {
        "engine": case.engine,
        "backend": segment.engine_name,
        "device": segment.device,
        "precision": segment.spec.precision,
        "weights": segment.spec.to_dict()["weights"],
        "size": str(segment.network_size(frame)),
        "frame": str(frame),
        "threads": segment.threads,
        "kernels": describe(),
        **latency.to_dict(),
        "peak_rss_mib": peak_rss_mib(),
        "machine": machine_facts().to_dict(),
    }


def _accuracy(segment: Segmenter, images: Path, labels: Path) -> dict[str, Any]:
    from segformer_deploy.bench.accuracy import evaluate
    from segformer_deploy.bench.labels import pair_files

    report = evaluate(segment, segment.spec, pair_files(images, labels), boundary=False)
    return {
        "miou": report.miou,
        "pixel_accuracy": report.pixel_accuracy,
        "images": report.images,
        "notes": list(report.notes),
    }
