"""`host_cuda`: a GPU in host memory, which cuda-python uses in the test that asks for it.

A conftest.py beside the tests imports both fixtures. cuda-python binds its driver once per
process, so the library stays; outside such tests it says that there is no GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.cuda.host.library import COMPILER, HostCuda, build
from tests.engine.trt.proof import missing, needed


@pytest.fixture(scope="session")
def host_cuda_library(pytestconfig: pytest.Config) -> HostCuda:
    """Built and loaded, not yet cuda-python's driver."""
    if COMPILER is None:
        missing("a C++ compiler", "apt install g++")
    cache = pytestconfig.cache
    assert cache is not None
    return HostCuda(build(cache.mkdir("host_cuda")))


@pytest.fixture
def host_memory(host_cuda_library: HostCuda) -> Iterator[HostCuda]:
    """One GPU of it, for who calls it by itself; what a test left open is forgotten."""
    host_cuda_library.reset(1)
    yield host_cuda_library
    host_cuda_library.reset(0)


@pytest.fixture
def host_cuda(host_memory: HostCuda) -> HostCuda:
    """The same, and cuda-python works on it."""
    needed("cuda.bindings", "cuda")
    _adopt(host_memory)
    return host_memory


def _adopt(host: HostCuda) -> None:
    """Make it cuda-python's driver, or skip where that is another one already."""
    from cuda.bindings import driver
    from cuda.bindings._internal import driver as loader

    before = host.count("cuDriverGetVersion")
    if hasattr(loader, "load_nvidia_dynamic_lib"):
        # Asked once, when the first call is made; so other libraries of this process that use
        # libcuda.so.1 find what they would have found.
        handle = host.library._handle
        loader.load_nvidia_dynamic_lib = lambda name: SimpleNamespace(_handle_uint=handle)
    else:
        # Older releases open libcuda.so.1, which the linker finds here by its soname.
        ctypes.CDLL(str(host.path), ctypes.RTLD_GLOBAL)
    driver.cuDriverGetVersion()
    if host.count("cuDriverGetVersion") == before:
        pytest.skip("cuda-python has another driver in this process: run these tests alone")
    host.reset(1)
