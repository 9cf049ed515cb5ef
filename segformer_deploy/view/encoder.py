"""The one thread that encodes: the newest frame of each stream that somebody waits for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue

from segformer_deploy.video.shown import Shown
from segformer_deploy.view.channel import Channel, Encoded, Kind, Lane

Encode = Callable[[Shown], bytes]
_NICEST = 19
"""Looking on has what is left over: a page that misses frames is better than a slower run."""


def give_way(nicer: int) -> None:
    """Let this thread, and those it starts, stand back behind the run where cores are scarce."""
    # Linux knows a niceness per thread; elsewhere it would be the whole process's.
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, thread) + nicer
            os.setpriority(os.PRIO_PROCESS, thread, min(19, nice))


class Encoder:
    """Encodes while somebody waits, always the newest frame, streams in turn.

    Args:
        encode: makes the bytes of each kind of lane. What it raises is kept as the channel's
            `error`, and that frame is skipped.
    """

    def __init__(self, encode: Mapping[Kind, Encode]) -> None:
        self.channels: Sequence[Channel] = ()
        self._encode = encode
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._awake = self._stopping = False
        self._thread = threading.Thread(target=self._work, name="segdeploy view encoder")
        self._thread.daemon = True

    def start(self, channels: Sequence[Channel]) -> None:
        self.channels = channels
        self._thread.start()

    def wake(self) -> None:
        """Look at all channels again; at once back, from any thread."""
        if not self._awake:
            self._awake = True
            self._wakes.put(None)  # never blocks, and takes no lock that others could hold

    def close(self, timeout_s: float) -> None:
        self._stopping = True
        self._wakes.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _work(self) -> None:
        give_way(_NICEST)
        while True:
            self._wakes.get()
            # Before looking: what is offered from here on wakes us again.
            self._awake = False
            while self._round():
                pass
            if self._stopping:
                return

    def _round(self) -> bool:
        """Encode what is wanted of each stream once; whether there was anything."""
        found = False
        for channel in self.channels:
            for lane in channel.lanes.values():
                if self._stopping:
                    return False
                found |= self._encode_newest(channel, lane)
        return found

    def _encode_newest(self, channel: Channel, lane: Lane) -> bool:
        newest = channel.newest
        if not lane.waiting or newest is None or newest[0] <= lane.done:
            return False
        number, shown = newest
        try:
            data = self._encode[lane.kind](shown)
        except Exception as error:
            # A frame that cannot be shown must end neither the page nor the run.
            channel.error = f"frame {shown.frame.index} cannot be shown: {error}"
            lane.done = number
            return True
        channel.error = ""
        lane.publish(Encoded(number, data))
        return True
