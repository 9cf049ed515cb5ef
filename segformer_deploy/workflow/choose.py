"""The precision that was asked for against the next one, on the engine at hand: the faster wins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_deploy.engine.backend import EngineOptions
from segformer_deploy.errors import OutputError
from segformer_deploy.files import write_bytes, write_text
from segformer_deploy.spec import FrameSize, ModelSpec, Precision
from segformer_deploy.workflow.choice import Choice, Progress, Say, silent
from segformer_deploy.workflow.precision import (
    Candidate,
    PrecisionOptions,
    candidate_from_onnx,
)
from segformer_deploy.workflow.race import ROUNDS, WARM_UP, Lap, race


def choose_precision(
    onnx_file: Path,
    target: Path,
    spec: ModelSpec,
    options: PrecisionOptions,
    engine: EngineOptions,
    size: FrameSize,
    say: Say,
    progress: Progress = silent,
) -> Choice:
    """Make the graph asked for, time it beside FP32, and write the faster one to `target`.

    Args:
        size: the network size to time at.

    Raises what `candidate_from_onnx` raises, and BackendError where the engine runs neither.
    """
    candidate = candidate_from_onnx(onnx_file, spec, options, say, progress)
    asked = options.precision
    write_bytes(target, candidate.model.SerializeToString())
    with progress(f"timing {asked} beside fp32", WARM_UP + ROUNDS) as advance:
        laps = race({"fp32": onnx_file, asked: target}, engine, size, on_round=advance)
    verdict = verdict_from_laps(asked, "fp32", laps, size, force=options.force)
    say(verdict.outcome)
    if verdict.delivered != asked:
        write_bytes(target, onnx_file.read_bytes())
    report = {
        "requested": asked,
        "delivered": verdict.delivered,
        "outcome": verdict.outcome,
        **candidate.details,
        "speed": verdict.speed,
    }
    kept = verdict.delivered == asked
    notes = (*candidate.notes, verdict.outcome) if kept else (verdict.outcome,)
    return Choice(asked, verdict.delivered, notes, report)


def keep_precision(
    onnx_file: Path,
    target: Path,
    spec: ModelSpec,
    options: PrecisionOptions,
    say: Say,
    progress: Progress = silent,
) -> Choice:
    """Make the graph asked for and write it to `target`, untimed: for a plan's builder.

    Raises what `candidate_from_onnx` raises.
    """
    asked = options.precision
    candidate = candidate_from_onnx(onnx_file, spec, options, say, progress)
    write_bytes(target, candidate.model.SerializeToString())
    outcome = f"{asked} is built as asked: it was held against fp32, not timed here"
    report = {
        "requested": asked,
        "delivered": asked,
        "outcome": outcome,
        **candidate.details,
        "speed": None,
    }
    return Choice(asked, asked, (*candidate.notes, outcome), report)


@dataclass(frozen=True)
class Verdict:
    """Which of two precisions is delivered; in words, and in figures for `precision.json`."""

    delivered: Precision
    outcome: str
    speed: dict[str, Any]


def verdict_from_laps(
    asked: Precision, other: Precision, laps: dict[str, Lap], size: FrameSize, *, force: bool
) -> Verdict:
    """The faster of `asked` and `other`, whose laps these are; `asked` where it is forced."""
    ratio = laps[other].undisturbed_ms / laps[asked].undisturbed_ms
    delivered = asked if ratio > 1 or force else other
    speed = {
        "size": str(size),
        "ratio": ratio,
        **{name: lap.to_dict() for name, lap in laps.items()},
    }
    times = " and ".join(
        f"{name} {laps[name].undisturbed_ms:.1f} ms ({laps[name].engine})"
        for name in (asked, other)
    )
    times = f"({times} at {size})"
    if delivered == asked:
        state = f"{ratio:.2f} times as fast as" if ratio > 1 else "slower than"
        but = "" if ratio > 1 else ", but asked"
        return Verdict(delivered, f"{asked} is built: {state} {other}{but} {times}", speed)
    outcome = (
        f"{asked} was asked for and {other} is built: on this engine {asked} is "
        f"{1 / ratio:.2f} times as slow {times}; --force builds it all the same"
    )
    return Verdict(delivered, outcome, speed)


def write_onnx_only(
    onnx_file: Path,
    output: Path | None,
    spec: ModelSpec,
    options: PrecisionOptions,
    say: Say,
    progress: Progress = silent,
) -> tuple[Path, Candidate]:
    """Write the FP16 or INT8 graph, with its report beside it, and stop.

    Raises what `candidate_from_onnx` raises, and OutputError.
    """
    path = output or Path("build") / f"{onnx_file.stem}-{options.precision}.onnx"
    if path.suffix != ".onnx" or path.resolve() == onnx_file.resolve():
        raise OutputError(
            f"the graph cannot be written to {path}",
            "a new file that ends in .onnx",
            "name another file with --output",
        )
    candidate = candidate_from_onnx(onnx_file, spec, options, say, progress)
    write_bytes(path, candidate.model.SerializeToString())
    report = {"requested": options.precision, "delivered": options.precision, **candidate.details}
    write_report(path.with_suffix(".precision.json"), report)
    return path, candidate


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write `precision.json`, aside and renamed."""
    write_text(path, json.dumps(report, indent=1) + "\n")
