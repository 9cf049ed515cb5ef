"""segdeploy estimate: latency and memory on a device that is not here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from segformer_deploy.cli.common import BUILD, Json, emit, parse_size, say, table
from segformer_deploy.errors import InputError, SpecError

if TYPE_CHECKING:
    from segformer_deploy.bench.cost import Form
    from segformer_deploy.bench.devices import Device
    from segformer_deploy.bench.estimate import Estimate
    from segformer_deploy.spec import FrameSize, ModelSpec, Precision

_SCOPE = "the network alone, one frame: without camera, resizing the frame, class map and drawing"


def command(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="An .onnx file or engine folder of segdeploy."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="A device of the table; see --list.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every device of the table.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the devices and stop.")] = False,
    variant: Annotated[str | None, typer.Option(help="b0 to b5, instead of a MODEL.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Network size; the MODEL's own, or 512x512.")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="The MODEL's own, or 150.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or int8; the MODEL's, or fp16 on GPUs and fp32 on CPUs."),
    ] = None,
    form: Annotated[
        str, typer.Option(help="deploy (what export writes) or published (as in the paper).")
    ] = "deploy",
    json: Json = False,
) -> None:
    """Estimate latency and memory on a device that is not here, and say how far off that may be.

    Example:  segdeploy estimate --device orin-nano-8gb --variant b0 --size 512x512
    """
    from segformer_deploy.bench.devices import all_devices, device_named
    from segformer_deploy.bench.estimate import estimate

    if list_:
        _list(all_devices(), json)
        return
    if all_ == (device is not None):
        raise InputError(
            "both --device and --all" if all_ else "no device was named",
            "a device (--device NAME) or all of them (--all)",
            "segdeploy estimate --list",
        )
    devices = all_devices() if device is None else (device_named(device),)
    ask = _question(model, variant, parse_size(size), classes, precision, form)
    found = [
        estimate(one, ask.variant, ask.size, ask.classes, ask.precision, ask.form)
        for one in devices
    ]
    _show(found)
    if json:
        emit({"estimated": True, "devices": [e.to_dict() for e in found]} if all_
             else found[0].to_dict())  # fmt: skip


@dataclass(frozen=True)
class _Question:
    """The network that is asked about; a precision of None is the device's usual one."""

    variant: str
    size: FrameSize
    classes: int
    precision: Precision | None
    form: Form


def _question(
    model: Path | None,
    variant: str | None,
    size: FrameSize | None,
    classes: int | None,
    precision: str | None,
    form: str,
) -> _Question:
    from segformer_deploy.bench.cost import Form
    from segformer_deploy.spec import FrameSize, Precision

    if model is not None and variant is not None:
        raise SpecError("both a MODEL and --variant", "one of the two", "leave one of them out")
    _one_of("--precision", precision, get_args(Precision))
    _one_of("--form", form, get_args(Form))
    taken = None if variant else _taken(model)
    spec = None if taken is None else _spec(taken)
    if spec is not None and spec.variant == "custom":
        raise SpecError(
            f"{taken} is of no variant of the paper ('custom')",
            "b0 to b5, whose layers are known",
            "name the nearest one: segdeploy estimate --variant b0",
        )
    own = spec.resize.size if spec else None
    chosen: Any = precision or (spec.precision if spec else None)
    kind: Any = form
    return _Question(
        spec.variant if spec else variant or "b0",
        size or own or FrameSize(512, 512),
        classes or (spec.classes if spec else 150),
        chosen,
        kind,
    )


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise SpecError(f"{option} {value}", "one of " + ", ".join(allowed))


def _taken(model: Path | None) -> Path | None:
    """MODEL, or the newest ONNX under build/; None where there is neither."""
    from segformer_deploy.engine.package import newest_first

    if model is not None:
        return model
    found = [path for path in newest_first(list(BUILD.glob("*.onnx"))) if path.is_file()]
    if not found:
        say("network: b0 (neither a MODEL nor --variant was given)")
        return None
    say(f"ONNX: {found[0]} (the newest under {BUILD}/)")
    return found[0]


