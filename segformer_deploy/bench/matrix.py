"""Many runs: a matrix of cases, and one case under smaller and smaller memory limits.

A matrix leaves one JSON per case: cut off at any moment, it goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segformer_deploy.bench.case import Case, error_of, failed, sha256_of_engine
from segformer_deploy.bench.limit import MIB
from segformer_deploy.bench.runner import run_case
from segformer_deploy.errors import InputError, OutputError, SegdeployError
from segformer_deploy.files import write_text
from segformer_deploy.host.memory import memory_facts
from segformer_deploy.version import __version__

Measure = Callable[[Case], dict[str, Any]]
"""A case's result; `runner.run_case` with its settings, or a fake."""
_LOOK_ABOVE = 2
OnCase = Callable[[Case, dict[str, Any], bool], object]
"""(case, result, whether it was already there), after each case."""


@dataclass(frozen=True)
class MatrixEngine:
    """An engine of the matrix.

    Attributes:
        backends: those it is measured on; empty takes the matrix's own.
    """

    path: Path
    variant: str
    precision: str
    label: str | None = None
    backends: tuple[str, ...] = ()


@dataclass
class MatrixReport:
    """What a run over the cases gave; `results` are in the cases' order."""

    folder: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    measured: int = 0
    kept: int = 0
    failed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "cases": len(self.results),
            "measured": self.measured,
            "kept": self.kept,
            "failed": self.failed,
            "results": self.results,
        }


def matrix_cases(
    engines: Sequence[MatrixEngine],
    sizes: Sequence[str | None],
    backends: Sequence[str],
    threads: Sequence[int | None],
    like: Case,
) -> list[Case]:
    """Every combination, cheap ones first within an engine; `like` gives what all share.

    Raises InputError where two cases would have one name.
    """
    cases = [
        replace(
            like,
            engine=str(engine.path),
            label=engine.label,
            variant=engine.variant,
            precision=engine.precision,
            size=size,
            backend=backend,
            threads=count,
            engine_sha256=sha256_of_engine(engine.path),
        )
        for engine in engines
        for size in sizes
        for backend in engine.backends or backends
        for count in threads
    ]
    names: set[str] = set()
    for case in cases:
        if case.name in names:
            raise InputError(
                f"two cases are named {case.name}",
                "engines, sizes, backends and threads without repeats",
                "engines of one name in several folders: copy one under another name",
            )
        names.add(case.name)
    return cases


def result_file(folder: Path, case: Case) -> Path:
    return folder / f"{case.name}.json"


def stored_result(folder: Path, case: Case, limit: int | None = None) -> dict[str, Any] | None:
    """The earlier result of just this case, by this version, without an error; else None."""
    try:
        result = json.loads(result_file(folder, case).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("case") != case.to_dict():
        return None
    found = result.get("limit")
    # A process that its limit killed is a result; other errors may pass, and are tried again.
    answered = result.get("error") is None or (found or {}).get("survived") is False
    same = (found or {}).get("bytes") == limit and result.get("segdeploy") == __version__
    return result if answered and same else None


def run_matrix(
    cases: Iterable[Case],
    folder: Path,
    measure: Measure,
    *,
    limit: int | None = None,
    on_case: OnCase = lambda _case, _result, _kept: None,
    report: MatrixReport | None = None,
) -> MatrixReport:
    """Measure each case whose result is not there yet, and write it, aside and renamed.

    A case that fails is recorded with its error and the rest goes on. Ctrl-C passes through:
    what was finished is kept, what was under way leaves nothing.

    Args:
        limit: the memory limit that `measure` sets, to tell results under it from others.
        report: goes on with this one instead of a new one.

    Raises OutputError where a result cannot be written.
    """
    report = report or MatrixReport(folder)
    for case in cases:
        result = stored_result(folder, case, limit)
        kept = result is not None
        if result is None:
            result = _recorded(case, measure)
            write_text(result_file(folder, case), json.dumps(result, indent=1) + "\n")
            report.measured += 1
        report.kept += kept
        report.failed += result["error"] is not None
        report.results.append(result)
        on_case(case, result, kept)
    return report


def _recorded(case: Case, measure: Measure) -> dict[str, Any]:
    try:
        return measure(case)
    except OutputError:
        raise  # the disk is full or closed to us: every other case would meet it too
    except (SegdeployError, OSError, MemoryError) as error:
        return failed(case, error_of(error))


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
        timeout: of each probe in seconds; one that takes longer did not survive.
        on_probe: called with the number of probes so far and what the last one gave.
    """
    free = measure(case)
    if free["error"] is not None:
        return free
    peak = math.ceil(free["peak_rss_mib"])
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
