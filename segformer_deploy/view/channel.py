"""The newest frame of a stream, and the newest encoding of it: where offering and viewing meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from segformer_deploy.video.shown import Shown

Kind = Literal["page", "mjpeg"]
KINDS: tuple[Kind, ...] = ("page", "mjpeg")


@dataclass(frozen=True)
class Encoded:
    """One frame ready to be sent to any number of viewers; `number` is its offer's."""

    number: int
    data: bytes


class Lane:
    """One kind of encoding of one stream.

    Attributes:
        waiting: viewers that want a frame just now; the encoder works for these alone.
        viewers: viewers connected.
        encodings: frames encoded so far.
        done: number of the newest frame that was encoded, or could not be.
    """

    def __init__(self, channel: Channel, kind: Kind) -> None:
        self.kind = kind
        self.waiting = self.viewers = self.encodings = self.done = 0
        self._channel = channel
        self._changed = threading.Condition()
        self._encoded: Encoded | None = None
        self._publications = 0
        self._closed = False

    def next_after(self, number: int, timeout_s: float) -> Encoded | None:
        """The newest frame, if it comes after `number`; waits for it at most so long.

        What was encoded before the call is given only if it is of the newest frame: an older
        one may have lain there since the last viewer left.
        """
        with self._changed:
            encoded, before = self._encoded, self._publications
            newest = self._channel.number
            if encoded is not None and encoded.number > number and encoded.number == newest:
                return encoded
            self.waiting += 1
            try:
                # Asked again: a frame offered before we counted as waiting woke nobody.
                if self._channel.number > self.done:
                    self._channel.wake()
                self._changed.wait_for(
                    lambda: self._closed or self._publications > before, timeout_s
                )
            finally:
                self.waiting -= 1
            return self._encoded if self._publications > before else None

    def publish(self, encoded: Encoded) -> None:
        """Hand a new encoding to all who wait."""
        with self._changed:
            self._encoded = encoded
            self._publications += 1
            self.encodings += 1
            self.done = encoded.number
            self._changed.notify_all()

    def close(self) -> None:
        """Wake all who wait; they get nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Channel:
    """One stream: its newest frame, and its lanes.

    Args:
        wake: makes the encoder look; must not block.

    Attributes:
        error: why the newest frame could not be encoded; empty where it could.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.error = ""
        self.lanes: dict[Kind, Lane] = {kind: Lane(self, kind) for kind in KINDS}
        self._lanes = tuple(self.lanes.values())
        self._newest: tuple[int, Shown] | None = None

    def offer(self, shown: Shown) -> None:
        # No lock: a viewer's thread that was put to sleep while it held one would make the
        # run wait. One assignment is whole for every reader.
        self._newest = (self.number + 1, shown)
        for lane in self._lanes:
            if lane.waiting:
                self.wake()
                return

    @property
    def number(self) -> int:
        """How many frames were offered."""
        return 0 if self._newest is None else self._newest[0]

    @property
    def newest(self) -> tuple[int, Shown] | None:
        """The newest frame and its number."""
        return self._newest
