"""One case measured in this process: its engine loaded and run, and the result as one object."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer_deploy.bench.case import LOADING, RUNNING, SCORING, Case
from segformer_deploy.spec import FrameSize
from segformer_deploy.version import __version__

if TYPE_CHECKING:
    from segformer_deploy.runtime.segmenter import Segmenter
    from segformer_deploy.video.frame import Source

DEFAULT_FRAME = FrameSize(360, 480)
OnRun = Callable[[int], object]
"""Called after each run that counts, with the number of them so far."""
OnPhase = Callable[[str], object]


def measure_case(
    case: Case,
    *,
    on_open: Callable[[Segmenter], object] = lambda _: None,
    on_run: OnRun = lambda _: None,
    on_phase: OnPhase = lambda _: None,
    on_scored: OnRun = lambda _: None,
) -> dict[str, Any]:
    """Load the engine, run it, and give the result's object; errors of the engine pass through.

    Args:
        on_open: called with the segmenter before its first frame.
        on_phase: called with what begins: loading the engine, running, scoring.
        on_scored: called after each labelled frame, with the number of them so far.
    """
    on_phase(LOADING)
    size = FrameSize.parse(case.size) if case.size else None
    with ExitStack() as stack:
        # The source first: a camera wants to be opened before the engine's libraries are loaded.
        source = None if case.source is None else stack.enter_context(_opened(case, case.source))
        from segformer_deploy.runtime.segmenter import Segmenter

        segment = stack.enter_context(
            Segmenter(
                case.engine,
                size=size,
                threads=case.threads,
                backend=case.backend,
                provider=case.provider,
                device=case.device,
                timed=case.timed,
                arena=case.arena,
                trust=case.trust,
            )
        )
        on_open(segment)
        result = _measured(case, segment, source, size, on_run, on_phase)
        if case.images and case.labels:
            on_phase(SCORING)
            result["accuracy"] = _accuracy(segment, Path(case.images), Path(case.labels), on_scored)
    return result


def _opened(case: Case, text: str) -> Source:
    from segformer_deploy.bench.source_frames import open_for_bench

    return open_for_bench(text, FrameSize.parse(case.frame) if case.frame else None)


def _measured(
    case: Case,
    segment: Segmenter,
    source: Source | None,
    size: FrameSize | None,
    on_run: OnRun,
    on_phase: OnPhase,
) -> dict[str, Any]:
    from segformer_deploy.host.energy import EnergyMeter
    from segformer_deploy.host.power import PowerWatch

    own = size or segment.spec.resize.size or DEFAULT_FRAME
    with EnergyMeter() as energy:
        watch = PowerWatch()

        def after_run(done: int, _ms: float) -> None:
            energy.mark(done)
            on_run(done)

        on_phase(RUNNING)
        if source is None:
            frame = FrameSize.parse(case.frame) if case.frame else own
            figures = _of_memory(case, segment, frame, after_run)
        else:
            frame = source.size
            figures = _of_source(case, segment, source, after_run)
        clocks = watch.ended()
        spent = energy.ended()
    return {
        **_described(case, segment, frame),
        **figures,
        "segdeploy": __version__,
        "case": case.recorded(),
        "limit": None,
        "energy": spent.to_dict(),
        "clocks": clocks.to_dict(),
        "accuracy": None,
        "error": None,
    }


def _of_memory(
    case: Case, segment: Segmenter, frame: FrameSize, on_run: Callable[[int, float], None]
) -> dict[str, Any]:
    """One generated frame of that size again and again."""
    from segformer_deploy.bench.latency import measure_latency
    from segformer_deploy.runtime.golden import golden_frame

    report = measure_latency(
        segment,
        golden_frame(frame, seed=0),
        warmup=case.warmup,
        runs=case.runs,
        seconds=case.seconds,
        on_run=on_run,
    )
    return {**report.to_dict(), "video": None}


def _of_source(
    case: Case, segment: Segmenter, source: Source, on_run: Callable[[int, float], None]
) -> dict[str, Any]:
    from segformer_deploy.bench.source_latency import (
        measure_source,
        overlay_drawer,
        with_source_words,
    )

    report = measure_source(
        segment,
        source,
        overlay_drawer(segment.spec) if case.draw else None,
        warmup=case.warmup,
        runs=case.runs,
        seconds=case.seconds,
        on_run=on_run,
    )
    assert case.source is not None
    call = with_source_words(report.call.to_dict(), report, case.source)
    return {**call, "video": report.to_dict()}


def _described(case: Case, segment: Segmenter, frame: FrameSize) -> dict[str, Any]:
    """What was measured, where; and the peak of memory until now."""
    from segformer_deploy.bench.memory import machine_facts, peak_rss_mib
    from segformer_deploy.runtime.native import describe

    return {
        "engine": case.engine,
        "backend": segment.engine_name,
        "device": segment.device,
        "precision": segment.spec.precision,
        "weights": segment.spec.to_dict()["weights"],
        "classes": segment.spec.classes,
        "size": str(segment.network_size(frame)),
        "frame": str(frame),
        "threads": segment.threads,
        "kernels": describe(),
        "peak_rss_mib": peak_rss_mib(),
        "machine": machine_facts().to_dict(),
    }


def _accuracy(segment: Segmenter, images: Path, labels: Path, on_scored: OnRun) -> dict[str, Any]:
    from segformer_deploy.bench.accuracy import evaluate
    from segformer_deploy.bench.labels import pair_files

    pairs = pair_files(images, labels)
    report = evaluate(segment, segment.spec, pairs, boundary=False, on_image=on_scored)
    return {
        "miou": report.miou,
        "pixel_accuracy": report.pixel_accuracy,
        "images": report.images,
        "notes": list(report.notes),
    }
