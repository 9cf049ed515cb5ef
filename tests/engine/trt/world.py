"""The machine that the fake TensorRT runs on: what it is, what it holds, what happened on it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segformer_deploy.cuda.cuda_python import CudaPythonDriver
from segformer_deploy.cuda.driver import Driver, Stream
from segformer_deploy.cuda.fake import FakeDriver
from segformer_deploy.cuda.lazy import Schedule

if TYPE_CHECKING:
    from tests.cuda.host.library import HostCuda


class MisuseError(AssertionError):
    """The real library would crash, or read what is not its own."""


@dataclass(frozen=True)
class Build:
    """One call of `build_serialized_network`, as it was configured."""

    strongly_typed: bool
    flags: frozenset[str]
    limits: dict[str, int]
    aux_streams: int
    level: int
    hardware: str
    verbosity: str
    capabilities: tuple[str, ...]
    timing_cache: bytes | None
    profiles: tuple[dict[str, Any], ...]


@dataclass
class World:
    """A machine with one of the libraries; see the top of this file."""

    version: str
    rtx: bool
    gpu: bool = True
    cc: str = "8.7"
    unbuildable: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    memory_lines: bool = True
    on_step: Callable[[], None] = lambda: None
    refuse: set[str] = field(default_factory=set)
    capacity: int | None = None
    schedule: Schedule = "late"
    host: HostCuda | None = None
    drivers: list[FakeDriver] = field(default_factory=list)
    builds: list[Build] = field(default_factory=list)
    builders: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    runs: list[tuple[int, ...]] = field(default_factory=list)
    compiled: int = 0
    capturable: bool = True
    fallbacks: int = 0
    touched: list[str] = field(default_factory=list)

    @property
    def old(self) -> bool:
        """TensorRT 10: it still has what 11 removed."""
        return not self.rtx and self.version.startswith("10.")

    @property
    def held(self) -> int:
        if self.host is not None:
            return self.host.held
        return sum(driver.held for driver in self.drivers)

    def open_driver(self) -> Driver:
        if self.host is not None:
            return CudaPythonDriver()
        driver = FakeDriver(capacity=self.capacity, schedule=self.schedule)
        self.drivers.append(driver)
        return driver

    def view(self, address: int, size: int) -> Any:
        """The bytes at a device address, whoever allocated them."""
        if self.host is not None and self.host.is_device(address, size):
            return self.host.view(address, size)
        for driver in self.drivers:
            for start, block in driver._blocks.items():
                if start <= address and address + size <= start + block.size:
                    return driver.view(address, size)
        raise MisuseError(f"{size} bytes at {address:#x} are no device memory")

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        """Queue `work` on the stream with this handle, whosever it is."""
        if self.host is not None:
            self.host.enqueue(handle, work)
            return
        driver, stream = self._stream(handle)
        driver.enqueue(stream, work)

    def capturing(self, handle: int) -> bool:
        """Whether what is queued on this stream becomes a graph."""
        if self.host is not None:
            return self.host.capturing(handle)
        driver, stream = self._stream(handle)
        return driver.capturing(stream)

    def _stream(self, handle: int) -> tuple[FakeDriver, Stream]:
        for driver in self.drivers:
            stream = driver.stream_of(handle)
            if stream is not None:
                return driver, stream
        raise MisuseError(f"{handle!r} is the handle of no open stream")

    def remove(self, name: str) -> None:
        """`name` is touched, which only TensorRT 10 has."""
        if not self.old:
            raise AttributeError(f"{name} was removed")
        self.touched.append(name)
