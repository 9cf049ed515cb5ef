"""The commands that made the results, to be typed again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from segformer_deploy.bench.report.fields import MIB, number, positive, text
from segformer_deploy.bench.report.model import Case, Results
from segformer_deploy.bench.report.parts import Commands

_SIZED = ("test:", "camera:", "csi:", "/dev/video")
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
    """The `segdeploy bench` line of one case, quoted for a shell.

    Options that change figures are as the file's `case` has them. What was left to a default that
    another machine or release may set otherwise (threads, runs, the backend) is as it came out.
    """
    asked = case.asked
    words = ["segdeploy", "bench", case.engine or "ENGINE"]
    # A network that keeps its own rule of sizes was given none, and a film has a size of its own.
    size = text(asked["size"]) if "size" in asked else case.size
    frame = text(asked["frame"]) if "frame" in asked else case.frame
    if case.video and not case.video.startswith(_SIZED):
        frame = ""
    seconds = positive(asked.get("seconds"))
    runs = asked.get("runs") or (None if seconds else case.samples or None)
    for option, value in (
        ("--source", case.video),
        ("--size", size),
        ("--frame", frame),
        ("--threads", _number(case.threads)),
        ("--backend", case.library if case.library in _BACKENDS else ""),
        ("--provider", case.provider),
        ("--device", _unless(asked.get("device"), "auto")),
        ("--runs", _number(runs)),
        ("--seconds", _number(seconds)),
        ("--warmup", _number(case.warmup)),
        ("--memory-limit", size_for_option(case.limit.mib) if case.limit else ""),
    ):
        words += [option, value] if value else []
    flags = (
        ("--no-draw", bool(case.video) and not case.drawn),
        ("--no-arena", not case.arena),
        ("--timed", case.timed),
        ("--trust", asked.get("trust") is True),
    )
    words += [flag for flag, wanted in flags if wanted]
    name = PurePosixPath(case.source).name
    return f"{shlex.join(words)} --json > {shlex.quote(name)}"


def size_for_option(mib: float) -> str:
    """`128M`, and below or between whole MiB `512K` or plain bytes: exactly what was set."""
    size = round(mib * MIB)
    for unit, name in ((MIB, "M"), (1 << 10, "K")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def _number(value: object) -> str:
    """Without a loss of digits; "" for what is none."""
    found = number(value)
    return "" if found is None else repr(int(found) if found.is_integer() else found)


def _unless(value: object, usual: str) -> str:
    found = text(value)
    return "" if found == usual else found


def _engines_of_random(cases: Sequence[Case]) -> tuple[str, ...]:
    variants = dict.fromkeys(case.variant for case in cases if case.random and case.variant)
    return tuple(f"segdeploy export --variant {variant} --random-weights" for variant in variants)
