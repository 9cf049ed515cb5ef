"""Frames and class maps in memory that the server maps too, where it is on this machine.

A piece is a file under ``/dev/shm``, as POSIX shared memory is on Linux. Its pages are taken at
once, for a full ``/dev/shm`` would otherwise kill the process that writes into it. It is unlinked
as soon as the server has mapped it, so nothing stays behind however the client ends.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import ServerError
from segformer_deploy.serve.transport import Array, RefusedError, Shared, Transport

FOLDER = Path("/dev/shm")
_FIRST = mmap.PAGESIZE


class SharedMemoryError(Exception):
    """There is none here, or the server does not have it; the text says why."""


class SharedFrames:
    """Frames in, class maps out, both in shared memory.

    Raises:
        SharedMemoryError: where it cannot be had, at the beginning or as it grows.
        ServerError: where the server is gone.
    """

    def __init__(self, transport: Transport, folder: Path = FOLDER) -> None:
        self._transport, self._folder = transport, folder
        self._regions: tuple[_Region, _Region] | None = None
        self._opened()

    def give(
        self, frames: Sequence[npt.NDArray[np.uint8]], most_bytes: int
    ) -> tuple[Shared, Shared]:
        """Copy frames of one shape in; where they lie, and where their class maps are to go."""
        given, answer = self._opened()
        return given.fill(frames), answer.room(most_bytes)

    def taken(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A copy of the class maps: the next ones come to the same place."""
        return self._opened()[1].taken(shape, dtype)

    def abandon(self) -> None:
        """Leave it to a request that was not answered: the server may still write into it.

        The next frames get memory of their own.
        """
        self._regions = None

    def close(self) -> None:
        """Have the server forget it; safe twice."""
        regions, self._regions = self._regions, None
        # The server may be gone, and with it what it knew: then the second is not waited for.
        with suppress(ServerError):
            for region in regions or ():
                region.close()

    def _opened(self) -> tuple[_Region, _Region]:
        if self._regions is None:
            given = _Region(self._transport, "in", self._folder)
            try:
                self._regions = given, _Region(self._transport, "out", self._folder)
            except SharedMemoryError:
                given.close()
                raise
        return self._regions


class _Region:
    """One piece of memory that server and client share; grows as it has to."""

    def __init__(self, transport: Transport, purpose: str, folder: Path) -> None:
        self._transport, self._purpose, self._folder = transport, purpose, folder
        self._name = ""
        self._memory: mmap.mmap | None = None
        self._grow(_FIRST)

    def fill(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Shared:
        """Copy frames of one shape in, one behind the other."""
        size = sum(frame.nbytes for frame in frames)
        self._grow(size)
        assert self._memory is not None
        values = np.frombuffer(self._memory, np.uint8, size)
        values = values.reshape(len(frames), *frames[0].shape)
        for place, frame in zip(values, frames, strict=True):
            np.copyto(place, frame)
        return Shared(self._name, size)

    def room(self, size: int) -> Shared:
        """A place of `size` bytes for an answer."""
        self._grow(size)
        return Shared(self._name, size)

    def taken(self, shape: tuple[int, ...], dtype: Any) -> Array:
        assert self._memory is not None
        count = int(np.prod(shape))
        values: Array = np.frombuffer(self._memory, dtype, count).reshape(shape).copy()
        return values

    def close(self) -> None:
        """Have the server forget it; safe twice."""
        if self._memory is None:
            return
        self._memory = None
        with suppress(RefusedError):  # it was started again meanwhile, and knows nothing
            self._transport.unregister(self._name)

    def _grow(self, size: int) -> None:
        if self._memory is not None and len(self._memory) >= size:
            return
        self.close()
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        name = f"segdeploy-{self._purpose}-{secrets.token_hex(8)}"
        path = self._folder / name
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                os.posix_fallocate(file, 0, size)
                memory = mmap.mmap(file, size)
                self._transport.register(name, f"/{name}", size)
            finally:
                os.close(file)
                path.unlink()
        except OSError as error:
            raise SharedMemoryError(f"{self._folder}: {error.strerror or error}") from error
        except RefusedError as error:
            raise SharedMemoryError(f"the server: {error.text}") from error
        self._name, self._memory = name, memory
