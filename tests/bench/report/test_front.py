"""Ratios, the front and the winners, against a plain search."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.report.cases import case_from_bench, case_from_estimate
from segformer_deploy.bench.report.compare import names_of_cases, speed_over_fp32
from segformer_deploy.bench.report.front import front_of_cases, winners_of_cases
from segformer_deploy.bench.report.model import Accuracy, Case
from tests.bench.report.given_results import MACHINE, bench, estimated

GIVEN = case_from_bench(bench(), "a.json")


def scored(miou: float, engine: str = "e") -> Accuracy:
    return Accuracy("s.json", engine, "fp32", miou, None, None, 10, (("road", 1.0),))


def case(ms: float, mib: float, miou: float | None = None, **changes: object) -> Case:
    accuracy = None if miou is None else scored(miou)
    return replace(GIVEN, p50=ms, peak_mib=mib, accuracy=accuracy, **changes)  # type: ignore[arg-type]


FIGURES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))


@given(st.lists(FIGURES, min_size=1, max_size=12))
def test_the_front_is_what_a_plain_search_finds(figures: list[tuple[int, int, int]]) -> None:
    cases = [case(float(ms), float(mib), float(miou)) for ms, mib, miou in figures]
    expected = [
        (ms, mib, miou)
        for ms, mib, miou in figures
        if not any(
            a <= ms and b <= mib and c >= miou and (a, b, c) != (ms, mib, miou)
            for a, b, c in figures
        )
    ]
    assert [(c.p50, c.peak_mib, c.miou) for c in front_of_cases(cases)] == expected


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 5000), st.integers(1, 99)),
                min_size=2, max_size=10))  # fmt: skip
def test_a_winner_fits_its_budget_and_none_that_fits_is_better(
    figures: list[tuple[int, int, int]],
) -> None:
    cases = [case(float(ms), float(mib), float(miou)) for ms, mib, miou in figures]
    found = winners_of_cases(cases)
    assert found is not None
    assert found.scored
    for mib, row in zip(found.memory_mib, found.cases, strict=True):
        for ms, winner in zip(found.latency_ms, row, strict=True):
            fitting = [one[2] for one in figures if one[0] <= ms and one[1] <= mib]
            assert (winner is None) == (not fitting)
            if winner is not None:
                assert winner.miou == max(fitting)
    assert found.cases[-1][-1] is not None
    assert math.isinf(found.memory_mib[-1])


def test_without_every_score_networks_are_put_in_order() -> None:
    small, large = case(1, 1, variant="b0"), case(2, 2, variant="b1")
    worse = case(3, 3, variant="b0")
    assert front_of_cases([small, large, worse]) == (small, large)
    found = winners_of_cases([small, large])
    assert found is not None
    assert not found.scored
    assert found.cases[-1][-1] is large


def test_a_broken_limit_an_estimate_and_another_machine_do_not_compete() -> None:
    limit = {"bytes": 1 << 20, "enforced": True, "survived": False}
    broken = case_from_bench(bench(limit=limit), "b.json")
    far = case_from_estimate(estimated(), "c.json")
    other = case_from_bench(bench(machine={**MACHINE, "cpu": "Other"}, scale=0.1), "d.json")
    assert front_of_cases([GIVEN, broken, far, other]) == (GIVEN, other)


def test_cases_on_a_sources_frames_stay_out_beside_others() -> None:
    """Their process also holds what decodes and draws."""
    film, drawn = case(1, 1, video="film.mp4"), case(2, 2, video="film.mp4", drawn=False)
    assert front_of_cases([GIVEN, film]) == (GIVEN,)
    assert front_of_cases([film, GIVEN, drawn]) == (GIVEN,)
    two = [GIVEN, replace(GIVEN, precision="int8")]
    with_film, without = winners_of_cases([*two, film]), winners_of_cases(two)
    assert with_film == without is not None
    # Alone they compete, each with those of the same frames.
    assert front_of_cases([film, drawn]) == (film, drawn)
    assert front_of_cases([film, case(2, 2, video="film.mp4")]) == (film,)
    assert winners_of_cases([film, drawn]) is None


def test_a_ratio_needs_the_same_run_machine_and_everything_but_the_precision() -> None:
    fast = bench(precision="int8", scale=0.5)
    assert speed_over_fp32(case_from_bench(fast, "a.json"), [GIVEN]) == pytest.approx(2.0)
    for change in (
        {"threads": 4}, {"size": "256x256"}, {"frame": "720x1280"}, {"run": "another"},
        {"backend": "onnxruntime 1.30"}, {"machine": {**MACHINE, "cpu": "Other"}},
        {"case": {"variant": "b1"}}, {"case": {"variant": "b0", "arena": False}},
        {"case": {"variant": "b0", "provider": "cuda"}}, {"case": {"variant": "b0", "timed": True}},
        {"clocks": {"power_mode": "15W (1)"}},
    ):  # fmt: skip
        other = case_from_bench({**fast, **change}, "a.json")
        assert speed_over_fp32(other, [GIVEN]) is None, change
    assert speed_over_fp32(case_from_bench(fast, "elsewhere/a.json"), [GIVEN]) is None
    assert speed_over_fp32(GIVEN, [GIVEN]) is None


def test_names_hold_what_differs_and_are_unique() -> None:
    two = [GIVEN, replace(GIVEN, threads=4)]
    names, common = names_of_cases(two)
    assert names == ("b0 512x512 fp32 2 threads", "b0 512x512 fp32 4 threads")
    assert common == "native, frame 480x640, on cpu"
    alike = [replace(GIVEN, source="x.json"), replace(GIVEN, source="y.json")]
    assert len(set(names_of_cases(alike)[0])) == 2


def test_names_tell_arena_provider_and_timing() -> None:
    asked: list[dict[str, object]] = [{"arena": False}, {"provider": "cuda"}, {"timed": True}, {}]
    names, _ = names_of_cases([replace(GIVEN, asked=one) for one in asked])
    assert names == (
        "b0 512x512 fp32 no arena",
        "b0 512x512 fp32 provider cuda",
        "b0 512x512 fp32 stages timed",
        "b0 512x512 fp32",
    )


def test_a_frame_of_the_network_s_size_is_not_named() -> None:
    two = [replace(GIVEN, frame="512x512"), replace(GIVEN, frame="512x512", size="256x256")]
    names, common = names_of_cases(two)
    assert names == ("b0 512x512 fp32", "b0 256x256 fp32 frame 512x512")
    assert "frame" not in common
