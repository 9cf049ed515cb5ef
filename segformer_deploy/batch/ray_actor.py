"""What of a `RayPool` runs on the nodes: the actor that holds a worker, and the count of tries.

Imported there by name, so `segformer_deploy` must be installed on every node. Tables of one row
go in and out: `index` and `packed` in; `index`, `kind`, `attempts` and `packed` out.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from segformer_deploy.batch import answers
from segformer_deploy.batch.answers import Answer, MakeWorker, Worker

if TYPE_CHECKING:
    import pyarrow as pa

# Kinds of rows: the answer of a worker, or why there is no worker.
ANSWER, NO_START = "answer", "no start"


class Begun:
    """How often each task was begun and not ended: with a worker that died, or is at it.

    Ray may do a task again although it went well, where a node was lost with its result; so what
    ended is taken back.
    """

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._times: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        """Note that a worker begins the task; how many have begun it by now."""
        self._open[index] += 1
        self._times[index] += 1
        return self._times[index]

    def end(self, index: int) -> None:
        """Note that the worker lived."""
        self._open[index] -= 1

    def open(self, indices: Iterable[int]) -> dict[int, int]:
        """How many workers each task has cost."""
        return {index: self._open[index] for index in indices}


class RayActor:
    """One worker on one node, made with its first task and used for all that follow.

    Not before: an actor that dies in its constructor is started again by Ray without end, while
    one that dies with a task is counted.
    """

    def __init__(self, make_worker: MakeWorker, begun: Any, timeout: float | None) -> None:
        self._make_worker, self._begun, self._timeout = make_worker, begun, timeout
        self._worker: Worker | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = zip(table["index"].to_pylist(), table["packed"].to_pylist(), strict=True)
        return rows_table([self._row(index, packed) for index, packed in rows])

    def __del__(self) -> None:
        answers.close(getattr(self, "_worker", None))

    def _row(self, index: int, packed: bytes) -> tuple[int, str, int, bytes]:
        attempts = self._begin(index)
        if self._worker is None:
            self._worker, failure = answers.make(self._make_worker)
            if self._worker is None:
                return index, NO_START, attempts, Answer(failure=failure).packed()
        answer = answers.answer_packed(self._worker, packed, self._timeout)
        self._end(index)
        return index, ANSWER, attempts, answer

    # The count is for tasks that kill; losing it (with its node) must cost no task.
    def _begin(self, index: int) -> int:
        import ray

        with suppress(ray.exceptions.RayError):
            return int(ray.get(self._begun.begin.remote(index)))
        return 1

    def _end(self, index: int) -> None:
        with suppress(Exception):
            self._begun.end.remote(index)


def rows_table(rows: list[tuple[int, str, int, bytes]]) -> pa.Table:
    """Rows of index, kind, attempts and packed answer as an Arrow table."""
    import pyarrow as pa

    index, kind, attempts, packed = zip(*rows, strict=True)
    return pa.table(
        {
            "index": pa.array(index, pa.int64()),
            "kind": pa.array(kind, pa.string()),
            "attempts": pa.array(attempts, pa.int64()),
            # Large: an answer may be beyond the 2 GiB of Arrow's plain binary.
            "packed": pa.array(packed, pa.large_binary()),
        }
    )


def unpacked(packed: bytes) -> Answer:
    """The answer in a row; one that cannot be read here is a failure itself."""
    try:
        answer = pickle.loads(packed)
    except Exception as error:
        return Answer(failure=answers.Failure.of(error))
    return answer if isinstance(answer, Answer) else Answer(answer)
