"""A GPU in host memory, for tests of the pipeline under cuda-python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from segformer_deploy.engine.trt.flavour import load_library
from tests.cuda.host.fixture import host_cuda, host_cuda_library, host_memory
from tests.cuda.host.library import HostCuda
from tests.engine.trt.fake_trt import install
from tests.engine.trt.machines import Machine
from tests.runtime.gpu import Gpu

__all__ = ["host_cuda", "host_cuda_library", "host_memory"]


@pytest.fixture
def host_gpu(host_cuda: HostCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """The whole path on it; what a test leaves there, or does wrong, fails it."""
    api = install(monkeypatch, "10.3.0")
    api.world.host = host_cuda
    yield Gpu(Machine(load_library("tensorrt"), api.world))
    host_cuda.assert_nothing_left()
