"""The protocol on host memory, for tests of what is built on it: a GPU that forgives nothing.

::

    driver = FakeDriver(capacity=10_000_000)      bytes of device memory
    driver = FakeDriver(schedule="late")          see lazy.py; "early", or a seed, for the rest
    driver.functions["scale"] = call              call(grid, block, arguments) is a kernel; without
                                                  any, every module is refused
    driver.enqueue(stream, call)                  work of another library
    driver.held, .peak, .host_held, .closed       what it holds
    driver.view(address, size)                    the bytes at a device address, now
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from segformer_deploy.cuda.driver import (
    LEGACY_STREAM,
    Arguments,
    Array,
    Bytes,
    Event,
    Function,
    Graph,
    HostMemory,
    Memory,
    Module,
    Rows,
    Size3,
    Stream,
    check_source,
    check_target,
)
from segformer_deploy.cuda.held import (
    HeldEvent,
    HeldFunction,
    HeldHandle,
    HeldHostMemory,
    HeldMemory,
    HeldStream,
    Ledger,
)
from segformer_deploy.cuda.lazy import Device, Lane, Mark, Schedule, Work
from segformer_deploy.cuda.results import error_from_result
from segformer_deploy.errors import BackendError, RunError

Kernel = Callable[[Size3, Size3, list[Any]], None]
_handles = itertools.count(0x7E57_0001)
"""Of streams, events and so on of all fakes: none is an index, none is that of another."""


@dataclass(eq=False)
class FakeDriver:
    """A `Driver` that counts, checks bounds, and runs out of memory where told.

    Attributes:
        capacity: bytes of device memory that may be held at once; None for no limit.
        held, peak: bytes of device memory now, and the most at any moment.
        host_held: bytes of pinned host memory.
        functions: what modules offer: their kernels, by name.
    """

    capacity: int | None = None
    name: str = "fake device"
    capability: tuple[int, int] = (8, 7)
    chosen: str = "fake"
    graphs: bool = True
    schedule: Schedule = "late"
    held: int = 0
    peak: int = 0
    host_held: int = 0
    closed: bool = False
    functions: dict[str, Kernel] = field(default_factory=dict)
    _blocks: dict[int, Bytes] = field(default_factory=dict)
    _ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        self._device = Device(self.schedule)

    def attach(self) -> None:
        """Every thread works with it anyhow."""

    def allocate(self, size: int, owner: str) -> Memory:
        if self.capacity is not None and self.held + size > self.capacity:
            raise RunError(
                f"{size / 1e6:.1f} MB of device memory for {owner}: the device has "
                f"{self.capacity / 1e6:.1f} MB, {self.held / 1e6:.1f} are in use",
                "that much free memory",
            )
        self._check_allowed("allocate")
        block = np.full(size, 0xA5, np.uint8)  # nothing may rely on zeros
        address = int(block.ctypes.data)
        self._blocks[address] = block
        self.held += size
        self.peak = max(self.peak, self.held)
        return HeldMemory(self._ledger, partial(self._free, address), address, size)

    def _free(self, address: int) -> None:
        self.held -= self._blocks.pop(address).size

    def allocate_host(self, size: int, owner: str) -> HostMemory:
        self._check_allowed("allocate_host")
        self.host_held += size
        return HeldHostMemory(
            self._ledger, partial(self._free_host, size), np.full(size, 0xA5, np.uint8)
        )

    def _free_host(self, size: int) -> None:
        self.host_held -= size

    def _check_allowed(self, call: str) -> None:
        """Nothing is allocated while a capture goes on, nor after the end."""
        if self.closed:
            raise RunError(f"{call} of a closed driver", "an open one")
        if self._device.capturing():
            raise error_from_result(call, 900)

    def view(self, address: int, size: int) -> Bytes:
        """The bytes at a device address; RunError where they lie outside every allocation."""
        for start, block in self._blocks.items():
            if start <= address and address + size <= start + block.size:
                return block[address - start : address - start + size]
        raise RunError(f"{size} bytes at {address:#x} are no device memory", "an allocation")

    def open_stream(self) -> Stream:
        self._check_allowed("open_stream")
        return _FakeStream(self._ledger, self._device)

    def open_event(self, timing: bool = False) -> Event:
        return _FakeEvent(self._ledger, timing)

    def enqueue(self, stream: Stream, work: Work) -> None:
        """Queue `work`, as another library would on the stream's handle."""
        _lane(stream).add(work)

    def capturing(self, stream: Stream) -> bool:
        return _lane(stream).capture is not None

    def stream_of(self, handle: int) -> Stream | None:
        """The open stream with this handle."""
        held = self._ledger.open.values()
        return next(
            (it for it in held if isinstance(it, _FakeStream) and it.handle == handle), None
        )

    def copy_in(self, target: int, source: Array, stream: Stream) -> None:
        check_source(source)

        def work() -> None:
            self.view(target, source.nbytes)[...] = source.reshape(-1).view(np.uint8)

        self.enqueue(stream, work)

    def copy_out(self, target: Array, source: int, stream: Stream) -> None:
        check_target(target)

        def work() -> None:
            target.reshape(-1).view(np.uint8)[...] = self.view(source, target.nbytes)

        self.enqueue(stream, work)

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        def work() -> None:
            self.view(target, size)[...] = self.view(source, size).copy()

        self.enqueue(stream, work)

    def copy_rows(self, copy: Rows, stream: Stream) -> None:
        def work() -> None:
            for row in range(copy.rows):
                source = self.view(copy.source + row * copy.source_pitch, copy.width)
                self.view(copy.target + row * copy.target_pitch, copy.width)[...] = source.copy()

        self.enqueue(stream, work)

    def record(self, event: Event, stream: Stream) -> None:
        # Nothing of ours is on the legacy stream: whoever works there is done at once.
        legacy = stream.handle == LEGACY_STREAM
        _fake(event).mark = None if legacy else _lane(stream).record()

    def wait(self, stream: Stream, event: Event) -> None:
        _lane(stream).wait(_fake(event).mark)

    def synchronise(self, stream: Stream) -> None:
        _lane(stream).drain()

    def synchronise_event(self, event: Event) -> None:
        mark = _fake(event).mark
        if mark is not None:
            mark.lane.reach(mark)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        times = []
        for one in (_fake(start), _fake(end)):
            if not one.timing or one.mark is None:
                raise error_from_result("elapsed_ms", 400)
            if one.mark.time is None:
                raise error_from_result("elapsed_ms", 600)
            times.append(one.mark.time)
        return (times[1] - times[0]) * 1e3

    def load_module(self, image: bytes) -> Module:
        if not image or not self.functions:
            raise error_from_result("load_module", 209 if image else 200)
        return _FakeModule(self._ledger, self.functions)

    def launch(
        self,
        function: Function,
        grid: Size3,
        block: Size3,
        arguments: Arguments,
        stream: Stream,
        shared: int = 0,
    ) -> None:
        assert isinstance(function, HeldFunction)
        if min(*grid, *block) < 1 or block[0] * block[1] * block[2] > 1024:
            raise error_from_result("launch", 1)
        taken = [type(one).from_buffer_copy(one) for one in arguments]
        self.enqueue(stream, partial(function.raw, grid, block, taken))

    def capture(self, stream: Stream, work: Work) -> Graph:
        if not self.graphs:
            raise BackendError("this fake offers no graphs", "graphs=True")
        lane = _lane(stream)
        capture = lane.begin()
        try:
            work()
        except BaseException:
            capture.leave()
            raise
        return _FakeGraph(self._ledger, capture.end(lane))

    def memory_info(self) -> tuple[int, int]:
        total = 1 << 34 if self.capacity is None else self.capacity
        return total - self.held, total

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._ledger.close(HeldStream)


