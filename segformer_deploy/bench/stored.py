"""A result that an earlier run left: whether it is this case's, made here; and why it is not.

Figures of another machine, power mode or library would stand beside new ones without a word,
so what differs is measured again, and said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from segformer_deploy.bench.case import Case
from segformer_deploy.bench.limit import MIB, Group, memory_group
from segformer_deploy.bench.memory import machine_facts
from segformer_deploy.host.clocks import clock_facts
from segformer_deploy.host.facts import Ask
from segformer_deploy.host.power import power_mode
from segformer_deploy.runtime.native import describe
from segformer_deploy.version import __version__

KILLED = "killed"
_LATENCIES = ("p50", "p90", "p99", "min")
_EXACT = ("cpu", "cores", "platform", "python")
_MEMORY_SHARE = 0.03
"""A kernel of another build keeps a little more of the same RAM for itself."""
_LIBRARIES = {
    "native": (),
    "onnxruntime": ("onnxruntime",),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx",),
}
_EVERY = ("onnxruntime", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Here:
    """The machine as it is now, to hold earlier results against.

    Attributes:
        machine: what `machine_facts` tells, as results hold it.
        power_mode, governors: as `host.power` tells them in results.
        kernels: as results name them.
    """

    machine: Mapping[str, Any]
    power_mode: str | None = None
    governors: tuple[str, ...] = ()
    kernels: str | None = None
    _groups: dict[int, bool] = field(default_factory=dict, repr=False, compare=False)

    def enforces(self, limit: int) -> bool:
        """Whether a control group can be had here for a limit in bytes; tried once."""
        if limit not in self._groups:
            with memory_group(limit) as group:
                self._groups[limit] = isinstance(group, Group)
        return self._groups[limit]


def this_machine() -> Here:
    """As it is now."""
    governors = {one.governor for one in clock_facts().cpu if one.governor}
    return Here(
        machine_facts().to_dict(),
        Ask()("power_mode", power_mode),
        tuple(sorted(governors)),
        describe(),
    )


@dataclass(frozen=True)
class Stored:
    """What lies in a case's file.

    Attributes:
        result: None where there is nothing to be kept.
        why: why what is there is not kept; None where there is nothing, or nothing that reads.
    """

    result: dict[str, Any] | None = None
    why: str | None = None


class Shelf:
    """The results of a folder, as seen from this machine. Reads the machine once."""

    def __init__(self, folder: Path, here: Here | None = None) -> None:
        self._folder = folder
        self._given = here

    @cached_property
    def _here(self) -> Here:
        return self._given or this_machine()

    def find(self, case: Case, limit: int | None = None) -> Stored:
        """The result of just this case, limit, version and machine, with figures or killed.

        Args:
            limit: in bytes, the memory limit that it has to be of; None for none.
        """
        try:
            text = result_file(self._folder, case).read_text(encoding="utf-8")
            result = json.loads(text)
        except (OSError, ValueError):
            return Stored()
        if not _reads(result, case):
            return Stored()
        why = self._why_not(result, case, limit)
        return Stored(result) if why is None else Stored(None, why)

    def _why_not(self, result: dict[str, Any], case: Case, limit: int | None) -> str | None:
        found = result["limit"] or {}
        if result["case"] != case.recorded():
            return _of_another_case(result["case"], case)
        if result["segdeploy"] != __version__:
            return f"of version {result['segdeploy']}, this is {__version__}"
        if found.get("bytes") != limit:
            return f"of {_words_of_limit(found.get('bytes'))}, now {_words_of_limit(limit)}"
        if result["error"] is not None and found.get("outcome") != KILLED:
            return f"a failure: {result['error']['found']}"
        other = differences(result, case, self._here)
        if other:
            return f"of another machine or setting: {'; '.join(other)}"
        if limit is not None and found.get("enforced") is False and self._here.enforces(limit):
            return "of a limit that was not enforced, and can be now"
        return None


def result_file(folder: Path, case: Case) -> Path:
    return folder / f"{case.name}.json"


def differences(result: Mapping[str, Any], case: Case, here: Here) -> list[str]:
    """What was otherwise when `result` was measured, in words; empty where nothing was."""
    before, now = result["machine"], here.machine
    told = [(name, before.get(name), now.get(name)) for name in _EXACT]
    libraries = ("numpy", *_LIBRARIES.get(case.backend, _EVERY))
    versions = before.get("versions") or {}
    told += [(name, versions.get(name), now["versions"].get(name)) for name in libraries]
    if result.get("kernels") is not None:
        told.append(("kernels", result["kernels"], here.kernels))
    clocks = result.get("clocks")
    if clocks is not None:  # a killed process tells none
        told.append(("power mode", clocks.get("power_mode"), here.power_mode))
        governors = ", ".join(clocks.get("governors") or ()) or None
        told.append(("governor", governors, ", ".join(here.governors) or None))
    found = [f"{name} {was}, now {is_}" for name, was, is_ in told if was != is_]
    sizes = ["memory_mib"]
    if result.get("limit") is None:
        sizes.append("memory_limit_mib")  # else it is the limit of the case's own group
    for name in sizes:
        if not _as_large(before.get(name), now.get(name)):
            found.append(f"{name} {_mib(before.get(name))}, now {_mib(now.get(name))}")
    return found


def _as_large(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _MEMORY_SHARE * max(one, other)


def _mib(size: float | None) -> str:
    return "unknown" if size is None else f"{size:.0f}"


def _words_of_limit(size: int | None) -> str:
    return "no limit" if size is None else f"a limit of {size / MIB:g} MiB"


def _of_another_case(was: Mapping[str, Any], case: Case) -> str:
    now = case.recorded()
    names = [name for name in {**now, **was} if now.get(name) != was.get(name)]
    return f"of another case: {', '.join(names)}"


def _reads(result: Any, case: Case) -> bool:
    """Whether `result` has all that a matrix, `fit` and their tables take from it."""
    if not (isinstance(result, dict) and isinstance(result.get("case"), dict)):
        return False
    if not isinstance(result.get("machine"), dict) or "segdeploy" not in result:
        return False
    for name in ("limit", "energy", "clocks", "error"):
        if name not in result or not isinstance(result[name], (dict, type(None))):
            return False
    if result["error"] is not None:
        return all(isinstance(result["error"].get(key), str) for key in ("kind", "found"))
    latency, accuracy = result.get("latency_ms"), result.get("accuracy")
    return (
        isinstance(latency, dict)
        and all(_is_figure(latency.get(name)) for name in _LATENCIES)
        and _is_figure(result.get("peak_rss_mib"))
        and isinstance(result.get("size"), str)
        and isinstance(result.get("backend"), str)
        and (case.images is None or isinstance(accuracy, dict))
        and (not accuracy or _is_figure(accuracy.get("miou")))
    )


def _is_figure(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0
