"""Memory: what the machine has, and what the control group leaves this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from segformer_deploy.host.facts import ROOT, Ask, Facts, SilentError, read_text

# Version 1 writes "no limit" as the largest multiple of the page size below 2^63.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Memory(Facts):
    """All in bytes.

    Attributes:
        available_bytes: what can be had without swapping.
        limit_bytes: the smallest limit of the control groups above this process; None for none.
    """

    total_bytes: int | None
    available_bytes: int | None
    swap_bytes: int | None
    swap_free_bytes: int | None
    limit_bytes: int | None
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def usable_bytes(self) -> int | None:
        """What this process can have at most: the machine's memory, or the limit if smaller."""
        known = [one for one in (self.total_bytes, self.limit_bytes) if one is not None]
        return min(known, default=None)


def memory_facts(root: Path = ROOT) -> Memory:
    """Of /proc/meminfo and the control groups (version 1, version 2, or both at once)."""
    ask = Ask()

    def figure(name: str) -> int:
        for line in read_text(root / "proc/meminfo").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
        raise SilentError(f"/proc/meminfo has no {name}")

    return Memory(
        total_bytes=ask("total_bytes", lambda: figure("MemTotal")),
        available_bytes=ask("available_bytes", lambda: figure("MemAvailable")),
        swap_bytes=ask("swap_bytes", lambda: figure("SwapTotal")),
        swap_free_bytes=ask("swap_free_bytes", lambda: figure("SwapFree")),
        limit_bytes=ask("limit_bytes", lambda: _limit(root)),
        unknown=ask.unknown,
    )


def _limit(root: Path) -> int:
    """The smallest limit on the way from this process's group to the root: all of them hold."""
    groups = root / "sys/fs/cgroup"
    limits: list[int] = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            limits += _limits_upwards(groups / "memory", path, "memory.limit_in_bytes")
        elif (number, controllers) == ("0", ""):
            limits += _limits_upwards(groups, path, "memory.max")
    if not limits:
        raise SilentError("no control group above this process sets a limit")
    return min(limits)


def _limits_upwards(mount: Path, path: str, name: str) -> list[int]:
    # Inside a container the path may be the host's, of which only the root is to be seen, or
    # lead above it ("/../..").
    parts = [part for part in path.split("/") if part not in ("", "..")]
    limits = []
    for depth in range(len(parts), -1, -1):
        try:
            text = read_text(mount.joinpath(*parts[:depth], name))
        except SilentError:
            continue
        # Version 2 writes "max" for none.
        if text.isdigit() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return limits
