"""What every command shares: where text goes, what is taken when nothing is named."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.errors import InputError, SegdeployError

if TYPE_CHECKING:
    from segformer_deploy.runtime.segmenter import Segmenter
    from segformer_deploy.spec import FrameSize, ModelSpec

BUILD = Path("build")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads; all cores of this process if not given.")
]
Provider = Annotated[
    str,
    typer.Option(help="ONNX Runtime's: cpu, cuda, tensorrt, or auto: cuda where it starts."),
]
Backend = Annotated[
    str,
    typer.Option(help="native, onnxruntime, tensorrt, tensorrt-rtx, or auto: as it was built."),
]
Device = Annotated[
    str,
    typer.Option(
        help="Where frames are resized and class maps made: cpu, cuda, or auto: where the "
        "network runs, if that can be."
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load a plan file that has no manifest: it is code.")
]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild", help="Build a plan again here where it is for another library, GPU or system."
    ),
]
Arena = Annotated[
    bool, typer.Option("--arena/--no-arena", help="Keep freed memory: faster, larger.")
]
EngineArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="ENGINE", help="Engine folder or .onnx file; the newest under build/ if left out."
    ),
]
Size = Annotated[
    str | None, typer.Option(metavar="HxW", help="Network size instead of the model's own rule.")
]


def say(text: str) -> None:
    """Human text goes to stderr, so that stdout stays a program's."""
    print(text, file=sys.stderr, flush=True)


def emit(data: dict[str, Any]) -> None:
    """The one JSON object of a command, on stdout; null where a figure is not finite."""
    # ASCII: a file name that is not UTF-8 must not cost the reader the whole object.
    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), allow_nan=False)
    print(text, flush=True)


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinities, for which JSON has no words."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def error_dict(error: SegdeployError) -> dict[str, Any]:
    return {
        "error": {
            "kind": type(error).__name__,
            "found": error.found,
            "expected": error.expected,
            "next": error.next_step,
        }
    }


def parse_size(text: str | None) -> FrameSize | None:
    """HxW, or None where nothing was given; SpecError otherwise."""
    from segformer_deploy.spec import FrameSize

    return None if text is None else FrameSize.parse(text)


def engine_or_newest(engine: Path | None) -> Path:
    """The engine named, else the newest engine folder under build/, named aloud."""
    if engine is not None:
        return engine
    from segformer_deploy.engine.package import engine_folders

    folders = engine_folders(BUILD)
    if not folders:
        raise InputError(
            f"no engine was named and there is no engine folder under {BUILD}/",
            "an engine folder",
            "segdeploy build-engine",
        )
    say(f"engine: {folders[0]} (the newest under {BUILD}/)")
    return folders[0]


def rebuilt_if_asked(engine: Path, asked: bool) -> Path:
    """`engine`, built again in its place where that was asked for and it does not fit here."""
    if asked:
        from segformer_deploy.workflow.rebuild import rebuild_where_needed

        rebuild_where_needed(engine, say, progress)
    return engine


def onnx_or_newest(onnx: Path | None, *, fp32: bool = False) -> Path:
    """The ONNX file named, else the newest under build/ (with `fp32`: in FP32), named aloud."""
    if onnx is not None:
        return onnx
    from segformer_deploy.engine.package import newest_first

    found = [path for path in newest_first(list(BUILD.glob("*.onnx"))) if path.is_file()]
    if fp32:
        # A precision is written into an FP32 graph; those that hold one already are passed over.
        found = [path for path in found if _is_fp32(path)]
    if not found:
        raise InputError(
            f"no ONNX file was named and there is none under {BUILD}/",
            "an ONNX file",
            "segdeploy export --variant b0",
        )
    say(f"ONNX: {found[0]} (the newest under {BUILD}/)")
    return found[0]


def _is_fp32(path: Path) -> bool:
    from segformer_deploy.engine.onnx_file import spec_from_onnx

    try:
        return spec_from_onnx(path).precision == "fp32"
    except SegdeployError:
        return True  # the command itself then says what is wrong with it


def warn_if_random(spec: ModelSpec) -> None:
    """Random weights are said by every command that meets them."""
    if spec.weights.random:
        say("WARNING: the weights are random: speed and memory are real, masks mean nothing")


def introduce(segment: Segmenter) -> None:
    """What a user ought to know of the engine that was loaded, before its first frame."""
    warn_if_random(segment.spec)
    if segment.note:
        say(f"note: {segment.note}")
    say(f"device: {segment.device}: {segment.device_how}")


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; gives `advance(done)`, done counted from the start."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on stderr; the first column to the left, figures to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Rich would wrap a title to the table's width.
    say(title)
    view = Table()
    for index, column in enumerate(columns):
        view.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        view.add_row(*map(Text, row))  # names may hold what rich takes for markup
    Console(stderr=True).print(view)
