"""segdeploy client: as run, with an engine on a Triton server."""

from __future__ import annotations

from typing import Annotated

import typer

from segformer_deploy.cli.capture_options import (
    InputFormat,
    InputFps,
    InputOption,
    InputSize,
    Live,
    Loop,
    Reconnect,
    Stall,
)
from segformer_deploy.cli.common import Json
from segformer_deploy.cli.remote_options import (
    Encode,
    Model,
    ModelVersion,
    Quality,
    ServerOptions,
    SharedMemory,
    Timeout,
)
from segformer_deploy.cli.run_options import (
    RECORDINGS,
    Flicker,
    JsonLines,
    Legend,
    Masks,
    MaxFrames,
    Opacity,
    Output,
    Overlap,
    Recordings,
    Source,
    Stabilise,
    Token,
    View,
    job_from,
)
from segformer_deploy.cli.running import run_and_tell


def command(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="http://HOST[:8000] or grpc://HOST[:8001]; a Triton."),
    ],
    source: Source,
    output: Output = None,
    masks: Masks = None,
    json_lines: JsonLines = None,
    model: Model = None,
    model_version: ModelVersion = None,
    encode: Encode = None,
    quality: Quality = None,
    timeout: Timeout = None,
    shared_memory: SharedMemory = None,
    stabilise: Stabilise = False,
    flicker: Flicker = False,
    opacity: Opacity = 0.5,
    legend: Legend = True,
    max_frames: MaxFrames = None,
    overlap: Overlap = True,
    live: Live = None,
    loop: Loop = False,
    reconnect: Reconnect = True,
    stall: Stall = 5.0,
    input_size: InputSize = None,
    input_fps: InputFps = None,
    input_format: InputFormat = "bgr24",
    input_option: InputOption = None,
    view: View = None,
    token: Token = None,
    recordings: Recordings = RECORDINGS,
    json: Json = False,
) -> None:
    """Have a Triton server segment a source; no engine and no engine library is needed here.

    The same as `segdeploy run --remote URL`: same sources, outputs, page and signals.

    Example:  segdeploy client http://gpu-box:8000 --source camera:0 --view 8080
    """
    server = ServerOptions(model, model_version, encode, quality, timeout, shared_memory)
    job = job_from(
        source,
        output,
        masks=masks,
        json_lines=json_lines,
        live=live,
        loop=loop,
        reconnect=reconnect,
        stall=stall,
        input_size=input_size,
        input_fps=input_fps,
        input_format=input_format,
        input_option=input_option,
        view=view,
        token=token,
        recordings=recordings,
        stabilise=stabilise,
        flicker=flicker,
        opacity=opacity,
        legend=legend,
        max_frames=max_frames,
        overlap=overlap,
    )
    run_and_tell(job, lambda stack: server.open(url, stack), json)
