"""What a worker does with a task, and how its answer travels: errors are values here.

Both sides of every pool use this file, so that a task fails in the same words in this process,
in one beside it and on another machine. It imports nothing heavy: a pool's process loads it first.
"""

from __future__ import annotations

import faulthandler
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from segformer_deploy import errors
from segformer_deploy.errors import SegdeployError


class Worker(Protocol):
    """Does one task after another in one process; made there once, by a small picklable factory.

    Where it has a `close()`, that is called after its last task.
    """

    def __call__(self, task: Any) -> Any: ...


MakeWorker = Callable[[], Worker]


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        task: as it was handed in (the same object).
        value: what the worker returned; None where there is an error.
        error: found, expected and next step, a line each; None where it went well.
        attempts: how many workers began it (more than 1: some died).
    """

    task: Any
    value: Any = None
    error: str | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Failure:
    """An exception, in a form that any process can read: its class's name and three sentences."""

    kind: str
    found: str
    expected: str = ""
    next_step: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that `error` tells of; one that is not ours is named by its class."""
        kind = type(error).__name__
        if isinstance(error, SegdeployError):
            return cls(kind, error.found, error.expected, error.next_step)
        text = str(error)
        return cls(kind, f"{kind}: {text}" if text else kind)

    @classmethod
    def death(cls, times: int, how: str) -> Failure:
        """The failure of a task whose worker died each time."""
        return cls(
            "EngineError",
            f"the worker died {times} time{'s' if times > 1 else ''} on this task ({how})",
            "a worker that ends its task, well or with an error",
            "if the system ran out of memory (dmesg says so), take fewer workers or shorter chunks",
        )

    def error(self) -> SegdeployError:
        """The exception again; one that is not ours becomes a plain `SegdeployError`."""
        kind = getattr(errors, self.kind, SegdeployError)
        if not (isinstance(kind, type) and issubclass(kind, SegdeployError)):
            kind = SegdeployError
        # Not through its own constructor: MissingDependencyError's takes other arguments.
        error = kind.__new__(kind, self.found)
        SegdeployError.__init__(error, self.found, self.expected, self.next_step)
        return error


@dataclass(frozen=True)
class Answer:
    """What came of one task: a value, or why there is none."""

    value: Any = None
    failure: Failure | None = None

    def outcome(self, task: Any, attempts: int = 1) -> Outcome:
        """The outcome of `task` that this tells of."""
        error = None if self.failure is None else str(self.failure.error())
        return Outcome(task, None if error else self.value, error, attempts)

    def packed(self) -> bytes:
        """As bytes for another process; a value that cannot be packed becomes a failure."""
        try:
            return pickle.dumps(self, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            return pickle.dumps(Answer(failure=_not_packed("a worker's result", error)))


def pack_task(task: Any) -> bytes:
    """The task as bytes. Raises `SegdeployError` where it cannot be packed."""
    try:
        return pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise _not_packed("a task", error).error() from error


def make(make_worker: MakeWorker) -> tuple[Worker | None, Failure | None]:
    """The worker, or why there is none."""
    try:
        return make_worker(), None
    except Exception as error:
        return None, Failure.of(error)


def answer(worker: Worker, task: Any, timeout: float | None = None) -> Answer:
    """Do one task. An exception becomes a failure; the worker lives on.

    With `timeout` (seconds) this process prints where it stands and ends when a task takes
    longer: a call that hangs in a library cannot be stopped in another way.
    """
    try:
        with _ended_after(timeout):
            return Answer(worker(task))
    except Exception as error:
        return Answer(failure=Failure.of(error))


def answer_packed(worker: Worker, task: bytes, timeout: float | None = None) -> bytes:
    """`answer` between packed task and packed answer."""
    try:
        unpacked = pickle.loads(task)
    except Exception as error:
        return Answer(failure=_not_packed("a task", error)).packed()
    return answer(worker, unpacked, timeout).packed()


def close(worker: Worker | None) -> None:
    """Close the worker where it can be closed; nothing that this raises would change a result."""
    with suppress(Exception):
        getattr(worker, "close", lambda: None)()


@contextmanager
def _ended_after(timeout: float | None) -> Iterator[None]:
    if timeout is None:
        yield
        return
    # A thread in C: it acts even where the task holds Python's lock.
    stderr = sys.__stderr__ or sys.stderr
    faulthandler.dump_traceback_later(timeout, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _not_packed(what: str, error: Exception) -> Failure:
    return Failure(
        "SegdeployError",
        f"{what} cannot be sent to another process: {type(error).__name__}: {error}",
        "something that pickle takes on both sides",
        "use module-level classes and plain data, not lambdas or open files",
    )
