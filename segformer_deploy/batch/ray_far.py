"""A run on a cluster that is reached through `ray://`: driven on the cluster, read from here.

Ray Data's driver must be a process of the cluster itself; a `ray://` client is none. So an actor
there drives the run, and hands over one answer per call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from segformer_deploy.batch.answers import Answer, Failure, MakeWorker
from segformer_deploy.batch.ray_cluster import Cluster
from segformer_deploy.errors import EngineError, SegdeployError


class FarRun:
    """The actor: a run of a `RayPool` on the cluster that the actor is on."""

    def __init__(
        self, settings: dict[str, Any], make_worker: MakeWorker, left: dict[int, bytes]
    ) -> None:
        from segformer_deploy.batch.ray_pool import RayPool, RayRun

        pool = RayPool("auto", **settings)
        self._answers = RayRun(pool, make_worker, left).answers()

    def next(self) -> tuple[int, Answer, int] | Failure | None:
        """The next answer; the error that ended the run; None at its end."""
        try:
            return next(self._answers, None)
        except SegdeployError as error:
            return Failure.of(error)


def far_answers(
    cluster: Cluster, settings: dict[str, Any], make_worker: MakeWorker, left: dict[int, bytes]
) -> Iterator[tuple[int, Answer, int]]:
    """What `RayRun.answers` yields, of a run that is driven on the cluster."""
    if not left:
        return
    ray = cluster.ray
    far = cluster.actor_here(FarRun, settings, make_worker, left)
    try:
        while (come := ray.get(far.next.remote())) is not None:
            if isinstance(come, Failure):
                raise come.error()
            yield come
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise EngineError(
            f"the cluster lost the run: {str(error).strip() or type(error).__name__}",
            "a connection, and a head node, that last as long as the run",
            "run the same command again: what is done stays done",
        ) from error
    finally:
        with suppress(Exception):
            ray.kill(far)
