"""Each record, wait and synchronise is needed: without it some answer is wrong, or an error shows.

The device does what is queued as late as it may, so a missing order shows every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, zip_longest
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.cuda_python import CudaPythonDriver
from segformer_deploy.engine.trt.runtime import TrtEngine
from segformer_deploy.errors import RunError, SegdeployError
from segformer_deploy.runtime.device_kernels import KernelCode
from segformer_deploy.runtime.lane import Layout
from segformer_deploy.runtime.pipeline import Pipeline
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.engine.trt.machines import expected as logits_of
from tests.engine.trt.machines import sizes
from tests.runtime.gpu import Gpu, OnDevice, frames, network, spec_of
from tests.runtime.pipeline_mutants import Mutant, calls, mutants

CLASSES = 5
SPEC = spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(64, 64)))
SMALL, LARGE = (40, 50), (61, 33)
GIVEN = [frames(5, *SMALL), frames(4, *LARGE, seed=1), frames(3, *SMALL, seed=2)]
PROFILES = sizes("64x64"), sizes("64x64", "96x96", "128x128")
ANSWERS: dict[int, Any] = {}
_PICTURES = count()


def expected(engine: TrtEngine, frame: Any) -> Any:
    """The CPU's class map; worked out before anything is left out."""
    if id(frame) not in ANSWERS:
        with Segmenter(engine, spec=SPEC, device="cpu") as cpu:
            ANSWERS[id(frame)] = frame, cpu(frame)
    return ANSWERS[id(frame)][1]


def assert_right(engine: TrtEngine, frame: Any, found: Any) -> None:
    np.testing.assert_array_equal(found, expected(engine, frame))


def streams_of_two_cameras(gpu: Gpu, engine: TrtEngine) -> None:
    """Two sessions in turn, frames of changing sizes, memory that is used again and again."""
    one = [frame for part in GIVEN for frame in part]
    with (
        Segmenter(engine, spec=SPEC, device="cuda") as first,
        Segmenter(engine, spec=SPEC, device="cuda") as second,
    ):
        for pairs in zip_longest(first.stream(one), second.stream(one[::-1])):
            for frame, found in pairs:
                assert_right(engine, frame, found)


def times(gpu: Gpu, engine: TrtEngine) -> None:
    with Segmenter(engine, spec=SPEC, device="cuda", timed=True) as segment:
        assert_right(engine, GIVEN[0][0], segment(GIVEN[0][0]))
        assert min(segment.last_stages_ms.values()) >= 0


def opened(gpu: Gpu, engine: TrtEngine) -> Pipeline:
    driver = gpu.open_driver()
    return Pipeline(engine, SPEC.resize, driver, KernelCode(driver))


def layout_of(frame: Any) -> Layout:
    return Layout((FrameSize(*frame.shape[:2]),))


def closed_in_flight(gpu: Gpu, engine: TrtEngine) -> None:
    """What is queued is done before its memory goes."""
    pipeline = opened(gpu, engine)
    for frame in GIVEN[0][:3]:
        pipeline.submit([frame], layout_of(frame))
    pipeline.close()
    assert (gpu.host.held, gpu.host.faults) == (0, [])


def made_by_another_stream(gpu: Gpu, engine: TrtEngine) -> None:
    """A frame on the device, still in the making on its owner's stream."""
    owner = gpu.open_driver()
    stream, frame = owner.open_stream(), GIVEN[0][1]
    block = owner.allocate(frame.nbytes, "a decoder")
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        for number in range(4):
            frame = GIVEN[0][number]
            owner.copy_in(block.address, frame, stream)
            found = segment(OnDevice(block.address, frame.shape, stream=stream.handle))
            assert_right(engine, frame, found)
    owner.close()


def lent_and_refused(gpu: Gpu, engine: TrtEngine) -> None:
    """A frame on the device that could not be queued whole is its owner's again at once."""
    owner = gpu.open_driver()
    stream, frame = owner.open_stream(), GIVEN[0][0]
    with Segmenter(engine, spec=SPEC, device="cuda") as segment:
        block = owner.allocate(frame.nbytes, "a decoder")
        owner.copy_in(block.address, frame, stream)
        owner.synchronise(stream)
        # The first run of a size waits by itself, for its context memory.
        assert_right(engine, frame, segment(frame))
        gpu.host.fail("cuMemcpyDtoHAsync", code=999)
        with pytest.raises(RunError, match="cuMemcpyDtoHAsync failed"):
            segment(OnDevice(block.address, frame.shape))
        block.close()
        assert_right(engine, frame, segment(frame))
    owner.close()


