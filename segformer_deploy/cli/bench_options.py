"""What `bench` and `fit` share: options that are lists, and how results are shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.common import progress, say, table
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.bench.case import Case
    from segformer_deploy.bench.matrix import OnCase

DEFAULT_MATRIX = Path("results") / "matrix"
_ADE20K_CLASSES = 150
_PERCENTILES = ("p50", "p90", "p99")
_STAGE_KEYS = ("stages_ms", "stages_p90_ms", "stages_p99_ms")


def _threads(text: str | None) -> str | None:
    for word in words_of(text):
        # Other scripts have digits that int() does not take, and too many of them are no number.
        if not re.fullmatch("[0-9]{1,6}", word) or int(word) < 1:
            raise typer.BadParameter(f"'{word}' is no number of threads (1 or more)")
    return text


Engines = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="ENGINE...",
        help="Engine folders or .onnx files; the newest under build/ if left out.",
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Measure on its frames, capture to drawn picture: a video, a folder, camera:0, "
        "test: …, as segdeploy run takes them.",
    ),
]
Draw = Annotated[
    bool, typer.Option("--draw/--no-draw", help="Of a source's frames: draw the overlay too.")
]
Variants = Annotated[
    str | None,
    typer.Option(metavar="b0,b1", help="Export these with random weights and measure them."),
]
Sizes = Annotated[str | None, typer.Option(metavar="HxW,HxW", help="Network sizes to measure.")]
Precisions = Annotated[
    str | None, typer.Option(metavar="fp32,int8", help="Precisions of the exported variants.")
]
Backends = Annotated[
    str | None, typer.Option(metavar="native,onnxruntime", help="What runs the networks.")
]
ThreadList = Annotated[
    str | None,
    typer.Option(
        "--threads",
        metavar="N[,N]",
        callback=_threads,
        help="Threads; all cores of this process if not given. Several make a matrix.",
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(min=1, help="Classes of the exported variants; 150 as ADE20K if not given."),
]


def words_of(text: str | None) -> list[str]:
    """``a,b`` as its words, in order, without repeats."""
    words = [] if text is None else [word.strip() for word in text.split(",")]
    return list(dict.fromkeys(word for word in words if word))


def threads_of(text: str | None) -> list[int | None]:
    """``1,2`` as numbers; [None] where nothing was given."""
    return [*dict.fromkeys(int(word) for word in words_of(text))] or [None]


def sizes_of(text: str | None) -> list[str]:
    """``256x256,512x512``, each checked; SpecError."""
    from segformer_deploy.spec import FrameSize

    return list(dict.fromkeys(str(FrameSize.parse(word)) for word in words_of(text)))


def backends_of(text: str | None, default: str = "auto") -> list[str]:
    """Names of backends, each checked; BackendError."""
    from segformer_deploy.engine.backend import EngineOptions

    found = words_of(text) or [default]
    for name in found:
        EngineOptions(name)
    return found


def check_same_kind(engines: list[Path], variants: str | None, precisions: str | None) -> None:
    """InputError where engines were given and are to be exported too."""
    if engines and (variants or precisions):
        raise InputError(
            "engines that are there, and --variants or --precisions to be exported",
            "one or the other: engines are measured in the precision they have",
        )


def check_used(classes: int | None, exports: bool) -> int:
    """The number of classes to export; InputError where it was given and nothing is exported."""
    if classes is not None and not exports:
        raise InputError(
            f"--classes {classes} of engines that are there",
            "their own classes: --classes is of variants to be exported",
            "leave it out, or name --variants instead of engines",
        )
    return _ADE20K_CLASSES if classes is None else classes


def show_case(result: dict[str, Any]) -> None:
    """The tables and lines of one case; of a failed one, its error."""
    if result["error"] is None:
        _show_latency(result)
    if result["limit"] is not None:
        say(limit_words(result["limit"]))
    if result["error"] is not None:
        say(f"error: {result['error']['found']}")
        if result["error"]["next"]:
            say(f"  next: {result['error']['next']}")


def _show_latency(result: dict[str, Any]) -> None:
    video = result["video"]
    table(
        f"{result['engine']}  network {result['size']}, frame {result['frame']}, "
        f"{result['threads']} threads",
        ["milliseconds", *_PERCENTILES],
        _rows_of_call(result) if video is None else rows_of_video(video),
    )
    rate = result["fps"] if video is None else video["fps"]
    say(
        f"{rate:.1f} frames/s, peak memory of the process "
        f"{result['peak_rss_mib']:.0f} MiB, {result['runs']} runs on {result['backend']}"
    )
    for text in (*energy_words(result["energy"]), *clock_words(result["clocks"])):
        say(text)
    for text in (*result["warnings"], *result["notes"]):
        say(f"note: {text}")


def _rows_of_call(result: dict[str, Any]) -> list[list[str]]:
    stages = [
        {p: result[key][name] for p, key in zip(_PERCENTILES, _STAGE_KEYS, strict=True)}
        for name in result["stages_ms"]
    ]
    names = [f"  {name}" for name in result["stages_ms"]]
    return [
        _row("frame to class map", result["latency_ms"]),
        *(_row(name, stage) for name, stage in zip(names, stages, strict=True)),
    ]


def rows_of_video(video: dict[str, Any]) -> list[list[str]]:
    """The stages of a source's frames, in the order in which they run, under their whole."""
    end = "drawn frame" if video["draw"] else "class map"
    return [
        _row(f"capture to {end}", video["latency_ms"]),
        *(_row(f"  {name}", stage) for name, stage in video["stages_ms"].items()),
    ]


