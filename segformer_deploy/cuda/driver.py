"""What the package asks of a GPU, as one small protocol: memory, streams, events, kernels, graphs.

Bindings lie beside it: `cuda_python`, `pycuda_binding`, and `fake` on host memory; `opening`
chooses one. All of them hold to this:

- Work on a stream runs in its order, some time after the call; between streams only an event
  orders it. Nothing waits but `synchronise`, `synchronise_event` and a `close`.
- Host arrays that a copy names must stay, unchanged (or unread), until the stream was waited for.
- Calls may come from any thread, one stream from one thread at a time.
- Whatever a driver gives has a `close()` that is safe twice; closing the driver waits for its
  streams and takes back all that is still open.
- Errors are RunError or BackendError: the call, CUDA's name and number, the usual cause.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import RunError

LEGACY_STREAM = 1
"""CU_STREAM_LEGACY: where a library works that names no stream."""
Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Size3 = tuple[int, int, int]
Arguments = Sequence[Any]
"""ctypes numbers and structures, in the order of the kernel's parameters."""


class Memory(Protocol):
    """A piece of device memory."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int:
        """In bytes."""

    def close(self) -> None:
        """Give it back; work that uses it must be done."""


class HostMemory(Protocol):
    """Host memory that stays where it is, so that copies run beside other work."""

    @property
    def array(self) -> Bytes:
        """All of it, uint8; views of it are void after `close`."""

    @property
    def size(self) -> int:
        """In bytes."""

    def close(self) -> None:
        """Give it back; work that uses it must be done."""


class Stream(Protocol):
    """A queue of work on the device."""

    @property
    def handle(self) -> int:
        """CUstream, for other libraries; RunError once closed."""

    def close(self) -> None:
        """Wait for its work, and give it back."""


class Event(Protocol):
    """A point in a stream's work."""

    @property
    def handle(self) -> int:
        """CUevent, for other libraries; 0 where the binding does not tell it."""

    def close(self) -> None: ...


class Function(Protocol):
    """A kernel; lives as long as its module."""

    @property
    def name(self) -> str: ...


class Module(Protocol):
    """Kernels on the device."""

    def function(self, name: str) -> Function:
        """RunError where the module has no kernel of that name."""

    def close(self) -> None:
        """Unload it; launches of its functions must be done."""


class Graph(Protocol):
    """Work that was captured once, to be launched as one."""

    def launch(self, stream: Stream) -> None: ...

    def close(self) -> None:
        """Its launches must be done."""


@dataclass(frozen=True)
class Rows:
    """A copy of `rows` rows of `width` bytes, between two pitches, all on the device."""

    source: int
    source_pitch: int
    target: int
    target_pitch: int
    width: int
    rows: int


class Driver(Protocol):
    """A GPU, as far as the package uses it; see the top of this file."""

    @property
    def name(self) -> str:
        """The GPU's."""

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability: (8, 7) is a Jetson Orin."""

    @property
    def graphs(self) -> bool:
        """Whether `capture` is offered."""

    @property
    def chosen(self) -> str:
        """Which binding this is, and why it was chosen: for people."""

    def attach(self) -> None:
        """Work with this GPU from now on in this thread, whatever others made current in it.

        For whoever comes from the outside: a caller may have used another GPU, or pushed a
        context, since the last call.
        """

    def allocate(self, size: int, owner: str) -> Memory:
        """`size` bytes; RunError names `owner` where there are not so many."""

    def allocate_host(self, size: int, owner: str) -> HostMemory:
        """`size` bytes of pinned host memory; RunError names `owner`."""

    def open_stream(self) -> Stream:
        """One that does not wait for the default stream."""

    def open_event(self, timing: bool = False) -> Event:
        """Events for `elapsed_ms` need `timing`; others cost less without it."""

    def copy_in(self, target: int, source: Array, stream: Stream) -> None:
        """Host array (in one piece) -> device address."""

    def copy_out(self, target: Array, source: int, stream: Stream) -> None:
        """Device address -> host array (in one piece)."""

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        """`size` bytes between device addresses."""

    def copy_rows(self, copy: Rows, stream: Stream) -> None:
        """A strided copy on the device."""

    def record(self, event: Event, stream: Stream) -> None:
        """`event` is where `stream` is now; what waited for an earlier place still does."""

    def wait(self, stream: Stream, event: Event) -> None:
        """What comes on `stream` runs after `event`'s place; at once if it was never recorded."""

    def synchronise(self, stream: Stream) -> None:
        """Wait for all of the stream's work; the error of any of it shows here at the latest."""

    def synchronise_event(self, event: Event) -> None:
        """Wait for the work before the event's place."""

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Between two events with timing, both waited for; the device's clock, about 0.5 us."""

    def load_module(self, image: bytes) -> Module:
        """Of PTX or a cubin; BackendError where this GPU or its driver cannot use it."""

    def launch(
        self,
        function: Function,
        grid: Size3,
        block: Size3,
        arguments: Arguments,
        stream: Stream,
        shared: int = 0,
    ) -> None:
        """Run a kernel; `arguments` are copied now. `shared`: bytes of dynamic shared memory."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """What `work` queues on `stream`, as a graph; none of it runs now.

        `work` may neither wait nor allocate. An exception in it ends the capture and passes
        on. BackendError where `graphs` is false.
        """

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the device, all programs counted."""

    def close(self) -> None:
        """Wait, take everything back, leave the context."""


def check_source(source: Array) -> None:
    """Refuse an array whose bytes do not lie in one piece: the device would read others."""
    if not source.flags.c_contiguous:
        raise RunError(
            f"a copy to the device of an array in pieces (strides {source.strides})",
            "one whose bytes lie in order",
            "numpy.ascontiguousarray",
        )


def check_target(target: Array) -> None:
    """Refuse an array that cannot be filled as one piece."""
    if not (target.flags.c_contiguous and target.flags.writeable):
        raise RunError(
            f"a copy from the device to an array in pieces (strides {target.strides}) or read-only",
            "one whose bytes lie in order and may be written",
        )


def packed(arguments: Arguments) -> bytes:
    """The kernel's parameters as they lie in its parameter space: each at its alignment."""
    block = bytearray()
    for argument in arguments:
        block.extend(bytes(-len(block) % ctypes.alignment(argument)))
        block.extend(bytes(argument))
    return bytes(block)
