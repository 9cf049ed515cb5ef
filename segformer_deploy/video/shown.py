"""A frame with its result, for those who look on while a run goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segformer_deploy.video.frame import Frame
from segformer_deploy.video.overlay import ClassMap


@dataclass(frozen=True)
class Shown:
    """One frame and what was made of it. Nothing in it is touched again by anybody.

    Attributes:
        stream: which of the run's sources it is from, counted from 0.
        frame: as it was captured; `frame.image` is uint8 `[H, W, 3]`, BGR.
        class_map: integers `[H, W]`, uint8 up to 256 classes, int32 above.
        shares: float64 `[classes]`: each class's share of the pixels.
        shown_s: when it was finished, `time.monotonic()` seconds.
        latency_ms: from its capture until then; None where nobody waited for it (files).
    """

    stream: int
    frame: Frame
    class_map: ClassMap
    shares: npt.NDArray[np.float64]
    shown_s: float
    latency_ms: float | None


class Watcher(Protocol):
    """Looks on. Whatever it does with a frame, it does later and elsewhere."""

    def offer(self, shown: Shown) -> None:
        """Take note of a frame, at once: no copying, encoding, or waiting.

        Called by one thread for each stream.
        """
