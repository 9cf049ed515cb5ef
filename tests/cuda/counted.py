"""The interpreted kernels, with what they move counted: which bytes each block reads and writes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.cuda.kernel_machines import Arrays, Grid, InterpretedPtx
from tests.cuda.ptx_memory import Lanes, Memory

SECTOR = 32
_BLOCK = 1 << 48
"""Above every address."""


@dataclass
class Moved:
    """Bytes of some launches.

    Attributes:
        once: read, each byte once per launch.
        per_block: read, each byte once per block.
        sectors: as `per_block`, in whole sectors.
    """

    once: int = 0
    per_block: int = 0
    sectors: int = 0
    written: int = 0


@dataclass
class _Touched:
    """One array's: (block, address) of each access, as one number; bytes of an element."""

    item: int
    keys: list[Lanes] = field(default_factory=list)

    def different(self, *, unit: int = 1, blocks: bool = True) -> int:
        keys = np.concatenate(self.keys)
        return int(np.unique((keys if blocks else keys % _BLOCK) // unit).size)


class CountingMemory(Memory):
    def __init__(self) -> None:
        super().__init__()
        self.threads_of_block = 1
        self.read: dict[str, _Touched] = {}
        self.written: dict[str, _Touched] = {}

    def load(self, address: Lanes, dtype: np.dtype[Any], threads: Lanes) -> Lanes:
        self._note(self.read, address, dtype, threads)
        return super().load(address, dtype, threads)

    def store(self, address: Lanes, values: Lanes, threads: Lanes) -> None:
        self._note(self.written, address, values.dtype, threads)
        super().store(address, values, threads)

    def _note(
        self, touched: dict[str, _Touched], address: Lanes, dtype: np.dtype[Any], threads: Lanes
    ) -> None:
        block = threads.astype(np.int64) // self.threads_of_block
        for index, lanes, _ in self._parts(address):
            one = touched.setdefault(self._pieces[index].name, _Touched(dtype.itemsize))
            assert one.item == dtype.itemsize, "arrays of one name have elements of one size"
            one.keys.append(np.unique(block[lanes] * _BLOCK + address[lanes].astype(np.int64)))


class CountedPtx(InterpretedPtx):
    """Counts over all launches since it was made; `moved` of all arrays, or of some."""

    def __init__(self, ptx: str) -> None:
        super().__init__(ptx)
        self._memories: list[CountingMemory] = []

    @contextmanager
    def arrays(self) -> Iterator[Arrays]:
        self._memory = memory = CountingMemory()
        self._memories.append(memory)
        yield memory
        memory.close()

    def launch(self, kernel: str, job: ctypes.Structure, grid: Grid, threads: int) -> None:
        self._memories[-1].threads_of_block = threads
        super().launch(kernel, job, grid, threads)

    def moved(self, *names: str) -> Moved:
        sums = Moved()
        for memory in self._memories:
            for name, one in memory.read.items():
                if not names or name in names:
                    sums.once += one.item * one.different(blocks=False)
                    sums.per_block += one.item * one.different()
                    sums.sectors += SECTOR * one.different(unit=SECTOR)
            for name, one in memory.written.items():
                if not names or name in names:
                    sums.written += one.item * one.different(blocks=False)
        return sums
