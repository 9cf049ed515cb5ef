"""Memory that the interpreted threads see: bounds, alignment, and who touched what.

A byte written by one thread and touched by another without a barrier between is a race,
whatever order this interpreter happens to choose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.cuda.ptx_text import PtxError

Lanes = Any
_NOBODY, _SEVERAL = -1, -2


class FaultError(PtxError):
    """An access that a thread may not make; `lane` is its position among those that ran."""

    def __init__(self, lane: int, text: str) -> None:
        super().__init__(text)
        self.lane = lane


def _first(where: Lanes) -> int:
    return int(np.argmax(where))


class Piece:
    """Some bytes in one piece.

    Args:
        data: any array; outputs are written back to it by `close`.
        name: for messages.
        output: threads may write it; what they did not write may not be read.
    """

    def __init__(self, data: Lanes, name: str, *, output: bool = False) -> None:
        self.size = data.nbytes
        self.name = name
        self.output = output
        self._data = data
        # Padded, so that it can be looked at as larger numbers too.
        self.bytes = np.zeros(-(-self.size // 8) * 8 + 8, np.uint8)
        self.bytes[: self.size] = np.ascontiguousarray(data).view(np.uint8).ravel()
        self._writer = np.full(len(self.bytes), _NOBODY, np.int32) if output else None
        self._reader = np.full(len(self.bytes), _NOBODY, np.int32) if output else None
        self._defined = np.zeros(len(self.bytes), bool) if output else None

    def close(self) -> None:
        """Write what the threads left back into the array."""
        if self.output:
            whole = self.bytes[: self.size].view(self._data.dtype)
            self._data[...] = whole.reshape(self._data.shape)

    def forget(self) -> None:
        """A barrier: what came before is ordered."""
        if self._writer is not None and self._reader is not None:
            self._writer[:] = _NOBODY
            self._reader[:] = _NOBODY

    def load(self, at: Lanes, dtype: np.dtype[Any], threads: Lanes) -> Lanes:
        self._check(at, dtype.itemsize)
        if self._writer is not None and self._reader is not None and self._defined is not None:
            for byte in range(dtype.itemsize):
                where = at + byte
                self._refuse(~self._defined[where], where, "is read before anything was written")
                writer = self._writer[where]
                self._refuse(
                    (writer != _NOBODY) & (writer != threads),
                    where,
                    "is written and read in a race",
                )
                fresh = self._reader[where] == _NOBODY
                self._reader[where[fresh]] = threads[fresh]
                self._reader[where[self._reader[where] != threads]] = _SEVERAL
        return self.bytes.view(dtype)[at // dtype.itemsize]

    def store(self, at: Lanes, values: Lanes, threads: Lanes) -> None:
        self._check(at, values.dtype.itemsize)
        if self._writer is None or self._reader is None or self._defined is None:
            raise FaultError(0, f"{self.name} may not be written")
        for byte in range(values.dtype.itemsize):
            where = at + byte
            for owner, what in (
                (self._writer, "written twice"),
                (self._reader, "read and written"),
            ):
                found = owner[where]
                self._refuse((found != _NOBODY) & (found != threads), where, f"is {what} in a race")
            self._writer[where] = threads
            self._refuse(self._writer[where] != threads, where, "is written twice in a race")
            self._defined[where] = True
        self.bytes.view(values.dtype)[at // values.dtype.itemsize] = values

    def _check(self, at: Lanes, size: int) -> None:
        outside = (at < 0) | (at > self.size - size)
        self._refuse(outside, at, f"of {self.size} bytes lies outside")
        self._refuse(at % size != 0, at, f"is not a multiple of {size}")

    def _refuse(self, wrong: Lanes, at: Lanes, text: str) -> None:
        if wrong.any():
            lane = _first(wrong)
            raise FaultError(lane, f"byte {int(at[lane])} of {self.name} {text}")


class Memory:
    """Global memory: the arrays that a kernel's pointers lead to, far apart from each other."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()  # elements that threads read, by array
        self._pieces: list[Piece] = []
        self._bases: list[int] = []

    def give(self, data: Lanes, name: str) -> int:
        """The address of an array that may be read."""
        return self._add(Piece(data, name))

    def take(self, data: Lanes, name: str) -> int:
        """The address of an array that is to be filled, each byte by one thread."""
        return self._add(Piece(data, name, output=True))

    def close(self) -> None:
        for piece in self._pieces:
            piece.close()

    def _add(self, piece: Piece) -> int:
        last = self._bases[-1] + self._pieces[-1].size if self._bases else 0x7F00_0000_0000
        base = -(-(last + (1 << 20)) // 256) * 256
        self._pieces.append(piece)
        self._bases.append(base)
        return base

    def load(self, address: Lanes, dtype: np.dtype[Any], threads: Lanes) -> Lanes:
        result = np.empty(address.shape, dtype)
        for index, lanes, at in self._parts(address):
            with _lanes_of(lanes):
                result[lanes] = self._pieces[index].load(at, dtype, threads[lanes])
            self.loads[self._pieces[index].name] += len(lanes)
        return result

    def store(self, address: Lanes, values: Lanes, threads: Lanes) -> None:
        for index, lanes, at in self._parts(address):
            with _lanes_of(lanes):
                self._pieces[index].store(at, values[lanes], threads[lanes])

    def _parts(self, address: Lanes) -> Iterator[tuple[int, Lanes, Lanes]]:
        """For each piece that is meant: its index, which lanes, their offsets in it."""
        signed = address.astype(np.int64)
        # Half a gap before a piece belongs to it, so that messages name the right one.
        nearest = np.searchsorted(self._bases, signed + (1 << 19), "right") - 1
        if (nearest < 0).any():
            lane = _first(nearest < 0)
            raise FaultError(lane, f"address {int(address[lane]):#x} is no memory")
        for index in np.unique(nearest):
            lanes = np.flatnonzero(nearest == index)
            yield int(index), lanes, signed[lanes] - self._bases[index]


class Rooms:
    """As many equal pieces as there are blocks (shared memory) or threads (local memory)."""

    def __init__(self, rooms: int, size: int, name: str) -> None:
        self._size = size
        self._piece = Piece(np.zeros(rooms * size, np.uint8), name, output=True)

    def load(self, room: Lanes, at: Lanes, dtype: np.dtype[Any], threads: Lanes) -> Lanes:
        return self._piece.load(self._inside(room, at, dtype), dtype, threads)

    def store(self, room: Lanes, at: Lanes, values: Lanes, threads: Lanes) -> None:
        self._piece.store(self._inside(room, at, values.dtype), values, threads)

    def forget(self) -> None:
        self._piece.forget()

    def _inside(self, room: Lanes, at: Lanes, dtype: np.dtype[Any]) -> Lanes:
        at = at.astype(np.int64)
        outside = (at < 0) | (at > self._size - dtype.itemsize)
        if outside.any():
            lane = _first(outside)
            what = f"byte {int(at[lane])} of {self._piece.name}"
            raise FaultError(lane, f"{what} of {self._size} bytes lies outside")
        return room * self._size + at


@contextmanager
def _lanes_of(lanes: Lanes) -> Iterator[None]:
    """Faults inside count among `lanes`; those that leave, among all."""
    try:
        yield
    except FaultError as fault:
        raise FaultError(int(lanes[fault.lane]), str(fault)) from None
