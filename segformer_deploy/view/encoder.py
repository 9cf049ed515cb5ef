"""The one thread that encodes: the newest frame of each stream that somebody waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue

from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.video.shown import Shown
from segformer_deploy.view.channel import Channel, Encoded, Kind, Lane

Encode = Callable[[Shown], bytes]
_SHARE = 0.02
"""Of the time of all cores: what looking on may take from the run, however many look.

Not a lower priority: a thread that holds Python's lock and is not scheduled holds up the run.
"""


class Encoder:
    """Encodes while somebody waits, always the newest frame, streams in turn.

    After each it rests, so that it takes no more than a fiftieth of the cores' time: a frame that
    takes 2 ms to encode goes out up to twenty times a second on two cores.

    Args:
        encode: makes the bytes of each kind of lane. What it raises is kept as the channel's
            `error`, and that frame is skipped.
    """

    def __init__(self, encode: Mapping[Kind, Encode]) -> None:
        self.channels: Sequence[Channel] = ()
        self._encode = encode
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._awake = False
        self._stopping = threading.Event()
        self._rests = 1 / min(1.0, _SHARE * usable_cores()) - 1
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
        self._stopping.set()
        self._wakes.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            self._wakes.get()
            # Before looking: what is offered from here on wakes us again.
            self._awake = False
            while self._round():
                pass
            if self._stopping.is_set():
                return

    def _round(self) -> bool:
        """Encode what is wanted of each stream once; whether there was anything."""
        found = False
        for channel in self.channels:
            for lane in channel.lanes.values():
                if self._stopping.is_set():
                    return False
                found |= self._encode_newest(channel, lane)
        return found

    def _encode_newest(self, channel: Channel, lane: Lane) -> bool:
        newest = channel.newest
        if not lane.waiting or newest is None or newest[0] <= lane.done:
            return False
        number, shown = newest
        start = time.thread_time()
        try:
            data = self._encode[lane.kind](shown)
        except Exception as error:
            # A frame that cannot be shown must end neither the page nor the run.
            channel.error = f"frame {shown.frame.index} cannot be shown: {error}"
            lane.done = number
            return True
        channel.error = ""
        lane.publish(Encoded(number, data))
        self._stopping.wait((time.thread_time() - start) * self._rests)
        return True
