"""The two threads beside the calling one: `Reader` in front of it, `Writer` behind it.

Both end with a last word, `End`, so that nobody waits for them in vain. Both are daemons:
they are always ended by the one who began them, but a source or a disk that hangs does not
keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType

from segformer_deploy.video.frame import Frame, Source
from segformer_deploy.video.interrupts import uninterrupted
from segformer_deploy.video.overlay import ClassMap

PATIENCE_S = 1.0
"""How long the end of a run waits for a source that is in the middle of a frame."""

Timed = tuple[Frame, float]
"""A frame, and the milliseconds that it took to get it."""
Job = tuple[Frame, ClassMap, dict[str, float]]
"""A frame, its class map, and the milliseconds that each stage took so far."""
Tell = Callable[[], None]
"""Says that a frame is finished; to be called on the calling thread."""
Finish = Callable[[Frame, ClassMap, dict[str, float]], Tell]
"""Draws, writes and counts a frame."""


@dataclass(frozen=True)
class Read:
    """A frame was read."""

    timed: Timed


@dataclass(frozen=True)
class Written:
    """A frame was finished."""

    tell: Tell


@dataclass(frozen=True)
class End:
    """A thread has done its work, or `error` has ended it."""

    thread: Reader | Writer
    error: BaseException | None


Post = Callable[[Read | Written | End], None]


class Pull:
    """Take the frames of a source one by one, at most so many; None at the end."""

    def __init__(self, source: Source, most: int | None) -> None:
        self._source = source
        self._left = most
        self._frames: Iterator[Frame] | None = None

    def __call__(self) -> Timed | None:
        if self._left == 0:
            return None
        if self._frames is None:
            self._frames = iter(self._source)
        start = time.perf_counter()
        frame = next(self._frames, None)
        if frame is None:
            return None
        if self._left is not None:
            self._left -= 1
        return frame, (time.perf_counter() - start) * 1e3


class Reader:
    """Takes frames from the source, at most `ahead` more than were asked for.

    A context manager that closes the source. Nobody can call back a thread that waits inside
    a source, and a source must not be closed while it is being read: the last one out closes
    it. Normally that is the calling thread; where a source does not come back in time, it is
    its own.
    """

    def __init__(self, source: Source, most: int | None, ahead: int, post: Post) -> None:
        self._source = source
        self._pull = Pull(source, most)
        self._post = post
        # Tokens, not a semaphore: a Ctrl-C inside a semaphore's Python code leaves it locked.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(ahead):
            self._room.put(None)
        self._stopping = False
        self._patience = PATIENCE_S
        self._lock = threading.Lock()
        self._users = 1
        self._thread = threading.Thread(target=self._work, name="segdeploy reader", daemon=True)

    def start(self) -> None:
        self._users += 1
        try:
            self._thread.start()
        except RuntimeError:  # the system has no thread left
            self._users -= 1
            raise

    def make_room(self) -> None:
        """A frame was taken: read another."""
        self._room.put(None)

    def stop(self) -> None:
        """Read no more; a frame that is being read is lost. Does not wait."""
        self._stopping = True
        self._room.put(None)

    def wait(self) -> None:
        """Until the thread has ended, or longer than a source may take for a frame."""
        if self._thread.is_alive():
            self._thread.join(self._patience)
            self._patience = 0.0  # once is enough

    def __enter__(self) -> Reader:
        self._source.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with uninterrupted():
            self.stop()
            self.wait()
            self._leave()

    def _work(self) -> None:
        error = None
        try:
            while self._read_one():
                pass
        except BaseException as caught:
            error = caught
        self._post(End(self, error))
        self._leave()

    def _read_one(self) -> bool:
        self._room.get()
        timed = None if self._stopping else self._pull()
        if timed is None:
            return False
        self._post(Read(timed))
        return True

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._source.close()


class Writer:
    """Finishes frames in the order in which they were put."""

    def __init__(self, finish: Finish, post: Post) -> None:
        self._finish = finish
        self._post = post
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="segdeploy writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, job: Job) -> None:
        self._jobs.put(job)

    def wait(self) -> None:
        """Until all that was put is finished, or one failed; no more can be put."""
        if self._thread.is_alive():
            self._jobs.put(None)
            try:
                self._thread.join()
            finally:  # a signal's own handler may have raised: what is in use must stay open
                self._thread.join()

    def check(self) -> None:
        """Raise what the thread ended with, if it failed."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while self._finish_one():
                pass
        except BaseException as error:
            self._error = error
        self._post(End(self, self._error))

    def _finish_one(self) -> bool:
        job = self._jobs.get()
        if job is None:
            return False
        tell = self._finish(*job)
        del job  # before another frame may take its place
        self._post(Written(tell))
        return True
