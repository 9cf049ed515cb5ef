"""A live source: the newest frame, and a watch that opens it again when it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Frame, Source, SourceKind
from segformer_deploy.video.interrupts import uninterrupted
from segformer_deploy.video.live.connection import Connection, Open
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed
from segformer_deploy.video.live.meter import Meter
from segformer_deploy.video.live.newest import Newest

TICKS = Fraction(1, 1_000_000)
"""Frames are timed in microseconds since the first."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 1.0
_FIRST_PATIENCE_S = 1.0
_GRACE_S = 0.5
_GOODBYE_S = 0.7


class LiveSource(Source):
    """The newest frame of a camera or a stream.

    A thread reads it, another watches over the first: where the source ends, fails, or gives no
    frame for `stall_s`, it is opened again, after a pause that doubles from a quarter of a second
    to one. Opening it here waits for its first frame, so that a wrong name or password is an
    error at once; whatever happens later is counted, said in `meter`, and mended.

    Iterating gives the newest frame not given before, and waits where there is none. A frame's
    time is when it came in; `index` counts what came in, so that drops show as gaps.

    Raises:
        MediaError: on opening; on iterating where it is lost and `reconnect` is off.
    """

    kind: SourceKind = "stream"
    live = True

    def __init__(self, name: str, open: Open, options: CaptureOptions) -> None:
        self.path = Path(name)
        self.frame_count: int | None = None
        self.finished = False
        self.meter = Meter(name)
        self._name, self._open, self._options = name, open, options
        self._newest: Newest[tuple[Grabbed, int]] = Newest(self._ring)
        self._bell: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._stopping = False
        self._over = False
        self._error: BaseException | None = None
        self._notes: list[str] = []
        self._corrupt = 0
        self._count = self._in_vain = 0
        self._origin_s: float | None = None
        self._connection = self._connection_to_start()
        self._watch = threading.Thread(target=self._supervise, name="segdeploy watch", daemon=True)
        try:
            self._connection.start()
            self._watch.start()
            self.size = self._first_size()
        except BaseException:
            self.close()
            raise
        grabber = self._connection.grabber
        self.fps: Fraction | None = None if grabber is None else grabber.fps

    # What the run uses.

    def ring_with(self, bell: Callable[[], None]) -> None:
        """Have `bell` called whenever a frame has come in or the source has ended."""
        self._bell = bell

    @property
    def ready(self) -> bool:
        """Whether `take` gives a frame, or an end, at once."""
        return self._newest.full or self._over

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self._over and not self._newest.full

    def take(self) -> Frame | None:
        """The newest frame that was not taken, or None; never waits for one.

        Raises:
            MediaError: the source is lost for good.
        """
        item = self._newest.take()
        if item is None:
            if self._over and self._error is not None:
                raise self._error
            self.finished = self._over
            return None
        grabbed, index = item
        assert self._origin_s is not None
        since = grabbed.captured_s - self._origin_s
        return Frame(
            image=grabbed.picture(),
            index=index,
            time_s=since,
            name=f"{index:06d}",
            pts=round(since / TICKS),
            time_base=TICKS,
            captured_s=grabbed.captured_s,
        )

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                while not self.ready:
                    self._changed.wait(1.0)
            frame = self.take()
            if frame is not None:
                yield frame
            elif self.finished:
                return

    @property
    def name(self) -> str:
        return self._name

    @property
    def corrupt(self) -> int:  # type: ignore[override]
        grabber = self._connection.grabber
        return self._corrupt + (0 if grabber is None else grabber.corrupt)

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        grabber = self._connection.grabber
        return self._notes + ([] if grabber is None else grabber.notes)

    def close(self) -> None:
        """End both threads; one that hangs in a driver is left behind after 0.7 s."""
        # A Ctrl-C in the midst of it would leave locks taken that both threads need.
        with uninterrupted():
            self._close()

    def _close(self) -> None:
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
            self._changed.notify_all()
        self._connection.give_up()
        if self._watch.ident is not None:
            self._watch.join(_GOODBYE_S)
        # The watch may have begun another one in between.
        self._connection.give_up()
        self._connection.wait(_GOODBYE_S)
        self._newest.take()
        self.meter.close()
        self._over = True
        self._ring()  # who iterates elsewhere waits no longer

    # On the connection's thread.

    def _deliver(self, grabbed: Grabbed) -> None:
        if self._origin_s is None:
            self._origin_s = grabbed.captured_s
        self.meter.frame_in(str(grabbed.size), self.corrupt)
        index, self._count = self._count, self._count + 1
        if self._connection.frames == 1 and index:
            self.meter.reconnected()
        if self._newest.put((grabbed, index)):
            self.meter.frame_dropped()

    def _ring(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._bell()

    # On the watching thread.

    def _connection_to_start(self) -> Connection:
        return Connection(self._open, self._deliver, self._ring)

    def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            connection = self._connection
            error = self._watch_over(connection)
            if self._stopping:
                break
            first = self._count == 0
            if error is None or first or not self._options.reconnect:
                self._end(error)
                break
            if not connection.stalled:
                self.meter.lost(_one_line(error))
            self._in_vain = 0 if connection.frames else min(self._in_vain + 1, 10)
            pause = _FIRST_PAUSE_S if connection.frames else min(2 * pause, _LONGEST_PAUSE_S)
            if self._pause(pause):
                break
            self._keep_counts(connection)
            self._connection = self._connection_to_start()
            try:
                self._connection.start()
            except RuntimeError as no_thread:  # the system has none left
                self._end(no_thread)
                break

    def _watch_over(self, connection: Connection) -> BaseException | None:
        """Until the connection is lost: why; None at the end of the source."""
        with self._changed:
            while not self._stopping and not connection.over:
                limit = self._patience(connection)
                # Whoever opens it has a limit too, and knows better what is wrong.
                grace = 0.0 if connection.frames else _GRACE_S
                left = connection.last_s + limit + grace - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        if connection.over or self._stopping:
            return connection.error
        connection.give_up()
        if connection.frames == 0:
            return MediaError(
                f"{self._name} gave no frame within {limit:g} s", "a frame", "is the camera on?"
            )
        connection.stalled = True
        error = MediaError(f"{self._name}: no frame for {limit:g} s", "a frame")
        self.meter.stalled(_one_line(error))
        return error

    def _patience(self, connection: Connection) -> float:
        """How long its next frame may take, in seconds.

        A server that has just started may take a connection and never answer. So whoever comes
        back is not waited for as long as the first time, but longer at each attempt.
        """
        if connection.frames:
            return self._options.stall_s
        if connection.grabber is not None or self._count == 0:
            return self._options.open_s
        return min(_FIRST_PATIENCE_S * 2.0**self._in_vain, self._options.open_s)

    def _pause(self, seconds: float) -> bool:
        """Wait; whether the source was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)
            return self._stopping

    def _keep_counts(self, connection: Connection) -> None:
        if connection.grabber is not None:
            self._corrupt += connection.grabber.corrupt
            self._notes += [n for n in connection.grabber.notes if n not in self._notes]

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self.meter.ended("" if error is None else _one_line(error))
        self._over = True
        self._ring()

    # On the opening thread.

    def _first_size(self) -> FrameSize:
        with self._changed:
            while not self.ready:
                self._changed.wait(0.2)
        item = self._newest.peek()
        if item is None:
            if self._error is not None:
                raise self._error
            raise MediaError(f"{self._name} ended before its first frame", "at least one frame")
        return item[0].size


def _one_line(error: BaseException) -> str:
    return getattr(error, "found", "") or f"{type(error).__name__}: {error}"
