"""Time the same frame to the same class map in segformer_deploy and in what others use.

    python benchmarks/peers.py                  # all peers, B0, 150 classes, 512x512
    python benchmarks/peers.py --only a,e --rounds 10

Each peer lives in a process of its own and keeps its model loaded; they take turns, one frame
each, in an order that rotates, so that whatever the machine does hits all alike. Ratios are
formed round by round. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The runners' package and this checkout; harmless where both are importable already.
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import numpy as np  # noqa: E402
from peers_runners import compare, report  # noqa: E402
from peers_runners.child import Job  # noqa: E402
from peers_runners.options import PEERS, read_options  # noqa: E402
from peers_runners.parent import Child, Peer, Samples, environment, take_turns  # noqa: E402

from segformer_deploy.errors import MissingDependencyError, SegdeployError  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402

REFERENCE, OURS, IN_GRAPH = "a", "e", "c"
OUR_FILES = ("e", "f", "g")
"""Peers that run what our own commands make."""
SHARED_NEEDS = ("torch", "transformers", "onnx", "PIL")
MODEL_SEED = 0
IDLE_LIMIT = 0.02  # of one core; above it a sleeping child disturbs the others


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments, "Time one frame to one class map, in turns, in every peer.")
    try:
        data = measure(options)
        print(report.table(data["results"]))
        for warning in data["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        _write(data, options)
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare, take turns, compare; the whole result as a JSON-ready dict."""
    peers = [peer for peer in PEERS if peer.letter in options.only]
    check_installed(peers)
    work = _prepare(options)
    job_file = _job(options, work, build_ours=any(p.letter in OUR_FILES for p in peers))
    facts = report.machine_facts()
    with ExitStack() as stack:
        children = {}
        for peer in peers:
            say(f"loading {peer.name}")
            log = work / f"{peer.letter}.log"
            child = Child(peer.name, peer.command(job_file), log, options.threads)
            children[peer.letter] = stack.enter_context(child)
        samples = take_turns(
            children, options.rounds, options.warm_up, options.pause / 1e3, progress
        )
        # Memory before anything is asked for that the timed frames did not need.
        peaks = {letter: child.ask(op="memory")["peak_mb"] for letter, child in children.items()}
        saved = {
            letter: child.ask(op="save", folder=str(work / "answers" / letter))
            for letter, child in children.items()
        }
        hellos = {letter: child.hello for letter, child in children.items()}
    agreements = judge(saved, tuple(options.frame))
    results = [
        summary(peer, samples, peaks[peer.letter], agreements.get(peer.letter))
        | {"versions": hellos[peer.letter]["versions"], "note": hellos[peer.letter]["note"]}
        for peer in peers
    ]
    reference = np.load(saved[peers[0].letter]["class_map"])
    return {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": _task(options, work, reference),
        "machine": facts,
        "results": results,
        "warnings": warnings_of(results),
    }


def summary(
    peer: Peer,
    samples: dict[str, Samples],
    peak_mb: float | None,
    agreement: compare.Agreement | None,
) -> dict[str, Any]:
    """All figures of one peer, the raw samples among them."""
    own, ours = samples[peer.letter], samples.get(OURS)
    ratio = compare.ratio_per_round(own.ms, ours.ms) if ours else None
    return {
        "letter": peer.letter,
        "name": peer.name,
        "ours": peer.letter == OURS,
        "ms": asdict(compare.spread(own.ms)),
        "ratio_to_ours": asdict(ratio) if ratio else None,
        "stages_ms": compare.stage_medians(own.stages),
        "infer_share": compare.infer_share(own.stages, own.ms),
        "class_map_in_graph": peer.letter == IN_GRAPH,
        "peak_mb": peak_mb,
        "agreement": agreement.to_dict() if agreement else None,
        "idle_share": own.idle_share,
        "samples": {"ms": own.ms, "stages": own.stages},
    }


def warnings_of(results: list[dict[str, Any]]) -> list[str]:
    """What would make a reader doubt the figures."""
    found = []
    for result in results:
        if result["idle_share"] > IDLE_LIMIT:
            found.append(
                f"{result['name']} used {100 * result['idle_share']:.1f} % of a core while others "
                "had their turn: measure again with a longer --pause"
            )
        if result["agreement"] and result["agreement"]["violations"]:
            found.append(
                f"{result['name']} differs from the reference in "
                f"{result['agreement']['violations']} pixels that rounding does not explain"
            )
    return found


