"""Devices that need not be here: their peaks, bandwidth and memory, and how they are named.

The table is `data/devices.csv`; its sources stand beside it, in each row and in the README.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, get_args

from segformer_deploy.errors import InputError
from segformer_deploy.spec import Precision

Group = Literal["jetson", "gpu-card", "cpu-arm", "cpu-x86"]
GROUPS: tuple[Group, ...] = get_args(Group)
GROUP_NAMES: dict[Group, str] = {
    "jetson": "Jetson modules",
    "gpu-card": "GPU cards",
    "cpu-arm": "Arm CPUs",
    "cpu-x86": "x86 CPUs",
}
_WITH_TF32 = ("Ampere", "Ada", "Hopper", "Blackwell")
_COLUMNS = [
    *("slug", "name", "board", "group", "aliases", "architecture", "core", "clock_mhz"),
    *("fp32_tflops", "fp16_tflops", "int8_tops", "bandwidth_gbs", "memory_gb", "usable_mb"),
    *("peak_source", "clock_source", "notes"),
]


@dataclass(frozen=True)
class Device:
    """One device in one power mode.

    Attributes:
        slug: the short name, for example ``orin-nano-8gb``.
        name: in full.
        board: the same for two power modes of one device.
        group: the kind of device, within which an error is stated.
        aliases: other short names.
        architecture: the GPU's, or ``CPU``.
        core: the design of the cores (``sm_87``, ``Cortex-A53``): the same for devices that differ
            in the cores' number and clock and in memory. They are left out together.
        clock_mhz: that the peaks are for.
        fp32_tflops, fp16_tflops, int8_tops: dense peaks, a multiply-accumulate counted as two;
            None where there is no faster arithmetic for that type. FP16 is of the tensor cores
            with FP32 sums, where there are tensor cores.
        bandwidth_gbs: of the memory, in 1e9 bytes a second.
        memory_gb: as sold; for a board that is sold in several sizes, the largest.
        usable_mb: what a program was found to get, where that is known, in 2^20 bytes.
        peak_source, clock_source: where the figures come from; RECALL: from memory, unverified.
        notes: what else is known, power modes among it.
    """

    slug: str
    name: str
    board: str
    group: Group
    aliases: tuple[str, ...]
    architecture: str
    core: str
    clock_mhz: float
    fp32_tflops: float
    fp16_tflops: float | None
    int8_tops: float | None
    bandwidth_gbs: float
    memory_gb: float
    usable_mb: float | None
    peak_source: str
    clock_source: str
    notes: str

    @property
    def is_gpu(self) -> bool:
        return self.group in ("jetson", "gpu-card")

    @property
    def memory_bytes(self) -> int:
        """What a program can have at most: the usable memory where known, else what is sold."""
        return int(self.memory_gb * 1e9 if self.usable_mb is None else self.usable_mb * 2**20)

    @property
    def recalled(self) -> bool:
        """Whether a figure of this row is from memory and was not read in a source."""
        return "recall" in f"{self.clock_source} {self.peak_source}".lower()

    @property
    def has_tf32(self) -> bool:
        """Whether its tensor cores multiply FP32 matrices as TF32: from Ampere on."""
        return self.architecture in _WITH_TF32

    def runs_as(self, precision: Precision) -> Precision:
        """The arithmetic that a network of `precision` gets here.

        A CPU computes FP16 graphs in FP32. A GPU without fast INT8 products has no use for them.
        """
        if not self.is_gpu:
            return "fp32" if precision == "fp16" else precision
        if precision == "int8" and self.int8_tops is None:
            return "fp16"
        return precision

    def peak_tflops(self, precision: Precision) -> float:
        """The peak that a network of `precision` is held against: FP32's or FP16's.

        INT8 counts from the peak without it: how much it gains is fitted.
        """
        if not self.is_gpu or precision == "fp32":
            return self.fp32_tflops
        return self.fp16_tflops or self.fp32_tflops

    def to_dict(self) -> dict[str, Any]:
        return {
            "slug": self.slug,
            "name": self.name,
            "group": self.group,
            "architecture": self.architecture,
            "core": self.core,
            "clock_mhz": self.clock_mhz,
            "fp32_tflops": self.fp32_tflops,
            "fp16_tflops": self.fp16_tflops,
            "int8_tops": self.int8_tops,
            "bandwidth_gbs": self.bandwidth_gbs,
            "memory_gb": self.memory_gb,
            "usable_mb": self.usable_mb,
            "peak_source": self.peak_source,
            "clock_source": self.clock_source,
            "notes": self.notes,
        }


@lru_cache(maxsize=1)
def all_devices() -> tuple[Device, ...]:
    """Every device of the table, in its order."""
    text = files("segformer_deploy.bench").joinpath("data/devices.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    assert rows.fieldnames == _COLUMNS
    return tuple(_device(row) for row in rows)


def device_named(name: str) -> Device:
    """The device with that slug or alias, in any spelling of case, blanks and underscores.

    InputError, with the nearest names, for another.
    """
    wanted = _plain(name)
    known = {_plain(n): d for d in all_devices() for n in (d.slug, d.name, *d.aliases)}
    if wanted in known:
        return known[wanted]
    near = get_close_matches(wanted, list(known), n=8, cutoff=0.5)
    near += [key for key in known if wanted and wanted in key]
    slugs = list(dict.fromkeys(known[key].slug for key in near))[:4]
    raise InputError(
        f"no device is named '{name}'",
        ("a device of the table; near it: " + ", ".join(slugs))
        if slugs
        else "a device of the table, for example orin-nano-8gb, rpi-5 or l4",
        "segdeploy estimate --list",
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


def _device(row: dict[str, str]) -> Device:
    group = row["group"]
    assert group in GROUPS
    return Device(
        slug=row["slug"],
        name=row["name"],
        board=row["board"],
        group=group,
        aliases=tuple(filter(None, row["aliases"].split(";"))),
        architecture=row["architecture"],
        core=row["core"],
        clock_mhz=float(row["clock_mhz"]),
        fp32_tflops=float(row["fp32_tflops"]),
        fp16_tflops=_number(row["fp16_tflops"]),
        int8_tops=_number(row["int8_tops"]),
        bandwidth_gbs=float(row["bandwidth_gbs"]),
        memory_gb=float(row["memory_gb"]),
        usable_mb=_number(row["usable_mb"]),
        peak_source=row["peak_source"],
        clock_source=row["clock_source"],
        notes=row["notes"],
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
