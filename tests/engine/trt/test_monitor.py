"""Progress as one fraction, and work that Ctrl-C can stop."""

from __future__ import annotations

import _thread
import gc
import itertools
import threading
import time
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.engine.trt.monitor import Phases, cancellable, monitor_for
from tests.engine.trt.fake_trt import make_fake

NAMES = st.sampled_from(["a", "b", "c", "[profile 1] a"])
CALLS = st.one_of(
    st.tuples(st.just("start"), NAMES, st.integers(-1, 9)),
    st.tuples(st.just("step"), NAMES, st.integers(-1, 12)),
    st.tuples(st.just("finish"), NAMES, st.just(0)),
)
TREES = st.recursive(
    st.integers(1, 4).map(lambda steps: (steps, [])),
    lambda child: st.tuples(st.integers(1, 4), st.lists(child, max_size=3)),
    max_leaves=8,
)


@given(st.lists(CALLS, max_size=60))
def test_whatever_is_told_the_fraction_rises_within_its_bounds(
    calls: list[tuple[str, str, int]],
) -> None:
    phases, seen = Phases(), [0.0]
    for kind, name, number in calls:
        if kind == "start":
            phases.start(name, number)
        elif kind == "step":
            phases.step(name, number)
        else:
            phases.finish(name)
        seen.append(phases.fraction)
    assert all(0 <= one <= 1 for one in seen)
    assert all(a <= b for a, b in itertools.pairwise(seen))


@given(TREES)
def test_nested_phases_rise(tree: tuple[int, list[Any]]) -> None:
    phases, seen = Phases(), [0.0]
    names = itertools.count()

    def walk(steps: int, children: list[Any]) -> None:
        name = f"phase {next(names)}"
        phases.start(name, steps)
        for step in range(steps):
            if step < len(children):
                walk(*children[step])
            phases.step(name, step)
            seen.append(phases.fraction)
        phases.finish(name)

    walk(*tree)
    assert all(a <= b <= 1 for a, b in itertools.pairwise(seen))
    # The last step of the outermost phase is reached, but for what it stands for itself.
    assert seen[-1] >= (tree[0] - 1) / tree[0]


def test_a_child_is_part_of_a_step_of_its_parent() -> None:
    phases = Phases()
    phases.start("outer", 4)
    phases.step("outer", 0)
    assert phases.fraction == pytest.approx(1 / 4)
    phases.start("inner", 2)
    phases.step("inner", 0)
    assert phases.fraction == pytest.approx(1 / 4 + 1 / 8)
    phases.finish("inner")
    phases.step("outer", 1)
    assert phases.fraction == pytest.approx(2 / 4)


def test_the_monitor_reports_and_cancels() -> None:
    cancel, told = threading.Event(), list[float]()
    monitor = monitor_for(make_fake("10.3.0"), cancel, told.append)
    monitor.phase_start("outer", None, 2)
    monitor.phase_start("inner", "outer", 2)
    assert monitor.step_complete("inner", 0) is True
    cancel.set()
    assert monitor.step_complete("inner", 1) is False
    monitor.phase_finish("inner")
    monitor.phase_finish("outer")
    monitor.phase_finish("never started")
    assert told == sorted(told)
    assert told[0] == pytest.approx(1 / 4)


def test_results_and_exceptions_come_through() -> None:
    assert cancellable(lambda: threading.current_thread().name, threading.Event()) != "MainThread"
    with pytest.raises(ZeroDivisionError) as caught:
        cancellable(lambda: 1 // 0, threading.Event())
    assert any("<lambda>" in str(entry) for entry in caught.traceback), "where it happened"
    with pytest.raises(SystemExit):
        cancellable(lambda: exec("raise SystemExit(3)"), threading.Event())


def test_an_exception_does_not_keep_the_work_alive() -> None:
    class Builder:
        pass

    alive: list[weakref.ref[Builder]] = []

    def work() -> None:
        builder = Builder()
        alive.append(weakref.ref(builder))
        raise ValueError("no plan")

    gc.disable()
    try:
        with pytest.raises(ValueError, match="no plan") as caught:
            cancellable(work, threading.Event())
        del caught
        assert alive[0]() is None
    finally:
        gc.enable()


def test_ctrl_c_cancels_and_waits_for_the_work() -> None:
    cancel, ended = threading.Event(), list[bool]()

    def work() -> None:
        _thread.interrupt_main()
        ended.append(cancel.wait(30))
        time.sleep(0.3)  # what a step takes to end
        ended.append(True)

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        cancellable(work, cancel)
    assert ended == [True, True], "the work ended before we went on"
    assert time.perf_counter() - started < 5


def test_a_cancelled_works_own_interrupt() -> None:
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancellable(work, threading.Event())
