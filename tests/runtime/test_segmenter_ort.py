"""Frames through ONNX Runtime on a GPU: the class maps of the CPU's way, in any order of work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.session import Engine
from segformer_deploy.errors import RunError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.cuda.host.library import HostCuda
from tests.engine.fake_ort import install
from tests.runtime.gpu import frames, spec_of
from tests.runtime.ort_gpu import CLASSES, OrtGpu, write_network

SCHEDULES = ("late", "early", 0, 1, 2)
RULES = {
    "stretch": ResizeRule.stretch_to(FrameSize(96, 128)),
    "none": ResizeRule("none", None),
    "short": ResizeRule("short_side", None, 80, 160, "pillow-bicubic"),
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[OrtGpu]:
    gpu = OrtGpu(install(monkeypatch))
    yield gpu
    gpu.assert_nothing_left()


@pytest.fixture
def host_gpu(host_cuda: HostCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[OrtGpu]:
    """The same under cuda-python, on a libcuda.so.1 in host memory."""
    gpu = OrtGpu(install(monkeypatch))
    gpu.fake.world.host = host_cuda
    yield gpu
    gpu.assert_nothing_left()
    host_cuda.assert_nothing_left()


@pytest.fixture(params=[False, True], ids=["fp32", "fp16"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_network(tmp_path / "m.onnx", half=request.param)


def maps(engine: Engine, device: str, rule: ResizeRule, given: list[Any]) -> list[Any]:
    """The class map of each frame, streamed; and of a batch of the first ones, with confidence."""
    with Segmenter(engine, spec=spec_of(CLASSES, rule), device=device) as segment:
        assert segment.device == device
        found = [class_map.copy() for _, class_map in segment.stream(given)]
        found += [one for pair in segment(given[:2], confidence=True) for one in pair]
    return found


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rule", RULES)
def test_a_stream_gives_the_cpus_class_maps(
    gpu: OrtGpu, path: Path, rule: str, schedule: Any
) -> None:
    gpu.schedule = schedule
    given = frames(7, 97, 131)
    engine = gpu.engine(path)
    there = maps(engine, "cuda", RULES[rule], given)
    assert gpu.fake.world.drivers
    assert_same(there, maps(engine, "cpu", RULES[rule], given))
    engine.close()


@pytest.mark.parametrize("schedule", ["late", 5])
def test_the_same_under_cuda_python(host_gpu: OrtGpu, path: Path, schedule: Any) -> None:
    host_gpu.schedule = schedule
    given = [*frames(4, 97, 131), *frames(3, 64, 80, seed=1)]
    engine = host_gpu.engine(path, "tensorrt" if schedule == 5 else "cuda")
    there = maps(engine, "cuda", RULES["stretch"], given)
    assert_same(there, maps(engine, "cpu", RULES["stretch"], given))
    engine.close()


def test_changing_sizes_share_one_session_of_onnxruntime(gpu: OrtGpu, path: Path) -> None:
    """Each size is a lane with a binding of its own; the weights are on the device once."""
    engine = gpu.engine(path)
    given = [one for seed in range(3) for one in frames(2, 70 + 9 * seed, 99, seed)]
    with Segmenter(engine, spec=spec_of(CLASSES, RULES["none"]), device="cuda") as segment:
        there = [segment(one) for one in given]
        (stream,) = gpu.fake.streams
        assert stream is not None
    with Segmenter(engine, spec=spec_of(CLASSES, RULES["none"]), device="cpu") as segment:
        assert_same(there, [segment(one) for one in given])
    engine.close()


def test_cameras_share_an_engine_in_threads_of_their_own(gpu: OrtGpu, path: Path) -> None:
    engine = gpu.engine(path)
    given = [frames(5, 97, 131, seed) for seed in range(2)]
    expected = [maps(engine, "cpu", RULES["stretch"], some) for some in given]
    found: dict[int, list[Any]] = {}

    def camera(number: int) -> None:
        found[number] = maps(engine, "cuda", RULES["stretch"], given[number])

    threads = [threading.Thread(target=camera, args=(n,)) for n in range(len(given))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for number, wanted in enumerate(expected):
        assert_same(found[number], wanted)
    engine.close()


def test_a_run_that_fails_passes_on_and_leaves_nothing(gpu: OrtGpu, path: Path) -> None:
    engine = gpu.engine(path)
    with Segmenter(engine, spec=spec_of(CLASSES, RULES["stretch"]), device="cuda") as segment:
        (one,) = frames(1, 97, 131)
        before = segment(one)
        gpu.fake.fails = "CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR"
        with pytest.raises(RunError, match="CUDNN failure 4"):
            segment(one)
        np.testing.assert_array_equal(segment(one), before)
    engine.close()
