"""One object of `segdeploy bench`, `eval` or `estimate` -> `Case` or `Accuracy`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from segformer_deploy.bench.latency import percentile
from segformer_deploy.bench.report.fields import (
    MIB,
    first,
    items,
    mapping,
    number,
    positive,
    size_text,
    text,
    texts,
    whole,
)
from segformer_deploy.bench.report.left_out import values_left_out
from segformer_deploy.bench.report.machine import machine_from_dict
from segformer_deploy.bench.report.model import Accuracy, Case, Limit, Machine

_P50_TOLERANCE = 0.01
"""A stated median further than this from that of the samples is told to the reader."""


def case_from_bench(data: Mapping[str, Any], source: str) -> Case:
    """A `segdeploy bench --json` object, with or without the matrix's `case`, `limit`, `error`."""
    asked = mapping(data.get("case"))
    engine = text(data.get("engine"))
    case = Case(
        source=source,
        run=_run(data, source),
        machine=machine_from_dict(data.get("machine"), data.get("clocks")),
        engine=engine,
        variant=text(first(asked, "variant")) or text(data.get("variant")) or _variant(engine),
        size=size_text(data.get("size")) or size_text(asked.get("size")),
        frame=size_text(data.get("frame")),
        precision=(text(data.get("precision")) or text(asked.get("precision"))).lower(),
        backend=text(data.get("backend")) or text(asked.get("backend")),
        threads=whole(first(data, "threads")) or whole(asked.get("threads")),
        device=text(data.get("device")),
        limit=_limit(mapping(data.get("limit"))),
        weights=weights_from(data.get("weights")),
        classes=whole(data.get("classes")) or None,
        video=text(first(mapping(data.get("video")), "source")) or text(asked.get("source")),
        drawn=asked.get("draw") is not False,
        notes=texts(data.get("notes")),
        warnings=(*texts(data.get("warnings")), *values_left_out(data)),
        error=error_text(data.get("error")),
        asked=asked,
    )
    return case if case.error else _with_figures(case, data)


def _stages(data: Mapping[str, Any]) -> dict[str, float]:
    """Medians; of a source's frames from capture to drawn picture."""
    video = mapping(mapping(data.get("video")).get("stages_ms"))
    medians = {name: mapping(found).get("p50") for name, found in video.items()}
    return {
        str(name): value
        for name, found in (medians or mapping(data.get("stages_ms"))).items()
        if (value := positive(found)) is not None
    }


def _with_figures(case: Case, data: Mapping[str, Any]) -> Case:
    stated = mapping(data.get("latency_ms"))
    samples = [ms for ms in map(positive, items(data.get("samples_ms"))) if ms is not None]
    case = replace(
        case,
        samples=len(samples),
        warmup=whole(data.get("warmup")),
        first_ms=positive(data.get("first_ms")),
        stages=_stages(data),
        peak_mib=positive(data.get("peak_rss_mib")),
        joules=positive(mapping(data.get("energy")).get("joules_per_frame")),
        accuracy=_own_accuracy(case, data),
    )
    p50 = positive(stated.get("p50"))
    if not samples:
        note = "no raw samples in the file: its own percentiles are shown, and no p10"
        p90, p99 = positive(stated.get("p90")), positive(stated.get("p99"))
        return replace(case, p50=p50, p90=p90, p99=p99, notes=(*case.notes, note))
    p10, middle, p90, p99 = (percentile(samples, q) for q in (10, 50, 90, 99))
    warnings = case.warnings
    if p50 is not None and abs(p50 - middle) > _P50_TOLERANCE * middle:
        warnings = (
            *warnings,
            f"the file states a p50 of {p50:.2f} ms; its samples give {middle:.2f} ms, shown here",
        )
    return replace(case, p10=p10, p50=middle, p90=p90, p99=p99, warnings=warnings)


def case_from_estimate(data: Mapping[str, Any], source: str) -> Case:
    """A `segdeploy estimate --json` object: drawn hollow, never mixed with measured ones.

    Its `error` is how far such estimates were off, not a failure.
    """
    low, middle, high = _range(data.get("latency_ms"))
    device = data.get("device")
    name = text(device) or text(mapping(device).get("name")) or "unnamed device"
    total = positive(mapping(data.get("memory")).get("total_bytes"))
    return Case(
        source=source,
        run=_run(data, source),
        machine=Machine(name, ("estimated for", name), (("device", name),)),
        engine="",
        variant=text(data.get("variant")),
        size=size_text(data.get("size")),
        frame="",
        precision=text(data.get("precision")).lower(),
        backend=text(data.get("engine")),
        threads=None,
        p10=low,
        p50=middle,
        p90=high,
        peak_mib=None if total is None else total / MIB,
        weights=weights_from(data.get("weights")),
        classes=whole(data.get("classes")) or None,
        estimated=True,
        basis=_error_of_estimate(mapping(data.get("error"))),
        notes=texts(data.get("notes")),
        warnings=(*texts(data.get("warnings")), *values_left_out(data)),
    )


