"""segdeploy bench: latency, memory and energy of an engine on this machine, or of a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.bench_options import (
    DEFAULT_MATRIX,
    ROW_TITLES,
    Backends,
    Classes,
    Draw,
    Engines,
    Precisions,
    Sizes,
    SourceOption,
    ThreadList,
    Variants,
    backends_of,
    case_progress,
    case_row,
    check_same_kind,
    check_used,
    say_again,
    show_case,
    sizes_of,
    threads_of,
    words_of,
)
from segformer_deploy.cli.common import (
    Arena,
    Backend,
    Device,
    Json,
    Provider,
    Rebuild,
    Size,
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
from segformer_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from segformer_deploy.bench.case import Case
    from segformer_deploy.workflow.bench_engines import EngineSource

# Of a search: near its limit a process reads its files from disk again and again.
_SEARCH_RUNS, _SEARCH_SECONDS = 3, 120.0


def command(
    engines: Engines = None,
    size: Size = None,
    frame: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Size of the frame, or what a camera or test: is asked for."
        ),
    ] = None,
    source: SourceOption = None,
    draw: Draw = True,
    runs: Annotated[int | None, typer.Option(min=1, help="Runs after the warm-up.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Measure for this long.")] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first sample.")] = 3,
    threads: ThreadList = None,
    backend: Backend = "auto",
    provider: Provider = "cpu",
    device: Device = "auto",
    arena: Arena = True,
    timed: Annotated[
        bool, typer.Option("--timed", help="On a GPU: time each stage there, without CUDA graphs.")
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="128M", help="Run in a process of its own under this hard limit."),
    ] = None,
    smallest_limit: Annotated[
        bool, typer.Option("--smallest-limit", help="Find the smallest limit that survives.")
    ] = False,
    variants: Variants = None,
    sizes: Sizes = None,
    precisions: Precisions = None,
    backends: Backends = None,
    classes: Classes = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Of a matrix's results; results/matrix."
        ),
    ] = None,
    rebuild: Rebuild = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Measure latency per stage and peak memory, from a frame in memory to its class map.

    With --source on the frames of a real source, from their capture to the drawn picture.

    Several engines, sizes, precisions, backends or threads make a matrix: each case runs in a
    process of its own and leaves one JSON; what is there already is not measured again.

    Example:  segdeploy bench build/segformer-b0-fp32 --size 512x512 --runs 100

    Example:  segdeploy bench --source film.mp4 --runs 100

    Example:  segdeploy bench --memory-limit 128M

    Example:  segdeploy bench --variants b0,b1 --sizes 256x256,512x512 --precisions fp32,int8
    --output results/laptop
    """
    from segformer_deploy.bench.case import Case
    from segformer_deploy.bench.limit import bytes_from_text

    for text in (size, frame):
        parse_size(text)
    limit = None if memory_limit is None else bytes_from_text(memory_limit)
    like = Case(
        "",
        size=size,
        frame=frame,
        backend=backend,
        provider=provider,
        device=device,
        arena=arena,
        timed=timed,
        trust=trust,
        warmup=warmup,
        runs=runs,
        seconds=seconds,
        source=source,
        draw=draw,
    )
    given, counts = list(engines or ()), threads_of(threads)
    number = check_used(classes, bool(variants or precisions))
    grid = variants or sizes or precisions or backends or output
    if grid or len(given) > 1 or len(counts) > 1:
        if smallest_limit:
            raise InputError("--smallest-limit of a matrix", "one engine at one size")
        check_same_kind(given, variants, precisions)
        _refuse_ignored(rebuild, size, sizes, backend, backends)
        folder = output or DEFAULT_MATRIX
        sources = _sources(given, variants, precisions, number, folder)
        columns: list[str | None] = [*sizes_of(sizes)] or [size]
        _matrix(sources, columns, backends_of(backends, backend), counts, like, folder, limit, json)
        return
    path = rebuilt_if_asked(engine_or_newest(given[0] if given else None), rebuild)
    _one(_case_of(path, like, counts[0]), limit, smallest_limit, json)


