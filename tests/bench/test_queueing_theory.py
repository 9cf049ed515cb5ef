"""The closed forms, held to cases that are known by other ways."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.bench.queueing_theory import (
    erlang_c,
    least_drops,
    mean_wait,
    periodic_backlog_exceeds,
    periodic_wait_percentile,
)


@given(st.integers(1, 30), st.floats(0.01, 0.99))
def test_erlang_c_is_its_sum(servers: int, share: float) -> None:
    load = share * servers
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) / (1 - share)
    assert erlang_c(servers, load) == pytest.approx(last / (sum(terms) + last), rel=1e-9)


def test_erlang_c_of_a_table() -> None:
    # Two servers, load 1: 1/3; one server: the load itself.
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 2.0) == 1.0


def test_mean_wait_of_one_server() -> None:
    assert mean_wait(0.8, 1.0, service_scv=1.0) == pytest.approx(4.0)  # M/M/1
    assert mean_wait(0.8, 1.0) == pytest.approx(2.0)  # M/D/1: half of it
    assert mean_wait(8.0, 0.1) == pytest.approx(0.2)
    assert mean_wait(1.0, 1.0) == math.inf
    assert mean_wait(0.9, 1.0, arrivals_scv=0.0) == 0.0  # D/D/1


@given(st.integers(1, 60), st.floats(0.05, 0.99))
def test_a_backlog_is_there_as_long_as_the_server_is_busy(sources: int, load: float) -> None:
    service = load / sources
    assert periodic_backlog_exceeds(sources, 1.0, service, 0.0) == pytest.approx(load, rel=1e-6)


def test_two_sources_by_hand() -> None:
    # The second frame comes within s of the first, on a circle of circumference 1: it then finds
    # a backlog of what is left of 0.3; so P(wait > w) = 0.3 - w for each of the two frames.
    for wait in (0.0, 0.1, 0.2):
        assert periodic_backlog_exceeds(1, 1.0, 0.3, wait) == pytest.approx(0.3 - wait)
    assert periodic_wait_percentile(2, 1.0, 0.3, 90) == pytest.approx(0.2)


@given(st.integers(2, 40), st.floats(0.1, 0.95), st.floats(0, 1), st.floats(0, 1))
def test_backlogs_fall(sources: int, load: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    service = load / sources
    falling = [periodic_backlog_exceeds(sources, 1.0, service, x * load) for x in (low, high)]
    assert falling[0] >= falling[1] - 1e-12
    assert periodic_backlog_exceeds(sources, 1.0, service, load) == pytest.approx(0, abs=1e-12)


def test_percentiles_end_where_the_load_does() -> None:
    assert periodic_wait_percentile(1, 1.0, 0.5, 99) == 0.0
    assert periodic_wait_percentile(11, 1.0, 0.1, 99) == math.inf
    full = periodic_wait_percentile(10, 1.0, 0.1, 99)
    assert 0.1 < full < 1.0


def test_drops() -> None:
    assert least_drops(2.0, 1) == 0.5
    assert least_drops(0.9, 1) == 0.0
    assert least_drops(0.0, 1) == 0.0
    assert least_drops(8.0, 6) == 0.25
