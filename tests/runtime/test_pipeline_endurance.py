"""Ten thousand frames: after the first few nothing is allocated, opened or kept any more."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections import deque
from typing import Any

import numpy as np
import pytest

from segformer_deploy.runtime.device_segment import DeviceSegment
from segformer_deploy.runtime.pipeline import Options
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.runtime.gpu import Gpu, frames, network, spec_of

CLASSES = 5
SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(64, 64)))
SIZES = (33, 40), (40, 33), (36, 36)
HOW = {
    "graphs": Options(),
    "no graphs": Options(graphs=False),
    "timed": Options(timed=True),
}
COUNTS = [2000, pytest.param(10_000, marks=pytest.mark.slow)]
KEPT_BY_PYTHON = 100_000
"""Bytes that may come and go (free lists of the interpreter); two thousand objects are more."""


def everything(gpu: Gpu) -> dict[str, int]:
    """What is held on the device and beside it, with nothing in flight."""
    host = gpu.host
    names = ("held", "host_held", "blocks", "streams", "events", "modules", "graphs", "retained")
    return {name: getattr(host, name) for name in names}


def forget(gpu: Gpu, options: Options) -> None:
    """What the machine of the test notes, so that only the package's own memory counts."""
    host = gpu.host
    gpu.machine.world.runs.clear()
    if options.timed or not options.graphs:
        host._kept.clear()  # with graphs they are replayed


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def flow(segment: DeviceSegment, given: list[Any], expected: list[Any], count: int) -> None:
    """`count` frames, as many under way as may be; each answer is looked at."""
    flying: deque[tuple[int, Any]] = deque()
    for number in range(count + segment.depth):
        if len(flying) == segment.depth or number >= count:
            if not flying:
                break
            which, ticket = flying.popleft()
            ((found, _),) = segment.collect(ticket)
            assert np.array_equal(found, expected[which])
        if number < count:
            which = number % len(given)
            flying.append((which, segment.submit([given[which]], "bgr")))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("how", HOW)
def test_nothing_grows(host_gpu: Gpu, how: str, count: int) -> None:
    engine = host_gpu.engine(network(CLASSES))
    given = frames(7, *SIZES[0])
    with Segmenter(engine, spec=SPEC, device="cpu") as cpu:
        expected = [cpu(frame) for frame in given]
    options, threads = HOW[how], threading.active_count()
    segment = DeviceSegment(engine, SPEC, SPEC.resize, options)
    flow(segment, given, expected, 20)
    after_a_few = everything(host_gpu)
    tracemalloc.start()
    flow(segment, given, expected, 50)
    forget(host_gpu, options)
    before = traced()
    for _ in range(10):
        flow(segment, given, expected, count // 10)
        assert everything(host_gpu) == after_a_few
        forget(host_gpu, options)
    grown = traced() - before
    tracemalloc.stop()
    assert grown < KEPT_BY_PYTHON, grown
    assert threading.active_count() == threads
    segment.close()
    engine.close()
    assert host_gpu.held == 0


@pytest.mark.parametrize("rounds", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_grows_where_the_size_keeps_changing(host_gpu: Gpu, rounds: int) -> None:
    """Three sizes, of which two are kept: each change takes the oldest one's memory back."""
    engine = host_gpu.engine(network(CLASSES))
    with (
        Segmenter(engine, spec=SPEC, device="cpu") as cpu,
        Segmenter(engine, spec=SPEC, device="cuda") as cuda,
    ):
        seen = []
        for turn in range(rounds):
            given = frames(5, *SIZES[turn % 3], seed=turn)
            found = [class_map for _, class_map in cuda.stream(given)]
            np.testing.assert_array_equal(found, [cpu(frame) for frame in given])
            seen.append(everything(host_gpu))
        assert seen[3:] == seen[6:9] * ((rounds - 3) // 3)
    engine.close()
