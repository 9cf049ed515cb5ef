"""CUDA graphs: the same answers, captured once per slot, given back with their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.trt.flavour import load_library
from segformer_deploy.engine.trt.runtime import TrtSession
from segformer_deploy.errors import RunError
from segformer_deploy.runtime.device_segment import DeviceSegment
from segformer_deploy.runtime.pipeline import DEPTH, LANES, Options
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.engine.trt.fake_trt import install
from tests.engine.trt.machines import Machine
from tests.runtime.gpu import Gpu, frames, network, spec_of

CLASSES = 5
SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(64, 64)))


def streamed(segment: DeviceSegment, given: list[Any], confidence: bool) -> list[Any]:
    """Answers of frames of which as many are under way as may be."""
    flying, found = [], []
    for frame in given:
        flying.append(segment.submit([frame], "bgr", confidence=confidence))
        if len(flying) == segment.depth:
            found += segment.collect(flying.pop(0), confidence=confidence)
    for ticket in flying:
        found += segment.collect(ticket, confidence=confidence)
    return found


@pytest.mark.parametrize("schedule", ["late", "early", 1])
@pytest.mark.parametrize("confidence", [False, True])
def test_a_replay_is_what_was_captured(host_gpu: Gpu, schedule: Any, confidence: bool) -> None:
    host_gpu.schedule = schedule
    engine, host = host_gpu.engine(network(CLASSES, half=True)), host_gpu.host
    given, answers, launches = frames(11, 61, 83), [], []
    for graphs in (True, False):
        segment = DeviceSegment(engine, SPEC, SPEC.resize, Options(graphs=graphs))
        before = host.count("cuGraphLaunch"), host.count("cuGraphInstantiate")
        before = before[0], before[1] + host.count("cuGraphInstantiateWithFlags")
        answers.append(streamed(segment, given, confidence))
        made = host.count("cuGraphInstantiate") + host.count("cuGraphInstantiateWithFlags")
        launches.append((host.count("cuGraphLaunch") - before[0], made - before[1]))
        segment.close()
    # The first frame binds shapes and uploads tables; then each slot has a graph of its own.
    assert launches == [(10, DEPTH), (0, 0)]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert (one[1] is None) == (not confidence)
        np.testing.assert_array_equal(one[1], other[1])
    engine.close()


def test_a_size_that_goes_takes_its_graphs_along(host_gpu: Gpu) -> None:
    """The one that was used least recently; those that stay are not captured again."""
    engine, host = host_gpu.engine(network(CLASSES)), host_gpu.host
    sizes = (40, 50), (50, 40), (44, 44)
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        for size in sizes[:2]:
            list(segment.stream(frames(6, *size)))
        assert host.graphs == LANES * DEPTH
        kept = host.held, host.host_held, host.events
        list(segment.stream(frames(1, *sizes[0])))  # used again: the other one is older now
        list(segment.stream(frames(6, *sizes[2])))
        assert host.graphs == LANES * DEPTH
        made = host.count("cuGraphInstantiate") + host.count("cuGraphInstantiateWithFlags")
        list(segment.stream(frames(6, *sizes[0])))
        again = host.count("cuGraphInstantiate") + host.count("cuGraphInstantiateWithFlags")
        assert again == made
        list(segment.stream(frames(6, *sizes[1])))
        assert host.graphs == LANES * DEPTH
        list(segment.stream(frames(6, *sizes[0])))
        assert (host.held, host.host_held, host.events) == kept
    engine.close()


def test_sizes_that_are_all_in_flight_are_all_kept(host_gpu: Gpu) -> None:
    """One frame each of three sizes at once: none of them goes while its frame is under way."""
    engine = host_gpu.engine(network(CLASSES))
    given = [frames(1, *size)[0] for size in ((40, 50), (50, 40), (44, 44))] * 3
    with Segmenter(engine, spec=SPEC, device="cpu") as cpu:
        expected = [cpu(frame) for frame in given]
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        for (_, found), wanted in zip(segment.stream(given), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    engine.close()


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuLaunchKernel", "cuGraphLaunch"])
def test_a_capture_that_fails_is_an_error_and_the_next_one_works(host_gpu: Gpu, call: str) -> None:
    engine, host = host_gpu.engine(network(CLASSES)), host_gpu.host
    one, two = frames(2, 40, 50)
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        expected = segment(one)
        host.fail(call, code=999)
        with pytest.raises(RunError, match=rf"{call} failed: CUDA_ERROR_UNKNOWN"):
            segment(two)
        np.testing.assert_array_equal(segment(one), expected)
        assert host.graphs == 1
    engine.close()


def test_a_library_that_refuses_to_be_captured(host_gpu: Gpu) -> None:
    """Its own error, and the stream does not stay in the capture."""
    engine, world = host_gpu.engine(network(CLASSES)), host_gpu.machine.world
    one, two = frames(2, 40, 50)
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        expected = segment(one)
        world.refuse.add("execute_async_v3")
        with pytest.raises(RunError, match="did not start"):
            segment(two)
        world.refuse.clear()
        np.testing.assert_array_equal(segment(one), expected)
    engine.close()


def test_a_binding_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    api = install(monkeypatch, "10.3.0")
    gpu = Gpu(Machine(load_library("tensorrt"), api.world))
    usual = api.world.open_driver

    def plain() -> Any:
        driver = usual()
        driver.graphs = False  # its `capture` is an error then
        return driver

    monkeypatch.setattr(api.world, "open_driver", plain)
    engine, given = gpu.engine(network(CLASSES)), frames(7, 40, 50)
    with Segmenter(engine, spec=SPEC, device="cpu") as cpu:
        expected = [cpu(frame) for frame in given]
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        found = [class_map for _, class_map in segment.stream(given)]
    np.testing.assert_array_equal(found, expected)
    engine.close()
    assert gpu.held == 0


def test_a_run_that_cannot_be_captured_is_run_plainly(
    host_gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTX says so of a context; it is asked outside of captures, and after a run."""
    asked: list[int] = []

    def capturable(session: TrtSession, stream: Any) -> bool:
        asked.append(host_gpu.host.count("cuStreamBeginCapture"))
        return len(asked) > 2

    monkeypatch.setattr(TrtSession, "capturable", capturable)
    engine, host = host_gpu.engine(network(CLASSES)), host_gpu.host
    given = frames(5, 61, 83)
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        found = [segment(frame) for frame in given]
    with Segmenter(engine, spec=SPEC, device="cpu") as segment:
        for one, frame in zip(found, given, strict=True):
            np.testing.assert_array_equal(one, segment(frame))
    assert asked == [0, 0, 0], "not of the first frame, nor of a graph"
    assert host.count("cuGraphLaunch") == 2
    engine.close()
