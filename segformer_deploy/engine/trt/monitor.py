"""The builder's phases as one bar, and a way to stop it: Ctrl-C ends a build within a step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
_GRACE_S = 60.0
_LOOK_S = 0.1


class Phases:
    """Nested phases as one fraction: a child's progress is part of one step of its parent."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int, int]] = []  # name, steps in all, steps done
        self._furthest = 0.0

    def start(self, name: str, steps: int) -> None:
        self._open.append((name, max(steps, 1), 0))

    def step(self, name: str, step: int) -> None:
        for index, (open_name, steps, _) in enumerate(self._open):
            if open_name == name:
                self._open[index] = name, steps, min(step + 1, steps)

    def finish(self, name: str) -> None:
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index][0] == name:
                del self._open[index:]
                return

    @property
    def fraction(self) -> float:
        """Between 0 and 1; never falls, for the phases of a builder overlap as they like."""
        share, done = 1.0, 0.0
        for _, steps, complete in self._open:
            share /= steps
            done += share * min(complete, steps - 1)
        self._furthest = min(1.0, max(self._furthest, done))
        return self._furthest


def monitor_for(api: Any, cancel: threading.Event, advance: Callable[[float], None]) -> Any:
    """An `IProgressMonitor` that reports a fraction to `advance` and stops once `cancel` is set."""

    class _Monitor(api.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            advance(self.phases.fraction)
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return _Monitor()


def cancellable(work: Callable[[], Result], cancel: threading.Event) -> Result:
    """Run `work` on another thread, so that Ctrl-C is heard while the library computes.

    On KeyboardInterrupt `cancel` is set and the work is given a minute to stop: a thread that
    still writes through the library must not outlive what it writes to.
    """
    answers: list[Result] = []
    errors: list[BaseException] = []
    # Not Thread.join: interrupted, it takes the thread for finished up to Python 3.12.
    done = threading.Event()

    def run() -> None:
        try:
            if cancel.is_set():
                raise KeyboardInterrupt
            answers.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="segdeploy-build", daemon=True)
    try:
        thread.start()
        while not done.wait(_LOOK_S):
            pass
    except KeyboardInterrupt:
        cancel.set()
        if thread.ident is not None:  # else it has not begun, and will not
            done.wait(_GRACE_S)
        raise
    if errors:
        # Taken out: a list that holds its own traceback would keep the builder alive.
        raise errors.pop()
    return answers[0]
