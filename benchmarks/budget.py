"""Count what a network costs, and hold it against the agreed budget. Nothing is timed.

    python benchmarks/budget.py                            # a table: budget, found, change
    python benchmarks/budget.py --write                    # counts fell: keep the gain
    python benchmarks/budget.py --write --reason "..."     # counts rose: say why that is worth it

Counted are nodes, multiply-accumulates, bytes and data movement of exported graphs, and what
one frame allocates. The same on every machine, so a test can hold a change to it where a timing
would be noise. The agreed counts, and a reason for each rise, are in tests/graph/budget.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The counters beside this file and this checkout; harmless where they are importable already.
for _folder in (HERE.parent, HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from budget_frames import count_frames  # noqa: E402
from budget_graphs import GRAPHS, Counts, count_graph, exported  # noqa: E402

from segformer_deploy.errors import (  # noqa: E402
    InputError,
    SegdeployError,
    SpecError,
    VerificationError,
)
from segformer_deploy.files import write_text  # noqa: E402

BUDGET = HERE.parent / "tests" / "graph" / "budget.json"
COMMAND = "python benchmarks/budget.py --write"
FEWEST_WORDS = 3
"""A reason that says something."""

Agreed = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Difference:
    """A count that is not the budget's.

    Attributes:
        what: case and count; the case alone where all of it came or went.
        budget, found: the counts; of a whole case how many counts it has. None: no such case.
        note: where it comes from, if that is known.
    """

    what: str
    budget: int | None
    found: int | None
    note: str = ""

    @property
    def needs_reason(self) -> bool:
        """A rise; and a case that came or went, behind which a rise could hide."""
        return self.budget is None or self.found is None or self.found > self.budget

    def __str__(self) -> str:
        if self.budget is None:
            return f"{self.what}: a case that the budget does not hold"
        if self.found is None:
            return f"{self.what}: a case of the budget that is not counted any more"
        change = f"{self.found - self.budget:+,}"
        note = f" ({self.note})" if self.note else ""
        return f"{self.what}: the budget is {self.budget:,}, found {self.found:,}: {change}{note}"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        found = counted()
        budget = read_budget(options.budget, may_be_new=options.write)
        differences = compare(budget["counts"], found)
        if options.json:
            print(json.dumps(_result(budget["counts"], found, differences), indent=1))
        else:
            print(table(budget["counts"], found))
        if not options.write:
            check(differences)
            return 0
        new = with_found(budget, found, differences, options.reason)
        write_text(options.budget, json.dumps(new, indent=1) + "\n")
        print(f"wrote {options.budget}: {len(differences)} changed", file=sys.stderr)
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def counted() -> dict[str, Counts]:
    """Every case by its name, the frames' and the graphs'."""
    with tempfile.TemporaryDirectory() as folder:
        frames = count_frames(Path(folder))
    return {name: count_graph(exported(name)) for name in GRAPHS} | frames


def compare(budget: Agreed, found: Mapping[str, Counts]) -> list[Difference]:
    """What is not as agreed, in the order of the cases. A count that is missing is 0."""
    differences = []
    for case in dict.fromkeys([*budget, *found]):
        if case not in budget:
            differences.append(Difference(case, None, len(found[case].values)))
        elif case not in found:
            differences.append(Difference(case, len(budget[case]), None))
        else:
            differences += _compare_case(case, budget[case], found[case])
    return differences


def _compare_case(case: str, budget: Mapping[str, int], found: Counts) -> list[Difference]:
    return [
        Difference(f"{case} {name}", old, new, found.notes.get(name, ""))
        for name in dict.fromkeys([*budget, *found.values])
        if (old := budget.get(name, 0)) != (new := found.values.get(name, 0))
    ]


def check(differences: list[Difference]) -> None:
    """VerificationError where a count is not the budget's, above or below."""
    if not differences:
        return
    if any(one.needs_reason for one in differences):
        step = f'lower what rose, or agree to it: {COMMAND} --reason "why it is worth it"'
    else:
        step = f"keep the gain: {COMMAND}"
    raise VerificationError(
        "\n  ".join(map(str, differences)), f"the counts of {BUDGET.name}, no others", step
    )


def with_found(
    budget: Mapping[str, Any], found: Mapping[str, Counts], differences: list[Difference], why: str
) -> dict[str, Any]:
    """A new budget: the counts found, and `why` beside each that rose.

    InputError where a count rose and `why` is not a few words.
    """
    risen = [one for one in differences if one.needs_reason]
    if risen and len(why.split()) < FEWEST_WORDS:
        raise InputError(
            "no reason for " + "\n  ".join(map(str, risen)),
            f"--reason with at least {FEWEST_WORDS} words, which are kept beside the counts",
            f'lower what rose, or: {COMMAND} --reason "why it is worth it"',
        )
    reasons = [
        {"what": one.what, "from": one.budget, "to": one.found, "why": why.strip()} for one in risen
    ]
    return {
        "counts": {case: counts.values for case, counts in found.items()},
        "reasons": [*budget["reasons"], *reasons],
    }


def read_budget(path: Path = BUDGET, *, may_be_new: bool = False) -> dict[str, Any]:
    """``{"counts": {case: {count: number}}, "reasons": [...]}``; SpecError where it is not so."""
    if may_be_new and not path.exists():
        return {"counts": {}, "reasons": []}
    try:
        budget = json.loads(path.read_text(encoding="utf-8"))
        whole = all(isinstance(n, int) for case in budget["counts"].values() for n in case.values())
        if not (whole and isinstance(budget["reasons"], list)):
            raise TypeError("counts that are no whole numbers, or reasons that are no list")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{path} does not read: {error}",
            "the agreed counts, and the reasons",
            f"take it from the last commit, or begin anew: remove it, then {COMMAND} --reason ...",
        ) from error
    return dict(budget)


def table(budget: Agreed, found: Mapping[str, Counts]) -> str:
    """All counts beside the budget's, for reading."""
    lines = [f"{'':<40}{'budget':>16}{'found':>16}{'change':>16}"]
    for case in dict.fromkeys([*budget, *found]):
        old = budget.get(case, {})
        new = found[case].values if case in found else {}
        lines.append(case)
        for name in dict.fromkeys([*old, *new]):
            change = new.get(name, 0) - old.get(name, 0)
            lines.append(
                f"  {name:<38}{old.get(name, 0):>16,}{new.get(name, 0):>16,}"
                + (f"{change:>+16,}" if change else "")
            )
    return "\n".join(lines)


def _result(
    budget: Agreed, found: Mapping[str, Counts], differences: list[Difference]
) -> dict[str, Any]:
    return {
        "budget": budget,
        "found": {case: counts.values for case, counts in found.items()},
        "notes": {case: counts.notes for case, counts in found.items()},
        "differences": [
            {"what": one.what, "budget": one.budget, "found": one.found} for one in differences
        ],
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Counts of the networks, beside the budget.")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--write", action="store_true", help="make what was found the budget")
    parser.add_argument("--reason", default="", help="why a count may rise; kept in the file")
    parser.add_argument("--budget", type=Path, default=BUDGET, help="the file of agreed counts")
    options = parser.parse_args(arguments)
    if options.reason and not options.write:
        parser.error("--reason goes with --write")
    return options


if __name__ == "__main__":
    sys.exit(main())