def _refuse_ignored(
    rebuild: bool, size: str | None, sizes: str | None, backend: str, backends: str | None
) -> None:
    if rebuild:
        raise InputError(
            "--rebuild in a matrix",
            "engines that fit this machine",
            "build each again first: segdeploy bench ENGINE --rebuild",
        )
    if size and sizes:
        raise InputError("--size and --sizes", "one of the two")
    if backends and backend != "auto":
        raise InputError("--backend and --backends", "one of the two")


def _case_of(path: Path, like: Case, threads: int | None) -> Case:
    from dataclasses import replace

    return replace(like, engine=str(path), threads=threads)


def _one(case: Case, limit: int | None, smallest: bool, json: bool) -> None:
    from segformer_deploy.bench.measure import measure_case

    if smallest:
        result = _smallest(case)
    elif limit is not None:
        result = _limited(case, limit)
    else:
        with progress("measuring", case.runs) as advance:
            result = measure_case(case, on_open=introduce, on_run=advance)
    show_case(result)
    if json:
        emit(result)


def _limited(case: Case, limit: int) -> dict[str, Any]:
    from segformer_deploy.bench.runner import run_case

    with progress("measuring", case.runs) as advance:
        result = run_case(case, limit=limit, on_run=advance)
    _refuse_failure(result)
    return result


def _refuse_failure(result: dict[str, Any]) -> None:
    """A limit that killed is an answer; a case that failed by itself is our error."""
    error = result["error"]
    if error is not None and (result["limit"] or {}).get("survived") is not False:
        raise RunError(error["found"], error["expected"], error["next"])


def _smallest(case: Case) -> dict[str, Any]:
    """The result under the smallest limit that survives, with the search beside it."""
    from segformer_deploy.bench.smallest import search_smallest

    with progress("looking for the smallest limit", None) as advance:

        def tell(done: int, text: str) -> None:
            advance(done)
            say(text)

        result = search_smallest(case, _SEARCH_RUNS, _SEARCH_SECONDS, tell)
    _refuse_failure(result)
    search = result["smallest_limit"]
    if not search["enforced"]:
        say(
            f"smallest limit: not enforced ({search['why']}); the process's peak was "
            f"{result['peak_rss_mib']:.0f} MiB (VmHWM)"
        )
    elif search["mib"] is None:
        say("no limit survived that this machine's memory allows")
    else:
        say(f"smallest limit that survives: {search['mib']} MiB")
    for note in search["notes"]:
        say(f"note: {note}")
    return result


def _sources(
    given: list[Path], variants: str | None, precisions: str | None, classes: int, folder: Path
) -> list[EngineSource]:
    from segformer_deploy.workflow.bench_engines import exported_engines, given_engines

    if given or not (variants or precisions):
        return given_engines(given or [engine_or_newest(None)])
    names, kinds = words_of(variants) or ["b0"], words_of(precisions) or ["fp32"]
    return exported_engines(names, kinds, classes, folder / "engines", say, progress)


def _matrix(
    sources: list[EngineSource],
    sizes: list[str | None],
    backends: list[str],
    threads: list[int | None],
    like: Case,
    folder: Path,
    limit: int | None,
    json: bool,
) -> None:
    from segformer_deploy.bench.matrix import matrix_cases, run_matrix
    from segformer_deploy.bench.runner import run_case

    engines = [source.engine for source in sources]
    cases = matrix_cases(engines, sizes, backends, threads, like)
    with case_progress("cases", len(cases)) as (on_case, _):
        report = run_matrix(
            cases,
            folder,
            lambda case: run_case(case, limit=limit),
            limit=limit,
            on_case=on_case,
            on_again=say_again,
        )
    if any(source.random for source in sources):
        say("WARNING: the weights are random: speed and memory are real, masks mean nothing")
    rows = [case_row(*pair) for pair in zip(cases, report.results, strict=True)]
    table(f"{len(cases)} cases on this machine", ROW_TITLES, rows)
    say(
        f"{report.measured} measured, {report.kept} were there already, {report.failed} failed: "
        f"{folder}"
    )
    if json:
        emit(report.to_dict())
    if report.fruitless is not None:
        say(f"error: no case gave figures; the first: {report.fruitless}")
        raise typer.Exit(1)
