"""The commands that made the results, to be typed again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from segformer_deploy.bench.report.fields import text
from segformer_deploy.bench.report.model import Case, Results
from segformer_deploy.bench.report.parts import Commands

_BACKENDS = ("native", "onnxruntime", "tensorrt", "tensorrt-rtx")


def commands_of_results(results: Results) -> list[Commands]:
    """Blocks of lines: engines with random weights, latencies, scores, other results, this page."""
    found = []
    random = _engines_of_random(results.cases)
    if random:
        found.append(Commands("Engines with random weights", random))
    benches = tuple(
        dict.fromkeys(bench_command(case) for case in results.cases if not case.estimated)
    )
    if benches:
        found.append(Commands("Latency and memory", benches))
    scores = tuple(
        dict.fromkeys(
            f"segdeploy eval {shlex.quote(accuracy.engine)} --images IMAGES --labels LABELS "
            "--json > eval.json"
            for accuracy in results.accuracies
            if accuracy.engine
        )
    )
    if scores:
        found.append(Commands("Accuracy, with your folders of frames and labels", scores))
    others = tuple(line for other in results.others if (line := text(other.data.get("command"))))
    if others:
        found.append(Commands("Other results, as their files state it", others))
    found.append(Commands("This page", (f"segdeploy report {shlex.quote(results.folder)}",)))
    return found


def bench_command(case: Case) -> str:
    """The `segdeploy bench` line of one case, quoted for a shell."""
    words = ["segdeploy", "bench", case.engine or "ENGINE"]
    for option, value in (("--size", case.size), ("--frame", case.frame)):
        words += [option, value] if value else []
    if case.threads is not None:
        words += ["--threads", str(case.threads)]
    if case.library in _BACKENDS:
        words += ["--backend", case.library]
    if case.samples:
        words += ["--runs", str(case.samples)]
    if case.warmup is not None:
        words += ["--warmup", str(case.warmup)]
    if case.limit is not None:
        words += ["--memory-limit", f"{case.limit.mib:.0f}M"]
    name = PurePosixPath(case.source).name
    return f"{shlex.join(words)} --json > {shlex.quote(name)}"


def _engines_of_random(cases: Sequence[Case]) -> tuple[str, ...]:
    variants = dict.fromkeys(case.variant for case in cases if case.random and case.variant)
    return tuple(f"segdeploy export --variant {variant} --random-weights" for variant in variants)
