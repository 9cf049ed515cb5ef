"""The search for the smallest limit that a case survives."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.case import Case, failed
from segformer_deploy.bench.limit import MIB
from segformer_deploy.bench.smallest import search_smallest, smallest_surviving


def result_of(case: Case, **more: Any) -> dict[str, Any]:
    return {**failed(case, {}), "error": None, "latency_ms": {"p50": 2.0}, **more}


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 1000))
def test_bisection_finds_the_border(border: int, start: int, more: int) -> None:
    largest = start + more
    tried: list[int] = []

    def survives(mib: int) -> bool:
        tried.append(mib)
        return mib >= border

    search = smallest_surviving(survives, start, largest)
    assert search.smallest == (border if border <= largest else None)
    assert all(tried.count(mib) == 2 for mib in tried)
    assert search.notes == ()
    # By quarters from 1 to 1900: 33 steps; 9 to halve the last one; 2 above the answer.
    assert len(search.probes) < 48


def test_what_is_not_monotonic_is_said() -> None:
    found = smallest_surviving(lambda mib: mib >= 30 and mib != 31, 60, 200)
    assert found.smallest == 30
    assert "not monotonic: 30 MiB survived, and the larger 31 MiB did not" in found.notes[0]
    runs = iter([True, False])
    mixed = smallest_surviving(lambda mib: next(runs) if mib == 5 else mib > 5, 10, 20)
    assert mixed.smallest == 6
    assert "5 MiB survived in 1 of 2 runs" in mixed.notes


def test_a_search_without_groups_gives_the_peak() -> None:
    case = Case("a")

    def measure(one: Case, limit: int | None = None, timeout: float = 0) -> dict[str, Any]:
        found = None if limit is None else {"enforced": False, "why": "no groups"}
        return result_of(one, peak_rss_mib=120.2, limit=found)

    found = search_smallest(case, 2, 1.0, measure=measure)["smallest_limit"]
    assert (found["mib"], found["enforced"], found["why"]) == (121, False, "no groups")


def test_a_search_gives_the_result_under_the_smallest_limit() -> None:
    told: list[str] = []

    def measure(one: Case, limit: int | None = None, timeout: float = 0) -> dict[str, Any]:
        if limit is None:
            return result_of(one, peak_rss_mib=120.2)
        survived = limit >= 77 * MIB
        outcome = "survived" if survived else "killed"
        found = {"enforced": True, "survived": survived, "outcome": outcome, "bytes": limit}
        return result_of(one, peak_rss_mib=70.0, limit=found)

    result = search_smallest(
        Case("a"), 2, 1.0, lambda _done, text: told.append(text), measure=measure
    )
    assert result["smallest_limit"]["mib"] == 77
    assert result["limit"]["bytes"] == 77 * MIB
    assert result["case"]["runs"] == 2
    assert "76 MiB: killed" in told


def test_a_slow_device_gets_the_time_that_it_needs() -> None:
    given_to: list[float] = []

    def measure(one: Case, limit: int | None = None, timeout: float = 0) -> dict[str, Any]:
        if limit is None:
            return result_of(one, peak_rss_mib=5.0, latency_ms={"p50": 60_000.0})
        given_to.append(timeout)
        return result_of(one, limit={"enforced": False, "why": "no groups"})

    search_smallest(Case("a"), 3, 120.0, measure=measure)
    assert given_to == [2400.0]  # ten times four runs of a minute
