"""Frames in, class maps out on a GPU: what is copied in, computed and copied out overlaps.

::

    copy-in stream   frame 1   frame 2   frame 3
    compute stream             resize, network, class map 1   2   3
    copy-out stream                                           map 1   map 2

Three waits keep the order, and no other: the compute stream waits for a frame's arrival, the
copy-out stream for its class map, and the caller, before it reads the map or lends the slot's
memory to another frame, for the copy out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt

from segformer_deploy.cuda.driver import Driver, Stream
from segformer_deploy.cuda.held import run_all
from segformer_deploy.engine.session import DeviceEngine
from segformer_deploy.errors import BackendError, RunError
from segformer_deploy.runtime.closing import close_all
from segformer_deploy.runtime.device_frame import Foreign
from segformer_deploy.runtime.device_kernels import KernelCode
from segformer_deploy.runtime.lane import Lane, Layout, Slot
from segformer_deploy.spec import ResizeRule

Array = npt.NDArray[Any]
DEPTH = 3
"""Frames in flight: one comes in, one is computed, one goes out."""
LANES = 2
"""Layouts of frames (sizes, batch) that are kept ready; each holds a context's memory."""


@dataclass(frozen=True)
class Options:
    """How a pipeline works.

    Attributes:
        depth: frames in flight at once.
        graphs: replay the compute stream's work as a CUDA graph from its second run on, unless
            the library says that it cannot be captured; a capture that fails ends the frame.
        timed: note when each stage begins and ends; graphs are not used then.
        confidence: also give the probability of each pixel's class.
    """

    depth: int = DEPTH
    graphs: bool = True
    timed: bool = False
    confidence: bool = False


@dataclass(eq=False)
class Ticket:
    """A frame (or batch) in flight."""

    lane: Lane
    slot: Slot


