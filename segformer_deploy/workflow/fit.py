"""Memory and latency of a device -> the network to take: measured here, cheap ones first.

Also where a matrix's engines come from: exported and quantised into a cache folder, or given.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from segformer_deploy.bench.case import Case
from segformer_deploy.bench.matrix import (
    MatrixEngine,
    MatrixReport,
    Measure,
    OnCase,
    matrix_cases,
    run_matrix,
)
from segformer_deploy.bench.pareto import (
    Budget,
    FitReport,
    Point,
    drawing,
    pick,
    point_from_result,
)
from segformer_deploy.engine.backend import AUTO, CPU_BACKENDS, NATIVE
from segformer_deploy.errors import InputError, MissingDependencyError
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.workflow.choice import Progress, Say, silent

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")
PRECISIONS = ("fp32", "int8")
_STREETS, _STREETS_SIZE = 16, FrameSize(360, 480)
"""Ranges of random weights set no speed: a few generated frames do."""
CHART = "front.png"


@dataclass(frozen=True)
class EngineSource:
    """An engine that is made when it is first asked for.

    Attributes:
        made: gives its path.
        label: names it in place of the variant; of engines that were given.
        sized: its only network size; None where it takes any.
        commands: what builds it for use, as typed; ``{size}`` and ``{backend}`` are filled in.
    """

    variant: str
    precision: str
    made: Callable[[], Path]
    label: str | None = None
    sized: str | None = None
    commands: tuple[str, ...] = ()
    random: bool = True

    @cached_property
    def engine(self) -> MatrixEngine:
        return MatrixEngine(self.made(), self.variant, self.precision, self.label)


def exported_engines(
    variants: Sequence[str],
    precisions: Sequence[str],
    classes: int,
    folder: Path,
    say: Say,
    progress: Progress = silent,
) -> list[EngineSource]:
    """One per variant and precision, with random weights, kept in `folder` for the next time.

    Raises InputError for unknown names, MissingDependencyError without the export extra.
    """
    _known("variant", variants, VARIANTS)
    _known("precision", precisions, PRECISIONS)
    for module in ("torch", "onnx", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(
                module, "export", "exporting variants; or give engine folders or ONNX files"
            )
    return [
        EngineSource(
            variant,
            precision,
            _maker(variant, precision, classes, folder, say, progress),
            commands=_commands(variant, precision, classes),
        )
        for variant in variants
        for precision in precisions
    ]


def _known(what: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise InputError(f"{what} '{name}'", "one of " + ", ".join(allowed))


def _commands(variant: str, precision: str, classes: int) -> tuple[str, ...]:
    quantise = " --int8 --calibration FRAMES" if precision == "int8" else ""
    return (
        f"segdeploy export --variant {variant} --classes {classes} "
        f"--output build/segformer-{variant}.onnx",
        f"segdeploy build-engine build/segformer-{variant}.onnx --opt {{size}} "
        f"--backend {{backend}}{quantise}",
    )


def _maker(
    variant: str, precision: str, classes: int, folder: Path, say: Say, progress: Progress
) -> Callable[[], Path]:
    plain = folder / f"segformer-{variant}-c{classes}.onnx"

    def fp32() -> Path:
        if not plain.is_file():
            from segformer_deploy.workflow.export import ExportOptions, export_onnx

            say(f"exporting {variant} with random weights to {plain}")
            export_onnx(
                ExportOptions(variant, classes=classes, random_weights=True, output=plain),
                lambda _: None,
            )
        return plain

    def int8() -> Path:
        path = plain.with_name(f"{plain.stem}-int8.onnx")
        if not path.is_file():
            say(f"quantising {variant} to {path}")
            _write_int8(fp32(), path, progress)
        return path

    return fp32 if precision == "fp32" else int8


def _write_int8(onnx: Path, path: Path, progress: Progress) -> None:
    """INT8 with a CPU's grid, of random weights: speed and memory are real, masks mean nothing."""
    from segformer_deploy.calibrate.frames import StreetFrames
    from segformer_deploy.engine.onnx_file import spec_from_onnx
    from segformer_deploy.workflow.choose import write_onnx_only
    from segformer_deploy.workflow.precision import PrecisionOptions
    from segformer_deploy.workflow.ranges import RangesRequest, new_ranges

    def quiet(_text: str) -> None:
        """What is to be said of ranges and masks means nothing with random weights."""

    spec = spec_from_onnx(onnx).stretched_to(FrameSize(256, 256))
    frames = StreetFrames(_STREETS, spec.resize)
    request = RangesRequest(None, spec, _STREETS)
    ranges = onnx.with_suffix(".ranges.json")
    new_ranges(onnx, frames, request, quiet, progress).write(ranges)
    gate = _street_pictures(onnx.parent / "streets")
    options = PrecisionOptions("int8", calibration=ranges, gate=(gate, None), force=True)
    write_onnx_only(onnx, path, spec, options, quiet, progress)


