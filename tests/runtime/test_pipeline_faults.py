"""Each call of the driver failing in turn: a named error, nothing held, and the next one works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from segformer_deploy.errors import SegdeployError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.cuda.host.library import HostCuda
from tests.runtime.gpu import Gpu, frames, network, spec_of

CLASSES = 5
SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(64, 64)))
GIVEN = [*frames(4, 40, 50), *frames(2, 33, 61, seed=1), *frames(1, 40, 50, seed=2)]
CLOSING = ("Free", "Destroy", "Unload", "Release")
"""What fails to go back once stays until the context ends."""
ASKING = ("cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuDeviceTotalMem")
"""How `find_gpus` begins: without an answer the kernels' PTX is taken, which runs too."""
OUT_OF_MEMORY, LAUNCH_FAILED, UNKNOWN = 2, 719, 999


def story(gpu: Gpu, engine_bytes: bytes) -> list[Any]:
    """Open, a stream whose size changes twice, a batch with confidence, close."""
    engine = gpu.engine(engine_bytes)
    try:
        with Segmenter(engine, spec=SPEC, device="cuda") as segment:
            found = [class_map for _, class_map in segment.stream(GIVEN)]
            found += [found for found, _ in segment(GIVEN[:2], confidence=True)]
    finally:
        engine.close()
    return found


@pytest.fixture
def tell(host_gpu: Gpu) -> Iterator[Callable[[], list[Any]]]:
    """The story; no thread may be left of it."""
    graph, threads = network(CLASSES), threading.active_count()
    story(host_gpu, graph)  # what is loaded once
    yield lambda: story(host_gpu, graph)
    host_gpu.host.reset(1)
    assert threading.active_count() == threads


