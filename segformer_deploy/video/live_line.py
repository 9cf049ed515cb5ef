"""The way of live frames: the newest is taken when there is room for its result, not before."""

from __future__ import annotations

import time
from collections import deque
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from segformer_deploy.video.bell import Bell
from segformer_deploy.video.frame import Frame
from segformer_deploy.video.interrupts import uninterrupted
from segformer_deploy.video.live.source import LiveSource
from segformer_deploy.video.overlay import ClassMap
from segformer_deploy.video.threads import End, Finish, Read, Tell, Timed, Writer, Written

LIVE_BEHIND = 2
"""Results that are written or wait for it before another frame is taken."""


class LiveLine:
    """The source's own thread captures, the calling one segments, one more draws and writes.

    A frame is taken as late as can be, so that it is the newest; the time that it then spends
    is that of segmenting and writing it, and nothing else.
    """

    def __init__(self, source: LiveSource, most: int | None, finish: Finish, bell: Bell) -> None:
        self.source: AbstractContextManager[Any] = source
        self._live = source
        self._left = most
        self._bell = bell
        self._inbox: SimpleQueue[Read | Written | End] = SimpleQueue()
        self._writer = Writer(finish, self._post)
        self._written: deque[Tell] = deque()
        self._behind = 0

    def start(self) -> None:
        with uninterrupted():
            self._live.ring_with(self._bell.ring)
            self._writer.start()

    @property
    def ready(self) -> bool:
        self._receive()
        return self._left == 0 or (self._behind < LIVE_BEHIND and self._live.ready)

    def next(self) -> Timed | None:
        while True:
            self._bell.clear()
            if self.ready:
                if self._left == 0:
                    return None
                start = time.perf_counter()
                frame = self._live.take()
                if frame is not None:
                    if self._left is not None:
                        self._left -= 1
                    return frame, (time.perf_counter() - start) * 1e3
                if self._live.finished:
                    return None
            self._bell.wait()

    def put(self, frame: Frame, class_map: ClassMap, stages: dict[str, float]) -> None:
        self._behind += 1
        # A segmenter may give the same array each time.
        self._writer.put((frame, class_map.copy(), stages))

    def settle(self) -> None:
        self._writer.wait()
        self._receive()
        self._writer.check()

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with uninterrupted():
            self._writer.wait()
            if error is None or isinstance(error, KeyboardInterrupt):
                self._writer.check()

    def _post(self, message: Read | Written | End) -> None:
        self._inbox.put(message)
        self._bell.ring()

    def _receive(self) -> None:
        """Take in what the writer has sent, and say which frames are finished; or its error."""
        while True:
            try:
                message = self._inbox.get(block=False)
            except Empty:
                break
            if isinstance(message, Written):
                self._behind -= 1
                self._written.append(message.tell)
        while self._written:
            self._written.popleft()()
        self._writer.check()
