"""segdeploy package: an engine folder as a model of a Triton server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segformer_deploy.cli.common import (
    EngineArgument,
    Json,
    emit,
    engine_or_newest,
    say,
    warn_if_random,
)
from segformer_deploy.errors import InputError


def command(
    triton: Annotated[
        Path, typer.Option(metavar="DIR", help="The model repository to write into.")
    ],
    engine: EngineArgument = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model; the engine folder's if not given.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="A number above those already there; 1.")
    ] = None,
    use: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Write nothing new: have version N of --name served again."
        ),
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(
            min=1, help="Copies of the front model; 1, or 4 with --network, if not given."
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Most frames in one call; 8.")
    ] = None,
    delay_ms: Annotated[
        float | None,
        typer.Option(min=0.0, help="How long a frame may wait for others to come; 1."),
    ] = None,
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

    if use is not None:
        _use(
            triton,
            name,
            use,
            json,
            ENGINE=engine,
            version=version,
            instances=instances,
            max_batch=max_batch,
            delay_ms=delay_ms,
            network=network or None,
            gpu=gpu,
        )
        return
    folder = engine_or_newest(engine)
    serving = Serving(
        instances=instances or (4 if network else 1),
        max_batch=max_batch or 8,
        delay_ms=1.0 if delay_ms is None else delay_ms,
    )
    done = package_for_triton(Request(folder, triton, name, version or 1, network, gpu, serving))
    warn_if_random(check_folder(folder).spec)
    if done.serving.max_batch < serving.max_batch:
        say(f"note: batches of at most {done.serving.max_batch}: the engine was built for that")
    say(f"wrote {done.folder}, version {done.version}, for a {done.device.upper()}")
    if done.network:
        say(f"wrote {done.folder.with_name(done.network)}: the network, which it asks")
    say(f"next: {done.folder / 'README.md'} says how to start a server with it")
    if json:
        emit(done.to_dict())


def _use(root: Path, name: str | None, number: int, json: bool, **of_new: Any) -> None:
    """Have an earlier version served again; InputError where a new one is spoken of too."""
    from segformer_deploy.serve.use import use_version

    given = [option for option, value in of_new.items() if value is not None]
    if given:
        option = given[0] if given[0].isupper() else f"--{given[0].replace('_', '-')}"
        option = "--gpu or --cpu" if option == "--gpu" else option
        raise InputError(
            f"{option} beside --use, which writes no new version",
            "one of them",
            "a version runs as it was packaged: package the engine again to change that",
        )
    if name is None:
        raise InputError("--use without a model", "its name", f"--name NAME, a folder in {root}")
    done = use_version(root, name, number)
    say(f"{done.folder}: a server takes version {done.version} from now on")
    if done.network:
        say(f"{done.folder.with_name(done.network)}: and version {done.version} of the network")
    say("next: start the server again, where it does not look for changes itself")
    if json:
        emit(done.to_dict())