def on_the_cpus_way(gpu: Gpu, engine: TrtEngine) -> None:
    """`run` of a session: its answer, and what it leaves behind where the library refuses."""
    # Never the same picture twice: a buffer may lie where the answer of one before lay.
    rng = np.random.default_rng(next(_PICTURES))
    with_session = engine.session()
    for _ in range(2):
        image = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
        wanted = logits_of(network(CLASSES), image)
        np.testing.assert_array_equal(with_session.run({"image": image})["logits"], wanted)
    refuse = gpu.machine.world.refuse
    refuse.add("execute_async_v3")
    try:
        with pytest.raises(RunError):
            with_session.run({"image": image})
        assert gpu.host.pending == 0
    finally:
        refuse.clear()
        with_session.close()


def another_profile_meanwhile(gpu: Gpu, engine: TrtEngine) -> None:
    """Memory of the profile before is in use until its run is done."""
    driver = gpu.open_driver()
    stream, session = driver.open_stream(), engine.session()
    blocks = []
    for side in (64, 128, 64):
        image = np.full((1, side, side, 3), side, np.uint8)
        shape = engine.output_shapes({"image": image.shape})["logits"]
        found = np.zeros(shape, np.float32)
        into, out = (driver.allocate(one.nbytes, "a test") for one in (image, found))
        driver.copy_in(into.address, image, stream)
        session.enqueue(stream, {"image": into.address, "logits": out.address}, image.shape)
        driver.copy_out(found, out.address, stream)
        blocks.append((image, found, into, out))
    driver.synchronise(stream)
    session.close()
    for image, found, *_ in blocks:
        again = engine.session()
        np.testing.assert_array_equal(again.run({"image": image})["logits"], found)
        again.close()
    driver.close()


SCENARIOS: tuple[Callable[[Gpu, TrtEngine], None], ...] = (
    *(streams_of_two_cameras, closed_in_flight, made_by_another_stream, lent_and_refused),
    *(times, on_the_cpus_way, another_profile_meanwhile),
)


@pytest.fixture
def go(
    host_gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[..., None]], None]]:
    """One scenario on an engine of its own; nothing may be left, nor have gone wrong."""
    host, kept = host_gpu.host, []
    usual = CudaPythonDriver.copy_out

    def copy_out(driver: CudaPythonDriver, target: Any, source: int, stream: Any) -> None:
        # Without its wait a copy may come when its target is gone: not into this process's heap.
        kept.append(target)
        usual(driver, target, source, stream)

    monkeypatch.setattr(CudaPythonDriver, "copy_out", copy_out)

    def run(scenario: Callable[[Gpu, TrtEngine], None]) -> None:
        host.reset(1)
        kept.clear()
        host_gpu.machine.world.refuse.clear()
        engine = host_gpu.engine(network(CLASSES), *PROFILES)
        try:
            scenario(host_gpu, engine)
        finally:
            engine.close()
        host.assert_nothing_left()
        assert host.errors == []

    yield run
    host.reset(1)


def prepared(gpu: Gpu) -> None:
    """The CPU's answers."""
    engine = gpu.engine(network(CLASSES), *PROFILES)
    for part in GIVEN:
        for frame in part:
            expected(engine, frame)
    engine.close()


@pytest.mark.parametrize("schedule", ["late", "early", 1, 2])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_it_is(host_gpu: Gpu, go: Any, scenario: Any, schedule: Any) -> None:
    prepared(host_gpu)
    host_gpu.schedule = schedule
    go(scenario)


def noticed_by(go: Any) -> list[str]:
    """The scenarios that end in a wrong answer or an error."""
    found = []
    for scenario in SCENARIOS:
        try:
            go(scenario)
        except (AssertionError, SegdeployError, pytest.fail.Exception):
            found.append(scenario.__name__)
    return found


def test_every_ordering_call_is_looked_at() -> None:
    found = mutants()
    assert len(found) == calls()
    assert len({(each.module, each.line) for each in found}) == len(found) > 10


@pytest.mark.parametrize("mutant", mutants(), ids=str)
def test_without_it_something_is_wrong(host_gpu: Gpu, go: Any, mutant: Mutant) -> None:
    prepared(host_gpu)
    with mutant.applied():
        by = noticed_by(go)
    print(mutant, "->", by)
    assert by
