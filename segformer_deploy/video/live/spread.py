"""How a time is spread, in memory that does not grow: for streams that never end."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from itertools import accumulate

_RATIO = 1.01
"""Each bucket's upper end over its lower: a percentile is right within 1 %."""
_LEAST_MS, _MOST_MS = 0.001, 1e6
_BUCKETS = math.ceil(math.log(_MOST_MS / _LEAST_MS) / math.log(_RATIO)) + 1


class Spread:
    """Counts of milliseconds by size: 1 µs to 1000 s in steps of 1 % (2083 counts).

    What lies below or above is counted in the first or last bucket.
    """

    def __init__(self) -> None:
        self.count = 0
        self._counts = array("Q", bytes(8 * _BUCKETS))

    def add(self, ms: float) -> None:
        """Count a time of `ms` milliseconds."""
        place = 0 if ms <= _LEAST_MS else int(math.log(ms / _LEAST_MS) / math.log(_RATIO))
        self._counts[min(place, _BUCKETS - 1)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float | None:
        """The smallest time, within 1 %, that `percent` of all do not exceed; None of none."""
        if not self.count:
            return None
        wanted = max(1, math.ceil(percent / 100 * self.count))
        place = bisect_left(list(accumulate(self._counts)), wanted)
        return float(_LEAST_MS * _RATIO ** (place + 0.5))
