"""segdeploy compare: how far two engines agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import (
    Backend,
    Device,
    Json,
    Provider,
    Threads,
    emit,
    introduce,
    progress,
    say,
    table,
)


def command(
    a: Annotated[Path, typer.Argument(help="Engine folder or .onnx file: the reference.")],
    b: Annotated[Path, typer.Argument(help="Engine folder or .onnx file to hold against it.")],
    images: Annotated[Path, typer.Option(help="Folder of frames.")],
    threads: Threads = None,
    backend: Backend = "auto",
    provider: Provider = "cpu",
    device: Device = "auto",
    layers: Annotated[
        bool, typer.Option("--layers", help="Error of every value instead: where do they part?")
    ] = False,
    json: Json = False,
) -> None:
    """Compare the class maps of two engines: pixel agreement, and mIoU of B against A.

    With --layers the two graphs are run side by side and each value of B is held against A's.

    Example:  segdeploy compare build/a-fp32 build/a-fp16 --images frames

    Example:  segdeploy compare build/a.onnx build/a-int8.onnx --images frames --layers
    """
    if layers:
        _layers(a, b, images, json)
        return
    from segformer_deploy.bench.compare import compare
    from segformer_deploy.runtime.segmenter import Segmenter
    from segformer_deploy.video.images import list_images

    files = list_images(images)
    with (
        Segmenter(a, threads=threads, backend=backend, provider=provider, device=device) as first,
        Segmenter(b, threads=threads, backend=backend, provider=provider, device=device) as second,
    ):
        introduce(first)
        if second.note and second.note != first.note:
            say(f"note: {second.note}")
        if second.device_how != first.device_how:
            say(f"device of B: {second.device}: {second.device_how}")
        with progress("comparing", len(files)) as advance:
            report = compare(first, second, files, on_image=advance)
    result = {"a": str(a), "b": str(b), **report.to_dict()}
    rows = [[name, f"{100 * agreement:.3f}"] for name, agreement in report.worst]
    table("frames that agree least", ["frame", "agreement %"], rows)
    say(
        f"{100 * report.agreement:.4f} % of the pixels agree on {report.images} frames; "
        f"mIoU of B against A {report.miou:.2f} %"
    )
    if json:
        emit(result)


LAYER_FRAMES = 4
_SHOWN = 20


def _layers(a: Path, b: Path, images: Path, json: bool) -> None:
    from segformer_deploy.cli.precision_options import need_onnx

    need_onnx("looking inside a graph")
    from segformer_deploy.calibrate.frames import frames_from_source
    from segformer_deploy.engine.package import spec_of
    from segformer_deploy.workflow.layers import compare_layers

    frames = frames_from_source(images, spec_of(a).resize, LAYER_FRAMES)
    with progress("comparing layers", len(frames)) as advance:
        errors = compare_layers(a, b, (frame.image for frame in frames), advance)
    worst = sorted(errors, key=lambda one: -one.added)[:_SHOWN]
    rows = [
        [
            one.name,
            one.op,
            f"{100 * one.error:.3f}",
            f"{100 * one.added:+.3f}",
            f"{one.largest:.3g}",
        ]
        for one in worst
    ]
    table(
        f"where B parts from A most, on {len(frames)} frames (errors in % of A's strength)",
        ["value", "op", "error %", "added here", "largest"],
        rows,
    )
    say(f"logits: {100 * errors[-1].error:.3f} % off")
    if json:
        layers = [one.to_dict() for one in errors]
        emit({"a": str(a), "b": str(b), "frames": len(frames), "layers": layers})
