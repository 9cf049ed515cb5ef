"""Blocks go back worst first, no more than it takes, and each with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from segformer_deploy.errors import InputError, VerificationError
from segformer_deploy.workflow.gate import Budget, GateResult, pass_gate
from segformer_deploy.workflow.judge import Verdict
from segformer_deploy.workflow.sensitivity import BlockDamage

BLOCKS = ("a", "b", "c", "d")
WORST_FIRST = ("c", "a", "d", "b")
RANKING = tuple(
    BlockDamage(block, 1.0 - 0.1 * place, 0.4 - 0.1 * place)
    for place, block in enumerate(WORST_FIRST)
)


def agreement(percent: float) -> Verdict:
    return Verdict(percent, None, None, 0.1)


def with_labels(percent: float, drop: float) -> Verdict:
    return Verdict(percent, 70 - drop, 70.0, 0.1)


class Gate:
    """Graphs are the blocks that they keep; verdicts are given by how many that are."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = verdicts
        self.judged: list[frozenset[str]] = []
        self.rankings = 0
        self.said: list[str] = []

    def make(self, kept: frozenset[str]) -> Any:
        return kept

    def judge(self, graph: Any) -> Verdict:
        self.judged.append(graph)
        return self.verdicts[len(graph)]

    def rank(self) -> tuple[BlockDamage, ...]:
        self.rankings += 1
        return RANKING

    def run(self, budget: Budget | None = None) -> GateResult:
        judge: Any = self.judge
        return pass_gate(
            self.make, BLOCKS, judge, budget or Budget(), self.rank, say=self.said.append
        )


def test_a_recipe_inside_the_budget_is_kept_whole_and_nothing_is_ranked() -> None:
    gate = Gate(agreement(99.5))
    result = gate.run()
    assert (result.kept, result.ranking, gate.rankings, gate.said) == ({}, (), 0, [])
    assert result.first is result.last
    assert gate.judged == [frozenset()]


def test_the_worst_go_back_first_until_the_first_verdict_inside() -> None:
    gate = Gate(*map(agreement, (97, 98.5, 99.2, 0, 0)))
    result = gate.run()
    assert gate.judged == [frozenset(), {"c"}, {"c", "a"}]
    assert list(result.kept) == ["c", "a"]
    assert (result.first.agreement, result.last.agreement) == (97, 99.2)
    assert result.ranking == RANKING
    assert gate.rankings == 1


def test_a_block_that_helps_nothing_stops_nothing() -> None:
    gate = Gate(*map(agreement, (98.9, 98.1, 98.0, 99.0, 0)))
    assert list(gate.run().kept) == ["c", "a", "d"]


def test_each_reason_names_the_damage_and_what_was_outside() -> None:
    gate = Gate(*map(agreement, (97, 98.5, 99.2)))
    kept = gate.run().kept
    assert "40.00 % alone" in kept["c"]
    assert "97.00 % of the pixels agree with FP32 (at least 99 %)" in kept["c"]
    assert "30.00 % alone" in kept["a"]
    assert "98.50 % of the pixels" in kept["a"]
    assert [text.split()[0] for text in gate.said] == ["c", "a"]
    assert "goes back to the higher precision: 97.00 %" in gate.said[0]


def test_labels_decide_by_miou() -> None:
    verdicts = [with_labels(99.9, drop) for drop in (1.0, 0.16, 0.15000001, 0.14)]
    gate = Gate(*verdicts)
    kept = gate.run().kept
    assert list(kept) == ["c", "a", "d"]
    assert "mIoU drops by 1.00 points (at most 0.15)" in kept["c"]


def test_every_block_returned_and_still_outside_is_an_error() -> None:
    gate = Gate(*map(agreement, (90, 91, 92, 93, 100)))
    with pytest.raises(VerificationError, match="4 of 4 blocks returned") as caught:
        gate.run()
    assert "93.00 % of the pixels" in caught.value.found
    assert "--max-drop" in caught.value.next_step
    # A graph without any INT8 is no INT8 graph, so it is not judged.
    assert gate.judged[-1] == {"c", "a", "d"}
    assert len(gate.judged) == 4


def test_the_last_but_one_may_save_it() -> None:
    result = Gate(*map(agreement, (90, 91, 92, 99, 100))).run()
    assert set(result.kept) == {"c", "a", "d"}


def test_the_result_is_plain_data() -> None:
    data: Mapping[str, Any] = json.loads(
        json.dumps(Gate(*map(agreement, (97, 99))).run().to_dict())
    )
    assert set(data["kept"]) == {"c"}
    assert data["full_recipe"]["agreement"] == 97
    assert data["verdict"]["agreement"] == 99
    assert [one["block"] for one in data["ranking"]] == list(WORST_FIRST)


# ---- the budget ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "excess"),
    [
        (agreement(99.0), None),
        (agreement(98.999), "99.00 % of the pixels"),
        (with_labels(99.5, 0.15 - 1e-9), None),
        (with_labels(99.5, 0.5), "mIoU drops by 0.50 points"),
        (with_labels(98.0, 0.0), "98.00 % of the pixels"),
        (with_labels(98.0, 0.5), "mIoU drops by 0.50 points"),
        (with_labels(100.0, -2.0), None),
    ],
)
def test_the_budget_holds_at_its_limits(verdict: Verdict, excess: str | None) -> None:
    found = Budget().excess(verdict)
    if excess is None:
        assert found is None
    else:
        assert found is not None
        assert excess in found


def test_without_labels_a_drop_says_nothing() -> None:
    assert Budget(max_drop=0, min_agreement=0).excess(agreement(3)) is None


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_drop": -0.1}, "largest drop of -0.1"),
        ({"max_drop": float("nan")}, "largest drop of nan"),
        ({"min_agreement": -1}, "least agreement of -1"),
        ({"min_agreement": 100.1}, "least agreement of 100.1"),
        ({"min_agreement": float("nan")}, "least agreement of nan"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget(**limits)
