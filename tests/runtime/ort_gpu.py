"""A GPU with ONNX Runtime on it: engines whose device way runs our kernels, as C++."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from segformer_deploy.cuda.driver import Driver
from segformer_deploy.cuda.fake import FakeDriver
from segformer_deploy.engine.ort import OrtOptions
from segformer_deploy.engine.ort_device import OrtDeviceEngine
from segformer_deploy.spec import FrameSize, ResizeRule
from tests.engine.fake_ort import FakeOrt
from tests.runtime.gpu import network, spec_of, with_kernels

CLASSES = 7


@dataclass
class OrtGpu:
    """Engines of ONNX Runtime on the fake device, or on `fake.world.host`.

    Attributes:
        schedule: when its streams do what is queued; see cuda/lazy.py.
    """

    fake: FakeOrt
    schedule: Any = "late"

    def open_driver(self) -> Driver:
        world = self.fake.world
        world.schedule = self.schedule
        driver = world.open_driver()
        if isinstance(driver, FakeDriver):
            with_kernels(driver)
        elif world.host is not None:
            world.host.schedule = self.schedule
        return driver

    def engine(self, path: Path, provider: str = "cuda") -> OrtDeviceEngine:
        return OrtDeviceEngine(path, OrtOptions(provider, 1), self.open_driver)

    def assert_nothing_left(self) -> None:
        world = self.fake.world
        assert self.fake.streams == []
        assert self.fake.faults == []
        assert [d.held + d.host_held for d in world.drivers if d.held or d.host_held] == []
        assert all(driver.closed for driver in world.drivers)


def write_network(path: Path, *, half: bool = False) -> Path:
    """A network of a few lines, with what TensorRT's provider asks of its file."""
    model = onnx.load_from_string(network(CLASSES, half=half))
    spec = replace(
        spec_of(CLASSES, ResizeRule.stretch_to(FrameSize(96, 128))),
        precision="fp16" if half else "fp32",
    )
    onnx.helper.set_model_props(model, {"segdeploy": spec.to_json()})
    onnx.save(model, path)
    return path
