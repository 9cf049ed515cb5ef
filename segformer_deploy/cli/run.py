"""segdeploy run: segment videos, pictures, cameras and streams."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

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
from segformer_deploy.cli.common import (
    Arena,
    Backend,
    Device,
    EngineArgument,
    Json,
    Provider,
    Rebuild,
    Size,
    Threads,
    Trust,
    engine_or_newest,
    introduce,
    parse_size,
    rebuilt_if_asked,
)
from segformer_deploy.cli.remote_options import (
    Encode,
    Model,
    ModelVersion,
    Quality,
    Remote,
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
from segformer_deploy.cli.running import Opened, run_and_tell
from segformer_deploy.cli.tile_options import (
    TileMerge,
    TileOrNone,
    TileOverlap,
    say_tiling,
    tiling_from,
)
from segformer_deploy.errors import InputError


def command(
    source: Source,
    engine: EngineArgument = None,
    output: Output = None,
    masks: Masks = None,
    json_lines: JsonLines = None,
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
    size: Size = None,
    tile: TileOrNone = None,
    tile_overlap: TileOverlap = None,
    tile_merge: TileMerge = None,
    threads: Threads = None,
    backend: Backend = "auto",
    provider: Provider = "cpu",
    device: Device = "auto",
    arena: Arena = True,
    rebuild: Rebuild = False,
    trust: Trust = False,
    remote: Remote = None,
    model: Model = None,
    model_version: ModelVersion = None,
    encode: Encode = None,
    quality: Quality = None,
    timeout: Timeout = None,
    shared_memory: SharedMemory = None,
    json: Json = False,
) -> None:
    """Segment every frame of a source, or the newest of a live one; write, show or send it.

    Ctrl-C or SIGTERM ends the run and leaves playable files of the frames so far.

    Example:  segdeploy run --source rtsp://camera/stream --output overlay.mp4 --view 8080
    """
    server = ServerOptions(model, model_version, encode, quality, timeout, shared_memory)
    _check(
        remote,
        server,
        ENGINE=engine,
        size=size,
        tile=tile,
        tile_overlap=tile_overlap,
        tile_merge=tile_merge,
        threads=threads,
        backend=None if backend == "auto" else backend,
        provider=None if provider == "cpu" else provider,
        device=None if device == "auto" else device,
        no_arena=None if arena else True,
        rebuild=rebuild or None,
        trust=trust or None,
    )
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
    tiling = tiling_from(tile, tile_overlap, tile_merge)

    def engine_here(stack: ExitStack) -> Opened:
        path = rebuilt_if_asked(engine_or_newest(engine), rebuild)
        from segformer_deploy.runtime.segmenter import Segmenter

        segment = stack.enter_context(
            Segmenter(
                path,
                size=parse_size(size),
                threads=threads,
                backend=backend,
                provider=provider,
                device=device,
                arena=arena,
                trust=trust,
                tiling=tiling,
            )
        )
        introduce(segment)
        say_tiling(segment.tiling)
        return lambda: {"engine": str(path)}, segment

    if remote is None:
        run_and_tell(job, engine_here, json)
    else:
        url = remote
        run_and_tell(job, lambda stack: server.open(url, stack), json)


def _check(remote: str | None, server: ServerOptions, **of_engine: Any) -> None:
    """InputError where options speak of an engine here and of a server at once."""
    if remote is None:
        server.refuse_without_server()
        return
    given = [name for name, value in of_engine.items() if value is not None]
    if given:
        name = given[0] if given[0].isupper() else f"--{given[0].replace('_', '-')}"
        raise InputError(
            f"{name} beside --remote: the server has an engine of its own",
            "one of them",
            "segdeploy package ENGINE --triton DIR puts an engine on the server",
        )
