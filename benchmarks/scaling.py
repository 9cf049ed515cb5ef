"""How time and memory grow with pixels, classes, batch and threads.

    python benchmarks/scaling.py              # the whole plan, some minutes
    python benchmarks/scaling.py --quick      # a few small points: does it all work?

The network alone and the whole frame (frame in memory to class map in memory), with random
weights that the package exports itself. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

HERE = Path(__file__).resolve().parent
# The parts beside this file and this checkout; harmless where they are importable already.
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import numpy as np  # noqa: E402
import scaling_output as output  # noqa: E402
from peers_runners.parent import Child, Samples, take_turns  # noqa: E402
from scaling_child import Job, Purpose  # noqa: E402
from scaling_options import read_options  # noqa: E402
from scaling_plan import Plan, Point, full_plan, quick_plan  # noqa: E402
from scaling_report import Memories, figures  # noqa: E402

from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.cli.common import emit, error_dict, say  # noqa: E402
from segformer_deploy.engine.cores import usable_cores  # noqa: E402
from segformer_deploy.errors import SegdeployError  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.streets import street_frame  # noqa: E402
from segformer_deploy.workflow.export import ExportOptions, export_onnx  # noqa: E402

PRODUCT_SIDE, QUICK_PRODUCT_SIDE = 2048, 512
MODEL_SEED, STREET_SEED = 0, 1
MEMORY_PURPOSES: dict[str, Purpose] = {"network": "network-memory", "frame": "frame-memory"}


def main(arguments: list[str] | None = None) -> int:
    options = read_options(
        arguments, "How time and memory grow with pixels, classes, batch, threads."
    )
    try:
        data = measure(options)
        say(output.tables(data))
        output.write(data, options.output, options.chart)
    except SegdeployError as error:
        if options.json:
            emit(error_dict(error))
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if options.json:
        emit(data)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Export, measure memory, take turns, fit; the whole result as a JSON-ready dict."""
    cores = usable_cores()
    plan = quick_plan(cores) if options.quick else full_plan(cores)
    machine = machine_facts()
    with _work_folder() as work:
        inputs = Inputs(plan, options, work)
        memory = _memory(plan, inputs, options.memory_runs)
        check_room(memory, [machine.memory_mib, machine.memory_limit_mib])
        samples, products, hello = _times(plan, inputs, options)
    return {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": _task(plan, options),
        "engine": hello["engine"],
        "note": hello["note"],
        "machine": machine.to_dict(),
        **figures(plan, inputs.macs, samples, products, inputs.product_macs, memory),
    }


class Inputs:
    """The networks and frames of a plan in a work folder, and the jobs that use them."""

    def __init__(self, plan: Plan, options: argparse.Namespace, work: Path) -> None:
        self.work = work
        self._backend: str = options.backend
        self._side = QUICK_PRODUCT_SIDE if options.quick else PRODUCT_SIDE
        self.product_macs = self._side**3
        classes = sorted({point.classes for point in plan.points})
        for done, count in enumerate(classes, 1):
            export = ExportOptions(
                variant=options.variant,
                classes=count,
                random_weights=True,
                seed=MODEL_SEED,
                size=plan.base,
                output=self._onnx(count),
            )
            export_onnx(export, lambda _: None)
            progress("exported network", done, len(classes))
        self.macs = self._macs(plan.points)
        for size in {point.size for point in plan.points}:
            frame, _ = street_frame(seed=STREET_SEED, size=size)
            np.save(self._frame(size), frame)

    def _onnx(self, classes: int) -> Path:
        return self.work / f"{classes}.onnx"

    def _frame(self, size: FrameSize) -> Path:
        return self.work / f"{size}.npy"

    def _macs(self, points: Sequence[Point]) -> dict[Point, int]:
        import onnx

        from segformer_deploy.graph.macs import count_macs

        graphs = {
            count: onnx.load(self._onnx(count)) for count in {point.classes for point in points}
        }
        return {
            point: count_macs(graphs[point.classes], point.size, point.batch) for point in points
        }

    def child(self, point: Point, purpose: Purpose) -> Child:
        job = Job(
            purpose,
            point.threads,
            onnx=str(self._onnx(point.classes)),
            frame=str(self._frame(point.size)),
            batch=point.batch,
            backend=self._backend,
        )
        return self._start(f"{point.name} ({purpose})", f"{point.name}-{purpose}", job)

    def product(self, threads: int) -> Child:
        job = Job("product", threads, side=self._side)
        return self._start(f"matrix product, {threads} threads", f"product-{threads}", job)

    def _start(self, name: str, file: str, job: Job) -> Child:
        return Child(name, job.command(), self.work / f"{file}.log", job.threads)


