"""The options of a run: where frames come from and where results go, whoever segments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.capture_options import capture_options

if TYPE_CHECKING:
    from segformer_deploy.workflow.run import RunJob

_PAGE = "Page"

Source = Annotated[
    list[str],
    typer.Option(
        "--source",
        "-s",
        help="Video, picture, folder, camera:0, csi:0, gst:…, rtsp://…, test:, or - for raw "
        "frames on stdin; several share the engine.",
    ),
]
Output = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        help="Overlay: .mp4/.mkv/.mov, .png/.jpg, a folder, rtsp://…, /dev/video9; several.",
    ),
]
Masks = Annotated[str | None, typer.Option(metavar="FOLDER", help="Class maps as PNG indices.")]
JsonLines = Annotated[
    str | None, typer.Option(metavar="FILE|-", help="Each frame's class shares, a line each.")
]
Stabilise = Annotated[bool, typer.Option("--stabilise", help="Steadier class maps: less flicker.")]
Flicker = Annotated[bool, typer.Option("--flicker", help="Measure flicker of a file too.")]
Opacity = Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the overlay.")]
Legend = Annotated[bool, typer.Option("--legend/--no-legend", help="Class names.")]
MaxFrames = Annotated[int | None, typer.Option(min=1, help="Stop after so many.")]
Overlap = Annotated[
    bool, typer.Option("--overlap/--no-overlap", help="Read and write while segmenting.")
]
View = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT", help="A live page, on this machine only.", rich_help_panel=_PAGE
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="What the page asks for; else made.",
        envvar="SEGDEPLOY_TOKEN",
        rich_help_panel=_PAGE,
    ),
]
Recordings = Annotated[
    Path,
    typer.Option(metavar="FOLDER", help="Where its record button writes.", rich_help_panel=_PAGE),
]
RECORDINGS = Path("recordings")

_OF_CAPTURE = (
    *("live", "loop", "reconnect", "stall"),
    *("input_size", "input_fps", "input_format", "input_option"),
)


def job_from(source: list[str], output: list[str] | None, **options: Any) -> RunJob:
    """The job, of options by their names; InputError or SpecError where one cannot be."""
    from segformer_deploy.workflow.run import RunJob

    capture = capture_options(**{name: options.pop(name) for name in _OF_CAPTURE})
    return RunJob(sources=tuple(source), outputs=tuple(output or ()), capture=capture, **options)
