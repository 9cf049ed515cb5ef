"""One preallocated buffer that every activation is a view into.

A stack: `take` cuts the next bytes off, `frame` gives back whatever was taken inside it. The
buffer never grows. Guards of a known pattern lie on both sides of it, so that a kernel that
writes beyond its views is found, and `peak` is the high-water mark in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import RunError

Array = npt.NDArray[Any]
ALIGNMENT = 4
"""Bytes: what a float32 or int32 needs on every machine we know."""
_GUARD_BYTES = 256
_GUARD = 0xA5


class Buffer(NamedTuple):
    """A request: its shape and the NumPy name of its type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """What it takes of an arena."""
        size = int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize
        return -(-size // ALIGNMENT) * ALIGNMENT


def bytes_of(buffers: Sequence[Buffer]) -> int:
    return sum(buffer.bytes for buffer in buffers)


class Arena:
    """`capacity` bytes, no more.

    Attributes:
        peak: the most bytes that were ever taken at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.peak, self._used = capacity, 0, 0
        whole = np.full(capacity + 2 * _GUARD_BYTES, _GUARD, np.uint8)
        self._guards = whole[:_GUARD_BYTES], whole[_GUARD_BYTES + capacity :]
        self._bytes = whole[_GUARD_BYTES : _GUARD_BYTES + capacity]

    @property
    def used(self) -> int:
        return self._used

    def take(self, buffer: Buffer) -> Array:
        """A view of its own; what it holds is what was left there.

        Raises:
            RunError: the arena is too small.
        """
        end = self._used + buffer.bytes
        if end > self.capacity:
            raise RunError(
                f"an arena of {self.capacity} bytes, of which {self._used} are taken, "
                f"has no room for {list(buffer.shape)} of {buffer.dtype} ({buffer.bytes} bytes)",
                f"at least {end} bytes",
                "a smaller frame, smaller chunks in the Plan, or a larger arena",
            )
        size = int(np.prod(buffer.shape, dtype=np.int64)) * np.dtype(buffer.dtype).itemsize
        view = self._bytes[self._used : self._used + size].view(buffer.dtype)
        self._used, self.peak = end, max(self.peak, end)
        return view.reshape(buffer.shape)

    def take_all(self, buffers: Sequence[Buffer]) -> list[Array]:
        return [self.take(buffer) for buffer in buffers]

    @contextmanager
    def frame(self) -> Iterator[None]:
        """What is taken inside is given back at the end."""
        before = self._used
        try:
            yield
        finally:
            self._used = before

    def poison(self) -> None:
        """Fill what is free with a pattern that is far from any usual activation."""
        self._bytes[self._used :] = _GUARD

    def check(self) -> None:
        """RunError where something wrote outside of the arena."""
        for where, guard in zip(("before", "after"), self._guards, strict=True):
            if (guard != _GUARD).any():
                raise RunError(
                    f"the guard bytes {where} the arena were overwritten",
                    "writes inside the arena only",
                    "report it: the schedule's buffers and a kernel disagree",
                )
