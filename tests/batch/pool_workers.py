"""Workers for the pools' tests: at the top of a module, so that another process finds them."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_deploy.errors import MediaError, MissingDependencyError


class Closed:
    """Leaves a file when it is closed, and says which process it is in."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def __call__(self, task: Any) -> Any:
        return task, os.getpid()

    def close(self) -> None:
        (self._folder / f"closed-{os.getpid()}").touch()


@dataclass(frozen=True)
class MakeClosed:
    folder: str

    def __call__(self) -> Closed:
        return Closed(self.folder)


@dataclass(frozen=True)
class Do:
    """A task that tells its worker what is to happen.

    `kill`: die by SIGKILL that many times (counted by files in `folder`), then return "survived".
    """

    what: str
    folder: str = ""
    kill: int = 0
    name: str = "task"


class Doer:
    def __call__(self, task: Do) -> Any:
        if task.what == "kill":
            if self._count(task) <= task.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return "survived"
        if task.what == "ours":
            raise MediaError("clip.mp4 is empty", "a video", "remove it")
        if task.what == "theirs":
            raise ValueError("not 7")
        if task.what == "big":
            return b"x" * (16 << 20)
        if task.what == "hang":
            self._mark(task)
            time.sleep(3600)
        if task.what == "exit":
            sys.exit(3)
        if task.what == "unpicklable":
            return lambda: None
        if task.what == "write":
            return self._write(task)
        return os.getpid()

    @staticmethod
    def _count(task: Do) -> int:
        marks = Path(task.folder)
        (marks / f"{task.name}-{time.monotonic_ns()}").touch()
        return len(list(marks.glob(f"{task.name}-*")))

    @staticmethod
    def _mark(task: Do) -> None:
        (Path(task.folder) / f"pid-{os.getpid()}").touch()

    def _write(self, task: Do) -> None:
        aside = Path(task.folder) / "aside"
        aside.touch()
        self._mark(task)
        try:
            time.sleep(3600)
        finally:
            aside.unlink()


def make_doer() -> Doer:
    return Doer()


class Where:
    """Slow enough to be lost with its node; leaves `NAME-NODE` when it begins a task."""

    def __call__(self, task: Do) -> str:
        import ray

        node = str(ray.get_runtime_context().get_node_id())
        (Path(task.folder) / f"{task.name}-{node}").touch()
        time.sleep(3.0)
        return node


def make_where() -> Where:
    return Where()


def cannot_be_made() -> Doer:
    raise MissingDependencyError("nothing", "cpu", "tests")


def dies_at_start() -> Doer:
    os.kill(os.getpid(), signal.SIGKILL)
    return Doer()


class NotSent:
    """A task that pickle refuses."""

    def __reduce__(self) -> Any:
        raise TypeError("not to be sent")


def _refuse(text: str) -> Any:
    raise ImportError(text)


class NotRead:
    """A task that pickles here and cannot be read there."""

    def __reduce__(self) -> Any:
        return _refuse, ("no such class here",)


@dataclass
class Counting:
    """A worker in this process that counts what it did."""

    done: list[Any] = field(default_factory=list)
    closed: int = 0

    def __call__(self, task: Any) -> Any:
        self.done.append(task)
        if task == "bad":
            raise ValueError("bad")
        return task

    def close(self) -> None:
        self.closed += 1
