"""segdeploy bench: latency and memory of an engine on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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
    emit,
    engine_or_newest,
    introduce,
    parse_size,
    progress,
    rebuilt_if_asked,
    say,
    table,
)


def command(
    engine: EngineArgument = None,
    size: Size = None,
    frame: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size of the frame; the network's size if not given."),
    ] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Runs after the warm-up.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Measure for this long.")] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first sample.")] = 3,
    threads: Threads = None,
    backend: Backend = "auto",
    provider: Provider = "cpu",
    device: Device = "auto",
    arena: Arena = True,
    timed: Annotated[
        bool, typer.Option("--timed", help="On a GPU: time each stage there, without CUDA graphs.")
    ] = False,
    rebuild: Rebuild = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Measure latency per stage and peak memory, from a frame in memory to its class map.

    Example:  segdeploy bench build/segformer-b0-fp32 --size 512x512 --runs 100
    """
    from segformer_deploy.bench.latency import measure_latency
    from segformer_deploy.bench.memory import machine_facts, peak_rss_mib
    from segformer_deploy.runtime.golden import golden_frame
    from segformer_deploy.runtime.native import describe
    from segformer_deploy.runtime.segmenter import Segmenter
    from segformer_deploy.spec import FrameSize

    path = rebuilt_if_asked(engine_or_newest(engine), rebuild)
    with Segmenter(
        path,
        size=parse_size(size),
        threads=threads,
        backend=backend,
        provider=provider,
        device=device,
        timed=timed,
        arena=arena,
        trust=trust,
    ) as segment:
        introduce(segment)
        own = parse_size(size) or segment.spec.resize.size or FrameSize(360, 480)
        frame_size = parse_size(frame) or own
        network = segment.network_size(frame_size)
        with progress("measuring", runs) as advance:
            latency = measure_latency(
                segment,
                golden_frame(frame_size, seed=0),
                warmup=warmup,
                runs=runs,
                seconds=seconds,
                on_run=lambda done, _: advance(done),
            )
        result: dict[str, Any] = {
            "engine": str(path),
            "backend": segment.engine_name,
            "device": segment.device,
            "precision": segment.spec.precision,
            "weights": segment.spec.to_dict()["weights"],
            "size": str(network),
            "frame": str(frame_size),
            "threads": segment.threads,
            "kernels": describe(),
            **latency.to_dict(),
            "peak_rss_mib": peak_rss_mib(),
            "machine": machine_facts().to_dict(),
        }
    stages = result["stages_ms"]
    table(
        f"{path}  network {network}, frame {frame_size}, {segment.threads} threads",
        ["milliseconds", "p50", "p90", "p99"],
        [
            ["frame to class map"]
            + [f"{result['latency_ms'][p]:.2f}" for p in ("p50", "p90", "p99")],
            *(
                [f"  {name}", f"{value:.2f}", f"{result['stages_p90_ms'][name]:.2f}", ""]
                for name, value in stages.items()
            ),
        ],
    )
    say(
        f"{latency.fps:.1f} frames/s, peak memory of the process "
        f"{result['peak_rss_mib']:.0f} MiB, {latency.runs} runs on {segment.engine_name}"
    )
    for text in (*latency.warnings, *latency.notes):
        say(f"note: {text}")
    if json:
        emit(result)
