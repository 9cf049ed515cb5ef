"""Blocks go back to the higher precision, worst first, until what is lost is inside a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from segformer_deploy.errors import InputError, VerificationError
from segformer_deploy.workflow.judge import Judge, Verdict
from segformer_deploy.workflow.sensitivity import BlockDamage, Make

DEFAULT_MAX_DROP = 0.15
DEFAULT_MIN_AGREEMENT = 99.0


@dataclass(frozen=True)
class Budget:
    """What a precision may cost.

    Attributes:
        max_drop: mIoU points against the labels; without labels it says nothing.
        min_agreement: pixels of FP32's class, in percent.
    """

    max_drop: float = DEFAULT_MAX_DROP
    min_agreement: float = DEFAULT_MIN_AGREEMENT

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise InputError(f"a largest drop of {self.max_drop} points", "0 or more")
        if not 0 <= self.min_agreement <= 100:
            raise InputError(f"a least agreement of {self.min_agreement} %", "0 to 100 percent")

    def excess(self, verdict: Verdict) -> str | None:
        """What of `verdict` lies outside; None where all is inside."""
        if verdict.drop is not None and verdict.drop > self.max_drop:
            return f"mIoU drops by {verdict.drop:.2f} points (at most {self.max_drop:g})"
        if verdict.agreement < self.min_agreement:
            return (
                f"{verdict.agreement:.2f} % of the pixels agree with FP32 "
                f"(at least {self.min_agreement:g} %)"
            )
        return None


@dataclass(frozen=True)
class GateResult:
    """The blocks that stayed higher, each with its reason, and the verdicts on the way.

    Attributes:
        first: of the full recipe.
        last: of what was kept in the end.
        ranking: the blocks by damage; empty where the full recipe passed.
    """

    kept: dict[str, str]
    first: Verdict
    last: Verdict
    ranking: tuple[BlockDamage, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kept": self.kept,
            "full_recipe": self.first.to_dict(),
            "verdict": self.last.to_dict(),
            "ranking": [one.to_dict() for one in self.ranking],
        }


def pass_gate(
    make: Make,
    blocks: Sequence[str],
    judge: Judge,
    budget: Budget,
    rank: Callable[[], tuple[BlockDamage, ...]],
    say: Callable[[str], None] = lambda _: None,
) -> GateResult:
    """Find the blocks to keep; `rank` is asked only where the full recipe does not pass.

    Raises VerificationError where the budget is broken with every block returned.
    """
    kept: dict[str, str] = {}
    first = last = judge(make(frozenset()))
    excess = budget.excess(last)
    ranking = rank() if excess else ()
    for worst in ranking:
        if not excess:
            break
        kept[worst.block] = (
            f"worst that was left (logits off by {100 * worst.logit_error:.2f} % alone): {excess}"
        )
        say(f"{worst.block} goes back to the higher precision: {excess}")
        if len(kept) == len(blocks):
            break
        last = judge(make(frozenset(kept)))
        excess = budget.excess(last)
    if excess:
        raise VerificationError(
            f"{excess}, with {len(kept)} of {len(blocks)} blocks returned to the higher precision",
            "a precision inside the budget",
            "calibrate on more frames (--calibration), allow more with --max-drop and "
            "--min-agreement, or build without --int8",
        )
    return GateResult(kept, first, last, ranking)
