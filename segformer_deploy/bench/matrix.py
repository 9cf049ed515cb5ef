"""Many runs: a matrix of cases.

It leaves one JSON per case: cut off at any moment, it goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segformer_deploy.bench.case import Case, error_of, failed, sha256_of_engine
from segformer_deploy.bench.stored import KILLED, Shelf, result_file
from segformer_deploy.errors import InputError, OutputError, SegdeployError
from segformer_deploy.files import write_text

Measure = Callable[[Case], dict[str, Any]]
"""A case's result; `runner.run_case` with its settings, or a fake."""
OnCase = Callable[[Case, dict[str, Any], bool], object]
"""(case, result, whether it was already there), after each case."""
OnAgain = Callable[[Case, str], object]
"""(case, why the result that is there is not this one's), before it is measured again."""


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
    """What a run over the cases gave; `results` are in the cases' order.

    Attributes:
        again: case -> why a result that was there was not kept.
    """

    folder: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    measured: int = 0
    kept: int = 0
    failed: int = 0
    again: dict[str, str] = field(default_factory=dict)

    @property
    def fruitless(self) -> str | None:
        """Why there is nothing to show: the first error, where no case gave figures.

        A case that its memory limit killed is an answer. None where there are figures.
        """
        errors = [one["error"] for one in self.results if not _answered(one)]
        if not self.results or len(errors) < len(self.results):
            return None
        return str(errors[0]["found"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "cases": len(self.results),
            "measured": self.measured,
            "kept": self.kept,
            "failed": self.failed,
            "measured_again": self.again,
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
    check_names(cases)
    return cases


def check_names(cases: Iterable[Case]) -> None:
    """InputError where two cases have one name: they would share one result and one command."""
    named: dict[str, Case] = {}
    for case in cases:
        other = named.setdefault(case.name, case)
        if other is not case:
            raise InputError(
                f"two cases are named {case.name}: {other.engine} and {case.engine}",
                "engines, sizes, backends and threads without repeats",
                "engines of one name in several folders: copy one under another name",
            )


def run_matrix(
    cases: Iterable[Case],
    folder: Path,
    measure: Measure,
    *,
    limit: int | None = None,
    on_case: OnCase = lambda _case, _result, _kept: None,
    on_again: OnAgain = lambda _case, _why: None,
    report: MatrixReport | None = None,
    shelf: Shelf | None = None,
) -> MatrixReport:
    """Measure each case whose result is not there yet, and write it, aside and renamed.

    A case that fails is recorded with its error and the rest goes on. Ctrl-C passes through:
    what was finished is kept, what was under way leaves nothing.

    Args:
        limit: the memory limit that `measure` sets, to tell results under it from others.
        on_again: called where a result is there that is not this case's, or not of this machine.
        report: goes on with this one instead of a new one.
        shelf: of `folder`, where it has been looked at already.

    Raises OutputError where a result cannot be written.
    """
    report = report or MatrixReport(folder)
    shelf = shelf or Shelf(folder)
    for case in cases:
        stored = shelf.find(case, limit)
        result, kept = stored.result, stored.result is not None
        if stored.why is not None:
            report.again[case.name] = stored.why
            on_again(case, stored.why)
        if result is None:
            result = _recorded(case, measure)
            write_text(result_file(folder, case), json.dumps(result, indent=1) + "\n")
            report.measured += 1
        report.kept += kept
        report.failed += result["error"] is not None
        report.results.append(result)
        on_case(case, result, kept)
    return report


def _answered(result: dict[str, Any]) -> bool:
    return result["error"] is None or (result["limit"] or {}).get("outcome") == KILLED


def _recorded(case: Case, measure: Measure) -> dict[str, Any]:
    try:
        return measure(case)
    except OutputError:
        raise  # the disk is full or closed to us: every other case would meet it too
    except (SegdeployError, OSError, MemoryError) as error:
        return failed(case, error_of(error))
