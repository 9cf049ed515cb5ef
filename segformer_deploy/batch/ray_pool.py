"""A pool on a Ray cluster: Ray Data streams tasks to actors, each with one worker.

A dataset has one block per task, and an actor has one task at a time, so that a lost actor or node
costs just the tasks that were in its hands. Ray does not repeat those here (`max_task_retries=0`):
its own repetition waits for the same actor, for ever where the lost node was the only place for it.
They go into the next round instead, a dataset of what has no answer yet, until each is answered
or has cost `tries` workers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from segformer_deploy.batch import answers
from segformer_deploy.batch.answers import Answer, Failure, MakeWorker, Outcome
from segformer_deploy.batch.pool import TRIES
from segformer_deploy.batch.ray_actor import NO_START, Begun, RayActor, unpacked
from segformer_deploy.batch.ray_cluster import Cluster
from segformer_deploy.batch.ray_far import far_answers
from segformer_deploy.errors import EngineError, SegdeployError

# What Ray Data would print, or stop for; the rest of its settings is the user's.
_SETTINGS = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    # An errored block is a lost actor: the tasks' own errors are values.
    "max_errored_blocks": -1,
}


class RayPool:
    """Actors on the nodes of a Ray cluster.

    Args:
        address: `local` (a cluster of this machine, started and stopped here), `auto` (the one
            that runs here), `HOST:PORT` or `ray://HOST:PORT`. Where the program is connected
            already, that cluster is used and left connected.
        workers: how many actors; those that find no place wait until a node has one. None: as
            many as have a place now.
        num_cpus, num_gpus: what one actor takes of a node; its engine should use as many threads.
        tries: a task that was in the hands of this many dying workers becomes an error.
        timeout: seconds after which an actor with a task ends itself; None: never.

    Raises `MissingDependencyError` without Ray, `EngineError` where no cluster answers or no node
    can hold an actor.
    """

    def __init__(
        self,
        address: str = "auto",
        workers: int | None = None,
        num_cpus: float = 2,
        num_gpus: float = 0,
        *,
        tries: int = TRIES,
        timeout: float | None = None,
    ) -> None:
        if tries < 1 or (workers is not None and workers < 1):
            raise SegdeployError(f"a pool of {workers} workers and {tries} tries", "at least 1")
        self.cluster = Cluster(address, num_cpus, num_gpus)
        try:
            self.workers = workers or self.cluster.places()
        except BaseException:
            self.cluster.close()
            raise
        self.tries, self.timeout = tries, timeout

    def run(self, make_worker: MakeWorker, tasks: Sequence[Any]) -> Iterator[Outcome]:
        """See `Pool.run`."""
        packed: dict[int, bytes] = {}
        for index, task in enumerate(tasks):
            try:
                packed[index] = answers.pack_task(task)
            except SegdeployError as error:
                yield Answer(failure=Failure.of(error)).outcome(task)
        for index, answer, attempts in self._answers(make_worker, packed):
            yield answer.outcome(tasks[index], attempts)

    def _answers(
        self, make_worker: MakeWorker, packed: dict[int, bytes]
    ) -> Iterator[tuple[int, Answer, int]]:
        if not self.cluster.far:
            return RayRun(self, make_worker, packed).answers()
        settings = {
            "workers": self.workers,
            "num_cpus": self.cluster.num_cpus,
            "num_gpus": self.cluster.num_gpus,
            "tries": self.tries,
            "timeout": self.timeout,
        }
        return far_answers(self.cluster, settings, make_worker, packed)

    def close(self) -> None:
        """Disconnect; stop the cluster where it was started here."""
        self.cluster.close()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RayRun:
    """One call of `RayPool.run`: rounds over what has no answer yet."""

    def __init__(self, pool: RayPool, make_worker: MakeWorker, left: dict[int, bytes]) -> None:
        self._pool, self._cluster, self._left = pool, pool.cluster, left
        self._make_worker = make_worker
        self._cost = dict.fromkeys(left, 0)

    def answers(self) -> Iterator[tuple[int, Answer, int]]:
        """Index, answer and attempts of each task."""
        if not self._left:
            return
        begun, idle = self._cluster.actor_here(Begun), 0
        while self._left:
            before, cost = len(self._left), dict(self._cost)
            error = None
            try:
                yield from self._round(begun)
            except self._cluster.ray.exceptions.RayError as caught:
                error = caught
            begun = self._count(begun)
            yield from self._given_up()
            idle = idle + 1 if len(self._left) == before and self._cost == cost else 0
            if idle >= self._pool.tries:
                raise _no_progress(error)
            if error is not None and "ModuleNotFoundError" in str(error):
                raise _no_progress(error)

    def _round(self, begun: Any) -> Iterator[tuple[int, Answer, int]]:
        for rows in self._stream(begun):
            for index, kind, attempts, packed in zip(
                *(rows[name].to_pylist() for name in ("index", "kind", "attempts", "packed")),
                strict=True,
            ):
                answer = unpacked(packed)
                if kind == NO_START and answer.failure is not None:
                    raise answer.failure.error()
                if self._left.pop(index, None) is not None:
                    yield index, answer, max(attempts, self._cost[index] + 1)

    @contextmanager
    def _dataset(self, begun: Any) -> Iterator[Any]:
        data = self._cluster.data
        rows = [{"index": index, "packed": packed} for index, packed in self._left.items()]
        compute = data.ActorPoolStrategy(
            size=min(self._pool.workers, len(rows)), max_tasks_in_flight_per_actor=1
        )
        with _changed(data.DataContext.get_current(), _SETTINGS), _quiet("ray.data"):
            rows_data = data.from_items(rows, override_num_blocks=len(rows))
            with warnings.catch_warnings():
                # The only way to set `max_task_retries`, but to be removed in Ray 2.64: the extra
                # `ray` asks for an older one.
                warnings.filterwarnings("ignore", message=".*ray_remote_args")
                mapped = rows_data.map_batches(
                    RayActor,
                    batch_size=1,
                    batch_format="pyarrow",
                    compute=compute,
                    fn_constructor_args=(self._make_worker, begun, self._pool.timeout),
                    num_cpus=self._cluster.num_cpus,
                    num_gpus=self._cluster.num_gpus or None,
                    max_task_retries=0,
                )
            yield mapped

    def _stream(self, begun: Any) -> Iterator[Any]:
        with self._dataset(begun) as dataset:
            # No look-ahead: each answer is handed on when it comes, not with the one after it.
            yield from dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )

    def _count(self, begun: Any) -> Any:
        """Note what each task has cost; the counter, or a new one where it was lost."""
        ray = self._cluster.ray
        with suppress(ray.exceptions.RayError):
            self._cost.update(ray.get(begun.open.remote(list(self._left))))
            return begun
        for index in self._left:
            self._cost[index] += 1
        return self._cluster.actor_here(Begun)

    def _given_up(self) -> Iterator[tuple[int, Answer, int]]:
        for index in [one for one in self._left if self._cost[one] >= self._pool.tries]:
            del self._left[index]
            how = "its process or its node was lost: Ray's logs say more"
            yield index, Answer(failure=Failure.death(self._cost[index], how)), self._cost[index]


@contextmanager
def _changed(target: Any, settings: Mapping[str, Any]) -> Iterator[None]:
    before = {name: getattr(target, name) for name in settings}
    for name, value in settings.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Ray Data tells of every lost block, with its traceback; we tell of those that stay lost."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _no_progress(error: Exception | None) -> SegdeployError:
    text = str(error) if error is not None else ""
    if "ModuleNotFoundError" in text:
        line = next(line for line in text.splitlines() if "ModuleNotFoundError" in line)
        return EngineError(
            f"a node of the cluster cannot load the worker: {line.strip()}",
            "the same packages on every node",
            'pip install "segformer-deploy[cpu,ray]" on each node',
        )
    return EngineError(
        "the cluster's workers end before they begin a task" + (f": {text}" if text else ""),
        "nodes that stay, with free processors and memory",
        "look at `ray status` and at the logs under /tmp/ray/session_latest/logs on the nodes",
    )
