"""What a process holds: resident memory, threads, descriptors; read from /proc."""

from __future__ import annotations

import gc
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

_STATUS, _OPEN = Path("/proc/self/status"), Path("/proc/self/fd")


@dataclass(frozen=True)
class Held:
    """Attributes: resident memory in MB (1e6 bytes), Python threads, open descriptors."""

    rss_mb: float
    threads: int
    descriptors: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def held() -> Held:
    """Of this process, just now."""
    gc.collect()
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    rss = int(fields["VmRSS"].split()[0]) * 1024 / 1e6
    return Held(round(rss, 1), threading.active_count(), sum(1 for _ in _OPEN.iterdir()))