def _memory(plan: Plan, inputs: Inputs, runs: int) -> dict[Point, dict[str, Memories]]:
    """What fresh processes say, one after another, `runs` of each kind for each point."""
    found: dict[Point, dict[str, list[dict[str, Any]]]] = {
        point: {what: [] for what in MEMORY_PURPOSES} for point in plan.points
    }
    for run in range(runs):
        for done, (point, answers) in enumerate(found.items(), 1):
            for what, purpose in MEMORY_PURPOSES.items():
                with inputs.child(point, purpose) as child:
                    answers[what].append(child.hello)
            progress(f"memory, run {run + 1} of {runs}, point", done, len(found))
    return {point: dict(answers) for point, answers in found.items()}


def check_room(
    memory: Mapping[Point, Mapping[str, Memories]], limits: Sequence[float | None]
) -> None:
    """SegdeployError where the points, which are all loaded while they take turns, do not fit."""
    need = sum(max(run["peak_mib"] for run in one["frame"]) for one in memory.values())
    room = min((limit for limit in limits if limit is not None), default=need)
    if need > room:
        raise SegdeployError(
            f"{len(memory)} points at once take {need:,.0f} MiB of {room:,.0f}",
            "memory for all of them: a machine that swaps measures its disk",
            "take a smaller --variant or another --backend, or measure on a larger machine",
        )


def _times(
    plan: Plan, inputs: Inputs, options: argparse.Namespace
) -> tuple[dict[str, Samples], dict[int, Samples], dict[str, Any]]:
    """The points' samples by name, the product's by threads, and how a point introduced itself."""
    say(f"loading {len(plan.points)} points")
    threads = sorted({point.threads for point in plan.points})
    with ExitStack() as stack:
        children = {
            point.name: stack.enter_context(inputs.child(point, "time")) for point in plan.points
        }
        for count in threads:
            children[_product(count)] = stack.enter_context(inputs.product(count))
        samples = take_turns(
            children,
            options.rounds,
            options.warm_up,
            options.pause / 1e3,
            lambda done, total: progress("round", done, total),
        )
        hello = children[plan.points[0].name].hello
    return samples, {count: samples[_product(count)] for count in threads}, hello


def _product(threads: int) -> str:
    return f"product-t{threads}"


def _task(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "variant": options.variant,
        "backend": options.backend,
        "quick": options.quick,
        "classes": plan.usual_classes,
        "threads": plan.threads,
        "size_of_classes_and_threads": str(plan.base),
        "size_of_batches": str(plan.small),
        "rounds": options.rounds,
        "warm_up_rounds": options.warm_up,
        "pause_ms": options.pause,
        "memory_runs": options.memory_runs,
        "weights": "random",
        "seed": MODEL_SEED,
        "frame": f"street_frame(seed={STREET_SEED}) at the network's size",
    }


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder that goes; only a log that an error tells to read stays."""
    folder = Path(mkdtemp(prefix="segdeploy-scaling-"))
    keep = ""
    try:
        yield folder
    except SegdeployError as error:
        keep = error.next_step
        raise
    finally:
        for file in list(folder.iterdir()):
            if str(file) not in keep:
                file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def progress(what: str, done: int, total: int) -> None:
    if done % 5 == 0 or done == total:
        say(f"{what} {done} of {total}")


if __name__ == "__main__":
    sys.exit(main())
