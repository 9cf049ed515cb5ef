"""One case in a process of its own: ``python -m segformer_deploy.bench.runner``.

A process of its own gives each case its own peak of memory, its own libraries and a limit of its
own; one that crashes or is killed takes nothing with it. The child reads the case as JSON from
stdin and writes JSON lines to stdout: ``{"phase": ...}`` as it goes, ``{"runs": n}``,
``{"scored": n}``, and at the end ``{"result": ...}`` or ``{"error": ...}``. What it prints
otherwise goes to stderr. Each line starts the clock anew: a case may take as long as was asked
for, and is ended only where nothing more is heard of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from segformer_deploy.bench.case import LOADING, Case, error_of, failed
from segformer_deploy.bench.clock import DEFAULT_SILENCE, Clock, ended_in_time
from segformer_deploy.bench.limit import MIB, ROOT, Group, NoGroup, memory_group

STARTING = "starting Python"
STARTED = "importing"
_CHILD = (sys.executable, "-m", "segformer_deploy.bench.runner")
_SAID_LINES = 3
_PR_SET_PDEATHSIG = 1


@dataclass
class Told:
    """What a child has told so far, and how it ended.

    Attributes:
        phase: what it was doing last.
        exit: its exit status; below 0 the signal that ended it.
        timed_out: why it was ended, in words; empty where it was not.
        said: the end of its stderr.
    """

    phase: str = STARTING
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    exit: int = 0
    timed_out: str = ""
    said: list[str] = field(default_factory=list)


def run_case(
    case: Case,
    *,
    limit: int | None = None,
    timeout: float | None = None,
    silence: float = DEFAULT_SILENCE,
    on_run: Callable[[int], object] = lambda _: None,
    child: Sequence[str] = _CHILD,
    root: Path = ROOT,
) -> dict[str, Any]:
    """Measure `case` in a process of its own and give the result's object, also of a failure.

    Args:
        limit: in bytes: a hard limit where a control group can be had; `limit.enforced` tells.
        timeout: of the whole, in seconds; None sets no bound, for what was asked for takes its
            time.
        silence: in seconds, for one run, one scored frame or the loading; for the warm-up, which
            is not told run by run, that much for each of its runs. The child is killed then.
        on_run: called with the number of runs so far.
        child: the program that is run, another one in tests.
        root: the file system's, for control groups.

    Ctrl-C kills the child and is raised again.
    """
    clock = Clock(timeout, silence, case.warmup)
    if limit is None:
        told = _run(list(child), case, clock, on_run)
        return _result(case, told, None)
    with memory_group(limit, root) as group:
        told = _run(group.command(child), case, clock, on_run)
        return _result(case, told, _limit_report(limit, group, told))


def _run(words: Sequence[str], case: Case, clock: Clock, on_run: Callable[[int], object]) -> Told:
    told = Told()
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C is for the parent, which then ends the child.
            start_new_session=True,
            env={**os.environ, "SEGDEPLOY_PARENT": str(os.getpid())},
        )
    except OSError as error:
        told.error = error_of(error)
        return told

    def end(why: str) -> None:
        told.timed_out = why
        process.kill()

    with _ended_at_last(process), ended_in_time(clock, end):
        stderr = threading.Thread(target=_keep_last, args=(process.stderr, told.said), daemon=True)
        stderr.start()
        assert process.stdin is not None
        assert process.stdout is not None
        # A child that died before it read has told why by other means.
        with contextlib.suppress(OSError), process.stdin as stdin:
            stdin.write(json.dumps(case.to_dict()))
        for line in process.stdout:
            _listen(line, told, clock, on_run)
        told.exit = process.wait()
        stderr.join(timeout=1)
    return told


@contextlib.contextmanager
def _ended_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _keep_last(pipe: IO[str], lines: list[str]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for line in pipe:
            if line.strip():
                lines.append(line.strip())
                del lines[:-_SAID_LINES]


def _listen(line: str, told: Told, clock: Clock, on_run: Callable[[int], object]) -> None:
    try:
        message = json.loads(line)
    except ValueError:
        return  # a library that prints to the descriptor itself
    if not isinstance(message, dict):
        return
    clock.heard(message)
    told.phase = message.get("phase", told.phase)
    told.result = message.get("result", told.result)
    told.error = message.get("error", told.error)
    if "runs" in message:
        on_run(message["runs"])


def _result(case: Case, told: Told, limit: dict[str, Any] | None) -> dict[str, Any]:
    if told.result is not None:
        return {**told.result, "limit": limit}
    return failed(case, told.error or _how_it_ended(told, limit), limit=limit)


def _how_it_ended(told: Told, limit: dict[str, Any] | None) -> dict[str, str]:
    if told.timed_out:
        found, expected, step = (
            f"{told.timed_out} and it was ended while {told.phase}",
            "a run, or what comes next, within that time",
            "give a smaller size, or more memory",
        )
        return {"kind": "TimedOut", "found": found, "expected": expected, "next": step}
    if limit is not None and limit["outcome"] == "killed":
        mib = limit["mib"]
        step = "segdeploy bench --smallest-limit finds the smallest that survives"
        if told.phase in (STARTING, STARTED):
            step = "a larger limit: this one does not even hold Python and its libraries; " + step
        found = f"killed by the kernel at a limit of {mib:g} MiB while {told.phase}"
        return {
            "kind": "MemoryLimit",
            "found": found,
            "expected": f"a process that fits in {mib:g} MiB",
            "next": step,
        }
    how = f"with exit code {told.exit}"
    if told.exit < 0:
        try:
            how = f"by {signal.Signals(-told.exit).name}"
        except ValueError:
            how = f"by signal {-told.exit}"
    said = f": {' / '.join(told.said)}" if told.said else ""
    return {
        "kind": "ProcessEnded",
        "found": f"the process ended {how} while {told.phase}{said}",
        "expected": "a process that tells its result",
        "next": "run segdeploy bench on this engine alone to see more",
    }


def _limit_report(limit: int, group: Group | NoGroup, told: Told) -> dict[str, Any]:
    """How the child fared: by the kernel's count where a group held it, else by its peak."""
    report: dict[str, Any] = {
        "bytes": limit,
        "mib": limit / MIB,
        "enforced": isinstance(group, Group),
        "how": "not enforced",
        "why": None,
        "outcome": "failed",
        "survived": None,
        "oom_kills": None,
        "peak_mib": None,
        "peak_of": "VmHWM",
        "phase": told.phase,
        "notes": [],
    }
    if isinstance(group, Group) and not group.holds:
        group = NoGroup(f"the limit of {group.folder} was gone at the end")
    if isinstance(group, NoGroup):
        report |= {"enforced": False, "why": group.why}
        if told.result is not None:
            report["peak_mib"] = told.result["peak_rss_mib"]
            within = told.result["peak_rss_mib"] * MIB <= limit
            report |= {"outcome": "peak within" if within else "peak above", "survived": within}
        return report
    kills, peak = group.oom_kills, group.peak_bytes
    if kills:
        outcome, survived = "killed", False
    elif told.timed_out:
        outcome, survived = "too slow", False
    elif told.result is not None:
        outcome, survived = "survived", True
    else:
        outcome, survived = "failed", None
    return report | {
        "how": f"cgroup v{group.version}",
        "outcome": outcome,
        "survived": survived,
        "oom_kills": kills,
        "peak_mib": None if peak is None else peak / MIB,
        "peak_of": "the control group",
        "notes": list(group.notes),
    }


def _die_with_parent() -> None:
    """Where the parent is killed, this process must not run on (Linux; elsewhere nothing)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = os.environ.get("SEGDEPLOY_PARENT")
        if parent is not None and str(os.getppid()) != parent:
            os._exit(1)


def main() -> int:
    """The child: case from stdin, JSON lines to stdout."""
    _die_with_parent()
    # Ours alone: what libraries print goes to stderr, whichever way they print.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=out, flush=True)

    tell(phase=STARTED)
    try:
        case = Case.from_dict(json.loads(sys.stdin.read()))
        from segformer_deploy.bench.measure import measure_case

        tell(phase=LOADING)
        result = measure_case(
            case,
            on_run=lambda done: tell(runs=done),
            on_phase=lambda phase: tell(phase=phase),
            on_scored=lambda done: tell(scored=done),
        )
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        tell(error=error_of(error))
        return 1
    tell(result=result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
