"""The `machine` object of a result -> `Machine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segformer_deploy.bench.report.fields import first, mapping, number, positive, text, whole
from segformer_deploy.bench.report.model import Machine

LOAD = "load before"
_SHOWN = (
    ("platform", ("platform", "system")),
    ("Python", ("python",)),
    (LOAD, ("load_average",)),
    ("GPU", ("gpu",)),
)


def machine_from_dict(value: Any, clocks: Any = None) -> Machine:
    """The machine as a benchmark wrote it; one that says nothing becomes "unknown machine".

    Two results come from the same machine where processor, cores, memory (to 0.1 GiB: the
    kernel's own share differs from boot to boot), platform, GPU and power mode are the same: one
    board in two power modes is as fast as two boards.

    Args:
        clocks: the object of that name beside it, which holds the power mode.
    """
    data = mapping(value)
    mode = text(first(mapping(clocks), "power_mode")) or text(first(data, "power_mode", "nvpmodel"))
    shown = (("power mode", mode),) if mode else ()
    if isinstance(value, str) and value:
        return Machine(value, ("named", value, mode), shown, power_mode=mode)
    name = text(data.get("cpu")) or text(data.get("processor")) or text(data.get("name"))
    cores = whole(data.get("cores_usable")) or whole(data.get("cores"))
    mib = _memory_mib(data)
    gib = None if mib is None else round(mib / 1024, 1)
    facts = [("processor", name)] if name else []
    if cores:
        facts.append(("cores for the process", str(cores)))
    if gib:
        facts.append(("memory", f"{gib:g} GiB"))
    limit = positive(data.get("memory_limit_mib"))
    if limit:
        facts.append(("memory limit", f"{limit:.0f} MiB"))
    for label, keys in _SHOWN:
        found = next((text(data[key]) for key in keys if text(data.get(key))), "")
        if found:
            facts.append((label, found))
    platform = text(data.get("platform")) or text(data.get("system"))
    peaks = mapping(data.get("peaks"))
    return Machine(
        name=name or "unknown machine",
        key=(name, cores, gib, platform, text(data.get("gpu")), mode),
        facts=(*facts, *shown),
        versions={
            library: text(version) for library, version in mapping(data.get("versions")).items()
        },
        peak_gmac_s=positive(peaks.get("gmac_per_s")),
        peak_gb_s=positive(peaks.get("gb_per_s")),
        peaks_from=text(peaks.get("source")),
        said=bool(name or cores or platform),
        power_mode=mode,
        load=number(data.get("load_average")),
    )


def _memory_mib(data: Mapping[str, Any]) -> float | None:
    mib = number(data.get("memory_mib"))
    if mib is not None:
        return mib
    megabytes = number(data.get("memory_mb"))
    return None if megabytes is None else megabytes * 1e6 / (1 << 20)
