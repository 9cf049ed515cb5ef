"""segdeploy package: an engine folder as a model of a Triton server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segformer_deploy.cli.common import (
    EngineArgument,
    Json,
    emit,
    engine_or_newest,
    say,
    warn_if_random,
)


def command(
    triton: Annotated[
        Path, typer.Option(metavar="DIR", help="The model repository to write into.")
    ],
    engine: EngineArgument = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model; the engine folder's if not given.")
    ] = None,
    version: Annotated[int, typer.Option(min=1, help="A number above those already there.")] = 1,
    instances: Annotated[
        int | None,
        typer.Option(
            min=1, help="Copies of the front model; 1, or 4 with --network, if not given."
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Most frames in one call.")] = 8,
    delay_ms: Annotated[
        float, typer.Option(min=0.0, help="How long a frame may wait for others to come.")
    ] = 1.0,
    network: Annotated[
        bool,
        typer.Option(
            "--network", help="The network as a model of its own, for Triton's own backends."
        ),
    ] = False,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--cpu", help="Where it runs; as it was built for.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a model repository for NVIDIA's Triton inference server.

    Example:  segdeploy package build/segformer-b0-int8 --triton models
    """
    from segformer_deploy.engine.package import check_folder
    from segformer_deploy.serve.model_config import Serving
    from segformer_deploy.serve.repository import Request, package_for_triton

    folder = engine_or_newest(engine)
    serving = Serving(
        instances=instances or (4 if network else 1), max_batch=max_batch, delay_ms=delay_ms
    )
    done = package_for_triton(Request(folder, triton, name, version, network, gpu, serving))
    warn_if_random(check_folder(folder).spec)
    if done.serving.max_batch < max_batch:
        say(f"note: batches of at most {done.serving.max_batch}: the engine was built for that")
    say(f"wrote {done.folder}, version {done.version}, for a {done.device.upper()}")
    if done.network:
        say(f"wrote {done.folder.with_name(done.network)}: the network, which it asks")
    say(f"next: {done.folder / 'README.md'} says how to start a server with it")
    if json:
        emit(done.to_dict())
