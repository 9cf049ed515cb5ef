"""Frames through a GPU's pipeline: the class maps of the CPU's way, whatever order it works in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from segformer_deploy.engine.trt.flavour import load_library
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.engine.trt.fake_trt import install
from tests.engine.trt.machines import Machine
from tests.runtime.gpu import Gpu, frames, spec_of

SCHEDULES = ("late", "early", 0, 1, 2)
RULES = {
    "stretch": ResizeRule.stretch_to(FrameSize(96, 128)),
    "opencv": ResizeRule.stretch_to(FrameSize(96, 128), "opencv-bilinear"),
    "none": ResizeRule("none", None),
    "short": ResizeRule("short_side", None, 80, 160, "pillow-bicubic"),
}


@pytest.fixture(params=SCHEDULES)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    api = install(monkeypatch, "10.3.0")
    yield Gpu(Machine(load_library("tensorrt"), api.world), request.param)
    assert api.world.touched == []


def maps(gpu: Gpu, device: str, graph: str, rule: ResizeRule, given: list[Any]) -> list[Any]:
    """The class map of each frame, streamed."""
    engine = gpu.engine(graph)
    with Segmenter(engine, spec=spec_of(7, rule), device=device) as segment:
        assert segment.device == device
        found = [class_map.copy() for _, class_map in segment.stream(given)]
    engine.close()
    assert gpu.held == 0
    return found


@pytest.mark.parametrize("graph", ["fp32", "fp16"])
@pytest.mark.parametrize("rule", ["stretch", "none", "short"])
def test_a_stream_gives_the_cpus_class_maps(gpu: Gpu, graph: str, rule: str) -> None:
    given = frames(9, 97, 131)
    there = maps(gpu, "cuda", graph, RULES[rule], given)
    here = maps(gpu, "cpu", graph, RULES[rule], given)
    assert len(there) == 9
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one, other)
