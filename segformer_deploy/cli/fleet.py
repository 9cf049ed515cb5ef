"""segdeploy fit --cameras: from the question to its answer, and the words for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from segformer_deploy.cli.common import (
    emit,
    engine_or_newest,
    introduce,
    parse_size,
    progress,
    say,
    table,
)
from segformer_deploy.cli.fleet_options import FleetWords, milliseconds_or_none, question_of
from segformer_deploy.errors import InputError, OutputError
from segformer_deploy.files import writing

if TYPE_CHECKING:
    from segformer_deploy.bench.fleet import Answer, Standing
    from segformer_deploy.bench.fleet_report import FleetReport
    from segformer_deploy.bench.fleet_times import Times

_CLASSES, _RUNS = 150, 100


def answer_fleet(
    words: FleetWords,
    engines: list[Path],
    latency_ms: float | None,
    percentile: str,
    frame: str | None,
    runs: int | None,
    classes: int | None,
    output: Path,
    json: bool,
) -> None:
    """Answer how many devices; exit code 1 where no number is enough, or none is known.

    Also where the chart cannot be written; the answer is printed all the same.
    """
    from segformer_deploy.bench.fleet import check_batch
    from segformer_deploy.bench.fleet_report import plan_fleet

    fleet, allowed = question_of(words, latency_ms, percentile)
    _check_folder(output)
    times = _times(words, engines, frame, runs, classes)
    check_batch(fleet, times)
    overhead = milliseconds_or_none(words.overhead)
    if overhead is not None:
        times = times.with_overhead(overhead)
        fleet = fleet.with_overhead(overhead)
    with progress("simulating", None) as advance:
        report = plan_fleet(fleet, allowed, times, advance)
    _show(report)
    failure = None
    try:
        report = _with_chart(report, output)
    except OutputError as error:
        failure = error
        say(f"error: {error}")
    if json:
        emit(report.to_dict())
    if failure is not None or report.likely.devices is None:
        raise typer.Exit(1)


def _check_folder(folder: Path) -> None:
    """OutputError where `folder` is no folder and cannot be made: known before the work begins."""
    with writing(folder):
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _with_chart(report: FleetReport, folder: Path) -> FleetReport:
    """The same with its chart, where there is something to draw and matplotlib; or OutputError."""
    from segformer_deploy.bench.fleet_report import CHART, drawing

    if not report.likely.tried or not drawing(report, folder / CHART):
        return report
    say(f"the chart: {folder / CHART}")
    return replace(report, chart=folder / CHART)


def _times(
    words: FleetWords,
    engines: list[Path],
    frame: str | None,
    runs: int | None,
    classes: int | None,
) -> Times:
    """From the device's estimate, a result, or a measurement made now."""
    from segformer_deploy.bench.fleet_times import times_from_file, times_from_result

    if words.device is not None:
        unused = {"ENGINE": engines, "--measured": words.measured, "--frame": frame, "--runs": runs}
        _refuse_with("--device", unused)
        return _estimated(words, words.device, classes)
    _refuse_with(
        "an engine of this machine" if words.measured is None else "--measured",
        {"--variant": words.variant, "--precision": words.precision, "--classes": classes},
    )
    if words.measured is not None:
        unused = {"ENGINE": engines, "--size": words.size, "--frame": frame, "--runs": runs}
        _refuse_with("--measured", unused)
        return times_from_file(words.measured)
    return times_from_result(_measured_here(words, engines, frame, runs), "measured here")


def _refuse_with(what: str, unused: Mapping[str, object]) -> None:
    for option, value in unused.items():
        if value:
            raise InputError(f"{option} with {what}", "one of the two", "leave one of them out")


def _estimated(words: FleetWords, name: str, classes: int | None) -> Times:
    from segformer_deploy.bench.devices import device_named
    from segformer_deploy.bench.estimate import estimate
    from segformer_deploy.bench.fleet_times import times_from_estimate
    from segformer_deploy.spec import FrameSize, Precision

    precision: Any = words.precision
    if precision is not None and precision not in get_args(Precision):
        raise InputError(f"--precision {precision}", "one of " + ", ".join(get_args(Precision)))
    size = parse_size(words.size) or FrameSize(512, 512)
    device = device_named(name)
    return times_from_estimate(
        estimate(device, words.variant or "b0", size, classes or _CLASSES, precision)
    )


def _measured_here(
    words: FleetWords, engines: list[Path], frame: str | None, runs: int | None
) -> dict[str, Any]:
    from segformer_deploy.bench.case import Case
    from segformer_deploy.bench.measure import measure_case

    if len(engines) > 1:
        raise InputError(f"{len(engines)} engines with --cameras", "one engine")
    engine = engine_or_newest(engines[0] if engines else None)
    case = Case(str(engine), size=words.size, frame=frame, runs=runs or _RUNS)
    with progress("measuring", case.runs) as advance:
        return measure_case(case, on_open=introduce, on_run=advance)


def _show(report: FleetReport) -> None:
    fleet, times = report.fleet, report.times
    kind = "measured" if times.measured else "estimated"
    say(
        f"ESTIMATED by simulation: {fleet.cameras} cameras of {fleet.fps:g} frames/s, "
        f"{kind} {times.mean:.3g} ms a frame ({times.source})"
    )
    rows = [
        [
            ("* " if point.devices == report.likely.devices else "  ") + str(point.devices),
            f"{point.busy:.1f}",
            f"{point.drops:.2f}",
            f"{point.worst_drops:.2f}",
            f"{point.age_ms['p50']:.1f}" if point.stable else "grows",
            f"{point.age_ms['p99']:.1f}" if point.stable else "grows",
            _standing(point),
        ]
        for point in report.likely.standings
    ]
    if rows:
        titles = ["devices", "busy %", "drops %", "worst %", "age p50", "p99 ms", ""]
        table(f"estimated, policy {fleet.policy}", titles, rows)
    for line in _answer(report):
        say(line)
    for note in report.notes:
        say(f"note: {note}")


def _standing(point: Standing) -> str:
    if point.stable and not point.settled:
        return "not settled"
    return "" if point.within else "over"


def _answer(report: FleetReport) -> list[str]:
    likely, low, high = report.likely, report.low, report.high
    if likely.devices is None:
        lines = [f"error: no number of devices is enough: {likely.why_none}"]
    else:
        lines = [f"estimated: {_count(likely)}"]
    if report.times.low_is == "error":
        lines.append(
            f"estimated, by the error of that: {_count(low)} at best, {_count(high)} at worst"
        )
    elif report.times.low_is == "roofline":
        lines[0] += "; the error of that estimate is UNKNOWN"
        lines.append(
            f"estimated, at least: {_count(low)}, were every peak reached "
            f"({report.times.low:.3g} ms a frame); how many at most is unknown"
        )
    return lines


def _count(answer: Answer | None) -> str:
    """An end of the answer, in words."""
    if answer is None or answer.devices is None:
        return "no number is enough"
    return "1 device" if answer.devices == 1 else f"{answer.devices} devices"