def _row(name: str, found: dict[str, float]) -> list[str]:
    return [name, *(f"{found[p]:.2f}" for p in _PERCENTILES)]


def energy_words(energy: dict[str, Any]) -> list[str]:
    """What a frame took; where a counter is there and closed to this user, that."""
    if energy["joules_per_frame"] is not None:
        covers = " and ".join(one["covers"] for one in energy["readings"])
        return [
            f"energy {energy['joules_per_frame']:.3g} J per frame, {energy['watts']:.3g} W: "
            f"{covers}, idle share included"
        ]
    closed = [why for why in energy["unknown"].values() if "root" in why or "denied" in why]
    return [f"note: no energy: {why}" for why in closed]


def clock_words(clocks: dict[str, Any]) -> list[str]:
    """Power mode and governor where they are told, and each sign of throttling."""
    told = [f"power mode {clocks['power_mode']}"] if clocks["power_mode"] else []
    told += [f"governor {', '.join(clocks['governors'])}"] if clocks["governors"] else []
    signs = [f"note: throttling: {text}" for text in clocks["throttling"]]
    return ([", ".join(told)] if told else []) + signs


def limit_words(limit: dict[str, Any]) -> str:
    """One line on how the process fared."""
    peak = "" if limit["peak_mib"] is None else f", peak {limit['peak_mib']:.0f} MiB"
    if not limit["enforced"]:
        return (
            f"memory limit {limit['mib']:g} MiB: not enforced ({limit['why']}); "
            f"{limit['outcome']} the limit{peak} (VmHWM)"
        )
    while_ = "" if limit["survived"] else f" while {limit['phase']}"
    return (
        f"memory limit {limit['mib']:g} MiB ({limit['how']}, swap off): "
        f"{limit['outcome']}{while_}{peak}"
    )


def case_row(case: Case, result: dict[str, Any]) -> list[str]:
    """For the table of a matrix."""
    if result["error"] is not None:
        return [case.name, result["error"]["kind"], "", "", ""]
    latency, energy = result["latency_ms"], (result["energy"] or {}).get("joules_per_frame")
    return [
        case.name,
        f"{latency['p50']:.1f}",
        f"{latency['p99']:.1f}",
        f"{result['peak_rss_mib']:.0f}",
        "-" if energy is None else f"{energy:.3g}",
    ]


ROW_TITLES = ["case", "p50 ms", "p99 ms", "peak MiB", "J/frame"]


def say_again(case: Case, why: str) -> None:
    """That a result was there, and why it does not count."""
    say(f"{case.name}: measured again: the result that is there is {why}")


@contextmanager
def case_progress(title: str, total: int) -> Iterator[tuple[OnCase, Callable[[int], None]]]:
    """A bar over cases: (`on_case` for `run_matrix`, `done` for what is passed over)."""
    done = [0]
    with progress(title, total) as advance:

        def count(more: int) -> None:
            done[0] += more
            advance(done[0])

        def on_case(case: Case, result: dict[str, Any], kept: bool) -> None:
            count(1)
            if result["error"] is not None:
                say(f"{case.name}: {result['error']['found']}")
            elif not kept:
                row = case_row(case, result)
                say(f"{row[0]}: {row[1]} ms, {row[3]} MiB")

        yield on_case, count
