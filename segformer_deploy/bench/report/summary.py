"""`Results` -> one JSON-ready object, for a program that reads instead of a person."""

from __future__ import annotations

import math
from typing import Any

from segformer_deploy.bench.report.compare import names_of_cases, speed_over_fp32
from segformer_deploy.bench.report.front import front_of_cases, winners_of_cases
from segformer_deploy.bench.report.model import Case, Group, Results, groups_from_cases


def summary_from_results(results: Results) -> dict[str, Any]:
    """Machines with their cases, front and winners; what else was read; what was not."""
    return {
        "folder": results.folder,
        "files": results.files,
        "machines": [_group(group) for group in groups_from_cases(results.cases)],
        "accuracies": [
            {"file": a.source, "engine": a.engine, "miou": a.miou, "images": a.images}
            for a in results.accuracies
        ],
        "others": [{"file": other.source, "kind": other.kind} for other in results.others],
        "unread": [{"file": name, "why": reason} for name, reason in results.unread],
    }


def _group(group: Group) -> dict[str, Any]:
    names, _ = names_of_cases(group.cases)
    name_of = {id(case): name for case, name in zip(group.cases, names, strict=True)}
    return {
        "machine": "estimates" if group.estimated else group.machine.name,
        "power_mode": group.machine.power_mode or None,
        "estimated": group.estimated,
        "facts": {} if group.estimated else dict(group.machine.facts),
        "cases": [_case(case, name_of[id(case)], group) for case in group.cases],
        "front": [name_of[id(case)] for case in front_of_cases(group.cases)],
        "winners": _winners(group, name_of),
    }


def _winners(group: Group, name_of: dict[int, str]) -> list[dict[str, Any]]:
    """One entry per pair of budgets; null stands for "any", and for "none fits"."""
    found = winners_of_cases(group.cases)
    if found is None:
        return []
    return [
        {
            "memory_mib": None if math.isinf(mib) else mib,
            "latency_ms": None if math.isinf(ms) else ms,
            "case": None if case is None else name_of[id(case)],
            "by": "miou" if found.scored else "order",
        }
        for mib, row in zip(found.memory_mib, found.cases, strict=True)
        for ms, case in zip(found.latency_ms, row, strict=True)
    ]


def _case(case: Case, name: str, group: Group) -> dict[str, Any]:
    return {
        "name": name,
        "machine": case.machine.name,
        "file": case.source,
        "run": case.run,
        "engine": case.engine,
        "estimated": case.estimated,
        "random_weights": case.random,
        "p10_ms": case.p10,
        "p50_ms": case.p50,
        "p90_ms": case.p90,
        "peak_mib": case.peak_mib,
        "miou": case.miou,
        "speed_over_fp32": speed_over_fp32(case, group.cases),
        "error": case.error or None,
    }
