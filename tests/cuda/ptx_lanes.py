"""One launch of an interpreted kernel: its threads, their registers and their memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.cuda.ptx_memory import Lanes, Memory, Rooms
from tests.cuda.ptx_text import Kernel, PtxError


@dataclass
class Launch:
    """One launch: how many threads there are, and which each one is."""

    kernel: Kernel
    grid: tuple[int, int, int]
    block: int
    parameters: bytes
    memory: Memory
    threads: Lanes = field(init=False)
    special: dict[str, Lanes] = field(init=False)
    shared: Rooms = field(init=False)
    local: Rooms = field(init=False)
    registers: dict[str, Lanes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        blocks = int(np.prod(self.grid))
        self.threads = np.arange(blocks * self.block, dtype=np.int32)
        self.room = self.threads.astype(np.int64) // self.block
        x, y, z = (self.room % self.grid[0], self.room // self.grid[0], self.room)
        where = (x, y % self.grid[1], z // (self.grid[0] * self.grid[1]))
        self.special = {"%tid.x": (self.threads % self.block).astype(np.uint32)}
        for axis, coordinate, size in zip("xyz", where, self.grid, strict=True):
            self.special[f"%ctaid.{axis}"] = coordinate.astype(np.uint32)
            self.special[f"%nctaid.{axis}"] = np.full(len(x), size, np.uint32)
        self.special["%ntid.x"] = np.full(len(x), self.block, np.uint32)
        sizes = self.kernel.sizes
        if len(self.parameters) != sizes.get("param", 0):
            raise PtxError(
                f"{len(self.parameters)} bytes for {sizes.get('param', 0)} of parameters"
            )
        self.constants = np.frombuffer(self.parameters + bytes(16), np.uint8)
        self.shared = Rooms(blocks, sizes.get("shared", 0), "shared memory")
        self.local = Rooms(len(self.threads), sizes.get("local", 0), "local memory")

    def name_of(self, thread: int) -> str:
        names = [int(self.special[f"%ctaid.{axis}"][thread]) for axis in "xyz"]
        return f"thread {thread % self.block} of block {tuple(names)}"


class Frame:
    """The lanes that run some instructions together; registers are copied in and out once."""

    def __init__(self, launch: Launch, lanes: Lanes) -> None:
        self.launch = launch
        self.lanes = lanes
        self.threads = launch.threads[lanes]
        self._all = len(lanes) == len(launch.threads)
        self._values: dict[str, Lanes] = {}
        self._written: set[str] = set()

    def get(self, name: str) -> Lanes:
        found = self._values.get(name)
        if found is None:
            whole = self.launch.registers.get(name)
            if whole is None:
                raise PtxError(f"{name} is read before it is written")
            found = self._values[name] = whole if self._all else whole[self.lanes]
        return found

    def set(self, name: str, value: Lanes) -> None:
        if np.ndim(value) == 0:
            value = np.full(len(self.lanes), value)
        self._values[name] = value
        self._written.add(name)

    def leave(self) -> None:
        for name in self._written:
            value = self._values[name]
            if self._all:
                # A copy: the array may be another register's too.
                self.launch.registers[name] = np.array(value)
                continue
            whole = self.launch.registers.get(name)
            if whole is None:
                whole = self.launch.registers[name] = np.zeros(
                    len(self.launch.threads), value.dtype
                )
            whole[self.lanes] = value
