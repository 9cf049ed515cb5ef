"""The repository's own results that no device ran: plans as built, kernels as compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segformer_deploy.bench.report import rows as plots
from segformer_deploy.bench.report.fields import mapping, number, positive, text
from segformer_deploy.bench.report.parts import Block, Cell, Figure, Table, amount
from segformer_deploy.bench.report.rows import Row
from segformer_deploy.bench.report.scale import figure_text

Data = Mapping[str, Any]
Built = tuple[str, tuple[str, ...], tuple[Block, ...]]
_SHOWN = 8


def builds(data: Data) -> Built:
    """Plans' device memory as the builder states it: hollow, because no device ran them."""
    found = {str(name): mapping(entry) for name, entry in mapping(data["builds"]).items()}
    rows = tuple(
        (
            Cell(name, None, "stated by the builder"),
            amount(_mb(entry.get("activation_memory_bytes"))),
            amount(_mb(entry.get("weights_memory_bytes"))),
            amount(_mb(entry.get("peak_device_bytes"))),
            amount(_mb(entry.get("plan_bytes"))),
            amount(number(entry.get("seconds"))),
        )
        for name, entry in found.items()
    )
    columns = ("plan", "activations MB", "weights MB", "peak MB", "plan MB", "build s")
    table = Table("Plans and their device memory", columns, rows)
    static = {name: entry for name, entry in found.items() if name.endswith("static")}
    drawn = [_row(name, entry) for name, entry in (static or found).items()]
    wide, narrow = plots.bars(drawn, "Device memory of plans", "MB (10^6 bytes)")
    figure = Figure(
        "Peak device memory" + (", one size" if static else ""),
        "Hollow: stated by the builder, measured on no device.",
        wide,
        narrow,
        table,
    )
    leads = (f"Device memory is {text(data.get('device_memory'))}.",)
    return "TensorRT-RTX plans", leads, (figure,)


def _row(name: str, entry: Data) -> Row:
    peak = _mb(entry.get("peak_device_bytes"))
    precision = next((word for word in name.split() if word in ("fp32", "fp16", "int8")), "plain")
    shown = "not stated" if peak is None else f"{figure_text(peak)} MB"
    return Row(name, peak, shown, css=precision, hollow=True)


def kernels(data: Data) -> Built:
    """Registers and bytes of the compiled kernels, per architecture."""
    found = {str(name): mapping(entry) for name, entry in mapping(data["kernels"]).items()}
    names = list(
        dict.fromkeys(name for entry in found.values() for name in mapping(entry.get("kernels")))
    )[:_SHOWN]
    rows = tuple(
        (
            Cell(architecture),
            amount(_kb(entry.get("bytes"))),
            *(
                amount(number(mapping(mapping(entry.get("kernels")).get(name)).get("registers")))
                for name in names
            ),
        )
        for architecture, entry in found.items()
    )
    columns = ("architecture", "file kB", *(f"{name}, registers" for name in names))
    basis = text(data.get("basis"))
    return (
        "CUDA kernels",
        (f"{basis[:1].upper()}{basis[1:]}.",),
        (Table("Registers per thread", columns, rows),),
    )


def _mb(value: Any) -> float | None:
    found = positive(value)
    return None if found is None else found / 1e6


def _kb(value: Any) -> float | None:
    found = positive(value)
    return None if found is None else found / 1e3
