"""How many cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those that taskset or a container's cpuset leaves to us, not the machine's number."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