def _street_pictures(folder: Path) -> Path:
    """Four pictures to hold INT8 against FP32 on, which a folder has to give."""
    import cv2

    from segformer_deploy.files import write_bytes
    from segformer_deploy.runtime.golden import golden_frame

    for seed in range(4):
        _, data = cv2.imencode(".png", golden_frame(_STREETS_SIZE, seed))
        write_bytes(folder / f"{seed}.png", data.tobytes())
    return folder


def given_engines(paths: Sequence[Path]) -> list[EngineSource]:
    """Engine folders and ONNX files as they are; SegdeployError where one does not read."""
    from segformer_deploy.engine.package import spec_of

    return [_given(path, spec_of(path)) for path in paths]


def _given(path: Path, spec: ModelSpec) -> EngineSource:
    if path.is_dir():
        command = f"segdeploy run {path} --source VIDEO"
    else:
        command = f"segdeploy build-engine {path} --opt {{size}} --backend {{backend}}"
    return EngineSource(
        spec.variant,
        spec.precision,
        lambda: path,
        path.stem if path.is_file() else path.resolve().name,
        commands=(command,),
        random=spec.weights.random,
    )


def fit(
    sources: Sequence[EngineSource],
    sizes: Sequence[str],
    backends: Sequence[str],
    threads: Sequence[int | None],
    like: Case,
    budget: Budget,
    folder: Path,
    measure: Measure,
    *,
    percentile: str = "p50",
    on_case: OnCase = lambda _case, _result, _kept: None,
    on_skip: Callable[[str, str], object] = lambda _name, _why: None,
) -> FitReport:
    """Measure what may be within the budget, cheap cases first, and pick.

    A case is skipped where a network that is smaller in variant and size, with the same
    precision, backend and threads, was measured to be over the budget already.

    Args:
        like: what all cases share, labelled frames among it.
        folder: gets one JSON per case, and the chart.
        on_skip: called with each skipped case's name and why.
    """
    report = FitReport(budget, MatrixReport(folder))
    wanted = [
        (source, size, backend, count)
        for source in sources
        for size in sizes
        for backend in backends
        for count in threads
    ]
    wanted.sort(key=lambda one: (one[0].variant, _pixels(one[1])))
    by_name: dict[str, EngineSource] = {}
    for source, size, backend, count in wanted:
        plan = replace(
            like,
            engine="",
            label=source.label,
            variant=source.variant,
            precision=source.precision,
            size=size,
            backend=backend,
            threads=count,
        )
        why = _cannot_win(plan, report.points, budget)
        if why is not None:
            report.skipped[plan.name] = why
            on_skip(plan.name, why)
            continue
        cases = matrix_cases([source.engine], [size], [backend], [count], like)
        run_matrix(cases, folder, measure, on_case=on_case, report=report.matrix)
        point = point_from_result(report.matrix.results[-1], percentile)
        report.points += [point] if point else []
        by_name[plan.name] = source
    report.winner = pick(report.points, budget)
    if report.winner is not None:
        report.commands = _filled(by_name[report.winner.name], report.winner)
    chart = folder / CHART
    if report.points and drawing(report.points, budget, report.winner, chart):
        report.chart = chart
    return report


def _pixels(size: str) -> int:
    height, width = _sides(size)
    return height * width


def _sides(size: str) -> tuple[int, int]:
    parsed = FrameSize.parse(size)
    return parsed.height, parsed.width


def _cannot_win(plan: Case, points: Sequence[Point], budget: Budget) -> str | None:
    """Why: latency and memory grow with variant and size, all else being equal.

    Engines that were given may differ in more (classes, pruning): only their own sizes compare.
    """
    if plan.variant not in VARIANTS:
        return None
    for point in points:
        case = Case.from_dict(point.result["case"])
        alike = (case.label, case.precision, case.backend, case.threads) == (
            *(plan.label, plan.precision, plan.backend, plan.threads),
        )
        if not alike or case.variant not in VARIANTS or case.size is None or plan.size is None:
            continue
        (h, w), (height, width) = _sides(case.size), _sides(plan.size)
        if case.variant <= plan.variant and h <= height and w <= width:
            why = budget.out_of_reach(point)
            if why is not None:
                return f"{point.name} is smaller, and {why}"
    return None


def _filled(source: EngineSource, winner: Point) -> tuple[str, ...]:
    backend = winner.result["case"]["backend"]
    if backend == AUTO:
        ran = str(winner.result["backend"])
        backend = next((one for one in CPU_BACKENDS if ran.lower().startswith(one)), NATIVE)
    return tuple(
        text.format(size=winner.result["size"], backend=backend) for text in source.commands
    )
