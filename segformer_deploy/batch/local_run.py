"""One run of a `LocalPool`: who has which task, what is still to be done, who has died."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from segformer_deploy.batch import answers
from segformer_deploy.batch.answers import Answer, Failure, MakeWorker, Outcome
from segformer_deploy.batch.pool_process import serve
from segformer_deploy.errors import EngineError, SegdeployError

# A worker that was told to go removes what it wrote aside; after this long it is killed.
_GRACE_S = 3.0
# Answers with the indices of their tasks.
_Come = list[tuple[int, Answer]]


@dataclass
class _Process:
    """One worker's process, the pipe to it, and the task that it has (its index)."""

    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    task: int | None = None
    since: float = 0.0

    def end(self, timeout: float | None) -> str:
        """Reap the dead process; how it ended, in words."""
        took = time.monotonic() - self.since
        self.pipe.close()
        self.process.join(_GRACE_S)
        if self.process.is_alive():  # it closed its pipe, but lives
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        if code < 0:
            with suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        if timeout is not None and self.task is not None and took >= timeout:
            return f"no end after {timeout:g} s"
        return f"exit code {code}"


class LocalRun:
    """One call of `LocalPool.run`."""

    def __init__(
        self,
        make_worker: MakeWorker,
        tasks: Sequence[Any],
        *,
        processes: int,
        tries: int,
        timeout: float | None,
    ) -> None:
        self._tries, self._timeout = tries, timeout
        self._wanted = min(processes, len(tasks))
        self._make_worker, self._tasks = make_worker, tasks
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._waiting = deque(range(len(tasks)))
        self._attempts = [0] * len(tasks)
        self._left = len(tasks)
        self._failed_starts = 0
        self._running: list[_Process] = []

    def outcomes(self) -> Iterator[Outcome]:
        while self._left:
            come = self._hand_out() + self._collect()
            self._left -= len(come)
            # Before the caller has its turn, who may take long with what it gets.
            late = self._hand_out()
            self._left -= len(late)
            for index, answer in come + late:
                yield answer.outcome(self._tasks[index], max(1, self._attempts[index]))

    def stop(self) -> None:
        """End all processes: idle ones by their pipe's end, busy ones by SIGTERM, then SIGKILL."""
        running, self._running = self._running, []
        for one in running:
            one.pipe.close()
            if one.task is not None or not one.ready:
                one.process.terminate()
        until = time.monotonic() + _GRACE_S
        for one in running:
            one.process.join(max(0.0, until - time.monotonic()))
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
            one.process.close()

    def _hand_out(self) -> _Come:
        """Start the workers that are missing, give the idle ones a task; tasks that cannot go."""
        refused: _Come = []
        while len(self._running) < min(self._wanted, self._left):
            self._start()
        for one in self._running:
            while one.ready and one.task is None and self._waiting:
                refused += self._give(one)
        return refused

    def _collect(self) -> _Come:
        """Wait until a worker says something or dies; the answers that have come."""
        if not any(one.task is not None or not one.ready for one in self._running):
            return []
        ready = connection.wait([one.pipe for one in self._running])
        spoke = [one for one in self._running if one.pipe in ready]
        return [pair for one in spoke for pair in self._take(one)]

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(theirs, self._make_worker, self._timeout), daemon=True
        )
        # Ctrl-C reaches the whole terminal group: held back in a child until it ignores it, or
        # an interpreter that is just starting prints a traceback. The tracker unblocks signals
        # when it starts, so it must be there before.
        resource_tracker.ensure_running()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
            self._running.append(_Process(process, ours))
        finally:
            theirs.close()  # or we would never see that the child is gone
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def _give(self, one: _Process) -> _Come:
        index = self._waiting.popleft()
        try:
            packed = answers.pack_task(self._tasks[index])
        except SegdeployError as error:
            return [(index, Answer(failure=Failure.of(error)))]
        one.task, one.since = index, time.monotonic()
        self._attempts[index] += 1
        with suppress(OSError):  # dead: `_take` sees the end of its pipe
            one.pipe.send_bytes(packed)
        return []

    def _take(self, one: _Process) -> _Come:
        try:
            answer = pickle.loads(one.pipe.recv_bytes())
        except (EOFError, OSError):
            return self._bury(one)
        except Exception as error:  # a class that only the worker's side knows
            answer = Answer(failure=Failure.of(error))
        index, one.task = one.task, None
        if index is not None:
            return [(index, answer)]
        if answer.failure is not None:
            raise answer.failure.error()
        one.ready, self._failed_starts = True, 0
        return []

    def _bury(self, one: _Process) -> _Come:
        self._running.remove(one)
        index, how = one.task, one.end(self._timeout)
        if index is None:
            self._failed_starts += not one.ready
            if self._failed_starts >= self._tries:
                raise _no_start(how)
        elif self._attempts[index] < self._tries:
            self._waiting.append(index)
        else:
            return [(index, Answer(failure=Failure.death(self._attempts[index], how)))]
        return []


def _no_start(how: str) -> EngineError:
    return EngineError(
        f"a worker's process ends before it is ready ({how})",
        "a process that loads its engine and waits for tasks",
        "look at what it printed above; a script that starts a batch needs "
        'if __name__ == "__main__": around it',
    )
