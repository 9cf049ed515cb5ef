"""What one layout of frames needs on a GPU: a context, buffers, and slots that take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.cuda.driver import Driver, Event, Graph, HostMemory, Memory, Stream
from segformer_deploy.engine.session import DeviceEngine
from segformer_deploy.runtime.closing import close_all
from segformer_deploy.runtime.device_kernels import (
    DeviceFrame,
    DeviceKernels,
    Format,
    KernelCode,
)
from segformer_deploy.spec import FrameSize, ResizeRule

Array = npt.NDArray[Any]
_ALIGNMENT = 256
STAGES = {
    "copy_in": ("arriving", "in"),
    "preprocess": ("begun", "prepared"),
    "infer": ("prepared", "inferred"),
    "class_map": ("inferred", "mapped"),
    "copy_out": ("leaving", "out"),
}
"""Stage -> the moments between which it lies."""
_MOMENTS = tuple(dict.fromkeys(moment for pair in STAGES.values() for moment in pair))


@dataclass(frozen=True)
class Layout:
    """The frames of one batch: their sizes and how their bytes are to be read."""

    sizes: tuple[FrameSize, ...]
    format: Format = "bgr"

    def bytes_of(self, size: FrameSize) -> int:
        return size.pixels * 3 // (2 if self.format == "nv12" else 1)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each frame begins; the last one is the length of all."""
        places = [0]
        for size in self.sizes:
            places.append(places[-1] + self.bytes_of(size))
        return tuple(places)

    @property
    def bytes(self) -> int:
        return self.offsets[-1]


@dataclass(frozen=True)
class Answer:
    """Where one frame's class map and confidence lie in a slot's answer, in bytes."""

    size: FrameSize
    map_at: int
    confidence_at: int | None


@dataclass
class Slot:
    """The memory and events of one batch in flight."""

    layout: Layout
    answers_at: tuple[Answer, ...]
    map_type: Any
    pinned: HostMemory
    frame: Memory
    answer: Memory
    out: HostMemory
    arrived: Event
    computed: Event
    left: Event
    times: dict[str, Event] = field(default_factory=dict)
    stamped: set[str] = field(default_factory=set)
    graph: Graph | None = None
    busy: bool = False
    keep: Any = None

    def fill(self, frames: Sequence[Array]) -> None:
        """Copy the frames into pinned memory, one after the other."""
        for frame, at in zip(frames, self.layout.offsets, strict=False):
            target = self.pinned.array[at : at + frame.nbytes]
            np.copyto(target.reshape(frame.shape), frame)

    def device_frames(self) -> list[DeviceFrame]:
        """The frames as they lie in device memory."""
        format = self.layout.format
        found = []
        for size, at in zip(self.layout.sizes, self.layout.offsets, strict=False):
            address = self.frame.address + at
            pitch = size.width if format == "nv12" else 3 * size.width
            chroma = address + size.pixels if format == "nv12" else 0
            found.append(DeviceFrame(address, size, pitch, format, chroma))
        return found

    def answers(self) -> list[tuple[Array, Array | None]]:
        """(class map, confidence or None) of each frame, copied out of pinned memory."""
        return [
            (
                self._read(one.map_at, one.size, self.map_type),
                None
                if one.confidence_at is None
                else self._read(one.confidence_at, one.size, np.float32),
            )
            for one in self.answers_at
        ]

    def _read(self, at: int, size: FrameSize, dtype: Any) -> Array:
        length = size.pixels * np.dtype(dtype).itemsize
        values = self.out.array[at : at + length].view(dtype)
        own: Array = values.reshape(size.height, size.width).copy()
        return own

    def stages_ms(self, driver: Driver) -> dict[str, float]:
        """How long each stage of the last batch took on the device; a lent frame is not copied."""
        return {
            stage: driver.elapsed_ms(self.times[begin], self.times[end])
            for stage, (begin, end) in STAGES.items()
            if {begin, end} <= self.stamped
        }


