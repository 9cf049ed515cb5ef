"""Pools: tasks in, outcomes out as they finish, whatever happens to the workers.

::

    tasks ──> Pool.run(make_worker, tasks) ──> Outcome(task, value | error, attempts), any order
               InlinePool   in this process
               LocalPool    spawned processes, one worker each
               RayPool      actors on the nodes of a Ray cluster (ray_pool.py)

A task that raises is an outcome with an error, and its worker lives on. A worker that dies (killed
for its memory, a crash in a library) costs the task it had, which is tried again elsewhere. A
worker that cannot be made at all ends the run with its error: every other would fail likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from segformer_deploy.batch import answers
from segformer_deploy.batch.answers import MakeWorker, Outcome, Worker
from segformer_deploy.batch.local_run import LocalRun
from segformer_deploy.engine.cores import usable_cores
from segformer_deploy.errors import SegdeployError

__all__ = ["InlinePool", "LocalPool", "MakeWorker", "Outcome", "Pool", "Worker", "processes_for"]

TRIES = 3


class Pool(Protocol):
    """Where tasks are done. `close` may be called twice, and stops what is running."""

    def run(self, make_worker: MakeWorker, tasks: Sequence[Any]) -> Iterator[Outcome]:
        """One outcome per task, as they finish. Raises the error of a worker that cannot start."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Pool: ...

    def __exit__(self, *_: object) -> None: ...


def processes_for(threads: int) -> int:
    """How many workers of so many threads each this process's cores can feed, at least one."""
    return max(1, usable_cores() // max(1, threads))


class InlinePool:
    """One worker in this process: for few cores and for tests. If it dies, so do we."""

    def run(self, make_worker: MakeWorker, tasks: Sequence[Any]) -> Iterator[Outcome]:
        """See `Pool.run`; in the order of `tasks`."""
        if not tasks:
            return
        worker = make_worker()
        try:
            for task in tasks:
                yield answers.answer(worker, task).outcome(task)
        finally:
            answers.close(worker)

    def close(self) -> None:
        """Nothing is left open between runs."""

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalPool:
    """Spawned processes of this machine, each with one worker.

    Args:
        processes: how many at most (no more than there are tasks are started).
        tries: a task that was in the hands of this many dying workers becomes an error.
        timeout: seconds after which a task's process ends itself as if it had hung; None: never.
    """

    def __init__(self, processes: int, tries: int = TRIES, *, timeout: float | None = None) -> None:
        if processes < 1 or tries < 1:
            raise SegdeployError(
                f"a pool of {processes} processes and {tries} tries", "at least 1 of both"
            )
        self.processes, self.tries, self.timeout = processes, tries, timeout
        self._runs: list[LocalRun] = []

    def run(self, make_worker: MakeWorker, tasks: Sequence[Any]) -> Iterator[Outcome]:
        """See `Pool.run`."""
        run = LocalRun(
            make_worker,
            tasks,
            processes=self.processes,
            tries=self.tries,
            timeout=self.timeout,
        )
        self._runs.append(run)
        try:
            yield from run.outcomes()
        finally:
            run.stop()
            self._runs.remove(run)

    def close(self) -> None:
        """Stop the workers of a run that was not read to its end."""
        for run in self._runs:
            run.stop()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