def accuracy_from_eval(data: Mapping[str, Any], source: str) -> Accuracy:
    """A `segdeploy eval --json` object; its scores are percent."""
    return Accuracy(
        source=source,
        engine=text(data.get("engine")),
        precision=text(data.get("precision")).lower(),
        miou=number(data.get("miou")) or 0.0,
        pixel_accuracy=number(data.get("pixel_accuracy")),
        mean_boundary_f=number(data.get("mean_boundary_f")),
        images=whole(data.get("images")) or 0,
        per_class=tuple(
            (str(name), number(value)) for name, value in mapping(data.get("per_class_iou")).items()
        ),
        notes=texts(data.get("notes")),
    )


def _own_accuracy(case: Case, data: Mapping[str, Any]) -> Accuracy | None:
    """The score that the matrix wrote beside the latency, where it was asked for one."""
    score, asked = mapping(data.get("accuracy")), mapping(data.get("case"))
    if number(score.get("miou")) is None:
        return None
    found = {**score, "engine": case.engine, "precision": case.precision}
    return replace(accuracy_from_eval(found, case.source), images_from=text(asked.get("images")))


def with_accuracies(cases: tuple[Case, ...], accuracies: tuple[Accuracy, ...]) -> tuple[Case, ...]:
    """Each case with the score of its own engine: the one beside it, or the one at the same path.

    Where an engine was scored on several sets of images, the set on which most engines were
    scored is taken, so that as many cases as possible can be compared.
    """
    often: dict[Any, int] = {}
    for accuracy in accuracies:
        often[accuracy.task] = often.get(accuracy.task, 0) + 1
    best: dict[str, Accuracy] = {}
    for accuracy in sorted(accuracies, key=lambda entry: often[entry.task]):
        best[path_key(accuracy.engine)] = accuracy
    return tuple(
        replace(case, accuracy=best.get(path_key(case.engine)))
        if case.engine and case.accuracy is None
        else case
        for case in cases
    )


def with_machines(cases: Sequence[Case]) -> list[Case]:
    """A case whose file names no machine gets that of its run, where the run has only one.

    So does, first, one that failed before its power mode was read: from the same machine.
    """
    moded = [
        replace(case, machine=_in_its_mode(case, cases))
        if case.error and not case.machine.power_mode
        else case
        for case in cases
    ]
    machines: dict[str, dict[Any, Machine]] = {}
    for case in moded:
        if case.machine.said and not case.estimated:
            machines.setdefault(case.run, {})[case.machine.key] = case.machine
    return [
        case
        if case.machine.said or len(machines.get(case.run, {})) != 1
        else replace(case, machine=next(iter(machines[case.run].values())))
        for case in moded
    ]


def _in_its_mode(case: Case, cases: Sequence[Case]) -> Machine:
    """The same machine in the one power mode that its run tells; as it is where it is not one."""
    own = case.machine
    modes = {
        other.machine.power_mode: other.machine
        for other in cases
        if other.run == case.run and other.machine.key[:-1] == own.key[:-1]
    }
    modes.pop("", None)
    return next(iter(modes.values())) if len(modes) == 1 and own.said else own


def path_key(path: str) -> str:
    """`./build//b0/` and `build/b0` are one engine."""
    return str(PurePosixPath(path.replace("\\", "/"))) if path else ""


def error_text(error: Any) -> str:
    """`found; expected: ...; next: ...` of an error object, or the text that stands there."""
    if isinstance(error, str):
        return error
    data = mapping(error)
    if not data:
        return ""
    parts = [text(data.get("found")) or "failed without a message"]
    parts += [f"{name}: {text(data[name])}" for name in ("expected", "next") if data.get(name)]
    return "; ".join(parts)


def weights_from(value: Any) -> str:
    """ "random", "trained", or "" where nothing is said."""
    if value == "random" or mapping(value).get("origin") == "random":
        return "random"
    return "trained" if value else ""


def _range(value: Any) -> tuple[float | None, float | None, float | None]:
    """Low, middle and high of an estimate: an object, or one number."""
    if isinstance(value, Mapping):
        middle = positive(first(value, "estimate", "p50"))
        return positive(value.get("low")), middle, positive(value.get("high"))
    return None, positive(value), None


def _error_of_estimate(error: Mapping[str, Any]) -> str:
    median, p90 = positive(error.get("median")), positive(error.get("p90"))
    kind = text(error.get("kind"))
    if median is None or p90 is None:
        return f"{kind}: error unknown" if kind else ""
    rows, boards = text(error.get("rows")), text(error.get("boards"))
    return (
        f"{kind}: off by {median:.2f}x in the median, {p90:.2f}x at the 90th percentile, over "
        f"{rows} published rows of {boards} devices"
    )


def _limit(data: Mapping[str, Any]) -> Limit | None:
    found = positive(data.get("bytes"))
    if found is None:
        return None
    survived = data.get("survived")
    return Limit(
        found / MIB,
        data.get("enforced") is True,
        survived if isinstance(survived, bool) else None,
    )


def _run(data: Mapping[str, Any], source: str) -> str:
    """What the file calls its run, else the folder that it lies in."""
    return text(data.get("run")) or str(PurePosixPath(source).parent)


def _variant(engine: str) -> str:
    """The `b0` in `build/segformer-b0-int8`; the last such part, empty where there is none."""
    found = re.findall(r"(?<![a-z0-9])(b[0-5])(?![a-z0-9])", engine.lower())
    return str(found[-1]) if found else ""