class Lane:
    """A context of the engine, bound to one layout, with `depth` slots.

    The image and the logits exist once: the compute stream works on one batch at a time.
    """

    def __init__(
        self,
        engine: DeviceEngine,
        rule: ResizeRule,
        driver: Driver,
        code: KernelCode,
        layout: Layout,
        depth: int,
        *,
        timed: bool,
        confidence: bool,
    ) -> None:
        self._driver, self._rule, self.layout = driver, rule, layout
        self.network = rule.network_size(layout.sizes[0])
        self.shape = (len(layout.sizes), self.network.height, self.network.width, 3)
        output = engine.outputs[0]
        self._logits_type = output.dtype
        shape = engine.output_shapes({"image": self.shape})[output.name]
        self._logits_shape = shape[0], shape[1], shape[2], shape[3]
        self._confidence, self._timed = confidence, timed
        self.warm = False
        self.slots: list[Slot] = []
        self._held: list[Any] = []
        try:
            self._kernels = self._own(DeviceKernels(driver, code))
            self._session = self._own(engine.session())
            self._allocate(depth)
        except BaseException:
            self.close()
            raise

    def _own(self, one: Any) -> Any:
        self._held.append(one)
        return one

    def _allocate(self, depth: int) -> None:
        driver, sizes = self._driver, self.layout.sizes
        scratch = max(self._kernels.scratch_bytes(size, self._rule) for size in sizes)
        logits = int(np.prod(self._logits_shape)) * np.dtype(self._logits_type).itemsize
        pixels = int(np.prod(self.shape))
        self._image: Memory = self._own(driver.allocate(pixels, "the network's input"))
        self._scratch: Memory = self._own(
            driver.allocate(max(scratch, _ALIGNMENT), "half-resized frames")
        )
        self._logits: Memory = self._own(driver.allocate(logits, "logits"))
        for _ in range(depth):
            self.slots.append(self._slot())

    def _slot(self) -> Slot:
        driver, layout = self._driver, self.layout
        map_type = np.uint8 if self._logits_shape[1] <= 256 else np.int32
        answers, size = _answers(layout, np.dtype(map_type).itemsize, self._confidence)
        return Slot(
            layout,
            answers,
            map_type,
            self._own(driver.allocate_host(layout.bytes, "frames to copy in")),
            self._own(driver.allocate(layout.bytes, "frames")),
            self._own(driver.allocate(size, "class maps")),
            self._own(driver.allocate_host(size, "class maps to copy out")),
            self._own(driver.open_event()),
            self._own(driver.open_event()),
            self._own(driver.open_event()),
            self._moments(),
        )

    def _moments(self) -> dict[str, Event]:
        if not self._timed:
            return {}
        return {name: self._own(self._driver.open_event(timing=True)) for name in _MOMENTS}

    def free_slot(self) -> Slot:
        """A slot with nothing in flight."""
        slot = next(slot for slot in self.slots if not slot.busy)
        slot.stamped.clear()
        return slot

    def queue(self, slot: Slot, stream: Stream, frames: Sequence[DeviceFrame]) -> None:
        """Resize, network and class map of one batch, on `stream`."""
        self.stamp(slot, "begun", stream)
        pixels = 3 * self.network.pixels
        for index, frame in enumerate(frames):
            to = self._image.address + index * pixels
            self._kernels.prepare(frame, self._rule, to, self._scratch.address, stream)
        self.stamp(slot, "prepared", stream)
        name = "logits"
        addresses = {"image": self._image.address, name: self._logits.address}
        self._session.enqueue(stream, addresses, self.shape)
        self.stamp(slot, "inferred", stream)
        self._maps(slot, stream)
        self.stamp(slot, "mapped", stream)

    def capturable(self, stream: Stream) -> bool:
        """Whether what `queue` did last on `stream` may be captured there."""
        answer: bool = self._session.capturable(stream)
        return answer

    def _maps(self, slot: Slot, stream: Stream) -> None:
        _, classes, height, width = self._logits_shape
        one = (1, classes, height, width)
        step = classes * height * width * np.dtype(self._logits_type).itemsize
        for index, answer in enumerate(slot.answers_at):
            logits = self._logits.address + index * step
            to = slot.answer.address + answer.map_at
            given = (logits, one, self._logits_type, answer.size)
            self._kernels.class_map(*given, to, stream)
            if answer.confidence_at is not None:
                confidence = slot.answer.address + answer.confidence_at
                self._kernels.confidence(*given, to, confidence, stream)

    def stamp(self, slot: Slot, moment: str, stream: Stream) -> None:
        """Note when `stream` comes to this moment, where times are wanted."""
        if self._timed:
            self._driver.record(slot.times[moment], stream)
            slot.stamped.add(moment)

    def close(self) -> None:
        """Give back everything; safe to call twice. Nothing may be in flight."""
        graphs = [slot.graph for slot in self.slots if slot.graph is not None]
        held, self._held, self.slots = self._held, [], []
        close_all([*graphs, *reversed(held)])


def _answers(layout: Layout, itemsize: int, confidence: bool) -> tuple[tuple[Answer, ...], int]:
    """Where each frame's answer lies, and how many bytes all need."""
    found, at = [], 0

    def take(length: int) -> int:
        nonlocal at
        begin, at = at, at + -(-length // _ALIGNMENT) * _ALIGNMENT
        return begin

    for size in layout.sizes:
        map_at = take(size.pixels * itemsize)
        found.append(Answer(size, map_at, take(4 * size.pixels) if confidence else None))
    return tuple(found), at
