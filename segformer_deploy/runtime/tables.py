"""What the kernels look up, uploaded once per size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.cuda.driver import Driver, Memory, Stream
from segformer_deploy.cuda.jobs import AxisTable, TapsTable
from segformer_deploy.runtime.interpolation import axis
from segformer_deploy.runtime.resample import Filter, taps

Array = npt.NDArray[Any]
_ALIGNMENT = 16


@dataclass(frozen=True)
class Uploaded:
    """Arrays in one piece of device memory; `at` their addresses by name.

    `host` is what was copied from: it must live until the copy is done, and costs little.
    """

    memory: Memory
    at: Mapping[str, int]
    host: Array


class Tables:
    """The uploaded tables of one layout of frames; they live as long as graphs that use them."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._held: dict[tuple[Any, ...], Uploaded] = {}

    def axis(self, inputs: int, outputs: int, stream: Stream) -> AxisTable:
        """The table of an upsampling of logits; the upload is queued on `stream`."""
        table = axis(inputs, outputs)

        def arrays() -> dict[str, Array]:
            names = ("lower", "upper", "w_lower", "w_upper", "start")
            return {name: getattr(table, name) for name in names}

        at = self._get(("axis", inputs, outputs), arrays, stream).at
        return AxisTable(**at, inputs=inputs, outputs=outputs)

    def taps(self, inputs: int, outputs: int, filter: Filter, stream: Stream) -> TapsTable:
        """The table of one axis of Pillow's resize; the upload is queued on `stream`."""
        table = taps(inputs, outputs, filter)

        def arrays() -> dict[str, Array]:
            return {"first": table.first, "count": table.count, "weights": table.weights}

        at = self._get(("taps", inputs, outputs, filter), arrays, stream).at
        return TapsTable(**at, stride=table.longest, outputs=outputs)

    def arrays(
        self, key: tuple[Any, ...], make: Callable[[], dict[str, Array]], stream: Stream
    ) -> Mapping[str, int]:
        """Addresses of arrays of any other kind."""
        return self._get(key, make, stream).at

    def _get(
        self, key: tuple[Any, ...], make: Callable[[], dict[str, Array]], stream: Stream
    ) -> Uploaded:
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = self._upload(key, make(), stream)
        return found

    def _upload(
        self, key: tuple[Any, ...], arrays: Mapping[str, Array], stream: Stream
    ) -> Uploaded:
        offsets, size = {}, 0
        for name, array in arrays.items():
            offsets[name] = size
            size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        host = np.zeros(size, np.uint8)
        for name, array in arrays.items():
            part = host[offsets[name] : offsets[name] + array.nbytes]
            part[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        memory = self._driver.allocate(size, f"tables of {key[0]}")
        self._driver.copy_in(memory.address, host, stream)
        return Uploaded(memory, {n: memory.address + o for n, o in offsets.items()}, host)

    def close(self) -> None:
        """Give back all tables; safe to call twice."""
        for one in self._held.values():
            one.memory.close()
        self._held.clear()
