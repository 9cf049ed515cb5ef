"""One case under smaller and smaller memory limits: the smallest that it survives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from segformer_deploy.bench.case import Case
from segformer_deploy.bench.limit import MIB
from segformer_deploy.bench.runner import run_case
from segformer_deploy.host.memory import memory_facts

_LOOK_ABOVE = 2
_SLOWER = 10
"""Near its limit a process reads its files again and again: how much longer it may take."""


@dataclass(frozen=True)
class Search:
    """The smallest limit that survives, in MiB, and how it was found.

    Attributes:
        smallest: None where not even the largest limit tried survived.
        probes: limit -> whether each of its runs survived.
        notes: what makes the answer less than certain.
    """

    smallest: int | None
    probes: dict[int, tuple[bool, ...]]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        tried = [{"mib": mib, "survived": list(runs)} for mib, runs in sorted(self.probes.items())]
        return {"mib": self.smallest, "probes": tried, "notes": list(self.notes)}


def smallest_surviving(
    survives: Callable[[int], bool], start: int, largest: int, runs: int = 2
) -> Search:
    """Bisect to one MiB. A limit survives where each of its runs does.

    Args:
        survives: one run under a limit in MiB.
        start: where to begin: what the process took without a limit, at least 1.
        largest: the largest limit to try.
        runs: per limit.
    """
    probes: dict[int, tuple[bool, ...]] = {}

    def holds(mib: int) -> bool:
        if mib not in probes:
            probes[mib] = tuple(survives(mib) for _ in range(runs))
        return all(probes[mib])

    high = min(max(1, start), largest)
    low = 0  # no process lives in nothing
    while not holds(high):
        low = max(low, high)
        if high >= largest:
            return Search(None, probes, _doubts(probes))
        high = min(largest, high + max(1, high // 4))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    for more in range(high + 1, min(high + _LOOK_ABOVE, largest) + 1):
        holds(more)  # bisection alone never looks above what survived
    return Search(high, probes, _doubts(probes))


def _doubts(probes: dict[int, tuple[bool, ...]]) -> tuple[str, ...]:
    notes = [
        f"{mib} MiB survived in {sum(runs)} of {len(runs)} runs"
        for mib, runs in sorted(probes.items())
        if any(runs) and not all(runs)
    ]
    least = min((mib for mib, runs in probes.items() if all(runs)), default=None)
    larger = [m for m, runs in probes.items() if not all(runs) and least is not None and m > least]
    if larger:
        shown = ", ".join(map(str, sorted(larger)))
        notes.append(
            f"not monotonic: {least} MiB survived, and the larger {shown} MiB did not each time"
        )
    return tuple(notes)


def search_smallest(
    case: Case,
    runs: int,
    timeout: float,
    on_probe: Callable[[int, str], object] = lambda _done, _text: None,
    measure: Callable[..., dict[str, Any]] = run_case,
) -> dict[str, Any]:
    """The result under the smallest limit that survives, with `smallest_limit` beside it.

    Measured without a limit first; where none can be enforced that stays the result, and the
    smallest limit is its peak, marked as not enforced.

    Args:
        runs: of each probe, after one to warm up.
        timeout: of each probe in seconds, or ten times what its runs took without a limit where
            that is longer; one that takes longer did not survive.
        on_probe: called with the number of probes so far and what the last one gave.
    """
    free = measure(case)
    if free["error"] is not None:
        return free
    peak = math.ceil(free["peak_rss_mib"])
    # A slow device is not to be taken for one that lacks memory.
    timeout = max(timeout, _SLOWER * (1 + runs) * free["latency_ms"]["p50"] / 1000)
    probe = replace(case, warmup=1, runs=runs, seconds=None)
    results: dict[int, dict[str, Any]] = {}
    done = 0

    def survives(mib: int) -> bool:
        nonlocal done
        result = measure(probe, limit=mib * MIB, timeout=timeout)
        limit, done = result["limit"], done + 1
        if not limit["enforced"]:
            raise _NotEnforcedError(limit["why"])
        on_probe(done, f"{mib} MiB: {limit['outcome']}")
        if limit["survived"] is None:
            failures.append(f"{mib} MiB: {result['error']['found']}")
        results[mib] = result
        return limit["survived"] is True

    failures: list[str] = []
    usable = memory_facts().usable_bytes
    try:
        found = smallest_surviving(survives, peak, max(peak, (usable or 0) // MIB, 2 * peak))
    except _NotEnforcedError as silence:
        answer = {"mib": peak, "enforced": False, "why": str(silence), "probes": [], "notes": []}
        return {**free, "smallest_limit": answer}
    answer = {**found.to_dict(), "enforced": True, "why": None, "free_peak_mib": peak}
    answer["notes"] += failures
    return {**results.get(found.smallest or 0, free), "smallest_limit": answer}


class _NotEnforcedError(Exception):
    """No limit can be enforced here; the text says why."""
