"""The three drivers, each on a GPU in host memory, as tests of the protocol use them."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segformer_deploy.cuda.driver import Driver, Function, Stream
from segformer_deploy.cuda.fake import FakeDriver
from segformer_deploy.cuda.lazy import Schedule
from tests.cuda.host.library import HostCuda

NAMES = ("fake", "cuda-python", "pycuda")
PYCUDA = Path(__file__).parent / "fake_pycuda"
TOYS = ("toy_scale", "toy_poke", "toy_blocks")
RNG = np.random.default_rng(0)


class Scale(ctypes.Structure):
    """Of toy_scale in host/toys.cuh."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("from_", "to")],
        *[("count", ctypes.c_int), ("factor", ctypes.c_float)],
    ]


class Poke(ctypes.Structure):
    _fields_ = [("to", ctypes.c_void_p), ("offset", ctypes.c_int64), ("value", ctypes.c_int)]


class Blocks(ctypes.Structure):
    _fields_ = [("to", ctypes.c_void_p), ("wide", ctypes.c_int), ("high", ctypes.c_int)]


def random_bytes(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def install_pycuda(host: HostCuda, patch: pytest.MonkeyPatch) -> Any:
    """The stand-in as `pycuda`, on `host`."""
    patch.syspath_prepend(str(PYCUDA))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycuda"]:
        patch.delitem(sys.modules, name)
    import pycuda.core
    import pycuda.driver

    for name in ("pycuda", "pycuda.core", "pycuda.driver"):
        patch.setitem(sys.modules, name, sys.modules[name])
    pycuda.core.use(host.library)
    return pycuda.core


@dataclass
class Gpu:
    """One of the drivers.

    Attributes:
        host: what the driver works on; of the fake, only its kernels.
        opened: all that were opened, with the driver that each is.
    """

    name: str
    host: HostCuda
    make: Callable[[], Any]
    opened: list[Any]
    capacity: int | None = None
    schedule: Schedule = "late"

    def open(self) -> Driver:
        if self.name == "fake":
            driver = FakeDriver(capacity=self.capacity, schedule=self.schedule)
            driver.functions.update(self.host.kernels(*TOYS))
        else:
            self.host.capacity = self.capacity or 0
            self.host.schedule = self.schedule
            driver = self.make()
        self.opened.append(driver)
        opened: Driver = driver
        return opened

    @property
    def held(self) -> int:
        if self.name == "fake":
            return sum(driver.held for driver in self.opened)
        return self.host.held

    def assert_nothing_left(self) -> None:
        if self.name == "fake":
            assert all(driver.closed for driver in self.opened)
            assert [driver.held + driver.host_held for driver in self.opened if driver.held] == []
        else:
            self.host.assert_nothing_left()


class Work:
    """A driver with what most tests need of it."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.stream = driver.open_stream()
        self.module = driver.load_module(b"PTX of a test")
        self._scale = self.function("toy_scale")

    def floats(self, count: int, value: float = 0) -> Any:
        """Device memory of so many floats, filled."""
        block = self.driver.allocate(4 * count, "a test")
        self.driver.copy_in(block.address, np.full(count, value, np.float32), self.stream)
        self.driver.synchronise(self.stream)
        return block

    def read(self, block: Any, stream: Stream | None = None) -> Any:
        """All floats of a block, once what `stream` holds is done."""
        back = np.zeros(block.size // 4, np.float32)
        self.driver.copy_out(back, block.address, stream or self.stream)
        self.driver.synchronise(stream or self.stream)
        return back

    def function(self, name: str) -> Function:
        return self.module.function(name)

    def scale(self, source: Any, target: Any, factor: float, stream: Stream | None = None) -> None:
        job = Scale(source.address, target.address, target.size // 4, factor)
        grid = -(-job.count // 32), 1, 1
        self.driver.launch(self._scale, grid, (32, 1, 1), [job], stream or self.stream)


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` gives in a thread of its own."""
    found: list[Any] = []

    def guarded() -> None:
        try:
            found.append((work(), None))
        except BaseException as error:
            found.append((None, error))
        check = sys.modules.get("pycuda.core")
        if check is not None:
            check.check_thread()

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    value, error = found[0]
    if error is not None:
        raise error
    return value
