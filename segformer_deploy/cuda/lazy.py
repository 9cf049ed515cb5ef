"""Streams that run their work as late as CUDA allows: the queues of the fake driver.

A real GPU mostly runs work at once, so a program that forgot an event or a wait mostly works.
Here nothing runs before something waits for it, and then only what that needs; so what was
forgotten gives a wrong answer every time. What must not run early is found by other schedules.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from segformer_deploy.cuda.results import error_from_result

Work = Callable[[], None]
Schedule = Literal["late", "early"] | int
"""When work runs: as late as may be, at once, or at random from this seed."""


class Mark:
    """One record of an event.

    Attributes:
        time: when it was reached, in seconds; None before.
        clock: in a capture, how much of each lane's work lies before it.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane, self.capture = lane, lane.capture
        self.time: float | None = None
        self.clock = dict(lane.clock)


class Capture:
    """Work that is collected instead of run.

    Attributes:
        counts: pieces of work by lane.
        thread: the one that captures; others may allocate meanwhile.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.work: list[Work] = []
        self.counts: dict[Lane, int] = {}

    def leave(self) -> None:
        """Its lanes run their work again."""
        for lane in self.counts:
            lane.capture, lane.clock = None, {}

    def end(self, origin: Lane) -> list[Work]:
        """The work; an error where `origin` did not wait for all of it."""
        seen = origin.clock
        self.leave()
        if any(seen.get(lane, 0) < count for lane, count in self.counts.items()):
            raise error_from_result("capture", 904)
        return self.work


class Device:
    """Lanes that share a schedule."""

    def __init__(self, schedule: Schedule = "late") -> None:
        self.schedule = schedule
        self.lanes: list[Lane] = []
        self._random = random.Random(schedule if isinstance(schedule, int) else 0)

    def capturing(self) -> bool:
        """Whether this thread captures."""
        here = threading.get_ident()
        captures = [lane.capture for lane in self.lanes]
        return any(one is not None and one.thread == here for one in captures)

    def stir(self, lane: Lane) -> None:
        """Run what the schedule runs now that `lane` has something new."""
        if self.schedule == "early":
            lane.drain()
        elif self.schedule != "late":
            other = self._random.choice(self.lanes)
            for _ in range(self._random.randrange(4)):
                other.step()


class Lane:
    """The queue of one stream."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.queue: deque[Work | Mark | tuple[Mark]] = deque()
        self.capture: Capture | None = None
        self.clock: dict[Lane, int] = {}
        device.lanes.append(self)

    def add(self, work: Work) -> None:
        if self.capture is None:
            self._queue(work)
            return
        self.capture.work.append(work)
        self.capture.counts[self] += 1
        self.clock[self] = self.capture.counts[self]

    def record(self) -> Mark:
        mark = Mark(self)
        if self.capture is None:
            self._queue(mark)
        return mark

    def wait(self, mark: Mark | None) -> None:
        """What comes after runs after `mark`; None is an event that was never recorded."""
        if mark is None:
            return
        if mark.capture is None:
            if self.capture is not None:
                raise error_from_result("wait", 905)
            self._queue((mark,))
        elif self.capture is None and mark.lane.capture is mark.capture:
            self._join(mark.capture)
        elif self.capture is not mark.capture:
            raise error_from_result("wait", 907)
        for lane, count in mark.clock.items() if mark.capture is not None else ():
            self.clock[lane] = max(count, self.clock.get(lane, 0))

    def _join(self, capture: Capture) -> None:
        self.capture = capture
        capture.counts.setdefault(self, 0)

    def begin(self) -> Capture:
        if self.capture is not None:
            raise error_from_result("capture", 900)
        capture = Capture()
        self._join(capture)
        return capture

    def step(self) -> bool:
        """Run one piece, with what it depends on; whether there was any."""
        if not self.queue:
            return False
        piece = self.queue.popleft()
        if isinstance(piece, Mark):
            piece.time = time.perf_counter()
        elif isinstance(piece, tuple):
            piece[0].lane.reach(piece[0])
        else:
            piece()
        return True

    def drain(self) -> None:
        if self.capture is not None:
            raise error_from_result("synchronise", 900)
        while self.step():
            pass

    def reach(self, mark: Mark) -> None:
        """Run what lies before `mark`, and nothing after it."""
        if mark.capture is not None:
            raise error_from_result("synchronise", 907)
        while mark.time is None and self.step():
            pass

    def _queue(self, piece: Work | Mark | tuple[Mark]) -> None:
        self.queue.append(piece)
        self.device.stir(self)