def assert_right(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def calls_of(host: HostCuda, tell: Callable[[], list[Any]]) -> tuple[list[str], list[Any]]:
    host.reset(1)
    expected = tell()
    host.assert_nothing_left()
    return host.calls, expected


def code_for(name: str) -> int:
    if "Alloc" in name or "Create" in name or "Instantiate" in name:
        return OUT_OF_MEMORY
    return LAUNCH_FAILED if "Launch" in name or "Synchronize" in name else UNKNOWN


def ending(tell: Callable[[], list[Any]]) -> tuple[SegdeployError | None, list[Any]]:
    """How the story ends: any other exception passes on, and fails the test."""
    try:
        return None, tell()
    except SegdeployError as error:
        return error, []


def test_each_call_failing_once(host_gpu: Gpu, tell: Callable[[], list[Any]]) -> None:
    host = host_gpu.host
    calls, expected = calls_of(host, tell)
    assert len(set(calls)) > 20
    for number, name in enumerate(calls):
        where = f"call {number} of {len(calls)}, {name}"
        host.reset(1)
        host.fail(skip=number, code=code_for(name))
        error, found = ending(tell)
        assert host.calls[number] == name
        if error is None:
            assert name.startswith(ASKING), where
            assert_right(found, expected)
            host.assert_nothing_left()
            continue
        assert f"{name} failed: CUDA_ERROR_" in error.found, (where, error)
        assert f"({code_for(name)})" in error.found, (where, error)
        assert error.expected, where
        assert error.next_step, where
        left = {"held": 0, "host_held": 0, "retained": 0, "streams": 0, "pending": 0}
        assert {each: getattr(host, each) for each in left} == left, where
        # A graph that does not go keeps what was made of it; a context is also left by who frees.
        closing = any(word in name for word in (*CLOSING, "CtxSetCurrent"))
        allowed = closing + (name == "cuGraphDestroy")
        assert host.leaked <= allowed, where
        assert host.faults == [], where
        if number % 20 == 0:
            assert_right(tell(), expected)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_device_lost_at_any_call(host_gpu: Gpu, tell: Callable[[], list[Any]], step: int) -> None:
    """Every call fails from there; once the device is back, the next one works."""
    host = host_gpu.host
    calls, expected = calls_of(host, tell)
    for number in range(0, len(calls), step):
        where = f"call {number} of {len(calls)}, {calls[number]}"
        host.reset(1)
        host.fail(skip=number, code=LAUNCH_FAILED, once=False)
        error, _ = ending(tell)
        assert error is not None, where
        assert "CUDA_ERROR_LAUNCH_FAILED (719)" in error.found, (where, error)
        assert (host.held, host.host_held, host.retained) == (0, 0, 0), where
        assert host.faults == [], where
        if number % 20 == 0:
            host.mend()
            assert_right(tell(), expected)


@contextmanager
def network_fails_at(gpu: Gpu, run: int) -> Iterator[None]:
    """The run of this number ends as a kernel does that crashes, some time after its launch."""
    world, count = gpu.machine.world, 0
    usual = world.enqueue

    def enqueue(handle: int, work: Callable[[], None]) -> None:
        def crash() -> None:
            nonlocal count
            count += 1
            if count == run:
                raise AssertionError("a kernel of a test crashed")
            work()

        usual(handle, crash)

    world.enqueue = enqueue  # type: ignore[method-assign]
    try:
        yield
    finally:
        world.enqueue = usual  # type: ignore[method-assign]


@pytest.mark.parametrize("schedule", ["late", "early", 3])
def test_a_kernel_that_crashes(host_gpu: Gpu, tell: Callable[[], list[Any]], schedule: Any) -> None:
    """The error comes with whatever waits, names the crash, and all goes back with the context."""
    host = host_gpu.host
    host_gpu.schedule = schedule
    _, expected = calls_of(host, tell)
    for run in range(1, len(GIVEN) + 2):
        host.reset(1)
        with network_fails_at(host_gpu, run):
            error, _ = ending(tell)
        assert error is not None, run
        assert "CUDA_ERROR_LAUNCH_FAILED (719)" in error.found, (run, error)
        assert "restart the program" in error.next_step
        assert (host.held, host.host_held, host.retained) == (0, 0, 0), run
    assert_right(tell(), expected)


def test_too_little_memory_says_for_what(host_gpu: Gpu, tell: Callable[[], list[Any]]) -> None:
    host = host_gpu.host
    host.reset(1)
    expected = tell()
    peak, said = host.peak, set()
    for capacity in np.linspace(1, peak - 1, 40):
        host.reset(1)
        host.capacity = int(capacity)
        error, _ = ending(tell)
        assert error is not None, capacity
        assert "CUDA_ERROR_OUT_OF_MEMORY (2)" in error.found
        said.add(error.found.partition(" of device memory for ")[2].partition(":")[0])
        host.assert_nothing_left()
    assert len(said) > 2, said
    host.reset(1)
    host.capacity = peak
    assert_right(tell(), expected)


def met_and_went_on(gpu: Gpu, number: int, expected: list[Any]) -> bool:
    """Whether call `number` of a stream failed; then the segmenter was right afterwards."""
    host = gpu.host
    host.reset(1)
    engine = gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        before = len(host.calls)
        host.fail(skip=number, code=OUT_OF_MEMORY)
        error, _ = ending(lambda: [found for _, found in segment.stream(GIVEN)])
        host.mend()
        name = (host.calls[before:] + [""] * number)[number]
        assert (f"{name} failed: CUDA_ERROR_OUT_OF_MEMORY (2)" in str(error)) or error is None
        # Other frames first: what the failed ones left must not show.
        found = [found for _, found in segment.stream(GIVEN[::-1])]
        assert_right(found, expected[::-1])
    engine.close()
    assert host.faults == [], name
    assert host.leaked == 0 or any(word in name for word in CLOSING), name
    return error is not None


def test_a_segmenter_goes_on_after_an_error(host_gpu: Gpu) -> None:
    """Any one call of a stream fails: the segmenter that met it gives right answers afterwards."""
    engine = host_gpu.engine(network(CLASSES))
    with Segmenter(engine, spec=SPEC, device="cpu") as cpu:
        expected = [cpu(frame) for frame in GIVEN]
    engine.close()
    number = 0
    while met_and_went_on(host_gpu, number, expected):
        number += 1
    assert number > 80
