"""A Ray cluster whose nodes are processes of this machine, to be killed one by one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_STORE_BYTES = 100 << 20


class Nodes:
    """Three nodes of one processor each; the first is the head, which stays.

    Attributes:
        address: where a driver connects to.
    """

    def __init__(self, root: Path) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ["PYTHONPATH"] = str(root)
        from ray.cluster_utils import Cluster

        settings = {"num_cpus": 1, "object_store_memory": _STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=settings)
        self.address: str = self._cluster.address
        self._others: list[Any] = []
        for _ in range(2):
            self.add()

    def add(self) -> None:
        """One more node."""
        node = self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
        self._others.append(node)

    def kill_worker(self) -> bool:
        """SIGKILL to one worker process that has a task, on any node; False where none has."""
        for node in (self._cluster.head_node, *self._others):
            for pid in _children(_raylet(node)):
                if _busy(pid):
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def kill_node(self) -> bool:
        """End a node, not the head, with all its processes at once; False where none is busy."""
        for node in self._others:
            raylet = _raylet(node)
            children = _children(raylet)
            if any(_busy(pid) for pid in children):
                for pid in (raylet, *children):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._cluster.remove_node(node, allow_graceful=False)
                self._others.remove(node)
                return True
        return False

    def close(self) -> None:
        """Stop all nodes."""
        self._cluster.shutdown()


@contextmanager
def three_nodes(root: Path) -> Iterator[Nodes]:
    """A cluster of three nodes for the length of the block."""
    nodes = Nodes(root)
    try:
        yield nodes
    finally:
        nodes.close()


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in listed for child in path.read_text().split()]


def _busy(pid: int) -> bool:
    """Whether a process is an actor of Ray Data that has a task: Ray writes it into its name."""
    with suppress(OSError):
        name = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
        return name.startswith("ray::MapWorker") and ".submit" in name
    return False
