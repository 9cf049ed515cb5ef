"""The options of a source, and what they mean together."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from segformer_deploy.cli.common import parse_size
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.video.live.grabber import CaptureOptions

PANEL = "Source"

Live = Annotated[
    bool | None,
    typer.Option(
        "--live/--no-live",
        help="Newest frame, dropping others, or every frame; cameras and streams are live.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
Loop = Annotated[
    bool, typer.Option("--loop", help="A file again and again.", rich_help_panel=PANEL)
]
Reconnect = Annotated[
    bool,
    typer.Option(
        "--reconnect/--no-reconnect",
        help="Open a live source again when it is lost.",
        rich_help_panel=PANEL,
    ),
]
Stall = Annotated[
    float,
    typer.Option(
        min=0.1, help="Seconds without a frame until it counts as lost.", rich_help_panel=PANEL
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Of camera, test: or raw frames.", rich_help_panel=PANEL),
]
InputFps = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="Frames per second: 30, 30000/1001.", rich_help_panel=PANEL),
]
InputFormat = Annotated[
    str, typer.Option(help="Pixels of raw frames on stdin.", rich_help_panel=PANEL)
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="For FFmpeg: rtsp_transport=udp.", rich_help_panel=PANEL
    ),
]


def capture_options(
    *,
    live: bool | None,
    loop: bool,
    reconnect: bool,
    stall: float,
    input_size: str | None,
    input_fps: str | None,
    input_format: str,
    input_option: list[str] | None,
) -> CaptureOptions:
    """The options, checked; InputError or SpecError otherwise."""
    from segformer_deploy.video.live.grabber import PIXEL_FORMATS, CaptureOptions

    if input_format not in PIXEL_FORMATS:
        raise InputError(f"--input-format {input_format}", f"one of {', '.join(PIXEL_FORMATS)}")
    return CaptureOptions(
        size=parse_size(input_size),
        fps=_rate(input_fps),
        pixel_format=input_format,
        live=live,
        loop=loop,
        reconnect=reconnect,
        stall_s=stall,
        ffmpeg=dict(map(_pair, input_option or [])),
    )


def _rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(-1)
    if not 0 <= rate <= 1000:
        raise InputError(f"--input-fps {text}", "frames per second, 0 to 1000: 30, 29.97")
    return rate


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--input-option {text}", "name=value", "rtsp_transport=udp")
    return name, value
