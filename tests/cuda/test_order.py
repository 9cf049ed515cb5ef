"""What runs when: streams, events, waits and graphs of every driver, and what nothing orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.driver import Driver
from segformer_deploy.cuda.lazy import Schedule
from segformer_deploy.errors import BackendError, RunError
from tests.cuda.gpus import Gpu, Work, in_thread

SCHEDULES: list[Schedule] = ["late", "early", *range(1, 9)]


def test_nothing_runs_before_it_is_waited_for(gpu: Gpu) -> None:
    """Copies move what is in the host's memory when they run."""
    driver = gpu.open()
    stream, block = driver.open_stream(), driver.allocate(8, "a test")
    source, back = np.full(8, 7, np.uint8), np.zeros(8, np.uint8)
    driver.copy_in(block.address, source, stream)
    driver.copy_out(back, block.address, stream)
    source[:] = 9
    assert not back.any()
    driver.synchronise(stream)
    assert (back == 9).all()
    driver.close()


@pytest.mark.parametrize("ordered", [True, False])
def test_another_stream_runs_after_an_event_only(gpu: Gpu, ordered: bool) -> None:
    driver = gpu.open()
    work = Work(driver)
    other, event = driver.open_stream(), driver.open_event()
    one, two = work.floats(10, 3), work.floats(10)
    work.scale(one, two, 2.0)
    driver.record(event, work.stream)
    if ordered:
        driver.wait(other, event)
    work.scale(two, two, 10.0, other)
    found = work.read(two, other)
    np.testing.assert_array_equal(found, [60.0 if ordered else 0.0] * 10)
    driver.close()


def pipeline(work: Work, frames: int, events: bool, free: bool = True) -> list[Any]:
    """Frames up on one stream and doubled on another, through one buffer that both use."""
    driver = work.driver
    second = driver.open_stream()
    filled, emptied = driver.open_event(), driver.open_event()
    buffer, answers = work.floats(10), [work.floats(10) for _ in range(frames)]
    sources = [np.full(10, 1 + n, np.float32) for n in range(frames)]
    for source, answer in zip(sources, answers, strict=True):
        if events and free:
            driver.wait(work.stream, emptied)
        driver.copy_in(buffer.address, source, work.stream)
        driver.record(filled, work.stream)
        if events:
            driver.wait(second, filled)
        work.scale(buffer, answer, 2.0, second)
        driver.record(emptied, second)
    driver.synchronise(second)
    driver.synchronise(work.stream)
    return [float(work.read(answer)[-1]) for answer in answers]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_pipeline_is_right_whenever_it_runs(gpu: Gpu, schedule: Schedule) -> None:
    gpu.schedule = schedule
    driver = gpu.open()
    assert pipeline(Work(driver), 5, events=True) == [2.0, 4.0, 6.0, 8.0, 10.0]
    driver.close()


@pytest.mark.parametrize("free", [True, False])
def test_a_pipeline_without_its_events_is_found_out(gpu: Gpu, free: bool) -> None:
    """Each of its two kinds, by some schedule; where work runs at once, nothing is."""
    wrong = set()
    for schedule in SCHEDULES:
        gpu.schedule = schedule
        driver = gpu.open()
        if pipeline(Work(driver), 5, events=not free, free=False) != [2.0, 4.0, 6.0, 8.0, 10.0]:
            wrong.add(schedule)
        driver.close()
    assert len(wrong) > 3, wrong
    assert "early" not in wrong
    assert free == ("late" in wrong)


def test_an_event_is_a_place_and_no_stream(gpu: Gpu) -> None:
    """What comes after it is not waited for; recorded again, who waited still waits for before."""
    driver = gpu.open()
    work = Work(driver)
    event, other = driver.open_event(), driver.open_stream()
    block, copy = work.floats(10, 1), work.floats(10)
    work.scale(block, block, 2.0)
    driver.record(event, work.stream)
    driver.wait(other, event)
    work.scale(block, block, 100.0)
    driver.record(event, work.stream)
    work.scale(block, copy, 1.0, other)
    np.testing.assert_array_equal(work.read(copy, other), [2.0] * 10)
    driver.synchronise_event(event)
    np.testing.assert_array_equal(work.read(block, other), [200.0] * 10)
    driver.close()


def test_an_event_that_was_never_recorded_holds_nobody_up(gpu: Gpu) -> None:
    driver = gpu.open()
    work = Work(driver)
    event = driver.open_event()
    driver.synchronise_event(event)
    driver.wait(work.stream, event)
    assert work.read(work.floats(3, 1)).tolist() == [1.0] * 3
    driver.close()


def test_elapsed_time(gpu: Gpu) -> None:
    driver = gpu.open()
    work = Work(driver)
    block = work.floats(100_000, 1)
    start, end = driver.open_event(timing=True), driver.open_event(timing=True)
    with pytest.raises(RunError, match=r"CUDA_ERROR_INVALID_HANDLE \(400\)"):
        driver.elapsed_ms(start, end)
    driver.record(start, work.stream)
    work.scale(block, block, 2.0)
    driver.record(end, work.stream)
    with pytest.raises(RunError, match=r"CUDA_ERROR_NOT_READY \(600\)"):
        driver.elapsed_ms(start, end)
    driver.synchronise_event(end)
    assert 0 < driver.elapsed_ms(start, end) < 10_000
    assert driver.elapsed_ms(end, start) < 0
    plain = driver.open_event()
    driver.record(plain, work.stream)
    driver.synchronise(work.stream)
    with pytest.raises(RunError, match=r"CUDA_ERROR_INVALID_HANDLE \(400\)"):
        driver.elapsed_ms(start, plain)
    driver.close()


