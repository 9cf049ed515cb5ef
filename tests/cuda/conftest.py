"""GPUs in host memory, for tests that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from segformer_deploy.cuda.cuda_python import CudaPythonDriver
from segformer_deploy.cuda.pycuda_binding import PycudaDriver
from tests.cuda.gpus import NAMES, Gpu, install_pycuda
from tests.cuda.host.fixture import host_cuda, host_cuda_library, host_memory

__all__ = ["host_cuda", "host_cuda_library", "host_memory"]


@pytest.fixture(params=NAMES)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Each of the drivers in turn; what a test leaves open, or does wrong, fails it."""
    name = request.param
    host = request.getfixturevalue("host_cuda" if name == "cuda-python" else "host_memory")
    core = install_pycuda(host, monkeypatch) if name == "pycuda" else None
    gpu = Gpu(name, host, PycudaDriver if core else CudaPythonDriver, [])
    yield gpu
    gpu.assert_nothing_left()
    if core:
        core.check_thread()
        assert core.aborted == []
