"""segdeploy fit: memory and latency of this device -> the network to take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli import fleet_options as fleet
from segformer_deploy.cli.bench_options import (
    Backends,
    Classes,
    Engines,
    Precisions,
    Sizes,
    ThreadList,
    Variants,
    backends_of,
    case_progress,
    check_same_kind,
    check_used,
    say_again,
    sizes_of,
    threads_of,
    words_of,
)
from segformer_deploy.cli.common import Json, emit, progress, say, table
from segformer_deploy.cli.fleet import answer_fleet
from segformer_deploy.cli.fleet_options import milliseconds_from_text
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.bench.pareto import Budget, FitReport
    from segformer_deploy.workflow.bench_engines import EngineSource

_DEFAULT_OUTPUT = Path("results") / "fit"
_DEFAULT_SIZES = "256x256,384x384,512x512"


def command(
    engines: Engines = None,
    memory: Annotated[
        str | None, typer.Option(metavar="256M", help="Most memory of the whole process.")
    ] = None,
    latency: Annotated[
        str | None, typer.Option(metavar="200ms", help="Longest time from frame to class map.")
    ] = None,
    percentile: Annotated[
        str | None,
        typer.Option(help="Of the latency that has to hold: p50, p90 or p99; p50, of cameras p99."),
    ] = None,
    min_miou: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Least mIoU, with labelled frames.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of labelled frames.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of their label pictures.")] = None,
    variants: Variants = None,
    sizes: Sizes = None,
    precisions: Precisions = None,
    backends: Backends = None,
    threads: ThreadList = None,
    classes: Classes = None,
    frame: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size of the frame; the network's size if not given."),
    ] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Runs of a case.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Results and chart.")
    ] = _DEFAULT_OUTPUT,
    cameras: fleet.Cameras = None,
    fps: fleet.Fps = None,
    device: fleet.DeviceName = None,
    measured: fleet.Measured = None,
    variant: fleet.Variant = None,
    size: fleet.Size = None,
    precision: fleet.Precision = None,
    streams: fleet.Streams = None,
    batch: fleet.BatchSize = None,
    batch_time: fleet.BatchTime = None,
    policy: fleet.PolicyName = None,
    max_drops: fleet.MaxDrops = None,
    jitter: fleet.Jitter = None,
    overhead: fleet.Overhead = None,
    json: Json = False,
) -> None:
    """Find the most accurate network that this device's memory and patience allow.

    Measures variants, sizes, precisions and backends, cheap ones first, and leaves out what a
    smaller network already showed to be too much. Without labelled frames "more accurate" is
    the order of networks: larger variant, then larger size, then higher precision.

    Example:  segdeploy fit --memory 256M --latency 200ms

    Example:  segdeploy fit a.onnx b.onnx --latency 100ms --min-miou 40 --images val/images
    --labels val/labels

    With --cameras: how many devices so many cameras need, by simulation.

    Example:  segdeploy fit --cameras 200 --fps 10 --device orin-nano-8gb --latency 200ms
    """
    from segformer_deploy.bench.case import Case
    from segformer_deploy.bench.runner import run_case
    from segformer_deploy.workflow.fit import fit

    if percentile not in (None, "p50", "p90", "p99"):
        raise InputError(f"percentile '{percentile}'", "p50, p90 or p99")
    words = fleet.FleetWords(
        *(cameras, fps, device, measured, variant, size, precision),
        *(streams, batch, batch_time, policy, max_drops, jitter, overhead),
    )
    if words.asked():
        words.refuse(
            memory=memory,
            min_miou=min_miou,
            images=images,
            labels=labels,
            variants=variants,
            sizes=sizes,
            precisions=precisions,
            backends=backends,
            threads=threads,
        )
        late = None if latency is None else milliseconds_from_text(latency)
        given, kept = list(engines or ()), percentile or "p99"
        answer_fleet(words, given, late, kept, frame, runs, classes, output, json)
        return
    percentile = percentile or "p50"
    budget = _budget(memory, latency, min_miou, images)
    given = list(engines or ())
    check_same_kind(given, variants, precisions)
    number = check_used(classes, not given)
    sources = _sources(given, variants, precisions, number, output)
    if images is not None and any(source.random for source in sources):
        raise InputError(
            "labelled frames, and networks of random weights",
            "trained networks, whose masks can be scored",
            "name engine folders or ONNX files of them, as in: segdeploy fit A.onnx B.onnx",
        )
    like = Case(
        "",
        frame=frame,
        runs=runs,
        images=None if images is None else str(images),
        labels=None if labels is None else str(labels),
    )
    counts, ran = threads_of(threads), backends_of(backends or "native,onnxruntime")
    columns = sizes_of(sizes or _DEFAULT_SIZES)
    total = len(sources) * len(counts) * len(ran) * len(columns)
    with case_progress("cases", total) as (on_case, passed):

        def on_skip(name: str, why: str) -> None:
            passed(1)
            say(f"{name}: skipped: {why}")

        report = fit(
            sources,
            columns,
            ran,
            counts,
            like,
            budget,
            output,
            run_case,
            percentile=percentile,
            on_case=on_case,
            on_skip=on_skip,
            on_again=say_again,
        )
    _show(report, percentile)
    if json:
        emit(report.to_dict())
    if report.winner is None:
        raise typer.Exit(1)


def _budget(
    memory: str | None, latency: str | None, min_miou: float | None, images: Path | None
) -> Budget:
    from segformer_deploy.bench.limit import MIB, bytes_from_text
    from segformer_deploy.bench.pareto import Budget

    if memory is None and latency is None and min_miou is None:
        raise InputError(
            "no budget", "what the device allows", "segdeploy fit --memory 256M --latency 200ms"
        )
    if min_miou is not None and images is None:
        raise InputError("--min-miou without labelled frames", "--images and --labels beside it")
    if min_miou is not None and not 0 <= min_miou <= 100:
        raise InputError(f"--min-miou {min_miou:g}", "a percentage from 0 to 100")
    return Budget(
        None if memory is None else bytes_from_text(memory) / MIB,
        None if latency is None else milliseconds_from_text(latency),
        min_miou,
    )


def _sources(
    given: list[Path], variants: str | None, precisions: str | None, classes: int, output: Path
) -> list[EngineSource]:
    from segformer_deploy.workflow.bench_engines import exported_engines, given_engines

    if given:
        return given_engines(given)
    names, kinds = words_of(variants or "b0,b1,b2"), words_of(precisions or "fp32,int8")
    return exported_engines(names, kinds, classes, output / "engines", say, progress)


def _show(report: FitReport, percentile: str) -> None:
    data = report.to_dict()
    scored = report.accuracy == "miou"
    rows = [
        [
            ("* " if point["name"] == data["winner"] else "  ") + point["name"],
            f"{point['latency_ms']:.1f}",
            f"{point['memory_mib']:.0f}",
            *([f"{point['miou']:.2f}"] if scored else []),
            _standing(point),
        ]
        for point in data["points"]
    ]
    titles = ["case", f"{percentile} ms", "peak MiB", *(["mIoU %"] if scored else []), ""]
    table(f"budget: {report.budget}", titles, rows)
    say(
        f"{data['measured']} measured, {data['kept']} were there already, "
        f"{len(data['skipped'])} skipped, {len(data['failed'])} failed: {data['folder']}"
    )
    if not scored:
        say(
            "accuracy was not measured: larger variant, then larger size, then higher precision "
            "counts as more accurate; labelled frames (--images, --labels) measure it"
        )
    if report.chart:
        say(f"the front: {report.chart}")
    elif report.points:
        say("no chart: matplotlib is not installed")
    if report.matrix.fruitless is not None:
        say(f"error: no case gave figures; the first: {report.matrix.fruitless}")
        return
    if report.winner is None:
        say("error: nothing measured is within the budget: allow more, or add smaller --sizes")
        return
    say(
        f"take {report.winner.name}: {report.winner.latency_ms:.1f} ms, "
        f"{report.winner.memory_mib:.0f} MiB"
    )
    for line in report.commands:
        say(f"next: {line}")


def _standing(point: dict[str, Any]) -> str:
    """Short, for a table of 80 columns; the JSON has the figures."""
    if point["excess"]:
        units = ["mIoU" if "mIoU" in text else text.split()[1] for text in point["excess"]]
        return "over: " + ", ".join(units)
    return "front" if point["front"] else ""
