"""How frames travel from the source to what is done with them: in turn, overlapped, or live.

::

    in turn      read 0 · segment 0 · write 0 · read 1 · segment 1 · write 1 …

    overlapped   reader thread    read 1     read 2     read 3
                 calling thread   segment 0  segment 1  segment 2
                 writer thread               write 0    write 1

    live         capture thread   5 6 7 8 9  only the newest stays
                 calling thread   segment 4  segment 9
                 writer thread               write 4    write 9

The first two give the same results in the same order, and the same error at the same frame.
Segmenting stays on the calling thread: Ctrl-C arrives there, and an engine need not know of any
other.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Protocol

from segformer_deploy.video.bell import Bell
from segformer_deploy.video.frame import Frame, Source
from segformer_deploy.video.interrupts import uninterrupted
from segformer_deploy.video.overlay import ClassMap
from segformer_deploy.video.threads import (
    End,
    Finish,
    Pull,
    Read,
    Reader,
    Tell,
    Timed,
    Writer,
    Written,
)

AHEAD = 2
"""Frames that wait to be segmented, the one that is being read included."""
BEHIND = 2
"""Frames that wait to be written, the one that is being written included."""


class Line(Protocol):
    """A way for frames to travel; leaving it ends what it began. Used once.

    Attributes:
        source: leaving it closes the source; to be entered before all that `finish` uses.
    """

    source: AbstractContextManager[Any]

    def start(self) -> None:
        """Begin. Only once the line was entered, so that it is left whatever happens."""

    @property
    def ready(self) -> bool:
        """Whether `next` answers at once."""

    def next(self) -> Timed | None:
        """The next frame to be segmented, or None at the end; waits for it."""

    def put(self, frame: Frame, class_map: ClassMap, stages: dict[str, float]) -> None:
        """Have a frame finished. The class map may be overwritten afterwards."""

    def settle(self) -> None:
        """Read no more; return when all that was put is finished, or raise what prevented it."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class InTurn:
    """Everything on the calling thread, one thing after the other."""

    def __init__(self, source: Source, most: int | None, finish: Finish) -> None:
        self.source: AbstractContextManager[Any] = source
        self._pull = Pull(source, most)
        self._finish = finish

    def start(self) -> None:
        """Nothing to begin."""

    @property
    def ready(self) -> bool:
        return True

    def next(self) -> Timed | None:
        return self._pull()

    def put(self, frame: Frame, class_map: ClassMap, stages: dict[str, float]) -> None:
        self._finish(frame, class_map, stages)()

    def settle(self) -> None:
        """Nothing is under way between two calls."""

    def __enter__(self) -> InTurn:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing was begun."""


class Overlapped:
    """One thread reads ahead, one writes behind; the calling thread segments in between.

    Both talk to the calling thread through one queue, so that it never waits for the wrong
    one. At most `AHEAD` + 1 + `BEHIND` frames are alive.
    """

    def __init__(
        self, source: Source, most: int | None, finish: Finish, bell: Bell | None = None
    ) -> None:
        self._inbox: SimpleQueue[Read | Written | End] = SimpleQueue()
        self._bell = bell or Bell()
        self._reader = Reader(source, most, AHEAD, self._post)
        self._writer = Writer(finish, self._post)
        self._source = source
        self._read: deque[Timed] = deque()
        self._written: deque[Tell] = deque()
        self._behind = 0
        self._end: End | None = None
        self._used_up = False
        self.source: AbstractContextManager[Any] = self._reader

    def start(self) -> None:
        with uninterrupted():
            self._reader.start()
            self._writer.start()

    @property
    def ready(self) -> bool:
        self._receive(wait=False)
        self._tell()
        # With no room behind, `put` would have the other sources wait too.
        if self._read:
            return self._behind < BEHIND
        return self._end is not None

    def next(self) -> Timed | None:
        while True:
            self._receive(wait=self._end is None and not self._read)
            self._tell()
            if self._read:
                self._reader.make_room()
                return self._read.popleft()
            if self._end is not None:
                break
        self._used_up = True
        if self._end.error is not None:
            self.settle()  # what came before it is written first
            raise self._end.error
        return None

    def put(self, frame: Frame, class_map: ClassMap, stages: dict[str, float]) -> None:
        while self._behind >= BEHIND:
            self._receive(wait=True)
        self._behind += 1
        # A segmenter may give the same array each time.
        self._writer.put((frame, class_map.copy(), stages))

    def settle(self) -> None:
        self._reader.stop()
        self._writer.wait()
        self._reader.wait()
        if not self._used_up:
            # Its end was reached by reading ahead, if at all: the sink is to cut the sound
            # behind the last frame that was put.
            self._source.finished = False
        self._receive(wait=False)
        self._tell()
        self._writer.check()  # again: a Ctrl-C may fall between a message and its reading

    def __enter__(self) -> Overlapped:
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

    def _receive(self, wait: bool) -> None:
        """Take in what the threads have sent; raise the writer's error."""
        while True:
            try:
                message = self._inbox.get(block=wait)
            except Empty:
                return
            wait = False
            if isinstance(message, Read):
                self._read.append(message.timed)
            elif isinstance(message, Written):
                self._behind -= 1
                self._written.append(message.tell)
            elif message.thread is self._reader:
                self._end = message
            else:
                self._tell()
                self._writer.check()

    def _tell(self) -> None:
        """Say which frames are finished."""
        while self._written:
            self._written.popleft()()
