"""The parent's side of the pipe: start the children, take turns, measure who works while idle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_deploy.errors import SegdeployError

BENCHMARKS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Peer:
    """A letter, a name for tables, the runner's module and what it needs installed."""

    letter: str
    name: str
    module: str
    needs: tuple[str, ...] = ()

    def command(self, job: Path) -> list[str]:
        return [sys.executable, "-m", f"peers_runners.{self.module}", "--job", str(job)]


def environment(threads: int) -> dict[str, str]:
    """The children's: the same threads for every library, this checkout importable, offline."""
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


class Child:
    """A peer's process. It ends when the pipe closes, however this one ends."""

    def __init__(self, name: str, command: Sequence[str], log: Path, threads: int) -> None:
        self.name = name
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(threads),
            )
        try:
            self.hello = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request, wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._died() from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self) -> SegdeployError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        return SegdeployError(
            f"the peer '{self.name}' ended: {last}",
            "a process that answers until it is told to stop",
            f"read its messages in {self._log}",
        )

    def cpu_seconds(self) -> float | None:
        """Processor time of all its threads so far, to the nanosecond; None outside Linux."""
        total = 0
        try:
            for task in Path(f"/proc/{self._process.pid}/task").iterdir():
                total += int((task / "schedstat").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return total / 1e9

    def close(self) -> None:
        """Tell it to stop; safe to call twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                # It may have died with our request in the pipe; `ask` has told so.
                with suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Samples:
    """One peer's raw answers, one per round, and what it did while others had their turn."""

    ms: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    idle_cpu_s: float = 0.0
    idle_wall_s: float = 0.0

    @property
    def idle_share(self) -> float:
        """Share of one core that it used while it should have slept."""
        return self.idle_cpu_s / self.idle_wall_s if self.idle_wall_s else 0.0


def turn_orders(letters: Sequence[str], rounds: int) -> list[list[str]]:
    """Round-robin, the order rotated by one each round, so that nobody always follows another."""
    count = len(letters)
    return [
        [letters[(start + offset) % count] for offset in range(count)]
        for start in (index % count for index in range(rounds))
    ]


def take_turns(
    children: dict[str, Any], rounds: int, warm_up: int, pause_s: float, report: Any = None
) -> dict[str, Samples]:
    """One frame per child and turn; the first `warm_up` rounds are thrown away.

    After each turn everybody pauses, because thread pools spin for some milliseconds after
    work: a child that still spun would take the next one's core.
    """
    samples = {letter: Samples() for letter in children}
    asleep: dict[str, tuple[float, float | None]] = {}
    for index, order in enumerate(turn_orders(list(children), warm_up + rounds)):
        for letter in order:
            _count_idle(children[letter], samples[letter], asleep.get(letter))
            answer = children[letter].ask(op="go")
            time.sleep(pause_s)
            asleep[letter] = (time.perf_counter(), children[letter].cpu_seconds())
            if index >= warm_up:
                samples[letter].ms.append(float(answer["ms"]))
                samples[letter].stages.append(answer["stages"])
        if report is not None:
            report(index + 1, warm_up + rounds)
    return samples


def _count_idle(child: Any, samples: Samples, since: tuple[float, float | None] | None) -> None:
    if since is None:
        return
    now = child.cpu_seconds()
    if now is not None and since[1] is not None:
        samples.idle_cpu_s += now - since[1]
        samples.idle_wall_s += time.perf_counter() - since[0]
