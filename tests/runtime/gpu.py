"""A GPU for tests of what runs on one: host memory, our kernels as C++, and a fake TensorRT.

The device is the package's fake, or, where `world.host` is set, the libcuda.so.1 in host memory
under the cuda-python binding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.cuda import jobs
from segformer_deploy.cuda.driver import Driver
from segformer_deploy.cuda.fake import FakeDriver
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.trt.runtime import TrtEngine
from segformer_deploy.runtime.device_kernels import KERNELS
from segformer_deploy.spec import ModelSpec, ResizeRule, default_class_names, default_palette
from tests.cuda.host.library import HostCuda
from tests.cuda.kernel_machines import HostBuild
from tests.engine.trt.graphs import graph_bytes
from tests.engine.trt.machines import Machine, sizes

JOBS = {
    "class_map": jobs.ClassMapJob,
    "confidence": jobs.ConfidenceJob,
    "overlay": jobs.OverlayJob,
    "resample_columns": jobs.ResampleJob,
    "resample_rows": jobs.ResampleJob,
    "resample_bilinear": jobs.BilinearJob,
}
WIDE = sizes("64x64", "96x128", "320x384", 4)


@cache
def host_build() -> HostBuild:
    """The kernels as C++, compiled once for all tests."""
    return HostBuild(Path(mkdtemp()), "g++")


def with_kernels(driver: FakeDriver) -> FakeDriver:
    """`driver` with our kernels, as a module of it has them."""
    for name in KERNELS:

        def kernel(grid: Any, block: Any, arguments: Any, name: str = name) -> None:
            job = JOBS[name].from_buffer_copy(bytes(arguments[0]))
            host_build().launch(name, job, grid, block[0])

        driver.functions[name] = kernel
    return driver


def spec_of(classes: int, rule: ResizeRule) -> ModelSpec:
    return ModelSpec("b0", default_class_names(classes), default_palette(classes), resize=rule)


@dataclass
class Gpu:
    """A machine with a GPU, and engines on it.

    Attributes:
        schedule: when its streams do what is queued; see cuda/lazy.py.
    """

    machine: Machine
    schedule: Any = "late"
    opened: list[FakeDriver] = field(default_factory=list)

    def open_driver(self) -> Driver:
        world = self.machine.world
        world.schedule = self.schedule
        driver = world.open_driver()
        if isinstance(driver, FakeDriver):
            self.opened.append(with_kernels(driver))
        elif world.host is not None:
            world.host.schedule = self.schedule
        return driver

    def engine(self, graph: str | bytes = "fp32", *profiles: SizeRange) -> TrtEngine:
        profiles = profiles or (WIDE,)
        given = graph_bytes(graph) if isinstance(graph, str) else graph
        plan = self.machine.plan(given, *profiles)
        return TrtEngine(self.machine.library, plan, profiles, self.open_driver)

    @property
    def host(self) -> HostCuda:
        """The libcuda.so.1 in host memory."""
        assert self.machine.world.host is not None
        return self.machine.world.host

    @property
    def held(self) -> int:
        """Bytes of device and pinned memory that anyone still holds."""
        host = self.machine.world.host
        if host is not None:
            return host.held + host.host_held
        return sum(driver.held + driver.host_held for driver in self.machine.world.drivers)


@cache
def network(classes: int, *, half: bool = False) -> bytes:
    """A network of a few lines, as ONNX: the mean of 4x4 pixels, times a matrix.

    Every third class has the weights of the one before: ties, which the first must win.
    """
    rng = np.random.default_rng(classes)
    weight = rng.normal(0, 0.1, (classes, 3)).astype(np.float32)
    weight[2::3] = weight[1::3][: len(weight[2::3])]
    to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["nchw"], ["mean"], kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1
        ),
        helper.make_node("Sub", ["mean", "middle"], ["centred"]),
        helper.make_node("Conv", ["centred", "weight"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["logits"], to=to),
    ]
    values = {"middle": np.float32(127), "weight": weight.reshape(classes, 3, 1, 1)}
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", 3])],
        [helper.make_tensor_value_info("logits", to, ["b", classes, "h4", "w4"])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return bytes(model.SerializeToString())


def frames(count: int, height: int, width: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3), np.uint8)
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return [np.ascontiguousarray(one) for one in fine]


@dataclass
class OnDevice:
    """An array in device memory, as CuPy and others hand it over."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    stream: int | None = None
    typestr: str = "|u1"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "data": (self.address, False),
            "shape": self.shape,
            "strides": self.strides,
            "stream": self.stream,
            "typestr": self.typestr,
            "version": 3,
        }