class _FakeStream(HeldStream):
    def __init__(self, ledger: Ledger, device: Device) -> None:
        self._lane = Lane(device)
        super().__init__(ledger, self._finish, self._lane, next(_handles))

    def _finish(self) -> None:
        lane = self._lane
        lane.drain()
        lane.device.lanes.remove(lane)


class _FakeEvent(HeldEvent):
    def __init__(self, ledger: Ledger, timing: bool) -> None:
        super().__init__(ledger, lambda: None, self, next(_handles))
        self.timing = timing
        self.mark: Mark | None = None


class _FakeModule(HeldHandle):
    kind = "module"

    def __init__(self, ledger: Ledger, functions: dict[str, Kernel]) -> None:
        super().__init__(ledger, lambda: None, functions)

    def function(self, name: str) -> Function:
        functions: dict[str, Kernel] = self.raw
        if name not in functions:
            raise error_from_result(f"the kernel '{name}': function", 500)
        return HeldFunction(self, name, functions[name])


class _FakeGraph(HeldHandle):
    kind = "graph"

    def __init__(self, ledger: Ledger, work: list[Work]) -> None:
        super().__init__(ledger, lambda: None, work)

    def launch(self, stream: Stream) -> None:
        for work in self.raw:
            _lane(stream).add(work)


def _lane(stream: Stream) -> Lane:
    assert isinstance(stream, _FakeStream)
    lane: Lane = stream.raw
    return lane


def _fake(event: Event) -> _FakeEvent:
    assert isinstance(event, _FakeEvent)
    made: _FakeEvent = event.raw
    return made
