"""Cases beside each other: what tells them apart, and how much faster than in FP32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from segformer_deploy.bench.report.model import Case

_PARTS: tuple[tuple[str, Callable[[Case], str]], ...] = (
    ("machine", lambda case: case.machine.name),
    ("variant", lambda case: case.variant),
    ("size", lambda case: case.size),
    ("precision", lambda case: case.precision),
    ("backend", lambda case: case.library),
    ("threads", lambda case: _threads(case.threads)),
    ("frame", lambda case: _frame(case)),
    ("video", lambda case: f"of {case.video}" if case.video else ""),
    ("device", lambda case: f"on {case.device}" if case.device else ""),
    ("provider", lambda case: f"provider {case.provider}" if case.provider else ""),
    ("arena", lambda case: "" if case.arena else "no arena"),
    ("timed", lambda case: "stages timed" if case.timed else ""),
    ("drawn", lambda case: "" if case.drawn else "no drawing"),
    (
        "limit",
        lambda case: (
            f"in {case.limit.mib:.0f} MiB{'' if case.limit.enforced else ' (not enforced)'}"
            if case.limit
            else ""
        ),
    ),
)
_ALWAYS = ("variant", "size", "precision")
_LAST = (
    ("engine", lambda case: PurePosixPath(case.engine).name),
    ("run", lambda case: f"run {case.run}"),
    ("file", lambda case: case.source),
)


def names_of_cases(cases: Sequence[Case]) -> tuple[tuple[str, ...], str]:
    """A name for each case that no other has, and what all of them share.

    A name holds variant, size and precision, and of the rest only what tells the cases apart.
    Cases that are still alike get their engine's name, their run, or their file.
    """
    common, telling = [], []
    devices = len({case.machine.name for case in cases}) > 1
    for part, read in _PARTS:
        values = {read(case) for case in cases}
        # A device's name is long: beside it only what differs.
        if len(values) > 1 or (part in _ALWAYS and not devices):
            telling.append(read)
        elif part != "machine" and values and (value := next(iter(values))):
            common.append(value)
    names = [_name(case, telling) for case in cases]
    for _, extra in _LAST:
        twice = {name for name in names if names.count(name) > 1}
        if not twice:
            break
        names = [
            f"{name}, {extra(case)}" if name in twice and extra(case) else name
            for name, case in zip(names, cases, strict=True)
        ]
    return tuple(names), ", ".join(common)


def _name(case: Case, parts: Sequence[Callable[[Case], str]]) -> str:
    found = " ".join(value for read in parts if (value := read(case)))
    name = found or PurePosixPath(case.engine).name or case.source
    return name


def _frame(case: Case) -> str:
    """The frame's size; left out where the network sees the frame as it is."""
    return f"frame {case.frame}" if case.frame and case.frame != case.size else ""


def _threads(threads: int | None) -> str:
    return "" if threads is None else f"{threads} thread{'s' if threads != 1 else ''}"


def speed_over_fp32(case: Case, cases: Sequence[Case]) -> float | None:
    """How many times as fast as the same case in FP32; None where that is not known.

    Only measured cases of one machine and one run are set against each other, and only those
    that differ in nothing but the precision.
    """
    if case.p50 is None or case.estimated or case.precision in ("", "fp32"):
        return None
    for other in cases:
        if other.precision == "fp32" and other.p50 is not None and _alike(case, other):
            return other.p50 / case.p50
    return None


def _alike(case: Case, other: Case) -> bool:
    return _ground(case) == _ground(other)


def _ground(case: Case) -> tuple[object, ...]:
    return (
        case.machine.key, case.run, case.estimated, case.variant, case.size, case.frame,
        case.library, case.threads, case.device, case.video, case.drawn, case.provider,
        case.arena, case.timed,
        case.limit.mib if case.limit and case.limit.enforced else None,
    )  # fmt: skip
