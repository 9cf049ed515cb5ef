"""The connection to a Ray cluster: opened by address, closed only where it was opened here."""

from __future__ import annotations

import importlib
import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.errors import EngineError, MissingDependencyError

# Ray's default is a third of the machine's memory; answers here are a few bytes.
_STORE_BYTES = 256 << 20
_KNOCK_S = 5.0


class Cluster:
    """A connected cluster, and what one actor takes of it.

    Attributes:
        ray, data: the modules `ray` and `ray.data`.
        num_cpus, num_gpus: of one actor.
    """

    def __init__(self, address: str, num_cpus: float, num_gpus: float) -> None:
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        # Read when Ray is imported: nothing is reported unless the user asks for it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray, self.data = _module("ray"), _module("ray.data")
        self._opened = not self.ray.is_initialized()
        self._messages = ExitStack()
        if self._opened:
            _knock(address)
            self._messages.enter_context(_messages_to_stderr())
            try:
                self._open(address)
            except BaseException:
                self._messages.close()
                raise

    def places(self) -> int:
        """How many actors have a place on the nodes that are there. Raises where none has."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        places = sum(self._on(node) for node in nodes)
        if places:
            return places
        cpus, gpus = (max((node.get(k, 0) for node in nodes), default=0) for k in ("CPU", "GPU"))
        raise EngineError(
            f"no node of the cluster can hold a worker: the largest has {cpus:g} CPUs and "
            f"{gpus:g} GPUs",
            f"a node with {self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs for each worker",
            "ask for less per worker, or start larger nodes",
        )

    @property
    def far(self) -> bool:
        """Whether this program is a `ray://` client, not a process of the cluster itself."""
        return bool(importlib.import_module("ray.util.client").ray.is_connected())

    def actor_here(self, kind: type, *args: Any) -> Any:
        """An actor that takes no processor, on this program's node where that is possible.

        A cluster's node may go at any time; this one goes with us. Where the actor is lost all the
        same, it is not started again: a new one would not know what the old one knew.
        """
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = self.ray.get_runtime_context().get_node_id()
        return (
            self.ray.remote(kind)
            .options(
                num_cpus=0,
                max_restarts=0,
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(here, soft=True),
            )
            .remote(*args)
        )

    def close(self) -> None:
        """Disconnect where we connected; a cluster that was started for us stops. Safe twice."""
        if self._opened and self.ray.is_initialized():
            self.ray.shutdown()
        self._messages.close()

    def _on(self, resources: dict[str, float]) -> int:
        takes = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        fits = [math.floor(resources.get(k, 0) / n) for k, n in takes.items() if n > 0]
        return min(fits, default=1)

    def _open(self, address: str) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address == "local":
                self.ray.init(
                    "local",
                    num_cpus=max(usable_cores(), math.ceil(self.num_cpus)),
                    include_dashboard=False,
                    object_store_memory=_STORE_BYTES,
                    **quiet,
                )
            else:
                self.ray.init(address, **quiet)
        except ImportError as error:  # ray:// needs grpcio
            missing = error.name or "grpc"
            raise MissingDependencyError(missing, "ray", f"the address {address}") from error
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise _no_cluster(address, reason[0]) from error


def _knock(address: str) -> None:
    """Raise at once where nothing listens: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # a name that Ray knows, or refuses
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> EngineError:
    return EngineError(
        f"no Ray cluster at '{address}': {reason}",
        "local, auto, HOST:PORT or ray://HOST:PORT, with the same Ray and Python as here",
        "ray start --head on the first machine, ray start --address=FIRST:6379 on others",
    )


@contextmanager
def _messages_to_stderr() -> Iterator[None]:
    """What Ray's listener tells of lost workers and waiting requests goes to stderr.

    It prints to stdout, and with `--json` that holds one object only. There is no setting for it.
    """
    module: Any = importlib.import_module("ray._private.worker")
    before = module.print_to_stdstream

    def to_stderr(data: dict[str, Any], *args: Any, **options: Any) -> None:
        before({**data, "is_err": True}, *args, **options)

    module.print_to_stdstream = to_stderr
    try:
        yield
    finally:
        module.print_to_stdstream = before


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        raise MissingDependencyError(missing, "ray", "batches on a Ray cluster") from error