def _spec(model: Path) -> ModelSpec:
    """What an ONNX file or an engine folder says of itself."""
    from segformer_deploy.engine.manifest import read_manifest
    from segformer_deploy.engine.onnx_file import spec_from_onnx

    if model.is_dir():
        manifest = read_manifest(model)
        return manifest.spec.with_(precision=manifest.delivered)
    return spec_from_onnx(model)


def _show(found: list[Estimate]) -> None:
    task = found[0].task
    say(
        f"ESTIMATED, not measured: SegFormer-{task.variant.upper()}, {task.size}, "
        f"{task.classes} classes, {task.form} form, {found[0].macs / 1e9:.2f} GMAC"
    )
    if len(found) == 1:
        _show_one(found[0])
    else:
        _show_all(found)
    overall = found[0].error_all
    say(
        f"error over all {overall.rows} published rows of {overall.boards} devices: "
        f"median {overall.median:.2f}x, 90th percentile {overall.p90:.2f}x"
    )
    say(f"for {_SCOPE}")
    if len(found) == 1:
        for row in found[0].published:
            say(f"published on this device: {row.text}")
        for note in found[0].notes:
            say(f"note: {note}")


def _show_one(one: Estimate) -> None:
    time, memory, bounds = one.time, one.memory, one.range_ms
    table(
        f"{one.task.device.name}, {one.task.precision}",
        ["", "estimated"],
        [
            ["latency, ms", _ms(time.total)],
            ["  range, by the error's 90th percentile", _range(bounds)],
            ["frames/s", f"{1000 / time.total:.3g}"],
            ["  of the ms: waiting for arithmetic", _ms(time.compute)],
            ["  of the ms: waiting for memory", _ms(time.bandwidth)],
            ["  of the ms: kernel launches", _ms(time.launch)],
            ["memory, MB", _mb(memory.total)],
            ["  range", f"{_mb(memory.low)} to {_mb(memory.high)}"],
            ["  of it weights (counted)", _mb(memory.weights)],
        ],
    )
    say(f"error: {one.error_text}")
    say(f"memory: {memory.source}")


def _show_all(found: list[Estimate]) -> None:
    table(
        "estimated latency and memory, and the error: median, 90th percentile",
        ["device", "type", "ms", "range", "MB", "error"],
        [
            [
                one.task.device.slug,
                one.task.precision,
                _ms(one.time.total),
                _range(one.range_ms),
                _mb(one.memory.total),
                _error(one),
            ]
            for one in found
        ],
    )
    for kind, text in {one.task.device.group: one.error_text for one in found}.items():
        say(f"error, {kind}: {text}")
    say("range: by the error's 90th percentile; notes on a device: --device NAME")


def _error(one: Estimate) -> str:
    error = one.error
    if error.median is None or error.p90 is None:
        return "unknown"
    return f"{error.median:.2f}x, {error.p90:.2f}x"


def _range(bounds: tuple[float, float] | None) -> str:
    return f"{_ms(bounds[0])} to {_ms(bounds[1])}" if bounds else "unknown"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _mb(value: int) -> str:
    return f"{value / 1e6:.0f}"


def _list(devices: tuple[Device, ...], json: bool) -> None:
    from segformer_deploy.bench.published import published_rows

    rows = published_rows()
    table(
        "devices that can be estimated (peaks in TFLOPS and TOPS, dense; rows: "
        "published and used; --json has names, aliases, sources)",
        ["device", "FP32 TF", "FP16", "INT8", "GB/s", "GB", "rows"],
        [
            [
                one.slug,
                f"{one.fp32_tflops:g}",
                "" if one.fp16_tflops is None else f"{one.fp16_tflops:g}",
                "" if one.int8_tops is None else f"{one.int8_tops:g}",
                f"{one.bandwidth_gbs:g}",
                f"{one.memory_gb:g}",
                str(sum(row.device == one for row in rows)),
            ]
            for one in devices
        ],
    )
    if json:
        emit({"devices": [{**one.to_dict(), "aliases": list(one.aliases)} for one in devices]})
