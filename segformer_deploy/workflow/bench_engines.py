"""Where the engines of a matrix come from: exported and quantised into a cache folder, or given."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segformer_deploy.bench.matrix import MatrixEngine
from segformer_deploy.bench.pareto import VARIANTS
from segformer_deploy.errors import InputError, MissingDependencyError, SegdeployError
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.version import __version__
from segformer_deploy.workflow.choice import Progress, Say, silent

PRECISIONS = ("fp32", "int8")
_STREETS, _STREETS_SIZE = 16, FrameSize(360, 480)
"""Ranges of random weights set no speed: a few generated frames do."""


@dataclass(frozen=True)
class EngineSource:
    """An engine that is made when it is first asked for.

    Attributes:
        made: gives its path.
        label: names it in place of the variant; of engines that were given.
        path: where it lies; None of one that is still to be made.
        commands: what builds it for use, as typed; ``{size}`` and ``{backend}`` are filled in.
    """

    variant: str
    precision: str
    made: Callable[[], Path]
    label: str | None = None
    path: Path | None = None
    commands: tuple[str, ...] = ()
    random: bool = True

    @cached_property
    def engine(self) -> MatrixEngine:
        return MatrixEngine(self.made(), self.variant, self.precision, self.label)

    def grows_like(self, other: EngineSource) -> bool:
        """Whether both differ in variant, precision and nothing else.

        Exported variants do; engines that were given may differ in classes, pruning and more,
        so each compares with itself alone.
        """
        return self is other or (self.path is None and other.path is None)


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

    def made(path: Path, kind: str, verb: str, write: Callable[[], object]) -> Path:
        why = _unlike(path, variant, kind, classes)
        if why is None:
            return path
        say(f"{verb} {variant} with random weights to {path}{why}")
        write()
        return path

    def fp32() -> Path:
        from segformer_deploy.workflow.export import ExportOptions, export_onnx

        options = ExportOptions(variant, classes=classes, random_weights=True, output=plain)
        return made(plain, "fp32", "exporting", lambda: export_onnx(options, lambda _: None))

    def int8() -> Path:
        path = plain.with_name(f"{plain.stem}-int8.onnx")
        return made(path, "int8", "quantising", lambda: _write_int8(fp32(), path, progress))

    return fp32 if precision == "fp32" else int8


def _unlike(path: Path, variant: str, precision: str, classes: int) -> str | None:
    """None where `path` is what this version would export; else why not, empty where it is new."""
    from segformer_deploy.engine.onnx_file import read_onnx_header, spec_from_onnx

    if not path.exists():
        return ""
    try:
        spec, version = spec_from_onnx(path), read_onnx_header(path).producer_version
    except SegdeployError as error:
        return f": what is there does not read ({error.found})"
    told = (
        ("variant", spec.variant, variant),
        ("precision", spec.precision, precision),
        ("classes", spec.classes, classes),
        ("weights", "random" if spec.weights.random else "trained", "random"),
        ("version of segdeploy", version or "unknown", __version__),
    )
    found = [f"{name} {was}" for name, was, wanted in told if was != wanted]
    return f": what is there has {', '.join(found)}" if found else None


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
        path,
        commands=(command,),
        random=spec.weights.random,
    )
