"""Turns and memory of all networks; the whole result as a JSON-ready dict."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from peers_runners import compare, report
from peers_runners.parent import Child, Samples, environment, take_turns

from rivals.networks import NETWORKS, PUBLISHED, macs_of, network_on_meta, parameters_of
from rivals.runner import Job
from rivals.setr import memory_by_formula
from segformer_deploy.errors import SegdeployError

OURS = "b0-deploy"
SETR_NEEDS_MB = 8_000
"""Of free memory: its file, the graph made from it and packed weights lie there at once."""


@dataclass(frozen=True)
class Entry:
    """What runs: a key, a name for tables, its files' names and its engine.

    Attributes:
        file: of the folder of files; None loads nothing.
    """

    key: str
    name: str
    file: str | None
    engine: str = "onnxruntime"


ENTRIES = (
    Entry("fcn", "FCN", "fcn.onnx"),
    Entry("fcn-graph", "FCN", "fcn.class-map.onnx"),
    Entry("pspnet", "PSPNet", "pspnet.onnx"),
    Entry("pspnet-graph", "PSPNet", "pspnet.class-map.onnx"),
    Entry("deeplabv3plus", "DeepLabV3+", "deeplabv3plus.onnx"),
    Entry("deeplabv3plus-graph", "DeepLabV3+", "deeplabv3plus.class-map.onnx"),
    Entry("b0", "SegFormer-B0, usual export", "b0.onnx"),
    Entry("b0-graph", "SegFormer-B0, usual export", "b0.class-map.onnx"),
    Entry("b0-deploy", "SegFormer-B0, deploy form", "ours.onnx"),
    Entry("b0-deploy-graph", "SegFormer-B0, deploy form", "ours.class-map.onnx"),
    Entry("b0-native", "SegFormer-B0, our engine", "ours.onnx", "native"),
)
NOTHING = Entry("nothing", "no network", None)
SETR = Entry("setr", "SETR", "setr.onnx")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare, measure memory's floor, take turns, then SETR alone."""
    work: Path = options.work / f"rivals-{options.classes}-{options.size}"
    _prepare(work, options)
    facts, counted = report.machine_facts(), counts(options.classes, options.size)
    floor = _alone(NOTHING, work, options, frames=0)["peak_mb"]
    with ExitStack() as stack:
        children = {
            entry.key: stack.enter_context(_child(entry, work, options)) for entry in ENTRIES
        }
        samples = take_turns(
            children, options.rounds, options.warm_up, options.pause / 1e3, progress
        )
        peaks = {key: child.ask(op="memory")["peak_mb"] for key, child in children.items()}
        maps = {
            key: np.load(child.ask(op="save", folder=str(work / "answers" / key))["class_map"])
            for key, child in children.items()
        }
        hellos = {key: child.hello for key, child in children.items()}
    results = [
        _summary(entry, samples, peaks[entry.key], maps[entry.key], hellos[entry.key])
        for entry in ENTRIES
    ]
    return {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": {
            **{key: getattr(options, key) for key in ("classes", "size", "threads", "rounds")},
            "warm_up_rounds": options.warm_up,
            "pause_ms": options.pause,
            "weights": "random",
        },
        "machine": facts,
        "counts": counted,
        "floor_mb": floor,
        "results": results,
        "setr": setr_row(work, options),
    }


def counts(classes: int, size: int) -> dict[str, Any]:
    """Parameters (with the head that only training runs, as published; and without) and MACs."""
    found: dict[str, Any] = {}
    for name in NETWORKS:
        network = network_on_meta(name, classes, size)
        found[name] = {
            "parameters": parameters_of(network),
            "parameters_at_inference": parameters_of(network, inference=True),
            "macs": macs_of(network, size),
            "published": asdict(PUBLISHED[name]) if name in PUBLISHED else None,
        }
    return found


def setr_row(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """By formula; with ``measured`` where it was run, which it is alone and not in the rounds."""
    parameters = parameters_of(network_on_meta("setr", options.classes, options.size))
    row: dict[str, Any] = {"estimated": memory_by_formula(parameters, options.size)}
    free = free_mb()
    if options.no_setr or free is None or free < SETR_NEEDS_MB:
        row["measured"] = None
        row["why_not"] = "left out" if options.no_setr else f"{free} MB of memory were free"
        return row
    say("SETR, alone")
    _weights(work, ["setr"], options)
    row["measured"] = _alone(SETR, work, options, frames=4)
    (work / "setr.onnx").unlink()  # 1.2 GB that nothing else needs
    return row


def free_mb() -> int | None:
    """Memory that the system can give, in MB of 1e6 bytes; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return round(found[0] * 1024 / 1e6) if found else None


def _alone(entry: Entry, work: Path, options: argparse.Namespace, frames: int) -> dict[str, Any]:
    """Peak memory, and the milliseconds of `frames` frames, of which the first warms up."""
    with _child(entry, work, options) as child:
        ms = [float(child.ask(op="go")["ms"]) for _ in range(frames)][1:]
        return {"peak_mb": child.ask(op="memory")["peak_mb"], "samples_ms": ms}


def _child(entry: Entry, work: Path, options: argparse.Namespace) -> Child:
    say(f"loading {entry.key}")
    job = work / f"{entry.key}.json"
    onnx = None if entry.file is None else str(work / entry.file)
    Job(onnx, str(work / "frame.npy"), options.threads, entry.engine).write(job)
    command = [sys.executable, "-m", "rivals.runner", "--job", str(job)]
    return Child(entry.key, command, work / f"{entry.key}.log", options.threads)


def _summary(
    entry: Entry,
    samples: dict[str, Samples],
    peak_mb: float | None,
    class_map: np.ndarray[Any, Any],
    hello: dict[str, Any],
) -> dict[str, Any]:
    own = samples[entry.key]
    return {
        "key": entry.key,
        "name": entry.name,
        "ms": asdict(compare.spread(own.ms)),
        "ratio_to_ours": asdict(compare.ratio_per_round(own.ms, samples[OURS].ms)),
        "stages_ms": compare.stage_medians(own.stages),
        "peak_mb": peak_mb,
        "border_share": compare.border_share(class_map),
        "classes_in_class_map": int(np.unique(class_map).size),
        "idle_share": own.idle_share,
        "versions": hello["versions"],
        "note": hello["note"],
        "samples": {"ms": own.ms, "stages": own.stages},
    }


def _prepare(work: Path, options: argparse.Namespace) -> None:
    say(f"preparing {work}")
    _weights(work, ["fcn", "pspnet", "deeplabv3plus", "b0"], options)
    shutil.rmtree(work / "answers", ignore_errors=True)
    # Each time anew: this is the one network whose code may have changed since.
    ours = [sys.executable, "-m", "segformer_deploy", "export"]
    ours += ["--checkpoint", str(work / "weights")]
    for name, more in (("ours.onnx", []), ("ours.class-map.onnx", ["--class-map"])):
        _call([*ours, *more, "--output", str(work / name)], options.threads)


def _weights(work: Path, names: list[str], options: argparse.Namespace) -> None:
    side = str(options.size)
    command = [sys.executable, "-m", "rivals.weights", "--work", str(work), "--names", *names]
    _call([*command, "--classes", str(options.classes), "--frame", side, side], options.threads)


def _call(command: list[str], threads: int) -> None:
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SegdeployError(
            f"a network's file could not be made: {' | '.join(lines[-3:])}",
            "exit code 0",
            f"run it alone, from benchmarks/: {' '.join(command)}",
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def progress(done: int, total: int) -> None:
    if done % 5 == 0 or done == total:
        say(f"round {done} of {total}")
