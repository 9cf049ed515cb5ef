"""The options of FP16 and INT8, as `build-engine` and `calibrate` share them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segformer_deploy.cli.common import say, table
from segformer_deploy.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from segformer_deploy.calibrate.calibration import CalibrationOptions
    from segformer_deploy.graph.cast_fp16 import LogitsType
    from segformer_deploy.workflow.sensitivity import BlockDamage

Method = Annotated[str, typer.Option(help="How a range is found: percentile, minmax or entropy.")]
Percentile = Annotated[
    float, typer.Option(help="Of all values, what a range holds, for --method percentile.")
]
Samples = Annotated[
    int, typer.Option(min=1, help="The most frames to calibrate on, evenly spread.")
]
Equalise = Annotated[
    bool, typer.Option("--equalise/--no-equalise", help="Make channels' ranges even first (exact).")
]
GateImages = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Frames to judge INT8 or FP16 on, apart from those that calibrate."
    ),
]
GateLabels = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Their label pictures, for mIoU.")
]


def need_onnx(purpose: str) -> None:
    """MissingDependencyError where the workstation's libraries are not installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("onnx", "cpu,export", purpose) from error


def calibration_options(method: str, percentile: float, equalise: bool) -> CalibrationOptions:
    """Checked; InputError names what is wrong."""
    from typing import cast

    from segformer_deploy.calibrate.calibration import CalibrationOptions
    from segformer_deploy.calibrate.thresholds import Method as Methods

    return CalibrationOptions(cast("Methods", method), percentile, equalise)


def folder_pair(
    images: Path | None, labels: Path | None, what: str
) -> tuple[Path, Path | None] | None:
    """(images, labels) or None; InputError where labels come without images."""
    if images is None:
        if labels is not None:
            raise InputError(
                f"--{what}-labels {labels} without frames",
                f"the frames that they belong to: --{what}-images FOLDER",
            )
        return None
    return images, labels


def show_ranking(ranking: tuple[BlockDamage, ...]) -> None:
    """A table of blocks, worst first."""
    rows = [
        [one.block, f"{100 * one.logit_error:.3f}", f"{one.disagreement:.3f}"] for one in ranking
    ]
    table(
        "each block alone in INT8, worst first",
        ["block", "logits off by %", "pixels that change class %"],
        rows,
    )


def show_report(report: dict[str, Any]) -> None:
    """What `precision.json` says, for people."""
    precision = report["precision"]
    scores = report["report"]
    if scores["labels"]:
        rows = [_class_row(name, one) for name, one in scores["classes"].items()]
        table(
            f"fp32 and {precision} on {scores['frames']} frames of {scores['origin']}",
            ["class", "IoU fp32 %", f"IoU {precision} %", "change, 95 % interval"],
            rows,
        )
        low, high = scores["drop_interval"] or (None, None)
        say(
            f"mIoU {_score(scores['miou_before'])} -> {_score(scores['miou_after'])} %: drop "
            f"{_score(scores['drop'])} points ({_score(low)} to {_score(high)}); boundary F "
            f"{_score(scores['boundary_f_before'])} -> {_score(scores['boundary_f_after'])} %"
        )
    low, high = scores["agreement_interval"]
    say(f"{scores['agreement']:.2f} % of the pixels agree with fp32 ({low:.2f} to {high:.2f})")
    if precision == "int8":
        _show_macs(report["macs"])
    sizes = report["bytes"]
    say(
        f"{precision} file: {sizes[precision] / 1e6:.2f} MB, "
        f"{100 * sizes[precision] / sizes['fp32']:.1f} % of fp32's"
    )
    for block, why in report["gate"]["kept"].items():
        say(f"{block} stays higher: {why}")


def _class_row(name: str, one: dict[str, Any]) -> list[str]:
    interval = one["change_interval"]
    change = "-" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
    return [name, _score(one["iou_before"]), _score(one["iou_after"]), change]


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _show_macs(macs: dict[str, Any]) -> None:
    kinds = {kind: one for kind, one in macs.items() if kind != "size"}
    total = kinds["all"]["all"]
    rows = [
        [kind, f"{100 * one['all'] / total:.1f}", f"{100 * one['int8'] / total:.1f}"]
        for kind, one in kinds.items()
    ]
    table(
        f"multiply-accumulates at {macs['size']}, % of all",
        ["kind of product", "of the network", "of it in INT8"],
        rows,
    )


def refuse_contradictions(fp16: bool, int8: bool, onnx_only: bool, backend: str) -> None:
    """InputError where `build-engine` is asked for two things at once, or for nothing."""
    if fp16 and int8:
        raise InputError(
            "--fp16 and --int8 at once",
            "one of them: --int8 --onnx-only already takes FP16 where INT8 is not used",
        )
    if onnx_only and not (fp16 or int8):
        raise InputError("--onnx-only without a precision", "--onnx-only with --fp16 or --int8")
    from segformer_deploy.engine.backend import EngineOptions

    EngineOptions(backend)


def logits_type(text: str) -> LogitsType:
    """The type of an FP16 graph's output; InputError where there is no such."""
    if text not in ("fp16", "fp32"):
        raise InputError(f"logits in '{text}'", "fp32 or fp16")
    return "fp16" if text == "fp16" else "fp32"


def refuse_unused(options: dict[str, Any]) -> None:
    """InputError where an option of a precision is given and none is asked for."""
    given = [name for name, value in options.items() if value]
    if given:
        raise InputError(
            f"{given[0]} without a precision",
            "--int8 or --fp16 beside it: an engine in the graph's own precision needs no frames",
        )