def judge(saved: dict[str, Any], frame: tuple[int, int]) -> dict[str, compare.Agreement]:
    """Each class map against transformers in PyTorch; empty where that peer was left out."""
    if REFERENCE not in saved:
        say("no agreement without the reference (peer a)")
        return {}
    import torch

    def upsampled(answer: dict[str, Any]) -> np.ndarray[Any, Any] | None:
        if answer["logits"] is None:
            return None
        logits = torch.from_numpy(np.load(answer["logits"]))[None]
        large = torch.nn.functional.interpolate(
            logits, size=frame, mode="bilinear", align_corners=False
        )
        return np.asarray(large[0])

    reference = np.load(saved[REFERENCE]["class_map"])
    logits = upsampled(saved[REFERENCE])
    return {
        letter: compare.compare_maps(
            reference, np.load(answer["class_map"]), logits, upsampled(answer)
        )
        for letter, answer in saved.items()
    }


def check_installed(peers: list[Peer]) -> None:
    """Raise MissingDependencyError for the first library that is not there."""
    needs = [(module, "preparing the peers") for module in SHARED_NEEDS]
    needs += [(module, peer.name) for peer in peers for module in peer.needs]
    for module, purpose in needs:
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(module, "peers", purpose)


def _prepare(options: argparse.Namespace) -> Path:
    """The work folder of this task, filled once: its name states all that decides its content."""
    sizes = [*options.network, *options.frame]
    source = "random" if options.checkpoint is None else _digest(options.checkpoint)
    name = f"b0-{options.classes}-" + "x".join(map(str, sizes))
    # How the files are made decides their content as much as the options do.
    recipe = hashlib.sha256((HERE / "peers_runners" / "prepare.py").read_bytes()).hexdigest()[:8]
    name += f"-{source}-{recipe}-torch{version('torch')}-transformers{version('transformers')}"
    work: Path = options.work / re.sub(r"[^\w.+-]", "_", name)
    say(f"preparing {work}")
    command = [sys.executable, "-m", "peers_runners.prepare", "--work", str(work)]
    command += ["--classes", str(options.classes), "--seed", str(MODEL_SEED)]
    command += ["--network", *map(str, options.network), "--frame", *map(str, options.frame)]
    if options.checkpoint is not None:
        command += ["--checkpoint", str(options.checkpoint)]
    _call(command, options.threads, "the peers' files could not be made")
    return work


def _digest(checkpoint: Path) -> str:
    file = checkpoint / "model.safetensors"
    if not file.is_file():
        raise SegdeployError(
            f"{checkpoint} holds no model.safetensors",
            "a checkpoint folder in transformers' format",
            "save it with model.save_pretrained(FOLDER)",
        )
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _job(options: argparse.Namespace, work: Path, *, build_ours: bool) -> Path:
    job = Job(
        weights=work / "weights",
        frame=work / "frame.npy",
        onnx=work / "peer.onnx",
        onnx_class_map=work / "peer_class_map.onnx",
        engine=work / "ours-engine",
        threads=options.threads,
        network=tuple(options.network),
    )
    job.write(work / "job.json")
    if build_ours:
        # Each time anew: this is the one peer whose code may have changed since.
        say("building our engine")
        shutil.rmtree(job.engine, ignore_errors=True)
        ours, onnx = [sys.executable, "-m", "segformer_deploy"], str(work / "ours.onnx")
        export = [*ours, "export", "--checkpoint", str(job.weights), "--output", onnx]
        build = [*ours, "build-engine", onnx, "--output", str(job.engine)]
        for command in (export, build):
            _call(command, options.threads, "our own command failed")
    return work / "job.json"


def _call(command: list[str], threads: int, failure: str) -> None:
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SegdeployError(
            f"{failure}: {' | '.join(lines[-3:])}",
            "exit code 0",
            f"run it alone: {' '.join(command)}",
        )


def _task(
    options: argparse.Namespace, work: Path, class_map: np.ndarray[Any, Any]
) -> dict[str, Any]:
    return {
        "variant": "b0",
        "classes": options.classes,
        "network": options.network,
        "frame": options.frame,
        "threads": options.threads,
        "rounds": options.rounds,
        "warm_up_rounds": options.warm_up,
        "pause_ms": options.pause,
        "weights": "random" if options.checkpoint is None else str(options.checkpoint.name),
        "seed": MODEL_SEED,
        "frame_sha256": hashlib.sha256(np.load(work / "frame.npy").tobytes()).hexdigest(),
        "classes_in_class_map": int(np.unique(class_map).size),
        "border_share": compare.border_share(class_map),
    }


def _write(data: dict[str, Any], options: argparse.Namespace) -> None:
    write_text(options.output, json.dumps(data, indent=1) + "\n")
    say(f"wrote {options.output}")
    if options.chart is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        say('no chart: matplotlib is missing (pip install "segformer-deploy[peers]")')
        return
    report.chart(data, options.chart)
    say(f"wrote {options.chart}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def progress(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        say(f"round {done} of {total}")


if __name__ == "__main__":
    sys.exit(main())
