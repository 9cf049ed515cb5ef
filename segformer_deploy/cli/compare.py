"""segdeploy compare: how far two engines agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import (
    Backend,
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
    json: Json = False,
) -> None:
    """Compare the class maps of two engines: pixel agreement, and mIoU of B against A.

    Example:  segdeploy compare build/a-fp32 build/a-fp16 --images frames
    """
    from segformer_deploy.bench.compare import compare
    from segformer_deploy.runtime.segmenter import Segmenter
    from segformer_deploy.video.images import list_images

    files = list_images(images)
    with (
        Segmenter(a, threads=threads, backend=backend, provider=provider) as first,
        Segmenter(b, threads=threads, backend=backend, provider=provider) as second,
    ):
        introduce(first)
        if second.note and second.note != first.note:
            say(f"note: {second.note}")
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