class Pipeline:
    """Queues frames on a GPU and hands out their class maps.

    Used by one thread at a time; `close` gives everything back, also after an error.

    Args:
        engine: a loaded plan with logits.
        rule: how frames are resized.
        driver, code: the GPU and our kernels on it; closed with the pipeline, even where it
            cannot be made.
    """

    def __init__(
        self,
        engine: DeviceEngine,
        rule: ResizeRule,
        driver: Driver,
        code: KernelCode,
        options: Options | None = None,
    ) -> None:
        self._engine, self._rule = engine, rule
        self.options = options or Options()
        self._driver: Driver | None = driver
        self._code = code
        self._lanes: OrderedDict[Layout, Lane] = OrderedDict()
        self._flying: list[Ticket] = []
        self._streams: list[Stream] = []
        self.last_stages_ms: dict[str, float] = {}
        try:
            for _ in range(3):
                self._streams.append(driver.open_stream())
        except BaseException:
            self.close()
            raise

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def how(self) -> str:
        """Which image of our kernels runs, by which binding, with graphs or without, and why."""
        driver = self._open_driver()
        graphs = "" if driver.graphs else ", without CUDA graphs"
        return f"{self._code.how}; by {driver.chosen}{graphs}"

    @property
    def compute_stream(self) -> int:
        """The handle of the stream that reads device frames."""
        return self._streams[1].handle

    def submit(self, frames: Sequence[Array], layout: Layout) -> Ticket:
        """Queue frames of one batch, which `layout` describes; their memory is free at return.

        Raises RunError where as many are in flight as there are slots, or the GPU fails.
        """
        driver, lane = self._lane_for(layout)
        slot = lane.free_slot()
        arrive, compute, _ = self._streams
        slot.fill(frames)
        with self._landing(driver):
            lane.stamp(slot, "arriving", arrive)
            driver.copy_in(slot.frame.address, slot.pinned.array[: layout.bytes], arrive)
            lane.stamp(slot, "in", arrive)
            driver.record(slot.arrived, arrive)
            driver.wait(compute, slot.arrived)
            self._compute(driver, lane, slot, compute)
            return self._send_out(driver, lane, slot)

    def submit_foreign(self, frame: Foreign, layout: Layout) -> Ticket:
        """Queue a frame that is on the GPU already; it must stay as it is until `collect`."""
        driver, lane = self._lane_for(layout)
        slot = lane.free_slot()
        compute = self._streams[1]
        with self._landing(driver):
            if frame.stream is not None:
                driver.record(slot.arrived, _Borrowed(frame.stream))
                driver.wait(compute, slot.arrived)
            slot.keep = frame.keep
            lane.queue(slot, compute, [frame.frame])
            return self._send_out(driver, lane, slot)

    def collect(self, ticket: Ticket) -> list[tuple[Array, Array | None]]:
        """(class map, confidence or None) of each frame, as arrays of the caller's own.

        Tickets may come back in any order, each once: also one that ends in an error is done.
        """
        driver = self._open_driver()
        if ticket not in self._flying:
            raise RunError("a frame was collected that is not in flight", "each frame once")
        slot = ticket.slot
        try:
            with self._landing(driver):
                driver.synchronise_event(slot.left)
        finally:
            self._flying.remove(ticket)
            slot.busy, slot.keep = False, None
        if self.options.timed:
            self.last_stages_ms = slot.stages_ms(driver)
        return slot.answers()

    @contextmanager
    def _landing(self, driver: Driver) -> Iterator[None]:
        """After an error inside, also Ctrl-C, wait for what is queued: no ticket will.

        It uses memory that the caller, or the next frame, takes as free.
        """
        try:
            yield
        except BaseException:
            for stream in self._streams:
                with suppress(RunError, BackendError):
                    driver.synchronise(stream)
            raise

    def _compute(self, driver: Driver, lane: Lane, slot: Slot, stream: Stream) -> None:
        frames = slot.device_frames()
        if slot.graph is not None:
            slot.graph.launch(stream)
            return
        replay = self.options.graphs and not self.options.timed and driver.graphs
        if replay and lane.warm and lane.capturable(stream):
            # One plain run of the layout has bound shapes, uploaded tables and loaded code.
            slot.graph = driver.capture(stream, lambda: lane.queue(slot, stream, frames))
            slot.graph.launch(stream)
            return
        lane.queue(slot, stream, frames)
        lane.warm = True

    def _send_out(self, driver: Driver, lane: Lane, slot: Slot) -> Ticket:
        _, compute, leave = self._streams
        driver.record(slot.computed, compute)
        driver.wait(leave, slot.computed)
        lane.stamp(slot, "leaving", leave)
        driver.copy_out(slot.out.array, slot.answer.address, leave)
        lane.stamp(slot, "out", leave)
        driver.record(slot.left, leave)
        slot.busy = True
        ticket = Ticket(lane, slot)
        self._flying.append(ticket)
        return ticket

    def _lane_for(self, layout: Layout) -> tuple[Driver, Lane]:
        driver = self._open_driver()
        if len(self._flying) >= self.options.depth:
            raise RunError(
                f"{len(self._flying)} frames are in flight",
                f"at most {self.options.depth}: collect the oldest one first",
            )
        lane = self._lanes.get(layout)
        if lane is None:
            self._make_room()
            lane = self._lanes[layout] = Lane(
                *(self._engine, self._rule, driver, self._code, layout, self.options.depth),
                timed=self.options.timed,
                confidence=self.options.confidence,
            )
        self._lanes.move_to_end(layout)
        return driver, lane

    def _make_room(self) -> None:
        """Close the lanes that were used least recently and have nothing in flight."""
        busy = {id(ticket.lane) for ticket in self._flying}
        idle = [key for key, lane in self._lanes.items() if id(lane) not in busy]
        while len(self._lanes) >= LANES and idle:
            self._lanes.pop(idle.pop(0)).close()

    def _open_driver(self) -> Driver:
        if self._driver is None:
            raise RunError("a closed pipeline was used", "an open one")
        self._driver.attach()
        return self._driver

    def close(self) -> None:
        """Give back everything; safe to call twice, and after an error."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        driver.attach()
        self._flying.clear()
        lanes = list(self._lanes.values())
        self._lanes.clear()
        # Whatever is still queued reads and writes the memory that goes next.
        run_all(
            *(partial(self._drain, driver, stream) for stream in self._streams),
            partial(close_all, [*lanes, *self._streams, self._code, driver]),
        )

    def _drain(self, driver: Driver, stream: Stream) -> None:
        driver.synchronise(stream)


@dataclass(frozen=True)
class _Borrowed:
    """Somebody else's stream."""

    handle: int

    def close(self) -> None: ...