def with_graphs(gpu: Gpu) -> Driver:
    if gpu.name == "pycuda":
        pytest.skip("it offers no graphs")
    return gpu.open()


def test_a_graph_runs_when_it_is_launched(gpu: Gpu) -> None:
    """On the memory that was named when it was captured, as often as one likes."""
    driver = with_graphs(gpu)
    work = Work(driver)
    source, back = np.zeros(10, np.float32), np.zeros(10, np.float32)
    one, two = work.floats(10, 5), work.floats(10)

    def round_trip() -> None:
        driver.copy_in(one.address, source, work.stream)
        work.scale(one, two, 3.0)
        driver.copy(one.address, two.address, 40, work.stream)
        driver.copy_out(back, one.address, work.stream)

    graph = driver.capture(work.stream, round_trip)
    np.testing.assert_array_equal(work.read(one), [5.0] * 10)
    other = driver.open_stream()
    for value, stream in ((2.0, work.stream), (7.0, other), (1.0, work.stream)):
        source[:] = value
        graph.launch(stream)
        assert not (back == 3 * value).any()
        driver.synchronise(stream)
        np.testing.assert_array_equal(back, [3 * value] * 10)
    graph.close()
    graph.close()
    with pytest.raises(RunError, match="a closed graph"):
        graph.launch(work.stream)
    driver.close()


def test_an_exception_ends_a_capture(gpu: Gpu) -> None:
    """Nothing of it runs, and the stream is as before."""
    driver = with_graphs(gpu)
    work = Work(driver)
    block = work.floats(10, 5)

    def fails() -> None:
        work.scale(block, block, 3.0)
        raise ZeroDivisionError("of the test")

    with pytest.raises(ZeroDivisionError, match="of the test"):
        driver.capture(work.stream, fails)
    np.testing.assert_array_equal(work.read(block), [5.0] * 10)
    driver.capture(work.stream, lambda: work.scale(block, block, 3.0)).launch(work.stream)
    np.testing.assert_array_equal(work.read(block), [15.0] * 10)
    driver.close()


@pytest.mark.parametrize("what", ["wait", "allocate", "pin"])
def test_a_capture_neither_waits_nor_allocates(gpu: Gpu, what: str) -> None:
    driver = with_graphs(gpu)
    work = Work(driver)
    calls = {
        "wait": lambda: driver.synchronise(work.stream),
        "allocate": lambda: driver.allocate(10, "a test"),
        "pin": lambda: driver.allocate_host(10, "a test"),
    }
    with pytest.raises(RunError, match=r"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED \(900\)"):
        driver.capture(work.stream, calls[what])
    block = work.floats(10, 5)
    driver.capture(work.stream, lambda: work.scale(block, block, 3.0)).launch(work.stream)
    np.testing.assert_array_equal(work.read(block), [15.0] * 10)
    driver.close()


@pytest.mark.parametrize("joined", [True, False])
def test_a_capture_takes_other_streams_in(gpu: Gpu, joined: bool) -> None:
    """From an event to an event back, without which it is no graph."""
    driver = with_graphs(gpu)
    work = Work(driver)
    other, fork, join = driver.open_stream(), driver.open_event(), driver.open_event()
    one, two = work.floats(10, 5), work.floats(10)

    def forks() -> None:
        work.scale(one, one, 3.0)
        driver.record(fork, work.stream)
        driver.wait(other, fork)
        work.scale(one, two, 2.0, other)
        driver.record(join, other)
        if joined:
            driver.wait(work.stream, join)
        work.scale(two, two, 10.0)

    if joined:
        driver.capture(work.stream, forks).launch(work.stream)
        np.testing.assert_array_equal(work.read(two), [300.0] * 10)
    else:
        with pytest.raises(RunError, match=r"CUDA_ERROR_STREAM_CAPTURE_UNJOINED \(904\)"):
            driver.capture(work.stream, forks)
    # The other one is a stream of its own again; its event was the capture's.
    work.scale(one, one, 1.0, other)
    driver.synchronise(other)
    with pytest.raises(RunError, match=r"CUDA_ERROR_CAPTURED_EVENT \(907\)"):
        driver.wait(work.stream, join)
    driver.close()


def test_a_capture_does_not_wait_for_what_lies_outside(gpu: Gpu) -> None:
    driver = with_graphs(gpu)
    work = Work(driver)
    event, other = driver.open_event(), driver.open_stream()
    driver.record(event, other)
    with pytest.raises(RunError, match=r"CUDA_ERROR_STREAM_CAPTURE_ISOLATION \(905\)"):
        driver.capture(work.stream, lambda: driver.wait(work.stream, event))
    driver.close()


def test_others_work_beside_a_capture(gpu: Gpu) -> None:
    """Of another thread, while this one captures."""
    driver = with_graphs(gpu)
    work, other = Work(driver), Work(gpu.open())
    block = work.floats(10, 5)

    def both() -> None:
        work.scale(block, block, 3.0)
        found = in_thread(lambda: other.read(other.floats(10, 4)))
        np.testing.assert_array_equal(found, [4.0] * 10)

    driver.capture(work.stream, both).launch(work.stream)
    np.testing.assert_array_equal(work.read(block), [15.0] * 10)
    other.driver.close()
    driver.close()


def test_pycuda_offers_no_graphs(gpu: Gpu) -> None:
    driver = gpu.open()
    if not driver.graphs:
        with pytest.raises(BackendError, match="no graphs") as caught:
            driver.capture(driver.open_stream(), lambda: None)
        assert "cuda" in caught.value.next_step
    driver.close()
